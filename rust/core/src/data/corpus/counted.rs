//! Bytes on disk.

use std::io::Read;

use sha2::{Digest, Sha256};

use crate::system::files::File;
use crate::system::interrupts::{Interrupts, Watch};

/// The bytes of a file as they lie on disk, counted and hashed as they pass. All that is read comes through here, however
/// little it gives, so this is where reading is stopped.
#[derive(Debug)]
pub(crate) struct Counted {
    file: File,
    bytes: u64,
    hash: Sha256,
    watch: Watch,
}

impl Counted {
    /// Of a file that is at its beginning.
    pub(super) fn new(file: File, interrupts: &Interrupts) -> Self {
        Self { file, bytes: 0, hash: Sha256::new(), watch: Watch::new(interrupts) }
    }

    /// Bytes read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what is left and gives the hash of the whole file.
    pub(super) fn into_digest(mut self) -> std::io::Result<[u8; 32]> {
        std::io::copy(&mut self, &mut std::io::sink())?;
        Ok(self.hash.finalize().into())
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.watch.look_io()?;
        let n = self.file.read(buffer)?;
        self.bytes += n as u64;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::system::interrupts::INTERVAL;

    #[test]
    fn reading_stops_when_asked_to() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"text").unwrap();
        let counted = |interrupts: &Interrupts| {
            let counted = Counted::new(File::open(file.path()).unwrap(), interrupts);
            std::thread::sleep(INTERVAL);
            counted
        };
        assert!(counted(&Interrupts::default()).into_digest().is_ok());
        let stop = Interrupts::new(|| Err(Error::user("stopped")));
        let error = counted(&stop).into_digest().unwrap_err();
        assert_eq!(error.get_ref().unwrap().downcast_ref::<Error>().unwrap().message, "stopped");
    }
}
