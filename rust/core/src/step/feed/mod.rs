//! What an update is fed: token ids, the windows cut out of them, and the thread that cuts ahead.

mod batch;
mod prefetch;
mod source;

pub(crate) use batch::windows_in;
pub use batch::{Batch, WindowOrder};
pub(crate) use prefetch::{Gauge, Prefetcher};
pub use source::TokenSource;
pub(crate) use source::seen;
