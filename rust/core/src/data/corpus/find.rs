//! Finding the files of a corpus.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dataset::{is_dataset, tables};
use super::fields::{Shape, shape};
use super::format::{Format, MAX_RECORD_BYTES};
use super::names::{LOOK_BYTES, is_hidden, is_perhaps_text, is_text_name};
use super::own::{has_own_fields, is_own_file, is_own_folder};
use super::pattern::{BRACKETS, MAX_DEPTH, expand, is_pattern};
use super::records::Records;
use super::source::Source;
use super::spool::pipe;
use super::values::names;
use super::wanted::Wanted;
use crate::error::{Error, Result};
use crate::foreign::HEAD_BYTES;
use crate::system::files::{entries, head, is_file, metadata};

/// So many of the things that are left out are named.
const NAMED: usize = 3;

/// The files found so far, and what of symlm's own was left out.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) sources: Vec<Source>,
    wanted: Arc<Wanted>,
    own_folders: Vec<PathBuf>,
    own_files: Vec<PathBuf>,
    /// Tables without a column of text.
    others: Vec<PathBuf>,
}

impl Found {
    /// Nothing yet; `wanted` is what tables are asked for.
    pub(crate) fn new(wanted: Arc<Wanted>) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Adds the files that `path` stands for: a file, a folder, a pattern or a pipe.
    pub(crate) fn add(&mut self, path: &Path, text_field: &str) -> Result<()> {
        match metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let before = (self.sources.len(), self.left_out());
                self.add_folder(path, text_field)?;
                if self.sources.len() > before.0 { Ok(()) } else { Err(self.nothing(path, before.1)) }
            }
            Ok(metadata) if metadata.is_file() => {
                self.sources.push(Source::file(path.to_owned(), metadata.len(), &self.wanted));
                Ok(())
            }
            // A pipe (`<(command)`) or a device: can be read only once, so it is copied.
            Ok(_) => {
                self.sources.push(pipe(path, &self.wanted)?);
                Ok(())
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::cannot_read(path, &error)),
            Err(_) if is_pattern(path.as_os_str()) => self.add_pattern(path, text_field),
            Err(_) => {
                let error = format!("found no file or folder at {}, expected a corpus path", path.display());
                Err(Error::data(error).hint("check the spelling and the current folder"))
            }
        }
    }

    fn left_out(&self) -> usize {
        self.own_folders.len() + self.own_files.len()
    }

    fn add_pattern(&mut self, pattern: &Path, text_field: &str) -> Result<()> {
        let mut paths = expand(pattern.as_os_str())?;
        if paths.is_empty() {
            let error = Error::data(format!("found nothing that matches {}, expected text files", pattern.display()));
            let bracket = pattern.as_os_str().as_encoded_bytes().contains(&b'[');
            return Err(if bracket { error.hint(BRACKETS) } else { error });
        }
        sort_by_bytes(&mut paths);
        let before = (self.sources.len(), self.left_out());
        let base = pattern.iter().take_while(|part| !is_pattern(part)).count();
        let mut known = HashMap::new();
        for path in paths {
            let own =
                path.ancestors().skip(1).filter(|folder| folder.iter().count() >= base).find(|folder| {
                    *known.entry(folder.to_path_buf()).or_insert_with(|| is_own_folder(or_here(folder)))
                });
            if let Some(folder) = own {
                let folder = or_here(folder).to_owned();
                if !self.own_folders.contains(&folder) {
                    self.own_folders.push(folder);
                }
                continue;
            }
            let metadata = metadata(&path).map_err(|e| Error::cannot_read(&path, &e))?;
            if metadata.is_dir() {
                // One without text is passed over, as where the folder above is named.
                self.add_folder(&path, text_field)?;
            } else if metadata.is_file() {
                let source = Source::file(path, metadata.len(), &self.wanted);
                if is_own(&source) {
                    self.own_files.push(source.path);
                } else {
                    self.sources.push(source);
                }
            }
        }
        if self.sources.len() > before.0 { Ok(()) } else { Err(self.nothing(pattern, before.1)) }
    }

    fn add_folder(&mut self, folder: &Path, text_field: &str) -> Result<()> {
        if is_dataset(folder) {
            for path in tables(folder)? {
                let metadata = metadata(&path).map_err(|e| Error::cannot_read(&path, &e))?;
                self.sources.push(Source::file(path, metadata.len(), &self.wanted));
            }
            return Ok(());
        }
        let mut paths = Vec::new();
        self.walk(folder, 0, &mut paths)?;
        sort_by_bytes(&mut paths);
        for path in paths {
            let metadata = metadata(&path).map_err(|e| Error::cannot_read(&path, &e))?;
            let mut source = Source::file(path, metadata.len(), &self.wanted);
            if is_perhaps_text(&source.path) && !holds_text(&mut source, text_field)? {
                if source.format.has_rows() {
                    self.others.push(source.path);
                }
                continue;
            }
            if is_own(&source) {
                self.own_files.push(source.path);
            } else {
                self.sources.push(source);
            }
        }
        Ok(())
    }

    fn walk(&mut self, folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::data(format!("{}: folders are nested deeper than {MAX_DEPTH}", folder.display())));
        }
        if is_own_folder(folder) {
            // Nothing is left out of a run that has only begun.
            if has_text_name(folder, 0) && !self.own_folders.iter().any(|known| known == folder) {
                self.own_folders.push(folder.to_owned());
            }
            return Ok(());
        }
        if is_dataset(folder) {
            paths.extend(tables(folder)?);
            return Ok(());
        }
        let entries = entries(folder).map_err(|e| Error::cannot_read(folder, &e))?;
        for entry in entries {
            let entry = entry.map_err(|e| Error::cannot_read(folder, &e))?;
            if is_hidden(&entry.file_name()) {
                continue;
            }
            let path = entry.path();
            let kind = entry.file_type().map_err(|e| Error::cannot_read(&path, &e))?;
            if kind.is_dir() {
                self.walk(&path, depth + 1, paths)?;
            } else if (is_text_name(&path) || is_perhaps_text(&path)) && (kind.is_file() || is_file(&path)) {
                paths.push(path);
            }
        }
        Ok(())
    }

    /// The error of a folder or a pattern without text.
    fn nothing(&self, path: &Path, before: usize) -> Error {
        let (path, extensions) =
            (path.display(), "expected .txt, .md, .py, .jsonl or one of them with .gz, .zst, .xz or .bz2");
        if self.left_out() > before {
            let error = format!("found nothing in {path} but what symlm wrote ({}), {extensions}", self.listed());
            return Error::data(error).hint("a file that is named is taken, whoever wrote it");
        }
        Error::data(format!("found no text files in {path}, {extensions}")).hint(
            "files with other extensions can be named one by one or by a glob; .json, .csv, .tsv and .parquet are taken from a \
             folder only if they have the text or an example",
        )
    }

    /// What was left out; `None` if nothing was.
    pub(crate) fn note(&self) -> Option<String> {
        let count = |count: usize, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            _ => Some(format!("{count} {what}s")),
        };
        let counts = [count(self.own_folders.len(), "folder"), count(self.own_files.len(), "file")];
        let counts: Vec<_> = counts.into_iter().flatten().collect();
        let own = (!counts.is_empty())
            .then(|| format!("left out {} that symlm wrote: {}", counts.join(" and "), self.listed()));
        let tables = count(self.others.len(), "table").map(|counted| {
            let names: Vec<_> = self.others.iter().take(NAMED).map(|path| plain(path).display().to_string()).collect();
            let more = if self.others.len() > NAMED { ", .." } else { "" };
            format!("left out {counted} without text or examples: {}{more}", names.join(", "))
        });
        let notes: Vec<_> = own.into_iter().chain(tables).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    fn listed(&self) -> String {
        // A folder on disk lists its entries in any order.
        let (mut folders, mut files) = (self.own_folders.clone(), self.own_files.clone());
        sort_by_bytes(&mut folders);
        sort_by_bytes(&mut files);
        let named = folders.iter().chain(&files).take(NAMED);
        let names: Vec<_> = named.map(|path| plain(path).display().to_string()).collect();
        let more = self.left_out().saturating_sub(NAMED);
        if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
    }
}

/// A path without the `.` that it begins with.
fn plain(path: &Path) -> &Path {
    path.strip_prefix(".").ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(path)
}

fn or_here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

fn sort_by_bytes(paths: &mut [PathBuf]) {
    paths.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
}

/// Whether a file in a folder, or below it, is called like a text.
fn has_text_name(folder: &Path, depth: usize) -> bool {
    let files = entries(folder).into_iter().flatten().flatten();
    files.map(|entry| entry.path()).any(|path| is_text_name(&path) && is_file(&path))
        || subfolders(folder).any(|path| depth < MAX_DEPTH && has_text_name(&path, depth + 1))
}

fn subfolders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = entries(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| !is_hidden(&entry.file_name()) && entry.file_type().is_ok_and(|t| t.is_dir()));
    folders.map(|entry| entry.path())
}

/// Whether a file that was searched for is one that symlm wrote.
fn is_own(source: &Source) -> bool {
    let look = if is_text_name(&source.path) { HEAD_BYTES } else { LOOK_BYTES };
    let Ok(head) = head(&source.path, look) else { return false };
    if is_own_file(&source.path, &head) {
        return true;
    }
    source.format == Format::Json
        && !source.packing.is_packed()
        && has_own_fields(&first_record(source, names).unwrap_or_default())
}

/// Whether a file of JSON begins with a text or an example, or a table has such columns. A table that cannot be read is an
/// error: unlike most files of JSON it was meant as data.
fn holds_text(source: &mut Source, text_field: &str) -> Result<bool> {
    if let Err(error) = source.identify() {
        return if source.format.has_rows() { Err(error) } else { Ok(false) };
    }
    let found = if source.format.has_rows() {
        let mut records = Records::of(source, MAX_RECORD_BYTES)?;
        records.next(source)?.map(|_| shape(records.record(), text_field))
    } else {
        first_record(source, |record| shape(record, text_field))
    };
    Ok(matches!(found, Some(Shape::Text | Shape::Example | Shape::Chat(_))))
}

/// What `look` finds in the first object of a file; `None` if there is none. What is wrong with the file shows later.
pub(crate) fn first_record<T>(source: &Source, look: impl Fn(&[u8]) -> T) -> Option<T> {
    let mut records = Records::of(source, MAX_RECORD_BYTES).ok()?;
    records.next(source).ok()??;
    Some(look(records.record()))
}
