//! Row and head stages, forward, and the evaluation loss.
//!
//! Safety of every block here: a node touches only the rows (and, for attention, the columns) of its own window and
//! strip or heads; `plan` orders the stages of a window by dependencies, gives a slot to the next sector only when its
//! readers are done, and puts the optimizer's nodes after everything that reads weights.

use super::state::State;
use crate::pool::Scratch;
use crate::step::feed::Batch;
use crate::step::plan::limits::LOGIT_ROWS;
use crate::system::arena::row_stride;
use crate::system::sync::lock;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use symlm_kernels::attention::{self, Heads};
use symlm_kernels::gemm::{Left, product, product_add};
use symlm_kernels::{MatMut, embedding, loss, mlp, norm, rope};

impl State {
    fn eps(&self) -> f32 {
        self.config.model.rms_norm_eps as f32
    }

    /// Norm, projections and rotation before the attention of layer `l`, from the residual stream there; for the last
    /// `l` the final norm.
    pub(super) fn forward(&self, l: usize, window: usize, rows: &Range<usize>, batch: &Batch) {
        let (isa, w, place) = (self.isa, &self.weights, self.places[window]);
        // SAFETY: see the head of this file.
        unsafe {
            let mut x = self.residual(l, window, rows);
            if l == 0 {
                let start = window * self.positions();
                embedding::gather(w.embedding(), &batch.inputs[start + rows.start..start + rows.end], x.reborrow());
            } else {
                let (b, m) = (&self.layout.layers[l - 1], self.matrices[l - 1]);
                let before = self.residual(l - 1, window, rows);
                let attention = self.read(b.attention, place, rows);
                let mut middle = self.write(b.middle, place, rows);
                product_add(isa, Left::Rows(attention), w.forward(m.out), before.as_mat(), middle.reborrow());
                let mut n2 = self.write(b.n2, place, rows);
                let rstd = self.row_values(b.rstd2, place, rows);
                norm::forward(isa, middle.as_mat(), w.norm(2 * l - 1), self.eps(), n2.reborrow(), rstd);
                let mut gate_up = self.write(b.gate_up, place, rows);
                product(isa, Left::Rows(n2.as_mat()), w.forward(m.gate_up), gate_up.reborrow());
                let mut hidden = self.write(b.hidden, place, rows);
                mlp::forward(isa, gate_up.as_mat(), hidden.reborrow());
                product_add(isa, Left::Rows(hidden.as_mat()), w.forward(m.down), middle.as_mat(), x.reborrow());
            }
            if l == self.cut.layers {
                let rstd = self.row_values(self.layout.rstd, place, rows);
                let normed = self.write(self.layout.normed, place, rows);
                norm::forward(isa, x.as_mat(), w.norm(2 * l), self.eps(), normed, rstd);
                return;
            }
            let (b, m) = (&self.layout.layers[l], self.matrices[l]);
            let mut n1 = self.write(b.n1, place, rows);
            let rstd = self.row_values(b.rstd1, place, rows);
            norm::forward(isa, x.as_mat(), w.norm(2 * l), self.eps(), n1.reborrow(), rstd);
            let mut qkv = self.write(b.qkv, place, rows);
            product(isa, Left::Rows(n1.as_mat()), w.forward(m.qkv), qkv.reborrow());
            rope::forward(isa, self.rotated(&mut qkv), self.config.model.head_size(), &self.rope, rows.start);
        }
    }

    /// The query and key columns.
    pub(super) fn rotated<'a>(&self, qkv: &'a mut MatMut<'_>) -> MatMut<'a> {
        let c = &self.config.model;
        qkv.col_range(0..c.hidden_size + c.kv_size())
    }

    /// Attention of some key/value heads of a window.
    pub(super) fn attention(&self, l: usize, window: usize, part: usize, backward: bool, scratch: &mut Scratch) {
        let (c, place, b) = (&self.config.model, self.places[window], &self.layout.layers[l]);
        let (hd, group, positions) = (c.head_size(), c.group(), self.positions());
        let rows = 0..positions;
        let heads = Heads { head_size: hd, group };
        let [work, _, _] = scratch.buffers([attention::scratch_len(positions, hd), 0, 0]);
        for kv in part * self.cut.heads..((part + 1) * self.cut.heads).min(c.num_kv_heads) {
            let q_columns = kv * group * hd..(kv + 1) * group * hd;
            let k_columns = c.hidden_size + kv * hd..c.hidden_size + (kv + 1) * hd;
            let v_columns = k_columns.start + c.kv_size()..k_columns.end + c.kv_size();
            let stats = place.slot + place.row * c.num_heads + kv * group * positions;
            // SAFETY: see the head of this file; the three views of qkv cover different columns.
            unsafe {
                let maximum = self.slots.slice_mut(b.maximum + stats, group * positions);
                let inverse_sum = self.slots.slice_mut(b.inverse_sum + stats, group * positions);
                if backward {
                    let mut views = [0; 3].map(|_| self.write(b.qkv, place, &rows));
                    let [q, k, v] = &mut views;
                    let (q, k, v) = (q.col_range(q_columns.clone()), k.col_range(k_columns), v.col_range(v_columns));
                    let out = self.read(b.attention, place, &rows).col_range(q_columns.clone());
                    let d_out = self.read(self.layout.d_attention, place, &rows).col_range(q_columns);
                    attention::backward(self.isa, heads, q, k, v, out, d_out, maximum, inverse_sum, work);
                } else {
                    let qkv = self.read(b.qkv, place, &rows);
                    let (q, k, v) =
                        (qkv.col_range(q_columns.clone()), qkv.col_range(k_columns), qkv.col_range(v_columns));
                    let mut out = self.write(b.attention, place, &rows);
                    attention::forward(self.isa, heads, q, k, v, out.col_range(q_columns), maximum, inverse_sum, work);
                }
            }
        }
    }

    /// Row losses of a strip, the logits in the worker's own memory.
    pub(super) fn eval_loss(&self, window: usize, rows: &Range<usize>, batch: &Batch, scratch: &mut Scratch) {
        let (vocab, start) = (self.config.model.vocab_size, window * self.positions());
        let stride = row_stride(vocab);
        let [work, _, _] = scratch.buffers([LOGIT_ROWS * stride, 0, 0]);
        for first in rows.clone().step_by(LOGIT_ROWS) {
            let part = first..(first + LOGIT_ROWS).min(rows.end);
            let mut logits = MatMut::new(work, part.len(), vocab, stride);
            // SAFETY: see the head of this file.
            unsafe {
                let normed = self.read(self.layout.normed, self.places[window], &part);
                let losses = self.losses.slice_mut(start + part.start, part.len());
                let targets = &batch.targets[start + part.start..start + part.end];
                if targets.iter().any(|&target| target != loss::IGNORED) {
                    product(self.isa, Left::Rows(normed), self.weights.forward(self.head), logits.reborrow());
                }
                loss::rows(self.isa, logits.as_mat(), targets, losses);
            }
        }
    }

    /// Fills the batch with the next windows of an evaluation.
    pub(super) fn eval_cut(&self) {
        let mut evaluation = lock(&self.evaluation);
        let Some(source) = evaluation.source.clone() else { return };
        let windows = (evaluation.windows - evaluation.first).min(self.cut.batch as u64);
        let mut batch = Batch::new(self.cut.batch, self.positions());
        batch.windows = windows as usize;
        for i in 0..windows {
            let read = batch.set_window(i as usize, &*source, (evaluation.first + i) * evaluation.stride);
            if let Err(error) = read.and_then(|()| batch.check_ids(self.config.model.vocab_size)) {
                evaluation.error = Some(error);
                batch.windows = 0;
                break;
            }
        }
        *self.batch.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(batch);
    }

    /// Adds the losses of the batch to the evaluation's sum (contract L4 for each batch, batches ascending).
    pub(super) fn eval_sum(&self) {
        let batch = self.batch();
        let (windows, counted) = (batch.windows, batch.targets_counted());
        // SAFETY: every loss node came before.
        let losses = unsafe { self.losses.slice(0, windows * self.positions()) };
        let mut evaluation = lock(&self.evaluation);
        evaluation.loss_sum += symlm_kernels::reduce::batch_loss(losses, counted) * counted as f64;
        evaluation.tokens += counted as u64;
        evaluation.first += windows as u64;
    }
}
