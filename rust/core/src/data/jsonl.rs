//! One line of JSON: the text of one field.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::source::Source;
use crate::error::Result;

/// A longer line is refused: it has to be held in memory at once.
pub(crate) const MAX_LINE_BYTES: usize = 64 << 20;
/// So many names of fields are listed when the wanted one is missing.
const NAMES_SHOWN: usize = 6;

/// What a line has under the name asked for.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Text(String),
    Other(&'static str),
    Missing(Vec<String>),
}

/// The document of line number `number`; `None` for a blank line.
pub(crate) fn document(line: &[u8], field: &str, source: &Source, number: u64) -> Result<Option<String>> {
    if line.len() > MAX_LINE_BYTES {
        return Err(source
            .error(format!("line {number} is longer than {} MiB", MAX_LINE_BYTES >> 20))
            .hint("put one document on each line, or divide this one"));
    }
    if let Some(at) = memchr::memchr(0, line) {
        return Err(source.error(format!("found a NUL byte at byte {at} of line {number}, expected JSON")));
    }
    let text = std::str::from_utf8(line).map_err(|error| {
        let at = error.valid_up_to();
        source.error(format!("found bytes that are not UTF-8 at byte {at} of line {number}, expected UTF-8 text"))
    })?;
    let text = if number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
    let text = text.trim();
    let expected = format!("expected an object with a text field \"{field}\"");
    let found = match text.as_bytes().first() {
        None => return Ok(None),
        Some(b'{') => parse(text, field),
        Some(_) => {
            let found =
                serde_json::from_str::<IgnoredAny>(text).map_or("something that is not JSON", |_| kind_of_start(text));
            return Err(source.error(format!("line {number}: found {found}, {expected}")));
        }
    };
    match found {
        Ok(Found::Text(text)) => Ok(Some(text)),
        Ok(Found::Other(kind)) => {
            Err(source.error(format!("line {number}: found {kind} in field \"{field}\", {expected}")))
        }
        Ok(Found::Missing(names)) => {
            let found = if names.is_empty() { "no fields".into() } else { format!("fields {}", names.join(", ")) };
            Err(source
                .error(format!("line {number}: found {found}, {expected}"))
                .hint("name the field that holds the text with --text-field"))
        }
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.split(" at line").next().unwrap_or_default();
            let column = error.column();
            Err(source.error(format!("line {number}: found broken JSON ({reason}, column {column}), {expected}")))
        }
    }
}

fn parse(text: &str, field: &str) -> serde_json::Result<Found> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = Field(field).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(found)
}

fn kind_of_start(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'[') => "a list",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Takes one field out of an object and skips the others without storing them.
struct Field<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Found;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Found;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Found, A::Error> {
        let mut found = None;
        let mut names = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            if name == self.0 {
                found = Some(map.next_value_seed(Content)?);
            } else {
                map.next_value::<IgnoredAny>()?;
                if names.len() < NAMES_SHOWN {
                    names.push(format!("{:?}", name.chars().take(40).collect::<String>()));
                }
            }
        }
        Ok(found.unwrap_or(Found::Missing(names)))
    }
}

/// The value of the field asked for. Anything but a text is skipped without being stored.
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
