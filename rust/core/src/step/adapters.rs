//! Low-rank adapters in an update (contract, "Low-rank adapters").
//!
//! The passes through the model know nothing of adapters: they compute with the merged weights. What changes is what comes
//! after the weight gradients, which are needed of the adapted tensors only: gradients of the factors, their norm and
//! AdamW, then the merged weights anew.
//!
//! Safety of every block here: as in `update`; nodes of factor gradients follow all weight gradients, merging follows
//! the update of all factors.

use super::plan::{ROW_BLOCK, SQUARE_BLOCK, SQUARE_BLOCKS, Task, TrainingPlan};
use super::state::State;
use super::tiles::TILE_COLS;
use crate::arena::Arena;
use crate::error::Result;
use crate::model::{Adapter, Adapters, Layout};
use crate::pool::Scratch;
use std::ops::Range;
use symlm_kernels::adapter;
use symlm_kernels::gemm::packed_len;

/// Rows of B that one task computes the gradient of.
const B_ROWS: usize = 4 * ROW_BLOCK;
/// Elements of a factor that one task updates.
pub(super) const FACTOR_ELEMENTS: usize = SQUARE_BLOCK * SQUARE_BLOCKS;

/// The factors with their gradients, and the weights that they are added to.
pub(super) struct AdapterState {
    pub table: Adapters,
    pub values: Arena,
    pub gradient: Arena,
    /// The adapted tensors as they were at the start.
    pub base: Arena,
}

impl AdapterState {
    pub fn new(table: Adapters) -> Result<Self> {
        let [values, gradient, base] = [table.len, table.len, table.base_len].map(Arena::new);
        Ok(Self { table, values: values?, gradient: gradient?, base: base? })
    }

    /// Writes a tensor of the model that the adapters start from, if it is an adapted one.
    ///
    /// # Safety
    /// Nobody else touches the base weights of the tensor.
    pub unsafe fn set_base(&self, param: usize, start: usize, values: &[f32]) {
        if let Some(adapter) = self.table.of_param(param) {
            // SAFETY: passed on to the caller.
            unsafe { self.base.slice_mut(adapter.base + start, values.len()) }.copy_from_slice(values);
        }
    }
}

/// Tiles of the gradient of A: ranges of its columns.
fn a_tiles(adapter: &Adapter) -> usize {
    adapter.cols.div_ceil(TILE_COLS)
}

fn block(index: usize, size: usize, limit: usize) -> Range<usize> {
    index * size..((index + 1) * size).min(limit)
}

impl State {
    /// A tile of the gradients of an adapter's factors (contract D2, D3): first those of A, then those of B.
    pub(super) fn adapter_gradient(&self, index: usize, tile: usize, scratch: &mut Scratch) {
        let Some(adapters) = &self.adapters else { return };
        let (adapter, rank, s) = (&adapters.table.list[index], adapters.table.rank, adapters.table.scale);
        let (rows, cols) = (adapter.rows, adapter.cols);
        // SAFETY: see the head of this file.
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
        self.adamw(p.offset + range.start, range.len(), &self.hyper());
    }

    /// Some rows of a matrix: the adapted ones anew from base and factors (contract D1), then all of them packed.
    ///
    /// # Safety
    /// Nobody else touches these rows or their panels, or writes base and factors.
    pub(super) unsafe fn merge_rows(&self, matrix: usize, rows: Range<usize>) {
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
        unsafe { self.weights.pack_rows(self.isa, matrix, rows) };
    }

    /// Merges and packs a tile of a matrix after an update.
    pub(super) fn merge(&self, matrix: usize, tile: usize) {
        let rows = block(tile, ROW_BLOCK, self.weights.layout.matrices[matrix].rows);
        // SAFETY: see the head of this file.
        unsafe { self.merge_rows(matrix, rows) };
    }
}

impl TrainingPlan<'_> {
    /// Gradients of all factors, after `gradients`.
    pub(super) fn adapter_gradients(&mut self, adapters: &Adapters, gradients: u32) -> Vec<u32> {
        let mut nodes = Vec::new();
        for (index, adapter) in adapters.list.iter().enumerate() {
            for tile in 0..a_tiles(adapter) + adapter.rows.div_ceil(B_ROWS) {
                nodes.push(self.plan.add(Task::AdapterGradient { adapter: index, tile }, &[gradients]));
            }
        }
        nodes
    }

    /// The update of all factors, and of the weights that follow from them.
    pub(super) fn update_adapters(&mut self, layout: &Layout, adapters: &Adapters, finish: u32) {
        let mut updates = Vec::new();
        for (factor, p) in adapters.params.iter().enumerate() {
            for tile in 0..p.len().div_ceil(FACTOR_ELEMENTS) {
                updates.push(self.plan.add(Task::UpdateFactor { factor, tile }, &[finish]));
            }
        }
        let updated = self.plan.add(Task::Join, &updates);
        for (matrix, m) in layout.matrices.iter().enumerate() {
            for tile in 0..m.rows.div_ceil(ROW_BLOCK) {
                let rows = block(tile, ROW_BLOCK, m.rows);
                let touched = |a: &Adapter| a.row < rows.end && rows.start < a.row + a.rows;
                if adapters.of_matrix(matrix).any(touched) {
                    self.plan.add(Task::Merge { matrix, tile }, &[updated]);
                }
            }
        }
    }
}
