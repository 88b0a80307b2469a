//! White space at the end of a prompt, which the first tokens repeat (contract, "Sampling of text").
//!
//! In the texts that a model has learnt, white space is mostly the beginning of a token. So a prompt is read without what
//! it ends with, and the tokens that follow are those that give it back.

use crate::data::Tokenizer;
use std::sync::Arc;

/// More white space than this is not held back: each token of it takes as long as one of new text.
const MOST_BYTES: usize = 256;

/// What is still to be repeated, and which tokens can do it.
pub(super) struct Held {
    tokenizer: Arc<Tokenizer>,
    text: Vec<u8>,
    /// Bytes of `text` that have been repeated.
    at: usize,
    /// For each place of `text`, and its end, whether there are tokens that repeat all from there on.
    live: Vec<bool>,
    /// Tokens that end the text, which never repeat anything.
    stop_ids: Vec<u32>,
}

impl Held {
    /// `None` if there is nothing to repeat, or too much, or no tokens below `vocab` that could.
    pub(super) fn new(tokenizer: &Arc<Tokenizer>, text: Vec<u8>, stop_ids: &[u32], vocab: usize) -> Option<Self> {
        let len = text.len();
        if !(1..=MOST_BYTES).contains(&len) {
            return None;
        }
        let mut this =
            Self { tokenizer: Arc::clone(tokenizer), at: 0, live: Vec::new(), stop_ids: stop_ids.to_vec(), text };
        let mut occurs = [false; 256];
        this.text.iter().for_each(|&byte| occurs[usize::from(byte)] = true);
        let occurs = |byte: &u8| occurs[usize::from(*byte)];
        let ids = 0..u32::try_from(vocab).unwrap_or(u32::MAX);
        // Those that lie within the text, and those that go beyond it, which can only be begun near its end.
        let usable: Vec<&[u8]> = ids.filter_map(|id| this.bytes(id)).filter(|bytes| occurs(&bytes[0])).collect();
        let longest = usable.iter().map(|bytes| bytes.len()).max().unwrap_or(0);
        let within: Vec<&[u8]> = usable.iter().copied().filter(|bytes| bytes.iter().all(occurs)).collect();
        let mut live = vec![false; len + 1];
        live[len] = true;
        for at in (0..len).rev() {
            let rest = &this.text[at..];
            let candidates = if rest.len() <= longest { &usable } else { &within };
            live[at] = candidates.iter().any(|bytes| repeats(bytes, rest).is_some_and(|count| live[at + count]));
        }
        this.live = live;
        this.live[0].then_some(this)
    }

    /// Bytes of the text as it was given.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether a token may come next.
    pub(super) fn allows(&self, id: u32) -> bool {
        let Some(bytes) = self.bytes(id) else { return false };
        repeats(bytes, &self.text[self.at..]).is_some_and(|count| self.live[self.at + count])
    }

    /// Takes note of an allowed token; whether it holds more than what was to be repeated.
    pub(super) fn accept(&mut self, id: u32) -> bool {
        let left = self.text.len() - self.at;
        let bytes = self.bytes(id).map_or(0, <[u8]>::len);
        self.at += bytes.min(left);
        bytes > left
    }

    /// Whether nothing is left to repeat.
    pub(super) fn is_done(&self) -> bool {
        self.at == self.text.len()
    }

    /// The bytes of a token that can be part of a text.
    fn bytes(&self, id: u32) -> Option<&[u8]> {
        let usable = !self.stop_ids.contains(&id) && !self.tokenizer.is_special(id);
        self.tokenizer.token(id).filter(|bytes| usable && !bytes.is_empty())
    }
}

/// How many bytes of `rest` a token repeats, if it begins with all of them or they with it.
fn repeats(token: &[u8], rest: &[u8]) -> Option<usize> {
    (token.starts_with(rest) || rest.starts_with(token)).then(|| token.len().min(rest.len()))
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
