//! Weights and their packed copies.

use super::{Layout, Matrix, MatrixId};
use crate::config::{ModelConfig, Precision};
use crate::error::Result;
use crate::system::arena::Arena;
use std::ops::Range;
use symlm_kernels::gemm::{PANEL, Packed, Right, int16, pack, packed_len};
use symlm_kernels::{Integers, Isa, Mat};

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
    /// What the panels are multiplied with, if they hold integers.
    pub integers: Option<Integers>,
    /// Scales of the rows of the integers.
    scales: Arena,
}

impl Weights {
    /// All zeros, to be multiplied with as f32.
    ///
    /// # Errors
    /// `User` for an impossible shape, `Memory` if the system refuses.
    pub fn zeros(config: &ModelConfig) -> Result<Self> {
        Self::new(config, None)
    }

    /// All zeros.
    ///
    /// # Errors
    /// As [`Weights::zeros`].
    pub fn new(config: &ModelConfig, integers: Option<Integers>) -> Result<Self> {
        config.check()?;
        let precision = if integers.is_some() { Precision::Int16 } else { Precision::F32 };
        let layout = Layout::of(config, precision);
        let values = Arena::new(layout.len)?;
        let packed = Arena::new(layout.packed_len)?;
        let scales = Arena::new(if integers.is_some() { layout.scales_len } else { 0 })?;
        Ok(Self { config: config.clone(), layout, values, packed, integers, scales })
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
            let mut work = vec![0.0; self.pack_scratch(index, rows)];
            // SAFETY: &mut self: nobody else reads or writes.
            unsafe { self.pack_rows(isa, index, 0..rows, &mut work) };
        }
    }

    /// Elements of workspace for packing some rows of a matrix.
    pub fn pack_scratch(&self, matrix: usize, rows: usize) -> usize {
        if self.integers.is_some() { rows * int16::row_pairs(self.layout.matrices[matrix].cols) } else { 0 }
    }

    /// Packs rows of a matrix into its panels. `rows` starts at a multiple of 32 and ends at one or at the last row. The
    /// workspace has [`Weights::pack_scratch`] elements.
    ///
    /// # Safety
    /// Nobody writes these rows or touches their part of the panels meanwhile.
    pub unsafe fn pack_rows(&self, isa: Isa, matrix: usize, rows: Range<usize>, work: &mut [f32]) {
        let m = &self.layout.matrices[matrix];
        assert!(rows.start.is_multiple_of(PANEL) && (rows.end.is_multiple_of(PANEL) || rows.end == m.rows));
        if self.integers.is_some() {
            // SAFETY: passed on to the caller.
            return unsafe { self.pack_integers(isa, m, rows, work) };
        }
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

    /// As [`Weights::pack_rows`], of integers.
    ///
    /// # Safety
    /// As there.
    unsafe fn pack_integers(&self, isa: Isa, m: &Matrix, rows: Range<usize>, work: &mut [f32]) {
        // What is only looked up has no panels.
        let (Some(forward), Some(backward)) = (m.forward, m.backward) else { return };
        assert!(forward + int16::packed_len(m.cols, m.rows) <= self.packed.len());
        assert!(backward + int16::packed_len(m.rows, m.cols) <= self.packed.len());
        let panels = [forward, backward].map(|at| self.packed.ptr(at));
        // SAFETY: in bounds; these rows, their scales and their parts of the panels are ours, by the caller's guarantee.
        unsafe {
            let w = self.values.mat(m.offset + rows.start * m.cols, rows.len(), m.cols, m.cols);
            let scales = self.scales.slice_mut(m.scales + rows.start, rows.len());
            int16::pack_weights(isa, w, rows.start, m.rows, scales, panels, work);
        }
    }

    /// The integers of `y = x Wᵀ`, k = inputs, n = outputs, and the scales of its columns.
    ///
    /// # Safety
    /// Nobody updates the weights while it lives.
    ///
    /// # Panics
    /// If the matrix is never multiplied with.
    pub unsafe fn forward_integers(&self, matrix: usize) -> (Packed<'_>, &[f32]) {
        let m = &self.layout.matrices[matrix];
        let at = m.forward.expect("this matrix has forward panels");
        // SAFETY: no writer, by the caller's guarantee.
        unsafe {
            let panels = self.packed.slice(at, int16::packed_len(m.cols, m.rows));
            (Packed::new(panels, int16::pairs(m.cols), m.rows), self.scales.slice(m.scales, m.rows))
        }
    }

    /// The integers of `dx = dy W`, k = outputs, n = inputs, and the scales along k.
    ///
    /// # Safety
    /// Nobody updates the weights while it lives.
    ///
    /// # Panics
    /// If the matrix is never multiplied with.
    pub unsafe fn backward_integers(&self, matrix: usize) -> (Packed<'_>, &[f32]) {
        let m = &self.layout.matrices[matrix];
        let at = m.backward.expect("this matrix has backward panels");
        // SAFETY: no writer, by the caller's guarantee.
        unsafe {
            let panels = self.packed.slice(at, int16::packed_len(m.rows, m.cols));
            (Packed::new(panels, int16::pairs(m.rows), m.cols), self.scales.slice(m.scales, m.rows))
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
