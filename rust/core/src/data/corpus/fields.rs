//! One object of JSON: the texts of its fields.

use serde::de::IgnoredAny;

use super::chat::Chat;
use super::lenient::replaced;
use super::records::{Place, kind_of};
use super::source::Source;
use super::values::{Found, names, parse};
use super::wrapped::{comma_behind, wrapped};
use crate::error::{Error, Result};

/// So many names of fields are listed when the wanted one is missing.
const NAMES_SHOWN: usize = 6;

/// The fields of an example.
pub(crate) const EXAMPLE: [&str; 2] = ["prompt", "completion"];

/// Fields of conversations and instructions in forms that are not read: all names of a line are there.
const UNREAD: [&[&str]; 4] = [&["conversation"], &["dialogue"], &["chosen", "rejected"], &["instruction", "response"]];
/// Stand beside an instruction or turns.
const BESIDE: [&str; 4] = ["input", "system", "history", "tools"];
const CHAT_HINT: &str = "conversations are read from \"messages\" (role, content), \"conversations\" (from, value), \
                         \"instruction\" and \"output\", or lists of messages as \"prompt\" and \"completion\"";
const MIXED_HINT: &str = "all objects of a corpus have the form of the first one; --data-format names it";

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

/// The columns that are taken out of tables.
pub(crate) fn columns(field: &str) -> Vec<String> {
    let chats = Chat::ALL.into_iter().flat_map(|form| form.fields().iter().copied());
    let mut columns = vec![field.to_owned()];
    for name in EXAMPLE.into_iter().chain(chats).chain(UNREAD.into_iter().flatten().copied()).chain(BESIDE) {
        if !columns.iter().any(|known| known == name) {
            columns.push(name.to_owned());
        }
    }
    columns
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
    if has(field) || has_inside(record, field) {
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

/// Whether an object has a field of a name with dots inside of another.
fn has_inside(record: &[u8], field: &str) -> bool {
    let text = std::str::from_utf8(record).ok().filter(|_| field.contains('.'));
    text.and_then(|text| parse(text, &[field]).ok()).is_some_and(|(found, _)| found[0] != Found::Missing)
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
    if let Some(error) = comma_behind(text, source, place) {
        return Err(error);
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
    if let Some(error) = wrapped(record, expected, source, place) {
        return error;
    }
    let shown: Vec<_> = names.iter().take(NAMES_SHOWN).map(|(name, _)| format!("{name:?}")).collect();
    let found = if shown.is_empty() { "no fields".into() } else { format!("fields {}", shown.join(", ")) };
    source.error(format!("{place}: found {found}, {expected}")).hint(hint)
}
