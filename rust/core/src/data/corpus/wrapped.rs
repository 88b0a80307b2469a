//! Objects that are where they are not looked for: in a list inside of another object, or with commas between them but no
//! brackets around.

use serde::de::IgnoredAny;

use super::lenient::replaced;
use super::records::Place;
use super::scanner::{Extent, Member, Scanner, members};
use super::source::Source;
use crate::error::{Error, Result};

/// A longer name of a field is not repeated.
const MOST_NAME: usize = 40;
/// What a name may hold besides letters and digits, so that a shell and `jq` take it as it is.
const PLAIN: &str = "_-.:/ ";

/// The error of an object whose field holds a list of objects, as SQuAD and many interfaces write them; `None` if no
/// field does. `hint` says what else to try if the object also has a field of text.
pub(crate) fn wrapped(record: &[u8], expected: &str, hint: &str, source: &Source, place: Place) -> Option<Error> {
    // A table is not read by lines.
    let text = std::str::from_utf8(record).ok().filter(|_| !place.row)?;
    let is_list = |member: &Member<'_>| member.value.strip_prefix('[').is_some_and(|v| v.trim_start().starts_with('{'));
    let name = members(text).find(is_list)?.name;
    let cut: String = name.chars().take(MOST_NAME).collect();
    let error = source.error(format!("{place}: found an object with a list of objects in {cut:?}, {expected}"));
    let how = "write the elements of that list as objects";
    let how = match path(&name, place).map(|path| source.piped(&format!("jq -c '{path}'"))) {
        Some(command) => format!("{how}: {command} > NEW.jsonl"),
        None => format!("{how}, one on each line"),
    };
    // What is looked for may be beside the list, under another name.
    let has_text = members(text).any(|member| member.value.starts_with('"'));
    Some(error.hint(if has_text { format!("if that is where it is, {how}; else {hint}") } else { how }))
}

/// What `jq` calls the elements of a list; `None` for a name that a shell or `jq` would take for something else.
fn path(name: &str, place: Place) -> Option<String> {
    let plain = |c: char| c.is_alphanumeric() || PLAIN.contains(c);
    if name.is_empty() || name.chars().count() > MOST_NAME || !name.chars().all(plain) {
        return None;
    }
    let outer = if place.element.is_some() { ".[]" } else { "" };
    let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    Some(if word && !name.starts_with(|c: char| c.is_ascii_digit()) {
        format!("{outer}.{name}[]")
    } else {
        format!("{}[\"{name}\"][]", if outer.is_empty() { "." } else { outer })
    })
}

/// The error of an object with a comma behind it outside of brackets; `None` if that is not what is wrong.
pub(crate) fn comma_behind(text: &str, source: &Source, place: Place) -> Option<Error> {
    let (size, extent) = Scanner::default().feed(text.as_bytes());
    let object = text.get(..size).filter(|_| extent == Some(Extent::Whole))?;
    let rest = text[size..].trim_start().strip_prefix(',')?.trim_start();
    if !rest.is_empty() && !rest.starts_with('{') {
        return None;
    }
    let valid = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
    if !valid(object) && !replaced(object, true).is_some_and(|(text, _)| valid(&text)) {
        return None;
    }
    let error = source.error(format!(
        "{place}: found a comma behind the object, expected objects alone, or an array of them in brackets"
    ));
    // Where each object is a line, a file need not have all of the commas.
    Some(error.hint(if rest.is_empty() && !object.contains('\n') {
        format!("take the commas away: {} > NEW.jsonl", source.piped("sed 's/}[[:space:]]*,[[:space:]]*$/}/'"))
    } else {
        let dense = source.piped("sed '/^[[:space:]]*$/d'");
        format!("put brackets around all objects: {dense} | sed '1s/{{/[{{/; $s/,*[[:space:]]*$/]/' > NEW.json")
    }))
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
    let names = fields.join(", ");
    let hint = format!("give each object {names}");
    wrapped(text.as_bytes(), &format!("expected objects with {names}"), &hint, source, place).map_or(Ok(()), Err)
}
