//! One text under way: its context, and the logits behind it.

use super::cache::{Cache, PAGE, Pages};
use super::model::Model;
use super::pass::{Input, Pass};
use super::rows::OwnedArena;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Positions that go through the layers together. More would read the weights less often, at the price of memory;
/// no bit depends on it.
pub(super) const CHUNK: usize = 64;

/// A context and the memory to extend it.
///
/// A model has positions for `seq_len` tokens. When a token comes and they are taken, the context keeps its last
/// `seq_len / 2` tokens and these are recomputed from position 0. So the context, and with it every logit, is a
/// function of the tokens so far, whatever the pieces they came in.
pub struct Session {
    model: Arc<Model>,
    context: Vec<u32>,
    pages: Pages,
    cache: Cache,
    pass: Pass,
    input: Input,
    logits: OwnedArena,
}

impl Session {
    /// A session with an empty context, on the calling thread alone.
    ///
    /// # Errors
    /// `Memory` if the system refuses.
    pub fn new(model: &Arc<Model>) -> Result<Self> {
        Self::on(model, 1)
    }

    /// As [`Session::new`] on several threads.
    ///
    /// # Errors
    /// `Memory` if the system refuses.
    pub fn on(model: &Arc<Model>, threads: usize) -> Result<Self> {
        let c = model.config();
        Ok(Self {
            model: Arc::clone(model),
            context: Vec::with_capacity(c.seq_len),
            pages: Pages::new(c),
            cache: Cache::default(),
            pass: Pass::new(model, CHUNK.min(c.seq_len), c.seq_len, threads)?,
            input: Input::default(),
            logits: OwnedArena::new(c.vocab_size)?,
        })
    }

    /// Elements that a session on so many threads holds, for a plan of the memory.
    pub fn elements(c: &ModelConfig, threads: usize) -> usize {
        let positions = c.seq_len.next_multiple_of(PAGE);
        positions / PAGE * Pages::page_len(c)
            + Pass::elements(c, CHUNK.min(c.seq_len), c.seq_len, threads)
            + c.vocab_size
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The tokens that the next one can see.
    pub fn context(&self) -> &[u32] {
        &self.context
    }

    /// Forgets the context.
    pub fn clear(&mut self) {
        self.context.clear();
    }

    /// Appends tokens to the context and returns the logits after the last of them.
    ///
    /// # Errors
    /// `Usage` if there are no tokens or one is not of the vocabulary; the context is then as before. `Memory` if the system
    /// refuses; the context is then empty.
    pub fn append(&mut self, ids: &[u32]) -> Result<&[f32]> {
        check_ids(&self.model, ids)?;
        if ids.is_empty() {
            return Err(Error::usage("found no tokens to append, expected at least one"));
        }
        let start = make_room(&mut self.context, ids, self.model.config().seq_len);
        let end = self.context.len();
        for at in (start..end).step_by(CHUNK) {
            let rows = CHUNK.min(end - at);
            self.chunk(at, rows, usize::from(at + rows == end))?;
            self.pass.run(&self.input, self.logits.get_mut(), &|_, _| ());
        }
        Ok(self.logits.get())
    }

    /// The logits after each of `ids` in a fresh context, `ids.len()` rows of the vocabulary. Afterwards `ids`
    /// are the context.
    ///
    /// # Errors
    /// `Usage` if there are more tokens than the model has positions, or one is not of the vocabulary.
    pub fn logits(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.last_logits(ids, ids.len())
    }

    /// As `logits`, only the `last` rows: the others take neither time nor memory for the vocabulary.
    ///
    /// # Errors
    /// As `logits`.
    pub fn last_logits(&mut self, ids: &[u32], last: usize) -> Result<Vec<f32>> {
        check_ids(&self.model, ids)?;
        let (vocab, seq_len) = (self.model.config().vocab_size, self.model.config().seq_len);
        if ids.len() > seq_len {
            return Err(Error::usage(format!("found {} tokens, expected at most seq_len = {seq_len}", ids.len())));
        }
        let first = ids.len() - last.min(ids.len());
        let mut wanted = vec![0.0; (ids.len() - first) * vocab];
        self.context.clear();
        self.context.extend_from_slice(ids);
        for at in (0..ids.len()).step_by(CHUNK) {
            let rows = CHUNK.min(ids.len() - at);
            let skipped = first.saturating_sub(at).min(rows);
            self.chunk(at, rows, rows - skipped)?;
            self.pass.run(&self.input, &mut wanted[(at + skipped).saturating_sub(first) * vocab..], &|_, _| ());
        }
        Ok(wanted)
    }

    /// Prepares the pass of positions `at..at + rows`.
    fn chunk(&mut self, at: usize, rows: usize, wanted: usize) -> Result<()> {
        if let Err(error) = self.cache.reserve(&mut self.pages, at, at + rows) {
            self.context.clear();
            return Err(error);
        }
        self.input.clear();
        self.input.push(&self.context[at..at + rows], at, &self.cache, wanted);
        Ok(())
    }
}

/// Appends ids to a context and returns the first position whose keys and values are missing.
pub(super) fn make_room(context: &mut Vec<u32>, ids: &[u32], seq_len: usize) -> usize {
    let (old, total) = (context.len(), context.len() + ids.len());
    // Each time that the positions are taken, all but seq_len / 2 tokens go.
    let drop = total.saturating_sub(seq_len).div_ceil(seq_len - seq_len / 2) * (seq_len - seq_len / 2);
    context.drain(..drop.min(old));
    context.extend_from_slice(&ids[drop.saturating_sub(old)..]);
    if drop == 0 { old } else { 0 }
}

/// # Errors
/// `Usage` for an id beyond the vocabulary.
pub(super) fn check_ids(model: &Model, ids: &[u32]) -> Result<()> {
    let vocab = model.config().vocab_size;
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(Error::usage(format!("found token id {id}, expected less than the vocabulary size {vocab}"))),
        None => Ok(()),
    }
}
