//! Text generation.

use crate::args::{Given, Location, Text};
use crate::batch::Batch;
use crate::errors::detached;
use crate::settings::{ModelShape, SampleSettings};
use crate::tokenizer::Tokenizer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Mutex, PoisonError};
use symlm_core::generate::{self, BatchOptions, Model, Session};
use symlm_core::system::machine;
use symlm_core::{Error, limits};

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
    /// Reads weights; those of matrices are quantised to 8 bits.
    #[staticmethod]
    fn from_weights8(py: Python<'_>, shape: &ModelShape, safetensors_path: Location) -> PyResult<Self> {
        detached(py, || Model::load8(&shape.0, integers()?, &safetensors_path)).map(Self::new)
    }
    /// Bytes of weights that are read for a token.
    #[getter]
    fn token_bytes(&self) -> usize {
        self.0.token_bytes()
    }
    /// Threads that generate fastest on this machine.
    #[getter]
    fn threads(&self) -> usize {
        self.0.threads()
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
    /// the model, a text that is longer continues from its last half. `prefix_bytes` of keys and values of texts that have left
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

/// The instructions for products with 8-bit weights.
fn integers() -> symlm_core::Result<symlm_kernels::Integers> {
    machine::active_integers(machine::active_isa()?)
}

/// Bytes a second that so many threads read of a block of memory, the best of some passes over it.
#[pyfunction]
pub fn read_bandwidth(py: Python<'_>, threads: Given<usize>, block: Given<usize>) -> PyResult<f64> {
    detached(py, || generate::read_bandwidth(machine::active_isa()?, (*threads).clamp(1, limits::MAX_THREADS), *block))
}

/// The 8-bit weights of a model, set one by one.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Weights8(Mutex<Option<generate::Weights8>>);

#[pymethods]
impl Weights8 {
    /// Nothing set yet.
    #[new]
    #[pyo3(text_signature = "(shape)")]
    fn new(py: Python<'_>, shape: &ModelShape) -> PyResult<Self> {
        let weights = detached(py, || generate::Weights8::new(&shape.0, integers()?))?;
        Ok(Self(Mutex::new(Some(weights))))
    }
    /// Sets a tensor from little-endian f32 values, row by row; a matrix is quantised.
    fn set_values(&self, py: Python<'_>, name: Text<'_>, values: &[u8]) -> PyResult<()> {
        let (floats, rest) = values.as_chunks::<4>();
        let floats: Vec<f32> = floats.iter().map(|x| f32::from_le_bytes(*x)).collect();
        detached(py, || match rest.is_empty() {
            true => self.with(|weights| weights.set_values(weights.number(&name)?, &floats)),
            false => Err(Error::data(format!("{}: found {} bytes, expected f32", &*name, values.len()))),
        })
    }
    /// Sets a matrix from blocks of Q8_0, row by row.
    fn set_blocks(&self, py: Python<'_>, name: Text<'_>, blocks: &[u8]) -> PyResult<()> {
        detached(py, || self.with(|weights| weights.set_blocks(weights.number(&name)?, blocks)))
    }
    /// The model, when every tensor has been set; these weights are then used up.
    fn finish(&self, py: Python<'_>) -> PyResult<Generator> {
        detached(py, || {
            let weights = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            Model::of_bytes(weights.ok_or_else(used_up)?)
        })
        .map(Generator::new)
    }
}

impl Weights8 {
    fn with(&self, f: impl FnOnce(&mut generate::Weights8) -> symlm_core::Result<()>) -> symlm_core::Result<()> {
        f(self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut().ok_or_else(used_up)?)
    }
}

fn used_up() -> Error {
    Error::usage("these weights are a model already")
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
