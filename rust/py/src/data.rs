//! Corpus, shards.

use crate::args::{Given, Location, Text};
use crate::errors::{detached, signals, with_progress};
use crate::objects::Objects;
use crate::records::{records, shown};
use crate::settings::Attention;
use crate::tokenizer::Tokenizer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::Path;
use std::sync::Arc;
use symlm_core::config::Attend;
use symlm_core::{Error, data};

records! {
    /// The names by which something that symlm writes is known.
    OwnNames {
        /// What it is.
        what: &'static str,
        /// Entries of a folder, or fields of a JSON file.
        names: Vec<&'static str>,
        /// What the first of the entries has near its beginning; empty where its name says enough.
        mark: &'static str,
    }
    /// What tells the folders and files that symlm writes from texts.
    OwnOutput {
        /// Folders by their entries.
        folders: Vec<OwnNames>,
        /// The lock of a run.
        lock: &'static str,
        /// What a run begins with.
        begun: Vec<&'static str>,
        /// Beginnings of the names of unfinished files.
        unfinished: Vec<&'static str>,
        /// The beginning of the names of event files.
        events: &'static str,
        /// JSON files by their fields.
        fields: Vec<OwnNames>,
    }
}

/// What tells the folders and files that symlm writes from texts.
#[pyfunction]
pub fn own_output() -> OwnOutput {
    let named =
        |&(what, of, mark): &(&'static str, &[&'static str], &'static str)| OwnNames { what, names: of.to_vec(), mark };
    OwnOutput {
        folders: data::OWN_FOLDERS.iter().map(named).collect(),
        lock: data::LOCK,
        begun: data::BEGUN.to_vec(),
        unfinished: data::UNFINISHED.to_vec(),
        events: data::EVENTS,
        fields: data::OWN_FIELDS.iter().map(|&(what, of)| named(&(what, of, ""))).collect(),
    }
}

/// The encoded text of a corpus.
#[pyclass(frozen, get_all, module = "symlm._symlm")]
pub struct SplitShards {
    /// What is trained on.
    train: Py<Shards>,
    /// What is held out for validation; None where nothing is.
    val: Option<Py<Shards>>,
}

#[pymethods]
impl SplitShards {
    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        shown(this.as_any(), &["train", "val"])
    }
}

/// An inspected list of text sources.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Corpus(data::Corpus);

#[pymethods]
impl Corpus {
    /// Files, folders, globs or "-"; fails early on what cannot be text. `tables` is the command that reads Parquet and Arrow.
    #[staticmethod]
    #[pyo3(
        signature = (paths, text_field = Text("text"), data_format = Text("auto"), tables = Vec::new()),
        text_signature = "(paths, text_field='text', data_format='auto', tables=())"
    )]
    fn open(
        py: Python<'_>,
        paths: Vec<Location>,
        text_field: Text<'_>,
        data_format: Text<'_>,
        tables: Vec<Location>,
    ) -> PyResult<Self> {
        let tables: Vec<_> = tables.into_iter().map(|word| word.into_path().into_os_string()).collect();
        let paths: Vec<_> = paths.into_iter().map(Location::into_path).collect();
        detached(py, || {
            let format = data::DataFormat::from_name(&data_format)?;
            data::Corpus::open_interruptible(&paths, &text_field, format, tables, signals())
        })
        .map(Self)
    }
    /// What was left out since symlm wrote it, in words.
    #[getter]
    fn note(&self) -> Option<&str> {
        self.0.note()
    }
    /// The first file that is taken as a plain text although it begins like JSON of texts or examples.
    #[getter]
    fn like_json(&self) -> Option<&Path> {
        self.0.like_json()
    }
    /// Characters that are half of a surrogate pair and were read as U+FFFD; 0 where the text came from the cache.
    #[getter]
    fn halves(&self) -> u64 {
        self.0.halves()
    }
    /// Documents without text, which are left out; 0 where the text came from the cache.
    #[getter]
    fn empty(&self) -> u64 {
        self.0.empty()
    }
    /// Reads all text for what it tells.
    fn read_through(&self, py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<()> {
        with_progress(py, progress, |p| self.0.read_through(p))
    }
    /// Number of files.
    #[getter]
    fn files(&self) -> usize {
        self.0.files()
    }
    /// Where the files are, in the order in which they are read.
    #[getter]
    fn paths(&self) -> Vec<&Path> {
        self.0.paths().collect()
    }
    /// Bytes on disk.
    #[getter]
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }
    /// What a document is: a "text", a prompt and a "completion", or a conversation in one of its forms.
    #[getter]
    fn data_format(&self) -> &'static str {
        self.0.data_format()
    }
    /// Whether it is a conversation, which a template has to write out before it can be encoded.
    #[getter]
    fn is_chat(&self) -> bool {
        self.0.chat().is_some()
    }
    /// The conversations, as JSON.
    fn conversations(&self, py: Python<'_>) -> PyResult<Objects> {
        detached(py, || self.0.conversations()).map(Objects::of_corpus)
    }
    /// Trains a byte-level BPE on a bounded sample; `special` tokens stand behind the others.
    #[pyo3(
        signature = (vocab_size, threads, progress, special = Vec::new()),
        text_signature = "($self, vocab_size, threads, progress, special=())"
    )]
    fn train_tokenizer(
        &self,
        py: Python<'_>,
        vocab_size: Given<usize>,
        threads: Given<usize>,
        progress: Option<Py<PyAny>>,
        special: Vec<String>,
    ) -> PyResult<Tokenizer> {
        let train = |p: &mut dyn FnMut(u64, u64) -> symlm_core::Result<()>| {
            self.0.train_tokenizer_with(*vocab_size, &special, *threads, p)
        };
        with_progress(py, progress, train).map(Tokenizer::of)
    }
    /// The tokens that each example takes of its window, in order, as 32-bit little-endian numbers.
    fn example_lengths<'py>(
        &self,
        py: Python<'py>,
        tokenizer: &Tokenizer,
        seq_len: Given<usize>,
        threads: Given<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let run = |p: &mut dyn FnMut(u64, u64) -> symlm_core::Result<()>| {
            self.0.example_lengths(&tokenizer.0, *seq_len, *threads, p)
        };
        let lengths = with_progress(py, progress, run)?;
        let raw: Vec<u8> = lengths.into_iter().flat_map(u32::to_le_bytes).collect();
        Ok(PyBytes::new(py, &raw))
    }
    /// Encodes into shards of training and validation tokens, or finds them in the cache; `attend` is what they are for.
    #[pyo3(
        signature = (tokenizer, cache_dir, val_split, seq_len, threads, progress, attend = Attention(Attend::Window)),
        text_signature = "($self, tokenizer, cache_dir, val_split, seq_len, threads, progress, attend='window')"
    )]
    #[allow(clippy::too_many_arguments)]
    fn prepare(
        &self,
        py: Python<'_>,
        tokenizer: &Tokenizer,
        cache_dir: Location,
        val_split: Given<f64>,
        seq_len: Given<usize>,
        threads: Given<usize>,
        progress: Option<Py<PyAny>>,
        attend: Attention,
    ) -> PyResult<SplitShards> {
        let run = |p: &mut dyn FnMut(u64, u64) -> symlm_core::Result<()>| {
            self.0.prepare_for(attend.0, &tokenizer.0, &cache_dir, *val_split, *seq_len, *threads, p)
        };
        let (train, val) = with_progress(py, progress, run)?;
        let shards = |shards| Py::new(py, Shards(Arc::new(shards)));
        Ok(SplitShards { train: shards(train)?, val: val.map(shards).transpose()? })
    }
}

/// Token ids on disk.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Shards(pub Arc<data::Shards>);

#[pymethods]
impl Shards {
    /// Writes a shard of random ids, for measurements.
    #[staticmethod]
    fn random(
        py: Python<'_>,
        path: Location,
        vocab_size: Given<u32>,
        tokens: Given<u64>,
        seed: Given<u64>,
    ) -> PyResult<Self> {
        detached(py, || data::Shards::random(&path, *vocab_size, *tokens, *seed)).map(|shards| Self(Arc::new(shards)))
    }
    /// The shard of a file, which is checked; `tokenizer` is what encoded it.
    #[staticmethod]
    fn open(py: Python<'_>, path: Location, tokenizer: &Tokenizer) -> PyResult<Self> {
        let open = || Ok(data::Shards::open(&path)?.encoded_by(&tokenizer.0));
        detached(py, open).map(|shards| Self(Arc::new(shards)))
    }
    /// Number of token ids.
    #[getter]
    fn tokens(&self) -> u64 {
        self.0.tokens()
    }
    /// Number of token ids that count as targets: those of completions, or all of a text.
    #[getter]
    fn targets(&self) -> u64 {
        self.0.targets()
    }
    /// Token ids of a window where they are cut into windows, of whole examples each.
    #[getter]
    fn window(&self) -> Option<u64> {
        self.0.window()
    }
    /// Examples of which a part was left out, since they are longer than a window.
    #[getter]
    fn cut(&self) -> u64 {
        self.0.cut()
    }
    /// UTF-8 bytes of the text, or of the completions.
    #[getter]
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }
    /// Number of documents, or examples.
    #[getter]
    fn documents(&self) -> u64 {
        self.0.documents()
    }
    /// SHA-256 of the ids.
    #[getter]
    fn sha256(&self) -> String {
        self.0.sha256()
    }
    /// The file.
    #[getter]
    fn path(&self) -> &Path {
        self.0.path()
    }
    /// `count` words from `start` as little-endian u32: ids, with the highest bit where they do not count as targets.
    fn words<'py>(&self, py: Python<'py>, start: u64, count: usize) -> PyResult<Bound<'py, PyBytes>> {
        let words = detached(py, || {
            if start.checked_add(count as u64).is_none_or(|end| end > self.0.tokens()) {
                let tokens = self.0.tokens();
                return Err(symlm_core::Error::usage(format!("ids {start}+{count} found, expected up to {tokens}")));
            }
            let mut words = vec![0; count];
            self.0.copy_words(start, &mut words)?;
            Ok(words.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
        })?;
        Ok(PyBytes::new(py, &words))
    }
    /// `count` ids from `start`; with `masked` those that do not count as targets are negative: -1 - id.
    #[pyo3(signature = (start, count, *, masked = false))]
    fn ids(&self, py: Python<'_>, start: Given<u64>, count: Given<usize>, masked: bool) -> PyResult<Vec<i64>> {
        let (start, count) = (*start, *count);
        let fits = start.checked_add(count as u64).is_some_and(|end| end <= self.0.tokens());
        detached(py, || {
            if !fits {
                let tokens = self.0.tokens();
                return Err(Error::usage(format!("ids {start}+{count} found, expected up to {tokens}")));
            }
            let mut ids = vec![0; count];
            self.0.copy_words(start, &mut ids)?;
            let context = |word: u32| word & data::CONTEXT != 0;
            let id = |word: u32| i64::from(word & !data::CONTEXT);
            Ok(ids.into_iter().map(|word| if masked && context(word) { -1 - id(word) } else { id(word) }).collect())
        })
    }
}
