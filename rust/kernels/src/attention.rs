//! Causal attention of one key/value head with its group of query heads, forward and backward (contract A1-A7).
//!
//! Strips of query rows are worked on at a time: the scores of a strip against all its keys lie in scratch memory
//! that fits the second-level cache, so the softmax is exact (no running rescale) and no T x T matrix exists. Keys
//! beyond a strip are never touched; inside it, a masked key has weight +0 and adds exactly nothing.

use crate::gemm::epilogue::{PlusZero, RowScale, Scale, ScoreGradient};
use crate::gemm::{self, Left, Packed, Right, at, pack, packed_len};
use crate::mat::{Mat, MatMut};
use crate::math::{self, fold16};
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};
use crate::vectors;

/// Query rows of a strip.
const STRIP: usize = 32;

/// Distance between two rows of a score strip: an odd number of cache lines, so that rows spread over the cache sets.
fn strip_stride(positions: usize) -> usize {
    let lines = positions.div_ceil(LANES);
    (lines + 1 - lines % 2) * LANES
}

/// The scale of the scores, `f32(1 / sqrt(head_size))`.
pub fn score_scale(head_size: usize) -> f32 {
    (1.0 / libm::sqrt(head_size as f64)) as f32
}

/// Elements of scratch memory for windows of `positions` tokens and heads of `head_size`.
pub fn scratch_len(positions: usize, head_size: usize) -> usize {
    2 * packed_len(head_size, positions) + 2 * STRIP * strip_stride(positions) + 2 * positions * head_size + STRIP
}

/// Elements of scratch memory that [`strip_forward`] needs for `rows` query rows and keys up to position `last`.
pub fn strip_len(rows: usize, last: usize) -> usize {
    rows * strip_stride(last)
}

/// Shape of the heads that one call works on.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Elements of a head.
    pub head_size: usize,
    /// Query heads that share the key/value head.
    pub group: usize,
}

struct Softmax<'a> {
    scores: MatMut<'a>,
    first: usize,
    maximum: &'a mut [f32],
    inverse_sum: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();
    /// Row r holds the scores of position `first + r`: `e = exp(s - m)` up to that position, +0 beyond.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let cols = self.scores.cols();
        for r in 0..self.scores.rows() {
            let n = self.first + r + 1;
            let row = self.scores.row(r);
            let p = row.as_mut_ptr();
            let mut top = s.splat(f32::NEG_INFINITY);
            vectors!(n, i, lanes, {
                // SAFETY: i + lanes <= n <= cols.
                let x = unsafe { math::load(s, p.add(i), lanes) };
                let x = if lanes == LANES { x } else { s.select(s.first_n(lanes), x, s.splat(f32::NEG_INFINITY)) };
                top = s.max(x, top);
            });
            let m = s.to_array(top).into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
            let mut sum = s.zero();
            vectors!(n, i, lanes, {
                // SAFETY: i + lanes <= n <= cols.
                unsafe {
                    let e = math::exp(s, s.sub(math::load(s, p.add(i), lanes), s.splat(m)));
                    let e = if lanes == LANES { e } else { s.select(s.first_n(lanes), e, s.zero()) };
                    sum = s.add(sum, e);
                    math::store(s, p.add(i), e, lanes);
                }
            });
            row[n..cols].fill(0.0);
            self.maximum[r] = m;
            self.inverse_sum[r] = 1.0 / fold16(s.to_array(sum));
        }
    }
}

struct Weights<'a> {
    scores: MatMut<'a>,
    first: usize,
    maximum: &'a [f32],
    inverse_sum: &'a [f32],
}

impl Kernel for Weights<'_> {
    type Output = ();
    /// `p = exp(s - m) * z` from the saved maximum and inverse sum, +0 beyond the position.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let cols = self.scores.cols();
        for r in 0..self.scores.rows() {
            let n = self.first + r + 1;
            let row = self.scores.row(r);
            let p = row.as_mut_ptr();
            let (m, z) = (s.splat(self.maximum[r]), s.splat(self.inverse_sum[r]));
            vectors!(n, i, lanes, {
                // SAFETY: i + lanes <= n <= cols.
                unsafe {
                    let e = math::exp(s, s.sub(math::load(s, p.add(i), lanes), m));
                    math::store(s, p.add(i), s.mul(e, z), lanes);
                }
            });
            row[n..cols].fill(0.0);
        }
    }
}

struct RowTerms<'a> {
    x: Mat<'a>,
    y: Mat<'a>,
    out: &'a mut [f32],
}

impl Kernel for RowTerms<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (r, out) in self.out.iter_mut().enumerate().take(self.x.rows()) {
            *out = math::dot16(s, self.x.row(r), self.y.row(r));
        }
    }
}

struct AddZero<'a>(&'a mut [f32]);

impl Kernel for AddZero<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = self.0.as_mut_ptr();
        vectors!(self.0.len(), i, lanes, {
            // SAFETY: i + lanes <= len.
            unsafe { math::store(s, p.add(i), s.add(math::load(s, p.add(i), lanes), s.zero()), lanes) }
        });
    }
}

/// Softmax and weighted sum of one strip of one head: rows `q` at positions `first..`, keys `0..first + q.rows()`.
///
/// `keys` is packed (head_size x at least those positions), `values` positions x head_size; `maximum` and `inverse_sum`
/// receive a value per row. `strip` is scratch of q.rows() * stride elements. Rows of `out` are written.
pub fn strip_forward(
    isa: Isa,
    q: Mat<'_>,
    first: usize,
    keys: Packed<'_>,
    values: Mat<'_>,
    mut out: MatMut<'_>,
    maximum: &mut [f32],
    inverse_sum: &mut [f32],
    strip: &mut [f32],
) {
    let (rows, last) = (q.rows(), first + q.rows());
    let stride = strip_stride(last);
    assert!(keys.n() >= last && values.rows() >= last, "keys and values up to position {last}");
    assert!(maximum.len() >= rows && inverse_sum.len() >= rows, "row statistics");
    assert_eq!((out.rows(), out.cols()), (rows, values.cols()), "attention output");
    let mut scores = MatMut::new(strip, rows, last, stride);
    let scale = Scale { factor: score_scale(q.cols()), c: at(&mut scores) };
    // SAFETY: the strip holds rows x last.
    unsafe { gemm::gemm(isa, Left::Rows(q), Right::packed(keys).first_columns(last), scale) };
    dispatch(isa, Softmax { scores: scores.reborrow(), first, maximum, inverse_sum });
    let epilogue = RowScale { row_factor: inverse_sum.as_ptr(), c: at(&mut out) };
    // SAFETY: out is rows x head_size and inverse_sum has a value per row.
    unsafe { gemm::gemm(isa, Left::Rows(scores.as_mat()), Right::rows(values.row_range(0..last)), epilogue) };
}

/// Attention of a window: `q` is positions x (group * head_size), `k`, `v` positions x head_size, `out` as q.
///
/// `maximum` and `inverse_sum` receive group * positions values, head by head. Workspace: [`scratch_len`].
///
/// # Panics
/// If the shapes do not fit.
pub fn forward(
    isa: Isa,
    heads: Heads,
    q: Mat<'_>,
    k: Mat<'_>,
    v: Mat<'_>,
    mut out: MatMut<'_>,
    maximum: &mut [f32],
    inverse_sum: &mut [f32],
    scratch: &mut [f32],
) {
    let Heads { head_size, group } = heads;
    let positions = q.rows();
    assert_eq!((q.cols(), k.cols(), v.cols()), (group * head_size, head_size, head_size), "head columns");
    assert_eq!((k.rows(), v.rows(), out.rows(), out.cols()), (positions, positions, positions, q.cols()), "head rows");
    let (packed, strip) = scratch.split_at_mut(packed_len(head_size, positions));
    pack::transposed(isa, k, packed);
    let keys = Packed::new(packed, head_size, positions);
    for h in 0..group {
        let columns = h * head_size..(h + 1) * head_size;
        let mut first = 0;
        while first < positions {
            let rows = first..(first + STRIP).min(positions);
            let stats = h * positions + rows.start..h * positions + rows.end;
            strip_forward(
                isa,
                q.col_range(columns.clone()).row_range(rows.clone()),
                first,
                keys,
                v,
                out.col_range(columns.clone()).row_range(rows.clone()),
                &mut maximum[stats.clone()],
                &mut inverse_sum[stats],
                strip,
            );
            first = rows.end;
        }
    }
}

/// Gradient of [`forward`], in place: on entry `q`, `k`, `v` hold the inputs, on return their gradients.
///
/// `dout` and `out` are positions x (group * head_size); `maximum` and `inverse_sum` as [`forward`] left them.
/// Workspace: [`scratch_len`].
///
/// # Panics
/// If the shapes do not fit.
pub fn backward(
    isa: Isa,
    heads: Heads,
    mut q: MatMut<'_>,
    mut k: MatMut<'_>,
    mut v: MatMut<'_>,
    out: Mat<'_>,
    dout: Mat<'_>,
    maximum: &[f32],
    inverse_sum: &[f32],
    scratch: &mut [f32],
) {
    let Heads { head_size, group } = heads;
    let positions = q.rows();
    assert_eq!((q.cols(), k.cols(), v.cols()), (group * head_size, head_size, head_size), "head columns");
    assert_eq!(
        (k.rows(), v.rows(), out.rows(), dout.rows()),
        (positions, positions, positions, positions),
        "head rows"
    );
    assert_eq!((out.cols(), dout.cols()), (q.cols(), q.cols()), "head columns of the output");
    let stride = strip_stride(positions);
    let (packed_k, rest) = scratch.split_at_mut(packed_len(head_size, positions));
    let (packed_v, rest) = rest.split_at_mut(packed_len(head_size, positions));
    let (weights, rest) = rest.split_at_mut(STRIP * stride);
    let (gradient, rest) = rest.split_at_mut(STRIP * stride);
    let (dk, rest) = rest.split_at_mut(positions * head_size);
    let (dv, row_term) = rest.split_at_mut(positions * head_size);
    pack::transposed(isa, k.as_mat(), packed_k);
    pack::transposed(isa, v.as_mat(), packed_v);
    let keys = Right::packed(Packed::new(packed_k, head_size, positions));
    let values = Right::packed(Packed::new(packed_v, head_size, positions));
    dk.fill(0.0);
    dv.fill(0.0);
    let factor = score_scale(head_size);
    for h in 0..group {
        let columns = h * head_size..(h + 1) * head_size;
        let mut first = 0;
        while first < positions {
            let rows = first..(first + STRIP).min(positions);
            let (count, last) = (rows.len(), rows.end);
            let mut q = q.col_range(columns.clone());
            let mut q = q.row_range(rows.clone());
            let dout = dout.col_range(columns.clone()).row_range(rows.clone());
            let out = out.col_range(columns.clone()).row_range(rows.clone());
            let stats = h * positions + rows.start..h * positions + rows.end;
            dispatch(isa, RowTerms { x: dout, y: out, out: row_term });
            let mut p = MatMut::new(weights, count, last, stride);
            let mut ds = MatMut::new(gradient, count, last, stride);
            let scale = Scale { factor, c: at(&mut p) };
            // SAFETY: p holds count x last.
            unsafe { gemm::gemm(isa, Left::Rows(q.as_mat()), keys.first_columns(last), scale) };
            let (maximum, inverse_sum) = (&maximum[stats.clone()], &inverse_sum[stats]);
            dispatch(isa, Weights { scores: p.reborrow(), first, maximum, inverse_sum });
            let (c, row_term) = (at(&mut ds), row_term.as_ptr());
            let epilogue = ScoreGradient { p: at(&mut p), row_term, factor, c };
            // SAFETY: p and ds hold count x last, row_term count values.
            unsafe { gemm::gemm(isa, Left::Rows(dout), values.first_columns(last), epilogue) };
            let (p, ds) = (p.as_mat(), ds.as_mat());
            let dk = MatMut::new(dk, last, head_size, head_size);
            gemm::product_continue(isa, Left::Columns(ds), Right::rows(q.as_mat()), dk);
            let dv = MatMut::new(dv, last, head_size, head_size);
            gemm::product_continue(isa, Left::Columns(p), Right::rows(dout), dv);
            // The queries of this strip are not read again: their gradient takes their place.
            let epilogue = PlusZero { c: at(&mut q) };
            let b = Right::rows(k.as_mat().row_range(0..last));
            // SAFETY: q holds count x head_size.
            unsafe { gemm::gemm(isa, Left::Rows(ds), b, epilogue) };
            first = last;
        }
        dispatch(isa, AddZero(dk));
        dispatch(isa, AddZero(dv));
    }
    for t in 0..positions {
        k.row(t).copy_from_slice(&dk[t * head_size..(t + 1) * head_size]);
        v.row(t).copy_from_slice(&dv[t * head_size..(t + 1) * head_size]);
    }
}
