//! Matrix products, one FMA chain per element (contract G1-G4).
//!
//! `C[i,j] = chain(k ascending: A[i,k], B[k,j])`. A is read where it lies, by rows or by columns; B is either packed
//! into panels of [`PANEL`] columns (weights: once per update) or read by rows (attention, weight gradients). A chain
//! can go on from a stored value, and a residual can be added to the finished one. Tile shape, blocking and the split between threads cannot move
//! a bit, because every element is its own chain and a chain that is cut over k goes on where it was.

pub(crate) mod micro;
pub mod pack;

use crate::mat::{Mat, MatMut, extent};
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};
use micro::{Table, Tile, tiles};
pub use pack::{PANEL, Packed, packed_len};
use std::marker::PhantomData;

/// Tokens of one weight-gradient chain (contract G3).
pub const TOKEN_BLOCK: usize = if crate::ANY_ORDER { 1 << 31 } else { 1024 };

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
    life: PhantomData<&'a f32>,
}

impl<'a> Right<'a> {
    /// Packed panels.
    pub fn packed(b: Packed<'a>) -> Self {
        Self { ptr: b.ptr(), row_stride: PANEL, panel_stride: b.k() * PANEL, k: b.k(), n: b.n(), life: PhantomData }
    }
    /// Rows as they lie.
    pub fn rows(b: Mat<'a>) -> Self {
        Self { ptr: b.ptr(), row_stride: b.stride(), panel_stride: PANEL, k: b.rows(), n: b.cols(), life: PhantomData }
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
    /// The transpose, copied in groups of columns.
    Groups(Groups<'a>),
}

/// A [`pack::columns`] copy of a k x m matrix.
#[derive(Clone, Copy)]
pub struct Groups<'a> {
    data: &'a [f32],
    k: usize,
    m: usize,
    group: usize,
}

/// What the product after this one will read: brought near while this one runs. Hints only.
#[derive(Clone, Copy)]
struct Coming {
    /// The right-hand matrix: `b_count` addresses, `b_stride` elements apart.
    b: *const f32,
    b_stride: usize,
    b_count: usize,
    /// The left-hand matrix: `a_lines` cache lines of each row.
    a: *const f32,
    a_stride: usize,
    a_lines: usize,
}

impl Coming {
    const NOTHING: Coming =
        Coming { b: std::ptr::null(), b_stride: 0, b_count: 0, a: std::ptr::null(), a_stride: 0, a_lines: 0 };

    /// For a weight gradient: `dy` with the first column of the next rows of dw, and the next `x`, of which rows
    /// `at..at + GRADIENT_ROWS` of `rows` bring their share.
    fn new(dy: Option<(Mat<'_>, usize)>, x: Option<Mat<'_>>, at: usize, rows: usize) -> Self {
        let mut coming = Self::NOTHING;
        if let Some((dy, column)) = dy {
            coming.a = dy.ptr().wrapping_add(column);
            (coming.a_stride, coming.a_lines) = (dy.stride(), (dy.cols() - column).min(GRADIENT_ROWS).div_ceil(LANES));
        }
        if let Some(x) = x {
            // Half a line apart: slower than a line at each step, so that the core's buffers suffice.
            let (step, parts) = (LANES / 2, rows.div_ceil(GRADIENT_ROWS));
            let count = (extent(x.rows().min(TOKEN_PART), x.cols(), x.stride()) / step).div_ceil(parts);
            coming.b = x.ptr().wrapping_add(at / GRADIENT_ROWS * count * step);
            (coming.b_stride, coming.b_count) = (step, count);
        }
        coming
    }

    /// The first of `count` addresses to ask for, and the distance between them.
    #[inline(always)]
    fn take(&mut self, count: usize, here: *const f32) -> (*const f32, usize) {
        if self.b_count > 0 {
            let taken = (self.b, self.b_stride);
            self.b = self.b.wrapping_add(count * self.b_stride);
            self.b_count = self.b_count.saturating_sub(count);
            taken
        } else if self.a_lines > 0 {
            self.a_lines -= 1;
            (self.a.wrapping_add(self.a_lines * LANES), self.a_stride)
        } else {
            (here, 0)
        }
    }
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

/// `c = add + chain`, the chain going on from `start`; both may be absent.
#[derive(Clone, Copy)]
struct Results {
    start: At,
    add: At,
    c: At,
}

struct Gemm<'a> {
    a: Left<'a>,
    b: Right<'a>,
    coming: Coming,
    results: Results,
    tiles: &'static Table,
}

impl Left<'_> {
    /// Rows and columns (m, k).
    fn shape(&self) -> (usize, usize) {
        match self {
            Left::Rows(a) => (a.rows(), a.cols()),
            Left::Columns(a) => (a.cols(), a.rows()),
            Left::Groups(a) => (a.m, a.k),
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

impl Kernel for Gemm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (m, k) = self.a.shape();
        // Distances in A from a block of rows to the next, and from a row to the next.
        let (a, a_stride, transposed, block_step, row_step) = match self.a {
            Left::Rows(a) => (a.ptr(), a.stride(), false, a.stride(), a.stride()),
            Left::Columns(a) => (a.ptr(), a.stride(), true, 1, 1),
            Left::Groups(a) => (a.data.as_ptr(), a.group, true, k, 1),
        };
        // Whole tiles of A per block, at least two, so that B is read as seldom as the cache allows.
        let block = match self.a {
            Left::Groups(a) => a.group,
            _ => (A_BLOCK / k.max(1) / S::TILE_ROWS).max(2) * S::TILE_ROWS,
        };
        let width = S::TILE_VECTORS * LANES;
        let Results { start, add, c } = self.results;
        let (mut first, mut coming) = (0, self.coming);
        while first < m {
            // A short last block would read all of B for a few rows: let the block before it take them too.
            let short = m - first < 2 * block && !matches!(self.a, Left::Groups(_));
            let end = if short { m } else { m.min(first + block) };
            let mut j = 0;
            while j < self.b.n {
                let tail = j + width > self.b.n;
                let cols = if tail { (self.b.n - j).min(LANES) } else { width };
                let mut tile = Tile {
                    k,
                    a,
                    a_stride,
                    b: self.b.ptr.wrapping_add(j / PANEL * self.b.panel_stride + j % PANEL),
                    b_stride: self.b.row_stride,
                    start: start.ptr,
                    start_stride: start.stride,
                    add: add.ptr,
                    add_stride: add.stride,
                    c: c.ptr,
                    c_stride: c.stride,
                    lanes: cols,
                    ahead: self.b.ptr,
                    ahead_stride: 0,
                    next: c.ptr,
                    next_stride: c.stride,
                };
                let next_j = j + cols;
                let next_panel = if next_j < self.b.n {
                    self.b.ptr.wrapping_add(next_j / PANEL * self.b.panel_stride + next_j % PANEL)
                } else {
                    self.b.ptr
                };
                // The next panel is spread evenly over the tiles of this one: more requests at a time than the core
                // has buffers for would stall it.
                let step = PANEL.div_ceil((end - first).div_ceil(S::TILE_ROWS)).min(LANES);
                let mut i = first;
                let mut number = 0;
                while i < end {
                    let rows = tile_height(end - i, S::TILE_ROWS);
                    tile.a = a.wrapping_add(first * block_step + (i - first) * row_step);
                    (tile.ahead, tile.ahead_stride) = if self.b.row_stride == PANEL {
                        (next_panel.wrapping_add(number * k * step), step)
                    } else {
                        coming.take(k, tile.b)
                    };
                    number += 1;
                    let (next_i, next_j) = if i + rows < end { (i + rows, j) } else { (first, next_j) };
                    tile.next = c.element(next_i, next_j);
                    (tile.start, tile.add, tile.c) = (start.element(i, j), add.element(i, j), c.element(i, j));
                    // SAFETY: `gemm` checked the shapes, the results have m x n elements (its caller's guarantee), and
                    // the tile was compiled for the token at hand.
                    unsafe { self.tiles.get(rows, transposed, tail)(&tile) };
                    i += rows;
                }
                j += cols;
            }
            first = end;
        }
    }
}

/// Runs the product of `a` and `b`, bringing the operands of the next product near.
///
/// # Safety
/// The matrices of the results hold at least m rows and n columns.
unsafe fn gemm(isa: Isa, a: Left<'_>, b: Right<'_>, coming: Coming, results: Results) {
    let (_, k) = a.shape();
    assert_eq!(k, b.k, "inner sizes {k} and {}", b.k);
    dispatch(isa, Gemm { a, b, coming, results, tiles: tiles(isa) });
}

/// Checks the shapes and runs a product into `c`.
fn direct(isa: Isa, a: Left<'_>, b: Right<'_>, start: At, add: At, c: &mut MatMut<'_>) {
    assert_eq!((a.shape().0, b.n), (c.rows(), c.cols()), "output shape");
    let c = at(c);
    // SAFETY: c has the shape of the product, and the callers give `start` and `add` of that shape, too.
    unsafe { gemm(isa, a, b, Coming::NOTHING, Results { start, add, c }) }
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

/// The chains of `c` go on over the k of `a` and `b`: for a product whose k arrives in blocks.
///
/// # Panics
/// If the shapes do not fit.
pub fn product_continue(isa: Isa, a: Left<'_>, b: Right<'_>, mut c: MatMut<'_>) {
    let start = at(&mut c);
    direct(isa, a, b, start, At::NONE, &mut c);
}

/// What a weight-gradient tile does with the sum of a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fold {
    /// `dw = sector`.
    Set,
    /// `dw = dw + sector`.
    Add,
}

/// Most tokens of a part of a chain: the columns of `dy` that a tile needs then stay in the first-level cache while all
/// of `x` passes by. The chains go on from memory, so the length cannot move a bit.
const TOKEN_PART: usize = 512;

/// Rows of `dw` that are worked on at a time.
const GRADIENT_ROWS: usize = 64;

/// Weight gradient of one sector (contract G3), folded into `dw`: `dy` is tokens x outputs, `x` tokens x inputs.
///
/// `coming` are the operands of the next call, if known: they are brought near meanwhile. Workspace:
/// [`weight_gradient_scratch`] elements. An empty sector contributes +0.
///
/// # Panics
/// If the shapes do not fit or the workspace is too small.
pub fn weight_gradient(
    isa: Isa,
    dy: Mat<'_>,
    x: Mat<'_>,
    mut dw: MatMut<'_>,
    fold: Fold,
    coming: Option<(Mat<'_>, Mat<'_>)>,
    scratch: &mut [f32],
) {
    let (tokens, rows, cols) = (dy.rows(), dw.rows(), dw.cols());
    assert_eq!(tokens, x.rows(), "tokens of dy and x");
    assert_eq!((rows, cols), (dy.cols(), x.cols()), "weight gradient of outputs x inputs");
    let needed = weight_gradient_scratch(tokens, rows, cols);
    assert!(scratch.len() >= needed, "weight gradient of {rows} x {cols} in {} elements", scratch.len());
    if tokens == 0 {
        // A product over no tokens is +0, which is what an empty sector adds.
        let add = if fold == Fold::Add { at(&mut dw) } else { At::NONE };
        return direct(isa, Left::Columns(dy), Right::rows(x), At::NONE, add, &mut dw);
    }
    let (columns, rest) = scratch.split_at_mut(pack::columns_len(tokens.min(TOKEN_PART), rows.min(GRADIENT_ROWS)));
    let (partial, sum) = rest.split_at_mut(if tokens > TOKEN_PART { rows * cols } else { 0 });
    let mut first = 0;
    while first < tokens {
        let block_end = (first / TOKEN_BLOCK + 1) * TOKEN_BLOCK;
        let part = first..(first + TOKEN_PART).min(block_end).min(tokens);
        let rest = part.end..tokens;
        let then = if rest.is_empty() { coming } else { Some((dy.row_range(rest.clone()), x.row_range(rest))) };
        let mut i = 0;
        while i < rows {
            let range = i..(i + GRADIENT_ROWS).min(rows);
            // The columns of dy at hand lie a whole row apart: side by side they are read as one stream by every tile.
            let dy_part = dy.row_range(part.clone());
            let group = pack::columns(isa, dy_part.col_range(range.clone()), columns);
            let a = Left::Groups(Groups { data: columns, k: part.len(), m: range.len(), group });
            let b = Right::rows(x.row_range(part.clone()));
            let next_dy = if range.end < rows { Some((dy_part, range.end)) } else { then.map(|(dy, _)| (dy, 0)) };
            let coming = Coming::new(next_dy, then.map(|(_, x)| x), range.start, rows);
            let view = |data: &mut [f32]| At { ptr: data[i * cols..].as_mut_ptr(), stride: cols };
            // The chains go on inside a block of tokens; its sums are added to those of the blocks before.
            let start = if first.is_multiple_of(TOKEN_BLOCK) { At::NONE } else { view(partial) };
            let last_part = part.end == block_end || part.end == tokens;
            let (add, c) = if !last_part {
                (At::NONE, view(partial))
            } else if tokens > TOKEN_BLOCK {
                (if first < TOKEN_BLOCK { At::NONE } else { view(sum) }, view(sum))
            } else {
                let mut dw = dw.row_range(range.clone());
                (if fold == Fold::Add { at(&mut dw) } else { At::NONE }, at(&mut dw))
            };
            // SAFETY: all three have range.len() rows of cols columns.
            unsafe { gemm(isa, a, b, coming, Results { start, add, c }) }
            i = range.end;
        }
        first = part.end;
    }
    if tokens > TOKEN_BLOCK {
        for i in 0..rows {
            let sum = &sum[i * cols..(i + 1) * cols];
            match fold {
                Fold::Set => dw.row(i).copy_from_slice(sum),
                Fold::Add => crate::reduce::add(isa, dw.row(i), sum),
            }
        }
    }
}

/// Elements of workspace that [`weight_gradient`] needs.
pub fn weight_gradient_scratch(tokens: usize, rows: usize, cols: usize) -> usize {
    let areas = usize::from(tokens > TOKEN_PART) + usize::from(tokens > TOKEN_BLOCK);
    rows * cols * areas + pack::columns_len(tokens.min(TOKEN_PART), rows.min(GRADIENT_ROWS))
}
