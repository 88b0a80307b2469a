//! From a corpus to shards: hash, look into the cache, have made what is not there.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::file::{Shards, remove_unfinished};
use super::making::{Making, Paths};
use crate::config::Attend;
use crate::data::corpus::{Corpus, Fields};
use crate::data::progress::{Meter, Progress};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::system::files::{make_folders, open};

/// Changes whenever the same input would give other shards.
const CACHE_VERSION: &[u8] = b"symlm shards 1\0";
/// The same for examples, whose key has the length of the windows too.
const EXAMPLES_VERSION: &[u8] = b"symlm examples 2\0";
/// The same for conversations.
const TURNS_VERSION: &[u8] = b"symlm turns 1\0";
/// The same for texts that are cut where the tokenizer does something to their beginning.
const REST_VERSION: &[u8] = b"symlm rest 1\0";
/// The same for examples whose beginnings are marked.
const MARKED_VERSION: &[u8] = b"symlm marked 1\0";

impl Corpus {
    /// Encodes the corpus into shards for training and validation, or takes them from the cache.
    ///
    /// `val_split` is the share of the text held out: whole documents spread over the corpus where there are at least
    /// twenty, otherwise the end of the text; 0 holds out nothing. Each part must have at least one window of
    /// `seq_len + 1` tokens. Of examples the last ones are held out, at least one, and each part is cut into windows.
    ///
    /// The cache is looked up by the SHA-256 of all bytes of all files, the tokenizer and the split, hashed again every
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
        self.prepare_for(Attend::Window, tokenizer, cache_dir, val_split, seq_len, threads, progress)
    }

    /// As [`Self::prepare`], for what tokens are to see: to tell documents apart, those of examples are marked.
    ///
    /// # Errors
    /// As there.
    pub fn prepare_for(
        &self,
        attend: Attend,
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
        make_folders(cache_dir).map_err(|e| Error::cannot_write(cache_dir, &e))?;
        remove_unfinished(cache_dir);
        let mut meter = Meter::new(progress, self.bytes());
        let digests = self.hash_files(&mut meter)?;
        let key = self.key(&digests, tokenizer, val_split, seq_len, attend);
        let paths = Paths::new(cache_dir, &key);
        let cached = paths.open(&key, val_split > 0.0)?;
        let (digests, meter_at) = (&digests, &mut meter);
        let mut making =
            Making { tokenizer, paths: &paths, key, digests, val_split, seq_len, attend, threads, meter: meter_at };
        let (train, val) = match cached {
            Some(found) => found,
            None if self.has_examples() => self.build_examples(&mut making)?,
            None => self.build_texts(&mut making)?,
        };
        if !self.has_examples() {
            check_window(&train, seq_len, if val_split > 0.0 { "training " } else { "" })?;
            val.as_ref().map_or(Ok(()), |val| check_window(val, seq_len, "validation "))?;
        }
        meter.finish()?;
        Ok((train.encoded_by(tokenizer), val.map(|val| val.encoded_by(tokenizer))))
    }

    fn hash_files(&self, meter: &mut Meter<'_>) -> Result<Vec<[u8; 32]>> {
        let mut digests = Vec::with_capacity(self.files());
        let mut buffer = vec![0; 1 << 20];
        for source in self.sources() {
            let failed = |error: &std::io::Error| source.read_error(error);
            let mut file = open(&source.path).map_err(|e| failed(&e))?;
            let mut hash = Sha256::new();
            loop {
                let n = file.read(&mut buffer).map_err(|e| failed(&e))?;
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
    fn key(
        &self,
        digests: &[[u8; 32]],
        tokenizer: &Tokenizer,
        val_split: f64,
        seq_len: usize,
        attend: Attend,
    ) -> [u8; 32] {
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
        if attend == Attend::Document && self.has_examples() {
            key.update(MARKED_VERSION);
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
            Fields::Chat(_) | Fields::Rendered => {
                key.update((u64::MAX - 1).to_le_bytes());
                key.update(TURNS_VERSION);
                key.update((seq_len as u64).to_le_bytes());
                key.update(format!("{:?}", tokenizer.opening()));
            }
        }
        for (source, digest) in self.sources().iter().zip(digests) {
            key.update([source.format.key(), source.packing.key()]);
            key.update(digest);
        }
        key.finalize().into()
    }
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
