//! Pipes and devices, which may keep their reader waiting for ever.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// A stream of bytes of which every read comes back after a moment, with or without bytes.
pub(crate) struct Stream(File);

impl Stream {
    /// A named pipe or a device. A pipe that nobody writes to yet is opened all the same and waited for by [`Stream::read`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map(Self)
    }

    /// The standard input, without the buffer of the standard library.
    pub(crate) fn standard_input() -> Result<Self> {
        std::io::stdin().as_fd().try_clone_to_owned().map(|handle| Self(handle.into()))
    }

    /// The next bytes, their number; 0 at the end of the stream. `None` when there were none within `wait`.
    pub(crate) fn read(&mut self, buffer: &mut [u8], wait: Duration) -> Result<Option<usize>> {
        let mut ready = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // A pipe without a writer is not ready; it is at its end only once a writer has come and gone.
        // SAFETY: one valid entry, of a descriptor that stays open.
        let count = unsafe { libc::poll(&raw mut ready, 1, wait.as_millis() as libc::c_int) };
        let outcome = match count {
            0 => return Ok(None),
            1 => self.0.read(buffer),
            _ => Err(std::io::Error::last_os_error()),
        };
        match outcome {
            Ok(n) => Ok(Some(n)),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
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
