//! Causal attention of one key/value head with its group of query heads, forward and backward (contract A1-A7).
//!
//! Strips of query rows are worked on at a time: the scores of a strip against all its keys lie in scratch memory
//! that fits the second-level cache, so the softmax is exact (no running rescale) and no T x T matrix exists. Keys
//! beyond a strip are never touched; inside it, a masked key has weight +0 and adds exactly nothing.
//!
//! ```text
//! forward, for each query head, for each strip of rows:
//!     s = q k                                  tile::scores
//!     m = max s * f,  e = exp(s * f - m),  z = 1 / sum(e)
//!                                              rows::softmax, e in the place of s
//!     out = (e v) * z + 0                      tile::row_sums
//!
//! backward, for each query head, for each strip of rows:
//!     D = dot(dout, out)                       rows::row_terms
//!     s = q k,  dp = dout v                    tile::scores, twice
//!     p = exp(s * f - m) * z,  ds = (p * (dp - D)) * f
//!                                              rows::gradient, in the place of s and dp
//!     dv = chain over the rows: p, dout        tile::column_sums, continued from strip to strip
//!     dk = chain over the rows: ds, q          the same
//!     q = chain over the keys: ds, k           tile::row_sums
//! ```
//!
//! The sum is divided out of the output, not of the weights: head_dim multiplications for each row instead of one for each
//! key. The backward pass computes the weights again: kept, they would be the T x T matrix. There q is written last, since dk
//! needs the queries; k and v are written after the last head, which reads them all.

mod paged;
mod rows;
mod tile;

use crate::gemm::{Packed, pack, packed_len};
use crate::mat::{Mat, MatMut};
use crate::simd::{Isa, Kernel, Simd, dispatch};
pub use paged::{Paged, page_len, row_forward, row_len};
use rows::Statistics;
use tile::{MOST_ROWS, Stage, Strip, with_tiles};

/// Elements of a strip of scores, about, in the forward pass: the strip stays in the first-level cache.
const FORWARD_STRIP: usize = 4 * 1024;
/// Elements of a strip in the backward pass, about. A longer one goes over the key and value gradients less often; it
/// and its gradients should stay in the second-level cache.
const BACKWARD_STRIP: usize = 16 * 1024;

/// Query rows of a strip of about `elements` scores against `positions` keys: whole groups of 48, the rows that all
/// tiles and the row kernels divide.
fn strip_rows(elements: usize, positions: usize) -> usize {
    (elements / positions.max(1)).max(1).next_multiple_of(48)
}

/// The scale of the scores, `f32(1 / sqrt(head_dim))`.
pub fn score_scale(head_dim: usize) -> f32 {
    (1.0 / libm::sqrt(head_dim as f64)) as f32
}

/// Elements of scratch memory for windows of `positions` tokens and heads of `head_dim`.
pub fn scratch_len(positions: usize, head_dim: usize) -> usize {
    let rows = strip_rows(BACKWARD_STRIP, positions).min(positions);
    2 * packed_len(head_dim, positions) + 2 * rows * Strip::stride(positions) + 2 * positions * head_dim + rows
}

/// Elements of scratch memory that [`strip_forward`] needs for `rows` query rows and keys up to position `last`.
pub fn strip_len(rows: usize, last: usize) -> usize {
    rows * Strip::stride(last)
}

/// Shape of the heads that one call works on.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Elements of a head.
    pub head_dim: usize,
    /// Query heads that share the key/value head.
    pub group: usize,
}

struct ForwardStrip<'a> {
    q: Mat<'a>,
    keys: Packed<'a>,
    values: Mat<'a>,
    out: MatMut<'a>,
    maximum: &'a mut [f32],
    inverse_sum: &'a mut [f32],
    strip: Strip<'a>,
}

impl ForwardStrip<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize, const VECTORS: usize, const EXPS: usize>(mut self, s: S) {
        let factor = score_scale(self.q.cols());
        let values = self.values.row_range(self.strip.first..self.strip.last());
        tile::scores::<S, ROWS, VECTORS>(s, self.q, self.keys, &mut self.strip, &[values, self.out.as_mat()]);
        rows::softmax::<S, EXPS>(s, &mut self.strip, factor, self.maximum, self.inverse_sum);
        tile::row_sums::<S, ROWS, VECTORS>(s, &self.strip, self.values, Some(self.inverse_sum), &mut self.out);
    }
}

impl Kernel for ForwardStrip<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_tiles!(s: S, self.tiles)
    }
}

struct BackwardStrip<'a> {
    q: MatMut<'a>,
    k: Mat<'a>,
    keys: Packed<'a>,
    values: Packed<'a>,
    out: Mat<'a>,
    dout: Mat<'a>,
    maximum: &'a [f32],
    inverse_sum: &'a [f32],
    row_term: &'a mut [f32],
    weights: Strip<'a>,
    gradient: Strip<'a>,
    stage: Stage,
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

impl BackwardStrip<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize, const VECTORS: usize, const EXPS: usize>(mut self, s: S) {
        let (p, ds) = (&mut self.weights, &mut self.gradient);
        rows::row_terms(s, self.dout, self.out, self.row_term);
        let statistics = Statistics { maximum: self.maximum, inverse_sum: self.inverse_sum, row_term: self.row_term };
        tile::scores::<S, ROWS, VECTORS>(s, self.q.as_mat(), self.keys, p, &[]);
        tile::scores::<S, ROWS, VECTORS>(s, self.dout, self.values, ds, &[]);
        rows::gradient::<S, EXPS>(s, p, ds, score_scale(self.q.cols()), statistics);
        tile::column_sums::<S, ROWS, VECTORS>(s, p, self.dout, self.stage, self.dv);
        tile::column_sums::<S, ROWS, VECTORS>(s, ds, self.q.as_mat(), self.stage, self.dk);
        // The queries of this strip are not read again: their gradient takes their place.
        tile::row_sums::<S, ROWS, VECTORS>(s, ds, self.k, None, &mut self.q);
    }
}

impl Kernel for BackwardStrip<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_tiles!(s: S, self.tiles)
    }
}

/// Softmax and weighted sum of one strip of one head: rows `q` at positions `first..`, keys `0..first + q.rows()`.
///
/// `keys` is packed (head_dim x at least those positions), `values` positions x head_dim; `maximum` and `inverse_sum`
/// receive a value per row. `strip` is scratch of q.rows() * stride elements. Rows of `out` are written.
pub fn strip_forward(
    isa: Isa,
    q: Mat<'_>,
    first: usize,
    keys: Packed<'_>,
    values: Mat<'_>,
    out: MatMut<'_>,
    maximum: &mut [f32],
    inverse_sum: &mut [f32],
    strip: &mut [f32],
) {
    let (rows, last) = (q.rows(), first + q.rows());
    assert!(keys.n() >= last && values.rows() >= last, "keys and values up to position {last}");
    assert!(maximum.len() >= rows && inverse_sum.len() >= rows, "row statistics");
    assert_eq!((out.rows(), out.cols()), (rows, values.cols()), "attention output");
    let strip = Strip::new(strip, first, rows);
    dispatch(isa, ForwardStrip { q, keys, values, out, maximum, inverse_sum, strip });
}

/// Attention of a window: `q` is positions x (group * head_dim), `k`, `v` positions x head_dim, `out` as q.
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
    let Heads { head_dim, group } = heads;
    let positions = q.rows();
    assert_eq!((q.cols(), k.cols(), v.cols()), (group * head_dim, head_dim, head_dim), "head columns");
    assert_eq!((k.rows(), v.rows(), out.rows(), out.cols()), (positions, positions, positions, q.cols()), "head rows");
    let (packed, strip) = scratch.split_at_mut(packed_len(head_dim, positions));
    pack::transposed(isa, k, packed);
    let keys = Packed::new(packed, head_dim, positions);
    let height = strip_rows(FORWARD_STRIP, positions);
    for h in 0..group {
        let columns = h * head_dim..(h + 1) * head_dim;
        let mut first = 0;
        while first < positions {
            let rows = first..(first + height).min(positions);
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
/// `dout` and `out` are positions x (group * head_dim); `maximum` and `inverse_sum` as [`forward`] left them.
/// Workspace: [`scratch_len`].
///
/// # Panics
/// If the shapes do not fit.
pub fn backward(
    isa: Isa,
    heads: Heads,
    mut q: MatMut<'_>,
    k: MatMut<'_>,
    v: MatMut<'_>,
    out: Mat<'_>,
    dout: Mat<'_>,
    maximum: &[f32],
    inverse_sum: &[f32],
    scratch: &mut [f32],
) {
    let Heads { head_dim, group } = heads;
    let positions = q.rows();
    check_backward(heads, q.as_mat(), k.as_mat(), v.as_mat(), out, dout);
    let height = strip_rows(BACKWARD_STRIP, positions).min(positions);
    let memory = height * Strip::stride(positions);
    let (packed_k, rest) = scratch.split_at_mut(packed_len(head_dim, positions));
    let (packed_v, rest) = rest.split_at_mut(packed_len(head_dim, positions));
    let (weights, rest) = rest.split_at_mut(memory);
    let (gradient, rest) = rest.split_at_mut(memory);
    let (dk, rest) = rest.split_at_mut(positions * head_dim);
    let (dv, row_term) = rest.split_at_mut(positions * head_dim);
    pack::transposed(isa, k.as_mat(), packed_k);
    pack::transposed(isa, v.as_mat(), packed_v);
    // Keys that the first strip does not reach start at +0, too.
    dk[height * head_dim..].fill(0.0);
    dv[height * head_dim..].fill(0.0);
    for h in 0..group {
        let columns = h * head_dim..(h + 1) * head_dim;
        let mut first = 0;
        while first < positions {
            let rows = first..(first + height).min(positions);
            let stats = h * positions + rows.start..h * positions + rows.end;
            let mut q = q.col_range(columns.clone());
            let strip = BackwardStrip {
                q: q.row_range(rows.clone()),
                k: k.as_mat(),
                keys: Packed::new(packed_k, head_dim, positions),
                values: Packed::new(packed_v, head_dim, positions),
                out: out.col_range(columns.clone()).row_range(rows.clone()),
                dout: dout.col_range(columns.clone()).row_range(rows.clone()),
                maximum: &maximum[stats.clone()],
                inverse_sum: &inverse_sum[stats],
                row_term,
                weights: Strip::new(weights, first, rows.len()),
                gradient: Strip::new(gradient, first, rows.len()),
                stage: Stage { fresh: h == 0 && first == 0, end: rows.end == positions },
                dk,
                dv,
            };
            dispatch(isa, strip);
            first = rows.end;
        }
    }
    copy_rows(dk, k);
    copy_rows(dv, v);
}

#[inline(always)]
fn check_backward(heads: Heads, q: Mat<'_>, k: Mat<'_>, v: Mat<'_>, out: Mat<'_>, dout: Mat<'_>) {
    let Heads { head_dim, group } = heads;
    let positions = q.rows();
    assert_eq!((q.cols(), k.cols(), v.cols()), (group * head_dim, head_dim, head_dim), "head columns");
    assert_eq!(
        (k.rows(), v.rows(), out.rows(), dout.rows()),
        (positions, positions, positions, positions),
        "head rows"
    );
    assert_eq!((out.cols(), dout.cols()), (q.cols(), q.cols()), "head columns of the output");
}

/// Copies the gradient of all keys, or of all values, to where it is wanted.
#[inline(always)]
fn copy_rows(from: &[f32], mut to: MatMut<'_>) {
    let head_dim = to.cols();
    for t in 0..to.rows() {
        to.row(t).copy_from_slice(&from[t * head_dim..(t + 1) * head_dim]);
    }
}
