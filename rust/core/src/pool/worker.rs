//! A worker: finds nodes, runs them, hands on what they free.
//!
//! It keeps the run that its last node belonged to, and fetches the published one when the generation has moved. That
//! may keep an ended run in memory until its next node or its end, and nothing else: a batch is not part of a run.

use super::chaos::Mood;
use super::record::Span;
use super::{Run, Scratch, Shared};
use crate::system::sync::atomic::{Ordering, fence};
use crate::system::sync::deque::{Steal, Stealer, Worker};
use crate::system::sync::{Parker, YIELDS, lock, spin_loop, thread};
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

pub(super) struct WorkerThread<M> {
    index: usize,
    deque: Worker<u32>,
    parker: Parker,
    shared: Arc<Shared>,
    run: Option<Arc<Run>>,
    generation: u64,
    scratch: Scratch,
    /// End of the node before.
    free: Instant,
    /// The first look for the next node that found none.
    fruitless: Option<Instant>,
    mood: M,
}

/// A node that was found, and whether it comes from another worker's deque.
struct Found {
    node: u32,
    stolen: bool,
}

fn steal(mut attempt: impl FnMut() -> Steal<u32>) -> Option<u32> {
    loop {
        match attempt() {
            Steal::Success(node) => return Some(node),
            Steal::Empty => return None,
            Steal::Retry => spin_loop(),
        }
    }
}

impl<M: Mood> WorkerThread<M> {
    pub fn new(index: usize, deque: Worker<u32>, parker: Parker, shared: Arc<Shared>, mood: M) -> Self {
        let scratch = Scratch::default();
        let free = Instant::now();
        Self { index, deque, parker, shared, run: None, generation: 0, scratch, free, fruitless: None, mood }
    }

    pub fn main(mut self) {
        while let Some(found) = self.next() {
            self.execute(&found);
        }
    }

    fn find(&self) -> Option<Found> {
        let shared = &*self.shared;
        let own = |node| Found { node, stolen: false };
        let count = shared.stealers.len();
        if let Some(first) = self.mood.first(count + 2) {
            return (0..count + 2).find_map(|k| self.look((first + k) % (count + 2)));
        }
        if let Some(node) = self.deque.pop().or_else(|| steal(|| shared.urgent.steal())) {
            return Some(own(node));
        }
        for k in 1..count {
            if let Some(found) = self.rob(k) {
                return Some(found);
            }
        }
        steal(|| shared.later.steal()).map(own)
    }

    /// Takes a node from the `k`-th worker after this one.
    fn rob(&self, k: usize) -> Option<Found> {
        let shared = &*self.shared;
        let victim: &Stealer<u32> = &shared.stealers[(self.index + k) % shared.stealers.len()];
        let node = steal(|| victim.steal())?;
        shared.counters[self.index].steals.fetch_add(1, Ordering::Relaxed);
        Some(Found { node, stolen: true })
    }

    /// Looks in one place of all that [`Self::find`] looks in.
    fn look(&self, place: usize) -> Option<Found> {
        let own = |node| Found { node, stolen: false };
        match place {
            0 => self.deque.pop().map(own),
            1 => steal(|| self.shared.urgent.steal()).map(own),
            2 => steal(|| self.shared.later.steal()).map(own),
            _ => self.rob(place - 2),
        }
    }

    /// The next node to run; `None` at shutdown.
    fn next(&mut self) -> Option<Found> {
        if let Some(found) = self.find() {
            return Some(found);
        }
        self.fruitless = Some(Instant::now());
        let shared = &*self.shared;
        loop {
            for _ in 0..=shared.spins {
                if let Some(found) = self.find() {
                    return Some(found);
                }
                if shared.shutdown.load(Ordering::Acquire) {
                    return None;
                }
                spin_loop();
            }
            for _ in 0..YIELDS {
                thread::yield_now();
                if let Some(found) = self.find() {
                    return Some(found);
                }
            }
            {
                let mut sleepers = lock(&shared.sleepers);
                sleepers.push(self.index);
                shared.sleeper_count.store(sleepers.len(), Ordering::Relaxed);
            }
            self.mood.pause();
            fence(Ordering::SeqCst);
            if let Some(found) = self.find() {
                shared.rise(self.index);
                return Some(found);
            }
            if shared.shutdown.load(Ordering::Acquire) {
                return None;
            }
            self.mood.pause();
            self.parker.park();
            // Woken by a pusher (already off the list), by shutdown, or by a token left from an earlier wake-up.
            shared.rise(self.index);
        }
    }

    fn execute(&mut self, found: &Found) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if self.run.is_none() || self.generation != generation {
            self.run.clone_from(&lock(&self.shared.current));
            self.generation = generation;
        }
        let run = self.run.take().expect("a node belongs to a published run");
        if run.rounds.is_some() {
            self.follow(&run);
        } else {
            self.run_node(&run, found.node, found.stolen);
            self.mood.pause();
            self.release(&run, found.node);
        }
        self.mood.pause();
        self.count_down(run);
    }

    /// Runs a node, unless one of the run has failed.
    fn run_node(&mut self, run: &Run, node: u32, stolen: bool) {
        let start = Instant::now();
        if run.poisoned.load(Ordering::Relaxed) {
            run.program.pass_over(node);
        } else {
            let (scratch, mood) = (&mut self.scratch, &self.mood);
            let body = std::panic::AssertUnwindSafe(|| {
                mood.before_node();
                run.program.run(node, scratch);
            });
            if let Err(payload) = std::panic::catch_unwind(body) {
                run.poisoned.store(true, Ordering::Relaxed);
                lock(&run.panic_message).get_or_insert_with(|| panic_text(payload.as_ref()));
                run.program.pass_over(node);
            }
        }
        let end = Instant::now();
        let counters = &self.shared.counters[self.index];
        counters.tasks.fetch_add(1, Ordering::Relaxed);
        counters.busy_ns.fetch_add((end - start).as_nanos() as u64, Ordering::Relaxed);
        let (free, fruitless) = (std::mem::replace(&mut self.free, end), self.fruitless.take());
        if run.recorder.is_on() {
            let ns = |at| self.shared.nanoseconds(at);
            let idle = ns(fruitless.unwrap_or(start));
            let worker = self.index as u32;
            run.recorder.set(Span { worker, node, stolen, free: ns(free), idle, start: ns(start), end: ns(end) });
        }
    }

    /// Pushes the nodes that waited for this one alone.
    fn release(&self, run: &Run, node: u32) {
        let mut pushed = 0;
        self.mood.in_order(run.graph.successors(node), |next| {
            if run.pending[next as usize].fetch_sub(1, Ordering::AcqRel) == 1 {
                self.mood.pause();
                if self.mood.urgent(run.graph.urgent[next as usize]) {
                    self.deque.push(next);
                } else {
                    self.shared.later.push(next);
                }
                pushed += 1;
            }
        });
        // One of the nodes is for this worker itself.
        if pushed > 1 {
            self.shared.wake(pushed - 1);
        }
    }

    /// Whoever brings the count to zero wakes the publisher.
    fn count_down(&mut self, run: Arc<Run>) {
        if run.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.publisher.unpark();
        } else {
            self.run = Some(run);
        }
    }

    /// Goes through the rounds together with all other workers.
    fn follow(&mut self, run: &Run) {
        let Some(rounds) = &run.rounds else { return };
        let (threads, spins) = (self.shared.stealers.len(), self.shared.spins);
        for round in rounds.iter() {
            let one = |worker: &mut Self, node: u32| {
                worker.run_node(run, node, false);
                run.remaining.fetch_sub(1, Ordering::AcqRel);
            };
            rounds.barrier.wait(threads, spins, || round.serial().iter().for_each(|&node| one(self, node)));
            while let Some(node) = round.next() {
                one(self, node);
            }
            self.fruitless.get_or_insert_with(Instant::now);
        }
    }
}

/// What a panic said, on one line.
fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let lines: Vec<&str> = text.unwrap_or("unknown panic").lines().map(str::trim).collect();
    lines.join(", ")
}
