//! One object of JSON: the texts of its fields.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::chat::Chat;
use super::lenient::replaced;
use super::records::{Place, kind_of};
use super::scanner::select;
use super::source::Source;
use crate::error::{Error, Result};

/// So many names of fields are listed when the wanted one is missing.
const NAMES_SHOWN: usize = 6;
/// And at most this many are read to tell what an object is.
const NAMES_KNOWN: usize = 16;

/// The fields of an example.
pub(crate) const EXAMPLE: [&str; 2] = ["prompt", "completion"];

/// Fields of conversations and instructions in forms that are not read: all names of a line are there.
const UNREAD: [&[&str]; 4] = [&["conversation"], &["dialogue"], &["chosen", "rejected"], &["instruction", "response"]];
const CHAT_HINT: &str = "conversations are read from \"messages\" (role, content), \"conversations\" (from, value), \
                         \"instruction\" and \"output\", or lists of messages as \"prompt\" and \"completion\"";
const MIXED_HINT: &str = "all objects of a corpus have the form of the first one; --data-format names it";

/// What an object has under a name asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Text(String),
    Other(&'static str),
    Missing,
}

/// The text of an object, and how many of its characters are half of a surrogate pair, read as U+FFFD.
pub(crate) struct Texts<const N: usize> {
    pub(crate) texts: [String; N],
    pub(crate) halves: u64,
}

/// The document of a record.
pub(crate) fn document(record: &[u8], field: &str, source: &Source, place: Place) -> Result<Texts<1>> {
    let hint = "name the field that holds the text with --text-field; an example has \"prompt\" and \"completion\"";
    texts(record, [field], hint, source, place)
}

/// Prompt and completion of a record.
pub(crate) fn example(record: &[u8], source: &Source, place: Place) -> Result<Texts<2>> {
    let hint = "each needs both; objects with plain texts are another --data-format";
    let found = texts(record, EXAMPLE, hint, source, place)?;
    if found.texts[1].is_empty() {
        let error = source.error(format!("{place}: found an empty completion, expected text"));
        return Err(error.hint("leave the example out, or write what the model is to answer"));
    }
    Ok(found)
}

/// What an object is, by the names of its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// It has the field of a text.
    Text,
    /// It has a prompt and a completion, of whatever kind.
    Example,
    /// A conversation or an instruction.
    Chat(Chat),
    /// One in a form that is not read.
    Unread,
    Other,
}

/// What a record is. Any that cannot be read has no fields.
pub(crate) fn shape(record: &[u8], field: &str) -> Shape {
    let names = names(record);
    let has = |wanted: &str| names.iter().any(|(name, _)| name == wanted);
    if has(field) {
        Shape::Text
    } else if let Some(form) = Chat::of(&names) {
        Shape::Chat(form)
    } else if EXAMPLE.iter().all(|name| has(name)) {
        Shape::Example
    } else if UNREAD.iter().any(|chat| chat.iter().all(|name| has(name))) {
        Shape::Unread
    } else {
        Shape::Other
    }
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

/// The characters of a record.
pub(crate) fn characters<'r>(record: &'r [u8], source: &Source, place: Place) -> Result<&'r str> {
    if let Some(at) = memchr::memchr(0, record) {
        return Err(source.error(format!("found a NUL byte at byte {at} of {place}, expected JSON")));
    }
    std::str::from_utf8(record).map_err(|error| {
        let at = error.valid_up_to();
        source.error(format!("found bytes that are not UTF-8 at byte {at} of {place}, expected UTF-8 text"))
    })
}

/// The texts of these fields of a record.
fn texts<const N: usize>(
    record: &[u8],
    fields: [&str; N],
    hint: &str,
    source: &Source,
    place: Place,
) -> Result<Texts<N>> {
    let names = quoted(&fields);
    let expected = format!("expected an object with {} {names}", if N == 1 { "a text field" } else { "text fields" });
    let (found, halves) = values(record, &fields, &expected, source, place)?;
    let mut out = [const { String::new() }; N];
    for ((found, field), out) in found.into_iter().zip(fields).zip(&mut out) {
        match found {
            Found::Text(text) => *out = text,
            Found::Other(kind) => {
                let error = source.error(format!("{place}: found {kind} in field \"{field}\", {expected}"));
                return Err(if kind == "a list" && N == EXAMPLE.len() { error.hint(MIXED_HINT) } else { error });
            }
            Found::Missing => return Err(missing(record, &expected, hint, source, place)),
        }
    }
    Ok(Texts { texts: out, halves })
}

/// The JSON of a conversation, without halves of surrogate pairs, and how many of these there were.
pub(crate) fn conversation(record: &[u8], form: Chat, source: &Source, place: Place) -> Result<(String, u64)> {
    let expected = format!("expected an object with {}", quoted(form.fields()));
    let (found, _) = values(record, form.fields(), &expected, source, place)?;
    if found.contains(&Found::Missing) {
        return Err(missing(record, &expected, MIXED_HINT, source, place));
    }
    let text = characters(record, source, place)?.trim();
    Ok(replaced(text, false).unwrap_or_else(|| (text.to_owned(), 0)))
}

fn quoted(fields: &[&str]) -> String {
    fields.iter().map(|field| format!("\"{field}\"")).collect::<Vec<_>>().join(" and ")
}

/// What the object has under each of the names, and how many halves of surrogate pairs are in that.
fn values(record: &[u8], fields: &[&str], expected: &str, source: &Source, place: Place) -> Result<(Vec<Found>, u64)> {
    let text = characters(record, source, place)?.trim();
    let first = text.as_bytes().first().copied().unwrap_or_default();
    if first != b'{' {
        let valid = serde_json::from_str::<IgnoredAny>(text).is_ok();
        let found = if valid { kind_of(first) } else { "something that is not JSON" };
        return Err(source.error(format!("{place}: found {found}, {expected}")));
    }
    parse(text, fields).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.split(" at line").next().unwrap_or_default();
        let place = Place { line: place.line + error.line().max(1) as u64 - 1, ..place };
        let column = error.column();
        source.error(format!("{place}: found broken JSON ({reason}, column {column}), {expected}"))
    })
}

/// The error of an object without a field that it needs.
fn missing(record: &[u8], expected: &str, hint: &str, source: &Source, place: Place) -> Error {
    let names = names(record);
    let read = Chat::of(&names).map(|form| (form.fields(), MIXED_HINT));
    for (chat, hint) in read.into_iter().chain(UNREAD.map(|fields| (fields, CHAT_HINT))) {
        let found: Vec<_> = names.iter().filter(|(name, _)| chat.contains(&name.as_str())).collect();
        if found.len() == chat.len() {
            let what: Vec<_> = found.iter().map(|(name, kind)| format!("{name:?} ({kind})")).collect();
            let turns = if found.iter().any(|(_, kind)| *kind == "a list") { "chat turns" } else { "an instruction" };
            let what = format!("found {turns} in {}, {expected}", what.join(" and "));
            return source.error(format!("{place}: {what}")).hint(hint);
        }
    }
    let shown: Vec<_> = names.iter().take(NAMES_SHOWN).map(|(name, _)| format!("{name:?}")).collect();
    let found = if shown.is_empty() { "no fields".into() } else { format!("fields {}", shown.join(", ")) };
    source.error(format!("{place}: found {found}, {expected}")).hint(hint)
}

/// What there is under each of the names, and how many halves of surrogate pairs are in that.
fn parse(text: &str, fields: &[&str]) -> serde_json::Result<(Vec<Found>, u64)> {
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
        while let Some(Name(name)) = map.next_key()? {
            if let Some(index) = self.0.iter().position(|field| name == *field) {
                found[index] = map.next_value_seed(Content)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
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
