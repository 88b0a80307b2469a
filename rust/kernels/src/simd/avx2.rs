//! AVX2 with FMA: two 256-bit registers are a vector.
//!
//! Safety argument of every block in this file: an [`Avx2`] exists only where its constructor's caller has
//! guaranteed AVX2 and FMA; the pointer methods pass on the bounds that their callers guarantee.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::{LANES, Simd};
use std::arch::x86_64::*;

/// Token: this CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The CPU has AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

type Pair = [__m256; 2];

/// Sixteen ones, then sixteen zeros: a window that starts at `16 - n` has its first n lanes set.
static MASKS: [i32; 32] = {
    let mut m = [0; 32];
    let mut i = 0;
    while i < 16 {
        m[i] = -1;
        i += 1;
    }
    m
};

#[inline(always)]
fn lane_masks(n: usize) -> [__m256i; 2] {
    debug_assert!(n <= LANES);
    unsafe {
        let p = MASKS.as_ptr().add(LANES - n);
        [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())]
    }
}

#[inline(always)]
pub(crate) fn ints(x: Pair) -> [__m256i; 2] {
    unsafe { [_mm256_castps_si256(x[0]), _mm256_castps_si256(x[1])] }
}

#[inline(always)]
pub(crate) fn bits(x: [__m256i; 2]) -> Pair {
    unsafe { [_mm256_castsi256_ps(x[0]), _mm256_castsi256_ps(x[1])] }
}

#[inline(always)]
fn exponent_add8(p: __m256, t: __m256) -> __m256 {
    unsafe {
        let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), shifted))
    }
}

#[inline(always)]
fn square4(d: __m256d, x: __m128) -> __m256d {
    unsafe {
        let w = _mm256_cvtps_pd(x);
        _mm256_fmadd_pd(w, w, d)
    }
}

#[inline(always)]
fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
    unsafe {
        let mut t = r;
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut u = t;
        for i in 0..2 {
            u[4 * i] = _mm256_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
            u[4 * i + 1] = _mm256_shuffle_ps::<0xEE>(t[4 * i], t[4 * i + 2]);
            u[4 * i + 2] = _mm256_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
            u[4 * i + 3] = _mm256_shuffle_ps::<0xEE>(t[4 * i + 1], t[4 * i + 3]);
        }
        let mut w = u;
        for j in 0..4 {
            w[j] = _mm256_permute2f128_ps::<0x20>(u[j], u[4 + j]);
            w[4 + j] = _mm256_permute2f128_ps::<0x31>(u[j], u[4 + j]);
        }
        w
    }
}

impl Simd for Avx2 {
    type F = Pair;
    type M = Pair;
    type D = [__m256d; 4];
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 1;

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_near(self, p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Pair {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Pair) {
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> Pair {
        let m = lane_masks(n);
        // A masked load does not touch the lanes that are off; wrapping_add keeps the pointer arithmetic defined.
        unsafe { [_mm256_maskload_ps(p, m[0]), _mm256_maskload_ps(p.wrapping_add(8), m[1])] }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: Pair, n: usize) {
        let m = lane_masks(n);
        unsafe {
            _mm256_maskstore_ps(p, m[0], v[0]);
            _mm256_maskstore_ps(p.wrapping_add(8), m[1], v[1]);
        }
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        if crate::ANY_ORDER {
            // One step of Newton's from 12 bits.
            let r = unsafe { [_mm256_rcp_ps(b[0]), _mm256_rcp_ps(b[1])] };
            return self.mul(a, self.mul(r, self.fnma(b, r, self.splat(2.0))));
        }
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn sqrt(self, a: Pair) -> Pair {
        if crate::ANY_ORDER {
            let a = self.max(a, self.splat(f32::MIN_POSITIVE));
            let r = unsafe { [_mm256_rsqrt_ps(a[0]), _mm256_rsqrt_ps(a[1])] };
            let root = self.mul(a, r);
            return self.fma(self.fnma(root, r, self.splat(1.0)), self.mul(self.splat(0.5), root), root);
        }
        unsafe { [_mm256_sqrt_ps(a[0]), _mm256_sqrt_ps(a[1])] }
    }
    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn fnma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { [_mm256_fnmadd_ps(a[0], b[0], c[0]), _mm256_fnmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn fms(self, a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { [_mm256_fmsub_ps(a[0], b[0], c[0]), _mm256_fmsub_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn gt(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1])] }
    }
    #[inline(always)]
    fn not_gt(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_cmp_ps::<_CMP_NGT_UQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_NGT_UQ>(a[1], b[1])] }
    }
    #[inline(always)]
    fn select(self, mask: Pair, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_blendv_ps(b[0], a[0], mask[0]), _mm256_blendv_ps(b[1], a[1], mask[1])] }
    }
    // The instructions return the second operand where the comparison is false, as the definitions do.
    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn keep(self, mask: Pair, a: Pair) -> Pair {
        unsafe { [_mm256_and_ps(mask[0], a[0]), _mm256_and_ps(mask[1], a[1])] }
    }
    #[inline(always)]
    fn first_n(self, n: usize) -> Pair {
        let m = lane_masks(n.min(LANES));
        unsafe { [_mm256_castsi256_ps(m[0]), _mm256_castsi256_ps(m[1])] }
    }
    #[inline(always)]
    fn exponent_add(self, p: Pair, t: Pair) -> Pair {
        [exponent_add8(p[0], t[0]), exponent_add8(p[1], t[1])]
    }
    #[inline(always)]
    fn to_array(self, v: Pair) -> [f32; LANES] {
        let mut a = [0.0; LANES];
        unsafe { self.store(a.as_mut_ptr(), v) };
        a
    }
    #[inline(always)]
    fn transpose(self, r: [Pair; LANES]) -> [Pair; LANES] {
        let mut out = r;
        for half in 0..2 {
            for block in 0..2 {
                let mut x = [r[0][0]; 8];
                for i in 0..8 {
                    x[i] = r[8 * block + i][half];
                }
                let y = transpose8(x);
                for i in 0..8 {
                    out[8 * half + i][block] = y[i];
                }
            }
        }
        out
    }
    #[inline(always)]
    fn zero_d(self) -> [__m256d; 4] {
        unsafe { [_mm256_setzero_pd(); 4] }
    }
    #[inline(always)]
    fn add_square_d(self, d: [__m256d; 4], v: Pair) -> [__m256d; 4] {
        unsafe {
            [
                square4(d[0], _mm256_castps256_ps128(v[0])),
                square4(d[1], _mm256_extractf128_ps::<1>(v[0])),
                square4(d[2], _mm256_castps256_ps128(v[1])),
                square4(d[3], _mm256_extractf128_ps::<1>(v[1])),
            ]
        }
    }
    #[inline(always)]
    fn to_array_d(self, d: [__m256d; 4]) -> [f64; LANES] {
        let mut a = [0.0; LANES];
        for (i, part) in d.into_iter().enumerate() {
            unsafe { _mm256_storeu_pd(a.as_mut_ptr().add(4 * i), part) };
        }
        a
    }
    #[inline(always)]
    fn to_ints(self, x: Pair) -> Pair {
        let x = unsafe { [_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1])] };
        bits(x)
    }
    #[inline(always)]
    fn ints_to_f32(self, x: Pair) -> Pair {
        let x = ints(x);
        unsafe { [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])] }
    }
    #[inline(always)]
    fn max_bits(self, a: Pair, x: Pair) -> Pair {
        let (a, x) = (ints(a), ints(x));
        unsafe {
            let sign_off = _mm256_set1_epi32(0x7FFF_FFFF);
            let magnitude = [_mm256_and_si256(x[0], sign_off), _mm256_and_si256(x[1], sign_off)];
            bits([_mm256_max_epi32(a[0], magnitude[0]), _mm256_max_epi32(a[1], magnitude[1])])
        }
    }
    #[inline(always)]
    fn pairs(self, low: Pair, high: Pair) -> Pair {
        let (low, high) = (ints(low), ints(high));
        unsafe {
            let high = [_mm256_slli_epi32::<16>(high[0]), _mm256_slli_epi32::<16>(high[1])];
            bits([_mm256_blend_epi16::<0xAA>(low[0], high[0]), _mm256_blend_epi16::<0xAA>(low[1], high[1])])
        }
    }
    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> Pair {
        unsafe {
            let (low, high) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(8).cast()));
            bits([_mm256_cvtepi16_epi32(low), _mm256_cvtepi16_epi32(high)])
        }
    }
    #[inline(always)]
    unsafe fn store_i16(self, p: *mut i16, x: Pair) {
        let x = ints(x);
        unsafe {
            // Packing works within halves of a register: put the quarters in order.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(x[0], x[1]));
            _mm256_storeu_si256(p.cast(), packed);
        }
    }
}
