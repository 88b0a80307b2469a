//! One file of a corpus: what it holds and how its raw bytes are read, counted and hashed.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use super::counted::Counted;
use super::gzip::{Garbage, MAGIC, Unpacked};
use super::names::{extension, is_json};
use crate::error::{Error, Result, io_reason};
use crate::foreign::{HEAD_BYTES, LfsPointer, UNPACK, foreign};
use crate::system::files::{TempPath, head, open};

const BUFFER_BYTES: usize = 256 * 1024;

/// How a file is divided into documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The file is one document.
    Text,
    /// Every JSON object in it has a document in one field, or an example.
    Json,
}

/// One file of a corpus.
#[derive(Debug)]
pub(crate) struct Source {
    /// Where the bytes are.
    pub(crate) path: PathBuf,
    /// What messages call it.
    pub(crate) name: String,
    pub(crate) format: Format,
    /// Whether the name says how the file is divided, or only its content does.
    pub(crate) named: bool,
    /// By the name at first, by the first bytes once the file is identified.
    pub(crate) gzip: bool,
    /// Size on disk when it was inspected.
    pub(crate) bytes: u64,
    /// Keeps a spooled stream on disk as long as the corpus lives.
    pub(crate) _spool: Option<TempPath>,
}

impl Source {
    /// A file as its name describes it.
    pub(crate) fn file(path: PathBuf, bytes: u64) -> Self {
        let (extension, gzip) = extension(&path);
        let format = if is_json(&extension) { Format::Json } else { Format::Text };
        Self { name: path.display().to_string(), path, format, named: true, gzip, bytes, _spool: None }
    }

    /// An error about this file.
    pub(crate) fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::data(format!("{}: {what}", self.name))
    }

    /// An error of reading this file.
    pub(crate) fn read_error(&self, error: &std::io::Error) -> Error {
        let reason = io_reason(error);
        if self.gzip && error.kind() == std::io::ErrorKind::FileTooLarge {
            return self.error(reason).hint("leave it out: it holds little but the same bytes over and over");
        }
        if self.gzip && error.get_ref().is_some_and(|inner| inner.is::<Garbage>()) {
            let error = self.error(format!("damaged or truncated gzip data: {reason}"));
            return error.hint("make it again: gzip -dc FILE | gzip > NEW.gz keeps what comes before them");
        }
        if self.gzip && error.kind() != std::io::ErrorKind::PermissionDenied {
            return self.error(format!("damaged or truncated gzip data: {reason}")).hint("check it with gzip -t");
        }
        Error::data(format!("cannot read {}: {reason}", self.name))
    }

    /// Looks at the first bytes: whether they are gzip data, and whether they are something that is not read here.
    pub(crate) fn identify(&mut self) -> Result<()> {
        let head = head(&self.path, HEAD_BYTES);
        let head = head.map_err(|error| Error::data(format!("cannot read {}: {}", self.name, io_reason(&error))))?;
        self.check_head(&head)?;
        // What is cut off within the mark is damaged gzip data, if the name says gzip.
        let begun = head.len() < MAGIC.len() && MAGIC.starts_with(&head);
        let named = self.gzip;
        self.gzip = head.starts_with(MAGIC) || named && begun;
        if named && !self.gzip {
            let error = self.error("found no gzip data, which the name promises");
            return Err(error.hint("if it is not compressed, rename it without .gz"));
        }
        Ok(())
    }

    /// An error if a file that begins so holds something else than text.
    pub(crate) fn check_head(&self, head: &[u8]) -> Result<()> {
        if LfsPointer::is(head) {
            return Err(self.error(LfsPointer).hint(LfsPointer::HINT));
        }
        match foreign(head) {
            Some((what, hint)) => Err(self.error(format!("found {what}, expected text")).hint(hint)),
            None => Ok(()),
        }
    }

    /// An error if what gzip data unpack to begins like something else than text.
    pub(crate) fn check_unpacked(&self, head: &[u8]) -> Result<()> {
        if head.starts_with(MAGIC) {
            let error = self.error("found gzip data within gzip data, expected text: it is compressed twice");
            return Err(error.hint("unpack it once: gzip -dc FILE > NEW.gz, or pipe it in: gzip -dc FILE | symlm .. -"));
        }
        match foreign(head) {
            Some((what, hint)) if hint.starts_with(UNPACK) => Err(self
                .error(format!("found {what} within gzip data, expected text"))
                .hint(format!("unpack the outer one first, gzip -dc FILE > NEW, and then NEW: {hint}"))),
            _ => self.check_head(head),
        }
    }

    /// Opens the text of the file, decompressed.
    pub(crate) fn open(&self) -> Result<Raw> {
        let file =
            open(&self.path).map_err(|e| Error::data(format!("cannot read {}: {}", self.name, io_reason(&e))))?;
        let counted = BufReader::with_capacity(BUFFER_BYTES, Counted::new(file));
        Ok(if self.gzip {
            Raw::Gzip(Box::new(BufReader::with_capacity(BUFFER_BYTES, Unpacked::new(counted))))
        } else {
            Raw::Plain(counted)
        })
    }

    /// Where in the file something is, for messages.
    pub(crate) fn at_byte(&self, offset: u64) -> String {
        let what = if self.gzip { " of the decompressed text" } else { "" };
        format!("at byte {offset}{what}")
    }

    /// The error of a NUL byte.
    pub(crate) fn binary(&self, offset: u64) -> Error {
        self.error(format!("found a NUL byte {}, expected text", self.at_byte(offset)))
            .hint("this looks like a binary file; leave it out")
    }

    /// The error of bytes that are not UTF-8.
    pub(crate) fn not_utf8(&self, offset: u64) -> Error {
        self.error(format!("found bytes that are not UTF-8 {}, expected UTF-8 text", self.at_byte(offset)))
            .hint("convert it, for example with iconv -f latin1 -t utf-8")
    }
}

/// The text of a file, decompressed if need be.
#[derive(Debug)]
pub(crate) enum Raw {
    Plain(BufReader<Counted>),
    Gzip(Box<BufReader<Unpacked>>),
}

impl Raw {
    /// The state of the bytes on disk.
    pub(crate) fn counted(&self) -> &Counted {
        match self {
            Self::Plain(reader) => reader.get_ref(),
            Self::Gzip(reader) => reader.get_ref().packed().get_ref(),
        }
    }

    /// Reads what is left on disk and returns the hash of the whole file.
    pub(crate) fn into_digest(self) -> std::io::Result<[u8; 32]> {
        let counted = match self {
            Self::Plain(reader) => reader.into_inner(),
            Self::Gzip(reader) => reader.into_inner().into_packed().into_inner(),
        };
        counted.into_digest()
    }
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
        }
    }
}

impl BufRead for Raw {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        match self {
            Self::Plain(reader) => reader.fill_buf(),
            Self::Gzip(reader) => reader.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self {
            Self::Plain(reader) => reader.consume(amount),
            Self::Gzip(reader) => reader.consume(amount),
        }
    }
}
