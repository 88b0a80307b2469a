//! From text files to token ids: corpus, tokenizer, shards.
//!
//! ```text
//! Corpus::open -> documents -> Corpus::train_tokenizer -> Tokenizer
//!                           -> Corpus::prepare         -> Shards (checked, cached)
//! ```
//!
//! Everything streams in bounded memory, gives the same bytes for any number of threads, and leaves no thread behind.

mod corpus;
mod documents;
mod examples;
mod fields;
mod find;
mod gzip;
mod header;
mod inspect;
mod lenient;
mod library;
mod objects;
mod own;
mod pair;
mod pattern;
mod pool;
mod prepare;
mod pretoken;
mod progress;
mod records;
mod scanner;
mod shards;
mod source;
mod split;
mod spool;
mod stream;
mod tokenizer;
mod tokenizer_file;
mod tokenizer_parts;
mod train_tokenizer;
mod words;

pub use corpus::{Corpus, DataFormat};
pub use objects::{Object, ObjectFile, Objects};
pub use own::{BEGUN, EVENTS, LOCK, OWN_FIELDS, OWN_FOLDERS, UNFINISHED};
pub use progress::Progress;
pub use shards::{CONTEXT, Shards};
#[cfg(test)]
pub(crate) use tokenizer::byte_chars;
pub use tokenizer::{END_OF_TEXT, MAX_VOCAB, MIN_VOCAB, Tokenizer};

#[cfg(test)]
mod tests;
