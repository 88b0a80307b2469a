//! Packed right-hand matrices: panels of 32 columns, element (k, j) at `panel[j / 32][k][j % 32]`.
//!
//! The width is the same on every instruction set, so a packed matrix is, too. Columns beyond n are +0.

use crate::mat::Mat;
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};
use std::marker::PhantomData;

/// Columns of a panel.
pub const PANEL: usize = 32;

/// Elements of a packed k x n matrix.
pub fn packed_len(k: usize, n: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * k
}

/// A readable packed matrix.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    ptr: *const f32,
    k: usize,
    n: usize,
    life: PhantomData<&'a f32>,
}

// SAFETY: a Packed only reads f32 values that nobody writes while it lives (its constructors' contract).
unsafe impl Send for Packed<'_> {}
// SAFETY: as above.
unsafe impl Sync for Packed<'_> {}

impl<'a> Packed<'a> {
    /// View of a slice of at least [`packed_len`] elements.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn new(data: &'a [f32], k: usize, n: usize) -> Self {
        assert!(data.len() >= packed_len(k, n), "packed {k} x {n} in {} elements", data.len());
        Self { ptr: data.as_ptr(), k, n, life: PhantomData }
    }
    /// Rows (the length of the chains).
    pub fn k(&self) -> usize {
        self.k
    }
    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }
    pub(crate) fn ptr(&self) -> *const f32 {
        self.ptr
    }
}

struct Transposed<'a> {
    w: Mat<'a>,
    panel: &'a mut [f32],
}

impl Kernel for Transposed<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (n, k) = (self.w.rows(), self.w.cols());
        for half in 0..PANEL / LANES {
            let count = n.saturating_sub(half * LANES).min(LANES);
            let from = self.w.ptr().wrapping_add(half * LANES * self.w.stride());
            let mut p = 0;
            // Whole blocks stay in registers: nothing in these loops depends on the shape.
            while count == LANES && p + LANES <= k {
                let mut rows = [s.zero(); LANES];
                for (r, row) in rows.iter_mut().enumerate() {
                    // SAFETY: row half * 16 + r < n, columns p..p + 16 <= k.
                    *row = unsafe { s.load(from.wrapping_add(r * self.w.stride() + p)) };
                }
                let rows = s.transpose(rows);
                let to = self.panel[p * PANEL + half * LANES..][..(LANES - 1) * PANEL + LANES].as_mut_ptr();
                for (c, column) in rows.iter().enumerate() {
                    // SAFETY: sixteen elements of panel row p + c, inside the slice.
                    unsafe { s.store(to.wrapping_add(c * PANEL), *column) };
                }
                p += LANES;
            }
            while p < k {
                let lanes = (k - p).min(LANES);
                let mut rows = [s.zero(); LANES];
                for (r, row) in rows.iter_mut().enumerate().take(count) {
                    // SAFETY: row half * 16 + r < n, columns p..p + lanes <= k.
                    *row = unsafe { crate::math::load(s, from.wrapping_add(r * self.w.stride() + p), lanes) };
                }
                for (c, column) in s.transpose(rows).into_iter().enumerate().take(lanes) {
                    let to = &mut self.panel[(p + c) * PANEL + half * LANES..][..LANES];
                    // SAFETY: `to` has sixteen elements.
                    unsafe { s.store(to.as_mut_ptr(), column) };
                }
                p += LANES;
            }
        }
    }
}

/// Packs up to 32 rows of `w` (columns of the right-hand matrix) into one panel: `panel[k][j] = w[j][k]`.
///
/// # Panics
/// If `w` has more than 32 rows or the panel fewer than 32 * k elements.
pub fn transposed_panel(isa: Isa, w: Mat<'_>, panel: &mut [f32]) {
    assert!(w.rows() <= PANEL && panel.len() >= PANEL * w.cols(), "panel of {} x {}", w.rows(), w.cols());
    dispatch(isa, Transposed { w, panel });
}

/// Packs `w` (n x k) as the k x n right-hand matrix: `b[k][j] = w[j][k]`.
///
/// # Panics
/// If `out` is too short.
pub fn transposed(isa: Isa, w: Mat<'_>, out: &mut [f32]) {
    let (n, k) = (w.rows(), w.cols());
    assert!(out.len() >= packed_len(k, n), "packed {k} x {n} in {} elements", out.len());
    for (i, panel) in out.chunks_mut((PANEL * k).max(1)).take(n.div_ceil(PANEL)).enumerate() {
        transposed_panel(isa, w.row_range(i * PANEL..n.min((i + 1) * PANEL)), panel);
    }
}

/// Packs the rows of `w` as rows `first..` of a right-hand matrix of `k` rows and `w.cols()` columns.
///
/// # Safety
/// `out` is valid for writes of `packed_len(k, w.cols())` elements, and nobody else touches rows `first..first+w.rows()`.
///
/// # Panics
/// If the rows do not fit.
pub unsafe fn rows_into(w: Mat<'_>, first: usize, k: usize, out: *mut f32) {
    assert!(first + w.rows() <= k, "rows {first}+{} of {k}", w.rows());
    for i in 0..w.rows() {
        let row = w.row(i);
        for (p, part) in row.chunks(PANEL).enumerate() {
            // SAFETY: element (first + i, 32 p) of the packed matrix; a whole panel row of 32 is inside.
            unsafe {
                let to = out.add((p * k + first + i) * PANEL);
                std::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len());
                std::ptr::write_bytes(to.add(part.len()), 0, PANEL - part.len());
            }
        }
    }
}

/// Packs `w` (k x n) as it stands.
///
/// # Panics
/// If `out` is too short.
pub fn rows(w: Mat<'_>, out: &mut [f32]) {
    assert!(out.len() >= packed_len(w.rows(), w.cols()), "packed matrix in {} elements", out.len());
    // SAFETY: out is long enough and borrowed mutably.
    unsafe { rows_into(w, 0, w.rows(), out.as_mut_ptr()) }
}

/// Columns of a group of a [`copy_columns`] copy: whole tiles of the token, at most sixteen.
pub(super) fn group<S: Simd>(cols: usize) -> usize {
    let most = LANES / S::TILE_ROWS * S::TILE_ROWS;
    // Groups of equal width: a low tile is bound by latency.
    cols.div_ceil(cols.div_ceil(most).max(1))
}

/// Copies a matrix in groups of a few columns, each group without gaps: element (k, i) at
/// `to[i / g * g * rows + k * g + i % g]`. Returns g.
///
/// # Panics
/// If `to` is too short.
#[inline(always)]
pub(super) fn copy_columns<S: Simd>(s: S, from: Mat<'_>, to: &mut [f32]) -> usize {
    let (rows, cols) = (from.rows(), from.cols());
    assert!(to.len() >= columns_len(rows, cols), "columns of {rows} x {cols} into {}", to.len());
    let group = group::<S>(cols);
    for first in (0..cols).step_by(group) {
        let mut from_row = from.ptr().wrapping_add(first);
        let mut to = to.as_mut_ptr().wrapping_add(first * rows);
        let whole = first + LANES <= cols;
        for _ in 0..rows {
            // SAFETY: columns of a row of `from`: sixteen, or as many as there are. `to` has room for sixteen (checked
            // above); those beyond the group make way for the next row, or for the next group.
            unsafe { s.store(to, if whole { s.load(from_row) } else { s.load_n(from_row, cols - first) }) };
            from_row = from_row.wrapping_add(from.stride());
            to = to.wrapping_add(group);
        }
    }
    group
}

/// Elements of a [`copy_columns`] copy.
pub(super) fn columns_len(rows: usize, cols: usize) -> usize {
    rows * (cols + LANES)
}
