//! Files of token ids.
//!
//! A shard is a header of 256 bytes and the ids as little-endian `u16` (vocabularies up to 65,536) or `u32`. The
//! header ends with its own SHA-256 and has that of the ids, so that no damage goes unseen. A shard of examples is cut
//! into windows, and its ids are always `u32`: those that do not count as targets have the bit [`CONTEXT`], and where
//! documents are told apart the first of each has the bit [`BEGIN`].
//!
//! Reading uses positioned reads and no memory map: a file that is cut, or a disk that fails, while a run reads it
//! gives an error, not a signal that ends the process. The pages stay in the page cache of the system and never count
//! as memory of the process. A file that was written to since it was checked is refused, for its ids are not known any
//! more.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::header::{HEADER_BYTES, Header, Windows};
use super::marks::{BEGIN, Beginnings, CONTEXT, WindowCheck};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::rng::philox;
use crate::system::files::{self, File, Room, Stamp, TempFile, open_regular, read_at, sync_folder, unfinished};
use crate::system::hex;

/// Ids checked at a time.
const CHECK_BYTES: usize = 1 << 20;
/// Random ids made at a time.
const RANDOM_BLOCK: u64 = 1 << 16;
/// Bytes that a read of a few ids takes without asking for memory.
const READ_BYTES: usize = 4096;
/// What an unfinished shard is called before it has its name.
const UNFINISHED: &str = ".shard-";
/// An unfinished shard that nobody holds is left alone for so long: its writer may be about to lock it.
const UNFINISHED_AGE: Duration = Duration::from_secs(60);

/// Token ids of one part of a corpus, checked.
#[derive(Debug)]
pub struct Shards {
    file: File,
    header: Header,
    path: PathBuf,
    /// Of the file as it was checked.
    stamp: Stamp,
    /// Where documents begin among the ids of a text, if that is known.
    beginnings: Option<Beginnings>,
}

impl Shards {
    /// Opens a shard and checks all of it: header, size, the hash of the ids, and that every id is below the
    /// vocabulary size.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |what: String| {
            let error = Error::data(format!("{}: {what}", path.display()));
            error.hint("delete it; it is made again from the text")
        };
        let cannot_read = |error: std::io::Error| Error::cannot_read(path, &error);
        let (file, size) = open_regular(path).map_err(cannot_read)?;
        let stamp = Stamp::of(&file).map_err(cannot_read)?;
        let mut block = vec![0; size.min(HEADER_BYTES as u64) as usize];
        read_at(&file, &mut block, 0).map_err(cannot_read)?;
        let header = Header::from_bytes(&block).map_err(bad)?;
        let expected = u128::from(header.tokens) * u128::from(header.id_bytes()) + HEADER_BYTES as u128;
        if u128::from(size) != expected {
            return Err(bad(format!("found {size} bytes, expected {expected}")));
        }
        let mut hash = Sha256::new();
        let mut windows = WindowCheck::new(header.windows);
        let mut at = HEADER_BYTES as u64;
        while at < size {
            block.resize((size - at).min(CHECK_BYTES as u64) as usize, 0);
            read_at(&file, &mut block, at).map_err(cannot_read)?;
            at += block.len() as u64;
            hash.update(&block);
            let largest = match header.id_bytes() {
                2 => block.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).max(),
                _ => block.chunks_exact(4).map(|b| windows.id(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).max(),
            };
            if let Some(id) = largest.filter(|&id| id >= header.vocab_size) {
                return Err(bad(format!("found token id {id}, expected ids below {}", header.vocab_size)));
            }
        }
        if hash.finalize()[..] != header.ids {
            return Err(bad("the ids are damaged: their sha256 is not that of the header".into()));
        }
        windows.finish().map_err(bad)?;
        Ok(Self { file, header, path: path.to_owned(), stamp, beginnings: None })
    }

    /// Writes a shard of random ids, each equally likely: for measurements, which need tokens but no text.
    ///
    /// # Errors
    /// `User` if the file cannot be written.
    pub fn random(path: &Path, vocab_size: u32, tokens: u64, seed: u64) -> Result<Self> {
        let mut writer = ShardWriter::create(path.to_owned(), vocab_size, [0; 32], None)?;
        let mut ids = Vec::with_capacity(RANDOM_BLOCK as usize);
        for start in (0..tokens).step_by(RANDOM_BLOCK as usize) {
            ids.clear();
            for index in start..(start + RANDOM_BLOCK).min(tokens) {
                let [word, ..] = philox(seed, [index as u32, (index >> 32) as u32, 0, 0]);
                // The high word of the product: below the vocabulary size, and even enough.
                ids.push(((u64::from(word) * u64::from(vocab_size)) >> 32) as u32);
            }
            writer.push(&ids)?;
        }
        writer.header.documents = 1;
        writer.finish()
    }

    /// The same ids, of a text that this tokenizer encoded.
    #[must_use]
    pub fn encoded_by(self, tokenizer: &Tokenizer) -> Self {
        Self { beginnings: Beginnings::of(tokenizer), ..self }
    }

    /// Number of ids, those between documents included.
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// UTF-8 bytes of the text that the ids came from.
    pub fn bytes(&self) -> u64 {
        self.header.bytes
    }

    /// Number of documents, those of which only a part is here included.
    pub fn documents(&self) -> u64 {
        self.header.documents
    }

    /// Ids of a window where the shard is cut into windows; `None` for a text.
    pub fn window(&self) -> Option<u64> {
        self.header.windows.map(|windows| windows.window)
    }

    /// Ids that count as targets: those of completions, or all of a text.
    pub fn targets(&self) -> u64 {
        self.header.windows.map_or(self.header.tokens, |windows| windows.targets)
    }

    /// Examples that were longer than a window, so that a part of them is not here.
    pub fn cut(&self) -> u64 {
        self.header.windows.map_or(0, |windows| windows.cut)
    }

    /// Vocabulary size of the tokenizer; every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.header.vocab_size as usize
    }

    /// SHA-256 of the ids (little-endian `u16`, or `u32` for vocabularies above 65,536), in hexadecimal digits.
    pub fn sha256(&self) -> String {
        hex(&self.header.ids)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the ids from `start` on; an error unless there are as many as `out` has room for.
    pub fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
        self.copy_words(start, out)?;
        if self.header.windows.is_some() {
            out.iter_mut().for_each(|id| *id &= !CONTEXT);
        }
        Ok(())
    }

    /// As [`Self::copy_ids`]; ids that do not count as targets have the bit [`CONTEXT`].
    pub fn copy_words(&self, start: u64, out: &mut [u32]) -> Result<()> {
        self.read(start, out)?;
        if self.header.windows.is_some_and(|windows| windows.begins > 0) {
            out.iter_mut().for_each(|id| *id &= !BEGIN);
        }
        Ok(())
    }

    /// As [`Self::copy_words`]; the first id of each document has the bit [`BEGIN`], except at the very beginning of `out`.
    ///
    /// # Errors
    /// As there; `Internal` if it is not known where documents begin.
    pub fn copy_documents(&self, start: u64, out: &mut [u32]) -> Result<()> {
        self.read(start, out)?;
        match (&self.header.windows, self.beginnings) {
            (Some(windows), _) if windows.begins > 0 => {}
            (None, Some(beginnings)) => beginnings.mark(out),
            _ => return Err(Error::internal(format!("{}: documents are not told apart", self.path.display()))),
        }
        Ok(())
    }

    /// The ids as they lie in the file.
    fn read(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let tokens = self.tokens();
        let end = start.checked_add(out.len() as u64).filter(|&end| end <= tokens);
        let Some(end) = end else {
            let (path, count) = (self.path.display(), out.len());
            return Err(Error::data(format!("{path}: asked for {count} ids from {start}, expected at most {tokens}")));
        };
        if Stamp::of(&self.file).map_err(|e| Error::cannot_read(&self.path, &e))? != self.stamp {
            let error = Error::data(format!(
                "{}: the tokens changed while they were in use, expected a file that stays as it is",
                self.path.display()
            ));
            return Err(error.hint("start again: they are made again from the text where they are damaged"));
        }
        let width = self.header.id_bytes() as usize;
        let (mut few, mut many) = ([0; READ_BYTES], Vec::new());
        let length = (end - start) as usize * width;
        let ids: &mut [u8] = if length <= READ_BYTES {
            &mut few[..length]
        } else {
            many.resize(length, 0);
            &mut many
        };
        // The file holds all tokens, so the product fits.
        let at = HEADER_BYTES as u64 + start * width as u64;
        read_at(&self.file, ids, at).map_err(|e| Error::cannot_read(&self.path, &e))?;
        match width {
            2 => {
                for (id, b) in out.iter_mut().zip(ids.chunks_exact(2)) {
                    *id = u32::from(u16::from_le_bytes([b[0], b[1]]));
                }
            }
            _ => {
                for (id, b) in out.iter_mut().zip(ids.chunks_exact(4)) {
                    *id = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
        }
        Ok(())
    }

    /// What the shard was made from.
    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.header.key
    }
}

/// Removes the unfinished shards of processes that were killed.
pub(crate) fn remove_unfinished(folder: &Path) {
    files::remove_unfinished(folder, UNFINISHED, UNFINISHED_AGE);
}

/// A shard that cannot be written.
fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::cannot_write(path, error).hint("make room there, or set SYMLM_CACHE_DIR to a folder on another disk")
}

/// Writes a shard under a temporary name; dropped before [`Self::finish`], it leaves nothing.
#[derive(Debug)]
pub(crate) struct ShardWriter {
    file: BufWriter<TempFile>,
    header: Header,
    hash: Sha256,
    buffer: Vec<u8>,
    path: PathBuf,
    room: Room,
}

impl ShardWriter {
    /// Begins a shard that will be at `path`: of text, or of examples in windows of `window` ids.
    pub(crate) fn create(path: PathBuf, vocab_size: u32, key: [u8; 32], window: Option<u64>) -> Result<Self> {
        let windows = window.map(|window| Windows { window, targets: 0, cut: 0, begins: 0 });
        let folder = path.parent().unwrap_or(Path::new("."));
        let file = unfinished(folder, UNFINISHED).map_err(|e| cannot_write(folder, &e))?;
        // Says that the file has a writer, until that ends or is killed. Where there are no locks nothing is removed.
        let _ = file.as_file().try_lock();
        let header = Header { tokens: 0, bytes: 0, documents: 0, vocab_size, key, ids: [0; 32], windows };
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut this = Self { file, header, hash: Sha256::new(), buffer: Vec::new(), path, room: Room::default() };
        this.write(&[0; HEADER_BYTES])?;
        Ok(this)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        let written = written.and_then(|()| self.room.wrote(self.file.get_ref().as_file(), bytes.len()));
        written.map_err(|e| cannot_write(&self.path, &e))
    }

    /// Appends ids; in a shard of windows those that do not count have the bit [`CONTEXT`], and the first of a document
    /// may have the bit [`BEGIN`].
    pub(crate) fn push(&mut self, ids: &[u32]) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let flags = if self.header.windows.is_some() { CONTEXT | BEGIN } else { 0 };
        if let Some(id) = ids.iter().map(|id| id & !flags).find(|&id| id >= self.header.vocab_size) {
            return Err(Error::internal(format!("found token id {id}, expected ids below {}", self.header.vocab_size)));
        }
        if let Some(windows) = &mut self.header.windows {
            windows.targets += ids.iter().filter(|&id| id & CONTEXT == 0).count() as u64;
            windows.begins += ids.iter().filter(|&id| id & BEGIN != 0).count() as u64;
        }
        match self.header.id_bytes() {
            // Ids are below the vocabulary size, which is at most 65,536 here.
            2 => buffer.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            _ => buffer.extend(ids.iter().flat_map(|&id| id.to_le_bytes())),
        }
        self.hash.update(&buffer);
        self.write(&buffer)?;
        self.header.tokens += ids.len() as u64;
        self.buffer = buffer;
        Ok(())
    }

    /// Counts bytes of text whose ids were appended.
    pub(crate) fn add_bytes(&mut self, bytes: u64) {
        self.header.bytes += bytes;
    }

    /// Counts a document and, between two of them, puts `eot`.
    pub(crate) fn begin_document(&mut self, eot: u32, start: &[u32]) -> Result<()> {
        // A token that both ends and begins a text stands there once.
        if self.header.documents > 0 && start.first() != Some(&eot) {
            self.push(&[eot])?;
        }
        self.push(start)?;
        self.header.documents += 1;
        Ok(())
    }

    /// Counts an example, and whether a part of it was left out.
    pub(crate) fn count_example(&mut self, cut: bool) {
        self.header.documents += 1;
        if let Some(windows) = &mut self.header.windows {
            windows.cut += u64::from(cut);
        }
    }

    /// Completes the file and gives it its name.
    pub(crate) fn finish(mut self) -> Result<Shards> {
        self.header.ids = std::mem::take(&mut self.hash).finalize().into();
        let header = self.header.to_bytes();
        let path = self.path.clone();
        let failed = |error: &std::io::Error| cannot_write(&path, error);
        self.file.seek(SeekFrom::Start(0)).map_err(|e| failed(&e))?;
        self.write(&header)?;
        let file = self.file.into_inner().map_err(|e| failed(e.error()))?;
        file.as_file().sync_all().map_err(|e| failed(&e))?;
        file.persist(&path).map_err(|e| failed(&e.error))?;
        // The name is safe on disk only with the folder.
        let folder = path.parent().unwrap_or(Path::new("."));
        sync_folder(folder).map_err(|e| failed(&e))?;
        Shards::open(&path)
    }
}
