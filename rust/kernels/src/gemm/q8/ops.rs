//! What products with 8-bit weights need of an instruction set beside f32.

use crate::simd::{LANES, Lanes, Portable, Simd};

/// Operations on sixteen groups of four bytes.
pub(super) trait Bytes<S: Simd> {
    /// Whether [`Bytes::dot`] takes the weights as they are stored, with 128 added.
    const BIASED: bool;
    /// `acc` plus the dot products of four weights, as they are stored, and four activations.
    fn dot(s: S, weights: S::F, activations: S::F, acc: S::F) -> S::F;
    /// `a + b` of integers.
    fn add(s: S, a: S::F, b: S::F) -> S::F;
    /// Sixteen f16 as f32.
    ///
    /// # Safety
    /// 32 bytes are readable.
    unsafe fn halves(s: S, p: *const u8) -> S::F;
    /// The low bytes of sixteen integers to memory.
    ///
    /// # Safety
    /// 16 bytes are writable.
    unsafe fn store_bytes(s: S, p: *mut i8, x: S::F);
}

/// The specification.
pub(super) struct Plain;

impl<const HARDWARE_FMA: bool> Bytes<Portable<HARDWARE_FMA>> for Plain {
    const BIASED: bool = false;
    #[inline(always)]
    fn dot(_: Portable<HARDWARE_FMA>, weights: Lanes, activations: Lanes, mut acc: Lanes) -> Lanes {
        for lane in 0..LANES {
            let (w, x) = (weights.0[lane].to_bits().to_le_bytes(), activations.0[lane].to_bits().to_le_bytes());
            let products = (0..4).map(|i| i32::from((w[i] ^ 128).cast_signed()) * i32::from(x[i].cast_signed()));
            let sum = acc.0[lane].to_bits().cast_signed() + products.sum::<i32>();
            acc.0[lane] = f32::from_bits(sum.cast_unsigned());
        }
        acc
    }
    #[inline(always)]
    fn add(_: Portable<HARDWARE_FMA>, mut a: Lanes, b: Lanes) -> Lanes {
        for (a, b) in a.0.iter_mut().zip(b.0) {
            *a = f32::from_bits(a.to_bits().wrapping_add(b.to_bits()));
        }
        a
    }
    #[inline(always)]
    unsafe fn halves(_: Portable<HARDWARE_FMA>, p: *const u8) -> Lanes {
        let mut out = [0.0; LANES];
        for (i, x) in out.iter_mut().enumerate() {
            // SAFETY: 32 bytes are readable, by the caller's word.
            *x = super::half(unsafe { p.cast::<u16>().add(i).read_unaligned() });
        }
        crate::simd::Lanes(out)
    }
    #[inline(always)]
    unsafe fn store_bytes(_: Portable<HARDWARE_FMA>, p: *mut i8, x: Lanes) {
        for (i, x) in x.0.iter().enumerate() {
            // SAFETY: 16 bytes are writable, by the caller's word.
            unsafe { *p.add(i) = x.to_bits() as i8 };
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Dot, Signs};

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! Safety argument of every block in this module: these operations are only compiled into functions that are called where
    //! the instructions exist (see `product::table`); pointers pass on what their callers guarantee.
    #![allow(clippy::undocumented_unsafe_blocks)]

    use super::Bytes;
    use crate::simd::{Avx2, Avx512, Simd, avx2};
    use std::arch::asm;
    use std::arch::x86_64::*;

    type Wide = <Avx512 as Simd>::F;
    type Narrow = <Avx2 as Simd>::F;

    /// The dot product in one instruction (VNNI), by name as in `int16`.
    pub(in super::super) struct Dot;

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn dot_wide(weights: Wide, activations: Wide, mut acc: Wide) -> Wide {
        unsafe {
            asm!("vpdpbusd {0}, {1}, {2}", inout(zmm_reg) acc, in(zmm_reg) weights, in(zmm_reg) activations,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn dot_narrow(weights: __m256, activations: __m256, mut acc: __m256) -> __m256 {
        unsafe {
            asm!("{{vex}} vpdpbusd {0}, {1}, {2}", inout(ymm_reg) acc, in(ymm_reg) weights, in(ymm_reg) activations,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }

    impl Bytes<Avx512> for Dot {
        const BIASED: bool = true;
        #[inline(always)]
        fn dot(_: Avx512, weights: Wide, activations: Wide, acc: Wide) -> Wide {
            unsafe { dot_wide(weights, activations, acc) }
        }
        #[inline(always)]
        fn add(_: Avx512, a: Wide, b: Wide) -> Wide {
            unsafe { _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b))) }
        }
        #[inline(always)]
        unsafe fn halves(_: Avx512, p: *const u8) -> Wide {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn store_bytes(_: Avx512, p: *mut i8, x: Wide) {
            unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(x))) }
        }
    }

    impl Bytes<Avx2> for Dot {
        const BIASED: bool = true;
        #[inline(always)]
        fn dot(_: Avx2, w: Narrow, x: Narrow, acc: Narrow) -> Narrow {
            unsafe { [dot_narrow(w[0], x[0], acc[0]), dot_narrow(w[1], x[1], acc[1])] }
        }
        #[inline(always)]
        fn add(s: Avx2, a: Narrow, b: Narrow) -> Narrow {
            Signs::add(s, a, b)
        }
        #[inline(always)]
        unsafe fn halves(s: Avx2, p: *const u8) -> Narrow {
            unsafe { Signs::halves(s, p) }
        }
        #[inline(always)]
        unsafe fn store_bytes(s: Avx2, p: *mut i8, x: Narrow) {
            unsafe { Signs::store_bytes(s, p, x) }
        }
    }

    /// The magnitude of the weight times the activation with the weight's sign. A sum of two stays below 2^15: 128 * 127 each.
    pub(in super::super) struct Signs;

    #[inline(always)]
    unsafe fn signed(w: __m256i, x: __m256i, acc: __m256i) -> __m256i {
        unsafe {
            let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    impl Bytes<Avx2> for Signs {
        const BIASED: bool = false;
        #[inline(always)]
        fn dot(_: Avx2, w: Narrow, x: Narrow, acc: Narrow) -> Narrow {
            let (w, x, acc) = (avx2::ints(w), avx2::ints(x), avx2::ints(acc));
            avx2::bits(unsafe { [signed(w[0], x[0], acc[0]), signed(w[1], x[1], acc[1])] })
        }
        #[inline(always)]
        fn add(_: Avx2, a: Narrow, b: Narrow) -> Narrow {
            let (a, b) = (avx2::ints(a), avx2::ints(b));
            avx2::bits(unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] })
        }
        #[inline(always)]
        unsafe fn halves(_: Avx2, p: *const u8) -> Narrow {
            unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(16).cast()))] }
        }
        #[inline(always)]
        unsafe fn store_bytes(_: Avx2, p: *mut i8, x: Narrow) {
            let x = avx2::ints(x);
            unsafe {
                // Packing works within halves of a register: put the quarters in order.
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(x[0], x[1]));
                let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                _mm_storeu_si128(p.cast(), _mm_packs_epi16(low, high));
            }
        }
    }
}
