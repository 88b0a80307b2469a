//! Objects of JSON, one by one.

use crate::args::{Given, Location};
use crate::errors::{detached, signals};
use crate::records::records;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use symlm_core::data;

records! {
    /// An object of a file.
    JsonObject {
        /// Its number, from 1.
        number: u64,
        /// Where it stands, in words.
        place: String,
        /// Its text, of the fields that were asked for.
        json: String,
    }
}

/// A file of JSON objects, of whatever name and form; iterated from its beginning every time.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct ObjectFile {
    file: data::ObjectFile,
    most: usize,
}

#[pymethods]
impl ObjectFile {
    /// Opens a file, a pipe, or "-"; of each object only `fields` are given, and none may have more than `most` bytes.
    /// `tables` is the command that reads Parquet and Arrow.
    #[staticmethod]
    #[pyo3(signature = (path, fields, most, tables = Vec::new()), text_signature = "(path, fields, most, tables=())")]
    fn open(
        py: Python<'_>,
        path: Location,
        fields: Vec<String>,
        most: Given<usize>,
        tables: Vec<PathBuf>,
    ) -> PyResult<Self> {
        let tables: Vec<_> = tables.into_iter().map(PathBuf::into_os_string).collect();
        let file = detached(py, || data::ObjectFile::open(&path, &fields, tables, signals()))?;
        Ok(Self { file, most: *most })
    }
    fn __iter__(&self, py: Python<'_>) -> PyResult<Objects> {
        detached(py, || self.file.objects(self.most)).map(Objects::of_file)
    }
}

/// What [`Objects`] reads.
enum Reader {
    File(data::Objects),
    Corpus(data::Conversations),
}

/// The objects of a file, or the conversations of a corpus, one by one.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Objects(Mutex<Reader>);

impl Objects {
    fn of_file(objects: data::Objects) -> Self {
        Self(Mutex::new(Reader::File(objects)))
    }

    pub(crate) fn of_corpus(conversations: data::Conversations) -> Self {
        Self(Mutex::new(Reader::Corpus(conversations)))
    }

    /// Called without the GIL: whoever has the lock may look at signals, and waits for the GIL then.
    fn reader(&self) -> MutexGuard<'_, Reader> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Objects {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<JsonObject>> {
        let next = detached(py, || match &mut *self.reader() {
            Reader::File(objects) => objects.next_object(),
            Reader::Corpus(conversations) => conversations.next_conversation(),
        })?;
        Ok(next.map(|o| JsonObject { number: o.number, place: o.place, json: o.json }))
    }
    /// Bytes read so far: of a file unpacked, of a corpus on disk.
    #[getter]
    fn bytes(&self, py: Python<'_>) -> u64 {
        py.detach(|| match &*self.reader() {
            Reader::File(objects) => objects.bytes(),
            Reader::Corpus(conversations) => conversations.bytes(),
        })
    }
    /// Characters so far that are half of a surrogate pair, given as U+FFFD.
    #[getter]
    fn halves(&self, py: Python<'_>) -> u64 {
        py.detach(|| match &*self.reader() {
            Reader::File(objects) => objects.halves(),
            Reader::Corpus(conversations) => conversations.halves(),
        })
    }
}
