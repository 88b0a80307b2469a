//! Corpus, scheduler, model, training step and generation of symlm. No Python here.

pub mod arena;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod error;
mod files;
pub mod float_env;
pub mod generate;
pub mod machine;
pub mod model;
pub mod pool;
pub mod rng;
pub mod step;
mod sync;
pub mod trace;

pub use error::{Error, ErrorKind, Result};

/// Version of the numeric contract (docs/contract.md); every checkpoint stores it.
pub const CONTRACT_VERSION: u64 = 1;
