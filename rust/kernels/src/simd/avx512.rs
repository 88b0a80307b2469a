//! AVX-512F: one 512-bit register is a vector.
//!
//! Safety argument of every block in this file: an [`Avx512`] exists only where its constructor's caller has
//! guaranteed AVX-512F, AVX2 and FMA; the pointer methods pass on the bounds that their callers guarantee.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::{LANES, Simd};
use std::arch::x86_64::*;

/// Token: this CPU has AVX-512F, AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The CPU has AVX-512F, AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

#[inline(always)]
fn low_mask(n: usize) -> __mmask16 {
    ((1_u32 << n) - 1) as __mmask16
}

impl Simd for Avx512 {
    type F = __m512;
    type M = __mmask16;
    type D = [__m512d; 2];
    const TILE_ROWS: usize = 14;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_near(self, p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(low_mask(n), p) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: __m512, n: usize) {
        unsafe { _mm512_mask_storeu_ps(p, low_mask(n), v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        if crate::ANY_ORDER {
            // One step of Newton's from 14 bits.
            let r = unsafe { _mm512_rcp14_ps(b) };
            return self.mul(a, self.mul(r, self.fnma(b, r, self.splat(2.0))));
        }
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        if crate::ANY_ORDER {
            let a = self.max(a, self.splat(f32::MIN_POSITIVE));
            let r = unsafe { _mm512_rsqrt14_ps(a) };
            let root = self.mul(a, r);
            return self.fma(self.fnma(root, r, self.splat(1.0)), self.mul(self.splat(0.5), root), root);
        }
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fms(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmsub_ps(a, b, c) }
    }
    #[inline(always)]
    fn gt(self, a: __m512, b: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn not_gt(self, a: __m512, b: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_NGT_UQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(mask, b, a) }
    }
    // The instructions return the second operand where the comparison is false, as the definitions do.
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn first_n(self, n: usize) -> __mmask16 {
        low_mask(n.min(LANES))
    }
    #[inline(always)]
    fn exponent_add(self, p: __m512, t: __m512) -> __m512 {
        unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), shifted))
        }
    }
    #[inline(always)]
    fn to_array(self, v: __m512) -> [f32; LANES] {
        let mut a = [0.0; LANES];
        unsafe { _mm512_storeu_ps(a.as_mut_ptr(), v) };
        a
    }
    #[inline(always)]
    fn transpose(self, r: [__m512; LANES]) -> [__m512; LANES] {
        unsafe {
            let mut t = r;
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            let mut u = t;
            for i in 0..4 {
                u[4 * i] = _mm512_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
                u[4 * i + 1] = _mm512_shuffle_ps::<0xEE>(t[4 * i], t[4 * i + 2]);
                u[4 * i + 2] = _mm512_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
                u[4 * i + 3] = _mm512_shuffle_ps::<0xEE>(t[4 * i + 1], t[4 * i + 3]);
            }
            let mut w = u;
            for j in 0..4 {
                let (a, b, c, d) = (u[j], u[4 + j], u[8 + j], u[12 + j]);
                let ab_even = _mm512_shuffle_f32x4::<0x88>(a, b);
                let ab_odd = _mm512_shuffle_f32x4::<0xDD>(a, b);
                let cd_even = _mm512_shuffle_f32x4::<0x88>(c, d);
                let cd_odd = _mm512_shuffle_f32x4::<0xDD>(c, d);
                w[j] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
                w[8 + j] = _mm512_shuffle_f32x4::<0xDD>(ab_even, cd_even);
                w[4 + j] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
                w[12 + j] = _mm512_shuffle_f32x4::<0xDD>(ab_odd, cd_odd);
            }
            w
        }
    }
    #[inline(always)]
    fn zero_d(self) -> [__m512d; 2] {
        unsafe { [_mm512_setzero_pd(); 2] }
    }
    #[inline(always)]
    fn add_square_d(self, d: [__m512d; 2], v: __m512) -> [__m512d; 2] {
        unsafe {
            let high = _mm512_castps512_ps256(_mm512_shuffle_f32x4::<0xEE>(v, v));
            let parts = [_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(high)];
            [_mm512_fmadd_pd(parts[0], parts[0], d[0]), _mm512_fmadd_pd(parts[1], parts[1], d[1])]
        }
    }
    #[inline(always)]
    fn to_array_d(self, d: [__m512d; 2]) -> [f64; LANES] {
        let mut a = [0.0; LANES];
        unsafe {
            _mm512_storeu_pd(a.as_mut_ptr(), d[0]);
            _mm512_storeu_pd(a.as_mut_ptr().add(8), d[1]);
        }
        a
    }
    #[inline(always)]
    fn to_ints(self, x: __m512) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_cvtps_epi32(x)) }
    }
    #[inline(always)]
    fn ints_to_f32(self, x: __m512) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(x)) }
    }
    #[inline(always)]
    fn max_bits(self, a: __m512, x: __m512) -> __m512 {
        unsafe {
            let magnitude = _mm512_and_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFF_FFFF));
            _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), magnitude))
        }
    }
    #[inline(always)]
    fn pairs(self, low: __m512, high: __m512) -> __m512 {
        unsafe {
            let low = _mm512_and_epi32(_mm512_castps_si512(low), _mm512_set1_epi32(0xFFFF));
            let high = _mm512_slli_epi32::<16>(_mm512_castps_si512(high));
            _mm512_castsi512_ps(_mm512_or_epi32(low, high))
        }
    }
    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_i16(self, p: *mut i16, x: __m512) {
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(_mm512_castps_si512(x))) }
    }
}
