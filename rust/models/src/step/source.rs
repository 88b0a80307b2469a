//! Token ids without files.

use crate::error::Result;

/// As in the core.
pub trait TokenSource: Send + Sync + 'static {
    /// Number of ids.
    fn tokens(&self) -> u64;
    /// Copies `out.len()` ids from position `start`.
    ///
    /// # Errors
    /// If the source cannot be read.
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()>;
}

impl TokenSource for Vec<u32> {
    fn tokens(&self) -> u64 {
        self.len() as u64
    }
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
        out.copy_from_slice(&self[start as usize..start as usize + out.len()]);
        Ok(())
    }
}
