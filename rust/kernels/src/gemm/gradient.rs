//! Weight gradients: products over the tokens of a sector, folded into the gradient (contract G3).

use super::{At, Coming, Groups, Left, Results, Right, at, direct, gemm, pack};
use crate::mat::{Mat, MatMut, extent};
use crate::simd::{Isa, LANES};

/// Tokens of one weight-gradient chain (contract G3).
pub const TOKEN_BLOCK: usize = if crate::ANY_ORDER { 1 << 31 } else { 1024 };

impl Coming {
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
    // Not used through their slices from here to the last sum.
    let [partial, sums] = [partial, &mut *sum].map(|data| At { ptr: data.as_mut_ptr(), stride: cols });
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
            let row = |data: At| At { ptr: data.element(i, 0), ..data };
            // The chains go on inside a block of tokens; its sums are added to those of the blocks before.
            let start = if first.is_multiple_of(TOKEN_BLOCK) { At::NONE } else { row(partial) };
            let last_part = part.end == block_end || part.end == tokens;
            let (add, c) = if !last_part {
                (At::NONE, row(partial))
            } else if tokens > TOKEN_BLOCK {
                (if first < TOKEN_BLOCK { At::NONE } else { row(sums) }, row(sums))
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
