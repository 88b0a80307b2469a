//! Rows of CSV as objects of JSON, one on each line, with the columns asked for.
//!
//! As RFC 4180 has it: quotes around a field may hold delimiters, line ends and doubled quotes. Rows end with a line feed, a
//! carriage return or both; empty lines are passed over. One row at a time is held.

use std::io::{BufRead, Error, Read, Result};

use super::format::MAX_RECORD_BYTES;
use crate::error::{Error as DataError, brief};

/// Rows are made objects until there are so many bytes of them.
const OUT_BYTES: usize = 64 * 1024;
/// The buffer of a huge row is not kept for the rest of the file.
const KEPT_BYTES: usize = 1 << 20;
/// Names of other columns that are given once, for messages.
const NAMES_KNOWN: usize = 16;
const BOM: &[u8] = b"\xef\xbb\xbf";
/// Between the columns of a .csv file stands the first of these with which a column is one that is asked for.
const DELIMITERS: [u8; 3] = *b",;\t";

/// What is asked of a file.
pub(super) struct Columns<'a> {
    /// Names.
    pub(super) wanted: &'a [String],
    /// Whether tabs stand between columns, whatever the first row looks like.
    pub(super) tabs: bool,
}

/// Reads a file as objects of JSON.
#[derive(Debug)]
pub(crate) struct Csv<R> {
    fields: Fields<R>,
    /// Columns that are given out, each with its name as JSON.
    kept: Vec<(usize, String)>,
    columns: usize,
    /// Names of other columns as JSON, for the first object.
    others: Vec<String>,
    rows: u64,
    field: Vec<u8>,
    out: Vec<u8>,
    at: usize,
}

impl<R: BufRead> Csv<R> {
    /// Reads the row of names.
    pub(super) fn new(mut bytes: R, columns: &Columns<'_>) -> Result<Self> {
        let mut delimiter = if columns.tabs { b'\t' } else { DELIMITERS[0] };
        if !columns.tabs {
            let head = bytes.fill_buf()?;
            let fits =
                |delimiter: &u8| Self::header(head, *delimiter, columns.wanted).is_ok_and(|csv| !csv.kept.is_empty());
            delimiter = DELIMITERS.into_iter().find(fits).unwrap_or(delimiter);
        }
        Self::header(bytes, delimiter, columns.wanted)
    }

    fn header<B: BufRead>(bytes: B, delimiter: u8, wanted: &[String]) -> Result<Csv<B>> {
        let mut fields = Fields { bytes, delimiter, line: 1, row_bytes: 0 };
        fields.skip_mark()?;
        let (mut kept, mut others, mut columns, mut field) = (Vec::new(), Vec::new(), 0, Vec::new());
        let mut more = fields.skip_empty_lines()?;
        while more {
            field.clear();
            more = fields.next(Some(&mut field))?;
            let name = text(&field, 1)?;
            // A name that a message shows need not be whole.
            let known = wanted.iter().any(|wanted| wanted == name);
            if known {
                kept.push((columns, format!("{}: ", json(name))));
            } else if others.len() < NAMES_KNOWN {
                others.push(format!("{}: null", json(&brief(&name))));
            }
            columns += 1;
        }
        Ok(Csv { fields, kept, columns, others, rows: 0, field, out: Vec::new(), at: 0 })
    }
}

impl<R: BufRead> Csv<R> {
    pub(super) fn source(&self) -> &R {
        &self.fields.bytes
    }

    pub(super) fn into_source(self) -> R {
        self.fields.bytes
    }

    /// Makes the next rows objects; none at the end of the file.
    fn fill(&mut self) -> Result<()> {
        self.out.clear();
        self.out.shrink_to(KEPT_BYTES);
        self.field.clear();
        self.field.shrink_to(KEPT_BYTES);
        self.at = 0;
        while self.out.len() < OUT_BYTES && self.fields.skip_empty_lines()? {
            self.row()?;
        }
        Ok(())
    }

    fn row(&mut self) -> Result<()> {
        self.rows += 1;
        let line = self.fields.line;
        self.out.push(b'{');
        let mut first = true;
        if self.rows == 1 {
            self.out.extend_from_slice(self.others.join(", ").as_bytes());
            first = self.others.is_empty();
        }
        let (mut column, mut kept, mut more) = (0, self.kept.iter().peekable(), true);
        while more {
            let Some((_, name)) = kept.next_if(|(index, _)| *index == column) else {
                more = self.fields.next(None)?;
                column += 1;
                continue;
            };
            self.field.clear();
            more = self.fields.next(Some(&mut self.field))?;
            column += 1;
            if !std::mem::take(&mut first) {
                self.out.extend_from_slice(b", ");
            }
            self.out.extend_from_slice(name.as_bytes());
            serde_json::to_writer(&mut self.out, text(&self.field, line)?)?;
        }
        self.out.extend_from_slice(b"}\n");
        if column == self.columns {
            return Ok(());
        }
        let (rows, columns) = (self.rows, self.columns);
        let what =
            format!("row {rows} (line {line}): found {column} column(s), expected {columns} as in the first row");
        Err(wrong(what, "put quotes around fields with a delimiter or a line end in them"))
    }
}

/// Divides bytes into fields.
#[derive(Debug)]
struct Fields<R> {
    bytes: R,
    delimiter: u8,
    /// Of the next byte, from 1.
    line: u64,
    /// Bytes of the row at hand.
    row_bytes: usize,
}

impl<R: BufRead> Fields<R> {
    fn peek(&mut self) -> Result<Option<u8>> {
        Ok(chunk(&mut self.bytes)?.first().copied())
    }

    fn take(&mut self, size: usize, lines: usize) -> Result<()> {
        self.bytes.consume(size);
        self.line += lines as u64;
        self.row_bytes += size;
        if self.row_bytes <= MAX_RECORD_BYTES {
            return Ok(());
        }
        let what = format!("the row before line {} is longer than {} MiB", self.line, MAX_RECORD_BYTES >> 20);
        Err(wrong(what, "a quote that is never closed makes one field of all behind it; else divide the row"))
    }

    /// Whether a row follows.
    fn skip_empty_lines(&mut self) -> Result<bool> {
        while let Some(byte @ (b'\r' | b'\n')) = self.peek()? {
            self.row_bytes = 0;
            self.take(1, usize::from(byte == b'\n'))?;
        }
        self.row_bytes = 0;
        Ok(self.peek()?.is_some())
    }

    /// Reads a field, into `out` if it is wanted. Gives whether the row has another.
    fn next(&mut self, mut out: Option<&mut Vec<u8>>) -> Result<bool> {
        if self.peek()? == Some(b'"') {
            self.take(1, 0)?;
            return self.quoted(out);
        }
        loop {
            let chunk = chunk(&mut self.bytes)?;
            if chunk.is_empty() {
                return Ok(false);
            }
            let end = memchr::memchr3(self.delimiter, b'\r', b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            check(part, self.line)?;
            if let Some(out) = &mut out {
                out.extend_from_slice(part);
            }
            let size = part.len();
            let ended = end.map(|end| chunk[end] == self.delimiter);
            self.take(size, 0)?;
            match ended {
                Some(true) => return self.take(1, 0).map(|()| true),
                // What ends the row is passed over before the next.
                Some(false) => return Ok(false),
                None => {}
            }
        }
    }

    /// A field in quotes, behind the first.
    fn quoted(&mut self, mut out: Option<&mut Vec<u8>>) -> Result<bool> {
        let begin = self.line;
        loop {
            let chunk = chunk(&mut self.bytes)?;
            if chunk.is_empty() {
                let what = format!("found the end of the file in a field whose quote opens in line {begin}");
                return Err(wrong(what, "the file is cut off: write or fetch it again"));
            }
            let end = memchr::memchr(b'"', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            check(part, self.line)?;
            if let Some(out) = &mut out {
                out.extend_from_slice(part);
            }
            let (size, lines) = (part.len() + usize::from(end.is_some()), memchr::memchr_iter(b'\n', part).count());
            self.take(size, lines)?;
            if end.is_none() {
                continue;
            }
            match self.peek()? {
                Some(b'"') => {
                    self.take(1, 0)?;
                    if let Some(out) = &mut out {
                        out.push(b'"');
                    }
                }
                Some(byte) if byte == self.delimiter => return self.take(1, 0).map(|()| true),
                None | Some(b'\r' | b'\n') => return Ok(false),
                Some(_) => {
                    let what = format!("line {}: found text behind the quote that closes a field", self.line);
                    return Err(wrong(what, "a quote within a field in quotes is written twice"));
                }
            }
        }
    }

    /// Drops the mark at the beginning of a file.
    fn skip_mark(&mut self) -> Result<()> {
        if chunk(&mut self.bytes)?.starts_with(BOM) {
            self.bytes.consume(BOM.len());
        }
        Ok(())
    }
}

/// The bytes that come next, none at the end.
fn chunk(bytes: &mut impl BufRead) -> Result<&[u8]> {
    while let Err(error) = bytes.fill_buf() {
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    bytes.fill_buf()
}

fn wrong(what: String, hint: &str) -> Error {
    Error::other(DataError::data(what).hint(hint))
}

/// An error if there is a NUL byte, of which no text has one.
fn check(part: &[u8], line: u64) -> Result<()> {
    let Some(at) = memchr::memchr(0, part) else { return Ok(()) };
    let line = line + memchr::memchr_iter(b'\n', &part[..at]).count() as u64;
    Err(wrong(format!("line {line}: found a NUL byte, expected text"), "this looks like a binary file; leave it out"))
}

fn text(field: &[u8], line: u64) -> Result<&str> {
    std::str::from_utf8(field).map_err(|error| {
        let line = line + memchr::memchr_iter(b'\n', &field[..error.valid_up_to()]).count() as u64;
        let what = format!("found bytes that are not UTF-8 in the row of line {line}, expected UTF-8 text");
        wrong(what, "convert it, for example with iconv -f latin1 -t utf-8")
    })
}

fn json(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

impl<R: BufRead> Read for Csv<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Csv<R> {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        if self.at == self.out.len() {
            self.fill()?;
        }
        Ok(&self.out[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}
