//! Where token ids come from.

use crate::error::{Error, Result};

/// Token ids by position.
pub trait TokenSource: Send + Sync + 'static {
    /// Number of ids.
    fn tokens(&self) -> u64;
    /// Copies `out.len()` ids from position `start`.
    ///
    /// # Errors
    /// If the position is outside or an id is damaged.
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()>;
}

impl TokenSource for crate::data::Shards {
    fn tokens(&self) -> u64 {
        Self::tokens(self)
    }
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
        Self::copy_ids(self, start, out)
    }
}

impl TokenSource for Vec<u32> {
    fn tokens(&self) -> u64 {
        self.len() as u64
    }
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let part = self.get(start as usize..start as usize + out.len());
        out.copy_from_slice(
            part.ok_or_else(|| Error::internal(format!("ids {start}+{} of {}", out.len(), self.len())))?,
        );
        Ok(())
    }
}
