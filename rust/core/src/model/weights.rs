//! Weights and their packed copies.

use super::{Layout, MatrixId};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::system::arena::Arena;
use std::ops::Range;
use symlm_kernels::gemm::{PANEL, Packed, Right, pack, packed_len};
use symlm_kernels::{Isa, Mat};

/// The tensors of a model and the panels that the products read.
///
/// Reading is unsafe only because the optimizer writes through the same shared reference; whoever holds weights that
/// nobody updates (a generator) may read freely.
pub struct Weights {
    /// Shape of the model.
    pub config: ModelConfig,
    /// The table of tensors.
    pub layout: Layout,
    /// Tensors, row-major, at the offsets of the table.
    pub values: Arena,
    packed: Arena,
}

impl Weights {
    /// All zeros.
    ///
    /// # Errors
    /// `User` for an impossible shape, `Memory` if the system refuses.
    pub fn zeros(config: &ModelConfig) -> Result<Self> {
        config.check()?;
        let layout = Layout::new(config);
        let values = Arena::new(layout.len)?;
        let packed = Arena::new(layout.packed_len)?;
        Ok(Self { config: config.clone(), layout, values, packed })
    }

    /// Initial values of a tensor from element `start` on (contract R1).
    pub fn initial_values(&self, param: usize, seed: u64, start: usize, out: &mut [f32]) {
        self.layout.params[param].initial.fill(seed, param, start, out);
    }

    /// Copies `values` into the tensor `param`, without packing.
    ///
    /// # Panics
    /// If the length differs.
    pub fn set(&mut self, param: usize, values: &[f32]) {
        let p = &self.layout.params[param];
        assert_eq!(p.len(), values.len(), "{}", p.name);
        // SAFETY: &mut self: nobody else reads or writes.
        unsafe { self.values.slice_mut(p.offset, p.len()) }.copy_from_slice(values);
    }

    /// Packs every matrix.
    pub fn pack_all(&mut self, isa: Isa) {
        for index in 0..self.layout.matrices.len() {
            let rows = self.layout.matrices[index].rows;
            // SAFETY: &mut self: nobody else reads or writes.
            unsafe { self.pack_rows(isa, index, 0..rows) };
        }
    }

    /// Packs rows of a matrix into its panels. `rows` starts at a multiple of 32 and ends at one or at the last row.
    ///
    /// # Safety
    /// Nobody writes these rows or touches their part of the panels meanwhile.
    pub unsafe fn pack_rows(&self, isa: Isa, matrix: usize, rows: Range<usize>) {
        let m = &self.layout.matrices[matrix];
        assert!(rows.start.is_multiple_of(PANEL) && (rows.end.is_multiple_of(PANEL) || rows.end == m.rows));
        if let Some(backward) = m.backward {
            assert!(backward + packed_len(m.rows, m.cols) <= self.packed.len());
            // SAFETY: in bounds; these rows of the panels are ours, by the caller's guarantee.
            unsafe {
                let w = self.values.mat(m.offset + rows.start * m.cols, rows.len(), m.cols, m.cols);
                pack::rows_into(w, rows.start, m.rows, self.packed.ptr(backward));
            }
        }
        let Some(forward) = m.forward else { return };
        for start in rows.clone().step_by(PANEL) {
            let count = (rows.end - start).min(PANEL);
            // SAFETY: the panel of these 32 rows is ours, by the caller's guarantee.
            unsafe {
                let w = self.values.mat(m.offset + start * m.cols, count, m.cols, m.cols);
                let panel = self.packed.slice_mut(forward + start * m.cols, PANEL * m.cols);
                pack::transposed_panel(isa, w, panel);
            }
        }
    }

    /// The matrix as the right-hand side of `y = x Wᵀ`: k = inputs, n = outputs.
    ///
    /// # Safety
    /// Nobody updates the weights while it lives.
    ///
    /// # Panics
    /// If the matrix is never multiplied with.
    pub unsafe fn forward(&self, matrix: usize) -> Right<'_> {
        let m = &self.layout.matrices[matrix];
        let at = m.forward.expect("this matrix has forward panels");
        // SAFETY: no writer, by the caller's guarantee.
        Right::packed(Packed::new(unsafe { self.packed.slice(at, packed_len(m.cols, m.rows)) }, m.cols, m.rows))
    }

    /// The matrix as the right-hand side of `dx = dy W`: k = outputs, n = inputs.
    ///
    /// # Safety
    /// Nobody updates the weights while it lives.
    ///
    /// # Panics
    /// If the matrix is never multiplied with.
    pub unsafe fn backward(&self, matrix: usize) -> Right<'_> {
        let m = &self.layout.matrices[matrix];
        let at = m.backward.expect("this matrix has backward panels");
        // SAFETY: no writer, by the caller's guarantee.
        Right::packed(Packed::new(unsafe { self.packed.slice(at, packed_len(m.rows, m.cols)) }, m.rows, m.cols))
    }

    /// A norm's weight; see [`Layout::norms`].
    ///
    /// # Safety
    /// Nobody updates the weights while it lives.
    pub unsafe fn norm(&self, index: usize) -> &[f32] {
        // SAFETY: no writer, by the caller's guarantee.
        unsafe { self.values.slice(self.layout.norms[index].offset, self.config.hidden_size) }
    }

    /// The embedding, vocabulary x hidden.
    ///
    /// # Safety
    /// Nobody updates the weights while it lives.
    pub unsafe fn embedding(&self) -> Mat<'_> {
        let m = &self.layout.matrices[self.layout.matrix_index(MatrixId::Embedding)];
        // SAFETY: no writer, by the caller's guarantee.
        unsafe { self.values.mat(m.offset, m.rows, m.cols, m.cols) }
    }

    /// A tensor.
    ///
    /// # Safety
    /// Nobody updates the weights while it lives.
    pub unsafe fn tensor(&self, param: usize) -> &[f32] {
        let p = &self.layout.params[param];
        // SAFETY: no writer, by the caller's guarantee.
        unsafe { self.values.slice(p.offset, p.len()) }
    }
}
