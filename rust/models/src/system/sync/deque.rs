//! Queues of nodes 0 to 63.
//!
//! A push releases, a take acquires, and a look that finds nothing orders nothing. That is all that the pool may expect of
//! crossbeam's deques. Which node comes first is fixed here; the pool promises the same results for any.
//!
//! With [`STALE`] a look may be as old as the memory model allows, which is what the sleep protocol must cope with. Every
//! such look multiplies the executions, so larger models look at the newest state; the order of memory is as weak.

pub use crossbeam_deque::Steal;

use loom::sync::atomic::{AtomicU64, Ordering};
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// Whether looks may be stale. A model and all its threads run on the thread that asked for it.
    pub static STALE: Cell<bool> = const { Cell::new(false) };
}

#[derive(Default)]
struct Nodes(AtomicU64);

impl Nodes {
    fn push(&self, node: u32) {
        self.0.fetch_or(1 << node, Ordering::Release);
    }

    fn steal(&self) -> Steal<u32> {
        // A read-modify-write reads the newest value.
        let seen = if STALE.get() { self.0.load(Ordering::Relaxed) } else { self.0.fetch_or(0, Ordering::Relaxed) };
        if seen == 0 {
            return Steal::Empty;
        }
        let left = seen & (seen - 1);
        match self.0.compare_exchange(seen, left, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Steal::Success(seen.trailing_zeros()),
            Err(_) => Steal::Retry,
        }
    }
}

/// A worker's own queue.
pub struct Worker<T>(Arc<Nodes>, std::marker::PhantomData<T>);

impl Worker<u32> {
    /// An empty queue.
    pub fn new_lifo() -> Self {
        Self(Arc::default(), std::marker::PhantomData)
    }
    /// For the other workers.
    pub fn stealer(&self) -> Stealer<u32> {
        Stealer(self.0.clone(), std::marker::PhantomData)
    }
    /// Adds a node.
    pub fn push(&self, node: u32) {
        self.0.push(node);
    }
    /// Takes a node.
    pub fn pop(&self) -> Option<u32> {
        loop {
            match self.0.steal() {
                Steal::Success(node) => return Some(node),
                Steal::Empty => return None,
                Steal::Retry => {}
            }
        }
    }
}

/// Another worker's queue.
pub struct Stealer<T>(Arc<Nodes>, std::marker::PhantomData<T>);

impl Stealer<u32> {
    /// Takes a node.
    pub fn steal(&self) -> Steal<u32> {
        self.0.steal()
    }
}

/// A queue of all workers.
pub struct Injector<T>(Nodes, std::marker::PhantomData<T>);

impl Injector<u32> {
    /// An empty queue.
    pub fn new() -> Self {
        Self(Nodes::default(), std::marker::PhantomData)
    }
    /// Adds a node.
    pub fn push(&self, node: u32) {
        self.0.push(node);
    }
    /// Takes a node.
    pub fn steal(&self) -> Steal<u32> {
        self.0.steal()
    }
}

impl Default for Injector<u32> {
    fn default() -> Self {
        Self::new()
    }
}
