//! The values of some fields of an object of JSON; all others are skipped without being stored.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::lenient::replaced;
use super::scanner::select;

/// At most so many names of fields are read to tell what an object is.
const NAMES_KNOWN: usize = 16;

/// What an object has under a name asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Text(String),
    Other(&'static str),
    Missing,
}

/// Names of the first fields of a record, each with the kind of its value; none if it cannot be read.
pub(crate) fn names(record: &[u8]) -> Vec<(String, &'static str)> {
    let Ok(text) = std::str::from_utf8(record) else { return Vec::new() };
    let parse = |text: &str| {
        let names = |kinds| Names { kinds }.deserialize(&mut serde_json::Deserializer::from_str(text)).ok();
        names(true).or_else(|| names(false))
    };
    let lenient = || replaced(text, true).and_then(|(text, _)| parse(&text));
    parse(text).or_else(lenient).unwrap_or_default()
}

/// What there is under each of the names, and how many halves of surrogate pairs are in that.
pub(super) fn parse(text: &str, fields: &[&str]) -> serde_json::Result<(Vec<Found>, u64)> {
    let parse = |text: &str| {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let found = Fields(fields).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(found)
    };
    match parse(text) {
        Ok(found) => Ok((found, 0)),
        Err(error) => match replaced(text, true) {
            Some((lenient, _)) => {
                let found = parse(&lenient)?;
                let halves = replaced(&select(text, fields), false).map_or(0, |(_, halves)| halves);
                Ok((found, halves))
            }
            None => Err(error),
        },
    }
}

/// Takes the names of the fields of an object, with the kinds of their values where these can be told.
struct Names {
    kinds: bool,
}

impl<'de> DeserializeSeed<'de> for Names {
    type Value = Vec<(String, &'static str)>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Names {
    type Value = Vec<(String, &'static str)>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            let known = names.len() < NAMES_KNOWN;
            let kind = if known && self.kinds {
                match map.next_value_seed(Content)? {
                    Found::Other(kind) => kind,
                    _ => "a string",
                }
            } else {
                map.next_value::<IgnoredAny>()?;
                "a value"
            };
            if known {
                names.push((name.chars().take(40).collect(), kind));
            }
        }
        Ok(names)
    }
}

/// Takes some fields out of an object and skips the others without storing them.
struct Fields<'f>(&'f [&'f str]);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Vec<Found>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<Found>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut found = vec![Found::Missing; self.0.len()];
        // A field of the whole name counts, wherever it stands; only else what is inside of others.
        let mut whole = vec![false; self.0.len()];
        while let Some(Name(name)) = map.next_key()? {
            if let Some(index) = self.0.iter().position(|field| name == *field) {
                found[index] = map.next_value_seed(Content)?;
                whole[index] = true;
            } else if let Some((index, rest)) =
                self.0.iter().enumerate().find_map(|(index, field)| Some((index, inside(field, &name)?)))
                && !whole[index]
            {
                found[index] = map.next_value_seed(Inside(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Of a name with dots what is to be looked for inside of a field.
fn inside<'f>(asked: &'f str, name: &str) -> Option<&'f str> {
    asked.strip_prefix(name)?.strip_prefix('.').filter(|_| !name.is_empty())
}

/// The value of a field that is asked for by a name with dots; anything but an object has none.
struct Inside<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for Inside<'_> {
    type Value = Found;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inside<'_> {
    type Value = Found;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Found, A::Error> {
        Ok(Fields(&[self.0]).visit_map(map)?.remove(0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Found, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Missing)
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<Found, E> {
        Ok(Found::Missing)
    }

    fn visit_unit<E>(self) -> std::result::Result<Found, E> {
        Ok(Found::Missing)
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Found, E> {
        Ok(Found::Missing)
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<Found, E> {
        Ok(Found::Missing)
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Found, E> {
        Ok(Found::Missing)
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Found, E> {
        Ok(Found::Missing)
    }
}

/// The value of a field asked for. Anything but a text is skipped without being stored.
struct Content;

impl<'de> DeserializeSeed<'de> for Content {
    type Value = Found;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Content {
    type Value = Found;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Found, E> {
        Ok(Found::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> std::result::Result<Found, E> {
        Ok(Found::Other("null"))
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Found, E> {
        Ok(Found::Other("a boolean"))
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Found, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Found, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::Other("an object"))
    }
}

/// The name of a field, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Name<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Cow<'de, str>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a field name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> std::result::Result<Self::Value, E> {
                Ok(Cow::Borrowed(name))
            }

            fn visit_str<E>(self, name: &str) -> std::result::Result<Self::Value, E> {
                Ok(Cow::Owned(name.to_owned()))
            }
        }
        deserializer.deserialize_str(NameVisitor).map(Name)
    }
}
