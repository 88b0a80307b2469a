//! Gradient norm, clipping and AdamW.
//!
//! Safety of every block here: the graph puts these nodes after all gradients (and after everything that reads
//! weights); each writes its own rows.

use super::hyper::Hypers;
use super::state::{State, StepResult};
use crate::contract::SQUARE_BLOCK;
use crate::model::{MatrixId, ParamKind};
use crate::pool::Scratch;
use crate::step::plan::limits::{ROW_BLOCK, SQUARE_BLOCKS};
use crate::step::plan::square_blocks;
use crate::system::sync::lock;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use symlm_kernels::adamw::{self, Hyper};
use symlm_kernels::reduce;

impl State {
    /// Sums of squares of some blocks of a tensor (contract O1).
    pub(super) fn square_sums(&self, param: usize, block: usize) {
        let len = self.trained()[param].len();
        let blocks = square_blocks(len, block);
        let (start, end) = (blocks.start * SQUARE_BLOCK, (blocks.end * SQUARE_BLOCK).min(len));
        self.square_range(param, start, end - start);
    }

    /// The same of `len` elements from the start of a block on, of as many blocks as one task has at most.
    pub(super) fn square_range(&self, param: usize, start: usize, len: usize) {
        let (blocks, first) = (len.div_ceil(SQUARE_BLOCK), start / SQUARE_BLOCK);
        let mut sums = [0.0; SQUARE_BLOCKS];
        let (sums, gradient) = (&mut sums[..blocks], self.trained_gradient());
        // SAFETY: see the top of this file.
        let values = unsafe { gradient.slice(self.trained()[param].offset + start, len) };
        reduce::sum_squares_blocks(self.isa, values, sums);
        for (i, sum) in sums.iter().enumerate() {
            self.squares[self.square_start[param] + first + i].store(sum.to_bits(), Ordering::Relaxed);
        }
    }

    /// Loss, norm, clip factor and the numbers of this update (contract L4, O1, O2, O4).
    pub(super) fn finish(&self) {
        let (train, batch) = (&self.config.train, self.batch());
        let mut total = 0.0;
        for bounds in self.square_start.windows(2) {
            let mut tensor = 0.0;
            for square in &self.squares[bounds[0]..bounds[1]] {
                tensor += f64::from_bits(square.load(Ordering::Relaxed));
            }
            total += tensor;
        }
        let norm = libm::sqrt(total);
        // SAFETY: every loss node came before.
        let losses = unsafe { self.losses.slice(0, self.partition.batch * self.seq_len()) };
        let loss = reduce::batch_loss(losses, batch.targets_counted());
        lock(&self.counted).clone_from(&batch.counted);
        let clip = if train.grad_clip > 0.0 && norm > train.grad_clip { (train.grad_clip / norm) as f32 } else { 1.0 };
        let lr = train.learning_rate_at(batch.step);
        *self.hyper.write().unwrap_or_else(PoisonError::into_inner) = Hypers::new(train, lr, clip, batch.step + 1);
        *lock(&self.result) = StepResult { loss, grad_norm: norm, learning_rate: lr };
        self.failed.store(!(loss.is_finite() && norm.is_finite()), Ordering::Relaxed);
    }

    /// The constants of this update.
    pub(super) fn hyper(&self, kind: ParamKind) -> Hyper {
        self.hyper.read().unwrap_or_else(PoisonError::into_inner).of(kind)
    }

    /// AdamW for some elements of what is trained.
    pub(super) fn adamw(&self, offset: usize, len: usize, hyper: &Hyper) {
        // SAFETY: see the top of this file.
        unsafe {
            let w = self.trained_values().slice_mut(offset, len);
            let m = self.first_moment.slice_mut(offset, len);
            let v = self.second_moment.slice_mut(offset, len);
            adamw::update(self.isa, w, m, v, self.trained_gradient().slice(offset, len), hyper);
        }
    }

    /// Updates and packs some rows of a matrix.
    pub(super) fn update_matrix(&self, matrix: usize, tile: usize, scratch: &mut Scratch) {
        let m = &self.weights.layout.matrices[matrix];
        let rows = tile * ROW_BLOCK..((tile + 1) * ROW_BLOCK).min(m.rows);
        let kind = if m.id == MatrixId::Embedding { ParamKind::Embedding } else { ParamKind::Matrix };
        self.adamw(m.offset + rows.start * m.cols, rows.len() * m.cols, &self.hyper(kind));
        // SAFETY: see the top of this file.
        unsafe { self.pack_rows(matrix, rows, scratch) };
        debug_assert!(m.forward.is_some() || m.id == MatrixId::Embedding);
    }

    /// Packs some rows of a matrix.
    ///
    /// # Safety
    /// As [`Weights::pack_rows`](crate::model::Weights::pack_rows).
    pub(super) unsafe fn pack_rows(&self, matrix: usize, rows: Range<usize>, scratch: &mut Scratch) {
        let [work, _, _] = scratch.buffers([self.weights.pack_scratch(matrix, rows.len()), 0, 0]);
        // SAFETY: passed on to the caller.
        unsafe { self.weights.pack_rows(self.isa, matrix, rows, work) };
    }

    /// Updates a norm weight.
    pub(super) fn update_norm(&self, norm: usize) {
        let hyper = self.hyper(ParamKind::Vector);
        self.adamw(self.weights.layout.norms[norm].offset, self.config.model.hidden_size, &hyper);
    }
}
