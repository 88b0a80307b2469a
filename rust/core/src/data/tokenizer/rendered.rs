//! Texts that a chat template wrote out.
//!
//! They have the ids of the `tokenizers` library: special tokens count wherever they stand, the one that ends a text too,
//! and what stands between two of them is split into words by itself (contract T13).

use super::encode::{Encoder, Kind, Tokenizer};
use super::special::Placed;
use super::vocab::END_OF_TEXT;
use crate::error::Result;

impl Encoder {
    /// The tokens of a text that a template wrote out. Nothing is put around it.
    pub(crate) fn encode_rendered(&mut self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<Placed>> {
        let Kind::Own { special, .. } = &tokenizer.kind else {
            let Kind::Library(library) = &tokenizer.kind else { return Ok(Vec::new()) };
            return library.encode_placed(text);
        };
        let special = special.with(tokenizer.eot_id.map(|id| (END_OF_TEXT.to_owned(), id)));
        let (mut placed, mut ids, mut at) = (Vec::new(), Vec::new(), 0);
        for (part, id) in special.parts(text) {
            ids.clear();
            match id {
                Some(id) => ids.push(id),
                None => self.encode_text(tokenizer, part, &mut ids)?,
            }
            for &id in &ids {
                let start = at;
                at += tokenizer.token(id).map_or(0, <[u8]>::len);
                placed.push(Placed { id, start, end: at });
            }
        }
        Ok(placed)
    }
}

impl Tokenizer {
    /// The ids of a text that a template wrote out: special tokens count wherever they stand, and nothing is put around it.
    ///
    /// # Errors
    /// `Data` if the tokenizer cannot encode the text.
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>> {
        let placed = Encoder::default().encode_rendered(self, text)?;
        Ok(placed.into_iter().map(|token| token.id).collect())
    }

    /// The tokens that are never part of a text, ascending.
    pub fn special_ids(&self) -> &[u32] {
        &self.special
    }
}
