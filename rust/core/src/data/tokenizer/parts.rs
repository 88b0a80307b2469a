//! Lists and tables of a `tokenizer.json` that stop growing where no tokenizer has more: a few bytes of JSON are many in
//! memory, so a cap on the size of the file alone would not bound it.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::vocab::MAX_VOCAB;

/// A list with at most as many elements as a vocabulary has tokens.
pub(crate) struct AtMost<T>(pub(crate) Vec<T>);

impl<T> Default for AtMost<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for AtMost<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = AtMost<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some(item) = list.next_element()? {
                    if found.len() == MAX_VOCAB {
                        return Err(A::Error::custom(format!("a list of more than {MAX_VOCAB} elements")));
                    }
                    found.push(item);
                }
                Ok(AtMost(found))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// Tokens and their ids.
pub(crate) struct Vocab(pub(crate) HashMap<String, u32>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Vocab;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of tokens and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut found = HashMap::new();
                while let Some((token, id)) = map.next_entry()? {
                    if found.len() == MAX_VOCAB {
                        return Err(A::Error::custom(format!("a vocabulary of more than {MAX_VOCAB} tokens")));
                    }
                    found.insert(token, id);
                }
                Ok(Vocab(found))
            }
        }
        deserializer.deserialize_map(Table)
    }
}

/// Two tokens that become one: `["a", "b"]`, in older files `"a b"`.
pub(crate) struct Merge(pub(crate) String, pub(crate) String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a pair of tokens")
            }

            fn visit_str<E: Error>(self, line: &str) -> Result<Merge, E> {
                // Without a blank it has a token without text, which no vocabulary has.
                let (a, b) = line.split_once(' ').unwrap_or((line, ""));
                Ok(Merge(a.to_owned(), b.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                match (list.next_element()?, list.next_element()?) {
                    (Some(a), Some(b)) => Ok(Merge(a, b)),
                    _ => Err(A::Error::custom("a merge of fewer than two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}
