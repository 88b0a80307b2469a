//! The engine, as its user sees it.
//!
//! The control thread `symlm-ctl` owns the pool and the prefetcher. It takes commands from one channel, publishes
//! graphs, waits for their end and sends a report per update into another channel. The thread that calls the methods
//! (Python's main thread) only sends, polls and reads.

use super::control::{Command, Control, EvalReport, Progress, Recording, StepReport};
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::pool::chaos::Chaos;
use crate::pool::{Pool, Run, WorkerStats};
use crate::step::feed::{Batch, Gauge, Prefetcher, TokenSource, WindowOrder, seen, windows_in};
use crate::step::plan::limits::BATCHES_AHEAD;
use crate::step::plan::{Plan, Task, check_memory};
use crate::step::work::{Initialise, Job, PackAll, State};
use crate::system::Home;
use crate::system::float_env::ContractRounding;
use crate::system::machine;
use crate::system::sync::lock;
use crate::trace::{TaskNode, Trace};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, unbounded};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use symlm_kernels::Isa;

/// What a worker did since the start.
pub type WorkerReport = WorkerStats;

/// Parts that can be left out to measure what they bring. No switch changes a bit of the result.
#[derive(Clone, Copy, Debug)]
pub struct Switches {
    /// Batches are cut ahead of the updates; else each when its update is due, while the workers have nothing to do.
    pub prefetch: bool,
    /// Updates go operation by operation, with a barrier after each, instead of through the deques.
    pub barriers: bool,
    /// Disturbs the workers; for tests.
    pub chaos: Option<Chaos>,
}

impl Default for Switches {
    fn default() -> Self {
        Self { prefetch: true, barriers: false, chaos: None }
    }
}

/// Threads, model and optimizer of one training run.
pub struct Engine {
    pub(super) state: Arc<State>,
    pub(super) source: Arc<dyn TokenSource>,
    pub(super) order: WindowOrder,
    /// Whoever holds the lock is the only one to send commands; `None` once closed.
    commands: Mutex<Option<Sender<Command>>>,
    reports: Receiver<Result<StepReport>>,
    control: Option<JoinHandle<()>>,
    pub(super) step: Arc<AtomicU64>,
    stops: Arc<AtomicU64>,
    workers: Arc<Mutex<Vec<WorkerStats>>>,
    gauge: Gauge,
    recording: Arc<Recording>,
    /// Where recorded times count from, by the machine's clock.
    origin: u64,
    base_hash: Mutex<Option<String>>,
    /// The threads live in this process only, not in one forked from it.
    process: Home,
}

/// The lock on the commands of an engine that is open.
pub(super) struct Commander<'a>(MutexGuard<'a, Option<Sender<Command>>>);

impl Commander<'_> {
    pub(super) fn send(&self, command: Command) -> Result<()> {
        let sent = self.0.as_ref().map(|commands| commands.send(command));
        sent.and_then(std::result::Result::ok).ok_or_else(|| Error::internal("the control thread has ended"))
    }

    /// Runs a graph once; returns when it and all commands before it are done.
    pub(super) fn execute(&self, run: Arc<Run>) -> Result<()> {
        let (reply, answer) = bounded(1);
        self.send(Command::Execute { run, reply })?;
        answer.recv().map_err(|_| Error::internal("the control thread has ended"))?
    }
}

/// A plan for the pool; with `barriers` it goes operation by operation.
fn run(state: &Arc<State>, plan: Plan, barriers: bool) -> Arc<Run> {
    let rounds = barriers.then(|| plan.rounds());
    let (job, graph) = (Arc::new(Job { state: state.clone(), tasks: plan.tasks }), Arc::new(plan.graph));
    match rounds {
        Some(rounds) => Run::in_rounds(job, graph, rounds),
        None => Run::new(job, graph),
    }
}

impl Engine {
    /// Starts the threads and initialises the weights.
    ///
    /// # Errors
    /// `Data` if the source has no window, `Memory` if the arenas cannot be had, `User` if a thread cannot be started.
    pub fn new(config: EngineConfig, isa: Isa, source: Arc<dyn TokenSource>, switches: Switches) -> Result<Self> {
        let (threads, model) = (config.threads, config.model.clone());
        let order = WindowOrder::of(config.train.seed, &*source, model.seq_len)?;
        let cut = seen(source.clone(), config.train.attend);
        check_memory(&config)?;
        let state = Arc::new(State::new(isa, config)?);
        let partition = &state.partition;
        let (batch, seq_len) = (partition.batch, partition.seq_len);
        let prefetch = Prefetcher::new(cut, order, batch, seq_len, model.vocab_size, switches.prefetch)?;
        let (commands, received) = unbounded();
        let (report_in, reports) = unbounded();
        let step = Arc::new(AtomicU64::new(0));
        let stops = Arc::new(AtomicU64::new(0));
        let workers = Arc::new(Mutex::new(vec![WorkerStats::default(); threads]));
        let gauge = prefetch.gauge();
        let recording = Arc::new(Recording::default());
        let control = Control {
            pool: switches.chaos.map_or_else(|| Pool::new(threads), |chaos| Pool::disturbed(threads, chaos))?,
            broken: None,
            prefetch,
            training: run(&state, state.plan(true), switches.barriers && state.shared.is_none()),
            evaluation: run(&state, Plan::evaluation(partition), false),
            reports: report_in,
            step: step.clone(),
            stops: stops.clone(),
            workers: workers.clone(),
            recording: recording.clone(),
            state: state.clone(),
        };
        if let Some(shared) = &state.shared {
            shared.mailbox.open(control.pool.door(&control.training));
        }
        let origin = machine::monotonic_ns().saturating_sub(control.pool.nanoseconds(Instant::now()));
        let thread = std::thread::Builder::new()
            .name("symlm-ctl".into())
            .spawn(move || control.main(&received))
            .map_err(|e| Error::user(format!("cannot start the control thread: {}", crate::error::io_reason(&e))))?;
        let commands = Mutex::new(Some(commands));
        let engine = Self {
            state,
            source,
            order,
            commands,
            reports,
            control: Some(thread),
            step,
            stops,
            workers,
            gauge,
            recording,
            origin,
            base_hash: Mutex::default(),
            process: Home::here(),
        };
        let idle = engine.idle()?;
        idle.execute(Initialise::new(engine.state.clone(), true).run())?;
        idle.execute(PackAll::new(engine.state.clone()).run())?;
        drop(idle);
        Ok(engine)
    }

    /// The right to send commands. Held while tensors are read or written, it keeps the control thread idle.
    fn commander(&self) -> Result<Commander<'_>> {
        self.check_process()?;
        let commands = match self.commands.try_lock() {
            Ok(commands) => commands,
            // A caller's function panicked while it had the tensors. The sender is as good as before.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::internal("the engine is busy with a call of another thread"));
            }
        };
        if commands.is_some() { Ok(Commander(commands)) } else { Err(Error::internal("the engine is closed")) }
    }

    /// A fork has the handles but not the threads, and a lock that a thread held at that moment stays shut in it: nothing
    /// that might wait may be touched there.
    fn check_process(&self) -> Result<()> {
        if self.process.is_here() {
            return Ok(());
        }
        Err(Error::internal("the engine's threads are in the process it was made in, not in this fork")
            .hint("make an engine in each process"))
    }

    /// The right to send commands, once every command sent before is done.
    pub(super) fn idle(&self) -> Result<Commander<'_>> {
        let commander = self.commander()?;
        commander.execute(PackAll::nothing(self.state.clone()))?;
        Ok(commander)
    }

    /// Updates until `step` updates are done; returns at once.
    ///
    /// # Errors
    /// `Internal` if the engine is closed.
    pub fn run_until(&self, step: u64) -> Result<()> {
        let stops = self.stops.load(Ordering::Acquire);
        self.commander()?.send(Command::Train { until: step, stops })
    }

    /// The next finished update, or `None` after `timeout`.
    ///
    /// # Errors
    /// What stopped the control thread's work.
    pub fn poll(&self, timeout: Duration) -> Result<Option<StepReport>> {
        self.check_process()?;
        match self.reports.recv_timeout(timeout) {
            Ok(report) => report.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::internal("the engine is closed")),
        }
    }

    /// Lets the control thread finish the update under way and then idle.
    pub fn request_stop(&self) {
        self.stops.fetch_add(1, Ordering::AcqRel);
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
        let (all, stride) = windows_in(&*source, self.state.partition.seq_len)?;
        if all == 0 {
            let (found, expected) = (source.tokens(), self.state.partition.seq_len + 1);
            return Err(Error::data(format!("the text has {found} tokens, expected at least {expected} (one window)"))
                .hint("use more text"));
        }
        let windows = if max_windows == 0 { all } else { all.min(max_windows) };
        let cancel = Arc::new(AtomicBool::new(false));
        let (reply, answer) = unbounded();
        let (commander, source) = (self.commander()?, seen(source, self.config().train.attend));
        commander.send(Command::Evaluate { source, windows, stride, cancel: cancel.clone(), reply })?;
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

    /// Loss and gradients of a batch of windows (`seq_len + 1` ids each; those with the bit `CONTEXT` are not targets, those with
    /// `BEGIN` the first of a document), before clipping. For tests.
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
        self.commander()?.send(Command::Seek { step: step + 1 })?;
        Ok(loss)
    }

    fn run_batch(&self, windows: &[Vec<u32>], update: bool, step: u64) -> Result<f64> {
        let (s, seq_len) = (&self.state, self.state.partition.seq_len);
        if s.shared.is_some() {
            return Err(Error::internal("one of several ranks cannot compute a batch alone"));
        }
        if windows.len() != s.partition.batch || windows.iter().any(|w| w.len() != seq_len + 1) {
            return Err(Error::usage(format!("expected {} windows of {} ids", s.partition.batch, seq_len + 1)));
        }
        let mut batch = Batch::new(s.partition.batch, seq_len);
        (batch.step, batch.windows) = (step, s.partition.batch);
        for (i, window) in windows.iter().enumerate() {
            batch.set_window(i, window, 0)?;
        }
        batch.index(s.config.model.vocab_size)?;
        let counted = batch.targets_counted();
        let _environment = ContractRounding::enter();
        let idle = self.idle()?;
        *s.batch.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(batch);
        let plan = s.plan(update);
        debug_assert!(update || !plan.tasks.contains(&Task::Finish));
        idle.execute(run(s, plan, false))?;
        // SAFETY: the control thread is idle as long as `idle` lives.
        let losses = unsafe { s.losses.slice(0, s.partition.batch * seq_len) };
        Ok(symlm_kernels::reduce::batch_loss(losses, counted))
    }

    /// Packs the weights as they are (with adapters: as those give them) and continues after `step` updates.
    ///
    /// # Errors
    /// `Internal` if the engine is closed or busy.
    pub fn set_step(&self, step: u64) -> Result<()> {
        let idle = self.idle()?;
        idle.execute(PackAll::new(self.state.clone()).run())?;
        self.step.store(step, Ordering::Release);
        idle.send(Command::Seek { step })
    }

    /// Updates done.
    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Acquire)
    }
    /// The configuration.
    pub fn config(&self) -> &EngineConfig {
        &self.state.config
    }
    /// The hash of the base weights, if it is known.
    pub(super) fn base_hash(&self) -> MutexGuard<'_, Option<String>> {
        lock(&self.base_hash)
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
    ///
    /// # Errors
    /// `Internal` in a fork.
    pub fn workers(&self) -> Result<Vec<WorkerReport>> {
        self.check_process()?;
        Ok(lock(&self.workers).clone())
    }
    /// Batches in the prefetch channel, and its capacity.
    pub fn queue_fill(&self) -> (usize, usize) {
        (self.gauge.fill(), BATCHES_AHEAD)
    }

    /// Records the updates that start from now on, or no more. Ends by itself when the log is full.
    pub fn record(&self, on: bool) {
        self.recording.on.store(on, Ordering::Release);
    }

    /// The updates recorded and ended since the last call.
    ///
    /// # Errors
    /// `Internal` in a fork.
    pub fn take_trace(&self) -> Result<Trace> {
        self.check_process()?;
        let mut log = std::mem::take(&mut *lock(&self.recording.log));
        log.spans.sort_unstable_by_key(|span| (span.start, span.end, span.node));
        let (spans, updates, prefetch_waits) = (log.spans, log.updates, log.prefetch_waits);
        let (threads, graph, origin) = (self.state.config.threads, self.task_graph(), self.origin);
        Ok(Trace { threads, graph, spans, updates, prefetch_waits, origin })
    }

    /// The graph of an update.
    pub fn task_graph(&self) -> Vec<TaskNode> {
        let adapters = self.state.adapters.as_ref().map(|adapters| &adapters.table);
        self.state.plan(true).task_graph(self.layout(), adapters)
    }

    /// Finishes the update under way, ends all threads and joins them.
    pub fn close(&mut self) {
        self.request_stop();
        let commands = self.commands.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let control = self.control.take();
        if self.check_process().is_err() {
            // There is nothing to end, and the last end of a channel would wait for a sender that is not there.
            let reports = std::mem::replace(&mut self.reports, never());
            std::mem::forget((commands, control, reports));
            return;
        }
        if let Some(shared) = &self.state.shared {
            // An update under way would wait for the other ranks.
            shared.mailbox.fail("the engine is closed");
        }
        drop(commands);
        if let Some(control) = control {
            let _ = control.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}
