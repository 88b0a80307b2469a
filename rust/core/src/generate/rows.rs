//! Working memory of a pass: zeroed, aligned to a page, made once.

use crate::error::Result;
use crate::system::arena::{Arena, row_stride};
use std::ops::Range;
use symlm_kernels::{Mat, MatMut};

/// A block of f32 that one owner reads and writes.
pub(super) struct OwnedArena(Arena);

impl OwnedArena {
    pub(super) fn new(len: usize) -> Result<Self> {
        Arena::new(len).map(Self)
    }

    pub(super) fn get(&self) -> &[f32] {
        // SAFETY: the arena has no other owner, and `&self` keeps writers out.
        unsafe { self.0.slice(0, self.0.len()) }
    }

    pub(super) fn get_mut(&mut self) -> &mut [f32] {
        // SAFETY: the arena has no other owner, and `&mut self` keeps everybody else out.
        unsafe { self.0.slice_mut(0, self.0.len()) }
    }
}

/// Rows of one width.
pub(super) struct Rows {
    block: OwnedArena,
    cols: usize,
    stride: usize,
}

impl Rows {
    pub(super) fn new(rows: usize, cols: usize) -> Result<Self> {
        let stride = row_stride(cols);
        Ok(Self { block: OwnedArena::new(rows * stride)?, cols, stride })
    }

    /// The first `rows` rows.
    pub(super) fn first(&self, rows: usize) -> Mat<'_> {
        Mat::new(self.block.get(), rows, self.cols, self.stride)
    }

    /// The first `rows` rows, to be written.
    pub(super) fn first_mut(&mut self, rows: usize) -> MatMut<'_> {
        MatMut::new(self.block.get_mut(), rows, self.cols, self.stride)
    }
}

/// Rows of one width that several threads read and write in parts.
pub(super) struct SharedRows {
    block: Arena,
    cols: usize,
    stride: usize,
}

impl SharedRows {
    pub(super) fn new(rows: usize, cols: usize) -> Result<Self> {
        let stride = row_stride(cols);
        Ok(Self { block: Arena::new(rows * stride)?, cols, stride })
    }

    /// Its width.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Some whole rows.
    ///
    /// # Safety
    /// Nobody writes them while the view lives.
    pub(super) unsafe fn all(&self, rows: Range<usize>) -> Mat<'_> {
        // SAFETY: passed on to the caller.
        unsafe { self.columns(rows, 0..self.cols) }
    }

    /// Some columns of some rows.
    ///
    /// # Safety
    /// Nobody writes them while the view lives.
    pub(super) unsafe fn columns(&self, rows: Range<usize>, columns: Range<usize>) -> Mat<'_> {
        debug_assert!(columns.end <= self.cols);
        // SAFETY: passed on to the caller.
        unsafe { self.block.mat(rows.start * self.stride + columns.start, rows.len(), columns.len(), self.stride) }
    }

    /// Some columns of some rows, to be written.
    ///
    /// # Safety
    /// Nobody else touches them while the view lives.
    pub(super) unsafe fn columns_mut(&self, rows: Range<usize>, columns: Range<usize>) -> MatMut<'_> {
        debug_assert!(columns.end <= self.cols);
        // SAFETY: passed on to the caller.
        unsafe { self.block.mat_mut(rows.start * self.stride + columns.start, rows.len(), columns.len(), self.stride) }
    }
}
