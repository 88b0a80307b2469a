//! The worker pool and the prefetch thread, compiled against loom.
//!
//! These are the files of `rust/core`, not copies. They name their locks, atomics, queues, channels and threads as
//! `crate::system::sync::...`; here that is [`system::sync`], whose operations loom interleaves in every order that the memory model
//! allows, up to a number of preemptions. The models are the tests of this package: `make models`.

#![allow(clippy::reversed_empty_ranges, reason = "the stand-ins neither spin nor yield")]

#[allow(dead_code, reason = "the models need a part of it")]
#[path = "../../core/src/contract.rs"]
pub mod contract;
#[allow(dead_code, reason = "the readers of files are not here")]
#[path = "../../core/src/error.rs"]
pub mod error;
#[allow(dead_code, reason = "the readers of files are not here")]
#[path = "../../core/src/foreign.rs"]
pub mod foreign;
#[path = "../../core/src/pool/mod.rs"]
pub mod pool;
#[path = "../../core/src/rng.rs"]
pub mod rng;
pub mod step;
pub mod system;

pub use error::{Error, ErrorKind, Result};
