//! Views of row-major matrices whose elements may interleave in memory with those of other views.
//!
//! Two workers write different columns of one buffer at the same time, so a mutable view cannot be a `&mut [f32]`.
//! A view holds a pointer, its shape and the distance between rows; bounds are checked once, where it is made or cut.

use std::marker::PhantomData;
use std::ops::Range;

/// A readable matrix: element (i, j) is `data[i * stride + j]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    ptr: *const f32,
    rows: usize,
    cols: usize,
    stride: usize,
    life: PhantomData<&'a f32>,
}

/// A writable matrix; no other live view covers its elements.
pub struct MatMut<'a> {
    ptr: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    life: PhantomData<&'a mut f32>,
}

// SAFETY: a Mat only reads f32 values that nobody writes while it lives (its constructors' contract).
unsafe impl Send for Mat<'_> {}
// SAFETY: as above; sharing adds no writer.
unsafe impl Sync for Mat<'_> {}
// SAFETY: a MatMut is the only view of its elements, so it may move to another thread.
unsafe impl Send for MatMut<'_> {}

/// Elements from the first to the last of a matrix.
///
/// # Panics
/// If the number does not fit.
pub fn extent(rows: usize, cols: usize, stride: usize) -> usize {
    let before = rows.checked_sub(1).map_or(Some(0), |rows| rows.checked_mul(stride));
    let all = before.and_then(|n| n.checked_add(if rows == 0 { 0 } else { cols }));
    all.unwrap_or_else(|| panic!("matrix {rows} x {cols} (stride {stride}) is too large"))
}

fn check(len: usize, rows: usize, cols: usize, stride: usize) {
    assert!(cols <= stride || rows <= 1, "matrix of {cols} columns with row stride {stride}");
    let needed = extent(rows, cols, stride);
    assert!(needed <= len, "matrix {rows} x {cols} (stride {stride}) needs {needed} elements, got {len}");
}

fn cut(range: &Range<usize>, limit: usize) {
    assert!(range.start <= range.end && range.end <= limit, "range {range:?} of {limit}");
}

impl<'a> Mat<'a> {
    /// View of a slice.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        check(data.len(), rows, cols, stride);
        Self { ptr: data.as_ptr(), rows, cols, stride, life: PhantomData }
    }

    /// View of memory.
    ///
    /// # Safety
    /// Every element (i, j) is initialised, readable and not written while the view lives.
    pub unsafe fn from_raw(ptr: *const f32, rows: usize, cols: usize, stride: usize) -> Self {
        Self { ptr, rows, cols, stride, life: PhantomData }
    }

    /// Rows.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns.
    #[inline(always)]
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Distance between the starts of two rows, in elements.
    #[inline(always)]
    pub fn stride(&self) -> usize {
        self.stride
    }
    /// Pointer to element (0, 0).
    #[inline(always)]
    pub fn ptr(&self) -> *const f32 {
        self.ptr
    }
    /// The rows of `range`.
    pub fn row_range(&self, range: Range<usize>) -> Mat<'a> {
        cut(&range, self.rows);
        Mat { ptr: self.ptr.wrapping_add(range.start * self.stride), rows: range.len(), ..*self }
    }
    /// The columns of `range`.
    pub fn col_range(&self, range: Range<usize>) -> Mat<'a> {
        cut(&range, self.cols);
        Mat { ptr: self.ptr.wrapping_add(range.start), cols: range.len(), ..*self }
    }
    /// Row `i` as a slice.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f32] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: the view's elements are readable and unwritten while it lives, and row i is one contiguous part.
        unsafe { std::slice::from_raw_parts(self.ptr.add(i * self.stride), self.cols) }
    }
}

impl<'a> MatMut<'a> {
    /// View of a slice.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        check(data.len(), rows, cols, stride);
        Self { ptr: data.as_mut_ptr(), rows, cols, stride, life: PhantomData }
    }

    /// View of memory.
    ///
    /// # Safety
    /// Every element (i, j) is initialised and writable, and no other view or reference touches it while this lives.
    pub unsafe fn from_raw(ptr: *mut f32, rows: usize, cols: usize, stride: usize) -> Self {
        Self { ptr, rows, cols, stride, life: PhantomData }
    }

    /// Rows.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns.
    #[inline(always)]
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Distance between the starts of two rows, in elements.
    #[inline(always)]
    pub fn stride(&self) -> usize {
        self.stride
    }
    /// Pointer to element (0, 0).
    #[inline(always)]
    pub fn ptr(&mut self) -> *mut f32 {
        self.ptr
    }
    /// A shorter-lived view of the same elements.
    pub fn reborrow(&mut self) -> MatMut<'_> {
        MatMut { ptr: self.ptr, rows: self.rows, cols: self.cols, stride: self.stride, life: PhantomData }
    }
    /// A readable view of the same elements.
    pub fn as_mat(&self) -> Mat<'_> {
        Mat { ptr: self.ptr, rows: self.rows, cols: self.cols, stride: self.stride, life: PhantomData }
    }
    /// A readable view in place of this one.
    pub fn into_mat(self) -> Mat<'a> {
        Mat { ptr: self.ptr, rows: self.rows, cols: self.cols, stride: self.stride, life: PhantomData }
    }
    /// The rows of `range`.
    pub fn row_range(&mut self, range: Range<usize>) -> MatMut<'_> {
        cut(&range, self.rows);
        let ptr = self.ptr.wrapping_add(range.start * self.stride);
        MatMut { ptr, rows: range.len(), cols: self.cols, stride: self.stride, life: PhantomData }
    }
    /// The columns of `range`.
    pub fn col_range(&mut self, range: Range<usize>) -> MatMut<'_> {
        cut(&range, self.cols);
        let ptr = self.ptr.wrapping_add(range.start);
        MatMut { ptr, rows: self.rows, cols: range.len(), stride: self.stride, life: PhantomData }
    }
    /// Row `i` as a slice.
    #[inline(always)]
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: this view is the only one of its elements, and row i is one contiguous part of it.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.stride), self.cols) }
    }
}
