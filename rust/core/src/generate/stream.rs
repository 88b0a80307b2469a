//! Tokens one after the other.

use super::held::Held;
use super::session::check_ids;
use super::{END_OF_TEXT, Model, SampleOptions, Sampler, Session};
use crate::data::Tokenizer;
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
    /// White space of the prompt that the next tokens repeat.
    held: Option<Held>,
    /// Bytes of it at the beginning.
    repeated: usize,
    drawn: u64,
    /// Tokens that have been drawn, without those that only repeat the prompt.
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
        let session = Session::on(model, model.threads())?;
        Ok(Self { session, sampler, pending, held: None, repeated: 0, drawn: 0, produced: 0, finished: false })
    }

    /// Starts behind a text. The model reads it without the white space at its end, which the first tokens repeat; where no
    /// tokens can do that, it reads the text as it is.
    ///
    /// # Errors
    /// As [`TokenStream::new`], and `Data` if the tokenizer cannot encode the text.
    pub fn behind(model: &Arc<Model>, tokenizer: &Arc<Tokenizer>, text: &str, options: SampleOptions) -> Result<Self> {
        let (head, space) = tokenizer.encode_open(text)?;
        let Some(held) = Held::new(tokenizer, space, &options.stop_ids, model.config().vocab_size) else {
            return Self::new(model, &tokenizer.encode_prompt(text)?, options);
        };
        let mut stream = Self::new(model, &head, options)?;
        stream.repeated = held.len();
        stream.held = Some(held);
        Ok(stream)
    }

    /// How many bytes of the tokens, the first ones, repeat the prompt.
    pub fn repeated(&self) -> usize {
        self.repeated
    }

    fn draw(&mut self) -> Result<u32> {
        let logits = self.session.append(&self.pending)?;
        let id = match &self.held {
            None => self.sampler.sample(logits, self.drawn)?,
            Some(held) => self.sampler.sample_of(logits, self.drawn, |id| held.allows(id))?,
        };
        self.drawn += 1;
        self.sampler.accept(id);
        self.pending.clear();
        self.pending.push(id);
        Ok(id)
    }

    /// Whether a token that was drawn holds more than the prompt's white space.
    fn is_new(&mut self, id: Option<u32>) -> bool {
        let (Some(held), Some(id)) = (&mut self.held, id) else { return true };
        let new = held.accept(id);
        if held.is_done() {
            self.held = None;
        }
        new
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
        self.produced += u64::from(self.is_new(drawn.as_ref().ok().copied()));
        Some(drawn)
    }
}
