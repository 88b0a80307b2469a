//! What happens to the rows of a strip between its products: softmax, its gradient, row terms.
//!
//! Sixteen rows at a time: the last step of a row's maximum and sum, sixteen lanes into one, is then a transpose and
//! the same additions in the same order for sixteen rows at once.

use super::tile::{BEYOND, Strip};
use crate::mat::Mat;
use crate::math;
use crate::simd::{LANES, Simd};
use crate::vectors;

/// Sets what tiles read beyond a row's whole vectors and its masked one to +0: `next` is the first element after
/// these.
///
/// # Safety
/// The row has `last` elements, rounded up to whole vectors.
#[inline(always)]
unsafe fn clear_beyond<S: Simd>(s: S, row: *mut f32, n: usize, next: usize, last: usize) {
    if next < last && next < n + BEYOND {
        // SAFETY: next is a multiple of sixteen below `last`.
        unsafe { s.store(row.add(next), s.zero()) }
    }
}

/// `e = exp(s * factor - m)` and its statistics (A1, A2) in place of the chains: +0 beyond a row's position.
///
/// # Panics
/// If the statistics do not have a value per row.
#[inline(always)]
pub(super) fn softmax<S: Simd>(
    s: S,
    strip: &mut Strip<'_>,
    factor: f32,
    maximum: &mut [f32],
    inverse_sum: &mut [f32],
) {
    assert!(maximum.len() >= strip.rows && inverse_sum.len() >= strip.rows, "row statistics");
    let (lowest, scale) = (s.splat(f32::NEG_INFINITY), s.splat(factor));
    let mut from = 0;
    while from < strip.rows {
        let count = (strip.rows - from).min(LANES);
        let mut folded = [lowest; LANES];
        for r in 0..count {
            let (row, n) = (strip.row(from + r), strip.first + from + r + 1);
            let whole = n / LANES * LANES;
            let mut top = lowest;
            let mut i = 0;
            // SAFETY: a row holds n elements, rounded up to whole vectors.
            unsafe {
                while i < whole {
                    top = s.max(s.load(row.add(i)), top);
                    i += LANES;
                }
                if whole < n {
                    top = s.max(s.select(s.first_n(n - whole), s.load(row.add(whole)), lowest), top);
                }
            }
            folded[r] = top;
        }
        let mut top = lowest;
        for x in s.transpose(folded) {
            top = s.max(x, top);
        }
        // The factor is positive and rounding keeps the order: the maximum of the scaled is the scaled maximum.
        let top = s.mul(top, scale);
        // SAFETY: `from + count` values were checked.
        unsafe { s.store_n(maximum.as_mut_ptr().add(from), top, count) };
        let tops = s.to_array(top);
        let mut sums = [s.zero(); LANES];
        for r in 0..count {
            let (row, n) = (strip.row(from + r), strip.first + from + r + 1);
            let whole = n / LANES * LANES;
            let m = s.splat(tops[r]);
            let mut sum = s.zero();
            let mut i = 0;
            // SAFETY: as above.
            unsafe {
                while i < whole {
                    let e = math::exp_bounded(s, s.sub(s.mul(s.load(row.add(i)), scale), m));
                    sum = s.add(sum, e);
                    s.store(row.add(i), e);
                    i += LANES;
                }
                if whole < n {
                    let e = math::exp_bounded(s, s.sub(s.mul(s.load(row.add(whole)), scale), m));
                    let e = s.select(s.first_n(n - whole), e, s.zero());
                    sum = s.add(sum, e);
                    s.store(row.add(whole), e);
                    i += LANES;
                }
                clear_beyond(s, row, n, i, strip.last());
            }
            sums[r] = sum;
        }
        let inverse = s.div(s.splat(1.0), math::fold16_each(s, sums));
        // SAFETY: `from + count` values were checked.
        unsafe { s.store_n(inverse_sum.as_mut_ptr().add(from), inverse, count) };
        from += count;
    }
}

/// What the forward pass kept of the rows of a strip, and their row terms.
#[derive(Clone, Copy)]
pub(super) struct Statistics<'a> {
    pub maximum: &'a [f32],
    pub inverse_sum: &'a [f32],
    pub row_term: &'a [f32],
}

/// `p = exp(s * factor - m) * z` and `ds = (p * (dp - D)) * factor` (A5) in place of the chains of `s` and `dp`: +0
/// beyond a row's position.
///
/// # Panics
/// If the strips differ or the statistics do not have a value per row.
#[inline(always)]
pub(super) fn gradient<S: Simd>(
    s: S,
    weights: &mut Strip<'_>,
    gradient: &mut Strip<'_>,
    factor: f32,
    rows: Statistics<'_>,
) {
    let Statistics { maximum, inverse_sum, row_term } = rows;
    assert_eq!((weights.first, weights.rows), (gradient.first, gradient.rows), "strips");
    let scale = s.splat(factor);
    for r in 0..weights.rows {
        let (p_row, ds_row, n) = (weights.row(r), gradient.row(r), weights.first + r + 1);
        let (m, z, d) = (s.splat(maximum[r]), s.splat(inverse_sum[r]), s.splat(row_term[r]));
        let whole = n / LANES * LANES;
        let mut i = 0;
        // SAFETY: a row holds n elements, rounded up to whole vectors.
        unsafe {
            while i < whole {
                let p = s.mul(math::exp_bounded(s, s.sub(s.mul(s.load(p_row.add(i)), scale), m)), z);
                s.store(p_row.add(i), p);
                s.store(ds_row.add(i), s.mul(s.mul(p, s.sub(s.load(ds_row.add(i)), d)), scale));
                i += LANES;
            }
            if whole < n {
                let mask = s.first_n(n - whole);
                let p = s.mul(math::exp_bounded(s, s.sub(s.mul(s.load(p_row.add(i)), scale), m)), z);
                s.store(p_row.add(i), s.select(mask, p, s.zero()));
                let ds = s.mul(s.mul(p, s.sub(s.load(ds_row.add(i)), d)), scale);
                s.store(ds_row.add(i), s.select(mask, ds, s.zero()));
                i += LANES;
            }
            clear_beyond(s, p_row, n, i, weights.last());
            clear_beyond(s, ds_row, n, i, weights.last());
        }
    }
}

/// `out[r] = dot16(x[r], y[r])` (A4).
///
/// # Panics
/// If the shapes do not fit.
#[inline(always)]
pub(super) fn row_terms<S: Simd>(s: S, x: Mat<'_>, y: Mat<'_>, out: &mut [f32]) {
    assert_eq!((x.rows(), x.cols()), (y.rows(), y.cols()), "rows of a strip");
    assert!(out.len() >= x.rows(), "row terms");
    let mut from = 0;
    while from < x.rows() {
        let count = (x.rows() - from).min(LANES);
        let mut sums = [s.zero(); LANES];
        for r in 0..count {
            let (x_row, y_row) = (x.row(from + r).as_ptr(), y.row(from + r).as_ptr());
            let mut sum = s.zero();
            vectors!(x.cols(), i, lanes, {
                // SAFETY: i + lanes <= columns of x and y.
                unsafe { sum = s.fma(math::load(s, x_row.add(i), lanes), math::load(s, y_row.add(i), lanes), sum) }
            });
            sums[r] = sum;
        }
        // SAFETY: `from + count` values were checked.
        unsafe { s.store_n(out.as_mut_ptr().add(from), math::fold16_each(s, sums), count) };
        from += count;
    }
}
