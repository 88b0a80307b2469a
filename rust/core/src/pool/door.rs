//! Nodes that wait for something outside of the pool.
//!
//! A node may need completions from outside beside the nodes before it ([`Graph::wait_outside`](super::Graph)). They count
//! its counter down as the nodes do, with the same order of memory, so what was written before is visible to whoever runs it.
//! Whoever completes pushes like the publisher, and wakes. A completion belongs to the run under way: it must come after a
//! node of that run has run, and no more often than was said; then the counters are those of this publication, and the run
//! cannot end before.

use super::{Run, Shared};
use crate::system::sync::atomic::Ordering;
use crate::system::sync::lock;
use std::sync::{Arc, Weak};

/// The way in for completions of one run.
pub struct Door {
    pub(super) shared: Arc<Shared>,
    pub(super) run: Weak<Run>,
}

impl Door {
    /// Completes a node once.
    pub fn complete(&self, node: u32) {
        let Some(run) = self.run.upgrade() else { return };
        if run.pending[node as usize].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.urgent.push(node);
            self.shared.wake(1);
        }
    }

    /// Lets the run under way end with an error: nodes that have not started are passed over. Those that wait for
    /// completions still need them.
    pub fn fail(&self, message: &str) {
        let Some(run) = self.run.upgrade() else { return };
        lock(&run.panic_message).get_or_insert_with(|| message.to_owned());
        run.poisoned.store(true, Ordering::Relaxed);
    }
}
