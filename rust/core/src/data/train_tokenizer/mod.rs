//! Training a tokenizer on a corpus.

mod words;

use std::collections::HashSet;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};

use ahash::{AHashMap, RandomState};
use compact_str::CompactString;
use rayon::prelude::*;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Model};

use super::corpus::{Corpus, Piece};
use super::pretoken::{PIECE_CAP_BYTES, PieceSize, boundary_to, pretokens};
use super::progress::{Meter, Progress};
use super::threads::Threads;
use super::tokenizer::{END_OF_TEXT, MAX_VOCAB, MIN_VOCAB, Special, Tokenizer, byte_chars};
use crate::error::{Error, Result};
use crate::system::arena::release_free_memory;
use crate::system::interrupts::INTERVAL;
use words::Words;

/// Text looked at; beyond this a vocabulary hardly changes.
const SAMPLE_BYTES: u64 = 64 << 20;
/// The sample is spread over the corpus in pieces of about this size.
const SAMPLE_PIECE_BYTES: usize = 32 * 1024;
/// Longer words (of text without blanks) are counted in parts: time and memory of the training grow with them.
const MAX_WORD_BYTES: usize = 256;
/// The rarest words are dropped when the different words together are longer than this; bounds the memory.
const MAX_WORDS_BYTES: usize = 4 << 20;
/// A pair that occurs once teaches nothing.
const MIN_FREQUENCY: u64 = 2;

type Counts = AHashMap<CompactString, u64>;

impl Corpus {
    /// Trains a byte-level BPE of exactly `vocab_size` tokens on at most 64 MiB of text, spread evenly over the
    /// corpus. The result depends on the text and the size alone, not on `threads`.
    ///
    /// The last phase (merging) lies in the `tokenizers` crate, which cannot be interrupted: an error of `progress`
    /// during it comes back when it is through, seconds later at most.
    pub fn train_tokenizer(&self, vocab_size: usize, threads: usize, progress: Progress<'_>) -> Result<Tokenizer> {
        self.train_on_sample(vocab_size, threads, &[], SAMPLE_BYTES, progress)
    }

    /// As [`Corpus::train_tokenizer`], with `special` tokens behind the others, which the text is divided at.
    ///
    /// # Errors
    /// `Usage` if the vocabulary has no room for the special tokens.
    pub fn train_tokenizer_with(
        &self,
        vocab_size: usize,
        special: &[String],
        threads: usize,
        progress: Progress<'_>,
    ) -> Result<Tokenizer> {
        self.train_on_sample(vocab_size, threads, special, SAMPLE_BYTES, progress)
    }

    pub(crate) fn train_on_sample(
        &self,
        vocab_size: usize,
        threads: usize,
        special: &[String],
        sample_bytes: u64,
        progress: Progress<'_>,
    ) -> Result<Tokenizer> {
        if special.iter().any(String::is_empty) {
            return Err(Error::usage("found a special token without text, expected at least one character"));
        }
        if vocab_size < MIN_VOCAB + special.len() && !special.is_empty() {
            let least = MIN_VOCAB + special.len();
            return Err(Error::usage(format!(
                "found vocabulary size {vocab_size}, expected at least {least}: the chat template has {} special tokens",
                special.len()
            )));
        }
        if !(MIN_VOCAB..=MAX_VOCAB).contains(&vocab_size) {
            let error =
                Error::usage(format!("found vocabulary size {vocab_size}, expected {MIN_VOCAB} to {MAX_VOCAB}"));
            return Err(error.hint("256 bytes and the token between documents are always part of it"));
        }
        let threads = Threads::new(threads)?;
        // Half for counting the words, half for merging; before that a quick look at all of the text.
        let mut meter = Meter::new(progress, self.bytes() * 2);
        let size = PieceSize { target: SAMPLE_PIECE_BYTES, cap: PIECE_CAP_BYTES };
        let mut total = 0;
        let mut documents = self.documents(size);
        while let Some(piece) = documents.next_piece()? {
            total += piece.text.len() as u64;
            meter.at(0)?;
        }
        if total == 0 {
            return Err(self.no_text());
        }
        let apart = Special::new(special.iter().map(|token| (token.clone(), 0)).collect());
        let words = self.count_words(&threads, total, sample_bytes.min(SAMPLE_BYTES), size, &apart, &mut meter)?;
        let counts = most_frequent(&threads, words);
        let model = merge(&threads, &counts, vocab_size - special.len(), self.bytes(), &mut meter)?;
        drop((threads, counts));
        let found = model.get_vocab_size() + special.len();
        if found < vocab_size {
            let error = Error::data(format!("the text supports a vocabulary of {found} tokens, expected {vocab_size}"));
            return Err(error.hint(format!("ask for at most {found} (--vocab-size), or train on more text")));
        }
        let tokenizer = finish(model, special)?;
        release_free_memory();
        meter.finish()?;
        Ok(tokenizer)
    }

    /// Counts the words of a sample.
    fn count_words(
        &self,
        threads: &Threads,
        total: u64,
        sample: u64,
        size: PieceSize,
        apart: &Special,
        meter: &mut Meter<'_>,
    ) -> Result<Words> {
        let hasher = RandomState::new();
        let per_thread: Vec<Mutex<Words>> =
            (0..threads.count()).map(|_| Mutex::new(Words::new(hasher.clone()))).collect();
        let batch_bytes = threads.count() * 8 * SAMPLE_PIECE_BYTES;
        let mut documents = self.documents(size);
        let (mut seen, mut taken) = (0u64, 0u64);
        loop {
            let mut batch: Vec<Piece> = Vec::new();
            let mut in_batch = 0;
            let mut more = true;
            while more && in_batch < batch_bytes {
                let Some(piece) = documents.next_piece()? else {
                    more = false;
                    break;
                };
                let len = piece.text.len() as u64;
                seen += len;
                // The share of the sample that is due by now, less what was taken: even over the whole corpus.
                let due = (u128::from(seen) * u128::from(sample.min(total)) / u128::from(total)) as u64;
                if taken + len / 2 <= due {
                    taken += len;
                    in_batch += piece.text.len();
                    batch.push(piece);
                } else {
                    meter.at(documents.disk_bytes())?;
                }
            }
            threads.rayon().install(|| {
                batch.par_iter().for_each(|piece| {
                    let thread = rayon::current_thread_index().unwrap_or(0);
                    let mut words = per_thread[thread].lock().unwrap_or_else(PoisonError::into_inner);
                    if apart.is_empty() {
                        count(&piece.text, &mut words);
                    } else {
                        apart.parts(&piece.text).iter().filter(|p| p.1.is_none()).for_each(|p| count(p.0, &mut words));
                    }
                });
            });
            meter.at(documents.disk_bytes())?;
            if !more {
                break;
            }
        }
        let mut parts = per_thread.into_iter().map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner));
        let mut words = parts.next().unwrap_or_else(|| Words::new(hasher));
        parts.for_each(|part| words.absorb(part));
        Ok(words)
    }
}

fn count(text: &str, words: &mut Words) {
    for mut word in pretokens(text) {
        while !word.is_empty() {
            let (part, rest) = word.split_at(boundary_to(word, MAX_WORD_BYTES));
            words.add(part.as_bytes(), 1);
            word = rest;
        }
    }
}

/// The words in the alphabet of the model, without the rarest if they are too many.
fn most_frequent(threads: &Threads, words: Words) -> Counts {
    let byte_chars = byte_chars();
    let kept = threads.rayon().install(|| words.most_frequent(MAX_WORDS_BYTES));
    kept.into_iter().map(|(word, n)| (word.iter().map(|&byte| byte_chars[byte as usize]).collect(), n)).collect()
}

/// Learns the merges on the threads, while this thread keeps reporting.
fn merge(threads: &Threads, counts: &Counts, vocab_size: usize, done: u64, meter: &mut Meter<'_>) -> Result<BPE> {
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(MIN_FREQUENCY)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(byte_chars().into_iter().collect::<HashSet<char>>())
        .build();
    let mut model = BPE::default();
    let mut reported = Ok(());
    let (sender, receiver) = channel();
    let trained = threads.rayon().in_place_scope(|scope| {
        let model = &mut model;
        scope.spawn(move |_| {
            // The receiver waits until this arrives or the sender is gone.
            let _ = sender.send(trainer.do_train(counts, model).map(drop).map_err(|error| error.to_string()));
        });
        loop {
            match receiver.recv_timeout(INTERVAL) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("it stopped without a result".to_owned());
                }
                Err(RecvTimeoutError::Timeout) if reported.is_ok() => reported = meter.at(done),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    });
    reported?;
    trained.map_err(|error| Error::internal(format!("tokenizer training failed: {error}")))?;
    Ok(model)
}

/// The file around the model, as the ecosystem reads it.
fn finish(model: BPE, special: &[String]) -> Result<Tokenizer> {
    let failed = |error: tokenizers::Error| Error::internal(format!("cannot write the tokenizer: {error}"));
    let mut file = tokenizers::Tokenizer::new(model);
    file.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    file.with_decoder(Some(ByteLevel::new(false, true, true)));
    file.add_special_tokens([AddedToken::from(END_OF_TEXT, true)]).map_err(failed)?;
    let special = special.iter().map(|token| AddedToken::from(token.as_str(), true).normalized(false));
    file.add_special_tokens(special).map_err(failed)?;
    let json = file.to_string(true).map_err(failed)?;
    Tokenizer::from_json(json.into_bytes(), "the trained tokenizer")
}
