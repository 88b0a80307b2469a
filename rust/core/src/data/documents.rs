//! The documents of a corpus as a stream of pieces of bounded size.
//!
//! Pieces are cut where the pre-tokenizer cuts anyway, so their ids one after the other are those of the document.

use std::io::{BufRead, Read};

use super::jsonl;
use super::pretoken::{PIECE_BYTES, PIECE_CAP_BYTES, piece_len};
use super::source::{Format, Raw, Source};
use crate::error::Result;

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

/// Sizes of pieces; the defaults everywhere but in tests and in sampling.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PieceSize {
    pub(crate) target: usize,
    pub(crate) cap: usize,
}

impl Default for PieceSize {
    fn default() -> Self {
        Self { target: PIECE_BYTES, cap: PIECE_CAP_BYTES }
    }
}

/// Reads all documents of all files in order. Documents without text are left out.
#[derive(Debug)]
pub(crate) struct Documents<'a> {
    sources: &'a [Source],
    field: &'a str,
    size: PieceSize,
    next: usize,
    open: Option<Open>,
    done_bytes: u64,
    digests: Vec<[u8; 32]>,
}

#[derive(Debug)]
struct Open {
    raw: Raw,
    /// Text read and not yet given out, all of one document.
    text: String,
    /// Where in `text` the next piece begins.
    position: usize,
    /// Whether the next piece is the first of its document.
    first: bool,
    /// Whether `text` reaches to the end of its document.
    complete: bool,
    /// Bytes read that are not yet a whole character.
    tail: Vec<u8>,
    /// Bytes of text decoded so far; for JSON lines the number of lines instead.
    offset: u64,
    /// Whether the file has nothing left.
    at_end: bool,
}

impl<'a> Documents<'a> {
    pub(crate) fn new(sources: &'a [Source], field: &'a str, size: PieceSize) -> Self {
        Self { sources, field, size, next: 0, open: None, done_bytes: 0, digests: Vec::new() }
    }

    /// Bytes on disk read so far.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.done_bytes + self.open.as_ref().map_or(0, |open| open.raw.counted().bytes())
    }

    /// Hashes of the files read to their end.
    pub(crate) fn digests(&self) -> &[[u8; 32]] {
        &self.digests
    }

    /// The next piece, `None` after the last.
    pub(crate) fn next_piece(&mut self) -> Result<Option<Piece>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(source) = self.sources.get(self.next) else {
                    return Ok(None);
                };
                self.open = Some(Open::new(source.open()?));
                continue;
            };
            let source = &self.sources[self.next];
            if let Some(piece) = open.next_piece(source, self.field, self.size)? {
                return Ok(Some(piece));
            }
            if let Some(open) = self.open.take() {
                let read = open.raw.counted().bytes();
                self.digests.push(open.raw.into_digest().map_err(|e| source.read_error(&e))?);
                self.done_bytes += read;
                self.next += 1;
            }
        }
    }
}

impl Open {
    fn new(raw: Raw) -> Self {
        Self {
            raw,
            text: String::new(),
            position: 0,
            first: true,
            complete: false,
            tail: Vec::new(),
            offset: 0,
            at_end: false,
        }
    }

    fn next_piece(&mut self, source: &Source, field: &str, size: PieceSize) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.cut(size) {
                return Ok(Some(piece));
            }
            if self.at_end {
                return Ok(None);
            }
            match source.format {
                Format::Text => self.read_text(source)?,
                Format::JsonLines => self.read_line(source, field)?,
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

    /// Reads the next stretch of a file that is one document.
    fn read_text(&mut self, source: &Source) -> Result<()> {
        self.text.drain(..self.position);
        self.position = 0;
        let known = self.tail.len();
        let mut limited = self.raw.by_ref().take(READ_BYTES as u64);
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
        self.offset += valid as u64;
        self.tail.drain(..valid);
        Ok(())
    }

    /// Reads the next document of a file of JSON lines.
    fn read_line(&mut self, source: &Source, field: &str) -> Result<()> {
        self.text.clear();
        self.position = 0;
        self.tail.clear();
        let mut limited = self.raw.by_ref().take(jsonl::MAX_LINE_BYTES as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.tail).map_err(|e| source.read_error(&e))?;
        if read == 0 {
            self.at_end = true;
            return Ok(());
        }
        self.offset += 1;
        if let Some(text) = jsonl::document(&self.tail, field, source, self.offset)? {
            self.text = text;
            self.first = true;
            self.complete = true;
        }
        // One huge line must not hold its memory for the rest of the file.
        self.tail.clear();
        self.tail.shrink_to(READ_BYTES);
        Ok(())
    }
}
