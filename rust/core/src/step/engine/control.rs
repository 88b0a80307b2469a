//! The control thread: takes commands, publishes graphs, reports. It computes nothing.
//!
//! # Protocol
//!
//! It owns the pool and the prefetch thread, and works off one channel of commands in order. Neither that channel nor the one of
//! reports has a limit, so no send ever waits, and no two threads wait for each other: the engine waits for
//! answers, the control thread for commands, the workers and the prefetch thread.
//!
//! What the nodes read and write belongs to the control thread's commands. The engine touches it only while it holds
//! the lock on the sender and has had an answer to a command that did nothing: then everything sent before is done, and
//! nobody can send more.
//!
//! A request to stop is a count. A `Train` command carries the count at the time of the call, and ends after the update under
//! way once the count is another one: a request is never taken for a later command, and none is lost in between.
//!
//! The thread ends when the sender of commands is dropped and those sent are done; a request to stop goes ahead, so that
//! is at most one update away. It then drops the pool, which joins the workers, and the prefetch thread.
//!
//! After a panic in a node that writes weights nobody knows which of them are written. The error is kept, and the answer to every
//! later command.

use crate::error::{Error, Result};
use crate::pool::record::Span;
use crate::pool::{Pool, Run, WorkerStats};
use crate::step::feed::{Prefetcher, TokenSource};
use crate::step::work::{EvalState, Shared, State};
use crate::system::sync::lock;
use crate::trace::Interval;
use crossbeam_channel::{Receiver, Sender};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

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
    pub grad_norm: f64,
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
    /// Predicted tokens that count.
    pub tokens: u64,
    /// Windows.
    pub windows: u64,
}

/// What was recorded of whole updates. Times are nanoseconds from the pool's origin.
#[derive(Default)]
pub(super) struct Log {
    pub spans: Vec<Span>,
    pub updates: Vec<Interval>,
    pub prefetch_waits: Vec<Interval>,
}

/// A log is full with so many spans: a recording that nobody ends stays below 100 MB.
const LOG_SPANS: usize = 1 << 20;

/// The switch of the recording, and what it has gathered.
#[derive(Default)]
pub(super) struct Recording {
    pub on: AtomicBool,
    pub log: Mutex<Log>,
}

impl Recording {
    /// Adds an update; ends the recording when there is no room for another.
    fn add(&self, spans: &[Span], update: Interval, wait: Interval) {
        let mut log = lock(&self.log);
        log.spans.extend_from_slice(spans);
        log.updates.push(update);
        log.prefetch_waits.push(wait);
        if log.spans.len() + spans.len() > LOG_SPANS {
            self.on.store(false, Ordering::Release);
        }
    }
}

pub(super) enum Command {
    /// Ends early once the number of stop requests is no longer `stops`.
    Train {
        until: u64,
        stops: u64,
    },
    Evaluate {
        source: Arc<dyn TokenSource>,
        windows: u64,
        stride: u64,
        cancel: Arc<AtomicBool>,
        reply: Sender<Result<Progress>>,
    },
    Execute {
        run: Arc<Run>,
        reply: Sender<Result<()>>,
    },
    Seek {
        step: u64,
    },
}

impl Command {
    /// Answers with an error.
    fn refuse(self, error: &Error, reports: &Sender<Result<StepReport>>) {
        let error = error.clone();
        // Whoever asked may have gone.
        let _ = match self {
            Self::Train { .. } => reports.send(Err(error)).is_ok(),
            Self::Evaluate { reply, .. } => reply.send(Err(error)).is_ok(),
            Self::Execute { reply, .. } => reply.send(Err(error)).is_ok(),
            Self::Seek { .. } => true,
        };
    }
}

pub(super) enum Progress {
    Windows(u64),
    Done(EvalReport),
}

pub(super) struct Control {
    pub state: Arc<State>,
    pub pool: Pool,
    pub prefetch: Prefetcher,
    pub training: Arc<Run>,
    pub evaluation: Arc<Run>,
    pub reports: Sender<Result<StepReport>>,
    pub step: Arc<AtomicU64>,
    pub stops: Arc<AtomicU64>,
    pub workers: Arc<Mutex<Vec<WorkerStats>>>,
    pub recording: Arc<Recording>,
    /// Set when a node that writes weights failed: nobody knows which of them it has changed.
    pub broken: Option<Error>,
}

impl Control {
    pub fn main(mut self, commands: &Receiver<Command>) {
        while let Ok(command) = commands.recv() {
            if let Some(error) = &self.broken {
                command.refuse(error, &self.reports);
                continue;
            }
            match command {
                Command::Train { until, stops } => {
                    if let Err(error) = self.train(until, stops) {
                        // Whatever is left of the failed update is dropped; the next command starts it again.
                        self.release_batch();
                        self.prefetch.seek(self.step.load(Ordering::Relaxed));
                        // The receiver lives as long as the command sender.
                        let _ = self.reports.send(Err(error));
                    }
                }
                Command::Evaluate { source, windows, stride, cancel, reply } => {
                    *lock(&self.state.evaluation) =
                        EvalState { source: Some(source), windows, stride, ..EvalState::default() };
                    let outcome = self.evaluate(windows, &cancel, &reply);
                    let _ = reply.send(outcome.map(Progress::Done));
                }
                Command::Execute { run, reply } => {
                    let outcome = self.pool.execute(&run);
                    self.broken = outcome.clone().err();
                    let _ = reply.send(outcome);
                }
                Command::Seek { step } => self.prefetch.seek(step),
            }
        }
    }

    /// Gives the buffer of the batch at hand back to the prefetch thread.
    fn release_batch(&self) {
        let batch = std::mem::take(&mut *self.state.batch.write().unwrap_or_else(PoisonError::into_inner));
        if batch.capacity() > 0
            && let Ok(batch) = Arc::try_unwrap(batch)
        {
            self.prefetch.recycle(batch);
        }
    }

    /// Runs a graph that writes weights. A failure says that they are lost.
    fn update(&mut self, record: bool) -> Result<Vec<Span>> {
        let outcome = if record {
            self.pool.record(&self.training)
        } else {
            self.pool.execute(&self.training).map(|()| Vec::new())
        };
        outcome.map_err(|error| {
            let hint = "the weights in memory are lost; resume from the last checkpoint with --resume auto";
            self.broken.insert(error.hint(hint)).clone()
        })
    }

    /// Whether the new values of other ranks arrived as they left.
    fn check_copies(&mut self) -> Result<()> {
        let Some(rank) = self.state.shared.as_ref().and_then(Shared::wrong) else { return Ok(()) };
        let what = format!("the new values of rank {rank} differ from their digest on this rank");
        Err(self.broken.insert(Error::internal(what)).clone())
    }

    fn train(&mut self, until: u64, stops: u64) -> Result<()> {
        let mut before = self.pool.stats();
        let mut start = Instant::now();
        while self.step.load(Ordering::Relaxed) < until && self.stops.load(Ordering::Acquire) == stops {
            let record = self.recording.on.load(Ordering::Acquire);
            let asked = Instant::now();
            let batch = self.prefetch.next()?;
            let got = Instant::now();
            let (expected, found) = (self.step.load(Ordering::Relaxed), batch.step);
            *self.state.batch.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(batch);
            if found != expected {
                return Err(Error::internal(format!("batch of step {found} where {expected} was due")));
            }
            let spans = self.update(record)?;
            self.check_copies()?;
            self.release_batch();
            let end = Instant::now();
            if record {
                let ns = |at| self.pool.nanoseconds(at);
                self.recording.add(&spans, (ns(start), ns(end)), (ns(asked), ns(got)));
            }
            let seconds = (end - start).as_secs_f64();
            start = end;
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
                grad_norm: result.grad_norm,
                tokens: (self.state.partition.batch * self.state.partition.seq_len) as u64,
                seconds,
                busy_frac,
                prefetch_wait_s: (got - asked).as_secs_f64(),
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

    fn evaluate(&self, windows: u64, cancel: &AtomicBool, reply: &Sender<Result<Progress>>) -> Result<EvalReport> {
        let outcome = self.evaluate_batches(windows, cancel, reply);
        lock(&self.workers).clone_from(&self.pool.stats());
        *self.state.batch.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
        let evaluation = std::mem::take(&mut *lock(&self.state.evaluation));
        let tokens = evaluation.tokens;
        outcome.map(|windows| EvalReport { loss: evaluation.loss_sum / tokens.max(1) as f64, tokens, windows })
    }

    /// Returns the number of windows done.
    fn evaluate_batches(&self, windows: u64, cancel: &AtomicBool, reply: &Sender<Result<Progress>>) -> Result<u64> {
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
        Ok(done)
    }
}
