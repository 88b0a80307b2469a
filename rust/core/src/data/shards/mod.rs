//! Shards of token ids: how a corpus becomes them, and the cache that keeps them.
//!
//! | files | job |
//! |---|---|
//! | `header`, `file` | one shard on disk, written and read |
//! | `marks` | what its words say beside the ids |
//! | `split` | which text is held out |
//! | `making` | what the shards of one corpus are made from and where they go; encoding on all threads |
//! | `texts`, `examples` | the two kinds of corpora |
//! | `turns` | what of a conversation is learnt, and where it is cut |
//! | `prepare` | the cache in front of both |

mod examples;
mod file;
mod header;
mod making;
mod marks;
mod prepare;
mod split;
mod texts;
mod turns;

pub use file::Shards;
#[cfg(test)]
pub(super) use file::{ShardWriter, remove_unfinished};
pub use marks::{BEGIN, CONTEXT};
