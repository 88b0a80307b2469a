//! Text generation: a model that is only read, sessions with a cache of keys and values, and the sampler.
//!
//! Logits are those of the training forward pass, bit for bit: the same kernels do the same operations in the same
//! order, and every element of the contract is its own chain, so that it does not matter whether a position is
//! computed alone or with others, by one thread or several.

mod bandwidth;
mod batch;
#[cfg(test)]
mod batch_tests;
mod cache;
mod choice;
#[cfg(test)]
mod failure_tests;
mod held;
mod logprobs;
mod model;
mod pass;
mod prefix;
mod rows;
mod sampler;
mod session;
mod stream;
mod team;
#[cfg(test)]
mod tests;
mod weights8;
#[cfg(test)]
mod weights8_tests;
mod writer;

pub use bandwidth::read_bandwidth;
pub use batch::{Batch, BatchOptions, Drawn};
pub use model::Model;
pub use sampler::{PENALTY_WINDOW, SampleOptions, Sampler};
pub use session::Session;
pub use stream::TokenStream;
pub use weights8::Weights8;
pub use writer::{End, Prompt};

/// The id of `<|endoftext|>`, which stands between documents.
pub const END_OF_TEXT: u32 = 0;
