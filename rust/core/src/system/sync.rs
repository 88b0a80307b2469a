//! What threads of this crate share things through: std and crossbeam under one name.
//!
//! The pool and the prefetch thread take their locks, atomics, queues and channels from here, so that `rust/models` can
//! compile the same files against stand-ins that try every interleaving. In this crate there is nothing in between.

pub(crate) use crossbeam_channel as channel;
pub(crate) use crossbeam_deque as deque;
pub(crate) use crossbeam_utils::sync::{Parker, Unparker};
pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};
pub(crate) use std::thread;

/// Looks of about 50 ns before a worker yields: long enough to bridge the gaps inside a step.
pub(crate) const SPINS: u32 = 400;
/// Yields before a worker sleeps.
pub(crate) const YIELDS: u32 = 8;

/// A poisoned lock still guards valid data: the sections it guards assign whole values.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
