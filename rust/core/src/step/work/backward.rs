//! Row stages from the loss back to the embedding. Safety of the blocks: as in `forward`.

use super::state::State;
use crate::step::feed::Batch;
use crate::step::plan::limits::LOGIT_ROWS;
use crate::system::arena::row_stride;
use std::ops::Range;
use symlm_kernels::gemm::{Left, product};
use symlm_kernels::{loss, mlp, norm, rope};

impl State {
    /// Head, loss, final norm and the last layer's MLP. The logits of a few rows at a time become their gradients in
    /// place; those stay until the head's weight gradient of the sector is done.
    pub(super) fn loss(&self, window: usize, rows: &Range<usize>, batch: &Batch) {
        let (isa, w, place) = (self.isa, &self.weights, self.places[window]);
        let (vocab, start) = (self.config.model.vocab_size, window * self.positions());
        let stride = row_stride(vocab);
        // Without any target that counts nothing is scaled.
        let scale = (1.0 / batch.targets_counted().max(1) as f64) as f32;
        // SAFETY: see `forward`; a sector's logits are reused only after its head gradient.
        unsafe {
            for first in rows.clone().step_by(LOGIT_ROWS) {
                let part = first..(first + LOGIT_ROWS).min(rows.end);
                let normed = self.read(self.layout.normed, place, &part);
                let at = place.logits + (place.row + part.start) * stride;
                let mut logits = self.logits.mat_mut(at, part.len(), vocab, stride);
                let losses = self.losses.slice_mut(start + part.start, part.len());
                let targets = &batch.targets[start + part.start..start + part.end];
                if targets.iter().any(|&target| target != loss::IGNORED) {
                    product(isa, Left::Rows(normed), w.forward(self.head), logits.reborrow());
                }
                loss::rows_backward(isa, logits.reborrow(), targets, scale, losses);
                let d_normed = self.write(self.layout.d_normed, place, &part);
                product(isa, Left::Rows(logits.as_mat()), w.backward(self.head), d_normed);
            }
            let last = self.cut.layers;
            let d_normed = self.read(self.layout.d_normed, place, rows);
            let rstd = self.row_values(self.layout.rstd, place, rows);
            let x = self.residual(last, window, rows);
            let blocks = self.norm_block_rows(2 * last, window, rows);
            norm::backward(isa, d_normed, w.norm(2 * last), rstd, None, x, blocks);
            self.mlp_backward(last - 1, window, rows);
        }
    }

    /// From the gradient at the output of layer `l` to the gradient at its attention output.
    ///
    /// # Safety
    /// As the blocks of this file: the caller is the node of these rows.
    unsafe fn mlp_backward(&self, l: usize, window: usize, rows: &Range<usize>) {
        let (isa, w, place) = (self.isa, &self.weights, self.places[window]);
        let (b, m) = (&self.layout.layers[l], self.matrices[l]);
        // SAFETY: see `forward`.
        unsafe {
            let dx = self.residual(l + 1, window, rows);
            let mut d_hidden = self.write(self.layout.d_hidden, place, rows);
            product(isa, Left::Rows(dx.as_mat()), w.backward(m.down), d_hidden.reborrow());
            let mut gate_up = self.write(b.gate_up, place, rows);
            mlp::backward(isa, d_hidden.as_mat(), gate_up.reborrow());
            let mut d_normed = self.write(self.layout.d_normed, place, rows);
            product(isa, Left::Rows(gate_up.as_mat()), w.backward(m.gate_up), d_normed.reborrow());
            let mut middle = self.write(b.middle, place, rows);
            let rstd = self.row_values(b.rstd2, place, rows);
            let blocks = self.norm_block_rows(2 * l + 1, window, rows);
            let (weight, d_normed) = (w.norm(2 * l + 1), d_normed.as_mat());
            norm::backward(isa, d_normed, weight, rstd, Some(dx.as_mat()), middle.reborrow(), blocks);
            let d_attention = self.write(self.layout.d_attention, place, rows);
            product(isa, Left::Rows(middle.as_mat()), w.backward(m.out), d_attention);
        }
    }

    /// From the gradients of queries, keys and values of layer `l` to its input, and through the MLP of the layer below.
    pub(super) fn backward(&self, l: usize, window: usize, rows: &Range<usize>) {
        let (isa, w, place) = (self.isa, &self.weights, self.places[window]);
        let (b, m) = (&self.layout.layers[l], self.matrices[l]);
        // SAFETY: see `forward`.
        unsafe {
            let mut qkv = self.write(b.qkv, place, rows);
            rope::backward(isa, self.rotated(&mut qkv), self.config.model.head_size(), &self.rope, rows.start);
            if l == 0 && self.adapters.is_some() {
                // Nothing below is trained.
                return;
            }
            let mut d_normed = self.write(self.layout.d_normed, place, rows);
            product(isa, Left::Rows(qkv.as_mat()), w.backward(m.qkv), d_normed.reborrow());
            let middle = self.read(b.middle, place, rows);
            let rstd = self.row_values(b.rstd1, place, rows);
            let x = self.residual(l, window, rows);
            let blocks = self.norm_block_rows(2 * l, window, rows);
            norm::backward(isa, d_normed.as_mat(), w.norm(2 * l), rstd, Some(middle), x, blocks);
            if l > 0 {
                self.mlp_backward(l - 1, window, rows);
            }
        }
    }
}
