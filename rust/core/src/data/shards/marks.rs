//! What a word of a shard says beside the id: whether it counts as a target, and whether a document begins with it.

use super::header::Windows;
use crate::data::tokenizer::Tokenizer;

/// Marks an id that does not count as a target; no vocabulary is so large.
pub const CONTEXT: u32 = 1 << 31;
/// Marks the first id of a document, where documents are told apart; no vocabulary is so large.
pub const BEGIN: u32 = 1 << 30;

/// Where documents begin among the ids of a text (contract W1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beginnings {
    /// The token that stands between two of them.
    eot: u32,
    /// Whether it ends the first; else the second begins with it.
    behind: bool,
}

impl Beginnings {
    /// Those of texts that a tokenizer encoded; `None` without a token that ends a text.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let start = tokenizer.document_start().first();
        tokenizer.eot_id().map(|eot| Self { eot, behind: start.is_some_and(|&first| first != eot) })
    }

    /// Marks the ids that begin a document. The first of all may be one unmarked: what is before it is not known.
    pub(super) fn mark(self, ids: &mut [u32]) {
        let behind = usize::from(self.behind);
        for at in behind..ids.len() {
            if ids[at - behind] & !BEGIN == self.eot {
                ids[at] |= BEGIN;
            }
        }
    }
}

/// Checks while a shard is read that its windows are as its header says.
pub(super) struct WindowCheck {
    windows: Option<Windows>,
    /// Of the window at hand, from 0.
    place: u64,
    targets: u64,
    begins: u64,
    /// Whether a window begins with a target, which has nothing before it, or within a document.
    bare: bool,
}

impl WindowCheck {
    pub(super) fn new(windows: Option<Windows>) -> Self {
        Self { windows, place: 0, targets: 0, begins: 0, bare: false }
    }

    /// The id in a word.
    pub(super) fn id(&mut self, word: u32) -> u32 {
        let Some(windows) = &self.windows else { return word };
        if windows.begins == 0 && word & BEGIN != 0 {
            // A bit that means nothing here is a part of the id, which is then none of the vocabulary.
            return word & !CONTEXT;
        }
        let (counts, begins) = (word & CONTEXT == 0, word & BEGIN != 0);
        self.bare |= self.place == 0 && (counts || windows.begins > 0 && !begins);
        self.targets += u64::from(counts);
        self.begins += u64::from(begins);
        self.place = (self.place + 1) % windows.window;
        word & !(CONTEXT | BEGIN)
    }

    pub(super) fn finish(self) -> std::result::Result<(), String> {
        match self.windows {
            Some(windows) if self.bare || self.place != 0 || self.targets != windows.targets => {
                Err(format!("found {} targets in windows, expected {}", self.targets, windows.targets))
            }
            Some(windows) if self.begins != windows.begins => {
                Err(format!("found {} beginnings of documents in windows, expected {}", self.begins, windows.begins))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(behind: bool, ids: &[u32]) -> Vec<usize> {
        let mut words = ids.to_vec();
        Beginnings { eot: 7, behind }.mark(&mut words);
        assert!(words.iter().zip(ids).all(|(word, id)| word & !BEGIN == *id));
        (0..ids.len()).filter(|&at| words[at] & BEGIN != 0).collect()
    }

    #[test]
    fn a_document_begins_at_the_end_of_the_one_before_or_behind_it() {
        let ids = [1, 2, 7, 3, 7, 7, 4, 7];
        assert_eq!(marked(false, &ids), [2, 4, 5, 7]);
        assert_eq!(marked(true, &ids), [3, 5, 6]);
        assert!(marked(false, &[]).is_empty() && marked(true, &[7]).is_empty());
    }
}
