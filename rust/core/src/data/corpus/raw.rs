//! What a file is read as: its bytes, or its rows as objects of JSON.

use std::io::{BufRead, BufReader, Read};

use super::counted::Counted;
use super::csv::Csv;
use super::packing::Unpacked;
use super::table::Rows;

/// The bytes of a file, unpacked if need be.
#[derive(Debug)]
pub(crate) enum Bytes {
    Plain(BufReader<Counted>),
    Packed(Box<BufReader<Unpacked>>),
}

impl Bytes {
    /// The state of the bytes on disk.
    fn counted(&self) -> &Counted {
        match self {
            Self::Plain(reader) => reader.get_ref(),
            Self::Packed(reader) => reader.get_ref().packed(),
        }
    }

    fn into_counted(self) -> Counted {
        match self {
            Self::Plain(reader) => reader.into_inner(),
            Self::Packed(reader) => reader.into_inner().into_packed(),
        }
    }
}

/// The text of a file, or its records as objects of JSON.
#[derive(Debug)]
pub(crate) enum Raw {
    Bytes(Bytes),
    Csv(Box<Csv<Bytes>>),
    Table(Box<Rows>),
}

impl Raw {
    /// Bytes on disk that were read so far, roughly those of a table.
    pub(crate) fn disk_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.counted().bytes(),
            Self::Csv(rows) => rows.source().counted().bytes(),
            Self::Table(rows) => rows.disk_bytes(),
        }
    }

    /// Reads what is left on disk and returns the hash of the whole file.
    pub(crate) fn into_digest(self) -> std::io::Result<[u8; 32]> {
        match self {
            Self::Bytes(bytes) => bytes.into_counted().into_digest(),
            Self::Csv(rows) => rows.into_source().into_counted().into_digest(),
            Self::Table(rows) => rows.into_digest(),
        }
    }
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Packed(reader) => reader.read(buffer),
        }
    }
}

impl BufRead for Bytes {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        match self {
            Self::Plain(reader) => reader.fill_buf(),
            Self::Packed(reader) => reader.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self {
            Self::Plain(reader) => reader.consume(amount),
            Self::Packed(reader) => reader.consume(amount),
        }
    }
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Bytes(bytes) => bytes.read(buffer),
            Self::Csv(rows) => rows.read(buffer),
            Self::Table(rows) => rows.read(buffer),
        }
    }
}

impl BufRead for Raw {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        match self {
            Self::Bytes(bytes) => bytes.fill_buf(),
            Self::Csv(rows) => rows.fill_buf(),
            Self::Table(rows) => rows.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self {
            Self::Bytes(bytes) => bytes.consume(amount),
            Self::Csv(rows) => rows.consume(amount),
            Self::Table(rows) => rows.consume(amount),
        }
    }
}
