//! The forward pass of some rows: of one text under way, or of many, each with its cache and its position.
//!
//! ```text
//! for each layer, on each thread:                                      its share is
//!     normed = norm(x)                          every thread, for itself
//!     qkv = normed Wqkvᵀ                        columns                         | wait
//!     q, k = rotated(q, k);  store k, v;  attended = attention    heads         | wait
//!     middle = x + attended Woutᵀ               columns                         | wait
//!     normed = norm(middle)                     every thread, for itself
//!     hidden = swiglu(normed Wguᵀ)              columns of gate and up          | wait
//!     x = middle + hidden Wdownᵀ                columns                         | wait
//! logits = norm(x) Wheadᵀ                       columns                         | wait
//! ```
//!
//! Every element is a separate chain (contract G1 to G4, A1 to A3, E3, E7, E9), so that neither the threads nor the other rows
//! of the pass can move a bit of a row. Each matrix is read once a pass, by columns, each thread its own.

mod attention;
mod input;
mod memory;
mod share;

pub(super) use input::Input;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::generate::model::Model;
use crate::generate::team::{Member, Team};
use crate::system::sync::{Mutex, lock};
use memory::{Memory, Private, SharedLogits};
use share::Share;
use std::sync::Arc;

/// The memory of passes and the threads that compute them.
pub(super) struct Pass {
    model: Arc<Model>,
    team: Team,
    most_rows: usize,
    memory: Memory,
    private: Vec<Mutex<Private>>,
}

impl Pass {
    /// For at most so many rows of texts of at most `context` positions.
    ///
    /// # Errors
    /// `Memory` if the system refuses.
    pub(super) fn new(model: &Arc<Model>, rows: usize, context: usize, threads: usize) -> Result<Self> {
        let memory = Memory::new(model.config(), rows)?;
        let private = (0..threads.max(1)).map(|_| Ok(Mutex::new(Private::new(model, rows, context)?)));
        let private = private.collect::<Result<_>>()?;
        Ok(Self { model: Arc::clone(model), team: Team::new(threads)?, most_rows: rows, memory, private })
    }

    /// Elements that a pass of such sizes holds.
    pub(super) fn elements(c: &ModelConfig, rows: usize, context: usize, threads: usize) -> usize {
        Memory::elements(c, rows) + threads * Private::elements(c, rows, context)
    }

    /// Computes the rows of `input`: stores their keys and values in their caches and writes the logits that are wanted, a row for
    /// each, to `logits`. Then calls `after` on every thread.
    ///
    /// # Panics
    /// If there are too many rows, or `logits` is too short.
    pub(super) fn run(&mut self, input: &Input, logits: &mut [f32], after: &(dyn Fn(&Member<'_>, &[f32]) + Sync)) {
        let c = self.model.config();
        let rows = input.rows();
        assert!(rows <= self.most_rows, "{rows} rows, room for {}", self.most_rows);
        let logits = SharedLogits::new(logits, input.outputs.len(), c.vocab_size);
        // SAFETY: no thread is at work yet.
        let x = unsafe { self.memory.residual.columns_mut(0..rows, 0..c.hidden_size) };
        self.model.embed(&input.ids, x);
        let (model, memory, private) = (&self.model, &self.memory, &self.private);
        self.team.run(rows, &|member: &Member<'_>| {
            let private = &mut *lock(&private[member.index]);
            let mut share = Share { model, memory, private, input, member };
            for layer in 0..model.config().num_layers {
                share.layer(layer);
            }
            share.logits(&logits);
            member.wait();
            // SAFETY: all threads have written their columns, and nobody writes them any more.
            after(member, unsafe { logits.all() });
        });
    }
}
