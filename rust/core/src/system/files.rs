//! Files that may be anything, and disks that are nearly full.

use std::fs::ReadDir;
use std::io::{BufWriter, Error, ErrorKind, Read, Result, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::foreign::{HEAD_BYTES, LfsPointer};

pub(crate) use std::fs::{DirEntry, File, Metadata};
pub(crate) use tempfile::{NamedTempFile as TempFile, TempPath};

/// Opens anything for reading; a pipe without a writer waits for ever.
pub(crate) fn open(path: &Path) -> Result<File> {
    File::open(path)
}

/// The first bytes of a file, at most `most`.
pub(crate) fn head(path: &Path, most: usize) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    open(path)?.take(most as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// What the system knows of a path, links followed.
pub(crate) fn metadata(path: &Path) -> Result<Metadata> {
    std::fs::metadata(path)
}

/// Whether there is something at a path, links followed.
pub(crate) fn exists(path: &Path) -> bool {
    path.exists()
}

/// Whether a folder has such a name, be it of a link that leads nowhere.
pub(crate) fn has_name(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// Whether a path leads to a folder.
pub(crate) fn is_folder(path: &Path) -> bool {
    path.is_dir()
}

/// Whether a path leads to a regular file.
pub(crate) fn is_file(path: &Path) -> bool {
    path.is_file()
}

/// What is in a folder, in no order.
pub(crate) fn entries(folder: &Path) -> Result<ReadDir> {
    std::fs::read_dir(folder)
}

/// Size and time of a file: another pair means that somebody wrote to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    size: u64,
    modified: SystemTime,
}

impl Stamp {
    /// Of an open file, as it is now.
    pub(crate) fn of(file: &File) -> Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { size: metadata.len(), modified: metadata.modified()? })
    }
}

/// Opens a regular file for reading and gives its size. Anything else is an error: a pipe without a writer, for one,
/// would wait for ever. So is a pointer of Git LFS ([`LfsPointer`]), which is in the place of the file that is meant.
pub(crate) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let file = open_at_once(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(Error::new(ErrorKind::IsADirectory, "found a folder, expected a file"));
    }
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "found a pipe or a device, expected a file"));
    }
    let mut head = [0; HEAD_BYTES];
    let size = some_at(&file, &mut head, 0)?;
    if LfsPointer::is(&head[..size]) {
        return Err(Error::new(ErrorKind::InvalidData, LfsPointer));
    }
    Ok((file, metadata.len()))
}

/// Fills `bytes` from position `at` of a file. A file that is cut meanwhile gives an error.
pub(crate) fn read_at(file: &File, bytes: &mut [u8], at: u64) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match some_at(file, &mut bytes[done..], at + done as u64) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(some) => done += some,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Bytes from position `at` of a file, as many as come at once.
fn some_at(file: &File, bytes: &mut [u8], at: u64) -> Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_at(file, bytes, at);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_read(file, bytes, at);
}

/// Opens anything for reading, without waiting for the writer of a pipe.
pub(super) fn open_at_once(path: &Path) -> Result<File> {
    let mut options = std::fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    options.read(true).open(path)
}

/// Writes a file through a buffer and waits until it is on the disk. Where it fails, a part of the file may be left.
pub(crate) fn write<T>(path: &Path, content: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    flushed(BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?), content).map(|(_, result)| result)
}

/// Writes a file at once or not at all: under another name in the same folder first, that begins with `prefix`.
pub(crate) fn write_whole<T>(
    path: &Path,
    prefix: &str,
    content: impl FnOnce(&mut BufWriter<File>) -> Result<T>,
) -> Result<T> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (file, name) = unfinished(folder, prefix)?.into_parts();
    let (_, result) = flushed(BufWriter::with_capacity(BUFFER_BYTES, file), content)?;
    name.persist(path).map_err(|e| e.error)?;
    Ok(result)
}

fn flushed<T>(mut out: BufWriter<File>, content: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<(File, T)> {
    let result = content(&mut out)?;
    out.flush()?;
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok((file, result))
}

/// Makes a folder and those above it, unless they are there.
pub(crate) fn make_folders(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)
}

/// Waits until the names in a folder are on the disk. Windows has no such call: its file system keeps a journal of names.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(windows) { Ok(()) } else { File::open(path)?.sync_all() }
}

/// Makes a folder, unless it is there.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Where temporary files go: `TMPDIR`, else `/tmp`, or what Windows says. `system/files.py` has the same rule. There is no
/// other place to go to if that one is missing: whoever sets the variable may do so because the others are too small.
pub(crate) fn temporary_folder() -> std::path::PathBuf {
    let named = std::env::var_os("TMPDIR").filter(|name| !name.is_empty()).map(std::path::PathBuf::from);
    named.unwrap_or_else(|| if cfg!(windows) { std::env::temp_dir() } else { "/tmp".into() })
}

/// A file for the length of a run, where the system has such.
pub(crate) fn temporary() -> Result<TempFile> {
    TempFile::new_in(temporary_folder())
}

/// A file in `folder` that will get another name when it is finished; until then it begins with `prefix`.
pub(crate) fn unfinished(folder: &Path, prefix: &str) -> Result<TempFile> {
    let mut builder = tempfile::Builder::new();
    // A new file gets what the umask leaves, where a temporary one would be for its owner alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(prefix).tempfile_in(folder)
}

/// Removes the unfinished files of processes that were killed: those older than `age` that no process holds locked.
pub(crate) fn remove_unfinished(folder: &Path, prefix: &str, age: Duration) {
    let old = |modified: SystemTime| modified.elapsed().is_ok_and(|since| since > age);
    for entry in entries(folder).into_iter().flatten().flatten() {
        let is_old = entry.metadata().and_then(|m| m.modified()).is_ok_and(old);
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes())
            && is_old
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            // Another process may have been quicker.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Bytes of the buffer in front of a file that is written.
const BUFFER_BYTES: usize = 1 << 20;
/// Bytes of a disk that are left to others.
const KEPT_FREE: u64 = 256 << 20;
/// Bytes written between two looks at the disk. Less than this is never refused: what does not fit is an error anyway.
const LOOK_BYTES: u64 = 64 << 20;

/// Stops the writing of something large before the disk is full.
#[derive(Debug, Default)]
pub(crate) struct Room {
    unseen: u64,
}

impl Room {
    /// Counts bytes that were written to `file`.
    ///
    /// # Errors
    /// `StorageFull` when the disk of the file has less than 256 MiB left.
    pub(crate) fn wrote(&mut self, file: &File, bytes: usize) -> Result<()> {
        self.unseen += bytes as u64;
        if self.unseen < LOOK_BYTES {
            return Ok(());
        }
        self.unseen = 0;
        match free_bytes(file) {
            Some(free) if free < KEPT_FREE => {
                let what = format!(
                    "no space left on the disk but {} MiB, expected at least {} MiB to remain free",
                    free >> 20,
                    KEPT_FREE >> 20
                );
                Err(Error::new(ErrorKind::StorageFull, what))
            }
            _ => Ok(()),
        }
    }
}

/// Bytes that this user may still write to the disk of a file; `None` if the system does not tell.
#[cfg(unix)]
#[allow(clippy::unnecessary_cast)] // their size depends on the system
fn free_bytes(file: &File) -> Option<u64> {
    // SAFETY: a structure of plain numbers, for which all zeros is a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open as long as `file` lives, and the structure is ours.
    let failed = unsafe { libc::fstatvfs(std::os::fd::AsRawFd::as_raw_fd(file), &raw mut found) } != 0;
    (!failed).then(|| (found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
}

/// Windows answers for folders only, and its temporary files have none.
#[cfg(not(unix))]
fn free_bytes(_: &File) -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(open_regular(&path).unwrap().1, 3);
        let pointer = folder.path().join("pointer");
        std::fs::write(&pointer, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3\n").unwrap();
        let error = crate::Error::cannot_read(&pointer, &open_regular(&pointer).unwrap_err());
        assert!(error.message.ends_with("pointer: found a Git LFS pointer, expected the file that it stands for"));
        assert_eq!(error.hint.as_deref(), Some(LfsPointer::HINT));
        assert_eq!(open_regular(folder.path()).unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(open_regular(Path::new("/dev/null")).unwrap_err().kind(), ErrorKind::InvalidInput);
        let (reader, _writer) = std::io::pipe().unwrap();
        let pipe = format!("/proc/self/fd/{}", reader.as_raw_fd());
        assert_eq!(open_regular(Path::new(&pipe)).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn the_disk_is_looked_at_now_and_then() {
        let file = tempfile::tempfile().unwrap();
        assert!(free_bytes(&file).is_some());
        let mut room = Room::default();
        // What is written between two looks is not asked about.
        for _ in 0..LOOK_BYTES / (1 << 20) - 1 {
            room.wrote(&file, 1 << 20).unwrap();
        }
        assert_eq!(room.unseen, LOOK_BYTES - (1 << 20));
        let answer = room.wrote(&file, 1 << 20);
        assert_eq!(room.unseen, 0);
        assert_eq!(answer.is_err(), free_bytes(&file).unwrap() < KEPT_FREE);
    }
}
