//! Token ids without files.

use crate::error::Result;

/// As in the core.
pub const CONTEXT: u32 = 1 << 31;
/// As in the core.
pub const BEGIN: u32 = 1 << 30;

/// As in the core.
pub trait TokenSource: Send + Sync + 'static {
    /// Number of ids.
    fn tokens(&self) -> u64;
    /// Copies `out.len()` ids from position `start`.
    ///
    /// # Errors
    /// If the source cannot be read.
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()>;
    /// As in the core.
    fn window(&self) -> Option<u64> {
        None
    }
    /// As in the core.
    ///
    /// # Errors
    /// As there.
    fn copy_window(&self, start: u64, out: &mut [u32]) -> Result<()> {
        self.copy_ids(start, out)
    }
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
