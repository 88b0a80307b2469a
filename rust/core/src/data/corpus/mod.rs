//! A corpus: from paths to a stream of documents.
//!
//! | files | job |
//! |---|---|
//! | `names`, `pattern`, `own`, `find` | which files are meant, and which are symlm's |
//! | `counted`, `gzip`, `source`, `spool` | the bytes of one, counted, hashed, decompressed; a copy of what can be read only once |
//! | `scanner`, `records`, `lenient`, `fields` | the objects of a file of JSON, and their texts |
//! | `inspect`, `documents` | what the files hold, by what they begin with; their documents in pieces |
//! | `open`, `objects` | all of it for a corpus, and for one file of objects |

mod chat;
mod counted;
mod documents;
mod fields;
mod find;
mod gzip;
mod inspect;
mod lenient;
mod names;
mod objects;
mod open;
mod own;
mod pattern;
mod records;
mod scanner;
mod source;
mod spool;

pub use chat::Chat;
pub(super) use chat::{MAX_CONVERSATION_BYTES, Turns};
pub(super) use documents::{Example, Fields, Parts, Piece};
pub use inspect::DataFormat;
pub use objects::{Conversations, Object, ObjectFile, Objects};
pub use open::Corpus;
pub(super) use own::SHARD;
pub use own::{BEGUN, EVENTS, LOCK, OWN_FIELDS, OWN_FOLDERS, UNFINISHED};
pub(super) use source::Format;
