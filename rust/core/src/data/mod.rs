//! From text files to token ids: corpus, tokenizer, shards.
//!
//! ```text
//! Corpus::open -> documents -> Corpus::train_tokenizer -> Tokenizer
//!                           -> Corpus::prepare         -> Shards (checked, cached)
//! ```
//!
//! From the ground up: `progress`, `threads` and `pretoken` serve all; `corpus` and `tokenizer` do not know of each other;
//! `train_tokenizer` makes the second from the first, and `shards` are the ids of the one by the other.
//!
//! Everything streams in bounded memory, gives the same bytes for any number of threads, and leaves no thread behind.

mod corpus;
mod pretoken;
mod progress;
mod shards;
mod threads;
mod tokenizer;
mod train_tokenizer;

pub use crate::system::interrupts::Interrupts;
pub use corpus::{BEGUN, EVENTS, LOCK, OWN_FIELDS, OWN_FOLDERS, UNFINISHED};
pub use corpus::{Chat, Conversations, Corpus, DataFormat, Object, ObjectFile, Objects};
pub use progress::Progress;
pub use shards::{BEGIN, CONTEXT, Shards};
#[cfg(test)]
pub(crate) use tokenizer::byte_chars;
pub use tokenizer::{END_OF_TEXT, MAX_VOCAB, MIN_VOCAB, Tokenizer};

#[cfg(test)]
mod tests;
