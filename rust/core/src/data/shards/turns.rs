//! Conversations: the ids of one that a template wrote out, what of it is learnt, and where it is cut when it is longer
//! than a window (contract T13 to T15).

use super::marks::CONTEXT;
use crate::data::corpus::{MAX_CONVERSATION_BYTES, Turns};
use crate::data::tokenizer::{Encoder, Placed, Tokenizer};
use crate::error::{Error, Result};

/// An encoded conversation, at most as long as a window.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    /// Ids; those that are not learnt have the bit [`CONTEXT`].
    pub(super) words: Vec<u32>,
    /// Of the text that is learnt, without special tokens.
    pub(super) bytes: u64,
    /// Whether a part was left out.
    pub(super) cut: bool,
}

impl Encoded {
    /// Encodes a conversation for windows of `window` ids, at least 2.
    ///
    /// # Errors
    /// `Data` if it is too long to encode at all, or the tokenizer cannot encode it.
    pub(super) fn new(
        tokenizer: &Tokenizer,
        encoder: &mut Encoder,
        text: &str,
        turns: &Turns,
        window: usize,
    ) -> Result<Self> {
        if text.len() > MAX_CONVERSATION_BYTES {
            return Err(Error::data(format!(
                "found a conversation of {} bytes, expected at most {MAX_CONVERSATION_BYTES}",
                text.len()
            )));
        }
        let placed = encoder.encode_rendered(tokenizer, text)?;
        let mut words = masked(&placed, &turns.learn);
        let sizes = sizes(tokenizer, &placed, &words);
        if turns.close {
            words.push(tokenizer.end_of_text()?);
        }
        let kept = keep(&words, &indices(&placed, &turns.cuts, text.len()), turns.keep_end, window);
        let cut = kept.len() < words.len();
        let bytes = sizes[kept.start.min(sizes.len())..kept.end.min(sizes.len())].iter().sum();
        let mut words = words[kept].to_vec();
        begin(&mut words, tokenizer, window);
        Ok(Self { words, bytes, cut })
    }
}

/// The ids; a token is learnt if a byte of it is in one of the ranges.
fn masked(placed: &[Placed], learn: &[(usize, usize)]) -> Vec<u32> {
    let mut ranges = learn.iter().copied().peekable();
    let word = |token: &Placed| {
        while ranges.next_if(|&(_, end)| end <= token.start).is_some() {}
        let within = ranges.peek().is_some_and(|&(start, end)| {
            // What stands for no byte belongs to the byte behind it.
            token.start.max(start) < token.end.max(token.start + 1).min(end)
        });
        if within { token.id } else { token.id | CONTEXT }
    };
    placed.iter().map(word).collect()
}

/// The bytes of the text that each learnt token adds to those before it; none for special tokens.
fn sizes(tokenizer: &Tokenizer, placed: &[Placed], words: &[u32]) -> Vec<u64> {
    let mut before = 0;
    let size = |(token, word): (&Placed, &u32)| {
        let added = token.end.saturating_sub(token.start.max(before));
        before = before.max(token.end);
        if word & CONTEXT != 0 || tokenizer.is_special(token.id) { 0 } else { added as u64 }
    };
    placed.iter().zip(words).map(size).collect()
}

/// How many tokens begin before each of the places, without those at the ends.
fn indices(placed: &[Placed], cuts: &[usize], length: usize) -> Vec<usize> {
    let inner = cuts.iter().filter(|&&cut| cut > 0 && cut < length);
    let mut found: Vec<usize> = inner.map(|&cut| placed.partition_point(|token| token.start < cut)).collect();
    found.dedup();
    found.retain(|&index| index > 0 && index < placed.len());
    found
}

/// The tokens that stay: whole turns from the beginning, or with `keep_end` up to the end. Of a turn that is longer than a
/// window, first what comes before its learnt tokens goes, then their end.
fn keep(words: &[u32], cuts: &[usize], keep_end: bool, window: usize) -> std::ops::Range<usize> {
    let whole = words.len();
    let learnt = |range: std::ops::Range<usize>| words[range].iter().position(|word| word & CONTEXT == 0);
    if whole <= window {
        return 0..whole;
    }
    let (start, end) = if keep_end {
        let fits = cuts.iter().find(|&&cut| whole - cut <= window && learnt(cut..whole).is_some());
        if let Some(&cut) = fits {
            return cut..whole;
        }
        (cuts.iter().rev().find(|&&cut| learnt(cut..whole).is_some()).copied().unwrap_or(0), whole)
    } else {
        let fits = cuts.iter().rev().find(|&&cut| cut <= window && learnt(0..cut).is_some());
        if let Some(&cut) = fits {
            return 0..cut;
        }
        (0, cuts.iter().find(|&&cut| learnt(0..cut).is_some()).copied().unwrap_or(whole))
    };
    let first = learnt(start..end).unwrap_or(0);
    let spare = (end - start).saturating_sub(window);
    let start = start + spare.min(first.saturating_sub(1));
    start..end.min(start + window)
}

/// Sees to it that a conversation begins with a token that is not learnt: nothing stands before it.
fn begin(words: &mut Vec<u32>, tokenizer: &Tokenizer, window: usize) {
    let Some(first) = words.first().copied().filter(|word| word & CONTEXT == 0) else { return };
    if words[1..].iter().any(|word| word & CONTEXT == 0) {
        words[0] = first | CONTEXT;
    } else {
        let opening = tokenizer.opening().first().copied().unwrap_or(0);
        words.insert(0, opening | CONTEXT);
        words.truncate(window);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Words of which the digits are learnt.
    fn words(text: &str) -> Vec<u32> {
        text.chars().map(|c| if c.is_ascii_digit() { u32::from(c) } else { u32::from(c) | CONTEXT }).collect()
    }

    fn kept(text: &str, cuts: &[usize], keep_end: bool, window: usize) -> String {
        text[keep(&words(text), cuts, keep_end, window)].to_owned()
    }

    #[test]
    fn whole_turns_stay() {
        let text = "sab12cd34ef56";
        assert_eq!(kept(text, &[5, 9], false, 13), text);
        assert_eq!(kept(text, &[5, 9], false, 12), "sab12cd34");
        assert_eq!(kept(text, &[5, 9], false, 8), "sab12");
        assert_eq!(kept(text, &[5, 9], false, 5), "sab12");
        assert_eq!(kept(text, &[5, 9], true, 12), "cd34ef56");
        assert_eq!(kept(text, &[5, 9], true, 7), "ef56");
    }

    #[test]
    fn of_a_turn_that_does_not_fit_its_prompt_goes_first() {
        assert_eq!(kept("sab12cd34", &[5], false, 4), "ab12");
        assert_eq!(kept("sab12cd34", &[5], false, 3), "b12");
        assert_eq!(kept("sab12cd34", &[5], false, 2), "b1");
        assert_eq!(kept("sab12cd345", &[5], true, 4), "d345");
        assert_eq!(kept("sab12cd345", &[5], true, 3), "d34");
        assert_eq!(kept("sabc123", &[], false, 5), "bc123");
    }

    #[test]
    fn a_token_is_learnt_if_any_byte_of_it_is() {
        let placed: Vec<_> = [(0, 2), (2, 5), (5, 5), (5, 7), (7, 9)]
            .into_iter()
            .zip(1..)
            .map(|((start, end), id)| Placed { id, start, end })
            .collect();
        let learnt = |ranges: &[(usize, usize)]| {
            masked(&placed, ranges).into_iter().filter(|word| word & CONTEXT == 0).collect::<Vec<_>>()
        };
        assert_eq!(learnt(&[(3, 6)]), [2, 3, 4]);
        assert_eq!(learnt(&[(0, 1), (8, 9)]), [1, 5]);
        assert_eq!(learnt(&[(2, 5)]), [2]);
        assert!(learnt(&[]).is_empty());
        assert_eq!(indices(&placed, &[0, 2, 3, 5, 9], 9), [1, 2]);
    }

    proptest! {
        #[test]
        fn what_is_kept_fits_and_teaches(
            text in "[ab12]{1,30}", at in prop::collection::vec(1_usize..30, 0..5), keep_end: bool, window in 2_usize..20,
        ) {
            let mut cuts: Vec<usize> = at.into_iter().filter(|&cut| cut < text.len()).collect();
            cuts.sort_unstable();
            cuts.dedup();
            let all = words(&text);
            let range = keep(&all, &cuts, keep_end, window);
            prop_assert!(range.len() <= window && range.end <= all.len() && !range.is_empty());
            let learnt = |words: &[u32]| words.iter().any(|word| word & CONTEXT == 0);
            prop_assert_eq!(learnt(&all), learnt(&all[range]));
        }
    }
}
