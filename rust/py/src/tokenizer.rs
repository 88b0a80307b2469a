//! A tokenizer.

use crate::args::{Given, Text, Written, shown_value};
use crate::errors::{detached, to_py};
use crate::records::records;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use std::sync::Arc;
use symlm_core::{Error, data};

records! {
    /// A prompt and its completion as one text.
    EncodedPair {
        /// Token ids of both.
        ids: Vec<u32>,
        /// How many of the ids, the last ones, are the completion.
        completion: usize,
    }
}

/// Byte-level BPE tokenizer.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Tokenizer(pub Arc<data::Tokenizer>);

impl Tokenizer {
    pub(crate) fn of(tokenizer: data::Tokenizer) -> Self {
        Self(Arc::new(tokenizer))
    }

    /// Token ids that have a text; `UsageError` with the first that has none, and the range.
    fn known(&self, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        let wrong = |found: &Bound<'_, PyAny>| {
            let (found, last) = (shown_value(found), self.0.decodable().saturating_sub(1));
            to_py(ids.py(), Error::usage(format!("found {found}, expected token ids from 0 to {last}")))
        };
        if ids.is_instance_of::<PyString>() || ids.is_instance_of::<PyBytes>() {
            return Err(wrong(ids));
        }
        let id = |item: PyResult<Bound<'_, PyAny>>| {
            let item = item?;
            let id = item.extract::<u32>().ok().filter(|&id| self.0.token(id).is_some());
            id.ok_or_else(|| wrong(&item))
        };
        ids.try_iter().map_err(|_| wrong(ids))?.map(id).collect()
    }
}

#[pymethods]
impl Tokenizer {
    /// Reads a tokenizer.json.
    #[staticmethod]
    fn from_file(py: Python<'_>, path: Written) -> PyResult<Self> {
        detached(py, || data::Tokenizer::from_file(&path)).map(Self::of)
    }
    /// Reads the tokenizer.json of a model, of whatever kind.
    #[staticmethod]
    #[pyo3(
        signature = (path, eos_id, embedded, bos_id = Given(None)),
        text_signature = "(path, eos_id, embedded, bos_id=None)"
    )]
    fn of_model(
        py: Python<'_>,
        path: Written,
        eos_id: Given<Option<u32>>,
        embedded: Given<Option<usize>>,
        bos_id: Given<Option<u32>>,
    ) -> PyResult<Self> {
        let tokenizer = detached(py, || data::Tokenizer::of_model(&path, *eos_id, *embedded))?;
        Ok(Self::of(tokenizer.with_bos(*bos_id)))
    }
    /// Writes tokenizer.json.
    fn save(&self, py: Python<'_>, path: Written) -> PyResult<()> {
        detached(py, || self.0.save(&path))
    }
    /// Token ids of a text that a model is to continue, at least one.
    fn encode_prompt(&self, py: Python<'_>, text: Text<'_>) -> PyResult<Vec<u32>> {
        detached(py, || self.0.encode_prompt(&text))
    }
    /// Token ids of a prompt and its completion as one text.
    fn encode_pair(&self, py: Python<'_>, prompt: Text<'_>, completion: Text<'_>) -> PyResult<EncodedPair> {
        let (ids, completion) = detached(py, || self.0.encode_pair(&prompt, &completion))?;
        Ok(EncodedPair { ids, completion })
    }
    /// Token ids of a text that a chat template wrote out: special tokens count wherever they stand, none is added.
    fn encode_rendered(&self, py: Python<'_>, text: Text<'_>) -> PyResult<Vec<u32>> {
        detached(py, || self.0.encode_rendered(&text))
    }
    /// Ids of the tokens that are never part of a text, ascending.
    #[getter]
    fn special_ids(&self) -> Vec<u32> {
        self.0.special_ids().to_vec()
    }
    /// Token ids of a text; special tokens are never added.
    fn encode(&self, py: Python<'_>, text: Text<'_>) -> PyResult<Vec<u32>> {
        detached(py, || self.0.encode(&text))
    }
    /// Text of token ids; bytes that are not UTF-8 become U+FFFD.
    fn decode(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let ids = self.known(ids)?;
        detached(py, || self.0.decode(&ids))
    }
    /// Bytes of token ids.
    fn decode_bytes<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let ids = self.known(ids)?;
        Ok(PyBytes::new(py, &self.0.decode_bytes(&ids).map_err(|e| to_py(py, e))?))
    }
    /// Number of token ids.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }
    /// Id of the token between documents.
    #[getter]
    fn eot_id(&self) -> Option<u32> {
        self.0.eot_id()
    }
    /// What begins every document in front of its text.
    #[getter]
    fn document_start(&self) -> Vec<u32> {
        self.0.document_start().to_vec()
    }
    /// Whether the beginning of a text is encoded otherwise than the same characters within one.
    #[getter]
    fn marks_beginning(&self) -> bool {
        self.0.marks_beginning()
    }
    /// SHA-256 of tokenizer.json.
    #[getter]
    fn sha256(&self) -> String {
        self.0.sha256().to_owned()
    }
}
