//! Tokens one after the other.

use super::session::check_ids;
use super::{END_OF_TEXT, Model, SampleOptions, Sampler, Session};
use crate::error::Result;
use std::sync::Arc;

/// An iterator over the tokens that continue a prompt. Each `next` computes one; the first reads the prompt too.
///
/// The text is a function of the model, the prompt and the options alone.
pub struct TokenStream {
    session: Session,
    sampler: Sampler,
    /// Tokens that the session has not seen yet.
    pending: Vec<u32>,
    produced: u64,
    finished: bool,
}

impl TokenStream {
    /// Starts behind `prompt`. An empty prompt stands for the start of a document of a model that was trained here: the
    /// end-of-text token, that is.
    ///
    /// # Errors
    /// `Usage` for options out of range or an id beyond the vocabulary, `Memory` if the system refuses.
    pub fn new(model: &Arc<Model>, prompt: &[u32], options: SampleOptions) -> Result<Self> {
        check_ids(model, prompt)?;
        let pending = if prompt.is_empty() { vec![END_OF_TEXT] } else { prompt.to_vec() };
        let mut sampler = Sampler::new(options)?;
        pending.iter().for_each(|id| sampler.accept(*id));
        Ok(Self { session: Session::new(model)?, sampler, pending, produced: 0, finished: false })
    }

    /// Tokens that have been handed out.
    pub fn produced(&self) -> u64 {
        self.produced
    }

    fn draw(&mut self) -> Result<u32> {
        let logits = self.session.append(&self.pending)?;
        let id = self.sampler.sample(logits, self.produced)?;
        self.sampler.accept(id);
        self.pending.clear();
        self.pending.push(id);
        Ok(id)
    }
}

impl Iterator for TokenStream {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        if self.finished || self.produced == self.sampler.options().max_new_tokens {
            return None;
        }
        let drawn = self.draw();
        self.finished = match drawn {
            Ok(id) => self.sampler.options().stop_ids.contains(&id),
            Err(_) => true,
        };
        if self.finished && drawn.is_ok() {
            return None;
        }
        self.produced += 1;
        Some(drawn)
    }
}
