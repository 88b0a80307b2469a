//! What leaves and arrives in an update that several ranks compute, and the thread outside that moves it.
//!
//! # Protocol
//!
//! The transfers are fixed. The first node of an update arms them all; from then on the thread outside may complete each
//! of them once, when its bytes are there or have left. A node that lets messages leave puts them into a queue that this
//! thread waits on. Everything is under one lock, held for moments: there are some hundred transfers in an update.
//!
//! A failure outside is kept. It completes what is armed, so that the update under way ends, with the error; an update
//! that begins later ends at once.

use crate::pool::Door;
use crate::system::sync::lock;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A range of memory that leaves to, or arrives from another rank in every update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Tells it from others between the same two ranks.
    pub tag: u32,
    /// The other rank.
    pub peer: usize,
    /// Whether it comes from there.
    pub incoming: bool,
    /// First byte. The memory lives as long as the engine.
    pub address: usize,
    /// Bytes.
    pub bytes: usize,
    /// The rank whose values it holds, where these are new values of the parameters.
    pub values_of: Option<usize>,
    /// Whether it holds partial sums of the gradient.
    pub sums: bool,
    /// The node that it completes.
    pub(crate) node: u32,
}

/// What there is to do for the thread that moves bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Updates that have begun since the last call: for each, all incoming transfers are expected once.
    pub begun: u32,
    /// Transfers that may leave, by their position.
    pub leaving: Vec<u32>,
}

#[derive(Default)]
struct Inner {
    armed: Vec<bool>,
    failed: Option<String>,
    door: Option<Door>,
    waiting: Outgoing,
}

/// The transfers of an engine.
#[derive(Default)]
pub(crate) struct Mailbox {
    transfers: Vec<Transfer>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Mailbox {
    pub fn new(transfers: Vec<Transfer>) -> Self {
        let inner = Inner { armed: vec![false; transfers.len()], ..Inner::default() };
        Self { transfers, inner: Mutex::new(inner), changed: Condvar::new() }
    }

    pub fn transfers(&self) -> &[Transfer] {
        &self.transfers
    }

    /// Where completions go.
    pub fn open(&self, door: Door) {
        lock(&self.inner).door = Some(door);
    }

    /// The first node of an update.
    pub fn begin(&self) {
        let mut inner = lock(&self.inner);
        inner.armed.fill(true);
        inner.waiting.begun += 1;
        self.end_if_failed(&mut inner);
        drop(inner);
        self.changed.notify_all();
    }

    /// Lets outgoing transfers leave.
    pub fn leave(&self, indices: &[u32]) {
        lock(&self.inner).waiting.leaving.extend_from_slice(indices);
        self.changed.notify_all();
    }

    /// What has come up since the last call; waits for it up to `timeout`.
    pub fn wait(&self, timeout: Duration) -> Outgoing {
        let end = Instant::now() + timeout;
        let mut inner = lock(&self.inner);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if inner.waiting != Outgoing::default() || left.is_zero() {
                return std::mem::take(&mut inner.waiting);
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// These have arrived, or have left.
    pub fn done(&self, indices: &[u32]) {
        let mut inner = lock(&self.inner);
        for &index in indices {
            self.complete(&mut inner, index as usize);
        }
    }

    /// No update can be finished any more.
    pub fn fail(&self, message: &str) {
        let mut inner = lock(&self.inner);
        inner.failed.get_or_insert_with(|| message.to_owned());
        self.end_if_failed(&mut inner);
    }

    fn end_if_failed(&self, inner: &mut Inner) {
        let Some(message) = inner.failed.clone() else { return };
        // Before the first node has run there may be nothing under way, and what comes next asks again.
        if !inner.armed.contains(&true) {
            return;
        }
        if let Some(door) = &inner.door {
            door.fail(&message);
        }
        (0..self.transfers.len()).for_each(|index| self.complete(inner, index));
    }

    fn complete(&self, inner: &mut Inner, index: usize) {
        if std::mem::take(&mut inner.armed[index])
            && let Some(door) = &inner.door
        {
            door.complete(self.transfers[index].node);
        }
    }
}
