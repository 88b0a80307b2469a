//! A prompt and what follows it: encoded as one text, and divided where the prompt ends (contract T8).
//!
//! Training, evaluation and generation divide here, so that a model is asked for the tokens that it has learnt.

use super::encode::{Encoder, Tokenizer};
use crate::data::pretoken::without_trailing_space;
use crate::error::Result;

/// The ids of a prompt and its completion.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// What stands before every text; before a completion without any prompt what stands for an empty text.
    pub(crate) start: Vec<u32>,
    /// The prompt without the white space at its end.
    pub(crate) prompt: Vec<u32>,
    /// That white space and the completion.
    pub(crate) completion: Vec<u32>,
    /// Bytes of that white space and the completion.
    pub(crate) bytes: usize,
}

impl Pair {
    /// Divides `text`, of which the first `prompt` bytes are the prompt.
    pub(crate) fn new(tokenizer: &Tokenizer, encoder: &mut Encoder, text: &str, prompt: usize) -> Result<Self> {
        let (head, rest) = text.split_at(without_trailing_space(&text[..prompt]).len());
        let (mut before, mut whole) = (Vec::new(), Vec::new());
        encoder.encode_text(tokenizer, head, &mut before)?;
        encoder.encode_text(tokenizer, text, &mut whole)?;
        let mut completion = Vec::new();
        if whole.len() > before.len() {
            completion = whole.split_off(before.len());
        } else {
            // The end of the prompt and all of the completion are one token.
            encoder.encode_rest(tokenizer, head, rest, &mut completion)?;
            whole = before;
        }
        let start = if whole.is_empty() { tokenizer.opening() } else { tokenizer.document_start().to_vec() };
        Ok(Self { start, prompt: whole, completion, bytes: rest.len() })
    }
}

impl Tokenizer {
    /// Ids of `prompt` and `completion` as one text, from what stands before it on, and how many of them, the last ones,
    /// are the completion: what follows the ids of the prompt without the white space at its end.
    pub fn encode_pair(&self, prompt: &str, completion: &str) -> Result<(Vec<u32>, usize)> {
        let text = format!("{prompt}{completion}");
        let pair = Pair::new(self, &mut Encoder::default(), &text, prompt.len())?;
        let count = pair.completion.len();
        Ok(([pair.start, pair.prompt, pair.completion].concat(), count))
    }

    /// Ids of a prompt without the white space at its end, and the bytes that the first tokens after them repeat: those of
    /// the white space, and where nothing stands before it, of what the tokenizer puts in front of a text.
    pub(crate) fn encode_open(&self, prompt: &str) -> Result<(Vec<u32>, Vec<u8>)> {
        let (head, space) = prompt.split_at(without_trailing_space(prompt).len());
        let mut held = space.as_bytes().to_vec();
        if head.is_empty() {
            let written = self.decode_bytes(&self.encode(space)?)?;
            if written.ends_with(&held) {
                held = written;
            }
        }
        Ok((self.encode_prompt(head)?, held))
    }
}
