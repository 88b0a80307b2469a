//! One line of JSON: the texts of its fields.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::source::Source;
use crate::error::Result;

/// A longer line is refused: it has to be held in memory at once.
pub(crate) const MAX_LINE_BYTES: usize = 64 << 20;
/// So many names of fields are listed when the wanted one is missing.
const NAMES_SHOWN: usize = 6;

/// The fields of an example.
pub(crate) const EXAMPLE: [&str; 2] = ["prompt", "completion"];

/// What a line has under a name asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Text(String),
    Other(&'static str),
    Missing,
}

/// The document of line number `number`; `None` for a blank line.
pub(crate) fn document(line: &[u8], field: &str, source: &Source, number: u64) -> Result<Option<String>> {
    let hint = "name the field that holds the text with --text-field; an example has \"prompt\" and \"completion\"";
    let texts = texts(line, [field], hint, source, number)?;
    Ok(texts.map(|[text]| text))
}

/// Prompt and completion of line number `number`; `None` for a blank line.
pub(crate) fn example(line: &[u8], source: &Source, number: u64) -> Result<Option<[String; 2]>> {
    let hint = "each line needs both; lines of plain text are another --data-format";
    let texts = texts(line, EXAMPLE, hint, source, number)?;
    if texts.as_ref().is_some_and(|[_, completion]| completion.is_empty()) {
        let error = source.error(format!("line {number}: found an empty completion, expected text"));
        return Err(error.hint("leave the line out, or write what the model is to answer"));
    }
    Ok(texts)
}

/// Whether a line holds an example rather than a text in the field `field`.
pub(crate) fn is_example(line: &[u8], field: &str) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    let found = parse(text, &[field, EXAMPLE[0], EXAMPLE[1]]);
    found.is_ok_and(|(found, _)| matches!(&found[..], [Found::Missing, Found::Text(_), Found::Text(_)]))
}

/// The texts of these fields in line number `number`; `None` for a blank line.
fn texts<const N: usize>(
    line: &[u8],
    fields: [&str; N],
    hint: &str,
    source: &Source,
    number: u64,
) -> Result<Option<[String; N]>> {
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
    let names = fields.map(|field| format!("\"{field}\"")).join(" and ");
    let expected = format!("expected an object with {} {names}", if N == 1 { "a text field" } else { "text fields" });
    let parsed = match text.as_bytes().first() {
        None => return Ok(None),
        Some(b'{') => parse(text, &fields),
        Some(_) => {
            let found =
                serde_json::from_str::<IgnoredAny>(text).map_or("something that is not JSON", |_| kind_of_start(text));
            return Err(source.error(format!("line {number}: found {found}, {expected}")));
        }
    };
    let (found, names) = parsed.map_err(|error| {
        let reason = error.to_string();
        let reason = reason.split(" at line").next().unwrap_or_default();
        let column = error.column();
        source.error(format!("line {number}: found broken JSON ({reason}, column {column}), {expected}"))
    })?;
    let mut out = [const { String::new() }; N];
    for ((found, field), out) in found.into_iter().zip(fields).zip(&mut out) {
        match found {
            Found::Text(text) => *out = text,
            Found::Other(kind) => {
                return Err(source.error(format!("line {number}: found {kind} in field \"{field}\", {expected}")));
            }
            Found::Missing => {
                let found = if names.is_empty() { "no fields".into() } else { format!("fields {}", names.join(", ")) };
                return Err(source.error(format!("line {number}: found {found}, {expected}")).hint(hint));
            }
        }
    }
    Ok(Some(out))
}

/// What there is under each of the names, and the names of the first fields.
fn parse(text: &str, fields: &[&str]) -> serde_json::Result<(Vec<Found>, Vec<String>)> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = Fields(fields).deserialize(&mut deserializer)?;
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

/// Takes some fields out of an object and skips the others without storing them.
struct Fields<'f>(&'f [&'f str]);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = (Vec<Found>, Vec<String>);

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = (Vec<Found>, Vec<String>);

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut found = vec![Found::Missing; self.0.len()];
        let mut names = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            if let Some(index) = self.0.iter().position(|field| name == *field) {
                found[index] = map.next_value_seed(Content)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            if names.len() < NAMES_SHOWN {
                names.push(format!("{:?}", name.chars().take(40).collect::<String>()));
            }
        }
        Ok((found, names))
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
