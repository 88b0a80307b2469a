//! The operating system and the processor, as far as this program needs them: files, limits of the machine, memory,
//! threads. Nothing else in this crate calls the system; `tests/layers.rs` holds that.

pub mod arena;
pub(crate) mod child;
pub(crate) mod files;
pub mod float_env;
mod hex;
pub mod interrupts;
pub mod machine;
mod pages;
pub mod peak;
mod process;
mod processors;
pub(crate) mod stream;
pub(crate) mod sync;

pub(crate) use hex::hex;
pub(crate) use process::Home;
