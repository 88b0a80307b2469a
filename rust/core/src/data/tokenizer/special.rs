//! Special tokens that are written out in a text.

/// Tokens that are looked for in a text, the longest first.
#[derive(Debug, Default)]
pub(crate) struct Special {
    tokens: Vec<(String, u32)>,
    /// Whether a token begins with this byte.
    first: Vec<bool>,
}

impl Special {
    /// `tokens` with their ids; none may be empty.
    pub(crate) fn new(mut tokens: Vec<(String, u32)>) -> Self {
        tokens.sort_by_key(|(token, id)| (std::cmp::Reverse(token.len()), *id));
        let mut first = vec![false; 256];
        for (token, _) in &tokens {
            first[usize::from(token.as_bytes()[0])] = true;
        }
        Self { tokens, first }
    }

    /// These and one more.
    pub(crate) fn with(&self, more: Option<(String, u32)>) -> Self {
        Self::new(self.tokens.iter().cloned().chain(more).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The first token in the text: where it begins, its bytes, its id. Of several in one place the longest.
    fn find(&self, text: &str) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        let mut places = (0..bytes.len()).filter(|&at| self.first[usize::from(bytes[at])]);
        places.find_map(|at| {
            let found = self.tokens.iter().find(|(token, _)| bytes[at..].starts_with(token.as_bytes()))?;
            Some((at, found.0.len(), found.1))
        })
    }

    /// The text in order: what is between the tokens, and the tokens by their ids.
    pub(crate) fn parts<'t>(&self, mut text: &'t str) -> Vec<(&'t str, Option<u32>)> {
        let mut parts = Vec::new();
        while !text.is_empty() {
            let (at, length, id) = match self.find(text) {
                None => (text.len(), 0, None),
                Some((at, length, id)) => (at, length, Some(id)),
            };
            if at > 0 {
                parts.push((&text[..at], None));
            }
            if id.is_some() {
                parts.push((&text[at..at + length], id));
            }
            text = &text[at + length..];
        }
        parts
    }
}

/// A token of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) id: u32,
    /// The bytes of the text that it stands for; those of a character that several tokens share belong to each.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn special(tokens: &[&str]) -> Special {
        Special::new(tokens.iter().zip(1..).map(|(token, id)| ((*token).to_owned(), id)).collect())
    }

    #[test]
    fn the_longest_token_of_a_place_counts() {
        let found = special(&["<s>", "<s>>", "<"]);
        assert_eq!(
            found.parts("a<s>>b<s><"),
            [("a", None), ("<s>>", Some(2)), ("b", None), ("<s>", Some(1)), ("<", Some(3)),]
        );
        assert!(found.parts("").is_empty());
        assert_eq!(special(&[]).parts("<s>"), [("<s>", None)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in "[<s>ä ]{0,40}") {
            let found = special(&["<s>", "ä ", ">>"]);
            let parts = found.parts(&text);
            prop_assert_eq!(parts.iter().map(|(part, _)| *part).collect::<String>(), text.as_str());
            prop_assert!(parts.windows(2).all(|two| two[0].1.is_some() || two[1].1.is_some()));
        }
    }
}
