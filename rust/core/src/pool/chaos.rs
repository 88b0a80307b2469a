//! Schedules that no machine makes on its own, for tests: workers that look for work anywhere first, hand on in any
//! order, sleep at bad moments, or fail. The results must not change.
//!
//! The workers of a training run are compiled for [`Calm`], of which nothing is left in the code.

use crate::rng::{Stream, draw};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How the workers are disturbed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chaos {
    /// Decides everything that is decided at random.
    pub seed: u64,
    /// The node, counted from 0 over all workers since their start, that panics.
    pub panic_at: Option<u64>,
}

/// What may come between a worker and its work.
pub(super) trait Mood: Send + 'static {
    /// Where a look in so many places begins; `None` for the usual order.
    fn first(&self, places: usize) -> Option<usize>;
    /// Perhaps a delay.
    fn pause(&self);
    /// Called where the body of a node may panic.
    fn before_node(&self);
    /// Calls `each` for each node.
    fn in_order(&self, nodes: &[u32], each: impl FnMut(u32));
    /// Whether a node is to be handled as urgent that is so by the plan.
    fn urgent(&self, planned: bool) -> bool;
}

/// Everything as planned.
pub(super) struct Calm;

impl Mood for Calm {
    #[inline(always)]
    fn first(&self, _: usize) -> Option<usize> {
        None
    }
    #[inline(always)]
    fn pause(&self) {}
    #[inline(always)]
    fn before_node(&self) {}
    #[inline(always)]
    fn in_order(&self, nodes: &[u32], each: impl FnMut(u32)) {
        nodes.iter().copied().for_each(each);
    }
    #[inline(always)]
    fn urgent(&self, planned: bool) -> bool {
        planned
    }
}

/// What a thread makes of [`Chaos`].
pub(super) struct Disturbed {
    chaos: Chaos,
    thread: u32,
    drawn: Cell<u64>,
    nodes: Arc<AtomicU64>,
}

impl Disturbed {
    pub fn new(chaos: Chaos, thread: usize, nodes: &Arc<AtomicU64>) -> Self {
        Self { chaos, thread: thread as u32, drawn: Cell::new(0), nodes: nodes.clone() }
    }

    /// A number below `end`.
    fn below(&self, end: usize) -> usize {
        let index = self.drawn.get();
        self.drawn.set(index + 1);
        (draw(self.chaos.seed, Stream::Sample, index, self.thread)[0] as usize) % end
    }
}

impl Mood for Disturbed {
    fn first(&self, places: usize) -> Option<usize> {
        self.pause();
        Some(self.below(places))
    }

    fn pause(&self) {
        match self.below(64) {
            0 => std::thread::sleep(Duration::from_micros(self.below(60) as u64)),
            1..5 => std::thread::yield_now(),
            5..10 => (0..self.below(1000)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }

    fn before_node(&self) {
        self.pause();
        let node = self.nodes.fetch_add(1, Ordering::Relaxed);
        assert!(Some(node) != self.chaos.panic_at, "node {node} was told to fail");
    }

    fn in_order(&self, nodes: &[u32], each: impl FnMut(u32)) {
        let mut nodes = nodes.to_vec();
        for end in (2..=nodes.len()).rev() {
            nodes.swap(end - 1, self.below(end));
        }
        nodes.into_iter().for_each(each);
    }

    fn urgent(&self, planned: bool) -> bool {
        match self.below(4) {
            0 => !planned,
            _ => planned,
        }
    }
}
