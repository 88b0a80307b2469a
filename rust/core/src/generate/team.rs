//! Threads that compute one pass together: each takes its share of every operation and waits at a barrier between two.
//!
//! An operation of a small model takes a few microseconds, less than it takes to wake a thread. So a thread that waits looks
//! again and again for [`SPINS`] rounds, and sleeps only then. Where the system gives the others no processor the owner is
//! faster alone, which no bit can tell: [`Choice`] measures both.

use super::choice::{Choice, Way};
use crate::error::{Error, Result};
use crate::system::Home;
use crate::system::float_env::{ContractRounding, set_contract_rounding};
use crate::system::sync::{Condvar, Mutex, lock};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// Looks at a barrier before a thread sleeps, about 50 microseconds of them.
const SPINS: usize = 2_000;
/// Most threads of a team: with more the barriers of a pass take longer than its operations.
const MOST_THREADS: usize = 16;

/// Classes of numbers of rows, by powers of two.
const CHOICES: usize = 12;

/// Weights that a thread must have to be worth the barriers.
const THREAD_WEIGHTS: usize = 1 << 18;

/// Threads that are worth their barriers for so many weights, at most `available`.
pub(super) fn team_size(weights: usize, available: usize) -> usize {
    (weights / THREAD_WEIGHTS).clamp(1, MOST_THREADS).min(available.max(1))
}

/// A place where threads wait for each other. What a thread wrote before it, all of them see behind it.
struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    /// How often all have arrived.
    generation: AtomicUsize,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
    /// A thread has ended in a panic and will never arrive.
    broken: AtomicBool,
}

impl Barrier {
    fn new(threads: usize) -> Self {
        Self {
            threads,
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            broken: AtomicBool::new(false),
        }
    }

    /// Waits for all threads; false if one of them will never come.
    fn pass(&self) -> bool {
        if self.threads == 1 {
            return true;
        }
        let generation = self.generation.load(Ordering::SeqCst);
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == self.threads {
            self.arrived.store(0, Ordering::SeqCst);
            self.generation.store(generation + 1, Ordering::SeqCst);
            self.wake_sleepers();
        } else if !self.spin(generation) {
            self.sleep(generation);
        }
        !self.broken.load(Ordering::SeqCst)
    }

    fn over(&self, generation: usize) -> bool {
        self.generation.load(Ordering::SeqCst) != generation || self.broken.load(Ordering::SeqCst)
    }

    fn spin(&self, generation: usize) -> bool {
        (0..SPINS).any(|_| {
            std::hint::spin_loop();
            self.over(generation)
        })
    }

    fn sleep(&self, generation: usize) {
        let mut guard = lock(&self.lock);
        // Whoever ends the generation looks for sleepers after that, and this one looks at the generation after it has
        // made itself known: one of the two sees the other.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !self.over(generation) {
            guard = self.wake.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake_sleepers(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.lock));
            self.wake.notify_all();
        }
    }

    fn break_off(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.wake_sleepers();
    }
}

/// One thread of a team, while it computes.
pub(super) struct Member<'a> {
    /// Its number.
    pub index: usize,
    /// How many there are.
    pub threads: usize,
    barrier: &'a Barrier,
}

impl Member<'_> {
    /// Waits until all of the team are here.
    ///
    /// # Panics
    /// If another one has ended in a panic.
    pub(super) fn wait(&self) {
        assert!(self.barrier.pass(), "another thread of the team has failed");
    }

    /// This thread's part of `0..n`, from a multiple of `unit` to one or to n.
    pub(super) fn share(&self, n: usize, unit: usize) -> Range<usize> {
        let units = n.div_ceil(unit);
        let edge = |i: usize| (units * i / self.threads * unit).min(n);
        edge(self.index)..edge(self.index + 1)
    }
}

/// What a team computes: called once on each thread.
type Work<'a> = &'a (dyn Fn(&Member<'_>) + Sync + 'a);

struct Shared {
    barrier: Barrier,
    /// The work at hand; written by the owner while all others wait for it.
    work: Mutex<Option<Work<'static>>>,
}

/// The calling thread and others, which sleep between two passes.
pub(super) struct Team {
    shared: Arc<Shared>,
    others: Vec<JoinHandle<()>>,
    home: Home,
    /// For passes of similar numbers of rows.
    choices: [Choice; CHOICES],
}

impl Team {
    /// A team of so many threads, the caller among them.
    ///
    /// # Errors
    /// `Memory` if the system refuses a thread.
    pub(super) fn new(threads: usize) -> Result<Self> {
        let shared = Arc::new(Shared { barrier: Barrier::new(threads.max(1)), work: Mutex::new(None) });
        let mut team = Self { shared, others: Vec::new(), home: Home::here(), choices: Default::default() };
        for index in 1..threads {
            let shared = Arc::clone(&team.shared);
            let thread = std::thread::Builder::new().name(format!("symlm-gen{index:02}"));
            match thread.spawn(move || assist(&shared, index)) {
                Ok(thread) => team.others.push(thread),
                Err(error) => return Err(Error::memory(format!("cannot start a thread: {error}"))),
            }
        }
        Ok(team)
    }

    /// Computes a pass over so many rows, under the rounding of the contract, with all threads or alone.
    ///
    /// # Panics
    /// If one of the threads does, when all have ended.
    pub(super) fn run(&mut self, rows: usize, work: Work<'_>) {
        let _environment = ContractRounding::enter();
        // A fork has none of the other threads.
        if self.others.is_empty() || !self.home.is_here() {
            return alone(work);
        }
        let class = (rows.max(1).ilog2() as usize).min(CHOICES - 1);
        let way = self.choices[class].next();
        let began = Instant::now();
        match way {
            Way::Alone => alone(work),
            Way::Together => self.together(work),
        }
        self.choices[class].took(way, began.elapsed().as_secs_f64());
    }

    fn together(&mut self, work: Work<'_>) {
        let shared = Arc::clone(&self.shared);
        let barrier = &shared.barrier;
        // SAFETY: only the lifetime changes. The others use it between the two barriers; this function returns when they have
        // passed the second one, and unwinds when they have ended.
        let forever = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        *lock(&shared.work) = Some(forever);
        let own = catch_unwind(AssertUnwindSafe(|| {
            let member = Member { index: 0, threads: barrier.threads, barrier };
            member.wait();
            work(&member);
            member.wait();
        }));
        if let Err(panic) = own {
            self.end();
            resume_unwind(panic);
        }
    }

    fn end(&mut self) {
        self.shared.barrier.break_off();
        for thread in self.others.drain(..) {
            // The panic of one of them is reported by the owner's.
            let _ = thread.join();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if self.home.is_here() {
            self.end();
        } else {
            self.others.drain(..).for_each(std::mem::forget);
        }
    }
}

/// Computes all of it on this thread.
fn alone(work: Work<'_>) {
    work(&Member { index: 0, threads: 1, barrier: &Barrier::new(1) });
}

/// What the other threads do: wait for work, do their share, again.
fn assist(shared: &Shared, index: usize) {
    set_contract_rounding();
    let barrier = &shared.barrier;
    while barrier.pass() {
        let work = *lock(&shared.work);
        let share = || work.map(|work| work(&Member { index, threads: barrier.threads, barrier }));
        if catch_unwind(AssertUnwindSafe(share)).is_err() {
            barrier.break_off();
        }
        if !barrier.pass() {
            return;
        }
    }
}
