//! Rows of Parquet and Arrow as objects of JSON, which another process takes out of the file.
//!
//! These formats have no small reader: a library of C++ reads them, and a file that was made to do harm may crash it or ask
//! it for any amount of memory. So it is called in a process with limits. What comes from there are frames: a head of
//! [`HEAD_BYTES`] with the kind, the bytes that follow, and how much of the file is read; then objects, one on a line, or
//! texts, of which objects are made here, or an error. Without a last frame the process did not end well.

use std::io::{BufRead, Error, ErrorKind, Read, Result};
use std::path::{Path, PathBuf};

use super::counted::Counted;
use super::format::MAX_RECORD_BYTES;
use super::wanted::Wanted;
use crate::error::{Error as CoreError, ErrorKind as Kind, brief};
use crate::system::child::{Child, Command, End};
use crate::system::files::open;
use crate::system::interrupts::{INTERVAL, Interrupts, Watch};

const HEAD_BYTES: usize = 7;
/// A frame has a megabyte or so, or one object.
const FRAME_BYTES: usize = MAX_RECORD_BYTES + (1 << 20);
/// Buffers of usual frames are kept for the next.
const KEPT_BYTES: usize = 4 << 20;
/// Of [`PARTS`], how much of the file is read.
const PARTS: u64 = 1000;
/// Seconds of processor time that the process has for what it reads at once.
const SECONDS: u32 = 60;
/// What files of Parquet and of Arrow begin with, the last one where it is a stream.
const MARKS: [&[u8]; 3] = [b"PAR1", b"ARROW1", STREAM];
const STREAM: &[u8] = b"\xff\xff\xff\xff";

/// So many bytes are enough to tell.
pub(super) const TABLE_HEAD: usize = 17;

/// Whether a file that begins so is a table.
pub(crate) fn is_table(head: &[u8]) -> bool {
    let text =
        head.len() > 16 && std::str::from_utf8(head).map_or_else(|e| e.error_len().is_none(), |_| !head.contains(&0));
    !text && MARKS.iter().any(|mark| head.starts_with(mark)) && (!head.starts_with(STREAM) || has_schema(head))
}

/// Whether the mark of a stream has a length behind it: that of the schema, in words of eight bytes.
fn has_schema(head: &[u8]) -> bool {
    let length = head[STREAM.len()..].first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
    length > 0 && length % 8 == 0
}

/// Whether a file that begins with these few bytes may be a table.
pub(super) fn may_be_table(head: &[u8]) -> bool {
    MARKS.iter().any(|mark| mark.starts_with(&head[..head.len().min(mark.len())]))
}

/// What a process says of a table that it cannot read.
#[derive(serde::Deserialize)]
struct Refusal {
    kind: String,
    message: String,
    hint: Option<String>,
}

/// Reads the rows of a table as objects of JSON.
#[derive(Debug)]
pub(crate) struct Rows {
    path: PathBuf,
    child: Child,
    interrupts: Interrupts,
    watch: Watch,
    /// Rows as objects, of which `at` bytes are taken.
    frame: Vec<u8>,
    at: usize,
    /// Rows of text, of which objects are made.
    texts: Vec<u8>,
    bytes: u64,
    read: u64,
    ended: bool,
}

impl Rows {
    /// Starts the process that reads a file of so many bytes.
    pub(super) fn open(path: &Path, wanted: &Wanted, bytes: u64) -> std::result::Result<Self, CoreError> {
        let Some(command) = &wanted.tables else {
            let error = CoreError::user("found a Parquet or Arrow table, which only symlm in Python reads");
            return Err(error.hint("write it as .jsonl"));
        };
        let child = Self::start(command, path, &wanted.columns).map_err(|error| {
            let reason = crate::error::io_reason(&error);
            CoreError::user(format!("cannot start the process that reads tables: {reason}"))
        })?;
        let (path, interrupts) = (path.to_owned(), wanted.interrupts.clone());
        let watch = Watch::new(&interrupts);
        Ok(Self {
            path,
            child,
            interrupts,
            watch,
            frame: Vec::new(),
            at: 0,
            texts: Vec::new(),
            bytes,
            read: 0,
            ended: false,
        })
    }

    fn start(command: &Command, path: &Path, columns: &[String]) -> Result<Child> {
        let columns = serde_json::to_string(columns)?;
        command.start(&[path.as_os_str(), columns.as_ref(), SECONDS.to_string().as_ref()])
    }

    /// Bytes of the file that were read so far, roughly.
    pub(super) fn disk_bytes(&self) -> u64 {
        // Far below the limits of the product, for any file there can be.
        self.bytes.saturating_mul(self.read) / PARTS
    }

    /// The hash of the file as it is now.
    pub(super) fn into_digest(self) -> Result<[u8; 32]> {
        Counted::new(open(&self.path)?, &self.interrupts).into_digest()
    }

    /// Reads the next frame.
    fn next_frame(&mut self) -> Result<()> {
        for buffer in [&mut self.frame, &mut self.texts] {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES);
        }
        self.at = 0;
        let mut head = [0; HEAD_BYTES];
        self.fill(&mut head)?;
        let size = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if size > FRAME_BYTES {
            return Err(self.broken());
        }
        self.read = u64::from(u16::from_le_bytes([head[5], head[6]])).min(PARTS);
        let mut content = std::mem::take(if head[0] == b'T' { &mut self.texts } else { &mut self.frame });
        content.resize(size, 0);
        self.fill(&mut content)?;
        match head[0] {
            b'R' => {
                self.frame = content;
                Ok(())
            }
            b'T' => {
                self.texts = content;
                objects(&self.texts, &mut self.frame)
            }
            b'E' => {
                self.ended = true;
                Ok(())
            }
            b'!' => Err(refused(&content)),
            _ => Err(self.broken()),
        }
    }

    /// Takes as many bytes of what the process writes. It may write nothing for long, so this asks whether to stop.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            self.watch.look_io()?;
            match self.child.output().read(&mut buffer[done..], INTERVAL) {
                Ok(None) => {}
                Ok(Some(n)) if n > 0 => done += n,
                _ => return Err(self.broken()),
            }
        }
        Ok(())
    }

    /// The error of a process that did not do what it should.
    fn broken(&mut self) -> Error {
        let end = self.child.wait();
        if end.as_ref().is_ok_and(End::by_clock) {
            let error = CoreError::data(format!(
                "found rows at {}% of the file that take more than {SECONDS} seconds of processor time to read, \
                 expected less",
                self.read * 100 / PARTS
            ));
            return Error::other(
                error.hint("write it again, in smaller row groups or as .jsonl; if that fails too, it is damaged"),
            );
        }
        let how = end.map_or_else(|_| "without a reason".into(), |end| end.to_string());
        let error = CoreError::data(format!("the process that reads tables ended early ({how}), expected rows"));
        Error::other(
            error.hint("the file is damaged, or needs more memory than it may: write it again, in smaller row groups"),
        )
    }
}

/// Makes objects of a frame of texts: columns and rows; for each column the length of its name, its name as JSON, the
/// lengths of its rows, its rows.
fn objects(mut frame: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let frame = &mut frame;
    let (count, rows) = (number(frame)?, number(frame)?);
    if count == 0 {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut columns = Vec::new();
    for _ in 0..count {
        let name = number(frame)?;
        let name = part(frame, name)?;
        let lengths = part(frame, rows.checked_mul(4).ok_or(ErrorKind::InvalidData)?)?;
        let whole =
            lengths.chunks_exact(4).map(|b| u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).sum::<u64>();
        let whole = usize::try_from(whole).map_err(|_| ErrorKind::InvalidData)?;
        let data = part(frame, whole)?;
        columns.push((name, lengths.chunks_exact(4), data));
    }
    out.reserve(
        columns.iter().map(|(name, lengths, data)| lengths.len() * (name.len() + 8) + data.len() * 9 / 8).sum(),
    );
    for _ in 0..rows {
        for (index, (name, lengths, data)) in columns.iter_mut().enumerate() {
            out.extend_from_slice(if index == 0 { b"{" } else { b", " });
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            let text = part(data, number(&mut lengths.next().ok_or(ErrorKind::InvalidData)?)?)?;
            let text = std::str::from_utf8(text).map_err(|_| {
                let error = "found bytes that are not UTF-8 in a column of text, expected UTF-8 text";
                Error::other(CoreError::data(error).hint("write it again"))
            })?;
            serde_json::to_writer(&mut *out, text)?;
        }
        out.extend_from_slice(b"}\n");
    }
    Ok(())
}

/// Takes a number off the beginning of a frame.
fn number(frame: &mut &[u8]) -> Result<usize> {
    let bytes = part(frame, 4)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
}

/// Takes so many bytes off the beginning of a frame.
fn part<'f>(frame: &mut &'f [u8], size: usize) -> Result<&'f [u8]> {
    let (part, rest) = frame.split_at_checked(size).ok_or(ErrorKind::InvalidData)?;
    *frame = rest;
    Ok(part)
}

/// The error that a process tells.
fn refused(frame: &[u8]) -> Error {
    let Ok(told) = serde_json::from_slice::<Refusal>(frame) else { return ErrorKind::InvalidData.into() };
    let kind = if told.kind == "user" { Kind::User } else { Kind::Data };
    let error = CoreError::new(kind, brief(&told.message));
    Error::other(match told.hint {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

impl Read for Rows {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Rows {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        while self.at == self.frame.len() && !self.ended {
            self.next_frame()?;
        }
        Ok(&self.frame[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}
