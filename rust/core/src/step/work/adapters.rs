//! Low-rank adapters in an update (contract, "Low-rank adapters").
//!
//! The passes through the model know nothing of adapters: they compute with the merged weights. What changes is what comes
//! after the weight gradients, which are needed of the adapted tensors only: gradients of the factors, their norm and
//! AdamW, then the merged weights again.
//!
//! Safety of every block here: as in `update`; nodes of factor gradients follow all weight gradients, merging follows
//! the update of all factors. On one of several ranks without adapters merging follows the own updates, and the arrival of
//! rows that are others'; what still arrives then lies in other rows, and in other parts of the panels.

use super::state::State;
use crate::pool::Scratch;
use crate::step::plan::limits::{B_ROWS, FACTOR_ELEMENTS, ROW_BLOCK, TILE_COLS};
use crate::step::plan::{a_tiles, block};
use std::ops::Range;
use symlm_kernels::adapter;
use symlm_kernels::gemm::packed_len;

impl State {
    /// A tile of the gradients of an adapter's factors (contract D2, D3): first those of A, then those of B.
    pub(super) fn adapter_gradient(&self, index: usize, tile: usize, scratch: &mut Scratch) {
        let Some(adapters) = &self.adapters else { return };
        let (adapter, rank, s) = (&adapters.table.list[index], adapters.table.rank, adapters.table.scale);
        let (rows, cols) = (adapter.rows, adapter.cols);
        // SAFETY: see the top of this file.
        unsafe {
            let dw = self.gradient.mat(self.weights.layout.params[adapter.param].offset, rows, cols, cols);
            if tile < a_tiles(adapter) {
                let range = block(tile, TILE_COLS, cols);
                let b = adapters.values.mat(adapter.b, rows, rank, rank);
                let da = adapters.gradient.mat_mut(adapter.a + range.start, rank, range.len(), cols);
                adapter::gradient_a(self.isa, b, dw.col_range(range), s, da);
            } else {
                let range = block(tile - a_tiles(adapter), B_ROWS, rows);
                let a = adapters.values.mat(adapter.a, rank, cols, cols);
                let db = adapters.gradient.mat_mut(adapter.b + range.start * rank, range.len(), rank, rank);
                let [packed, _, _] = scratch.buffers([packed_len(cols, rank), 0, 0]);
                adapter::gradient_b(self.isa, dw.row_range(range), a, s, db, packed);
            }
        }
    }

    /// Updates some elements of a factor.
    pub(super) fn update_factor(&self, factor: usize, tile: usize) {
        let p = &self.trained()[factor];
        let range = block(tile, FACTOR_ELEMENTS, p.len());
        self.adamw(p.offset + range.start, range.len(), &self.hyper(p.kind()));
    }

    /// Some rows of a matrix: the adapted ones recomputed from base and factors (contract D1), then all of them packed.
    ///
    /// # Safety
    /// Nobody else touches these rows or their panels, or writes base and factors.
    pub(super) unsafe fn merge_rows(&self, matrix: usize, rows: Range<usize>, scratch: &mut Scratch) {
        if let Some(adapters) = &self.adapters {
            let (rank, s) = (adapters.table.rank, adapters.table.scale);
            for adapter in adapters.table.of_matrix(matrix) {
                let own = rows.start.max(adapter.row)..rows.end.min(adapter.row + adapter.rows);
                if own.is_empty() {
                    continue;
                }
                let (first, count, cols) = (own.start - adapter.row, own.len(), adapter.cols);
                let at = self.weights.layout.params[adapter.param].offset + first * cols;
                // SAFETY: passed on to the caller.
                unsafe {
                    let b = adapters.values.mat(adapter.b + first * rank, count, rank, rank);
                    let a = adapters.values.mat(adapter.a, rank, cols, cols);
                    let w0 = adapters.base.mat(adapter.base + first * cols, count, cols, cols);
                    adapter::merge(self.isa, b, a, w0, s, self.weights.values.mat_mut(at, count, cols, cols));
                }
            }
        }
        // SAFETY: passed on to the caller.
        unsafe { self.pack_rows(matrix, rows, scratch) };
    }

    /// Merges and packs a tile of a matrix after an update.
    pub(super) fn merge(&self, matrix: usize, tile: usize, scratch: &mut Scratch) {
        let rows = block(tile, ROW_BLOCK, self.weights.layout.matrices[matrix].rows);
        // SAFETY: see the top of this file.
        unsafe { self.merge_rows(matrix, rows, scratch) };
    }
}
