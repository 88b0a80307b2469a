//! Looking at the beginning of files: what they hold, and whether that can be text at all.

use super::chat::{Chat, Rendered};
use super::documents::Fields;
use super::fields::{self, Shape, shape};
use super::find::first_record;
use super::format::{Format, MAX_RECORD_BYTES};
use super::records::Records;
use super::source::Source;
use crate::error::{Error, Result};

/// Bytes of every file that are read when a corpus is opened.
const PREFIX_BYTES: usize = 64 * 1024;

/// What objects of JSON and rows of tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataFormat {
    /// Examples or conversations if that is what the first object of one of the files is and it has no text, else texts.
    #[default]
    Auto,
    /// A text in one field.
    Text,
    /// A prompt and a completion, of which only the completion is to be learnt.
    Completion,
    /// A conversation.
    Chat(Chat),
    /// A conversation that a template wrote out.
    Rendered,
}

impl DataFormat {
    /// The format of this name.
    ///
    /// # Errors
    /// `Usage` if there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "completion" => Ok(Self::Completion),
            "rendered" => Ok(Self::Rendered),
            _ => Chat::ALL.into_iter().find(|form| form.name() == name).map(Self::Chat).ok_or_else(|| {
                let forms = Chat::ALL.map(Chat::name).join(", ");
                Error::usage(format!("data format {name:?} found, expected auto, text, completion, {forms}"))
            }),
        }
    }
}

/// Says how a source without a telling name is divided: it holds JSON if it begins with an object that would be read, or
/// refused, from a file of JSON.
pub(crate) fn by_content(source: &mut Source, text_field: &str, format: DataFormat) {
    let begins = |source: &Source| first_record(source, |record| shape(record, text_field) != Shape::Other);
    let named = !matches!(format, DataFormat::Auto | DataFormat::Text);
    if source.format == Format::Text && (named || begins(source) == Some(true)) {
        source.format = Format::Json;
    }
}

/// Where the text of the objects is, by what the files begin with.
pub(crate) fn choose(sources: &[Source], text_field: &str, format: DataFormat) -> Result<Fields> {
    let begins = |source: &Source| {
        let records = source.format.has_records();
        match records.then(|| first_record(source, |record| shape(record, text_field)))?? {
            Shape::Example => Some(Fields::Example),
            Shape::Chat(form) => Some(Fields::Chat(form)),
            _ => None,
        }
    };
    let fields = match format {
        DataFormat::Auto => sources.iter().find_map(begins),
        DataFormat::Text => None,
        DataFormat::Completion => Some(Fields::Example),
        DataFormat::Chat(form) => Some(Fields::Chat(form)),
        DataFormat::Rendered => Some(Fields::Rendered),
    };
    let Some(fields) = fields else { return Ok(Fields::Text(text_field.to_owned())) };
    let what = if fields == Fields::Example { "a prompt and a completion" } else { "a conversation" };
    match sources.iter().find(|source| !source.format.has_records()) {
        None => Ok(fields),
        Some(source) => Err(source
            .error(format!("found a file of plain text, expected only objects or rows with {what} each"))
            .hint("train on one kind at a time; --data-format text says that every object holds a text")),
    }
}

/// The beginning of a file, which has to be text.
pub(crate) fn check_prefix(source: &Source) -> Result<Vec<u8>> {
    if source.format == Format::Table {
        return Ok(Vec::new());
    }
    let prefix = source.prefix(PREFIX_BYTES)?;
    if prefix.starts_with(&[0xff, 0xfe]) || prefix.starts_with(&[0xfe, 0xff]) {
        let error = source.error("found UTF-16 text, expected UTF-8");
        return Err(error.hint("convert it with iconv -f utf-16 -t utf-8"));
    }
    if source.packing.is_packed() {
        source.check_unpacked(&prefix)?;
    }
    if let Some(at) = memchr::memchr(0, &prefix) {
        return Err(source.binary(at as u64));
    }
    match std::str::from_utf8(&prefix) {
        Err(error) if error.error_len().is_some() || prefix.len() < PREFIX_BYTES => {
            Err(source.not_utf8(error.valid_up_to() as u64))
        }
        _ => Ok(prefix),
    }
}

/// Looks at the beginning of a file. Gives whether it begins like a file of JSON that would be read so, though it is taken
/// as a plain text.
pub(crate) fn inspect(source: &Source, fields: &Fields) -> Result<bool> {
    let prefix = check_prefix(source)?;
    if source.format == Format::Text {
        let field = match fields {
            Fields::Text(field) => field,
            Fields::Example | Fields::Rendered => fields::EXAMPLE[0],
            Fields::Chat(form) => form.fields()[0],
        };
        let mut records = Records::new(&prefix[..], MAX_RECORD_BYTES);
        let first = records.next(source);
        return Ok(first.is_ok_and(|place| place.is_some()) && shape(records.record(), field) != Shape::Other);
    }
    let mut records = Records::of(source, MAX_RECORD_BYTES)?;
    if let Some(place) = records.next(source)? {
        match fields {
            Fields::Text(field) => fields::document(records.record(), field, source, place).map(drop)?,
            Fields::Example => fields::example(records.record(), source, place).map(drop)?,
            Fields::Chat(form) => fields::conversation(records.record(), *form, source, place).map(drop)?,
            Fields::Rendered => Rendered::read(records.record(), source).map(drop)?,
        }
    }
    Ok(false)
}

/// The error of a corpus without a byte.
pub(crate) fn no_bytes(sources: &[Source]) -> Error {
    let what = if sources.len() == 1 { sources[0].name.clone() } else { format!("{} files", sources.len()) };
    let error = Error::data(format!("the corpus is empty: found 0 bytes in {what}, expected text"));
    error.hint("check that the file was written, or name another")
}
