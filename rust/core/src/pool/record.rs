//! What the workers did in a run.
//!
//! Every node runs once in a run, so a table with an entry per node, made beforehand, takes the spans: no lock, and no
//! two workers write to one entry. The publisher reads it when the run has ended; the count-down of the nodes makes
//! the entries visible to it.

use crate::system::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::OnceLock;

/// A node that was run. Times are nanoseconds from the pool's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Who ran it.
    pub worker: u32,
    /// The node.
    pub node: u32,
    /// Whether it came from another worker's deque.
    pub stolen: bool,
    /// End of the node that the worker ran before.
    pub free: u64,
    /// From here to `start` the worker had nothing to do; from `free` to here it handed on and looked for work.
    pub idle: u64,
    /// Start of the node.
    pub start: u64,
    /// End of the node.
    pub end: u64,
}

/// A line of cache, so that workers do not disturb each other.
#[derive(Default)]
#[repr(align(64))]
struct Entry {
    /// Worker and, in the lowest bit, whether the node was stolen.
    who: AtomicU64,
    times: [AtomicU64; 4],
}

#[derive(Default)]
pub(super) struct Recorder {
    on: AtomicBool,
    entries: OnceLock<Box<[Entry]>>,
}

impl Recorder {
    /// Called before a publication.
    pub fn start(&self, nodes: usize) {
        self.entries.get_or_init(|| (0..nodes).map(|_| Entry::default()).collect());
        self.on.store(true, Ordering::Relaxed);
    }

    /// Called when the run has ended.
    pub fn stop(&self) {
        self.on.store(false, Ordering::Relaxed);
    }

    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub fn set(&self, span: Span) {
        let Some(entry) = self.entries.get().and_then(|entries| entries.get(span.node as usize)) else { return };
        entry.who.store(u64::from(span.worker) << 1 | u64::from(span.stolen), Ordering::Relaxed);
        for (time, value) in entry.times.iter().zip([span.free, span.idle, span.start, span.end]) {
            time.store(value, Ordering::Relaxed);
        }
    }

    /// The spans of the run that has ended, by node.
    pub fn spans(&self) -> Vec<Span> {
        let entries = self.entries.get().map_or(&[][..], |entries| entries);
        let read = |(node, entry): (usize, &Entry)| {
            let who = entry.who.load(Ordering::Relaxed);
            let [free, idle, start, end] = entry.times.each_ref().map(|time| time.load(Ordering::Relaxed));
            Span { worker: (who >> 1) as u32, node: node as u32, stolen: who & 1 == 1, free, idle, start, end }
        };
        entries.iter().enumerate().map(read).collect()
    }
}
