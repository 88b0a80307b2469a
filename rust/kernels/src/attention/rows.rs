//! What happens to the rows of a strip between its products: softmax, its gradient, row terms.
//!
//! Sixteen rows at a time: the last step of a row's maximum and sum, sixteen lanes into one, is then a transpose and
//! the same additions in the same order for sixteen rows at once.
//!
//! ```text
//! softmax, for sixteen rows:
//!     for vector j, for row r:   top[r] = max(s[r][j], top[r])               lane by lane, keys that r sees
//!     m = max over the lanes of each top, * f                                transposed: a row in each lane
//!     for vector j, for row r:   e = exp(s[r][j] * f - m[r]), +0 beyond;  sum[r] = sum[r] + e;  s[r][j] = e
//!     z = 1 / fold16(each sum)                                               transposed
//!
//! gradient, for sixteen rows:
//!     for vector j, for row r:   p = exp(s[r][j] * f - m[r]) * z[r];  ds = (p * (dp[r][j] - D[r])) * f
//!
//! row_terms, for sixteen rows:
//!     for row r, for vector i:   sum[r] = fma(dout[r][i], out[r][i], sum[r])
//!     D = fold16(each sum)                                                   transposed
//! ```
//!
//! The vectors are the outer loop, the rows the inner one: the chains of neighbouring rows do not depend on each other, so
//! their exponentials overlap. Masks are computed only for the vectors with a key that not all of the rows see.

use super::tile::{BEYOND, Strip};
use crate::mat::Mat;
use crate::math;
use crate::simd::{LANES, Simd};
use crate::vectors;

/// Rows of a strip that are worked on together, and how far their keys go.
struct Group {
    /// The first row of the strip.
    from: usize,
    rows: usize,
    /// Keys that all of the rows see, rounded down to whole vectors.
    whole: usize,
    /// Keys that any of them sees, rounded up.
    end: usize,
    /// Keys that a tile may read.
    reach: usize,
}

impl Group {
    /// The group that begins at row `from`.
    #[inline(always)]
    fn new(strip: &Strip<'_>, from: usize) -> Self {
        let rows = (strip.rows - from).min(LANES);
        let last = strip.first + from + rows;
        Self {
            from,
            rows,
            whole: (strip.first + from + 1) / LANES * LANES,
            end: last.next_multiple_of(LANES),
            reach: strip.last().min(last + BEYOND),
        }
    }
}

/// Calls a function for every vector of a group, for $n rows at a time and single ones at the end: column by column, so that
/// the rows are independent of each other and no branch depends on the length of one. `EDGE` is whether rows end there.
macro_rules! each_vector {
    ($group:ident, $function:ident::<$s:ident, $n:ident>($($argument:expr),*)) => {{
        each_vector!(0, $group.whole, $group, $function::<$s, $n, false>($($argument),*));
        each_vector!($group.whole, $group.end, $group, $function::<$s, $n, true>($($argument),*));
    }};
    ($from:expr, $to:expr, $group:ident, $function:ident::<$s:ident, $n:ident, $edge:literal>($($argument:expr),*)) => {
        let mut j = $from;
        while j < $to {
            let mut r = 0;
            while r + $n <= $group.rows {
                $function::<$s, $n, $edge>($($argument,)* r, j);
                r += $n;
            }
            while r < $group.rows {
                $function::<$s, 1, $edge>($($argument,)* r, j);
                r += 1;
            }
            j += LANES;
        }
    };
}

/// Makes +0 what tiles read beyond the vectors of a group.
///
/// # Safety
/// The group is the strip's.
#[inline(always)]
unsafe fn clear_beyond<S: Simd>(s: S, strip: &Strip<'_>, group: &Group) {
    let mut j = group.end;
    while j < group.reach {
        for r in 0..group.rows {
            // SAFETY: a row holds the keys up to the strip's last, rounded up to whole vectors.
            unsafe { s.store(strip.row(group.from + r).add(j), s.zero()) }
        }
        j += LANES;
    }
}

/// The lanes at key j that a row sees.
#[inline(always)]
fn seen<S: Simd>(s: S, strip: &Strip<'_>, row: usize, j: usize) -> S::M {
    s.first_n((strip.first + row + 1).saturating_sub(j))
}

/// # Safety
/// Rows `r..r + N` of the group have a vector at j.
#[inline(always)]
unsafe fn raise<S: Simd, const N: usize, const EDGE: bool>(
    s: S,
    strip: &Strip<'_>,
    from: usize,
    tops: &mut [S::F; LANES],
    r: usize,
    j: usize,
) {
    for (i, top) in tops[r..r + N].iter_mut().enumerate() {
        let row = from + r + i;
        // SAFETY: passed on.
        let x = unsafe { s.load(strip.row(row).add(j)) };
        let x = if EDGE { s.select(seen(s, strip, row, j), x, s.splat(f32::NEG_INFINITY)) } else { x };
        *top = s.max(x, *top);
    }
}

/// The weights of N rows, `exp(s * scale - m)`, +0 where a key is not seen.
///
/// # Safety
/// As [`raise`].
#[inline(always)]
unsafe fn weights<S: Simd, const N: usize>(
    s: S,
    strip: &Strip<'_>,
    scale: f32,
    m: [f32; N],
    row: usize,
    j: usize,
) -> [S::F; N] {
    let mut x = [s.zero(); N];
    for (i, x) in x.iter_mut().enumerate() {
        // SAFETY: passed on.
        *x = s.mul(unsafe { s.load(strip.row(row + i).add(j)) }, s.splat(scale));
    }
    for i in 0..N {
        x[i] = s.sub(x[i], s.splat(m[i]));
    }
    math::exp_bounded(s, x)
}

/// # Safety
/// As [`raise`].
#[inline(always)]
unsafe fn weigh<S: Simd, const N: usize, const EDGE: bool>(
    s: S,
    strip: &Strip<'_>,
    from: usize,
    scale: f32,
    tops: &[f32; LANES],
    sums: &mut [S::F; LANES],
    r: usize,
    j: usize,
) {
    let mut m = [0.0; N];
    m.copy_from_slice(&tops[r..r + N]);
    // SAFETY: passed on.
    unsafe {
        let e = weights(s, strip, scale, m, from + r, j);
        for i in 0..N {
            let e = if EDGE { s.keep(seen(s, strip, from + r + i, j), e[i]) } else { e[i] };
            sums[r + i] = s.add(sums[r + i], e);
            s.store(strip.row(from + r + i).add(j), e);
        }
    }
}

/// `e = exp(s * factor - m)` and its statistics (A1, A2) in place of the chains: +0 beyond a row's position.
///
/// # Panics
/// If the statistics do not have a value per row.
#[inline(always)]
pub(super) fn softmax<S: Simd, const N: usize>(
    s: S,
    strip: &mut Strip<'_>,
    factor: f32,
    maximum: &mut [f32],
    inverse_sum: &mut [f32],
) {
    assert!(maximum.len() >= strip.rows && inverse_sum.len() >= strip.rows, "row statistics");
    let strip = &*strip;
    let mut from = 0;
    while from < strip.rows {
        let group = Group::new(strip, from);
        let mut tops = [s.splat(f32::NEG_INFINITY); LANES];
        // SAFETY: whole vectors of the strip's rows.
        unsafe { each_vector!(group, raise::<S, N>(s, strip, from, &mut tops)) }
        let mut top = s.splat(f32::NEG_INFINITY);
        for x in s.transpose(tops) {
            top = s.max(x, top);
        }
        // The factor is positive and rounding keeps the order: the maximum of the scaled is the scaled maximum.
        let top = s.mul(top, s.splat(factor));
        let (tops, mut sums) = (s.to_array(top), [s.zero(); LANES]);
        // SAFETY: as above, and `from + rows` values were checked.
        unsafe {
            s.store_n(maximum.as_mut_ptr().add(from), top, group.rows);
            each_vector!(group, weigh::<S, N>(s, strip, from, factor, &tops, &mut sums));
            clear_beyond(s, strip, &group);
            let inverse = s.div(s.splat(1.0), math::fold16_each(s, sums));
            s.store_n(inverse_sum.as_mut_ptr().add(from), inverse, group.rows);
        }
        from += group.rows;
    }
}

/// What the forward pass kept of the rows of a strip, and their row terms.
#[derive(Clone, Copy)]
pub(super) struct Statistics<'a> {
    pub maximum: &'a [f32],
    pub inverse_sum: &'a [f32],
    pub row_term: &'a [f32],
}

/// # Safety
/// Rows `r..r + N` of the group have a vector at j in both strips, and there are statistics of them.
#[inline(always)]
unsafe fn gradients<S: Simd, const N: usize, const EDGE: bool>(
    s: S,
    p_strip: &Strip<'_>,
    ds_strip: &Strip<'_>,
    from: usize,
    scale: f32,
    rows: Statistics<'_>,
    r: usize,
    j: usize,
) {
    let row = from + r;
    let mut m = [0.0; N];
    m.copy_from_slice(&rows.maximum[row..row + N]);
    // SAFETY: passed on.
    unsafe {
        let e = weights(s, p_strip, scale, m, row, j);
        for (i, e) in e.iter().enumerate() {
            let (p_at, ds_at) = (p_strip.row(row + i).add(j), ds_strip.row(row + i).add(j));
            let p = s.mul(*e, s.splat(*rows.inverse_sum.get_unchecked(row + i)));
            let d = s.sub(s.load(ds_at), s.splat(*rows.row_term.get_unchecked(row + i)));
            let ds = s.mul(s.mul(p, d), s.splat(scale));
            if EDGE {
                let seen = seen(s, p_strip, row + i, j);
                s.store(p_at, s.keep(seen, p));
                s.store(ds_at, s.keep(seen, ds));
            } else {
                s.store(p_at, p);
                s.store(ds_at, ds);
            }
        }
    }
}

/// `p = exp(s * factor - m) * z` and `ds = (p * (dp - D)) * factor` (A5) in place of the chains of `s` and `dp`: +0
/// beyond a row's position.
///
/// # Panics
/// If the strips differ or the statistics do not have a value per row.
#[inline(always)]
pub(super) fn gradient<S: Simd, const N: usize>(
    s: S,
    p: &mut Strip<'_>,
    ds: &mut Strip<'_>,
    factor: f32,
    rows: Statistics<'_>,
) {
    assert_eq!((p.first, p.rows), (ds.first, ds.rows), "strips");
    let lengths = [rows.maximum.len(), rows.inverse_sum.len(), rows.row_term.len()];
    assert!(lengths.into_iter().all(|n| n >= p.rows), "row statistics");
    let (p, ds) = (&*p, &*ds);
    let mut from = 0;
    while from < p.rows {
        let group = Group::new(p, from);
        // SAFETY: whole vectors of the strips' rows, and a value of each statistic per row.
        unsafe {
            each_vector!(group, gradients::<S, N>(s, p, ds, from, factor, rows));
            clear_beyond(s, p, &group);
            clear_beyond(s, ds, &group);
        }
        from += group.rows;
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
        for (r, out) in sums.iter_mut().enumerate().take(count) {
            let (x_row, y_row) = (x.row(from + r).as_ptr(), y.row(from + r).as_ptr());
            let mut sum = s.zero();
            vectors!(x.cols(), i, lanes, {
                // SAFETY: i + lanes <= columns of x and y.
                unsafe { sum = s.fma(math::load(s, x_row.add(i), lanes), math::load(s, y_row.add(i), lanes), sum) }
            });
            *out = sum;
        }
        // SAFETY: `from + count` values were checked.
        unsafe { s.store_n(out.as_mut_ptr().add(from), math::fold16_each(s, sums), count) };
        from += count;
    }
}
