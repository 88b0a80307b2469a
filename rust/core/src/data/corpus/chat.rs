//! Conversations: by which fields an object of JSON is one, and what is left to encode of one that was written out by a
//! template.

use serde::Deserialize;

use super::source::Source;
use crate::error::Result;

/// A longer text of one conversation is refused: no window takes it, and encoding it takes a multiple of its size.
pub(crate) const MAX_CONVERSATION_BYTES: usize = 4 << 20;

/// How the turns of a conversation stand in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chat {
    /// `messages`, each with `role` and `content`.
    Messages,
    /// `conversations`, each with `from` and `value`.
    Conversations,
    /// `instruction`, perhaps `input`, and `output`.
    Alpaca,
    /// `prompt` and `completion` as lists of messages.
    Turns,
}

impl Chat {
    /// All forms; of two that fit an object the first counts.
    pub(crate) const ALL: [Self; 4] = [Self::Messages, Self::Conversations, Self::Alpaca, Self::Turns];

    /// What settings call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Conversations => "conversations",
            Self::Alpaca => "alpaca",
            Self::Turns => "turns",
        }
    }

    /// The fields that an object of this form has.
    pub(crate) fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Messages => &["messages"],
            Self::Conversations => &["conversations"],
            Self::Alpaca => &["instruction", "output"],
            Self::Turns => &["prompt", "completion"],
        }
    }

    /// The form of an object with fields of these names and kinds.
    pub(crate) fn of(names: &[(String, &'static str)]) -> Option<Self> {
        let kind = |wanted: &str| names.iter().find(|(name, _)| name == wanted).map(|(_, kind)| *kind);
        let fits = |form: &Self| {
            // Prompt and completion as texts are an example, which needs no template.
            let of_lists = *form != Self::Turns || form.fields().iter().any(|name| kind(name) == Some("a list"));
            of_lists && form.fields().iter().all(|name| kind(name).is_some())
        };
        Self::ALL.into_iter().find(fits)
    }
}

/// A conversation as a template wrote it out. Places are bytes of the text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    #[serde(flatten)]
    pub(crate) turns: Turns,
}

/// What of the text of a conversation is learnt, and where it may be cut.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub(crate) struct Turns {
    /// Ranges that are learnt, ascending.
    pub(crate) learn: Vec<(usize, usize)>,
    /// Places between turns, ascending.
    pub(crate) cuts: Vec<usize>,
    /// Whether the end stays when there is not room for all.
    pub(crate) keep_end: bool,
    /// Whether the id that ends a text follows: the template marks no end of the last answer.
    pub(crate) close: bool,
}

impl Rendered {
    /// Reads a record that was written here.
    pub(crate) fn read(record: &[u8], source: &Source) -> Result<Self> {
        serde_json::from_slice(record).map_err(|error| source.error(format!("not a rendered conversation: {error}")))
    }
}
