//! A corpus: from paths to a stream of documents.
//!
//! | files | job |
//! |---|---|
//! | `names`, `pattern`, `own`, `dataset`, `find` | which files are meant, and which are symlm's |
//! | `format`, `wanted`, `source`, `spool` | what one is; a copy of what can be read only once |
//! | `counted`, `gzip`, `packing`, `csv`, `table`, `raw` | its bytes, counted, hashed, unpacked; rows as objects of JSON |
//! | `scanner`, `records`, `lenient`, `values`, `fields`, `wrapped` | the objects of JSON, whatever they were, and their texts; objects that stand otherwise |
//! | `inspect`, `documents` | what the files hold, by what they begin with; their documents in pieces |
//! | `open`, `objects` | all of it for a corpus, and for one file of objects |

mod chat;
mod counted;
mod csv;
mod dataset;
mod documents;
mod fields;
mod find;
mod format;
mod gzip;
mod inspect;
mod lenient;
mod names;
mod objects;
mod open;
mod own;
mod packing;
mod pattern;
mod raw;
mod records;
mod scanner;
mod source;
mod spool;
mod table;
mod values;
mod wanted;
mod wrapped;

pub use chat::Chat;
pub(super) use chat::{MAX_CONVERSATION_BYTES, Turns};
pub(super) use documents::{Example, Fields, Parts, Piece};
pub use inspect::DataFormat;
pub use objects::{Conversations, Object, ObjectFile, Objects};
pub use open::Corpus;
pub(super) use own::SHARD;
pub use own::{BEGUN, EVENTS, LOCK, OWN_FIELDS, OWN_FOLDERS, UNFINISHED};
