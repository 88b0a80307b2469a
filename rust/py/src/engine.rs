//! The training engine.

use crate::args::{Given, Location, Text};
use crate::data::Shards;
use crate::errors::{detached, with_progress};
use crate::exchange::Exchange;
use crate::generate::Generator;
use crate::machine::chosen_isa;
use crate::records::records;
use crate::settings::{EngineSettings, EngineState, State};
use crate::trace::Trace;
use pyo3::prelude::*;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use symlm_core::step::{self, Switches, Tensors};
use symlm_core::{Error, checkpoint};

records! {
    /// One finished update.
    StepReport {
        /// Updates done.
        step: u64,
        /// Mean over the targets of the batch, in nats.
        loss: f64,
        /// Learning rate.
        lr: f64,
        /// Norm of the gradient before clipping.
        grad_norm: f64,
        /// Tokens of the batch.
        tokens: u64,
        /// Time of the update.
        seconds: f64,
        /// Of each worker, the part of the time that it was inside tasks.
        busy_frac: Vec<f64>,
        /// Seconds for which the update waited for its batch.
        prefetch_wait_s: f64,
    }
    /// The outcome of an evaluation.
    EvalReport {
        /// Mean over the targets, in nats.
        loss: f64,
        /// Targets.
        tokens: u64,
        /// Windows.
        windows: u64,
        /// The loss in bits for each byte of the text.
        bits_per_byte: f64,
    }
    /// What a worker did since the start.
    WorkerStats {
        /// Tasks done.
        tasks: u64,
        /// Seconds inside them.
        busy_s: f64,
        /// Tasks taken from other workers.
        steals: u64,
    }
    /// A tensor after an update.
    TensorNumbers {
        /// Its name in the weights.
        name: String,
        /// Norm of its gradient.
        grad_norm: f64,
        /// Elements of the gradient that are not finite.
        bad_gradients: u64,
        /// Elements of the weights that are not finite.
        bad_weights: u64,
        /// Elements of the moments that are not finite.
        bad_moments: u64,
    }
    /// A node of the graph of an update.
    Task {
        /// What it does.
        kind: &'static str,
        /// Where.
        detail: String,
        /// The nodes that it waits for.
        after: Vec<u32>,
        /// Whether it comes before those that can wait.
        urgent: bool,
    }
    /// A file that was written.
    WrittenFile {
        /// Its size.
        bytes: u64,
        /// Its SHA-256, in hexadecimal digits.
        sha256: String,
    }
    /// How full the prefetch channel is.
    QueueFill {
        /// Batches in it.
        batches: usize,
        /// Batches that it has room for.
        capacity: usize,
    }
}

/// A save under way.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Saving {
    state: EngineState,
    saving: Mutex<Option<step::Saving>>,
}

impl Saving {
    fn ended() -> Error {
        Error::internal("this save has been finished before")
    }
}

#[pymethods]
impl Saving {
    /// What belongs beside the files.
    #[getter]
    fn state(&self) -> EngineState {
        self.state.clone()
    }
    /// Whether everything is written, or has failed; waits for it up to `timeout_s`.
    #[pyo3(signature = (timeout_s = Given(0.0)), text_signature = "($self, timeout_s=0.0)")]
    fn wait(&self, py: Python<'_>, timeout_s: Given<f64>) -> PyResult<bool> {
        let timeout = Duration::try_from_secs_f64(timeout_s.clamp(0.0, 3600.0)).unwrap_or_default();
        detached(py, || {
            let mut saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
            saving.as_mut().map(|saving| saving.wait(timeout)).ok_or_else(Self::ended)
        })
    }
    /// Waits for the end; gives size and SHA-256 of each file, or raises what went wrong.
    fn finish(&self, py: Python<'_>) -> PyResult<HashMap<&'static str, WrittenFile>> {
        let files = detached(py, || {
            let saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner).take();
            saving.ok_or_else(Self::ended)?.finish()
        })?;
        let file = |written: checkpoint::Written| WrittenFile { bytes: written.bytes, sha256: written.sha256 };
        Ok(files.into_iter().map(|(name, written)| (name, file(written))).collect())
    }
}

/// What model.safetensors holds.
const WEIGHTS: &[Tensors] = &[Tensors::Weights];
/// What optimizer.safetensors holds.
const MOMENTS: &[Tensors] = &[Tensors::FirstMoment, Tensors::SecondMoment];

/// Threads, model and optimizer of one training run.
#[pyclass(module = "symlm._symlm")]
pub struct Engine(step::Engine);

impl Engine {
    /// What a checkpoint holds beside the tensors.
    fn state(&self) -> symlm_core::Result<EngineState> {
        let base_sha256 = self.0.base_sha256()?;
        Ok(EngineState(State { contract: symlm_core::CONTRACT_VERSION, step: self.0.step(), base_sha256 }))
    }
}

#[pymethods]
impl Engine {
    /// The keyword arguments are for measuring and change no bit: another instruction set than that in use elsewhere, no
    /// batches cut ahead, a barrier after each operation instead of deques.
    #[new]
    #[pyo3(signature = (settings, train, *, isa = None, prefetch = true, barriers = false))]
    fn new(
        py: Python<'_>,
        settings: &EngineSettings,
        train: &Shards,
        isa: Option<Text<'_>>,
        prefetch: bool,
        barriers: bool,
    ) -> PyResult<Self> {
        let source = train.0.clone();
        detached(py, || {
            let config = settings.0.clone();
            if train.0.vocab_size() > config.model.vocab_size {
                let (found, expected) = (train.0.vocab_size(), config.model.vocab_size);
                return Err(Error::data(format!("the corpus has a vocabulary of {found}, the model of {expected}")));
            }
            step::Engine::new(
                config,
                chosen_isa(isa.as_deref())?,
                source,
                Switches { prefetch, barriers, ..Switches::default() },
            )
        })
        .map(Self)
    }
    /// Updates until `step` updates are done; returns at once.
    fn run_until(&self, py: Python<'_>, step: Given<u64>) -> PyResult<()> {
        detached(py, || self.0.run_until(*step))
    }
    /// The next finished update, or None after `timeout_s`.
    fn poll(&self, py: Python<'_>, timeout_s: Given<f64>) -> PyResult<Option<StepReport>> {
        let timeout = Duration::try_from_secs_f64(timeout_s.clamp(0.0, 3600.0)).unwrap_or_default();
        let report = detached(py, || self.0.poll(timeout))?;
        Ok(report.map(|r| StepReport {
            step: r.step,
            loss: r.loss,
            lr: r.learning_rate,
            grad_norm: r.grad_norm,
            tokens: r.tokens,
            seconds: r.seconds,
            busy_frac: r.busy_frac,
            prefetch_wait_s: r.prefetch_wait_s,
        }))
    }
    /// Lets the engine finish the update under way and then idle.
    fn request_stop(&self) {
        self.0.request_stop();
    }
    /// Evaluates non-overlapping windows of the shards; 0 = all windows.
    #[pyo3(signature = (shards, max_windows, progress))]
    fn evaluate(
        &self,
        py: Python<'_>,
        shards: &Shards,
        max_windows: Given<u64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<EvalReport> {
        let source = shards.0.clone();
        let report = with_progress(py, progress, |p| self.0.evaluate(source, *max_windows, p))?;
        let tokens_per_byte = shards.0.targets() as f64 / shards.0.bytes().max(1) as f64;
        Ok(EvalReport {
            loss: report.loss,
            tokens: report.tokens,
            windows: report.windows,
            bits_per_byte: report.loss / std::f64::consts::LN_2 * tokens_per_byte,
        })
    }
    /// Writes the files of a checkpoint into a folder while the updates continue: returns when a copy is taken.
    fn save_begin(&self, py: Python<'_>, folder: Location) -> PyResult<Saving> {
        let (state, saving) = detached(py, || Ok((self.state()?, self.0.save_begin(&folder)?)))?;
        Ok(Saving { state, saving: Mutex::new(Some(saving)) })
    }
    /// Restores what `save_begin` wrote.
    fn load(&self, py: Python<'_>, folder: Location, state: &EngineState) -> PyResult<()> {
        let (shown, state) = (folder.display(), &state.0);
        detached(py, || {
            let contract = state.contract;
            // Whether the rules of an older one are unchanged depends on the text, which Python has looked at.
            if !(1..=symlm_core::CONTRACT_VERSION).contains(&contract) {
                let expected = symlm_core::CONTRACT_VERSION;
                return Err(Error::data(format!("{shown}: numeric contract {contract}, expected at most {expected}"))
                    .hint("use the symlm version that wrote it"));
            }
            let base = self.0.base_sha256()?;
            if let Some(base) = base.filter(|base| state.base_sha256.as_ref() != Some(base)) {
                let what =
                    format!("{shown}: the adapters were trained on other base weights than those of sha256 {base}");
                return Err(Error::data(what).hint("restore the folder base of the run"));
            }
            self.0.load(&folder, state.step)
        })
    }
    /// Takes the weights of a model from elsewhere: a .safetensors file or the index of several. Moments stay as they are.
    /// With adapters they are what these are added to.
    fn load_weights(&self, py: Python<'_>, path: Location) -> PyResult<()> {
        detached(py, || self.0.load_weights(&path))
    }
    /// Writes the weights that adapters are added to, to a safetensors file.
    fn save_base(&self, py: Python<'_>, path: Location) -> PyResult<()> {
        detached(py, || self.0.save_base(&path).map(|_| ()))
    }
    /// SHA-256 of the model.safetensors that `save_begin` would write now.
    fn weights_sha256(&self, py: Python<'_>) -> PyResult<String> {
        detached(py, || self.0.tensors(WEIGHTS, checkpoint::hash_tensors)?)
    }
    /// SHA-256 of the optimizer.safetensors that `save_begin` would write now.
    fn moments_sha256(&self, py: Python<'_>) -> PyResult<String> {
        detached(py, || self.0.tensors(MOMENTS, checkpoint::hash_tensors)?)
    }
    /// Counts the next update as done without computing it; weights and moments stay.
    fn pass_over(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.0.pass_over())
    }
    /// Goes back to the initial weights, with no update done.
    fn restart(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.0.restart())
    }
    /// Takes weights, adapters and moments as they are in memory, and continues after `step` updates.
    fn set_step(&self, py: Python<'_>, step: u64) -> PyResult<()> {
        detached(py, || self.0.set_step(step))
    }
    /// The way to other ranks.
    fn exchange(&self, py: Python<'_>) -> PyResult<Exchange> {
        detached(py, || self.0.exchange()).map(Exchange)
    }
    /// Ids of a window of the update after which `step` updates are done.
    fn window(&self, py: Python<'_>, step: Given<u64>, index: Given<usize>) -> PyResult<Vec<u32>> {
        detached(py, || self.0.window(*step, *index))
    }
    /// Mean loss of each window of the last update that was computed.
    fn window_losses(&self, py: Python<'_>) -> PyResult<Vec<f64>> {
        detached(py, || self.0.window_losses())
    }
    /// Each tensor after the last update that was computed.
    fn tensor_numbers(&self, py: Python<'_>) -> PyResult<Vec<TensorNumbers>> {
        let numbers = detached(py, || self.0.tensor_numbers())?;
        let one = |n: step::TensorNumbers| TensorNumbers {
            name: n.name,
            grad_norm: n.grad_norm,
            bad_gradients: n.bad_gradients,
            bad_weights: n.bad_weights,
            bad_moments: n.bad_moments,
        };
        Ok(numbers.into_iter().map(one).collect())
    }
    /// A generator with a copy of the weights.
    fn snapshot(&self, py: Python<'_>) -> PyResult<Generator> {
        detached(py, || {
            let model = self.0.tensors(WEIGHTS, |tensors| {
                let config = &self.0.config().model;
                symlm_core::generate::Model::from_tensors(config, self.0.isa(), &mut |index, out| {
                    out.copy_from_slice(tensors[index].2);
                })
            })??;
            Ok(Generator::new(model))
        })
    }
    /// Per worker, since the start.
    fn worker_stats(&self, py: Python<'_>) -> PyResult<Vec<WorkerStats>> {
        let stats = detached(py, || self.0.workers())?.into_iter();
        Ok(stats.map(|w| WorkerStats { tasks: w.tasks, busy_s: w.busy_ns as f64 * 1e-9, steals: w.steals }).collect())
    }
    /// Records the updates that start from now on, or no more; ends by itself when the log is full.
    fn record(&self, on: bool) {
        self.0.record(on);
    }
    /// The updates recorded since the last call; one that is under way comes with the next.
    fn take_trace(&self, py: Python<'_>) -> PyResult<Trace> {
        detached(py, || self.0.take_trace()).map(Trace)
    }
    /// The nodes of the graph of an update.
    fn task_graph(&self, py: Python<'_>) -> Vec<Task> {
        let nodes = py.detach(|| self.0.task_graph()).into_iter();
        nodes.map(|n| Task { kind: n.kind, detail: n.detail, after: n.after, urgent: n.urgent }).collect()
    }
    /// Ends all threads and joins them.
    fn close(&mut self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
    /// Updates done.
    #[getter]
    fn step(&self) -> u64 {
        self.0.step()
    }
    /// Number of weights.
    #[getter]
    fn parameters(&self) -> usize {
        self.0.layout().parameters()
    }
    /// Floating-point operations per trained token.
    #[getter]
    fn flops_per_token(&self) -> f64 {
        self.0.config().flops_per_token()
    }
    /// How full the prefetch channel is.
    #[getter]
    fn queue_fill(&self) -> QueueFill {
        let (batches, capacity) = self.0.queue_fill();
        QueueFill { batches, capacity }
    }
    /// The instruction set in use.
    #[getter]
    fn isa(&self) -> &'static str {
        self.0.isa().name()
    }
}
