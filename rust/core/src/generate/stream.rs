//! Tokens one after the other.

use super::writer::{End, Prompt, Writer};
use super::{Model, SampleOptions, Session};
use crate::data::Tokenizer;
use crate::error::Result;
use std::sync::Arc;

/// An iterator over the tokens that continue a prompt. Each `next` computes one; the first reads the prompt too.
///
/// The text is a function of the model, the prompt and the options alone.
pub struct TokenStream {
    session: Session,
    writer: Writer,
    /// Tokens that the session has not seen yet.
    pending: Vec<u32>,
    /// Bytes at the beginning that repeat the prompt.
    repeated: usize,
    finished: bool,
}

impl TokenStream {
    /// Starts behind `prompt`; see [`Prompt::of_ids`] for an empty one.
    ///
    /// # Errors
    /// `Usage` for options out of range or an id beyond the vocabulary, `Memory` if the system refuses.
    pub fn new(model: &Arc<Model>, prompt: &[u32], options: SampleOptions) -> Result<Self> {
        Self::continuing(model, Prompt::of_ids(prompt), options)
    }

    /// Starts behind a text; see [`Prompt::of_text`].
    ///
    /// # Errors
    /// As [`TokenStream::new`], and `Data` if the tokenizer cannot encode the text.
    pub fn behind(model: &Arc<Model>, tokenizer: &Arc<Tokenizer>, text: &str, options: SampleOptions) -> Result<Self> {
        let prompt = Prompt::of_text(tokenizer, text, &options.stop_ids, model.config().vocab_size)?;
        Self::continuing(model, prompt, options)
    }

    fn continuing(model: &Arc<Model>, prompt: Prompt, options: SampleOptions) -> Result<Self> {
        let repeated = prompt.repeated();
        let (writer, pending) = Writer::new(model, prompt, options)?;
        let session = Session::on(model, model.threads())?;
        Ok(Self { session, finished: writer.is_full(), writer, pending, repeated })
    }

    /// How many bytes of the tokens, the first ones, repeat the prompt.
    pub fn repeated(&self) -> usize {
        self.repeated
    }

    fn draw(&mut self) -> Result<(u32, Option<End>)> {
        let drawn = self.writer.draw(self.session.append(&self.pending)?)?;
        self.pending.clear();
        self.pending.push(drawn.0);
        Ok(drawn)
    }
}

impl Iterator for TokenStream {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        if self.finished {
            return None;
        }
        let drawn = self.draw();
        self.finished = !matches!(drawn, Ok((_, None)));
        match drawn {
            Ok((_, Some(End::Stop))) => None,
            drawn => Some(drawn.map(|(id, _)| id)),
        }
    }
}
