//! Texts that are written together.

use crate::args::{Given, Text};
use crate::errors::{Failure, detached};
use crate::records::records;
use crate::settings::SampleSettings;
use crate::tokenizer::Tokenizer;
use pyo3::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};
use symlm_core::Result;
use symlm_core::generate::{self, BatchOptions, End, Prompt};

records! {
    /// A token that a step of a batch drew.
    Drawn {
        /// The slot of its text.
        slot: usize,
        /// None of a text that was to have no tokens, or that failed.
        token: Option<u32>,
        /// Whether the text ends here.
        finished: bool,
        /// Why: "stop" (the token ends texts and is not part of this one), "length" (of `max_new_tokens`) or "context".
        why: Option<&'static str>,
        /// Why the text failed, which ends it too.
        error: Option<Failure>,
        /// Natural logarithm of the token's probability, whatever the sampling settings; None if it was not asked for.
        logprob: Option<f64>,
        /// The most likely tokens with theirs, as many as were asked for.
        top: Vec<(u32, f64)>,
    }
}

impl From<generate::Drawn> for Drawn {
    fn from(drawn: generate::Drawn) -> Self {
        let finished = drawn.is_last();
        let generate::Drawn { slot, token, end, error, logprob, top } = drawn;
        let why = end.map(|end| match end {
            End::Stop => "stop",
            End::Length => "length",
            End::Context => "context",
        });
        Self { slot, token, finished, why, error: error.map(Failure), logprob, top }
    }
}

/// Texts in slots, continued together.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Batch {
    batch: Mutex<generate::Batch>,
    options: BatchOptions,
    vocab: usize,
}

impl Batch {
    /// A batch of a model.
    pub fn of(model: &std::sync::Arc<generate::Model>, options: BatchOptions) -> Result<Self> {
        let batch = Mutex::new(generate::Batch::new(model, options)?);
        Ok(Self { batch, options, vocab: model.config().vocab_size })
    }

    fn lock(&self) -> MutexGuard<'_, generate::Batch> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Batch {
    /// Begins a text behind token ids and returns its slot; `logprobs` is how many of the most likely tokens come with each token.
    #[pyo3(signature = (ids, settings, logprobs = Given(None)), text_signature = "($self, ids, settings, logprobs=None)")]
    fn join(
        &self,
        py: Python<'_>,
        ids: Given<Vec<u32>>,
        settings: &SampleSettings,
        logprobs: Given<Option<usize>>,
    ) -> PyResult<usize> {
        detached(py, || self.lock().join(Prompt::of_ids(&ids), settings.0.clone(), *logprobs))
    }
    /// Begins a text behind a text: its slot, and how many bytes of its tokens, the first ones, repeat white space of the prompt.
    #[pyo3(
        signature = (tokenizer, text, settings, logprobs = Given(None)),
        text_signature = "($self, tokenizer, text, settings, logprobs=None)"
    )]
    fn join_behind(
        &self,
        py: Python<'_>,
        tokenizer: &Tokenizer,
        text: Text<'_>,
        settings: &SampleSettings,
        logprobs: Given<Option<usize>>,
    ) -> PyResult<(usize, usize)> {
        detached(py, || {
            let prompt = Prompt::of_text(&tokenizer.0, &text, &settings.0.stop_ids, self.vocab)?;
            let repeated = prompt.repeated();
            Ok((self.lock().join(prompt, settings.0.clone(), *logprobs)?, repeated))
        })
    }
    /// One pass: the next token of every text that has read its prompt, and a piece of the other prompts. A text that fails
    /// ends alone.
    fn step(&self, py: Python<'_>) -> PyResult<Vec<Drawn>> {
        detached(py, || Ok(self.lock().step().into_iter().map(Drawn::from).collect()))
    }
    /// Ends a text, finished or not, and frees its slot.
    fn leave(&self, py: Python<'_>, slot: Given<usize>) -> PyResult<()> {
        detached(py, || self.lock().leave(*slot))
    }
    /// Most texts at a time.
    #[getter]
    fn slots(&self) -> usize {
        self.options.slots
    }
    /// Most tokens of a text, its prompt included.
    #[getter]
    fn context(&self) -> usize {
        self.options.context
    }
    /// Threads that compute.
    #[getter]
    fn threads(&self) -> usize {
        self.options.threads
    }
    /// Slots without a text.
    #[getter]
    fn free(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().free())
    }
    /// Tokens of prompts that did not have to be read, since another text began alike.
    #[getter]
    fn reused(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.lock().reused())
    }
    /// Bytes of keys and values that are kept of texts that have left.
    #[getter]
    fn prefix_bytes(&self, py: Python<'_>) -> usize {
        py.detach(|| self.lock().prefix_bytes())
    }
}
