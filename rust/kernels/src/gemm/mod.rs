//! Matrix products, one FMA chain per element (contract G1-G4).
//!
//! ```text
//! for k in equal blocks of at most 1,024:        the chains continue from C; one block where C itself is added
//!     for rows in blocks of A, about 96 Ki elements:
//!         for columns, as many as a tile has:    a strip of a panel of B
//!             for rows of the block, as many as a tile has:
//!                 C = tile(A, B), with `start` before the first block of k and `add` after the last
//! ```
//!
//! Columns are the outer of the two inner loops: the strip of B is used for all rows of the block while it is near, and the
//! block of A, which is read again for every strip, is small enough for the second-level cache. While the tiles of a strip
//! run, they ask for the next strip, and for the lines that the next tile writes to.
//!
//! `C[i,j] = chain(k ascending: A[i,k], B[k,j])`. A is read where it lies, by rows or by columns; B is either packed
//! into panels of [`PANEL`] columns (weights: once per update) or read by rows (weight gradients). A chain can continue from
//! a stored value, and a residual can be added to the finished one. Tile shape, blocking and the split between threads
//! cannot move a bit, because every element is its own chain and a chain that is cut over k continues where it was.

mod gradient;
pub mod int16;
pub(crate) mod micro;
mod ops;
pub mod pack;
pub mod q8;
mod row;
mod tables;

use crate::mat::{Mat, MatMut};
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};
pub use gradient::{Fold, TOKEN_BLOCK, weight_gradient, weight_gradient_scratch};
use micro::{Rows, Scales, Tile};
pub use pack::{PANEL, Packed, packed_len};
use std::marker::PhantomData;
use tables::{Table, tiles};

/// Most rows of B that are worked on at a time: with longer panels neither they nor the rows of A stay in a cache.
const K_BLOCK: usize = 1024;

/// Elements of the A block that is kept in the second-level cache while the panels of B pass by.
const A_BLOCK: usize = 96 * 1024;

/// The right-hand matrix, k x n.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    ptr: *const f32,
    /// Distance between k and k + 1.
    row_stride: usize,
    /// Distance between the starts of two panels of 32 columns.
    panel_stride: usize,
    k: usize,
    n: usize,
    /// Whether whole panels are there, whatever n is.
    whole: bool,
    life: PhantomData<&'a f32>,
}

impl<'a> Right<'a> {
    /// Packed panels.
    pub fn packed(b: Packed<'a>) -> Self {
        let panel_stride = b.k() * PANEL;
        Self { ptr: b.ptr(), row_stride: PANEL, panel_stride, k: b.k(), n: b.n(), whole: true, life: PhantomData }
    }
    /// Rows as they lie (weight gradients).
    pub fn rows(b: Mat<'a>) -> Self {
        let (row_stride, k, n) = (b.stride(), b.rows(), b.cols());
        Self { ptr: b.ptr(), row_stride, panel_stride: PANEL, k, n, whole: false, life: PhantomData }
    }
    /// Where column `j` begins.
    #[inline(always)]
    fn column(&self, j: usize) -> *const f32 {
        self.ptr.wrapping_add(j / PANEL * self.panel_stride + j % PANEL)
    }
    /// Rows `range`.
    fn k_range(self, range: std::ops::Range<usize>) -> Self {
        Self { ptr: self.ptr.wrapping_add(range.start * self.row_stride), k: range.len(), ..self }
    }
    /// Columns `range`, which begins at a multiple of [`PANEL`].
    ///
    /// # Panics
    /// If it does not, or ends beyond the last column.
    pub fn columns(self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start.is_multiple_of(PANEL) && range.end <= self.n, "columns {range:?} of {}", self.n);
        Self { ptr: self.column(range.start), n: range.len(), ..self }
    }
    /// The first `n` columns.
    pub fn first_columns(self, n: usize) -> Self {
        assert!(n <= self.n, "{n} columns of {}", self.n);
        Self { n, ..self }
    }
}

/// The left-hand matrix, m x k.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Element (i, k) is in row i.
    Rows(Mat<'a>),
    /// The transpose: element (i, k) is in row k, column i.
    Columns(Mat<'a>),
}

/// A matrix by pointer and row stride; null where there is none.
#[derive(Clone, Copy)]
struct At {
    ptr: *mut f32,
    stride: usize,
}

impl At {
    const NONE: At = At { ptr: std::ptr::null_mut(), stride: 0 };

    #[inline(always)]
    fn element(self, i: usize, j: usize) -> *mut f32 {
        if self.ptr.is_null() { self.ptr } else { self.ptr.wrapping_add(i * self.stride + j) }
    }
}

/// `c = add + chain`, the chain continuing from `start`; both may be absent.
#[derive(Clone, Copy)]
struct Results {
    start: At,
    add: At,
    c: At,
}

struct Gemm<'a> {
    a: Left<'a>,
    b: Right<'a>,
    results: Results,
    /// Of integers only.
    scales: Scales,
    tiles: &'static Table,
}

impl Left<'_> {
    /// Columns `range` of the matrix.
    fn k_range(self, range: std::ops::Range<usize>) -> Self {
        match self {
            Left::Rows(a) => Left::Rows(a.col_range(range)),
            Left::Columns(a) => Left::Columns(a.row_range(range)),
        }
    }
    /// Rows and columns (m, k).
    fn shape(&self) -> (usize, usize) {
        match self {
            Left::Rows(a) => (a.rows(), a.cols()),
            Left::Columns(a) => (a.cols(), a.rows()),
        }
    }
}

/// Height of the next tile of `left` rows: the full height, but the last two tiles share what is left evenly, since
/// a low tile is bound by latency.
fn tile_height(left: usize, full: usize) -> usize {
    if left >= 2 * full || left == full {
        full
    } else if left > full {
        left.div_ceil(2)
    } else {
        left
    }
}

/// Rows of a block of A: whole tiles, at least two, so that B is read as seldom as the cache allows.
#[inline(always)]
fn block_rows<S: Simd>(k: usize) -> usize {
    (A_BLOCK / k.max(1) / S::TILE_ROWS).max(2) * S::TILE_ROWS
}

impl Kernel for Gemm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (m, k) = self.a.shape();
        let (a, a_stride, transposed, row_step) = match self.a {
            Left::Rows(a) => (a.ptr(), a.stride(), false, a.stride()),
            Left::Columns(a) => (a.ptr(), a.stride(), true, 1),
        };
        let block = block_rows::<S>(k);
        let width = S::TILE_VECTORS * LANES;
        let Results { start, add, c } = self.results;
        let mut first = 0;
        while first < m {
            // A short last block would read all of B for a few rows: let the block before it take them too.
            let end = if m - first < 2 * block { m } else { first + block };
            let mut j = 0;
            while j < self.b.n {
                let tail = j + width > self.b.n;
                let cols = if tail { (self.b.n - j).min(LANES) } else { width };
                let mut tile = Tile {
                    k,
                    a,
                    a_stride,
                    b: self.b.column(j),
                    b_stride: self.b.row_stride,
                    start: start.ptr,
                    start_stride: start.stride,
                    add: add.ptr,
                    add_stride: add.stride,
                    c: c.ptr,
                    c_stride: c.stride,
                    lanes: cols,
                    scales: Scales::NONE,
                    ahead: Rows::NONE,
                    near: [Rows::NONE; 2],
                };
                let next_j = j + cols;
                let next_panel = if next_j < self.b.n { self.b.column(next_j) } else { self.b.ptr };
                // The next panel is spread evenly over the tiles of this one: more requests at a time than the core
                // has buffers for would stall it.
                let step = PANEL.div_ceil((end - first).div_ceil(S::TILE_ROWS)).min(LANES);
                let mut i = first;
                let mut number = 0;
                while i < end {
                    let rows = tile_height(end - i, S::TILE_ROWS);
                    tile.a = a.wrapping_add(i * row_step);
                    tile.ahead = Rows { ptr: next_panel.wrapping_add(number * k * step), stride: step, count: k };
                    number += 1;
                    let (next_i, next_j) = if i + rows < end { (i + rows, j) } else { (first, next_j) };
                    tile.near[0] = Rows { ptr: c.element(next_i, next_j), stride: c.stride, count: rows };
                    (tile.start, tile.add, tile.c) = (start.element(i, j), add.element(i, j), c.element(i, j));
                    tile.scales = self.scales.at(i, j);
                    // SAFETY: `gemm`, or of integers `int16::product`, checked the shapes, and the results have m x n elements
                    // (guaranteed by the caller of the one, checked by the other). The tile was compiled for the token at
                    // hand and, of integers, for instructions that `integer_tiles` has found here.
                    unsafe { self.tiles.get(rows, transposed, tail)(&tile) };
                    i += rows;
                }
                j += cols;
            }
            first = end;
        }
    }
}

/// Runs the product of `a` and `b`.
///
/// # Safety
/// The matrices of the results hold at least m rows and n columns.
unsafe fn gemm(isa: Isa, a: Left<'_>, b: Right<'_>, results: Results) {
    let (_, k) = a.shape();
    assert_eq!(k, b.k, "inner sizes {k} and {}", b.k);
    let Results { start, add, c } = results;
    if let (Left::Rows(a), 1, true) = (a, a.shape().0, start.ptr.is_null() && b.whole) {
        return dispatch(isa, row::Row { x: a.ptr(), b, add, c });
    }
    // What is added must not be overwritten before.
    let blocks = if add.ptr == c.ptr { 1 } else { k.div_ceil(K_BLOCK).max(1) };
    let size = k.div_ceil(blocks);
    for block in 0..blocks {
        let range = block * size..((block + 1) * size).min(k);
        let start = if block == 0 { start } else { c };
        let add = if range.end == k { add } else { At::NONE };
        let (a, b) = (a.k_range(range.clone()), b.k_range(range));
        let results = Results { start, add, c };
        dispatch(isa, Gemm { a, b, results, scales: Scales::NONE, tiles: tiles(isa) });
    }
}

/// Checks the shapes and runs a product into `c`.
fn direct(isa: Isa, a: Left<'_>, b: Right<'_>, start: At, add: At, c: &mut MatMut<'_>) {
    assert_eq!((a.shape().0, b.n), (c.rows(), c.cols()), "output shape");
    let c = at(c);
    // SAFETY: c has the shape of the product, and the callers give `start` and `add` of that shape, too.
    unsafe { gemm(isa, a, b, Results { start, add, c }) }
}

fn at(c: &mut MatMut<'_>) -> At {
    At { ptr: c.ptr(), stride: c.stride() }
}

/// `c = a b`.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(isa: Isa, a: Left<'_>, b: Right<'_>, mut c: MatMut<'_>) {
    direct(isa, a, b, At::NONE, At::NONE, &mut c);
}

/// `c = r + a b`, the sum after the chain is complete (contract G4).
///
/// # Panics
/// If the shapes do not fit.
pub fn product_add(isa: Isa, a: Left<'_>, b: Right<'_>, r: Mat<'_>, mut c: MatMut<'_>) {
    assert_eq!((r.rows(), r.cols()), (c.rows(), c.cols()), "residual shape");
    direct(isa, a, b, At::NONE, At { ptr: r.ptr().cast_mut(), stride: r.stride() }, &mut c);
}

/// `c = c + a b`, the sum after the chain is complete.
///
/// # Panics
/// If the shapes do not fit.
pub fn product_accumulate(isa: Isa, a: Left<'_>, b: Right<'_>, mut c: MatMut<'_>) {
    let add = at(&mut c);
    direct(isa, a, b, At::NONE, add, &mut c);
}

/// The chains of `c` continue over the k of `a` and `b`: for a product whose k arrives in blocks.
///
/// # Panics
/// If the shapes do not fit.
pub fn product_continue(isa: Isa, a: Left<'_>, b: Right<'_>, mut c: MatMut<'_>) {
    let start = at(&mut c);
    direct(isa, a, b, start, At::NONE, &mut c);
}
