//! What the shards of a corpus are made from, where they go, and how their text is encoded on all threads.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::file::{ShardWriter, Shards};
use crate::config::Attend;
use crate::data::pretoken::PIECE_BYTES;
use crate::data::progress::Meter;
use crate::data::threads::Threads;
use crate::data::tokenizer::{Encoder, Tokenizer};
use crate::error::{Error, ErrorKind, Result};
use crate::system::arena::release_free_memory;
use crate::system::files::exists;
use crate::system::hex;

/// Pieces per thread that are encoded at a time.
const PIECES_PER_THREAD: usize = 4;
/// And at most so many of all threads, for corpora of tiny documents.
const PIECES_AT_ONCE: usize = 1 << 16;

/// What shards are made from, and where.
pub(super) struct Making<'a, 'm> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) paths: &'a Paths,
    pub(super) key: [u8; 32],
    pub(super) digests: &'a [[u8; 32]],
    pub(super) val_split: f64,
    pub(super) seq_len: usize,
    pub(super) attend: Attend,
    pub(super) threads: usize,
    pub(super) meter: &'a mut Meter<'m>,
}

impl Making<'_, '_> {
    /// Begins both shards, of text or of windows. That comes first: a folder that cannot be written to shows before the
    /// work.
    pub(super) fn begin(&self, window: Option<u64>) -> Result<(ShardWriter, ShardWriter)> {
        let vocab =
            u32::try_from(self.tokenizer.vocab_size()).map_err(|_| Error::internal("vocabulary beyond 2^32"))?;
        let create = |path: &Path| ShardWriter::create(path.to_owned(), vocab, self.key, window);
        Ok((create(&self.paths.train)?, create(&self.paths.val)?))
    }

    /// Completes the shards, if the files were still those of the key when they were read.
    pub(super) fn finish(
        &self,
        digests: &[[u8; 32]],
        train: ShardWriter,
        val: ShardWriter,
    ) -> Result<(Shards, Option<Shards>)> {
        if digests != self.digests {
            let error = Error::data("the corpus changed while it was read, expected files that stay as they are");
            return Err(error.hint("start again when nothing writes to them"));
        }
        release_free_memory();
        let train = train.finish()?;
        let val = if self.val_split > 0.0 { Some(val.finish()?) } else { None };
        Ok((train, val))
    }
}

/// Whether more fits into what the threads encode at a time: some pieces for each, or one where pieces are large.
pub(super) fn has_room(threads: &Threads, bytes: usize, items: usize, piece: usize) -> bool {
    bytes < threads.count() * (PIECES_PER_THREAD * PIECE_BYTES).max(piece) && items < PIECES_AT_ONCE
}

/// What `encode` makes of each item, in order.
pub(super) fn encode_all<T: Sync, R: Send>(
    threads: &Threads,
    encoders: &[Mutex<Encoder>],
    items: &[T],
    encode: impl Fn(&mut Encoder, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    threads.rayon().install(|| {
        let encoded = items.par_iter().map(|item| {
            let thread = rayon::current_thread_index().unwrap_or(0);
            let mut encoder = encoders[thread].lock().unwrap_or_else(PoisonError::into_inner);
            encode(&mut encoder, item)
        });
        encoded.collect()
    })
}

/// Where the shards of one key are.
pub(super) struct Paths {
    train: PathBuf,
    val: PathBuf,
}

impl Paths {
    pub(super) fn new(cache_dir: &Path, key: &[u8; 32]) -> Self {
        let stem = hex(&key[..16]);
        let path = |part| cache_dir.join(format!("{stem}-{part}.ids"));
        Self { train: path("train"), val: path("val") }
    }

    /// The shards if they are all there and sound.
    pub(super) fn open(&self, key: &[u8; 32], with_val: bool) -> Result<Option<(Shards, Option<Shards>)>> {
        let Some(train) = open_sound(&self.train, key)? else {
            return Ok(None);
        };
        if !with_val {
            return Ok(Some((train, None)));
        }
        Ok(open_sound(&self.val, key)?.map(|val| (train, Some(val))))
    }
}

fn open_sound(path: &Path, key: &[u8; 32]) -> Result<Option<Shards>> {
    if !exists(path) {
        return Ok(None);
    }
    match Shards::open(path) {
        Ok(shards) if shards.key() == key => Ok(Some(shards)),
        Ok(_) => Ok(None),
        // Damaged or unreadable: made again.
        Err(error) if error.kind == ErrorKind::Data => Ok(None),
        Err(error) => Err(error),
    }
}
