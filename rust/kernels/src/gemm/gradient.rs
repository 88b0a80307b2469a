//! Weight gradients: products over the tokens of a sector, folded into the gradient (contract G3).
//!
//! ```text
//! for block of 1,024 tokens:                       a chain begins at +0 and ends with its block
//!     for part of at most 256 tokens:              the chains continue from memory
//!         for 256 rows of dw:
//!             columns = dy[part][rows], copied     as many columns side by side as make whole tiles
//!             for columns of dw, as many as a tile has:
//!                 panel = x[part][columns], copied
//!                 for rows, as many as a tile has:
//!                     chain = micro::tile(columns transposed, panel)
//!     sum = chain of the first block, then sum + chain
//! dw = sum, or dw + sum                            one block goes into dw at once
//! ```
//!
//! Both operands have their tokens a row apart, so a product over tokens reads one or two lines of every row: copied side by
//! side, they are two streams. A copy of x serves all 256 rows, one of dy all columns. The parts are short for the caches
//! alone: a chain that is stored and continued has the bits of one that was not cut.

use super::micro::{Rows, Scales, Tile};
use super::tables::{Table, tiles};
use super::{At, Left, Right, at, direct, pack, tile_height};
use crate::mat::{Mat, MatMut};
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};
use std::ops::Range;

/// Tokens of one weight-gradient chain (contract G3).
pub const TOKEN_BLOCK: usize = if crate::ANY_ORDER { 1 << 31 } else { 1024 };

/// What a weight-gradient tile does with the sum of a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fold {
    /// `dw = sector`.
    Set,
    /// `dw = dw + sector`.
    Add,
}

/// Most tokens of a part of a chain: a panel of `x` and a group of `dy` then stay in the first-level cache. Chains run on
/// from memory, so the length cannot move a bit.
const TOKEN_PART: usize = 256;

/// Most rows of `dw` that are worked on at a time: their columns of `dy` stay in the second-level cache.
pub(super) const GRADIENT_ROWS: usize = 256;

/// Most columns of a panel of `x`, those of the widest tile.
pub(super) const MOST_WIDTH: usize = 32;

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
    check(dy, x, (rows, cols), scratch);
    if tokens == 0 {
        // A product over no tokens is +0, which is what an empty sector adds.
        let add = if fold == Fold::Add { at(&mut dw) } else { At::NONE };
        return direct(isa, Left::Columns(dy), Right::rows(x), At::NONE, add, &mut dw);
    }
    let (longest, table) = (tokens.min(TOKEN_PART), tiles(isa));
    let (columns, rest) = scratch.split_at_mut(pack::columns_len(longest, rows.min(GRADIENT_ROWS)));
    let (panel, rest) = rest.split_at_mut(longest * MOST_WIDTH);
    let (partial, sum) = rest.split_at_mut(if tokens > TOKEN_PART { rows * cols } else { 0 });
    // Not used through their slices from here to the last sum.
    let [partial, sums] = [partial, &mut *sum].map(|data| At { ptr: data.as_mut_ptr(), stride: cols });
    for block in (0..tokens).step_by(TOKEN_BLOCK) {
        let block_end = (block + TOKEN_BLOCK).min(tokens);
        // Parts of equal length.
        let length = (block_end - block).div_ceil((block_end - block).div_ceil(TOKEN_PART));
        for first in (block..block_end).step_by(length) {
            let part = first..(first + length).min(block_end);
            let then = if part.end == tokens {
                coming
            } else {
                // A length that is a little off only brings a few tokens more or less near.
                let next = part.end..(part.end + length).min(tokens);
                Some((dy.row_range(next.clone()), x.row_range(next)))
            };
            for i in (0..rows).step_by(GRADIENT_ROWS) {
                let range = i..(i + GRADIENT_ROWS).min(rows);
                let row = |data: At| At { ptr: data.element(i, 0), ..data };
                // The chains continue inside a block of tokens; its sums are added to those of the blocks before.
                let start = if first == block { At::NONE } else { row(partial) };
                let (add, c) = if part.end < block_end {
                    (At::NONE, row(partial))
                } else if tokens > TOKEN_BLOCK {
                    (if block == 0 { At::NONE } else { row(sums) }, row(sums))
                } else {
                    let mut dw = dw.row_range(range.clone());
                    (if fold == Fold::Add { at(&mut dw) } else { At::NONE }, at(&mut dw))
                };
                let operands =
                    Floats { dy: dy.row_range(part.clone()).col_range(range.clone()), x: x.row_range(part.clone()) };
                let then = if range.end < rows { None } else { then };
                dispatch(isa, Part { operands, then, start, add, c, columns, panel, scales: &mut [], tiles: table });
            }
        }
    }
    if tokens > TOKEN_BLOCK {
        fold_sums(isa, sum, dw, fold);
    }
}

#[inline(always)]
fn check(dy: Mat<'_>, x: Mat<'_>, (rows, cols): (usize, usize), scratch: &[f32]) {
    let tokens = dy.rows();
    assert_eq!(tokens, x.rows(), "tokens of dy and x");
    assert_eq!((rows, cols), (dy.cols(), x.cols()), "weight gradient of outputs x inputs");
    let needed = weight_gradient_scratch(tokens, rows, cols);
    assert!(scratch.len() >= needed, "weight gradient of {rows} x {cols} in {} elements", scratch.len());
}

/// Folds the sums of several blocks into `dw`.
#[inline(always)]
pub(super) fn fold_sums(isa: Isa, sums: &[f32], mut dw: MatMut<'_>, fold: Fold) {
    let cols = dw.cols();
    for i in 0..dw.rows() {
        let sum = &sums[i * cols..(i + 1) * cols];
        match fold {
            Fold::Set => dw.row(i).copy_from_slice(sum),
            Fold::Add => crate::reduce::add(isa, dw.row(i), sum),
        }
    }
}

/// Elements of workspace that [`weight_gradient`] needs.
pub fn weight_gradient_scratch(tokens: usize, rows: usize, cols: usize) -> usize {
    let areas = usize::from(tokens > TOKEN_PART) + usize::from(tokens > TOKEN_BLOCK);
    let longest = tokens.min(TOKEN_PART);
    rows * cols * areas + pack::columns_len(longest, rows.min(GRADIENT_ROWS)) + longest * MOST_WIDTH
}

/// What a part multiplies, and how it is copied.
pub(super) trait Operands {
    /// Steps of the product, rows and columns of its result.
    fn shape(&self) -> (usize, usize, usize);
    /// Copies the left operand in groups of a few rows of the result (see [`pack::copy_columns`]); gives the rows of a group.
    fn copy_columns<S: Simd>(&self, s: S, to: &mut [f32], scales: &mut [f32]) -> usize;
    /// Copies some columns of the right operand, a step behind the other, `width` apart.
    fn copy_panel<S: Simd>(&self, s: S, columns: Range<usize>, to: &mut [f32], width: usize);
    /// The rows that the copy of the columns from `j` on reads.
    fn rows_from(&self, j: usize) -> Rows;
}

/// Both operands as they lie.
struct Floats<'a> {
    dy: Mat<'a>,
    x: Mat<'a>,
}

impl Operands for Floats<'_> {
    #[inline(always)]
    fn shape(&self) -> (usize, usize, usize) {
        (self.x.rows(), self.dy.cols(), self.x.cols())
    }
    #[inline(always)]
    fn copy_columns<S: Simd>(&self, s: S, to: &mut [f32], _: &mut [f32]) -> usize {
        pack::copy_columns(s, self.dy, to)
    }
    #[inline(always)]
    fn copy_panel<S: Simd>(&self, s: S, columns: Range<usize>, to: &mut [f32], width: usize) {
        copy_panel(s, self.x.col_range(columns), to, width);
    }
    #[inline(always)]
    fn rows_from(&self, j: usize) -> Rows {
        Rows { ptr: self.x.ptr().wrapping_add(j), stride: self.x.stride(), count: self.x.rows() }
    }
}

/// `c = add + chain`, the chains over some tokens, continuing from `start`.
///
/// Copied, the columns of `dy` that a tile needs and the panel of `x` that all tiles read are two streams from the nearest
/// caches.
pub(super) struct Part<'a, O> {
    pub operands: O,
    /// What is brought near meanwhile.
    pub then: Option<(Mat<'a>, Mat<'a>)>,
    /// All three of the shape of the result.
    pub start: At,
    pub add: At,
    pub c: At,
    pub columns: &'a mut [f32],
    pub panel: &'a mut [f32],
    /// Where the factors of integer sums go, one for each row of the result; empty for floats.
    pub scales: &'a mut [f32],
    pub tiles: &'static Table,
}

impl<O: Operands> Kernel for Part<'_, O> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (k, m, n) = self.operands.shape();
        let width = S::TILE_VECTORS * LANES;
        let group = self.operands.copy_columns(s, self.columns, self.scales);
        let scales = match self.scales {
            [] => Scales::NONE,
            scales => Scales { row: scales.as_ptr(), row_stride: 1, ..Scales::NONE },
        };
        let tiles_of_panel = m.div_ceil(group) * group.div_ceil(S::TILE_ROWS);
        let mut requests = Requests::new(self.then, tiles_of_panel * n.div_ceil(width));
        let mut j = 0;
        while j < n {
            let tail = j + width > n;
            let cols = if tail { (n - j).min(LANES) } else { width };
            self.operands.copy_panel(s, j..j + cols, self.panel, width);
            // The tiles of this panel bring the rows of the next one near, all of them or nearly so.
            let mut coming = self.operands.rows_from(j + cols);
            coming.count = if j + cols < n { coming.count.div_ceil(tiles_of_panel) } else { 0 };
            let mut i = 0;
            while i < m {
                let group_end = (i / group * group + group).min(m);
                let rows = tile_height(group_end - i, S::TILE_ROWS);
                let a = self.columns.as_ptr().wrapping_add(i / group * group * k + i % group);
                let (next_i, next_j) = if i + rows < m { (i + rows, j) } else { (0, j + cols) };
                let tile = Tile {
                    k,
                    a,
                    a_stride: group,
                    b: self.panel.as_ptr(),
                    b_stride: width,
                    start: self.start.element(i, j),
                    start_stride: self.start.stride,
                    add: self.add.element(i, j),
                    add_stride: self.add.stride,
                    c: self.c.element(i, j),
                    c_stride: self.c.stride,
                    lanes: cols,
                    scales: scales.at(i, j),
                    near: [Rows { ptr: self.c.element(next_i, next_j), stride: self.c.stride, count: rows }, coming],
                    ahead: requests.take(),
                };
                coming.ptr = coming.ptr.wrapping_add(coming.count * coming.stride);
                // SAFETY: `columns` holds k rows of each group, the panel k rows of `width`, the results m x n elements
                // (the caller's guarantee), and the tile was compiled for the token at hand.
                unsafe { self.tiles.get(rows, true, tail)(&tile) };
                i += rows;
            }
            j += cols;
        }
    }
}

/// Copies the rows of `from`, at most `width` columns, side by side.
#[inline(always)]
fn copy_panel<S: Simd>(s: S, from: Mat<'_>, to: &mut [f32], width: usize) {
    assert!(from.cols() <= width && to.len() >= from.rows() * width, "a panel of {} rows", from.rows());
    let (mut row, mut to) = (from.ptr(), to.as_mut_ptr());
    for _ in 0..from.rows() {
        for first in (0..from.cols()).step_by(LANES) {
            let lanes = (from.cols() - first).min(LANES);
            // SAFETY: columns of a row of `from`, and as many of the `width` places of a row of the panel.
            unsafe {
                let x = crate::math::load(s, row.wrapping_add(first), lanes);
                crate::math::store(s, to.wrapping_add(first), x, lanes);
            }
        }
        row = row.wrapping_add(from.stride());
        to = to.wrapping_add(width);
    }
}

/// The operands of the next part, asked for a few lines at a time: a core has only so many buffers for lines under way.
struct Requests {
    areas: [Area; 2],
    /// Lines for each tile.
    lines: usize,
}

/// Rows of a matrix, the first of which has been asked for up to a column.
#[derive(Clone, Copy)]
struct Area {
    first: *const f32,
    stride: usize,
    cols: usize,
    rows: usize,
    at: usize,
}

impl Area {
    fn new(m: Mat<'_>) -> Self {
        Self { first: m.ptr(), stride: m.stride(), cols: m.cols(), rows: m.rows(), at: 0 }
    }
}

impl Requests {
    /// `then` during so many tiles.
    fn new(then: Option<(Mat<'_>, Mat<'_>)>, tiles: usize) -> Self {
        let nothing = Area { first: std::ptr::null(), stride: 0, cols: 0, rows: 0, at: 0 };
        let areas = then.map_or([nothing; 2], |(dy, x)| [Area::new(x), Area::new(dy)]);
        let all: usize = areas.iter().map(|area| area.rows * area.cols.div_ceil(LANES)).sum();
        Self { areas, lines: all.div_ceil(tiles.max(1)) }
    }

    /// The lines to ask for during the next tile.
    #[inline(always)]
    fn take(&mut self) -> Rows {
        let Some(area) = self.areas.iter_mut().find(|area| area.rows > 0) else { return Rows::NONE };
        let count = (area.cols - area.at).div_ceil(LANES).min(self.lines);
        let lines = Rows { ptr: area.first.wrapping_add(area.at), stride: LANES, count };
        area.at += count * LANES;
        if area.at >= area.cols {
            *area = Area { first: area.first.wrapping_add(area.stride), rows: area.rows - 1, at: 0, ..*area };
        }
        lines
    }
}
