//! The way back from the loss to the embedding. Safety of the blocks: as in `forward`.

use super::rows::RowMemory;
use super::state::State;
use crate::model::{Block, MlpGradients};
use crate::pool::Scratch;
use crate::step::feed::Batch;
use crate::step::plan::limits::LOGIT_ROWS;
use crate::system::arena::row_stride;
use std::ops::Range;
use symlm_kernels::loss;

impl State {
    /// Output head, loss, final norm and the last layer's MLP. The logits of a few rows at a time become their gradients in
    /// place; those stay until the output head's weight gradient of the sector is done.
    pub(super) fn loss(&self, window: usize, rows: &Range<usize>, batch: &Batch, scratch: &mut Scratch) {
        let memory = &mut self.row_memory(rows.len(), scratch);
        let (isa, place) = (self.isa, self.places[window]);
        let (vocab, start) = (self.config.model.vocab_size, window * self.seq_len());
        let stride = row_stride(vocab);
        // Without any target that counts nothing is scaled.
        let scale = (1.0 / batch.targets_counted().max(1) as f64) as f32;
        // SAFETY: see `forward`; a sector's logits are reused only after the gradient of the output head.
        unsafe {
            let network = self.network();
            for first in rows.clone().step_by(LOGIT_ROWS) {
                let part = first..(first + LOGIT_ROWS).min(rows.end);
                let normed = self.operand(self.slot_layout.normed, place, &part);
                let at = place.logits + (place.row + part.start) * stride;
                let mut logits = self.logits.mat_mut(at, part.len(), vocab, stride);
                let losses = self.losses.slice_mut(start + part.start, part.len());
                let targets = &batch.targets[start + part.start..start + part.end];
                if targets.iter().any(|&target| target != loss::IGNORED) {
                    network.logits(normed, logits.reborrow());
                }
                loss::rows_backward(isa, logits.reborrow(), targets, scale, losses);
                let d_normed = self.write(self.slot_layout.d_normed, place, &part);
                network.logits_backward(logits.as_mat(), d_normed, &mut memory.room);
            }
            let last = self.partition.layers;
            let d_normed = self.read(self.slot_layout.d_normed, place, rows);
            let rstd = self.row_values(self.slot_layout.rstd, place, rows);
            let blocks = self.norm_block_rows(2 * last, window, rows);
            network.final_norm_backward(d_normed, rstd, self.residual(last, window, rows), blocks);
            self.leave_layer_backward(last - 1, window, rows, memory);
        }
    }

    /// From the attention of layer `l` to that of layer `l - 1`, as [`State::forward`] is cut.
    pub(super) fn backward(&self, l: usize, window: usize, rows: &Range<usize>, batch: &Batch, scratch: &mut Scratch) {
        let memory = &mut self.row_memory(rows.len(), scratch);
        // SAFETY: see `forward`.
        unsafe {
            self.enter_layer_backward(l, window, rows, batch, memory);
            if l > 0 {
                self.leave_layer_backward(l - 1, window, rows, memory);
            }
        }
    }

    /// From the gradient at the output of layer `l` to the gradient at its attention output.
    ///
    /// # Safety
    /// As the blocks of this file: the caller is the node of these rows.
    unsafe fn leave_layer_backward(&self, l: usize, window: usize, rows: &Range<usize>, memory: &mut RowMemory<'_>) {
        let (b, place) = (&self.slot_layout.layers[l], self.places[window]);
        // SAFETY: see `forward`.
        unsafe {
            let block = Block::new(self.network(), l);
            let (dx, mut middle) = (self.residual(l + 1, window, rows), self.write(b.middle, place, rows));
            let mlp = MlpGradients {
                rstd: self.row_values(b.mlp_rstd, place, rows),
                gate_up: self.write(b.gate_up, place, rows),
                d_hidden: self.write(self.slot_layout.d_hidden, place, rows),
                d_normed: self.write(self.slot_layout.d_normed, place, rows),
                norm_blocks: self.norm_block_rows(2 * l + 1, window, rows),
            };
            block.mlp_backward(dx.as_mat(), mlp, middle.reborrow(), &mut memory.room);
            let d_attended = self.write(self.slot_layout.d_attended, place, rows);
            block.attention_out_backward(middle.as_mat(), d_attended, &mut memory.room);
        }
    }

    /// From the gradients of queries, keys and values of layer `l` to the one at its input.
    ///
    /// # Safety
    /// As the blocks of this file: the caller is the node of these rows.
    unsafe fn enter_layer_backward(
        &self,
        l: usize,
        window: usize,
        rows: &Range<usize>,
        batch: &Batch,
        memory: &mut RowMemory<'_>,
    ) {
        let (b, place) = (&self.slot_layout.layers[l], self.places[window]);
        // SAFETY: see `forward`.
        unsafe {
            let block = Block::new(self.network(), l);
            for (part, position) in batch.parts(window, rows) {
                block.rotation_backward(self.write(b.qkv, place, &part), position);
            }
            if l == 0 && self.adapters.is_some() {
                // Nothing below is trained.
                return;
            }
            let (middle, d_normed) =
                (self.read(b.middle, place, rows), self.write(self.slot_layout.d_normed, place, rows));
            let rstd = self.row_values(b.attention_rstd, place, rows);
            let (x, blocks) = (self.residual(l, window, rows), self.norm_block_rows(2 * l, window, rows));
            let qkv = self.read(b.qkv, place, rows);
            block.attention_in_backward(qkv, middle, d_normed, rstd, x, blocks, &mut memory.room);
        }
    }
}
