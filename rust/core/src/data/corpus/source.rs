//! One file of a corpus: what it holds and how its raw bytes are read, counted and hashed.

use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;

use super::counted::Counted;
use super::csv::{Columns, Csv};
use super::format::Format;
use super::gzip::Garbage;
use super::names::{self, extension, is_markup};
use super::packing::{Memory, Packing, Unpacked};
use super::raw::{Bytes, Raw};
use super::table::{Rows, is_table};
use super::wanted::Wanted;
use crate::error::{Error, Result, io_reason};
use crate::foreign::{HEAD_BYTES, LfsPointer, foreign, is_html};
use crate::system::files::{TempPath, head, open};

const BUFFER_BYTES: usize = 256 * 1024;

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
    /// Whether the name says that it is HTML.
    pub(crate) markup: bool,
    /// By the name at first, by the first bytes once the file is identified.
    pub(crate) packing: Packing,
    /// Size on disk when it was inspected.
    pub(crate) bytes: u64,
    pub(crate) wanted: Arc<Wanted>,
    /// Keeps a spooled stream on disk as long as the corpus lives.
    pub(crate) _spool: Option<TempPath>,
}

impl Source {
    /// A file as its name describes it.
    pub(crate) fn file(path: PathBuf, bytes: u64, wanted: &Arc<Wanted>) -> Self {
        let (extension, packing) = extension(&path);
        Self {
            name: path.display().to_string(),
            path,
            format: names::format(&extension),
            named: true,
            markup: is_markup(&extension),
            packing,
            bytes,
            wanted: Arc::clone(wanted),
            _spool: None,
        }
    }

    /// A command that reads the text of this file, for a hint.
    pub(crate) fn piped(&self, command: &str) -> String {
        if self.packing.is_packed() {
            format!("{} -dc FILE | {command}", self.packing.name())
        } else {
            format!("{command} FILE")
        }
    }

    /// An error about this file.
    pub(crate) fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::data(format!("{}: {what}", self.name))
    }

    /// An error of reading this file.
    pub(crate) fn read_error(&self, error: &std::io::Error) -> Error {
        if let Some(known) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            let message = format!("{}: {}", self.name, known.message);
            return Error { message, ..known.clone() };
        }
        let reason = io_reason(error);
        if !self.packing.is_packed() || error.kind() == std::io::ErrorKind::PermissionDenied {
            return Error::data(format!("cannot read {}: {reason}", self.name));
        }
        let name = self.packing.name();
        if error.kind() == std::io::ErrorKind::FileTooLarge {
            return self.error(reason).hint("leave it out: it holds little but the same bytes over and over");
        }
        if error.get_ref().is_some_and(|inner| inner.is::<Memory>()) {
            let unpack = if self.packing == Packing::Zstd { "zstd -d --long=31" } else { "xz -dk" };
            return self.error(reason).hint(format!("unpack it yourself with {unpack}, or pack it with less"));
        }
        if error.get_ref().is_some_and(|inner| inner.is::<Garbage>()) {
            let error = self.error(format!("damaged or truncated gzip data: {reason}"));
            return error.hint("make it again: gzip -dc FILE | gzip > NEW.gz keeps what comes before them");
        }
        let check = self.packing.check();
        let hint = match self.packing {
            // It passes over anything behind the last stream.
            Packing::Bzip2 => {
                "make it again: bzip2 -dc FILE | bzip2 > NEW.bz2 keeps what comes before the damage".into()
            }
            _ => format!("check it with {check}"),
        };
        self.error(format!("damaged or truncated {name} data: {reason}")).hint(hint)
    }

    /// Looks at the first bytes: whether they are compressed or a table, and whether they are something that is not read
    /// here.
    pub(crate) fn identify(&mut self) -> Result<()> {
        let head = head(&self.path, HEAD_BYTES);
        let head = head.map_err(|error| Error::data(format!("cannot read {}: {}", self.name, io_reason(&error))))?;
        let named = self.packing;
        self.packing = Packing::of_head(&head);
        if !self.packing.is_packed() {
            if is_table(&head) {
                self.format = Format::Table;
            }
            self.check_head(&head)?;
        }
        if named.is_packed() && self.packing != named {
            // What is cut off within the mark is damaged data, if the name says so.
            if named.may_begin(&head) {
                self.packing = named;
                return Ok(());
            }
            if self.packing.is_packed() {
                return Ok(());
            }
            let error = self.error(format!("found no {} data, which the name promises", named.name()));
            let extension = self.path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            return Err(error.hint(format!("if it is not compressed, rename it without .{extension}")));
        }
        if self.format == Format::Table && self.packing.is_packed() {
            let error = self.error(format!("found {} data, expected a table", self.packing.name()));
            return Err(error.hint("unpack it: Parquet is compressed inside"));
        }
        if self.format == Format::Table && !is_table(&head) {
            let error = self.error("found no Parquet or Arrow data, which the name promises");
            return Err(error.hint("check how it was written, or give it the name of what it is"));
        }
        Ok(())
    }

    /// An error if a file that begins so holds something else than text.
    pub(crate) fn check_head(&self, head: &[u8]) -> Result<()> {
        if LfsPointer::is(head) {
            return Err(self.error(LfsPointer).hint(LfsPointer::HINT));
        }
        let found = if self.format == Format::Table { None } else { foreign(head) };
        if let Some((what, hint)) = found {
            return Err(self.error(format!("found {what}, expected text")).hint(hint));
        }
        if self.format == Format::Text && (self.markup || is_html(head)) {
            let error = self.error("found HTML, expected plain text");
            return Err(error.hint(
                "take the text out of it, for example with pandoc -t plain; to learn the markup itself, write it as the \
                 text of objects in .jsonl",
            ));
        }
        Ok(())
    }

    /// An error if what the file unpacks to begins like something else than text.
    pub(crate) fn check_unpacked(&self, head: &[u8]) -> Result<()> {
        let (outer, inner) = (self.packing.name(), Packing::of_head(head));
        if inner.is_packed() {
            let inner = inner.name();
            let error =
                self.error(format!("found {inner} data within {outer} data, expected text: it is compressed twice"));
            return Err(error.hint(format!("unpack the outer one: {outer} -dc FILE > NEW, and give NEW")));
        }
        self.check_head(head)
    }

    /// Opens the bytes of the file, unpacked.
    pub(crate) fn open_bytes(&self) -> Result<Bytes> {
        let file =
            open(&self.path).map_err(|e| Error::data(format!("cannot read {}: {}", self.name, io_reason(&e))))?;
        let counted = BufReader::with_capacity(BUFFER_BYTES, Counted::new(file, &self.wanted.interrupts));
        Ok(if self.packing.is_packed() {
            let unpacked = Unpacked::new(self.packing, counted).map_err(|e| self.read_error(&e))?;
            Bytes::Packed(Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked)))
        } else {
            Bytes::Plain(counted)
        })
    }

    /// Opens the text of the file, or its objects of JSON: rows are made such.
    pub(crate) fn open(&self) -> Result<Raw> {
        match self.format {
            Format::Text | Format::Json => Ok(Raw::Bytes(self.open_bytes()?)),
            Format::Csv | Format::Tsv => {
                let columns = Columns { wanted: &self.wanted.columns, tabs: self.format == Format::Tsv };
                Ok(Raw::Csv(Box::new(Csv::new(self.open_bytes()?, &columns).map_err(|e| self.read_error(&e))?)))
            }
            Format::Table => {
                let rows = Rows::open(&self.path, &self.wanted, self.bytes);
                Ok(Raw::Table(Box::new(rows.map_err(|error| self.read_error(&std::io::Error::other(error)))?)))
            }
        }
    }

    /// The beginning of the bytes of the file, unpacked.
    pub(crate) fn prefix(&self, bytes: usize) -> Result<Vec<u8>> {
        let mut prefix = Vec::new();
        self.open_bytes()?.take(bytes as u64).read_to_end(&mut prefix).map_err(|e| self.read_error(&e))?;
        Ok(prefix)
    }

    /// Where in the file something is, for messages.
    pub(crate) fn at_byte(&self, offset: u64) -> String {
        let what = if self.packing.is_packed() { " of the decompressed text" } else { "" };
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
            .hint(format!("convert it, for example with {} > NEW", self.piped("iconv -f latin1 -t utf-8")))
    }
}
