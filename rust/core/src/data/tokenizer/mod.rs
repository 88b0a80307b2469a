//! Tokenizers: text to token ids and back.
//!
//! | files | job |
//! |---|---|
//! | `vocab` | how large a vocabulary may be, and the characters that stand for bytes in one |
//! | `parts`, `file` | the `tokenizer.json` of a byte-level BPE, checked |
//! | `library` | any other, by the `tokenizers` crate |
//! | `encode` | both behind one face |
//! | `pair` | a prompt and its completion |
//! | `special` | special tokens in a text |
//! | `rendered` | texts that a chat template wrote out |

mod encode;
mod file;
mod library;
mod pair;
mod parts;
mod rendered;
mod special;
mod vocab;

pub(super) use encode::Encoder;
pub use encode::Tokenizer;
pub(super) use library::END_BYTES;
pub(super) use pair::Pair;
pub(super) use special::{Placed, Special};
pub(crate) use vocab::byte_chars;
pub use vocab::{END_OF_TEXT, MAX_VOCAB, MIN_VOCAB};
