//! The engine: control thread, commands, reports.
//!
//! `symlm-ctl` owns the pool and the prefetcher. It takes commands from one channel, publishes graphs, waits for their
//! end and sends a report per update into another channel; it computes nothing itself. The thread that
//! calls the methods (Python's main thread) only sends, polls and reads.

use super::plan::{Cut, Plan, Task};
use super::prefetch::{Batch, CAPACITY, Prefetcher, TokenSource, WindowOrder};
use super::state::{EvalState, Job, State, lock};
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::pool::{Graph, Pool, Program, Run, Scratch, WorkerStats};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use symlm_kernels::Isa;

/// One finished update.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Updates done, this one included.
    pub step: u64,
    /// Mean nats per token of the batch, before the update.
    pub loss: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens of the batch.
    pub tokens: u64,
    /// Wall time since the update before ended (or the command came).
    pub seconds: f64,
    /// Share of that time inside tasks, per worker.
    pub busy_frac: Vec<f64>,
    /// Time the control thread waited for the batch.
    pub prefetch_wait_s: f64,
}

/// The outcome of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvalReport {
    /// Mean nats per token.
    pub loss: f64,
    /// Predicted tokens.
    pub tokens: u64,
    /// Windows.
    pub windows: u64,
}

/// What a worker did since the start.
pub type WorkerReport = WorkerStats;

enum Command {
    Train { until: u64 },
    Evaluate { source: Arc<dyn TokenSource>, windows: u64, cancel: Arc<AtomicBool>, reply: Sender<Result<Progress>> },
    Execute { run: Arc<Run>, reply: Sender<Result<()>> },
    Seek { step: u64 },
}

enum Progress {
    Windows(u64),
    Done(EvalReport),
}

/// Threads, model and optimizer of one training.
pub struct Engine {
    state: Arc<State>,
    commands: Option<Sender<Command>>,
    reports: Receiver<Result<StepReport>>,
    control: Option<JoinHandle<()>>,
    step: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    workers: Arc<Mutex<Vec<WorkerStats>>>,
    gauge: Receiver<(u64, Result<Batch>)>,
}

/// Fills the arenas; the elements of a tensor in parts.
struct Initialise {
    state: Arc<State>,
    parts: Vec<usize>,
}

impl Program for Initialise {
    fn run(&self, node: u32, _: &mut Scratch) {
        let (param, s) = (self.parts[node as usize], &*self.state);
        let p = &s.weights.layout.params[param];
        // SAFETY: each node fills its own tensor, and nothing else runs.
        let values = unsafe { s.weights.values.slice_mut(p.offset, p.len()) };
        s.weights.initial_values(param, s.config.train.seed, values);
    }
}

/// Packs the matrices.
struct PackAll {
    state: Arc<State>,
}

impl Program for PackAll {
    fn run(&self, node: u32, _: &mut Scratch) {
        let rows = self.state.weights.layout.matrices[node as usize].rows;
        // SAFETY: each node packs its own matrix, and nothing writes weights meanwhile.
        unsafe { self.state.weights.pack_rows(self.state.isa, node as usize, 0..rows) };
    }
}

fn independent(nodes: usize) -> Arc<Graph> {
    let mut graph = Graph::default();
    for _ in 0..nodes {
        graph.add(false, &[]);
    }
    Arc::new(graph)
}

struct Control {
    state: Arc<State>,
    pool: Pool,
    prefetch: Prefetcher,
    training: Arc<Run>,
    evaluation: Arc<Run>,
    reports: Sender<Result<StepReport>>,
    step: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    workers: Arc<Mutex<Vec<WorkerStats>>>,
}

impl Control {
    fn main(self, commands: &Receiver<Command>) {
        while let Ok(command) = commands.recv() {
            match command {
                Command::Train { until } => {
                    if let Err(error) = self.train(until) {
                        // The receiver lives as long as the command sender.
                        let _ = self.reports.send(Err(error));
                    }
                }
                Command::Evaluate { source, windows, cancel, reply } => {
                    let outcome = self.evaluate(source, windows, &cancel, &reply);
                    let _ = reply.send(outcome.map(Progress::Done));
                }
                Command::Execute { run, reply } => {
                    let _ = reply.send(self.pool.execute(&run));
                }
                Command::Seek { step } => self.prefetch.seek(step),
            }
        }
    }

    fn train(&self, until: u64) -> Result<()> {
        let mut before = self.pool.stats();
        let mut start = Instant::now();
        while self.step.load(Ordering::Relaxed) < until && !self.stop.load(Ordering::Acquire) {
            let waited = Instant::now();
            let batch = Arc::new(self.prefetch.next()?);
            let prefetch_wait_s = waited.elapsed().as_secs_f64();
            let expected = self.step.load(Ordering::Relaxed);
            if batch.step != expected {
                return Err(Error::internal(format!("batch of step {} where {expected} was due", batch.step)));
            }
            *self.state.batch.write().unwrap_or_else(PoisonError::into_inner) = batch.clone();
            self.pool.execute(&self.training)?;
            *self.state.batch.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
            if let Ok(batch) = Arc::try_unwrap(batch) {
                self.prefetch.recycle(batch);
            }
            let seconds = start.elapsed().as_secs_f64();
            start = Instant::now();
            let now = self.pool.stats();
            let busy = |(a, b): (&WorkerStats, &WorkerStats)| (b.busy_ns - a.busy_ns) as f64 * 1e-9 / seconds;
            let busy_frac = before.iter().zip(&now).map(busy).collect();
            lock(&self.workers).clone_from(&now);
            before = now;
            let result = *lock(&self.state.result);
            let failed = self.state.failed.load(Ordering::Relaxed);
            if !failed {
                self.step.fetch_add(1, Ordering::Release);
            }
            let report = StepReport {
                step: expected + 1,
                loss: result.loss,
                learning_rate: result.learning_rate,
                gradient_norm: result.gradient_norm,
                tokens: (self.state.cut.batch * self.state.cut.positions) as u64,
                seconds,
                busy_frac,
                prefetch_wait_s,
            };
            let _ = self.reports.send(Ok(report));
            if failed {
                // The update was left out: the weights are those of the step before.
                self.prefetch.seek(expected);
                return Ok(());
            }
        }
        Ok(())
    }

    fn evaluate(
        &self,
        source: Arc<dyn TokenSource>,
        windows: u64,
        cancel: &AtomicBool,
        reply: &Sender<Result<Progress>>,
    ) -> Result<EvalReport> {
        *lock(&self.state.evaluation) = EvalState { source: Some(source), windows, ..EvalState::default() };
        let mut done = 0;
        while done < windows {
            if cancel.load(Ordering::Acquire) {
                break;
            }
            self.pool.execute(&self.evaluation)?;
            let mut evaluation = lock(&self.state.evaluation);
            if let Some(error) = evaluation.error.take() {
                return Err(error);
            }
            done = evaluation.first;
            drop(evaluation);
            let _ = reply.send(Ok(Progress::Windows(done)));
        }
        lock(&self.workers).clone_from(&self.pool.stats());
        let evaluation = std::mem::take(&mut *lock(&self.state.evaluation));
        *self.state.batch.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
        let tokens = evaluation.tokens;
        Ok(EvalReport { loss: evaluation.loss_sum / tokens.max(1) as f64, tokens, windows: done })
    }
}

impl Engine {
    /// Starts the threads and initialises the weights.
    ///
    /// # Errors
    /// `Data` if the source has no window, `Memory` if the arenas cannot be had, `User` if a thread cannot be started.
    pub fn new(config: EngineConfig, isa: Isa, source: Arc<dyn TokenSource>) -> Result<Self> {
        let (threads, model) = (config.threads, config.model.clone());
        let order = WindowOrder::new(config.train.seed, source.tokens(), model.seq_len)?;
        super::memory::check(&config)?;
        let state = Arc::new(State::new(isa, config)?);
        let cut: &Cut = &state.cut;
        let prefetch = Prefetcher::new(source, order, cut.batch, cut.positions, model.vocab_size)?;
        let run = |plan: Plan| {
            let job = Job { state: state.clone(), tasks: plan.tasks };
            Run::new(Arc::new(job), Arc::new(plan.graph))
        };
        let (commands, received) = unbounded();
        let (report_in, reports) = unbounded();
        let step = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let workers = Arc::new(Mutex::new(vec![WorkerStats::default(); threads]));
        let gauge = prefetch.gauge();
        let control = Control {
            pool: Pool::new(threads)?,
            prefetch,
            training: run(Plan::training(cut, &state.weights.layout, true)),
            evaluation: run(Plan::evaluation(cut)),
            reports: report_in,
            step: step.clone(),
            stop: stop.clone(),
            workers: workers.clone(),
            state: state.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("symlm-ctl".into())
            .spawn(move || control.main(&received))
            .map_err(|e| Error::user(format!("cannot start the control thread: {}", crate::error::io_reason(&e))))?;
        let engine =
            Self { state, commands: Some(commands), reports, control: Some(thread), step, stop, workers, gauge };
        let parts: Vec<usize> = (0..engine.state.weights.layout.params.len()).collect();
        let graph = independent(parts.len());
        engine.execute(Run::new(Arc::new(Initialise { state: engine.state.clone(), parts }), graph))?;
        engine.pack()?;
        Ok(engine)
    }

    fn send(&self, command: Command) -> Result<()> {
        let ended = || Error::internal("the engine is closed");
        self.commands.as_ref().ok_or_else(ended)?.send(command).map_err(|_| ended())
    }

    /// Runs a graph once; returns when it and all commands before it are done.
    fn execute(&self, run: Arc<Run>) -> Result<()> {
        let (reply, answer) = bounded(1);
        self.send(Command::Execute { run, reply })?;
        answer.recv().map_err(|_| Error::internal("the control thread has ended"))?
    }

    /// Waits until every command sent before is done.
    fn settle(&self) -> Result<()> {
        self.execute(Run::new(Arc::new(PackAll { state: self.state.clone() }), independent(0)))
    }

    fn pack(&self) -> Result<()> {
        let matrices = self.state.weights.layout.matrices.len();
        self.execute(Run::new(Arc::new(PackAll { state: self.state.clone() }), independent(matrices)))
    }

    /// Updates until `step` updates are done; returns at once.
    ///
    /// # Errors
    /// `Internal` if the engine is closed.
    pub fn run_until(&self, step: u64) -> Result<()> {
        self.stop.store(false, Ordering::Release);
        self.send(Command::Train { until: step })
    }

    /// The next finished update, or `None` after `timeout`.
    ///
    /// # Errors
    /// What stopped the control thread's work.
    pub fn poll(&self, timeout: Duration) -> Result<Option<StepReport>> {
        self.reports.recv_timeout(timeout).ok().transpose()
    }

    /// Lets the control thread finish the update under way and then idle.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Evaluates non-overlapping windows of `source`; `max_windows` 0 = all. `progress(done, total)` may stop it by an error.
    ///
    /// # Errors
    /// `Data` if there is no window; what `progress` returns.
    pub fn evaluate(
        &self,
        source: Arc<dyn TokenSource>,
        max_windows: u64,
        mut progress: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<EvalReport> {
        let all = source.tokens().saturating_sub(1) / self.state.cut.positions as u64;
        if all == 0 {
            let (found, expected) = (source.tokens(), self.state.cut.positions + 1);
            return Err(Error::data(format!("the text has {found} tokens, expected at least {expected} (one window)"))
                .hint("use more text"));
        }
        let windows = if max_windows == 0 { all } else { all.min(max_windows) };
        let cancel = Arc::new(AtomicBool::new(false));
        let (reply, answer) = unbounded();
        self.send(Command::Evaluate { source, windows, cancel: cancel.clone(), reply })?;
        let mut outcome = Ok(());
        loop {
            match answer.recv().map_err(|_| Error::internal("the control thread has ended"))?? {
                Progress::Windows(done) if outcome.is_ok() => {
                    outcome = progress(done, windows);
                    if outcome.is_err() {
                        cancel.store(true, Ordering::Release);
                    }
                }
                Progress::Windows(_) => {}
                Progress::Done(report) => return outcome.map(|()| report),
            }
        }
    }

    /// Loss and gradients of a batch of windows (`seq_len + 1` ids each), before clipping. For tests.
    ///
    /// # Errors
    /// `Usage` if the batch has another shape.
    pub fn gradients(&self, windows: &[Vec<u32>]) -> Result<f64> {
        self.run_batch(windows, false, 0)
    }

    /// One update with a given batch. For tests.
    ///
    /// # Errors
    /// `Usage` if the batch has another shape.
    pub fn update_with(&self, windows: &[Vec<u32>]) -> Result<f64> {
        let step = self.step();
        let loss = self.run_batch(windows, true, step)?;
        self.step.store(step + 1, Ordering::Release);
        self.send(Command::Seek { step: step + 1 })?;
        Ok(loss)
    }

    fn run_batch(&self, windows: &[Vec<u32>], update: bool, step: u64) -> Result<f64> {
        let (s, positions) = (&self.state, self.state.cut.positions);
        if windows.len() != s.cut.batch || windows.iter().any(|w| w.len() != positions + 1) {
            return Err(Error::usage(format!("expected {} windows of {} ids", s.cut.batch, positions + 1)));
        }
        let mut batch = Batch::new(s.cut.batch, positions);
        (batch.step, batch.windows) = (step, s.cut.batch);
        for (i, window) in windows.iter().enumerate() {
            batch.set_window(i, window, 0)?;
        }
        batch.index(s.config.model.vocab_size)?;
        self.settle()?;
        *s.batch.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(batch);
        let plan = Plan::training(&s.cut, &s.weights.layout, update);
        debug_assert!(update || !plan.tasks.contains(&Task::Finish));
        let job = Job { state: s.clone(), tasks: plan.tasks };
        self.execute(Run::new(Arc::new(job), Arc::new(plan.graph)))?;
        // SAFETY: the control thread is idle.
        let losses = unsafe { s.losses.slice(0, s.cut.batch * positions) };
        Ok(symlm_kernels::reduce::batch_loss(losses))
    }

    /// Calls `f` with name, shape and values of every tensor; `which` names the arena.
    ///
    /// # Errors
    /// `Internal` if the engine is closed.
    pub fn tensors<R>(&self, which: Tensors, f: impl FnOnce(&[(String, Vec<usize>, &[f32])]) -> R) -> Result<R> {
        self.settle()?;
        let (s, prefix) = (&self.state, which.prefix());
        let arena = match which {
            Tensors::Weights => &s.weights.values,
            Tensors::Gradient => &s.gradient,
            Tensors::FirstMoment => &s.first_moment,
            Tensors::SecondMoment => &s.second_moment,
        };
        // SAFETY: the control thread is idle, and commands come only from this thread.
        let tensor = |p: &crate::model::Param| unsafe { arena.slice(p.offset, p.len()) };
        let table: Vec<_> = s
            .weights
            .layout
            .params
            .iter()
            .map(|p| (format!("{prefix}{}", p.name), p.shape.clone(), tensor(p)))
            .collect();
        Ok(f(&table))
    }

    /// Overwrites a tensor. Weights are packed by [`Engine::set_step`].
    ///
    /// # Errors
    /// `Internal` if the engine is closed or the length differs.
    pub fn set_tensor(&self, which: Tensors, index: usize, values: &[f32]) -> Result<()> {
        let s = &self.state;
        let arena = match which {
            Tensors::Weights => &s.weights.values,
            Tensors::Gradient => &s.gradient,
            Tensors::FirstMoment => &s.first_moment,
            Tensors::SecondMoment => &s.second_moment,
        };
        let p = &s.weights.layout.params[index];
        if values.len() != p.len() {
            return Err(Error::internal(format!("{} has {} values, expected {}", p.name, values.len(), p.len())));
        }
        self.settle()?;
        // SAFETY: the control thread is idle, and commands come only from this thread.
        unsafe { arena.slice_mut(p.offset, p.len()) }.copy_from_slice(values);
        Ok(())
    }

    /// Packs the weights as they are and goes on from `step` updates done.
    ///
    /// # Errors
    /// `Internal` if the engine is closed.
    pub fn set_step(&self, step: u64) -> Result<()> {
        self.pack()?;
        self.step.store(step, Ordering::Release);
        self.send(Command::Seek { step })
    }

    /// Updates done.
    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Acquire)
    }
    /// The configuration.
    pub fn config(&self) -> &EngineConfig {
        &self.state.config
    }
    /// The table of parameters.
    pub fn layout(&self) -> &crate::model::Layout {
        &self.state.weights.layout
    }
    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.state.isa
    }
    /// What each worker did, as of the last finished update or evaluation.
    pub fn workers(&self) -> Vec<WorkerReport> {
        lock(&self.workers).clone()
    }
    /// Batches in the prefetch channel, and its capacity.
    pub fn queue_fill(&self) -> (usize, usize) {
        (self.gauge.len(), CAPACITY)
    }

    /// Finishes the update under way, ends all threads and joins them.
    pub fn close(&mut self) {
        self.request_stop();
        self.commands = None;
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// Which of the arenas with the shape of the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tensors {
    /// The weights.
    Weights,
    /// The gradient of the last batch.
    Gradient,
    /// AdamW's first moment.
    FirstMoment,
    /// AdamW's second moment.
    SecondMoment,
}

impl Tensors {
    /// What stands before a tensor's name in a file.
    pub fn prefix(self) -> &'static str {
        match self {
            Tensors::Weights => "",
            Tensors::Gradient => "gradient.",
            Tensors::FirstMoment => "first_moment.",
            Tensors::SecondMoment => "second_moment.",
        }
    }
}
