//! A file of JSON objects for those who take other fields out of it than a corpus does.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::chat::Chat;
use super::fields::{characters, conversation};
use super::format::{Format, MAX_RECORD_BYTES};
use super::inspect::check_prefix;
use super::lenient::replaced;
use super::raw::Raw;
use super::records::Records;
use super::scanner::select;
use super::source::Source;
use super::spool::{STANDARD_INPUT, pipe, standard_input};
use super::wanted::Wanted;
use super::wrapped::check_alone;
use crate::error::{Error, Result};
use crate::system::child::Command;
use crate::system::files::metadata;
use crate::system::interrupts::Interrupts;

/// A file of JSON objects, of whatever name: on lines, over lines, in arrays, compressed or not; or of rows. Standard input and pipes
/// are copied first, so that it can be read more than once.
#[derive(Debug)]
pub struct ObjectFile {
    source: Arc<Source>,
    fields: Vec<String>,
}

impl ObjectFile {
    /// Opens a file, for these fields of its objects; `-` is the standard input. `tables` is the command that reads Parquet
    /// and Arrow.
    ///
    /// # Errors
    /// `Data` when it cannot be read or holds something else than text, and what `interrupts` gives.
    pub fn open(path: &Path, fields: &[String], tables: Vec<OsString>, interrupts: Interrupts) -> Result<Self> {
        let wanted = Arc::new(Wanted { columns: fields.to_vec(), tables: Command::new(tables), interrupts });
        let mut source = if path.as_os_str() == STANDARD_INPUT {
            standard_input(&wanted)?
        } else {
            let metadata = metadata(path).map_err(|e| Error::cannot_read(path, &e))?;
            if metadata.is_dir() {
                let error = Error::data(format!("{}: found a folder, expected a file", path.display()));
                return Err(error.hint("name one file"));
            }
            if metadata.is_file() {
                Source::file(path.to_owned(), metadata.len(), &wanted)
            } else {
                pipe(path, &wanted)?
            }
        };
        if source.format == Format::Text {
            source.format = Format::Json;
        }
        source.identify()?;
        check_prefix(&source)?;
        Ok(Self { source: Arc::new(source), fields: fields.to_vec() })
    }

    /// Reads the objects from the first on: of each only the fields asked for, and none of more than `most` bytes.
    ///
    /// # Errors
    /// `Data` when the file cannot be read.
    pub fn objects(&self, most: usize) -> Result<Objects> {
        let records = Records::of(&self.source, most)?;
        Ok(Objects { source: Arc::clone(&self.source), records, fields: self.fields.clone(), halves: 0 })
    }
}

/// An object of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its number: that of its line, or of the element of an array.
    pub number: u64,
    /// Where it is, in words.
    pub place: String,
    /// Its text with the fields asked for; the whole line where that is not an object.
    pub json: String,
}

/// Reads a file object by object.
#[derive(Debug)]
pub struct Objects {
    source: Arc<Source>,
    records: Records<Raw>,
    fields: Vec<String>,
    halves: u64,
}

impl Objects {
    /// The next object, `None` after the last.
    ///
    /// # Errors
    /// `Data` with the file and the place.
    pub fn next_object(&mut self) -> Result<Option<Object>> {
        let Some(place) = self.records.next(&self.source)? else { return Ok(None) };
        let text = characters(self.records.record(), &self.source, place)?.trim();
        let fields: Vec<&str> = self.fields.iter().map(String::as_str).collect();
        check_alone(text, &fields, &self.source, place)?;
        let valid = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
        let valid =
            text.starts_with('{') && (valid(text) || replaced(text, true).is_some_and(|(text, _)| valid(&text)));
        let json = if valid { select(text, &fields) } else { text.to_owned() };
        let (json, halves) = replaced(&json, false).unwrap_or((json, 0));
        self.halves += halves;
        Ok(Some(Object { number: place.number(), place: place.to_string(), json }))
    }

    /// Bytes of the unpacked file that were read so far.
    pub fn bytes(&self) -> u64 {
        self.records.passed()
    }

    /// Characters so far that are half of a surrogate pair, given as U+FFFD.
    pub fn halves(&self) -> u64 {
        self.halves
    }
}

/// Reads the conversations of a corpus one by one, through all of its files.
#[derive(Debug)]
pub struct Conversations {
    sources: Arc<Vec<Source>>,
    form: Chat,
    next: usize,
    open: Option<Records<Raw>>,
    bytes: u64,
    halves: u64,
}

impl Conversations {
    pub(crate) fn new(sources: Arc<Vec<Source>>, form: Chat) -> Self {
        Self { sources, form, next: 0, open: None, bytes: 0, halves: 0 }
    }

    /// The next conversation as JSON, `None` after the last.
    ///
    /// # Errors
    /// `Data` with the file and the place.
    pub fn next_conversation(&mut self) -> Result<Option<Object>> {
        while let Some(source) = self.sources.get(self.next) {
            if self.open.is_none() {
                self.open = Some(Records::of(source, MAX_RECORD_BYTES)?);
            }
            if let Some(records) = &mut self.open
                && let Some(place) = records.next(source)?
            {
                let (json, halves) = conversation(records.record(), self.form, source, place)?;
                self.halves += halves;
                let number = place.number();
                return Ok(Some(Object { number, place: format!("{}: {place}", source.name), json }));
            }
            self.bytes += self.open.take().map_or(0, |records| records.raw().disk_bytes());
            self.next += 1;
        }
        Ok(None)
    }

    /// Bytes on disk read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.open.as_ref().map_or(0, |records| records.raw().disk_bytes())
    }

    /// Characters so far that are half of a surrogate pair, given as U+FFFD.
    pub fn halves(&self) -> u64 {
        self.halves
    }
}
