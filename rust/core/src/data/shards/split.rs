//! Which text is held out for validation.

use crate::data::corpus::Piece;
use crate::data::pretoken::{boundary_to, safe_cut_after};

/// From so many documents on, whole documents are held out.
const ENOUGH_DOCUMENTS: u64 = 20;

/// The way a corpus is divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Split {
    /// Nothing is held out.
    None,
    /// Whole documents, by number, spread over the corpus.
    Documents(Vec<bool>),
    /// The end of the text, from this byte of text on (or the next place to cut).
    Tail(u64),
}

/// Looks at the sizes of all documents and decides.
///
/// Documents are held out one by one as the share of bytes falls due, so they are spread over the corpus, the share is
/// met as closely as their sizes allow, and one that is larger than the share never goes.
#[derive(Debug)]
pub(crate) struct Planner {
    share: f64,
    size: u64,
    bytes: u64,
    held_bytes: u64,
    held: Vec<bool>,
}

impl Planner {
    pub(crate) fn new(share: f64) -> Self {
        Self { share, size: 0, bytes: 0, held_bytes: 0, held: Vec::new() }
    }

    pub(crate) fn add(&mut self, piece: &Piece) {
        self.size += piece.text.len() as u64;
        if piece.last {
            let size = std::mem::take(&mut self.size);
            self.bytes += size;
            let due = self.bytes as f64 * self.share - self.held_bytes as f64;
            let hold = due >= size as f64 / 2.0 && self.share > 0.0;
            self.held_bytes += if hold { size } else { 0 };
            self.held.push(hold);
        }
    }

    /// Bytes of text of the whole corpus.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn decide(self) -> Split {
        if self.share == 0.0 {
            return Split::None;
        }
        let wanted = self.bytes as f64 * self.share;
        let close = (0.5..=1.5).contains(&(self.held_bytes as f64 / wanted));
        if self.held.len() as u64 >= ENOUGH_DOCUMENTS && close {
            Split::Documents(self.held)
        } else {
            Split::Tail(self.bytes - wanted.round().min(self.bytes as f64) as u64)
        }
    }
}

/// Follows the stream of pieces and says where each belongs.
#[derive(Debug)]
pub(crate) struct Divider {
    split: Split,
    document: usize,
    seen: u64,
    in_tail: bool,
}

impl Divider {
    pub(crate) fn new(split: Split) -> Self {
        Self { split, document: 0, seen: 0, in_tail: false }
    }

    /// Hands the piece on as one or two, each with whether it is held out.
    pub(crate) fn divide(&mut self, mut piece: Piece, mut give: impl FnMut(Piece, bool)) {
        let from = self.seen;
        self.seen += piece.text.len() as u64;
        let number = self.document;
        self.document += usize::from(piece.last);
        match &self.split {
            Split::None => give(piece, false),
            Split::Documents(held) => give(piece, held.get(number).copied().unwrap_or(false)),
            Split::Tail(_) if self.in_tail => give(piece, true),
            Split::Tail(at) if self.seen <= *at => give(piece, false),
            Split::Tail(at) => {
                // The border is in this piece; at its start nothing has to be cut.
                let within = at.saturating_sub(from) as usize;
                let cut = if within == 0 {
                    0
                } else {
                    // Text without blanks is cut anywhere between two characters, as its pieces are.
                    safe_cut_after(&piece.text, within, piece.text.len())
                        .unwrap_or_else(|| boundary_to(&piece.text, within))
                };
                if cut == 0 {
                    give(piece, true);
                } else {
                    let tail = piece.text.split_off(cut);
                    let last = std::mem::replace(&mut piece.last, false);
                    give(piece, false);
                    let first = false;
                    give(Piece { text: tail, first, last }, true);
                }
                self.in_tail = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(sizes: &[usize], share: f64) -> Split {
        let mut planner = Planner::new(share);
        for &size in sizes {
            planner.add(&Piece { text: "x".repeat(size), first: true, last: true });
        }
        planner.decide()
    }

    #[test]
    fn many_documents_are_held_out_whole_and_spread() {
        let Split::Documents(held) = plan(&[100; 200], 0.05) else { panic!("expected documents") };
        let places: Vec<usize> = (0..200).filter(|&i| held[i]).collect();
        assert_eq!(places.len(), 10);
        assert!(places.windows(2).all(|w| w[1] - w[0] == 20));
    }

    #[test]
    fn few_documents_or_one_giant_are_cut_at_the_end() {
        assert_eq!(plan(&[100; 19], 0.1), Split::Tail(1710));
        let mut sizes = vec![1; 30];
        sizes.push(100_000);
        assert!(matches!(plan(&sizes, 0.1), Split::Tail(_)));
        assert_eq!(plan(&[100; 50], 0.0), Split::None);
    }

    #[test]
    fn the_tail_begins_between_words() {
        let text = "one two three four five six seven eight nine ten";
        let mut divider = Divider::new(Split::Tail(20));
        let mut parts = Vec::new();
        divider.divide(Piece { text: text.into(), first: true, last: true }, |p, held| parts.push((p.text, held)));
        assert_eq!(parts[0], ("one two three four five".to_owned(), false));
        assert_eq!(parts[1], (" six seven eight nine ten".to_owned(), true));
    }

    #[test]
    fn text_without_blanks_is_cut_too() {
        let mut divider = Divider::new(Split::Tail(5));
        let mut parts = Vec::new();
        let piece = Piece { text: "ääää".into(), first: true, last: true };
        divider.divide(piece, |p, held| parts.push((p.text, p.last, held)));
        assert_eq!(parts, [("ää".into(), false, false), ("ää".into(), true, true)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(
            texts in prop::collection::vec("[ab \n]{1,30}", 1..40), share in 0.01f64..0.9,
        ) {
            let pieces = texts.iter().map(|t| Piece { text: t.clone(), first: true, last: true });
            let mut planner = Planner::new(share);
            pieces.clone().for_each(|piece| planner.add(&piece));
            let split = planner.decide();
            let tail = matches!(split, Split::Tail(_));
            let mut divider = Divider::new(split);
            let (mut train, mut val) = (String::new(), String::new());
            let mut documents = 0;
            for piece in pieces {
                divider.divide(piece, |piece, held| {
                    documents += usize::from(piece.last);
                    if held { val.push_str(&piece.text) } else { train.push_str(&piece.text) }
                });
            }
            let all: usize = texts.iter().map(String::len).sum();
            prop_assert_eq!(train.len() + val.len(), all);
            prop_assert_eq!(documents, texts.len());
            if tail {
                prop_assert_eq!(train + &val, texts.concat());
            }
        }
    }
}
