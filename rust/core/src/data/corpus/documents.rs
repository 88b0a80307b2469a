//! The documents of a corpus as a stream of pieces of bounded size.
//!
//! Pieces are cut where the pre-tokenizer cuts anyway, so their ids one after the other are those of the document.

use std::io::Read;
use std::sync::{Mutex, PoisonError};

use super::chat::{Chat, Rendered, Turns};
use super::fields;
use super::format::MAX_RECORD_BYTES;
use super::raw::Raw;
use super::records::Records;
use super::source::Source;
use crate::data::pretoken::{PieceSize, piece_len};
use crate::error::{Error, Result};

const BOM: char = '\u{feff}';
const READ_BYTES: usize = 256 * 1024;

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// Whether a document begins with this piece.
    pub(crate) first: bool,
    /// Whether a document ends with this piece.
    pub(crate) last: bool,
}

/// Where the text of an object of JSON is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fields {
    /// In the field of this name.
    Text(String),
    /// In those of an example: the prompt, and behind it the completion.
    Example,
    /// In the turns of a conversation, which a template has to write out first.
    Chat(Chat),
    /// In a conversation that was written out.
    Rendered,
}

/// A text of which a part is learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Example {
    pub(crate) text: String,
    pub(crate) parts: Parts,
}

/// Which part of an example is learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parts {
    /// What stands behind the prompt, which has so many bytes.
    Prompt(usize),
    /// Some turns of a conversation.
    Turns(Turns),
}

/// Reads all documents of all files in order. Documents without text are left out.
#[derive(Debug)]
pub(crate) struct Documents<'a> {
    sources: &'a [Source],
    fields: &'a Fields,
    size: PieceSize,
    next: usize,
    open: Option<Open>,
    done_bytes: u64,
    digests: Vec<[u8; 32]>,
    told: Told,
    /// Takes it at the end.
    all_told: &'a Mutex<Told>,
}

/// What there is to tell about a text that was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Characters that are half of a surrogate pair.
    pub(crate) halves: u64,
    /// Documents without text, which are left out.
    pub(crate) empty: u64,
}

/// A file as it is read: as one text, or object by object.
#[derive(Debug)]
enum Input {
    Text(Raw),
    Records(Records<Raw>),
}

impl Input {
    fn disk_bytes(&self) -> u64 {
        match self {
            Self::Text(raw) => raw.disk_bytes(),
            Self::Records(records) => records.raw().disk_bytes(),
        }
    }

    fn into_raw(self) -> Raw {
        match self {
            Self::Text(raw) => raw,
            Self::Records(records) => records.into_raw(),
        }
    }
}

#[derive(Debug)]
struct Open {
    input: Input,
    /// Text read and not yet given out, all of one document.
    text: String,
    /// Where in `text` the next piece begins.
    position: usize,
    /// What is learnt where the text is an example.
    parts: Parts,
    /// Whether the next piece is the first of its document.
    first: bool,
    /// Whether `text` reaches to the end of its document.
    complete: bool,
    /// Bytes read that are not yet a whole character.
    tail: Vec<u8>,
    /// Bytes of text decoded so far.
    offset: u64,
    /// So far.
    told: Told,
    /// Whether the file has nothing left.
    at_end: bool,
}

impl<'a> Documents<'a> {
    /// `told` takes what there is to tell when all is read.
    pub(crate) fn new(sources: &'a [Source], fields: &'a Fields, size: PieceSize, told: &'a Mutex<Told>) -> Self {
        let digests = Vec::new();
        Self {
            sources,
            fields,
            size,
            next: 0,
            open: None,
            done_bytes: 0,
            digests,
            told: Told::default(),
            all_told: told,
        }
    }

    /// Bytes on disk read so far.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.done_bytes + self.open.as_ref().map_or(0, |open| open.input.disk_bytes())
    }

    /// Hashes of the files read to their end.
    pub(crate) fn digests(&self) -> &[[u8; 32]] {
        &self.digests
    }

    /// The next piece, `None` after the last.
    pub(crate) fn next_piece(&mut self) -> Result<Option<Piece>> {
        let size = self.size;
        self.next(|open| open.cut(size))
    }

    /// The next example of a corpus of these, `None` after the last.
    pub(crate) fn next_example(&mut self) -> Result<Option<Example>> {
        self.next(Open::take_example)
    }

    /// What `take` finds next in the text that is read, `None` after the last.
    fn next<R>(&mut self, take: impl Fn(&mut Open) -> Option<R>) -> Result<Option<R>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(source) = self.sources.get(self.next) else {
                    *self.all_told.lock().unwrap_or_else(PoisonError::into_inner) = self.told;
                    return Ok(None);
                };
                self.open = Some(Open::new(source)?);
                continue;
            };
            let source = &self.sources[self.next];
            if let Some(taken) = open.next(source, self.fields, &take)? {
                return Ok(Some(taken));
            }
            if let Some(open) = self.open.take() {
                let read = open.input.disk_bytes();
                self.told.halves += open.told.halves;
                self.told.empty += open.told.empty;
                self.digests.push(open.input.into_raw().into_digest().map_err(|e| source.read_error(&e))?);
                self.done_bytes += read;
                self.next += 1;
            }
        }
    }
}

impl Open {
    fn new(source: &Source) -> Result<Self> {
        let input = if source.format.has_records() {
            Input::Records(Records::of(source, MAX_RECORD_BYTES)?)
        } else {
            Input::Text(source.open()?)
        };
        Ok(Self {
            input,
            text: String::new(),
            position: 0,
            parts: Parts::Prompt(0),
            first: true,
            complete: false,
            tail: Vec::new(),
            offset: 0,
            told: Told::default(),
            at_end: false,
        })
    }

    fn next<R>(
        &mut self,
        source: &Source,
        fields: &Fields,
        take: &impl Fn(&mut Self) -> Option<R>,
    ) -> Result<Option<R>> {
        loop {
            if let Some(taken) = take(self) {
                return Ok(Some(taken));
            }
            if self.at_end {
                return Ok(None);
            }
            match &self.input {
                Input::Text(_) => self.read_text(source)?,
                Input::Records(_) => self.read_record(source, fields)?,
            }
        }
    }

    /// A piece of the text at hand, if it suffices.
    fn cut(&mut self, size: PieceSize) -> Option<Piece> {
        let ahead = &self.text[self.position..];
        if ahead.is_empty() {
            return None;
        }
        let len = piece_len(ahead, self.complete, size.target, size.cap)?;
        let last = self.complete && len == ahead.len();
        let piece = Piece { text: ahead[..len].to_owned(), first: self.first, last };
        self.position += len;
        self.first = false;
        if last {
            self.text.clear();
            self.position = 0;
        }
        Some(piece)
    }

    /// The example at hand.
    fn take_example(&mut self) -> Option<Example> {
        if self.text.is_empty() {
            return None;
        }
        let parts = std::mem::replace(&mut self.parts, Parts::Prompt(0));
        Some(Example { text: std::mem::take(&mut self.text), parts })
    }

    /// Reads the next part of a file that is one document.
    fn read_text(&mut self, source: &Source) -> Result<()> {
        self.text.drain(..self.position);
        self.position = 0;
        let known = self.tail.len();
        let Input::Text(raw) = &mut self.input else { return Ok(()) };
        let mut limited = raw.by_ref().take(READ_BYTES as u64);
        let read = limited.read_to_end(&mut self.tail).map_err(|e| source.read_error(&e))?;
        if let Some(at) = memchr::memchr(0, &self.tail[known..]) {
            return Err(source.binary(self.offset + (known + at) as u64));
        }
        self.at_end = read == 0;
        self.complete = self.at_end;
        let valid = match std::str::from_utf8(&self.tail) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_some() || self.at_end => {
                return Err(source.not_utf8(self.offset + error.valid_up_to() as u64));
            }
            Err(error) => error.valid_up_to(),
        };
        // Valid up to here, as was just found, so nothing is ever replaced.
        let text = String::from_utf8_lossy(&self.tail[..valid]);
        let text = if self.offset == 0 { text.strip_prefix(BOM).unwrap_or(&text) } else { &text };
        self.text.push_str(text);
        self.told.empty += u64::from(self.at_end && self.offset == 0 && text.is_empty());
        self.offset += valid as u64;
        self.tail.drain(..valid);
        Ok(())
    }

    /// Reads the next document of a file of records.
    fn read_record(&mut self, source: &Source, fields: &Fields) -> Result<()> {
        self.text.clear();
        self.position = 0;
        let Input::Records(records) = &mut self.input else { return Ok(()) };
        let Some(place) = records.next(source)? else {
            self.at_end = true;
            return Ok(());
        };
        match fields {
            Fields::Text(field) => {
                let found = fields::document(records.record(), field, source, place)?;
                self.told.halves += found.halves;
                [self.text] = found.texts;
                self.told.empty += u64::from(self.text.is_empty());
            }
            Fields::Example => {
                let found = fields::example(records.record(), source, place)?;
                self.told.halves += found.halves;
                let [prompt, completion] = found.texts;
                self.parts = Parts::Prompt(prompt.len());
                self.text = prompt + &completion;
            }
            Fields::Rendered => {
                let found = Rendered::read(records.record(), source)?;
                self.parts = Parts::Turns(found.turns);
                self.text = found.text;
            }
            Fields::Chat(_) => {
                let error = Error::usage(format!("{}: {place}: found a conversation, expected text", source.name));
                return Err(error.hint("symlm train and finetune write conversations out; or name a field of text"));
            }
        }
        self.first = true;
        self.complete = true;
        Ok(())
    }
}
