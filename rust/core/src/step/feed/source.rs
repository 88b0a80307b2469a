//! Where token ids come from.

use crate::config::Attend;
pub use crate::data::{BEGIN, CONTEXT};
use crate::error::{Error, Result};
use std::sync::Arc;

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
    /// As [`TokenSource::copy_window`]; the first id of each document has the bit [`BEGIN`], except perhaps that of `out`.
    ///
    /// # Errors
    /// As there; `Internal` if the source does not know where documents begin.
    fn copy_documents(&self, _start: u64, _out: &mut [u32]) -> Result<()> {
        Err(Error::internal("documents of a source that does not tell them apart"))
    }
}

/// A source whose windows tell documents apart.
struct Documents(Arc<dyn TokenSource>);

impl TokenSource for Documents {
    fn tokens(&self) -> u64 {
        self.0.tokens()
    }
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
        self.0.copy_ids(start, out)
    }
    fn window(&self) -> Option<u64> {
        self.0.window()
    }
    fn copy_window(&self, start: u64, out: &mut [u32]) -> Result<()> {
        self.0.copy_documents(start, out)
    }
}

/// A source as its windows are cut: where tokens see their document alone, it tells them apart.
pub(crate) fn seen(source: Arc<dyn TokenSource>, attend: Attend) -> Arc<dyn TokenSource> {
    match attend {
        Attend::Window => source,
        Attend::Document => Arc::new(Documents(source)),
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
    fn copy_documents(&self, start: u64, out: &mut [u32]) -> Result<()> {
        Self::copy_documents(self, start, out)
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
