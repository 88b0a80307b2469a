//! `exp`, `log` and the fixed-order row reductions of docs/contract.md (E1, E2, `sum16`, `dot16`).

use crate::simd::{LANES, Simd};

/// Argument below which [`exp`] is +0: the result would leave the normal range.
pub const EXP_LOW: f32 = -87.0;
const EXP_HIGH: f32 = 88.0;
/// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low mantissa bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the product of the high one with a small integer is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
#[allow(clippy::excessive_precision)]
const EXP_POLY: [f32; 6] = [
    1.987_569_15e-4,
    1.398_199_950_7e-3,
    8.333_451_907_3e-3,
    4.166_579_589_4e-2,
    1.666_666_545_9e-1,
    5.000_000_120_1e-1,
];
#[allow(clippy::excessive_precision)]
const LOG_POLY: [f32; 9] = [
    7.037_683_629_2e-2,
    -1.151_461_031e-1,
    1.167_699_874e-1,
    -1.242_014_084_6e-1,
    1.424_932_278_7e-1,
    -1.666_805_766_5e-1,
    2.000_071_476_5e-1,
    -2.499_999_399_3e-1,
    3.333_333_117_4e-1,
];

/// e^x, lane by lane (contract E1). Error at most 1.02 units in the last place on [-87, 88]; +0 below.
///
/// Range reduction and polynomial of the Cephes library (S. Moshier, `expf`).
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    exp_bounded(s, [s.min(s.splat(EXP_HIGH), x)])[0]
}

/// As [`exp`] where no lane is above 88, as in a softmax, which has none above 0.
///
/// One chain of these operations is longer than a core looks ahead: several vectors step by step keep its ports busy.
#[inline(always)]
pub fn exp_bounded<S: Simd, const N: usize>(s: S, x: [S::F; N]) -> [S::F; N] {
    if crate::ANY_ORDER {
        let mut p = x;
        for i in 0..N {
            p[i] = short_exp(s, x[i]);
        }
        return p;
    }
    let (low, round) = (s.splat(EXP_LOW), s.splat(ROUND));
    let (mut t, mut r, mut p) = (x, x, x);
    for i in 0..N {
        r[i] = s.max(low, x[i]);
    }
    for i in 0..N {
        t[i] = s.fma(r[i], s.splat(std::f32::consts::LOG2_E), round);
    }
    for i in 0..N {
        p[i] = s.sub(t[i], round);
    }
    for i in 0..N {
        r[i] = s.fma(p[i], s.splat(-LN2_HIGH), r[i]);
    }
    for i in 0..N {
        r[i] = s.fma(p[i], s.splat(-LN2_LOW), r[i]);
    }
    for i in 0..N {
        p[i] = s.fma(s.splat(EXP_POLY[0]), r[i], s.splat(EXP_POLY[1]));
    }
    for c in &EXP_POLY[2..] {
        for i in 0..N {
            p[i] = s.fma(p[i], r[i], s.splat(*c));
        }
    }
    for i in 0..N {
        p[i] = s.add(s.fma(p[i], s.mul(r[i], r[i]), r[i]), s.splat(1.0));
    }
    for i in 0..N {
        p[i] = s.keep(s.not_gt(low, x[i]), s.exponent_add(p[i], t[i]));
    }
    p
}

/// Coefficients of 2^f for |f| <= 1/2, relative error 3e-7.
#[allow(clippy::excessive_precision, clippy::unreadable_literal)]
const EXP2_POLY: [f32; 6] =
    [1.326697039e-03, 9.675459746e-03, 5.550742616e-02, 2.402212175e-01, 6.931469492e-01, 1.000000071e+00];

/// [`exp`] without its formula, for [`crate::ANY_ORDER`]: relative error 1e-6 in [-20, 20].
#[inline(always)]
fn short_exp<S: Simd>(s: S, x: S::F) -> S::F {
    let (scale, high) = (s.splat(std::f32::consts::LOG2_E), s.splat(EXP_HIGH));
    let z = s.max(x, s.splat(EXP_LOW));
    let z = s.select(s.gt(high, z), z, high);
    let t = s.fma(z, scale, s.splat(ROUND));
    let f = s.fms(z, scale, s.sub(t, s.splat(ROUND)));
    let mut p = s.splat(EXP2_POLY[0]);
    for c in &EXP2_POLY[1..] {
        p = s.fma(p, f, s.splat(*c));
    }
    s.exponent_add(p, t)
}

/// ln x for a normal x >= 1 (contract E2, Cephes `logf`), through the token's fused operations.
#[inline(always)]
pub fn log<S: Simd>(s: S, x: f32) -> f32 {
    let fma = |a: f32, b: f32, c: f32| s.to_array(s.fma(s.splat(a), s.splat(b), s.splat(c)))[0];
    let bits = x.to_bits();
    let mut e = (bits >> 23) as i32 - 127;
    let mut m = f32::from_bits((bits & 0x007F_FFFF) | 0x3F80_0000);
    if bits & 0x007F_FFFF > 0x0035_04F3 {
        m *= 0.5;
        e += 1;
    }
    let e = e as f32;
    let f = m - 1.0;
    let z = f * f;
    let mut p = LOG_POLY[0];
    for c in &LOG_POLY[1..] {
        p = fma(p, f, *c);
    }
    let y = (p * f) * z;
    let y = fma(e, LN2_LOW, y);
    let y = fma(z, -0.5, y);
    fma(e, LN2_HIGH, f + y)
}

/// Folds sixteen accumulators in the order of the contract.
#[inline(always)]
pub fn fold16(a: [f32; LANES]) -> f32 {
    let (mut b, mut c) = ([0.0; 8], [0.0; 4]);
    for j in 0..8 {
        b[j] = a[j] + a[j + 8];
    }
    for j in 0..4 {
        c[j] = b[j] + b[j + 4];
    }
    (c[0] + c[2]) + (c[1] + c[3])
}

/// Sixteen folds at once: lane i of the result is [`fold16`] of vector i.
#[inline(always)]
pub fn fold16_each<S: Simd>(s: S, vectors: [S::F; LANES]) -> S::F {
    let a = s.transpose(vectors);
    let (mut b, mut c) = ([s.zero(); 8], [s.zero(); 4]);
    for j in 0..8 {
        b[j] = s.add(a[j], a[j + 8]);
    }
    for j in 0..4 {
        c[j] = s.add(b[j], b[j + 4]);
    }
    s.add(s.add(c[0], c[2]), s.add(c[1], c[3]))
}

/// As [`fold16`], in f64.
#[inline(always)]
pub fn fold16_f64(a: [f64; LANES]) -> f64 {
    let (mut b, mut c) = ([0.0; 8], [0.0; 4]);
    for j in 0..8 {
        b[j] = a[j] + a[j + 8];
    }
    for j in 0..4 {
        c[j] = b[j] + b[j + 4];
    }
    (c[0] + c[2]) + (c[1] + c[3])
}

/// Runs a block for each whole vector of `n` elements and once for the rest, if any, with the offset and the number
/// of lanes bound: `vectors!(n, i, lanes, { .. })`.
///
/// A macro, because a closure is a separate function: unless LLVM inlines it, its body is compiled without the
/// token's instructions and every vector operation in it becomes a call.
#[macro_export]
#[doc(hidden)]
macro_rules! vectors {
    ($n:expr, $i:ident, $lanes:ident, $body:block) => {{
        let n: usize = $n;
        let whole = n / $crate::simd::LANES * $crate::simd::LANES;
        let mut $i = 0;
        while $i < whole {
            let $lanes = $crate::simd::LANES;
            $body
            $i += $crate::simd::LANES;
        }
        if whole < n {
            let $lanes = n - whole;
            let $i = whole;
            $body
        }
    }};
}

/// Loads `lanes` lanes; a plain load when all sixteen are there.
///
/// # Safety
/// `p..p+lanes` is readable.
#[inline(always)]
pub unsafe fn load<S: Simd>(s: S, p: *const f32, lanes: usize) -> S::F {
    // SAFETY: passed on to the caller.
    unsafe { if lanes == LANES { s.load(p) } else { s.load_n(p, lanes) } }
}

/// Stores `lanes` lanes; a plain store when all sixteen are there.
///
/// # Safety
/// `p..p+lanes` is writable.
#[inline(always)]
pub unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::F, lanes: usize) {
    // SAFETY: passed on to the caller.
    unsafe { if lanes == LANES { s.store(p, v) } else { s.store_n(p, v, lanes) } }
}

/// `dot16(x, y)` of the contract.
#[inline(always)]
pub fn dot16<S: Simd>(s: S, x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len());
    let mut acc = s.zero();
    vectors!(x.len(), i, lanes, {
        // SAFETY: i + lanes <= x.len() == y.len().
        unsafe { acc = s.fma(load(s, x.as_ptr().add(i), lanes), load(s, y.as_ptr().add(i), lanes), acc) }
    });
    fold16(s.to_array(acc))
}
