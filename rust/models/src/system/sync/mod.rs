//! Stand-ins for what the core takes from std and crossbeam.
//!
//! Locks, atomics, fences and threads are loom's. Queues, parkers and channels are made of them, each as weak as the real
//! one is documented to be, so that code which needs more fails here.

pub mod channel;
pub mod deque;

use std::sync::{Arc, PoisonError};

pub use loom::sync::atomic;
pub use loom::sync::{Condvar, Mutex, MutexGuard};
pub use loom::thread;

/// Idle looks only multiply the interleavings: a worker that looks again does what it did before.
pub const SPINS: u32 = 0;
/// As [`SPINS`].
pub const YIELDS: u32 = 0;

/// Nothing: what is read next may be as old as what was seen before. (loom's own lets every thread see what is
/// newest, and with that a sleeper would never miss a push.)
pub fn spin_loop() {}

/// As in the core.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A parker keeps one token.
#[derive(Default)]
pub struct Parker(Unparker);

/// Hands a parker its token.
#[derive(Clone, Default)]
pub struct Unparker(Arc<Token>);

struct Token {
    there: Mutex<bool>,
    came: Condvar,
}

impl Default for Token {
    fn default() -> Self {
        Self { there: Mutex::new(false), came: Condvar::new() }
    }
}

impl Parker {
    /// A parker without a token.
    pub fn new() -> Self {
        Self::default()
    }
    /// Who can wake it.
    pub fn unparker(&self) -> &Unparker {
        &self.0
    }
    /// Waits for the token and takes it.
    pub fn park(&self) {
        let token = &*self.0.0;
        let mut there = lock(&token.there);
        while !*there {
            there = token.came.wait(there).unwrap_or_else(PoisonError::into_inner);
        }
        *there = false;
    }
}

impl Unparker {
    /// Leaves the token.
    pub fn unpark(&self) {
        *lock(&self.0.there) = true;
        self.0.came.notify_one();
    }
}
