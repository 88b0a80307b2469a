//! From a corpus to shards: hash, look into the cache, divide, encode, write.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::corpus::Corpus;
use super::documents::{Fields, Piece};
use super::library::END_BYTES;
use super::pool::Pool;
use super::pretoken::PIECE_BYTES;
use super::progress::{Meter, Progress};
use super::shards::{ShardWriter, Shards, remove_unfinished};
use super::source::Format;
use super::split::{Divider, Planner};
use super::tokenizer::{Encoder, Tokenizer};
use crate::error::{Error, ErrorKind, Result};
use crate::system::arena::release_free_memory;
use crate::system::hex;

/// Changes whenever the same input would give other shards.
const CACHE_VERSION: &[u8] = b"symlm shards 1\0";
/// The same for examples, whose key has the length of the windows too.
const EXAMPLES_VERSION: &[u8] = b"symlm examples 2\0";
/// The same for texts that are cut where the tokenizer does something to their beginning.
const REST_VERSION: &[u8] = b"symlm rest 1\0";
/// Pieces per thread that are encoded at a time.
const PIECES_PER_THREAD: usize = 4;
/// And at most so many of all threads, for corpora of tiny documents.
const PIECES_AT_ONCE: usize = 1 << 16;

impl Corpus {
    /// Encodes the corpus into shards for training and validation, or takes them from the cache.
    ///
    /// `val_split` is the share of the text held out: whole documents spread over the corpus where there are at least
    /// twenty, otherwise the end of the text; 0 holds out nothing. Each part must have at least one window of
    /// `seq_len + 1` tokens. Of examples the last ones are held out, at least one, and each part is cut into windows.
    ///
    /// The cache is looked up by the SHA-256 of all bytes of all files, the tokenizer and the split, hashed anew every
    /// time, so it is never stale; a damaged file in it is made again.
    pub fn prepare(
        &self,
        tokenizer: &Tokenizer,
        cache_dir: &Path,
        val_split: f64,
        seq_len: usize,
        threads: usize,
        progress: Progress<'_>,
    ) -> Result<(Shards, Option<Shards>)> {
        if !(0.0..1.0).contains(&val_split) {
            return Err(Error::usage(format!("found validation split {val_split}, expected at least 0 and below 1")));
        }
        if seq_len == 0 {
            return Err(Error::usage("found sequence length 0, expected at least 1"));
        }
        std::fs::create_dir_all(cache_dir).map_err(|e| Error::cannot_write(cache_dir, &e))?;
        remove_unfinished(cache_dir);
        let mut meter = Meter::new(progress, self.bytes());
        let digests = self.hash_files(&mut meter)?;
        let key = self.key(&digests, tokenizer, val_split, seq_len);
        let paths = Paths::new(cache_dir, &key);
        let cached = paths.open(&key, val_split > 0.0)?;
        let mut making =
            Making { tokenizer, paths: &paths, key, digests: &digests, val_split, seq_len, threads, meter: &mut meter };
        let (train, val) = match cached {
            Some(found) => found,
            None if self.has_examples() => self.build_examples(&mut making)?,
            None => self.build(&mut making)?,
        };
        if !self.has_examples() {
            check_window(&train, seq_len, if val_split > 0.0 { "training " } else { "" })?;
            val.as_ref().map_or(Ok(()), |val| check_window(val, seq_len, "validation "))?;
        }
        meter.finish()?;
        Ok((train, val))
    }

    fn hash_files(&self, meter: &mut Meter<'_>) -> Result<Vec<[u8; 32]>> {
        let mut digests = Vec::with_capacity(self.files());
        let mut buffer = vec![0; 1 << 20];
        for source in self.sources() {
            let failed = |error: &std::io::Error| source.read_error(error);
            let mut file = std::fs::File::open(&source.path).map_err(|e| failed(&e))?;
            let mut hash = Sha256::new();
            loop {
                let n = std::io::Read::read(&mut file, &mut buffer).map_err(|e| failed(&e))?;
                if n == 0 {
                    break;
                }
                hash.update(&buffer[..n]);
                meter.at(0)?;
            }
            digests.push(hash.finalize().into());
        }
        Ok(digests)
    }

    /// The hash of everything that decides what is in the shards.
    fn key(&self, digests: &[[u8; 32]], tokenizer: &Tokenizer, val_split: f64, seq_len: usize) -> [u8; 32] {
        let mut key = Sha256::new();
        key.update(CACHE_VERSION);
        key.update(tokenizer.sha256());
        // Of a tokenizer trained here the file says it all.
        if tokenizer.eot_id() != Some(0) || !tokenizer.document_start().is_empty() {
            let pieces = tokenizer.piece_size().target;
            key.update(format!("{:?} {:?} {pieces}", tokenizer.eot_id(), tokenizer.document_start()));
        }
        if tokenizer.marks_beginning() {
            key.update(REST_VERSION);
        }
        key.update(val_split.to_bits().to_le_bytes());
        match self.fields() {
            Fields::Text(field) => {
                key.update((field.len() as u64).to_le_bytes());
                key.update(field);
            }
            Fields::Example => {
                // No name of a field is so long.
                key.update(u64::MAX.to_le_bytes());
                key.update(EXAMPLES_VERSION);
                key.update((seq_len as u64).to_le_bytes());
                key.update(format!("{:?}", tokenizer.opening()));
            }
        }
        for (source, digest) in self.sources().iter().zip(digests) {
            key.update([u8::from(source.format == Format::Json), u8::from(source.gzip)]);
            key.update(digest);
        }
        key.finalize().into()
    }

    fn build(&self, making: &mut Making<'_, '_>) -> Result<(Shards, Option<Shards>)> {
        let tokenizer = making.tokenizer;
        let (eot, size) = (tokenizer.separator()?, tokenizer.piece_size());
        let (mut train, mut val) = making.begin(None)?;
        let pool = Pool::new(making.threads)?;
        let mut planner = Planner::new(making.val_split);
        let mut documents = self.documents(size);
        while let Some(piece) = documents.next_piece()? {
            planner.add(&piece);
            making.meter.at(0)?;
        }
        if planner.bytes() == 0 {
            return Err(self.no_text());
        }
        let mut divider = Divider::new(planner.decide());

        let encoders: Vec<Mutex<Encoder>> = (0..pool.threads()).map(|_| Mutex::default()).collect();
        let mut documents = self.documents(size);
        let mut batch: Vec<(Option<String>, Piece, bool)> = Vec::new();
        let mut end = String::new();
        // Whether the part already has the document under way: one that was cut in two has to begin in both.
        let mut begun = [false; 2];
        let mut more = true;
        while more {
            batch.clear();
            let mut in_batch = 0;
            while has_room(&pool, in_batch, batch.len(), size.target) {
                let Some(piece) = documents.next_piece()? else {
                    more = false;
                    break;
                };
                in_batch += piece.text.len();
                divider.divide(piece, |piece, held| {
                    let next = end_of(&piece.text);
                    let before = std::mem::replace(&mut end, next);
                    batch.push(((!piece.first).then_some(before), piece, held));
                });
            }
            let encoded = encode_all(&pool, &encoders, &batch, |encoder, (before, piece, _)| {
                let mut ids = Vec::with_capacity(piece.text.len() / 3);
                encoder.encode(tokenizer, before.as_deref(), &piece.text, &mut ids)?;
                Ok(ids)
            })?;
            for ((_, piece, held), ids) in batch.iter().zip(&encoded) {
                let part = if *held { &mut val } else { &mut train };
                let begun = &mut begun[usize::from(*held)];
                if piece.first || !*begun {
                    part.begin_document(eot, tokenizer.document_start())?;
                }
                *begun = !piece.last;
                part.push(ids)?;
                part.add_bytes(piece.text.len() as u64);
            }
            making.meter.at(documents.disk_bytes())?;
        }
        drop(pool);
        drop((batch, encoders));
        making.finish(documents.digests(), train, val)
    }
}

/// The end of a piece, which is all that the next one may depend on.
fn end_of(text: &str) -> String {
    let at = text.len().saturating_sub(END_BYTES);
    (at..=text.len()).find_map(|at| text.get(at..)).unwrap_or_default().to_owned()
}

/// What shards are made from, and where.
pub(super) struct Making<'a, 'm> {
    pub(super) tokenizer: &'a Tokenizer,
    paths: &'a Paths,
    key: [u8; 32],
    digests: &'a [[u8; 32]],
    pub(super) val_split: f64,
    pub(super) seq_len: usize,
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
pub(super) fn has_room(pool: &Pool, bytes: usize, items: usize, piece: usize) -> bool {
    bytes < pool.threads() * (PIECES_PER_THREAD * PIECE_BYTES).max(piece) && items < PIECES_AT_ONCE
}

/// What `encode` makes of each item, in order.
pub(super) fn encode_all<T: Sync, R: Send>(
    pool: &Pool,
    encoders: &[Mutex<Encoder>],
    items: &[T],
    encode: impl Fn(&mut Encoder, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    pool.inner().install(|| {
        let encoded = items.par_iter().map(|item| {
            let thread = rayon::current_thread_index().unwrap_or(0);
            let mut encoder = encoders[thread].lock().unwrap_or_else(PoisonError::into_inner);
            encode(&mut encoder, item)
        });
        encoded.collect()
    })
}

fn check_window(shards: &Shards, seq_len: usize, part: &str) -> Result<()> {
    let (tokens, window) = (shards.tokens(), seq_len as u64 + 1);
    if tokens >= window {
        return Ok(());
    }
    let error = Error::data(format!(
        "the {part}text has {tokens} tokens, expected at least one window of {window} (sequence length {seq_len} + 1)"
    ));
    Err(error.hint(if part == "validation " {
        "add text, hold out more (--val-split) or none (--val-split 0), or shorten --seq-len"
    } else {
        "add text or shorten --seq-len"
    }))
}

/// Where the shards of one key are.
struct Paths {
    train: PathBuf,
    val: PathBuf,
}

impl Paths {
    fn new(cache_dir: &Path, key: &[u8; 32]) -> Self {
        let stem = hex(&key[..16]);
        let path = |part| cache_dir.join(format!("{stem}-{part}.ids"));
        Self { train: path("train"), val: path("val") }
    }

    /// The shards if they are all there and sound.
    fn open(&self, key: &[u8; 32], with_val: bool) -> Result<Option<(Shards, Option<Shards>)>> {
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
    if !path.exists() {
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
