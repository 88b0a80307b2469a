//! Weight gradients of integers: `dy` is quantised by columns within blocks of tokens while it is copied.

use super::quantise::{integers, pair_of_rows, scale_of};
use super::{BLOCK, BLOCK_PAIRS, Quantised};
use crate::gemm::gradient::{GRADIENT_ROWS, MOST_WIDTH, Operands, Part, fold_sums};
use crate::gemm::micro::Rows;
use crate::gemm::tables::integer_tiles;
use crate::gemm::{At, Fold, Left, Right, at, direct, pack};
use crate::math::{load, store};
use crate::simd::{Integers, LANES, Simd, dispatch};
use crate::{Mat, MatMut, vectors};
use std::ops::Range;

/// Weight gradient of one sector (contract I8), folded into `dw`: `dy` is tokens x outputs, `x` tokens x inputs with one
/// scale for each token.
///
/// `coming` are the operands of the next call, if known, `x` as pairs: they are brought near meanwhile. Workspace:
/// [`weight_gradient_scratch`] elements. An empty sector contributes +0.
///
/// # Panics
/// If the shapes do not fit, the workspace is too small, or the CPU lacks the instructions.
pub fn weight_gradient(
    integers: Integers,
    dy: Mat<'_>,
    x: Quantised<'_>,
    mut dw: MatMut<'_>,
    fold: Fold,
    coming: Option<(Mat<'_>, Mat<'_>)>,
    scratch: &mut [f32],
) {
    let (tokens, rows, cols) = (dy.rows(), dw.rows(), dw.cols());
    assert_eq!((tokens, x.groups()), (x.rows(), usize::from(tokens > 0)), "tokens of dy and x");
    assert_eq!((rows, cols), (dy.cols(), x.cols()), "weight gradient of outputs x inputs");
    let needed = weight_gradient_scratch(tokens, rows, cols);
    assert!(scratch.len() >= needed, "weight gradient of {rows} x {cols} in {} elements", scratch.len());
    let (isa, tiles) = (integers.isa(), integer_tiles(integers));
    if tokens == 0 {
        let add = if fold == Fold::Add { at(&mut dw) } else { At::NONE };
        return direct(isa, Left::Columns(dy), Right::rows(Mat::new(&[], 0, cols, cols)), At::NONE, add, &mut dw);
    }
    let longest = tokens.min(BLOCK).div_ceil(2);
    let (scales, rest) = scratch.split_at_mut(2 * GRADIENT_ROWS);
    let (columns, rest) = rest.split_at_mut(pack::columns_len(longest, rows.min(GRADIENT_ROWS)));
    let (panel, sum) = rest.split_at_mut(longest * MOST_WIDTH);
    // Not used through its slice from here to the last sum.
    let sums = At { ptr: sum.as_mut_ptr(), stride: cols };
    for block in (0..tokens).step_by(BLOCK) {
        let part = block..(block + BLOCK).min(tokens);
        let next = part.end..(part.end + BLOCK).min(tokens);
        let then =
            if part.end == tokens { coming } else { Some((dy.row_range(next.clone()), x.pairs().row_range(next))) };
        for i in (0..rows).step_by(GRADIENT_ROWS) {
            let range = i..(i + GRADIENT_ROWS).min(rows);
            let (add, c) = if tokens > BLOCK {
                let sums = At { ptr: sums.element(i, 0), ..sums };
                (if block == 0 { At::NONE } else { sums }, sums)
            } else {
                let mut dw = dw.row_range(range.clone());
                (if fold == Fold::Add { at(&mut dw) } else { At::NONE }, at(&mut dw))
            };
            let (scales, inverses) = scales.split_at_mut(GRADIENT_ROWS);
            let operands = Tokens {
                dy: dy.row_range(part.clone()).col_range(range.clone()),
                factors: &x.scales()[part.clone()],
                x: x.pairs().row_range(part.clone()),
                cols,
                inverses: inverses.as_mut_ptr(),
            };
            let then = if range.end < rows { None } else { then };
            let scales = &mut scales[..range.len()];
            dispatch(isa, Part { operands, then, start: At::NONE, add, c, columns, panel, scales, tiles });
        }
    }
    if tokens > BLOCK {
        fold_sums(isa, sum, dw, fold);
    }
}

/// Elements of workspace that [`weight_gradient`] needs.
pub fn weight_gradient_scratch(tokens: usize, rows: usize, cols: usize) -> usize {
    let sums = if tokens > BLOCK { rows * cols } else { 0 };
    let longest = tokens.min(BLOCK).div_ceil(2);
    2 * GRADIENT_ROWS + pack::columns_len(longest, rows.min(GRADIENT_ROWS)) + longest * MOST_WIDTH + sums
}

/// A block of tokens.
struct Tokens<'a> {
    dy: Mat<'a>,
    /// Scale of `x` for each token.
    factors: &'a [f32],
    x: Mat<'a>,
    cols: usize,
    /// Room for [`GRADIENT_ROWS`] numbers.
    inverses: *mut f32,
}

/// Vectors whose largest elements are looked for together.
const MAXIMA: usize = 4;

impl Tokens<'_> {
    /// Scales of the columns of `dy`, each row times its factor.
    #[inline(always)]
    fn scales<S: Simd>(&self, s: S, scales: &mut [f32]) {
        let n = self.dy.cols();
        for first in (0..n).step_by(MAXIMA * LANES) {
            let mut top = [s.zero(); MAXIMA];
            let mut row = self.dy.ptr().wrapping_add(first);
            let whole = first + MAXIMA * LANES <= n;
            for factor in self.factors {
                let factor = s.splat(*factor);
                for (v, top) in top.iter_mut().enumerate() {
                    let lanes = if whole { LANES } else { (n - first).saturating_sub(v * LANES).min(LANES) };
                    // SAFETY: columns of a row of `dy`.
                    let x = unsafe { load(s, row.wrapping_add(v * LANES), lanes) };
                    *top = s.max_bits(*top, s.mul(x, factor));
                }
                row = row.wrapping_add(self.dy.stride());
            }
            for (v, top) in top.into_iter().enumerate() {
                for (lane, largest) in s.to_array(top).into_iter().enumerate() {
                    let column = first + v * LANES + lane;
                    if column < n {
                        let (scale, inverse) = scale_of(largest.to_bits());
                        scales[column] = scale;
                        // SAFETY: there is room for as many columns as a part has.
                        unsafe { self.inverses.add(column).write(inverse) };
                    }
                }
            }
        }
    }
}

impl Operands for Tokens<'_> {
    #[inline(always)]
    fn shape(&self) -> (usize, usize, usize) {
        (self.dy.rows().div_ceil(2), self.dy.cols(), self.cols)
    }

    #[inline(always)]
    fn copy_columns<S: Simd>(&self, s: S, to: &mut [f32], scales: &mut [f32]) -> usize {
        self.scales(s, scales);
        let (rows, cols, stride) = (self.dy.rows(), self.dy.cols(), self.dy.stride());
        let steps = rows.div_ceil(2);
        assert!(steps <= BLOCK_PAIRS && to.len() >= pack::columns_len(steps, cols), "columns of {rows} x {cols}");
        let group = pack::group::<S>(cols);
        for first in (0..cols).step_by(group) {
            let mut row = self.dy.ptr().wrapping_add(first);
            let mut to = to.as_mut_ptr().wrapping_add(first * steps);
            let lanes = (cols - first).min(LANES);
            // SAFETY: there is room for as many columns as a part has. Columns of rows of `dy`: sixteen, or as many as there are.
            // `to` has room for sixteen pairs; those beyond the group make way for the next step, or for the next group.
            unsafe {
                let inverse = load(s, self.inverses.wrapping_add(first), lanes);
                for factors in self.factors.chunks(2) {
                    let low = integers(s, s.mul(load(s, row, lanes), s.splat(factors[0])), inverse);
                    let mut high = s.zero();
                    if let Some(factor) = factors.get(1) {
                        high = integers(s, s.mul(load(s, row.wrapping_add(stride), lanes), s.splat(*factor)), inverse);
                    }
                    s.store(to, s.pairs(low, high));
                    row = row.wrapping_add(2 * stride);
                    to = to.wrapping_add(group);
                }
            }
        }
        group
    }

    #[inline(always)]
    fn copy_panel<S: Simd>(&self, s: S, columns: Range<usize>, to: &mut [f32], width: usize) {
        let steps = self.x.rows().div_ceil(2);
        assert!(columns.len() <= width && to.len() >= steps * width, "a panel of {steps} rows");
        let mut to = to.as_mut_ptr();
        for step in 0..steps {
            vectors!(columns.len(), i, lanes, {
                let x = pair_of_rows(s, self.x, 2 * step, columns.start + i);
                // SAFETY: some of the `width` places of a row of the panel.
                unsafe { store(s, to.wrapping_add(i), x, lanes) };
            });
            to = to.wrapping_add(width);
        }
    }

    #[inline(always)]
    fn rows_from(&self, j: usize) -> Rows {
        Rows { ptr: self.x.ptr().wrapping_add(j / 2), stride: self.x.stride(), count: self.x.rows() }
    }
}
