//! What turns the logits behind a text into its next token, and when the text ends.

use super::held::Held;
use super::session::check_ids;
use super::{END_OF_TEXT, Model, SampleOptions, Sampler};
use crate::data::Tokenizer;
use crate::error::Result;
use std::sync::Arc;

/// Why a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A token that ends texts was drawn.
    Stop,
    /// There are as many new tokens as were asked for.
    Length,
    /// The context has no room for another token.
    Context,
}

/// What a text begins with: ids, and white space that the first tokens repeat.
pub struct Prompt {
    ids: Vec<u32>,
    held: Option<Held>,
}

impl Prompt {
    /// Ids as they are. None stand for the start of a document of a model that was trained here: the end-of-text token, that is.
    pub fn of_ids(ids: &[u32]) -> Self {
        Self { ids: if ids.is_empty() { vec![END_OF_TEXT] } else { ids.to_vec() }, held: None }
    }

    /// A text. The model reads it without the white space at its end, which the first tokens repeat; where no tokens can do
    /// that, it reads the text as it is.
    ///
    /// # Errors
    /// `Data` if the tokenizer cannot encode the text.
    pub fn of_text(tokenizer: &Arc<Tokenizer>, text: &str, stop_ids: &[u32], vocab: usize) -> Result<Self> {
        let (head, space) = tokenizer.encode_open(text)?;
        match Held::new(tokenizer, space, stop_ids, vocab) {
            Some(held) => Ok(Self { held: Some(held), ..Self::of_ids(&head) }),
            None => Ok(Self::of_ids(&tokenizer.encode_prompt(text)?)),
        }
    }

    /// The ids that the model reads.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many bytes of the tokens, the first ones, repeat the prompt.
    pub fn repeated(&self) -> usize {
        self.held.as_ref().map_or(0, Held::len)
    }
}

/// Draws the tokens of one text.
pub(super) struct Writer {
    sampler: Sampler,
    /// White space of the prompt that the next tokens repeat.
    held: Option<Held>,
    drawn: u64,
    /// Tokens that have been drawn, without those that only repeat the prompt.
    produced: u64,
}

impl Writer {
    /// One that continues `prompt`, and the ids to read.
    ///
    /// # Errors
    /// `Usage` for options out of range or an id beyond the vocabulary.
    pub(super) fn new(model: &Model, prompt: Prompt, options: SampleOptions) -> Result<(Self, Vec<u32>)> {
        check_ids(model, &prompt.ids)?;
        let mut sampler = Sampler::new(options)?;
        prompt.ids.iter().for_each(|id| sampler.accept(*id));
        Ok((Self { sampler, held: prompt.held, drawn: 0, produced: 0 }, prompt.ids))
    }

    /// Whether there are as many tokens as were asked for.
    pub(super) fn is_full(&self) -> bool {
        self.produced == self.sampler.options().max_new_tokens
    }

    /// The next token, and why it is the last one if it is.
    ///
    /// # Errors
    /// `NotANumber` if the logits are none.
    pub(super) fn draw(&mut self, logits: &[f32]) -> Result<(u32, Option<End>)> {
        let id = match &self.held {
            None => self.sampler.sample(logits, self.drawn)?,
            Some(held) => self.sampler.sample_of(logits, self.drawn, |id| held.allows(id))?,
        };
        self.drawn += 1;
        self.sampler.accept(id);
        if self.sampler.options().stop_ids.contains(&id) {
            return Ok((id, Some(End::Stop)));
        }
        self.produced += u64::from(self.is_new(id));
        Ok((id, self.is_full().then_some(End::Length)))
    }

    /// Whether a token that was drawn holds more than the prompt's white space.
    fn is_new(&mut self, id: u32) -> bool {
        let Some(held) = &mut self.held else { return true };
        let new = held.accept(id);
        if held.is_done() {
            self.held = None;
        }
        new
    }
}
