//! The GPT-2 pre-tokenizer on `&str`, and the places where a long text may be cut.
//!
//! The splits are those of the regular expression
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
//! written by hand because the engine costs several times the rest of the encoding. What is a letter, a number or a
//! space is asked of the very engine that the `tokenizers` crate uses (Oniguruma), so that both agree on every
//! character of every Unicode version; tests compare the two on arbitrary text.

use std::sync::LazyLock;

use tokenizers::utils::SysRegex;

/// Pieces are about this long. Small enough that many of them in flight stay a modest amount of memory.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;
/// A piece is never longer: where the text offers no place to cut for so long it is cut between two characters.
pub(crate) const PIECE_CAP_BYTES: usize = 1024 * 1024;

/// Sizes of pieces; the defaults everywhere but in tests and in sampling.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PieceSize {
    pub(crate) target: usize,
    pub(crate) cap: usize,
}

impl Default for PieceSize {
    fn default() -> Self {
        Self { target: PIECE_BYTES, cap: PIECE_CAP_BYTES }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Other,
    Letter,
    Number,
    Space,
}

/// Beyond this, Unicode has no letters, numbers or spaces, only marks, private use and what is not assigned; the tests
/// look at every character. Four times less to ask saves a noticeable moment at every start.
const CLASSES: usize = 0x4_0000;

/// The class of every character below [`CLASSES`], one byte each.
static TABLE: LazyLock<Vec<Class>> = LazyLock::new(|| {
    let mut classes = vec![Class::Other; CLASSES];
    let all: String = (0..CLASSES as u32).filter_map(char::from_u32).collect();
    for (pattern, class) in [(r"\p{L}+", Class::Letter), (r"\p{N}+", Class::Number), (r"\s+", Class::Space)] {
        let regex = SysRegex::new(pattern).expect("the pattern is a constant that the tests compile");
        for (start, end) in regex.find_iter(&all) {
            for c in all[start..end].chars() {
                classes[c as usize] = class;
            }
        }
    }
    classes
});

fn look_up(table: &[Class], c: char) -> Class {
    table.get(c as usize).copied().unwrap_or(Class::Other)
}

fn class(c: char) -> Class {
    look_up(&TABLE, c)
}

/// The text up to its last character that is not white.
pub(crate) fn without_trailing_space(text: &str) -> &str {
    text.trim_end_matches(|c| class(c) == Class::Space)
}

/// Whether the first character is white.
pub(crate) fn begins_with_space(text: &str) -> bool {
    text.starts_with(|c| class(c) == Class::Space)
}

/// Iterator over the pre-tokens of a text; they follow each other without a gap.
#[derive(Debug, Clone)]
pub(crate) struct Pretokens<'a> {
    rest: &'a str,
    classes: &'static [Class],
}

/// The pre-tokens of `text`.
pub(crate) fn pretokens(text: &str) -> Pretokens<'_> {
    Pretokens { rest: text, classes: &TABLE }
}

impl Pretokens<'_> {
    fn class(&self, c: char) -> Class {
        look_up(self.classes, c)
    }

    /// Bytes of the longest run of one class that `text` begins with.
    fn run(&self, text: &str, class: Class) -> usize {
        text.char_indices().find(|&(_, c)| self.class(c) != class).map_or(text.len(), |(i, _)| i)
    }

    fn next_len(&self) -> Option<usize> {
        let first = self.rest.chars().next()?;
        if first == '\'' {
            let tail = &self.rest.as_bytes()[1..];
            for suffix in [&b"s"[..], b"t", b"re", b"ve", b"m", b"ll", b"d"] {
                if tail.starts_with(suffix) {
                    return Some(1 + suffix.len());
                }
            }
        }
        let kind = self.class(first);
        if kind != Class::Space {
            return Some(self.run(self.rest, kind));
        }
        if first == ' '
            && let Some(next) = self.rest[1..].chars().next()
        {
            let kind = self.class(next);
            if kind != Class::Space {
                return Some(1 + self.run(&self.rest[1..], kind));
            }
        }
        // White space. Before other text it leaves its last character alone, which then stands by itself or, if it
        // is a blank, leads the next word.
        let run = self.run(self.rest, Class::Space);
        if run == self.rest.len() {
            return Some(run);
        }
        let last = self.rest[..run].chars().next_back().map_or(0, char::len_utf8);
        Some(if run > last { run - last } else { run })
    }
}

impl<'a> Iterator for Pretokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (token, rest) = self.rest.split_at(self.next_len()?);
        self.rest = rest;
        Some(token)
    }
}

/// Whether `text` may be cut at byte `at` without changing a pre-token: after something that is not white space and
/// before white space.
///
/// No pre-token has white space after anything else, so one begins at `at`, and what follows is matched the same way
/// on its own (the expression never looks back). Before `at`, only `\s+(?!\S)` looks ahead, and only at what follows
/// a run of white space, which the text before `at` does not end with.
fn is_safe(text: &str, at: usize) -> bool {
    let (left, right) = text.split_at(at);
    match (left.chars().next_back(), right.chars().next()) {
        (Some(a), Some(b)) => class(a) != Class::Space && class(b) == Class::Space,
        _ => false,
    }
}

/// The first place between two characters at or after `at`.
fn boundary_from(text: &str, at: usize) -> usize {
    (at..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len())
}

/// The last place between two characters at or before `at`.
pub(crate) fn boundary_to(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

/// The first safe cut at or after `from`, below `to`.
pub(crate) fn safe_cut_after(text: &str, from: usize, to: usize) -> Option<usize> {
    let from = boundary_from(text, from);
    let positions = text[from..].char_indices().map(|(i, _)| from + i);
    positions.take_while(|&at| at < to).find(|&at| at > 0 && is_safe(text, at))
}

fn safe_cut_before(text: &str, limit: usize) -> Option<usize> {
    let limit = boundary_to(text, limit);
    let positions = text[..limit].char_indices().rev();
    positions.map(|(at, _)| at).find(|&at| at > 0 && is_safe(text, at))
}

/// Length of the next piece of a document of which `text` is what lies ahead, or the beginning of it when not
/// `at_end`. `None` asks for more text (and never when `text` is longer than `cap`).
///
/// The answer depends on the text alone, never on how it arrived, so the same document always has the same pieces.
pub(crate) fn piece_len(text: &str, at_end: bool, target: usize, cap: usize) -> Option<usize> {
    debug_assert!(target <= cap);
    if at_end && text.len() <= target {
        return Some(text.len());
    }
    if !at_end && text.len() <= cap {
        return None;
    }
    let cut = safe_cut_before(text, target).or_else(|| safe_cut_after(text, target, cap + 1));
    Some(cut.unwrap_or_else(|| {
        // A character is at most four bytes, so a cap below that would cut off nothing at all.
        let at = boundary_to(text, cap);
        if at == 0 { boundary_from(text, 1) } else { at }
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    /// The pre-tokens as the crate cuts them.
    fn reference(text: &str) -> Vec<String> {
        let mut split = PreTokenizedString::from(text);
        ByteLevel::new(false, false, true).pre_tokenize(&mut split).unwrap();
        let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    fn cut(text: &str, target: usize, cap: usize) -> Vec<&str> {
        let mut rest = text;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(piece_len(rest, true, target, cap).unwrap());
            pieces.push(piece);
            rest = tail;
        }
        pieces
    }

    /// Text with many borders between the classes.
    fn awkward() -> impl Strategy<Value = String> {
        let parts = prop::sample::select(vec![
            " ",
            "  ",
            "\n",
            "\n\n",
            "\r\n",
            "\t",
            "\u{a0}",
            "\u{85}",
            "\u{3000}",
            "\u{2028}",
            "\u{180e}",
            "\u{200b}",
            "\x0b",
            "\x0c",
            "\x1c",
            "a",
            "Zz",
            "é",
            "ß",
            "ж",
            "漢",
            "ا",
            "1",
            "23",
            "½",
            "Ⅷ",
            "٣",
            "'",
            "'s",
            "'t",
            "'re",
            "'ve",
            "'m",
            "'ll",
            "'d",
            "'S",
            "!",
            "--",
            "…",
            "😀",
            "\u{301}",
            "<|endoftext|>",
            "_",
            "\0",
        ]);
        prop_oneof![prop::collection::vec(parts, 0..40).prop_map(|parts| parts.concat()), any::<String>(),]
    }

    #[test]
    fn classes_agree_with_the_engine_on_every_character() {
        // One expression of three alternatives, asked of each character by itself in a neighbourhood of others.
        let text: String = ('\0'..=char::MAX).flat_map(|c| [c, '!']).collect();
        let regex = SysRegex::new(r"\p{L}|\p{N}|\s").unwrap();
        let known: Vec<char> = regex.find_iter(&text).map(|(start, _)| text[start..].chars().next().unwrap()).collect();
        let ours: Vec<char> = ('\0'..=char::MAX).filter(|&c| class(c) != Class::Other).collect();
        assert_eq!(known, ours);
    }

    #[test]
    fn known_splits() {
        let splits = |text| pretokens(text).collect::<Vec<_>>();
        assert_eq!(splits("Hello  world, it's 42!"), ["Hello", " ", " world", ",", " it", "'s", " 42", "!"]);
        assert_eq!(splits("a\n\nb\n"), ["a", "\n", "\n", "b", "\n"]);
        assert_eq!(splits("x \n  y"), ["x", " \n ", " y"]);
        assert!(splits("").is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn pretokens_equal_those_of_the_crate(text in awkward()) {
            prop_assert_eq!(pretokens(&text).collect::<Vec<_>>(), reference(&text));
        }

        #[test]
        fn pieces_have_the_pretokens_of_the_whole(text in awkward(), target in 1usize..40) {
            // No cap in reach: every cut is a safe one.
            let pieces = cut(&text, target, 1 << 20);
            prop_assert_eq!(pieces.concat(), text.clone());
            let apart: Vec<&str> = pieces.into_iter().flat_map(pretokens).collect();
            prop_assert_eq!(apart, pretokens(&text).collect::<Vec<_>>());
        }

        #[test]
        fn pieces_keep_below_the_cap(text in awkward(), target in 1usize..20, more in 0usize..20) {
            let cap = target + more;
            let pieces = cut(&text, target, cap);
            prop_assert_eq!(pieces.concat(), text.clone());
            prop_assert!(pieces.iter().all(|piece| piece.len() <= cap.max(4)));
        }

        #[test]
        fn pieces_do_not_depend_on_how_much_text_was_ahead(
            text in awkward(), target in 1usize..20, more in 0usize..20, extra in 1usize..9,
        ) {
            let cap = target + more;
            let whole = piece_len(&text, true, target, cap).unwrap();
            let ahead = boundary_to(&text, cap + extra);
            if ahead < text.len() && let Some(len) = piece_len(&text[..ahead], false, target, cap) {
                prop_assert_eq!(len, whole);
            }
        }
    }
}
