//! Corpus, scheduler, model, training step and generation of symlm. No Python here.
//!
//! The packages, each of which imports only those above it (`tests/layers.rs` holds that):
//!
//! | package | content |
//! |---|---|
//! | `contract`, `error`, `foreign`, `rng`, `limits`, `config` | the ground: fixed numbers, errors, files of other kinds, random numbers, limits of settings, what Python sends |
//! | `system` | files, machine, memory, threads: the only one that calls the operating system |
//! | `pool`, `trace` | workers that run graphs, and what is recorded of them |
//! | `model` | the table of parameters, weights, adapters |
//! | `data` | documents, tokenizer, token shards; its packages are in `data/mod.rs` |
//! | `checkpoint` | tensors on disk |
//! | `generate` | sessions, sampler, stream of text |
//! | `step` | one update: plan, feed, work, engine |

pub mod checkpoint;
pub mod config;
mod contract;
pub mod data;
pub mod error;
mod foreign;
pub mod generate;
pub mod limits;
pub mod model;
pub mod pool;
pub mod rng;
pub mod step;
pub mod system;
pub mod trace;

pub use contract::CONTRACT_VERSION;
pub use error::{Error, ErrorKind, Result};
