//! A corpus: files that were found and inspected.

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::chat::Chat;
use super::documents::{Documents, Fields, Told};
use super::fields::columns;
use super::find::Found;
use super::inspect::{DataFormat, by_content, choose, inspect, no_bytes};
use super::objects::Conversations;
use super::source::Source;
use super::spool::{STANDARD_INPUT, standard_input};
use super::wanted::Wanted;
use crate::data::pretoken::PieceSize;
use crate::data::progress::{Meter, Progress};
use crate::error::{Error, Result};
use crate::system::child::Command;
use crate::system::interrupts::Interrupts;

/// An inspected list of text files.
///
/// A `.jsonl`, `.json` or `.ndjson` file has a document in each JSON object: one a line, over several lines, one behind
/// the other, or in arrays. So has the standard input or a pipe that begins with one. Any other file is one document.
/// So has a row of `.csv`, `.tsv`, `.parquet` and the tables of a folder that `datasets` saved. All but the last two may be
/// compressed by gzip, zstd, xz or bzip2. Order is that of the paths given, within folders and globs that of the bytes of the
/// path.
#[derive(Debug)]
pub struct Corpus {
    sources: Arc<Vec<Source>>,
    fields: Fields,
    bytes: u64,
    note: Option<String>,
    like_json: Option<usize>,
    told: Mutex<Told>,
}

impl Corpus {
    /// Finds the files and checks everything that is cheap: that they exist and can be read, that there is text at
    /// all, and that each begins as UTF-8 text (or JSON with the field `text_field`).
    ///
    /// `paths` may name files, folders (searched recursively for `.txt`, `.md`, `.py`, `.jsonl`, and `.json`, `.csv`,
    /// `.tsv` and `.parquet` that begin with a text or an example; hidden entries and links to folders are left out), globs, and `-` for the standard
    /// input, which is copied to a temporary file first, as are pipes. What symlm writes itself is left out of folders
    /// and globs.
    pub fn open<P: AsRef<Path>>(paths: &[P], text_field: &str) -> Result<Self> {
        Self::open_interruptible(paths, text_field, DataFormat::Text, Vec::new(), Interrupts::default())
    }

    /// As [`Corpus::open`] for records of any format; `tables` is the command that reads Parquet and Arrow, and `interrupts` may stop
    /// whatever reads this corpus, now and later.
    ///
    /// # Errors
    /// As [`Corpus::open`], and what `interrupts` gives.
    pub fn open_interruptible<P: AsRef<Path>>(
        paths: &[P],
        text_field: &str,
        format: DataFormat,
        tables: Vec<OsString>,
        interrupts: Interrupts,
    ) -> Result<Self> {
        if paths.is_empty() {
            return Err(
                Error::data("found no paths, expected at least one text file or folder").hint("name a text file")
            );
        }
        let wanted = Arc::new(Wanted { columns: columns(text_field), tables: Command::new(tables), interrupts });
        let mut found = Found::new(Arc::clone(&wanted));
        let mut has_input = false;
        for path in paths {
            let path = path.as_ref();
            if path.as_os_str() != STANDARD_INPUT {
                found.add(path, text_field)?;
                continue;
            }
            if std::mem::replace(&mut has_input, true) {
                return Err(Error::usage("found - twice, the standard input can only be read once"));
            }
            found.sources.push(standard_input(&wanted)?);
        }
        let note = found.note();
        let mut sources = found.sources;
        for source in &mut sources {
            source.identify()?;
            if !source.named {
                by_content(source, text_field, format);
            }
        }
        let fields = choose(&sources, text_field, format)?;
        let (mut bytes, mut like_json) = (0, None);
        for (index, source) in sources.iter().enumerate() {
            if inspect(source, &fields)? {
                like_json = like_json.or(Some(index));
            }
            bytes += source.bytes;
        }
        if bytes == 0 {
            return Err(no_bytes(&sources));
        }
        Ok(Self { sources: Arc::new(sources), fields, bytes, note, like_json, told: Mutex::default() })
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.sources.len()
    }

    /// Where the files are, in the order in which they are read.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().map(|source| source.path.as_path())
    }

    /// What was left out since symlm wrote it, in words; `None` if nothing was.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The first file that is taken as a plain text although it begins like JSON of texts or examples.
    pub fn like_json(&self) -> Option<&Path> {
        self.like_json.map(|index| Path::new(&self.sources[index].name))
    }

    /// Characters that are half of a surrogate pair and were read as U+FFFD, when all text was read last; 0 if it was not
    /// read, but taken from the cache.
    pub fn halves(&self) -> u64 {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).halves
    }

    /// Documents without text, which are left out; as [`Self::halves`] of what was read last.
    pub fn empty(&self) -> u64 {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).empty
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Whether the corpus is of examples: a prompt and a completion each, or a conversation that was written out.
    pub fn has_examples(&self) -> bool {
        matches!(self.fields, Fields::Example | Fields::Rendered)
    }

    /// What a document is, as [`DataFormat::from_name`] calls it.
    pub fn data_format(&self) -> &'static str {
        match self.fields {
            Fields::Text(_) => "text",
            Fields::Example => "completion",
            Fields::Chat(form) => form.name(),
            Fields::Rendered => "rendered",
        }
    }

    /// The form of the conversations, where the corpus is of these.
    pub fn chat(&self) -> Option<Chat> {
        if let Fields::Chat(form) = self.fields { Some(form) } else { None }
    }

    /// Reads the conversations of a corpus of these, from the first on.
    ///
    /// # Errors
    /// `Usage` if it is of something else.
    pub fn conversations(&self) -> Result<Conversations> {
        let form = self.chat().ok_or_else(|| {
            Error::usage(format!("found a corpus of the format {}, expected conversations", self.data_format()))
        })?;
        Ok(Conversations::new(Arc::clone(&self.sources), form))
    }

    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The stream of all documents.
    pub(crate) fn documents(&self, size: PieceSize) -> Documents<'_> {
        Documents::new(&self.sources, &self.fields, size, &self.told)
    }

    /// Reads all text and hands it on piece by piece, each with whether a document begins or ends with it.
    ///
    /// # Errors
    /// `Data` with the file, and what `take` returns.
    pub fn read(&self, take: &mut dyn FnMut(&str, bool, bool) -> Result<()>) -> Result<()> {
        let mut documents = self.documents(PieceSize::default());
        while let Some(piece) = documents.next_piece()? {
            take(&piece.text, piece.first, piece.last)?;
        }
        Ok(())
    }

    /// Reads all text and drops it, for what it tells: [`Self::halves`], [`Self::empty`], and what is wrong with it.
    ///
    /// # Errors
    /// `Data` with the file, and what `progress` returns.
    pub fn read_through(&self, progress: Progress<'_>) -> Result<()> {
        let mut meter = Meter::new(progress, self.bytes);
        let mut documents = self.documents(PieceSize::default());
        while documents.next_piece()?.is_some() {
            meter.at(documents.disk_bytes())?;
        }
        meter.finish()
    }

    /// The error of a corpus in which no document has text.
    pub(crate) fn no_text(&self) -> Error {
        let (files, wanted) = (self.files(), if self.has_examples() { "example" } else { "document" });
        Error::data(format!("the corpus is empty: found no text in {files} file(s), expected at least one {wanted}"))
            .hint("check that the files are the ones you mean")
    }
}
