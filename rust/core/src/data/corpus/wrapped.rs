//! Objects that are where they are not looked for: in a list inside of another object, or with a comma behind each.

use serde::de::IgnoredAny;

use super::lenient::replaced;
use super::records::Place;
use super::scanner::members;
use super::source::Source;
use crate::error::{Error, Result};

/// A longer name of a field is not repeated.
const MOST_NAME: usize = 40;

/// The error of an object whose field holds a list of objects, as SQuAD and many interfaces write them; `None` if there
/// is no such field.
pub(crate) fn wrapped(record: &[u8], expected: &str, source: &Source, place: Place) -> Option<Error> {
    let text = std::str::from_utf8(record).ok()?;
    let list = |value: &str| value.strip_prefix('[').is_some_and(|inner| inner.trim_start().starts_with('{'));
    let name = members(text).find(|member| list(member.value))?.name;
    let name: String = name.chars().take(MOST_NAME).collect();
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let path = if plain && !name.starts_with(|c: char| c.is_ascii_digit()) {
        format!(".{name}")
    } else {
        format!(".[{name:?}]")
    };
    let error = source.error(format!("{place}: found an object with a list of objects in {name:?}, {expected}"));
    Some(
        error.hint(format!(
            "write the elements of that list as objects by themselves: jq -c '{path}[]' FILE > NEW.jsonl"
        )),
    )
}

/// The error of an object with a comma behind it outside of brackets; `None` if that is not what is wrong.
pub(crate) fn comma_behind(text: &str, source: &Source, place: Place) -> Option<Error> {
    let object = text.trim_end().strip_suffix(',')?.trim_end();
    let valid = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
    let whole =
        object.starts_with('{') && (valid(object) || replaced(object, true).is_some_and(|(text, _)| valid(&text)));
    let error = || {
        source.error(format!(
            "{place}: found a comma behind the object, expected objects alone, or an array of them in brackets"
        ))
    };
    whole.then(|| {
        error().hint(
            "take the commas away: sed 's/},[[:space:]]*$/}/' FILE > NEW, or write [ before and ] behind all objects",
        )
    })
}

/// An error if a record has none of the fields that are asked for but is not where the objects are, either.
///
/// # Errors
/// `Data` with the place.
pub(crate) fn check_alone(text: &str, fields: &[&str], source: &Source, place: Place) -> Result<()> {
    if let Some(error) = comma_behind(text, source, place) {
        return Err(error);
    }
    if !text.starts_with('{') || members(text).any(|member| fields.contains(&member.name.as_str())) {
        return Ok(());
    }
    let expected = format!("expected objects with {}", fields.join(", "));
    wrapped(text.as_bytes(), &expected, source, place).map_or(Ok(()), Err)
}
