//! Bytes on disk.

use std::io::Read;

use sha2::{Digest, Sha256};

use crate::system::files::File;

/// The bytes of a file as they lie on disk, counted and hashed as they pass.
#[derive(Debug)]
pub(crate) struct Counted {
    file: File,
    bytes: u64,
    hash: Sha256,
}

impl Counted {
    /// Of a file that is at its beginning.
    pub(super) fn new(file: File) -> Self {
        Self { file, bytes: 0, hash: Sha256::new() }
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
        let n = self.file.read(buffer)?;
        self.bytes += n as u64;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}
