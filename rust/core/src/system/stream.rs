//! Pipes and devices, which may keep their reader waiting for ever.

use super::files::open_at_once;
use std::fs::File;
use std::io::{ErrorKind, Read, Result};
use std::path::Path;
use std::process::ChildStdout;
use std::time::Duration;

/// A stream of bytes of which every read comes back after a moment, with or without bytes.
#[derive(Debug)]
pub(crate) struct Stream(File);

impl Stream {
    /// A named pipe or a device. A pipe that nobody writes to yet is opened all the same and waited for by [`Stream::read`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        open_at_once(path).map(Self)
    }

    /// The standard input, without the buffer of the standard library.
    pub(crate) fn standard_input() -> Result<Self> {
        #[cfg(unix)]
        let handle = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned();
        #[cfg(windows)]
        let handle = std::os::windows::io::AsHandle::as_handle(&std::io::stdin()).try_clone_to_owned();
        handle.map(|handle| Self(handle.into()))
    }

    /// What another process writes.
    pub(super) fn of_child(output: ChildStdout) -> Self {
        #[cfg(unix)]
        let handle = std::os::fd::OwnedFd::from(output);
        #[cfg(windows)]
        let handle = std::os::windows::io::OwnedHandle::from(output);
        Self(handle.into())
    }

    /// The next bytes, their number; 0 at the end of the stream. `None` when there were none within `wait`.
    pub(crate) fn read(&mut self, buffer: &mut [u8], wait: Duration) -> Result<Option<usize>> {
        let outcome = match ready(&self.0, wait) {
            Ok(false) => return Ok(None),
            Ok(true) => self.0.read(buffer),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(n) => Ok(Some(n)),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether a read comes back at once, after `wait` at the latest. A pipe without a writer is not ready; it is at its end only
/// once a writer has come and gone.
#[cfg(unix)]
fn ready(file: &File, wait: Duration) -> Result<bool> {
    use std::os::fd::AsRawFd;
    let mut ready = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry, of a descriptor that stays open.
    match unsafe { libc::poll(&raw mut ready, 1, wait.as_millis() as libc::c_int) } {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Where nobody can be asked, a read waits until there are bytes.
#[cfg(not(unix))]
fn ready(_: &File, _: Duration) -> Result<bool> {
    Ok(true)
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    const WAIT: Duration = Duration::from_millis(50);

    #[test]
    fn a_pipe_without_a_writer_does_not_hold_its_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a valid string that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let (mut stream, mut buffer) = (Stream::open(&path).unwrap(), [0; 8]);
        assert_eq!(stream.read(&mut buffer, WAIT).unwrap(), None);
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        assert_eq!(stream.read(&mut buffer, WAIT).unwrap(), None);
        writer.write_all(b"text").unwrap();
        assert_eq!(stream.read(&mut buffer, WAIT).unwrap(), Some(4));
        drop(writer);
        assert_eq!(stream.read(&mut buffer, WAIT).unwrap(), Some(0));
    }
}
