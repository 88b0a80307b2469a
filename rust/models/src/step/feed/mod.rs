//! Batches without files.

#[path = "../../../../core/src/step/feed/batch.rs"]
pub mod batch;
#[path = "../../../../core/src/step/feed/prefetch.rs"]
pub mod prefetch;
pub mod source;
