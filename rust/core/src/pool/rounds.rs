//! Fork and join: the nodes of a graph in rounds, with a barrier before each.
//!
//! This is the usual way to run a network on several processors, one operation at a time over all of them. It exists to
//! be measured against the deques. Within a round the workers take nodes from a shared counter, so that they finish
//! about together.

use super::Graph;
use crate::system::sync::atomic::{AtomicUsize, Ordering};
use crate::system::sync::{Condvar, Mutex, YIELDS, lock, spin_loop, thread};
use std::sync::PoisonError;

/// A round: nodes without work, then nodes in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Run one after the other by the worker that comes to the barrier last, before it opens.
    pub serial: Vec<u32>,
    /// Shared among the workers.
    pub shared: Vec<u32>,
}

pub(super) struct Turn {
    round: Round,
    taken: AtomicUsize,
}

impl Turn {
    pub fn serial(&self) -> &[u32] {
        &self.round.serial
    }

    /// The next node for whoever asks.
    pub fn next(&self) -> Option<u32> {
        self.round.shared.get(self.taken.fetch_add(1, Ordering::Relaxed)).copied()
    }
}

pub(super) struct Rounds {
    turns: Vec<Turn>,
    pub barrier: Barrier,
}

impl Rounds {
    /// # Panics
    /// If a node is missing, comes twice, or comes before one it depends on.
    pub fn new(graph: &Graph, rounds: Vec<Round>) -> Self {
        let before = graph.predecessors();
        let mut done = vec![false; graph.len()];
        for round in &rounds {
            let mut run = |node: u32| {
                let ready = before[node as usize].iter().all(|&b| done[b as usize]);
                assert!(ready && !done[node as usize], "node {node} is out of order");
                done[node as usize] = true;
            };
            round.serial.iter().for_each(|&node| run(node));
            // Nodes of a round may run at the same time, so none may wait for another.
            for &node in &round.shared {
                assert!(before[node as usize].iter().all(|&b| done[b as usize]), "node {node} is out of order");
            }
            for &node in &round.shared {
                assert!(!done[node as usize], "node {node} comes twice");
                done[node as usize] = true;
            }
        }
        assert!(done.iter().all(|&d| d), "the rounds leave nodes out");
        let turns = rounds.into_iter().map(|round| Turn { round, taken: AtomicUsize::new(0) }).collect();
        Self { turns, barrier: Barrier::default() }
    }

    /// Before a publication.
    pub fn reset(&self) {
        for turn in &self.turns {
            turn.taken.store(0, Ordering::Relaxed);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Turn> {
        self.turns.iter()
    }
}

/// Looks at a closed barrier for each look for work: a round is longer than the gaps between tasks, and a barrier that
/// sleeps early would be a poor opponent.
const PATIENCE: u32 = 50;

/// Opens when all workers have come.
///
/// Each arrival is counted (`AcqRel`), so the last one to come sees what all others wrote. It resets the count before it opens
/// the barrier (`Release`), and nobody returns without having seen the opening (`Acquire`). The opening is
/// counted inside the lock that a sleeper holds from its last look to its wait, so it cannot fall between the two.
#[derive(Default)]
pub(super) struct Barrier {
    arrived: AtomicUsize,
    /// Times that it opened.
    openings: AtomicUsize,
    asleep: Mutex<()>,
    open: Condvar,
}

impl Barrier {
    /// Waits for `threads` workers; the last one runs `serial` before the barrier opens.
    pub fn wait(&self, threads: usize, spins: u32, serial: impl FnOnce()) {
        // It cannot open before this worker has come.
        let openings = self.openings.load(Ordering::Acquire);
        let closed = || self.openings.load(Ordering::Acquire) == openings;
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            self.arrived.store(0, Ordering::Relaxed);
            serial();
            {
                // Inside the lock, so that nobody falls asleep between its look and the call.
                let _asleep = lock(&self.asleep);
                self.openings.store(openings + 1, Ordering::Release);
            }
            self.open.notify_all();
            return;
        }
        for _ in 0..spins * PATIENCE {
            if !closed() {
                return;
            }
            spin_loop();
        }
        for _ in 0..YIELDS {
            thread::yield_now();
            if !closed() {
                return;
            }
        }
        let mut asleep = lock(&self.asleep);
        while closed() {
            asleep = self.open.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
