//! Finding and inspecting the files of a corpus.

use std::ffi::OsStr;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::documents::{Documents, Fields, PieceSize};
use super::jsonl;
use super::pattern::{MAX_DEPTH, expand, is_pattern};
use super::progress::INTERVAL;
use super::source::{Format, Source};
use super::stream::Stream;
use crate::error::{Error, Result, io_reason};
use crate::files::Room;

/// Extensions that are taken from folders; each also with `.gz` behind it.
const EXTENSIONS: [&str; 4] = ["txt", "md", "py", "jsonl"];
/// So much of every file is looked at when a corpus is opened.
const PREFIX_BYTES: usize = 64 * 1024;

/// What the lines of `.jsonl` files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataFormat {
    /// Examples if that is what the first line of one of the files holds and it has no text, else texts.
    #[default]
    Auto,
    /// A text in one field.
    Text,
    /// A prompt and a completion, of which only the completion is to be learnt.
    Completion,
}

impl DataFormat {
    /// The format of this name.
    ///
    /// # Errors
    /// `Usage` if there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "completion" => Ok(Self::Completion),
            _ => Err(Error::usage(format!("data format {name:?} found, expected auto, text or completion"))),
        }
    }
}

/// An inspected list of text files.
///
/// A `.txt`, `.md` or `.py` file (or any other file named explicitly) is one document; a `.jsonl` file has one per
/// line. Any of them may be compressed (`.gz`). Order is that of the paths given, within folders and globs that of
/// the bytes of the path.
#[derive(Debug)]
pub struct Corpus {
    sources: Vec<Source>,
    fields: Fields,
    bytes: u64,
}

impl Corpus {
    /// Finds the files and checks everything that is cheap: that they exist and can be read, that there is text at
    /// all, and that each begins as UTF-8 text (or JSON lines with the field `text_field`).
    ///
    /// `paths` may name files, folders (searched recursively; hidden entries and links to folders are left out),
    /// globs, and `-` for the standard input, which is copied to a temporary file first, as are pipes.
    pub fn open<P: AsRef<Path>>(paths: &[P], text_field: &str) -> Result<Self> {
        Self::open_interruptible(paths, text_field, DataFormat::Text, &mut || Ok(()))
    }

    /// As [`Corpus::open`] for lines of any format; `interrupted` is called again and again while a pipe is waited for and
    /// read, and may stop it by an error.
    ///
    /// # Errors
    /// As [`Corpus::open`], and what `interrupted` returns.
    pub fn open_interruptible<P: AsRef<Path>>(
        paths: &[P],
        text_field: &str,
        format: DataFormat,
        interrupted: Interrupted<'_>,
    ) -> Result<Self> {
        if paths.is_empty() {
            return Err(
                Error::data("found no paths, expected at least one text file or folder").hint("name a text file")
            );
        }
        let mut sources = Vec::new();
        let mut standard_input = false;
        for path in paths {
            let path = path.as_ref();
            if path.as_os_str() == "-" {
                if std::mem::replace(&mut standard_input, true) {
                    return Err(Error::usage("found - twice, the standard input can only be read once"));
                }
                let name = "standard input";
                let mut stream = Stream::standard_input().map_err(|e| Error::cannot_read(Path::new(name), &e))?;
                let mut source = spool(&mut stream, name, None, interrupted)?;
                if format == DataFormat::Completion {
                    source.format = Format::JsonLines;
                }
                sources.push(source);
            } else {
                add_path(path, &mut sources, interrupted)?;
            }
        }
        let fields = choose(&sources, text_field, format)?;
        let mut bytes = 0;
        for source in &sources {
            inspect(source, &fields)?;
            bytes += source.bytes;
        }
        if bytes == 0 {
            let what = if sources.len() == 1 { sources[0].name.clone() } else { format!("{} files", sources.len()) };
            let error = Error::data(format!("the corpus is empty: found 0 bytes in {what}, expected text"));
            return Err(error.hint("check that the file was written, or name another"));
        }
        Ok(Self { sources, fields, bytes })
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.sources.len()
    }

    /// Where the files are, in the order in which they are read.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().map(|source| source.path.as_path())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Whether the corpus is of examples, a prompt and a completion each.
    pub fn has_examples(&self) -> bool {
        self.fields == Fields::Example
    }

    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The stream of all documents.
    pub(crate) fn documents(&self, size: PieceSize) -> Documents<'_> {
        Documents::new(&self.sources, &self.fields, size)
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

    /// The error of a corpus in which no document has text.
    pub(crate) fn no_text(&self) -> Error {
        let (files, wanted) = (self.files(), if self.has_examples() { "example" } else { "document" });
        Error::data(format!("the corpus is empty: found no text in {files} file(s), expected at least one {wanted}"))
            .hint("check that the files are the ones you mean")
    }
}

fn add_path(path: &Path, sources: &mut Vec<Source>, interrupted: Interrupted<'_>) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => add_folder(path, sources),
        Ok(metadata) if metadata.is_file() => {
            sources.push(file(path.to_owned(), metadata.len()));
            Ok(())
        }
        Ok(_) => {
            // A pipe (`<(command)`) or a device: can be read only once, so it is copied.
            let mut stream = Stream::open(path).map_err(|e| Error::cannot_read(path, &e))?;
            sources.push(spool(&mut stream, &path.display().to_string(), Some(path), interrupted)?);
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_pattern(path.as_os_str()) => {
            add_glob(path, sources)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let found = format!("found no file or folder at {}, expected a corpus path", path.display());
            let error = Error::data(found);
            Err(error.hint("check the spelling and the current folder"))
        }
        Err(error) => Err(Error::cannot_read(path, &error)),
    }
}

fn add_glob(pattern: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let mut paths = expand(pattern.as_os_str())?;
    if paths.is_empty() {
        let error = format!("found nothing that matches {}, expected text files", pattern.display());
        return Err(Error::data(error));
    }
    sort_by_bytes(&mut paths);
    for path in paths {
        let metadata = std::fs::metadata(&path).map_err(|e| Error::cannot_read(&path, &e))?;
        if metadata.is_dir() {
            add_folder(&path, sources)?;
        } else if metadata.is_file() {
            sources.push(file(path, metadata.len()));
        }
    }
    Ok(())
}

fn add_folder(folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let mut paths = Vec::new();
    walk(folder, 0, &mut paths)?;
    if paths.is_empty() {
        let error = Error::data(format!(
            "found no text files in {}, expected .txt, .md, .py, .jsonl or one of them with .gz",
            folder.display()
        ));
        return Err(error.hint("files with other extensions can be named one by one or by a glob"));
    }
    sort_by_bytes(&mut paths);
    for path in paths {
        let metadata = std::fs::metadata(&path).map_err(|e| Error::cannot_read(&path, &e))?;
        sources.push(file(path, metadata.len()));
    }
    Ok(())
}

fn walk(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::data(format!("{}: folders are nested deeper than {MAX_DEPTH}", folder.display())));
    }
    let entries = std::fs::read_dir(folder).map_err(|e| Error::cannot_read(folder, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::cannot_read(folder, &e))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(|e| Error::cannot_read(&path, &e))?;
        if kind.is_dir() {
            walk(&path, depth + 1, paths)?;
        } else if is_text_name(&path) && (kind.is_file() || path.is_file()) {
            paths.push(path);
        }
    }
    Ok(())
}

fn sort_by_bytes(paths: &mut [PathBuf]) {
    paths.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
}

/// The extension in lower case, and whether `.gz` stood behind it.
fn extension(path: &Path) -> (String, bool) {
    let lower = |part: Option<&OsStr>| part.map_or_else(String::new, |e| e.to_string_lossy().to_lowercase());
    let outer = lower(path.extension());
    if outer == "gz" {
        let inner = path.file_stem().map(Path::new).and_then(Path::extension);
        (lower(inner), true)
    } else {
        (outer, false)
    }
}

fn is_text_name(path: &Path) -> bool {
    EXTENSIONS.contains(&extension(path).0.as_str())
}

fn file(path: PathBuf, bytes: u64) -> Source {
    let (extension, gzip) = extension(&path);
    let format = if extension == "jsonl" { Format::JsonLines } else { Format::Text };
    Source { name: path.display().to_string(), path, format, gzip, bytes, _spool: None }
}

/// Copies a stream to a temporary file.
fn spool(stream: &mut Stream, name: &str, given: Option<&Path>, interrupted: Interrupted<'_>) -> Result<Source> {
    let failed = |error: &std::io::Error| {
        let error = Error::user(format!("cannot copy {name} to a temporary file: {}", io_reason(error)));
        error.hint("TMPDIR says where temporary files go")
    };
    let mut file = tempfile::NamedTempFile::new().map_err(|e| failed(&e))?;
    let (extension, gzip) = given.map_or_else(Default::default, extension);
    let format = if extension == "jsonl" { Format::JsonLines } else { Format::Text };
    let mut source =
        Source { path: file.path().to_owned(), name: name.to_owned(), format, gzip, bytes: 0, _spool: None };
    let mut buffer = vec![0; PREFIX_BYTES];
    let mut checked = Instant::now();
    let mut room = Room::default();
    loop {
        if checked.elapsed() >= INTERVAL {
            interrupted()?;
            checked = Instant::now();
        }
        let n = match stream.read(&mut buffer) {
            Ok(Some(n)) => n,
            Ok(None) => continue,
            Err(error) => return Err(source.read_error(&error)),
        };
        if n == 0 {
            break;
        }
        // Stops at once on a stream of binary data, which may never end.
        if !gzip && let Some(at) = memchr::memchr(0, &buffer[..n]) {
            return Err(source.binary(source.bytes + at as u64));
        }
        let written = file.write_all(&buffer[..n]).and_then(|()| room.wrote(file.as_file(), n));
        written.map_err(|e| failed(&e))?;
        source.bytes += n as u64;
    }
    source._spool = Some(file.into_temp_path());
    Ok(source)
}

/// Called at least every [`INTERVAL`] or so while a stream is waited for, and may stop that.
type Interrupted<'a> = &'a mut dyn FnMut() -> Result<()>;

/// Where the text of the lines is, by what the files begin with.
fn choose(sources: &[Source], text_field: &str, format: DataFormat) -> Result<Fields> {
    let begins = |source: &Source| source.format == Format::JsonLines && begins_with_example(source, text_field);
    let examples = match format {
        DataFormat::Auto => sources.iter().any(begins),
        DataFormat::Text => false,
        DataFormat::Completion => true,
    };
    if !examples {
        return Ok(Fields::Text(text_field.to_owned()));
    }
    match sources.iter().find(|source| source.format != Format::JsonLines) {
        None => Ok(Fields::Example),
        Some(source) => Err(source
            .error("found a file of plain text, expected only .jsonl with a prompt and a completion in each line")
            .hint("train on one kind at a time; --data-format text says that every line holds a text")),
    }
}

/// Whether the first line that is not blank holds an example. What is wrong with a file shows later.
fn begins_with_example(source: &Source, text_field: &str) -> bool {
    let Ok(raw) = source.open() else { return false };
    let (mut raw, mut line) = (raw.take(jsonl::MAX_LINE_BYTES as u64), Vec::new());
    while raw.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if !line.trim_ascii().is_empty() {
            return jsonl::is_example(&line, text_field);
        }
        line.clear();
    }
    false
}

/// Looks at the beginning of a file.
fn inspect(source: &Source, fields: &Fields) -> Result<()> {
    let mut prefix = Vec::new();
    let raw = source.open()?;
    raw.take(PREFIX_BYTES as u64).read_to_end(&mut prefix).map_err(|e| source.read_error(&e))?;
    if prefix.starts_with(&[0xff, 0xfe]) || prefix.starts_with(&[0xfe, 0xff]) {
        let error = source.error("found UTF-16 text, expected UTF-8");
        return Err(error.hint("convert it with iconv -f utf-16 -t utf-8"));
    }
    if let Some(at) = memchr::memchr(0, &prefix) {
        return Err(source.binary(at as u64));
    }
    let whole = prefix.len() < PREFIX_BYTES;
    if let Err(error) = std::str::from_utf8(&prefix)
        && (error.error_len().is_some() || whole)
    {
        return Err(source.not_utf8(error.valid_up_to() as u64));
    }
    if source.format == Format::JsonLines {
        let line = match memchr::memchr(b'\n', &prefix) {
            Some(end) => &prefix[..end],
            None if whole => &prefix[..],
            None => return Ok(()),
        };
        match fields {
            Fields::Text(field) => jsonl::document(line, field, source, 1).map(drop)?,
            Fields::Example => jsonl::example(line, source, 1).map(drop)?,
        }
    }
    Ok(())
}
