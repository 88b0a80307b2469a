//! One thread's walk through the layers.
//!
//! Two calls of [`Member::wait`] bound a phase. The `SAFETY` comments lean on one rule: in a phase a thread writes only what is
//! its share, and reads of the others' only what no thread writes in that phase. Shares are disjoint ([`Member::share`]).

use super::input::Input;
use super::memory::{Memory, Private, SharedLogits};
use crate::generate::model::Model;
use crate::generate::rows::SharedRows;
use crate::generate::team::Member;
use crate::model::LayerMatrices;
use symlm_kernels::gemm::PANEL;
use symlm_kernels::{MatMut, mlp, norm};

/// One thread's part of a pass.
pub(super) struct Share<'a> {
    pub model: &'a Model,
    pub memory: &'a Memory,
    pub private: &'a mut Private,
    pub input: &'a Input,
    pub member: &'a Member<'a>,
}

impl Share<'_> {
    /// One layer, from the residual stream to the residual stream.
    pub(super) fn layer(&mut self, layer: usize) {
        let model = self.model;
        let LayerMatrices { qkv, out, gate_up, down } = model.layout().layers[layer];
        let Memory { residual, middle, qkv: qkv_rows, attended, hidden, .. } = self.memory;
        self.norm(residual, 2 * layer);
        self.product(None, qkv, None, qkv_rows);
        self.member.wait();
        self.attention(layer);
        self.member.wait();
        self.product(Some(attended), out, Some(residual), middle);
        self.member.wait();
        self.norm(middle, 2 * layer + 1);
        self.hidden(gate_up);
        self.member.wait();
        self.product(Some(hidden), down, Some(middle), residual);
        self.member.wait();
    }

    /// `private.normed` = the norm of all rows.
    fn norm(&mut self, x: &SharedRows, number: usize) {
        let rows = self.input.rows();
        let Private { normed, rstd, .. } = &mut *self.private;
        // SAFETY: x was written before this phase, and no thread writes it in this one.
        let (x, weight) = (unsafe { x.all(0..rows) }, self.model.norm(number));
        norm::forward(self.model.isa, x, weight, self.model.eps(), normed.first_mut(rows), &mut rstd[..rows]);
    }

    /// This thread's columns of `y = x Wᵀ`, added to `residual` if there is one; x are the normed rows if none are given.
    /// Of a phase in which no thread writes x or `residual`, and nobody but this function reads or writes `y`.
    fn product(&mut self, x: Option<&SharedRows>, matrix: usize, residual: Option<&SharedRows>, y: &SharedRows) {
        let (rows, columns) = (0..self.input.rows(), self.member.share(y.cols(), PANEL));
        // SAFETY: `residual` was written before this phase, and no thread writes it in this one.
        let residual = residual.map(|of| unsafe { of.columns(rows.clone(), columns.clone()) });
        // SAFETY: these columns are this thread's share, and no thread reads y before the phase is over.
        let y = unsafe { y.columns_mut(rows.clone(), columns.clone()) };
        let Private { normed, integers, .. } = &mut *self.private;
        // SAFETY: as for `residual`.
        let x = x.map_or_else(|| normed.first(rows.len()), |x| unsafe { x.all(rows.clone()) });
        self.model.product(self.model.factor(x, integers), matrix, columns, residual, y);
    }

    /// This thread's columns of the MLP's hidden rows.
    fn hidden(&mut self, gate_up: usize) {
        let f = self.model.config().intermediate_size;
        if !f.is_multiple_of(PANEL) {
            return self.hidden_of_rows(gate_up);
        }
        let (rows, columns) = (self.input.rows(), self.member.share(f, PANEL));
        let width = columns.len();
        let Private { normed, integers, gate_up: own, .. } = &mut *self.private;
        let normed = self.model.factor(normed.first(rows), integers);
        let mut own = MatMut::new(own.get_mut(), rows, 2 * width, 2 * width);
        let up = columns.start + f..columns.end + f;
        self.model.product(normed, gate_up, columns.clone(), None, own.col_range(0..width));
        self.model.product(normed, gate_up, up, None, own.col_range(width..2 * width));
        // SAFETY: these columns are this thread's share, and no thread reads the hidden rows before the phase is over.
        mlp::forward(self.model.isa, own.as_mat(), unsafe { self.memory.hidden.columns_mut(0..rows, columns) });
    }

    /// As [`Share::hidden`], where gate and up of a column do not begin at the same place of a panel: this thread's columns of
    /// both, then its rows of the hidden ones.
    fn hidden_of_rows(&mut self, gate_up: usize) {
        let Memory { gate_up: shared, hidden, .. } = self.memory;
        self.product(None, gate_up, None, shared);
        self.member.wait();
        let rows = self.member.share(self.input.rows(), 1);
        // SAFETY: gate and up were written before the last wait, and no thread writes them in the phase that it began.
        let from = unsafe { shared.all(rows.clone()) };
        // SAFETY: these rows are this thread's share, and no thread reads the hidden rows before the phase is over.
        let to = unsafe { hidden.columns_mut(rows, 0..hidden.cols()) };
        mlp::forward(self.model.isa, from, to);
    }

    /// This thread's columns of the logits that are wanted.
    pub(super) fn logits(&mut self, logits: &SharedLogits<'_>) {
        let outputs = &self.input.outputs;
        if outputs.is_empty() {
            return;
        }
        let (model, residual) = (self.model, &self.memory.residual);
        let Private { normed, integers, rstd, .. } = &mut *self.private;
        let mut done = 0;
        // Rows that follow each other go together.
        for run in outputs.chunk_by(|a, b| a + 1 == *b) {
            // SAFETY: the last layer has written the residual stream and waited; no thread writes it any more in this pass.
            let x = unsafe { residual.all(run[0]..run[0] + run.len()) };
            let rows = done..done + run.len();
            let mut to = normed.first_mut(rows.end);
            let weight = model.norm(2 * model.config().num_layers);
            norm::forward(model.isa, x, weight, model.eps(), to.row_range(rows.clone()), &mut rstd[rows]);
            done += run.len();
        }
        let columns = self.member.share(logits.vocab(), PANEL);
        // SAFETY: these columns are this thread's share, and the logits are read only when all threads have written theirs.
        let to = unsafe { logits.columns_mut(columns.clone()) };
        model.product(model.factor(normed.first(done), integers), model.layout().lm_head(), columns, None, to);
    }
}
