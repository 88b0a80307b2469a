//! Text generation.

use crate::args::{Given, Location, Text};
use crate::batch::Batch;
use crate::data::Tokenizer;
use crate::errors::detached;
use crate::settings::{ModelShape, SampleSettings};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex, PoisonError};
use symlm_core::generate::{self, BatchOptions, Model, Session};
use symlm_core::limits;
use symlm_core::system::machine;

/// An immutable model that generates.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Generator(Arc<Model>);

impl Generator {
    /// Wraps a model.
    pub fn new(model: Model) -> Self {
        Self(Arc::new(model))
    }
}

#[pymethods]
impl Generator {
    /// Reads weights.
    #[staticmethod]
    fn from_weights(py: Python<'_>, shape: &ModelShape, safetensors_path: Location) -> PyResult<Self> {
        detached(py, || Model::load(&shape.0, machine::active_isa()?, &safetensors_path)).map(Self::new)
    }
    /// Little-endian f32 logits, len(ids) x vocabulary, or the `last` rows of them.
    #[pyo3(signature = (ids, last = Given(None)), text_signature = "($self, ids, last=None)")]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        ids: Given<Vec<u32>>,
        last: Given<Option<usize>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let logits = detached(py, || Session::new(&self.0)?.last_logits(&ids, last.unwrap_or(ids.len())))?;
        let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(PyBytes::new(py, &bytes))
    }
    /// A batch for so many texts at a time, each of at most `context` tokens. With `roll`, for which `context` must be all positions of
    /// the model, a text that is longer goes on with its last half. `prefix_bytes` of keys and values of texts that have left
    /// are kept for prompts that begin alike.
    #[pyo3(
        signature = (slots, context, *, roll = false, prefix_bytes = Given(0), threads = Given(None)),
        text_signature = "($self, slots, context, *, roll=False, prefix_bytes=0, threads=None)"
    )]
    fn batch(
        &self,
        py: Python<'_>,
        slots: Given<usize>,
        context: Given<usize>,
        roll: bool,
        prefix_bytes: Given<usize>,
        threads: Given<Option<usize>>,
    ) -> PyResult<Batch> {
        detached(py, || {
            let threads = threads.unwrap_or_else(|| self.0.threads()).clamp(1, limits::MAX_THREADS);
            let (slots, context, prefix_bytes) = (*slots, *context, *prefix_bytes);
            Batch::of(&self.0, BatchOptions { slots, context, roll, prefix_bytes, threads })
        })
    }
    /// Token ids that continue `ids`.
    fn stream(&self, py: Python<'_>, ids: Given<Vec<u32>>, settings: &SampleSettings) -> PyResult<TokenStream> {
        let stream = detached(py, || generate::TokenStream::new(&self.0, &ids, settings.0.clone()))?;
        Ok(TokenStream::of(stream))
    }
    /// Token ids that continue a text; the first of them repeat the white space at its end.
    fn stream_behind(
        &self,
        py: Python<'_>,
        tokenizer: &Tokenizer,
        text: Text<'_>,
        settings: &SampleSettings,
    ) -> PyResult<TokenStream> {
        let stream = detached(py, || generate::TokenStream::behind(&self.0, &tokenizer.0, &text, settings.0.clone()))?;
        Ok(TokenStream::of(stream))
    }
}

/// Iterator of token ids.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct TokenStream {
    stream: Mutex<generate::TokenStream>,
    /// How many bytes of the tokens, the first ones, repeat the prompt.
    #[pyo3(get)]
    repeated: usize,
}

impl TokenStream {
    fn of(stream: generate::TokenStream) -> Self {
        Self { repeated: stream.repeated(), stream: Mutex::new(stream) }
    }
}

#[pymethods]
impl TokenStream {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<u32>> {
        detached(py, || self.stream.lock().unwrap_or_else(PoisonError::into_inner).next().transpose())
    }
}
