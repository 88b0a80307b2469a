//! Persistent workers that run task graphs.
//!
//! # Protocol
//!
//! **Nodes.** A [`Graph`] is a fixed set of nodes with dependency counters. Publishing a [`Run`] resets the counters and
//! pushes the nodes without dependencies. A worker that finishes a node decrements the counter of each successor
//! (`AcqRel`); whoever brings a counter to zero pushes that node, so it is pushed exactly once, and the writes of all
//! its predecessors are visible to whoever runs it: each decrement releases them, the last one acquires them, and a push
//! and the take of it are a release/acquire pair of crossbeam's queues. There are no barriers: a join is a node
//! without work.
//!
//! Urgent nodes go to the finishing worker's own deque (last in, first out: the activations are still in its cache) and
//! can be stolen; the rest go to one shared queue that workers turn to when nothing urgent is left.
//!
//! **Publication and end.** One thread publishes. It writes counters and `current`, then the generation (`Release`), then
//! pushes; a worker that has taken a node therefore sees this generation and finds this run. Every node, when it is
//! finished and has pushed its successors, counts `remaining` down (`AcqRel`); who brings it to zero wakes the
//! publisher, which parks until then. So when [`Pool::execute`] returns, no worker holds a node, all writes
//! of all nodes are visible, and the counters may be written again.
//!
//! **Sleep.** An idle worker looks a while, yields a few times, then sleeps. The sleep protocol is an event count: (1)
//! the worker registers itself as a sleeper, (2) fence, (3) looks once more, (4) parks. A pusher (a) pushes, (b) fence,
//! (c) reads the number of sleepers and wakes some. Either the worker's look (3) sees the push, or the pusher's read
//! (c) sees the sleeper: with both fences sequentially consistent they cannot both miss. A wake-up that comes early is
//! kept by the parker as a token, so it is never lost; one that comes late only makes a worker look once more. Only
//! publications depend on this: a worker that pushes is awake, and looks at everything itself before it sleeps.
//!
//! **Shutdown.** Dropping the pool sets `shutdown`, then leaves a token with every parker. A worker reads the flag each
//! time before it parks; if it reads too early, the token is there or comes, and it looks again. The publisher owns
//! the pool, so no run is under way.
//!
//! **Panics.** A panic in a node is caught; the other nodes of the run are then passed over (their counters still count
//! down), so that the run ends and the publisher can report it. No lock of the pool is held while a node runs.
//!
//! A node may also wait for something outside of the pool ([`Door`]). When a node has panicked whoever completes such nodes
//! must do so for all that are left: [`Program::pass_over`] tells it.
//!
//! A run may be scheduled in rounds instead, with a barrier between them ([`rounds`]); that is for measuring only. What
//! the workers do can be recorded ([`record`]), and they can be disturbed ([`chaos`]).
//!
//! # Evidence
//!
//! `rust/models` runs these files under loom, which tries every interleaving of two workers and a publisher up to a
//! number of preemptions, with loads as old as the memory model allows; completions from outside too. `tests/schedules.rs` trains under random
//! schedules on up to 63 workers.

pub mod chaos;
mod door;
mod graph;
pub mod record;
pub mod rounds;
#[cfg(test)]
mod tests;
mod worker;

use crate::system::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use crate::system::sync::deque::{Injector, Stealer, Worker};
use crate::system::sync::{Mutex, Parker, SPINS, Unparker, lock, thread};
use chaos::{Calm, Chaos, Disturbed, Mood};
use crossbeam_utils::CachePadded;
pub use door::Door;
pub use graph::Graph;
use record::{Recorder, Span};
use rounds::{Round, Rounds};
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Tally;
use std::time::Instant;
use worker::WorkerThread;

/// What the nodes of a graph do.
pub trait Program: Send + Sync + 'static {
    /// Runs a node. `scratch` is the worker's own memory, kept between nodes and runs.
    fn run(&self, node: u32, scratch: &mut Scratch);

    /// Called for a node that panicked, and in the place of `run` for those of its run that come later.
    fn pass_over(&self, _node: u32) {}
}

/// Memory of one worker.
#[derive(Default)]
pub struct Scratch {
    buffers: [Vec<f32>; 3],
}

impl Scratch {
    /// Three buffers of at least these sizes; the contents are what the last user left.
    pub fn buffers(&mut self, sizes: [usize; 3]) -> [&mut [f32]; 3] {
        for (buffer, size) in self.buffers.iter_mut().zip(sizes) {
            if buffer.len() < size {
                buffer.resize(size, 0.0);
            }
        }
        self.buffers.each_mut().map(Vec::as_mut_slice)
    }
}

/// One publication of a graph.
pub struct Run {
    program: Arc<dyn Program>,
    graph: Arc<Graph>,
    pending: Vec<AtomicU32>,
    remaining: AtomicUsize,
    poisoned: AtomicBool,
    panic_message: Mutex<Option<String>>,
    /// With rounds the workers follow these instead of the counters.
    rounds: Option<Rounds>,
    recorder: Recorder,
}

impl Run {
    /// A run that can be published again and again.
    pub fn new(program: Arc<dyn Program>, graph: Arc<Graph>) -> Arc<Self> {
        Arc::new(Self::make(program, graph, None))
    }

    /// A run whose nodes go round by round, with a barrier before each.
    ///
    /// # Panics
    /// If a node is missing or comes before one it depends on.
    pub fn in_rounds(program: Arc<dyn Program>, graph: Arc<Graph>, rounds: Vec<Round>) -> Arc<Self> {
        let rounds = Rounds::new(&graph, rounds);
        Arc::new(Self::make(program, graph, Some(rounds)))
    }

    fn make(program: Arc<dyn Program>, graph: Arc<Graph>, rounds: Option<Rounds>) -> Self {
        let pending = graph.dependencies.iter().map(|&d| AtomicU32::new(d)).collect();
        Self {
            program,
            graph,
            pending,
            remaining: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
            panic_message: Mutex::new(None),
            rounds,
            recorder: Recorder::default(),
        }
    }
}

/// What a worker did since it started: for display, not part of the protocol.
#[derive(Default)]
pub struct WorkerCounters {
    tasks: Tally,
    busy_ns: Tally,
    steals: Tally,
}

/// A reading of [`WorkerCounters`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkerStats {
    /// Nodes run.
    pub tasks: u64,
    /// Nanoseconds inside nodes.
    pub busy_ns: u64,
    /// Nodes taken from another worker's deque.
    pub steals: u64,
}

struct Shared {
    urgent: Injector<u32>,
    later: Injector<u32>,
    stealers: Vec<Stealer<u32>>,
    unparkers: Vec<Unparker>,
    current: Mutex<Option<Arc<Run>>>,
    generation: AtomicU64,
    sleepers: Mutex<Vec<usize>>,
    sleeper_count: AtomicUsize,
    publisher: Unparker,
    counters: Vec<CachePadded<WorkerCounters>>,
    shutdown: AtomicBool,
    /// Looks for work before the first yield; 0 when there are more workers than processors.
    spins: u32,
    /// Times of recorded spans count from here.
    origin: Instant,
}

/// The workers. Published to from one thread at a time; dropping it joins them.
pub struct Pool {
    shared: Arc<Shared>,
    parker: Parker,
    threads: Vec<thread::JoinHandle<()>>,
    /// Disturbs publications, as the workers disturb themselves.
    chaos: Option<Disturbed>,
}

impl Pool {
    /// Starts `threads` workers named `symlm-w00`, ...
    ///
    /// # Errors
    /// `User` if the system refuses a thread.
    pub fn new(threads: usize) -> crate::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let spins = if threads <= processors { SPINS } else { 0 };
        Self::start(threads, spins, None, |_| Calm)
    }

    /// As [`Pool::new`], with workers that follow `chaos`. For tests.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn disturbed(threads: usize, chaos: Chaos) -> crate::Result<Self> {
        let count = Arc::default();
        let moods = |thread| Disturbed::new(chaos, thread, &count);
        // With few spins, or none, workers park often.
        Self::start(threads, chaos.seed as u32 % 2 * 20, Some(moods(threads)), moods)
    }

    fn start<M: Mood>(
        threads: usize,
        spins: u32,
        chaos: Option<Disturbed>,
        mood: impl Fn(usize) -> M,
    ) -> crate::Result<Self> {
        let parker = Parker::new();
        let parkers: Vec<Parker> = (0..threads).map(|_| Parker::new()).collect();
        let deques: Vec<Worker<u32>> = (0..threads).map(|_| Worker::new_lifo()).collect();
        let shared = Arc::new(Shared {
            urgent: Injector::new(),
            later: Injector::new(),
            stealers: deques.iter().map(Worker::stealer).collect(),
            unparkers: parkers.iter().map(|p| p.unparker().clone()).collect(),
            current: Mutex::new(None),
            generation: AtomicU64::new(0),
            sleepers: Mutex::new(Vec::with_capacity(threads)),
            sleeper_count: AtomicUsize::new(0),
            publisher: parker.unparker().clone(),
            counters: (0..threads).map(|_| CachePadded::default()).collect(),
            shutdown: AtomicBool::new(false),
            spins,
            origin: Instant::now(),
        });
        let mut pool = Self { shared: shared.clone(), parker, threads: Vec::with_capacity(threads), chaos };
        for (index, (deque, parker)) in deques.into_iter().zip(parkers).enumerate() {
            let (shared, mood) = (shared.clone(), mood(index));
            let thread = thread::Builder::new()
                .name(format!("symlm-w{index:02}"))
                .spawn(move || {
                    crate::system::float_env::set_contract_rounding();
                    WorkerThread::new(index, deque, parker, shared, mood).main();
                })
                .map_err(|e| {
                    crate::Error::user(format!(
                        "cannot start worker thread {index} of {threads}: {}",
                        crate::error::io_reason(&e)
                    ))
                    .hint("use fewer threads")
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Number of workers.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Runs the graph of `run` once and waits for its end.
    ///
    /// # Errors
    /// `Internal` with the message if a node panicked.
    pub fn execute(&self, run: &Arc<Run>) -> crate::Result<()> {
        if run.graph.is_empty() {
            return Ok(());
        }
        for (pending, &d) in run.pending.iter().zip(&run.graph.dependencies) {
            pending.store(d, Ordering::Relaxed);
        }
        run.poisoned.store(false, Ordering::Relaxed);
        // Following the rounds counts as a node of each worker.
        let followers = if run.rounds.is_some() { self.threads() } else { 0 };
        run.remaining.store(run.graph.len() + followers, Ordering::Relaxed);
        *lock(&self.shared.current) = Some(run.clone());
        self.shared.generation.fetch_add(1, Ordering::Release);
        let published = if let Some(rounds) = &run.rounds {
            rounds.reset();
            // Any number will do: whoever takes it follows the rounds.
            (0..followers).for_each(|i| self.shared.urgent.push(i as u32));
            followers
        } else {
            self.publish(&run.graph)
        };
        self.shared.wake(published);
        while run.remaining.load(Ordering::Acquire) > 0 {
            self.parker.park();
        }
        *lock(&self.shared.current) = None;
        match lock(&run.panic_message).take() {
            Some(message) => Err(crate::Error::internal(format!("a worker failed: {message}"))),
            None => Ok(()),
        }
    }

    /// The way in for nodes of `run` that wait for something outside.
    pub fn door(&self, run: &Arc<Run>) -> Door {
        Door { shared: self.shared.clone(), run: Arc::downgrade(run) }
    }

    /// Pushes the nodes without dependencies; returns how many.
    fn publish(&self, graph: &Graph) -> usize {
        let push = |node: u32, urgent: bool| {
            let queue = if urgent { &self.shared.urgent } else { &self.shared.later };
            queue.push(node);
        };
        let ready = (0..graph.len() as u32).filter(|&node| graph.dependencies[node as usize] == 0);
        let Some(chaos) = &self.chaos else {
            return ready.fold(0, |count, node| {
                push(node, graph.urgent[node as usize]);
                count + 1
            });
        };
        let ready: Vec<u32> = ready.collect();
        chaos.in_order(&ready, |node| {
            chaos.pause();
            push(node, chaos.urgent(graph.urgent[node as usize]));
        });
        ready.len()
    }

    /// As [`Pool::execute`]; gives what the workers did, a span per node.
    ///
    /// # Errors
    /// As [`Pool::execute`].
    pub fn record(&self, run: &Arc<Run>) -> crate::Result<Vec<Span>> {
        run.recorder.start(run.graph.len());
        let outcome = self.execute(run);
        run.recorder.stop();
        outcome.map(|()| run.recorder.spans())
    }

    /// Nanoseconds from the origin of recorded times.
    pub fn nanoseconds(&self, at: Instant) -> u64 {
        self.shared.nanoseconds(at)
    }

    /// Counters of every worker.
    pub fn stats(&self) -> Vec<WorkerStats> {
        self.shared
            .counters
            .iter()
            .map(|c| WorkerStats {
                tasks: c.tasks.load(Ordering::Relaxed),
                busy_ns: c.busy_ns.load(Ordering::Relaxed),
                steals: c.steals.load(Ordering::Relaxed),
            })
            .collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::Release);
        for unparker in &self.shared.unparkers {
            unparker.unpark();
        }
        for thread in self.threads.drain(..) {
            // A worker catches the panics of its nodes, so an error here has no one to go to.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn nanoseconds(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_nanos() as u64
    }

    /// Wakes up to `count` sleepers, after a push.
    fn wake(&self, count: usize) {
        fence(Ordering::SeqCst);
        if count == 0 || self.sleeper_count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut sleepers = lock(&self.sleepers);
        for _ in 0..count {
            let Some(index) = sleepers.pop() else { break };
            self.unparkers[index].unpark();
        }
        self.sleeper_count.store(sleepers.len(), Ordering::Relaxed);
    }

    /// Takes `index` off the list of sleepers, if it is still there.
    fn rise(&self, index: usize) {
        let mut sleepers = lock(&self.sleepers);
        sleepers.retain(|&i| i != index);
        self.sleeper_count.store(sleepers.len(), Ordering::Relaxed);
    }
}
