//! The way forward through the layers, and the loss of an evaluation.
//!
//! Safety of every block here: a node touches only the rows (and, for attention, the columns) of its window and
//! strip or heads; `plan` orders the stages of a window by dependencies, gives a slot to the next sector only when its
//! readers are done, and puts the optimizer's nodes after everything that reads weights.

use super::rows::RowMemory;
use super::state::State;
use crate::model::{Block, MlpRows};
use crate::pool::Scratch;
use crate::step::feed::Batch;
use crate::step::plan::limits::LOGIT_ROWS;
use crate::system::arena::row_stride;
use crate::system::sync::lock;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use symlm_kernels::attention::{self, Heads};
use symlm_kernels::{MatMut, loss};

impl State {
    /// From the attention of layer `l - 1` to that of layer `l`: the end of one layer and the beginning of the next are one
    /// task, so that a strip of rows stays in the cache. The first comes from the token ids, the last ends with the final norm.
    pub(super) fn forward(&self, l: usize, window: usize, rows: &Range<usize>, batch: &Batch, scratch: &mut Scratch) {
        let memory = &mut self.row_memory(rows.len(), scratch);
        // SAFETY: see the top of this file.
        unsafe {
            if l == 0 {
                let start = window * self.seq_len();
                let ids = &batch.inputs[start + rows.start..start + rows.end];
                self.network().embed(ids, self.residual(0, window, rows));
            } else {
                self.leave_layer(l - 1, window, rows, memory);
            }
            if l < self.partition.layers {
                self.enter_layer(l, window, rows, batch, memory);
            } else {
                let (x, place) = (self.residual(l, window, rows), self.places[window]);
                let rstd = self.row_values(self.slot_layout.rstd, place, rows);
                let normed = self.inputs(self.slot_layout.normed, place, rows, memory.normed);
                self.network().final_norm(x.as_mat(), normed, rstd);
            }
        }
    }

    /// A layer up to its attention.
    ///
    /// # Safety
    /// As the blocks of this file: the caller is the node of these rows.
    unsafe fn enter_layer(
        &self,
        l: usize,
        window: usize,
        rows: &Range<usize>,
        batch: &Batch,
        memory: &mut RowMemory<'_>,
    ) {
        let (b, place) = (&self.slot_layout.layers[l], self.places[window]);
        // SAFETY: see the top of this file.
        unsafe {
            let (block, x) = (Block::new(self.network(), l), self.residual(l, window, rows));
            let normed = self.inputs(b.attention_normed, place, rows, memory.normed);
            let rstd = self.row_values(b.attention_rstd, place, rows);
            block.projections(x.as_mat(), normed, rstd, self.write(b.qkv, place, rows));
            for (part, position) in batch.parts(window, rows) {
                block.rotation(self.write(b.qkv, place, &part), position);
            }
        }
    }

    /// A layer from its attention on.
    ///
    /// # Safety
    /// As the blocks of this file: the caller is the node of these rows.
    unsafe fn leave_layer(&self, l: usize, window: usize, rows: &Range<usize>, memory: &mut RowMemory<'_>) {
        let (b, place) = (&self.slot_layout.layers[l], self.places[window]);
        // SAFETY: see the top of this file.
        unsafe {
            let block = Block::new(self.network(), l);
            let (x, attended) = (self.residual(l, window, rows), self.read(b.attended, place, rows));
            let mut middle = self.write(b.middle, place, rows);
            let integers = self.integers(b.attended_input, place, rows);
            block.attention_out(x.as_mat(), attended, integers, middle.reborrow());
            let mlp = MlpRows {
                normed: self.inputs(b.mlp_normed, place, rows, memory.normed),
                rstd: self.row_values(b.mlp_rstd, place, rows),
                gate_up: self.write(b.gate_up, place, rows),
                hidden: self.inputs(b.hidden, place, rows, memory.hidden),
            };
            block.mlp(middle.as_mat(), mlp, self.residual(l + 1, window, rows));
        }
    }

    /// Attention of some key/value heads of a window: that of each of its documents, as if it were alone.
    pub(super) fn attention(
        &self,
        l: usize,
        window: usize,
        part: usize,
        backward: bool,
        batch: &Batch,
        scratch: &mut Scratch,
    ) {
        let (c, head_dim) = (&self.config.model, self.config.model.head_dim());
        let lengths = batch.documents(window).map(|rows| attention::scratch_len(rows.len(), head_dim));
        let [work, _, _] = scratch.buffers([lengths.max().unwrap_or_default(), 0, 0]);
        for kv in part * self.partition.task_heads..((part + 1) * self.partition.task_heads).min(c.num_kv_heads) {
            for rows in batch.documents(window) {
                self.document_attention(l, window, kv, &rows, backward, work);
            }
        }
    }

    /// Attention of a key/value head in a document, which is some rows of a window.
    fn document_attention(
        &self,
        l: usize,
        window: usize,
        kv: usize,
        rows: &Range<usize>,
        backward: bool,
        work: &mut [f32],
    ) {
        let (c, place, b) = (&self.config.model, self.places[window], &self.slot_layout.layers[l]);
        let (isa, group) = (self.isa, c.group());
        let heads = Heads { head_dim: c.head_dim(), group };
        let (q_columns, k_columns, v_columns) = (c.query_columns(kv), c.key_columns(kv), c.value_columns(kv));
        let stats = place.slot + place.row * c.num_heads + group * (kv * self.seq_len() + rows.start);
        // SAFETY: see the top of this file; the three views of qkv cover different columns.
        unsafe {
            let maximum = self.slots.slice_mut(b.maximum + stats, group * rows.len());
            let inverse_sum = self.slots.slice_mut(b.inverse_sum + stats, group * rows.len());
            if backward {
                let mut views = [0; 3].map(|_| self.write(b.qkv, place, rows));
                let [q, k, v] = &mut views;
                let (q, k, v) = (q.col_range(q_columns.clone()), k.col_range(k_columns), v.col_range(v_columns));
                let out = self.read(b.attended, place, rows).col_range(q_columns.clone());
                let d_out = self.read(self.slot_layout.d_attended, place, rows).col_range(q_columns);
                attention::backward(isa, heads, q, k, v, out, d_out, maximum, inverse_sum, work);
            } else {
                let qkv = self.read(b.qkv, place, rows);
                let (q, k, v) = (qkv.col_range(q_columns.clone()), qkv.col_range(k_columns), qkv.col_range(v_columns));
                let mut out = self.write(b.attended, place, rows);
                attention::forward(isa, heads, q, k, v, out.col_range(q_columns), maximum, inverse_sum, work);
            }
        }
    }

    /// Row losses of a strip, the logits in the worker's own memory.
    pub(super) fn eval_loss(&self, window: usize, rows: &Range<usize>, batch: &Batch, scratch: &mut Scratch) {
        let (vocab, start) = (self.config.model.vocab_size, window * self.seq_len());
        let stride = row_stride(vocab);
        let [work, _, _] = scratch.buffers([LOGIT_ROWS * stride, 0, 0]);
        for first in rows.clone().step_by(LOGIT_ROWS) {
            let part = first..(first + LOGIT_ROWS).min(rows.end);
            let mut logits = MatMut::new(work, part.len(), vocab, stride);
            // SAFETY: see the top of this file.
            unsafe {
                let normed = self.operand(self.slot_layout.normed, self.places[window], &part);
                let losses = self.losses.slice_mut(start + part.start, part.len());
                let targets = &batch.targets[start + part.start..start + part.end];
                if targets.iter().any(|&target| target != loss::IGNORED) {
                    self.network().logits(normed, logits.reborrow());
                }
                loss::rows(self.isa, logits.as_mat(), targets, losses);
            }
        }
    }

    /// Fills the batch with the next windows of an evaluation.
    pub(super) fn eval_cut(&self) {
        let mut evaluation = lock(&self.evaluation);
        let Some(source) = evaluation.source.clone() else { return };
        let windows = (evaluation.windows - evaluation.first).min(self.partition.batch as u64);
        let mut batch = Batch::new(self.partition.batch, self.seq_len());
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
        let losses = unsafe { self.losses.slice(0, windows * self.seq_len()) };
        let mut evaluation = lock(&self.evaluation);
        evaluation.loss_sum += symlm_kernels::reduce::batch_loss(losses, counted) * counted as f64;
        evaluation.tokens += counted as u64;
        evaluation.first += windows as u64;
    }
}
