//! Where token ids come from.

pub use crate::data::CONTEXT;
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
    /// Ids of a window where the source is cut into windows already; `None` for a text, of which any range is one.
    fn window(&self) -> Option<u64> {
        None
    }
    /// As [`TokenSource::copy_ids`]; ids that do not count as targets have the bit [`CONTEXT`].
    ///
    /// # Errors
    /// As there.
    fn copy_window(&self, start: u64, out: &mut [u32]) -> Result<()> {
        self.copy_ids(start, out)
    }
}

impl TokenSource for crate::data::Shards {
    fn tokens(&self) -> u64 {
        Self::tokens(self)
    }
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
        Self::copy_ids(self, start, out)
    }
    fn window(&self) -> Option<u64> {
        Self::window(self)
    }
    fn copy_window(&self, start: u64, out: &mut [u32]) -> Result<()> {
        Self::copy_words(self, start, out)
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
