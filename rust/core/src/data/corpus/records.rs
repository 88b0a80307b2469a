//! The objects of a file of JSON: one on each line, one over several lines, one behind the other, or in arrays.
//!
//! Of all of these only the extent is found here; one object at a time is held. What is not an object on a line by
//! itself is given out as that line, so that who wants the fields says what is wrong with it.

use std::fmt;
use std::io::{BufRead, ErrorKind, Read};

use super::raw::Raw;
use super::scanner::{Extent, Scanner};
use super::source::Source;
use crate::error::Result;

/// The buffer of one huge object is not kept for the rest of the file.
const KEPT_BYTES: usize = 256 * 1024;
const BOM: &[u8] = b"\xef\xbb\xbf";
/// What stands behind so many blanks after a bracket is not looked for any more: the bracket begins an array.
const MOST_BLANKS: usize = 4096;

/// Where an object is in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The line on which it begins, from 1.
    pub(crate) line: u64,
    /// Its number in the array, from 1; `None` outside of one.
    pub(crate) element: Option<u64>,
    /// Whether it is a row of a table, each of which is a line here.
    pub(crate) row: bool,
}

impl Place {
    /// What counts the objects of a file: elements, or lines.
    pub(crate) fn number(self) -> u64 {
        self.element.unwrap_or(self.line)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.element {
            Some(element) => write!(f, "element {element} (line {})", self.line),
            None => write!(f, "{} {}", if self.row { "row" } else { "line" }, self.line),
        }
    }
}

/// Reads the objects of a file one by one.
#[derive(Debug)]
pub(crate) struct Records<R> {
    raw: R,
    /// Bytes that were read and given back, of which `at` are read again.
    back: Vec<u8>,
    at: usize,
    /// The object at hand.
    record: Vec<u8>,
    /// Longest object, bytes.
    most: usize,
    begun: bool,
    /// Bytes passed so far, of the unpacked text.
    passed: u64,
    /// The line of the next byte.
    line: u64,
    /// Elements so far of the array that is read.
    elements: Option<u64>,
    /// Whether the objects are rows of a table.
    rows: bool,
}

impl Records<Raw> {
    /// Those of a file, none of more than `most` bytes.
    pub(crate) fn of(source: &Source, most: usize) -> Result<Self> {
        Ok(Self { rows: source.format.has_rows(), ..Self::new(source.open()?, most) })
    }
}

impl<R: BufRead> Records<R> {
    pub(crate) fn new(raw: R, most: usize) -> Self {
        Self {
            raw,
            back: Vec::new(),
            at: 0,
            record: Vec::new(),
            most,
            begun: false,
            passed: 0,
            line: 1,
            elements: None,
            rows: false,
        }
    }

    pub(crate) fn raw(&self) -> &R {
        &self.raw
    }

    pub(crate) fn into_raw(self) -> R {
        self.raw
    }

    /// Bytes passed so far, of the unpacked text.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// The bytes of the object that `next` has found.
    pub(crate) fn record(&self) -> &[u8] {
        &self.record
    }

    /// Finds the next object; `None` after the last.
    pub(crate) fn next(&mut self, source: &Source) -> Result<Option<Place>> {
        self.record.clear();
        self.record.shrink_to(KEPT_BYTES);
        if !std::mem::replace(&mut self.begun, true) {
            self.skip_mark().map_err(|e| source.read_error(&e))?;
        }
        loop {
            let place = if self.elements.is_some() { self.element(source)? } else { self.top(source)? };
            match place {
                Next::Record(place) => return Ok(Some(place)),
                Next::Other => {}
                Next::End => return Ok(None),
            }
        }
    }

    /// What comes next outside of arrays.
    fn top(&mut self, source: &Source) -> Result<Next> {
        let cannot_read = |error: std::io::Error| source.read_error(&error);
        self.skip_space().map_err(cannot_read)?;
        let place = Place { line: self.line, element: None, row: self.rows };
        match self.peek().map_err(cannot_read)? {
            None => return Ok(Next::End),
            Some(b'[') if self.opens_array().map_err(cannot_read)? => {
                self.elements = Some(0);
                return Ok(Next::Other);
            }
            Some(b'{') => self.object(place, source)?,
            Some(_) => self.rest_of_line(place, source)?,
        }
        // White space that is not that of JSON.
        let blank = std::str::from_utf8(&self.record).is_ok_and(|line| line.trim().is_empty());
        if blank {
            self.record.clear();
            return Ok(Next::Other);
        }
        Ok(Next::Record(place))
    }

    /// An object outside of arrays, with what stands behind it on its line, if that is not another.
    fn object(&mut self, place: Place, source: &Source) -> Result<()> {
        match self.value(place, source)? {
            Extent::Whole => {
                let cannot_read = |error: std::io::Error| source.read_error(&error);
                let mut blank = 0;
                while let Some(byte @ (b' ' | b'\t' | b'\r')) = self.peek().map_err(cannot_read)? {
                    self.consume(1);
                    self.record.push(byte);
                    blank += 1;
                    self.check_length(place, source)?;
                }
                match self.peek().map_err(cannot_read)? {
                    None | Some(b'\n' | b'{' | b'[') => self.record.truncate(self.record.len() - blank),
                    Some(_) => self.rest_of_line(place, source)?,
                }
            }
            // A line that ends too early shows where the next begins.
            Extent::Broken { outermost: true } => {
                let begin = self.record[..self.record.len() - 1].iter().rposition(|&byte| byte == b'\n');
                if let Some(end) = begin.filter(|&end| self.record[end..].trim_ascii() == b"{") {
                    self.record.truncate(end);
                }
            }
            Extent::Broken { .. } | Extent::Cut => {}
        }
        Ok(())
    }

    /// What comes next in an array.
    fn element(&mut self, source: &Source) -> Result<Next> {
        let cannot_read = |error: std::io::Error| source.read_error(&error);
        let count = self.elements.unwrap_or_default();
        self.skip_space().map_err(cannot_read)?;
        let mut next = self.peek().map_err(cannot_read)?;
        let after_comma = count > 0 && next == Some(b',');
        if after_comma {
            self.consume(1);
            self.skip_space().map_err(cannot_read)?;
            next = self.peek().map_err(cannot_read)?;
        }
        let (line, before) = (self.line, format!("after element {count} (line {})", self.line));
        let place = Place { line, element: Some(count + 1), row: false };
        match next {
            Some(b']') if after_comma => {
                let error = source.error(format!("found a comma and ] {before}, expected another object"));
                Err(error.hint("take the comma behind the last element away"))
            }
            Some(b']') => {
                self.consume(1);
                self.elements = None;
                Ok(Next::Other)
            }
            Some(_) if count > 0 && !after_comma => {
                Err(source.error(format!("found no comma {before}, expected , or ] between and behind elements")))
            }
            Some(b'{') => {
                self.value(place, source)?;
                self.elements = Some(count + 1);
                Ok(Next::Record(place))
            }
            Some(byte) => Err(source.error(format!("{place}: found {}, expected an object", kind_of(byte)))),
            None => {
                let error =
                    source.error(format!("found the end of the file {before}, expected ] at the end of the array"));
                Err(error.hint("the file is cut off: write or fetch it again"))
            }
        }
    }

    /// Reads an object to its end, or to where it cannot be one.
    fn value(&mut self, place: Place, source: &Source) -> Result<Extent> {
        let mut scanner = Scanner::default();
        loop {
            let chunk = chunk(&self.back[self.at..], &mut self.raw).map_err(|e| source.read_error(&e))?;
            if chunk.is_empty() {
                return Ok(Extent::Cut);
            }
            let (size, extent) = scanner.feed(chunk);
            self.record.extend_from_slice(&chunk[..size]);
            self.line += memchr::memchr_iter(b'\n', &chunk[..size]).count() as u64;
            self.consume(size);
            self.check_length(place, source)?;
            if let Some(extent) = extent {
                return Ok(extent);
            }
        }
    }

    /// Adds what is left of the line.
    fn rest_of_line(&mut self, place: Place, source: &Source) -> Result<()> {
        loop {
            let chunk = chunk(&self.back[self.at..], &mut self.raw).map_err(|e| source.read_error(&e))?;
            let end = memchr::memchr(b'\n', chunk);
            let size = end.map_or(chunk.len(), |end| end + 1);
            self.record.extend_from_slice(&chunk[..size]);
            self.consume(size);
            self.check_length(place, source)?;
            if size == 0 || end.is_some() {
                self.line += 1;
                return Ok(());
            }
        }
    }

    fn check_length(&self, place: Place, source: &Source) -> Result<()> {
        if self.record.len() <= self.most {
            return Ok(());
        }
        let error = source.error(format!("{place} is longer than {} MiB", self.most >> 20));
        Err(error.hint("put one document on each line, or divide this one"))
    }

    /// Whether the bracket that comes next begins an array of objects: what else stands in brackets on a line is given
    /// out as that line.
    fn opens_array(&mut self) -> std::io::Result<bool> {
        let mut seen = vec![b'['];
        self.consume(1);
        let mut next = self.peek()?;
        while let Some(byte @ (b' ' | b'\t' | b'\r')) = next
            && seen.len() < MOST_BLANKS
        {
            seen.push(byte);
            self.consume(1);
            next = self.peek()?;
        }
        let opens = matches!(next, None | Some(b'{' | b']' | b' ' | b'\t' | b'\r' | b'\n'));
        if !opens {
            seen.extend_from_slice(&self.back[self.at..]);
            self.passed -= seen.len() as u64 - (self.back.len() - self.at) as u64;
            (self.back, self.at) = (seen, 0);
        }
        Ok(opens)
    }

    /// Drops the mark at the beginning of a file.
    fn skip_mark(&mut self) -> std::io::Result<()> {
        self.raw.by_ref().take(BOM.len() as u64).read_to_end(&mut self.back)?;
        if self.back == BOM {
            self.back.clear();
        }
        Ok(())
    }

    fn skip_space(&mut self) -> std::io::Result<()> {
        while let Some(byte) = self.peek()?.filter(|byte| byte.is_ascii_whitespace() || *byte == 0x0b) {
            self.line += u64::from(byte == b'\n');
            self.consume(1);
        }
        Ok(())
    }

    fn peek(&mut self) -> std::io::Result<Option<u8>> {
        Ok(chunk(&self.back[self.at..], &mut self.raw)?.first().copied())
    }

    fn consume(&mut self, size: usize) {
        self.passed += size as u64;
        if self.at < self.back.len() {
            self.at += size;
        } else {
            self.raw.consume(size);
        }
        if self.at == self.back.len() {
            self.back.clear();
            self.at = 0;
        }
    }
}

/// The bytes that come next: those given back, else what the reader has; none at the end.
fn chunk<'a>(back: &'a [u8], raw: &'a mut impl BufRead) -> std::io::Result<&'a [u8]> {
    if !back.is_empty() {
        return Ok(back);
    }
    while let Err(error) = raw.fill_buf() {
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
    raw.fill_buf()
}

/// What a value that is not an object is, by its first byte.
pub(crate) fn kind_of(first: u8) -> &'static str {
    match first {
        b'[' => "a list",
        b'"' => "a string",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        b'-' | b'0'..=b'9' => "a number",
        _ => "something that is not JSON",
    }
}

enum Next {
    Record(Place),
    /// Something that is passed over.
    Other,
    End,
}
