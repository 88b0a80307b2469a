//! What a tile does at each step: a multiply-add of floats, or two of 16-bit integers whose sum is a 32-bit one.

use crate::simd::{LANES, Lanes, Portable, Simd};

/// The step of a tile.
pub(super) trait Op<S: Simd> {
    /// Whether the accumulators are integers, which become floats at the end of the tile.
    const INTEGERS: bool;
    /// `acc + a b`, lane by lane.
    fn step(s: S, a: S::F, b: S::F, acc: S::F) -> S::F;
}

/// A fused multiply-add.
pub(super) struct Fused;

impl<S: Simd> Op<S> for Fused {
    const INTEGERS: bool = false;
    #[inline(always)]
    fn step(s: S, a: S::F, b: S::F, acc: S::F) -> S::F {
        s.fma(a, b, acc)
    }
}

/// Products of pairs, added up, then added: two instructions.
pub(super) struct Pairs;

impl<const HARDWARE_FMA: bool> Op<Portable<HARDWARE_FMA>> for Pairs {
    const INTEGERS: bool = true;
    #[inline(always)]
    fn step(_: Portable<HARDWARE_FMA>, a: Lanes, b: Lanes, mut acc: Lanes) -> Lanes {
        for lane in 0..LANES {
            let (x, y) = (a.0[lane].to_bits() as i32, b.0[lane].to_bits() as i32);
            let low = i32::from(x as i16) * i32::from(y as i16);
            let high = i32::from((x >> 16) as i16) * i32::from((y >> 16) as i16);
            let sum = (acc.0[lane].to_bits() as i32).wrapping_add(low.wrapping_add(high));
            acc.0[lane] = f32::from_bits(sum as u32);
        }
        acc
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    //! Safety argument of every block in this module: the caller has the token.
    #![allow(clippy::undocumented_unsafe_blocks)]

    use super::{Op, Pairs};
    use crate::simd::{Neon, Simd, neon};
    use std::arch::aarch64::*;
    use std::arch::asm;

    type Quad = <Neon as Simd>::F;

    impl Op<Neon> for Pairs {
        const INTEGERS: bool = true;
        /// The low halves of eight pairs of B side by side, then the high ones: the rows of a tile share them.
        #[inline(always)]
        fn step(_: Neon, a: Quad, b: Quad, acc: Quad) -> Quad {
            let (b, mut acc) = (b.map(|b| unsafe { vreinterpretq_s16_f32(b) }), neon::ints(acc));
            // In one block and in this place: the element of A has to be in the lower half of the registers, and a compiler
            // that reorders what is so constrained runs out of them.
            unsafe {
                asm!(
                    "smlal {0:v}.4s, {4:v}.4h, {8:v}.h[0]", "smlal2 {1:v}.4s, {4:v}.8h, {8:v}.h[0]",
                    "smlal {2:v}.4s, {6:v}.4h, {8:v}.h[0]", "smlal2 {3:v}.4s, {6:v}.8h, {8:v}.h[0]",
                    "smlal {0:v}.4s, {5:v}.4h, {8:v}.h[1]", "smlal2 {1:v}.4s, {5:v}.8h, {8:v}.h[1]",
                    "smlal {2:v}.4s, {7:v}.4h, {8:v}.h[1]", "smlal2 {3:v}.4s, {7:v}.8h, {8:v}.h[1]",
                    inout(vreg) acc[0], inout(vreg) acc[1], inout(vreg) acc[2], inout(vreg) acc[3],
                    in(vreg) vuzp1q_s16(b[0], b[1]), in(vreg) vuzp2q_s16(b[0], b[1]),
                    in(vreg) vuzp1q_s16(b[2], b[3]), in(vreg) vuzp2q_s16(b[2], b[3]),
                    in(vreg_low16) vgetq_lane_f32::<0>(a[0]),
                    options(nomem, nostack, preserves_flags)
                );
            }
            neon::floats(acc)
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Dot;

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! Safety argument of every block in this module: a tile of these steps is only called where the instructions exist
    //! (see `Integers::is_available`).
    #![allow(clippy::undocumented_unsafe_blocks)]

    use super::{Op, Pairs};
    use crate::simd::{Avx2, Avx512, Simd, avx2};
    use std::arch::asm;
    use std::arch::x86_64::*;

    type Wide = <Avx512 as Simd>::F;
    type Narrow = <Avx2 as Simd>::F;

    impl Op<Avx512> for Pairs {
        const INTEGERS: bool = true;
        #[inline(always)]
        fn step(_: Avx512, a: Wide, b: Wide, acc: Wide) -> Wide {
            unsafe {
                let products = _mm512_madd_epi16(_mm512_castps_si512(a), _mm512_castps_si512(b));
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(acc), products))
            }
        }
    }

    impl Op<Avx2> for Pairs {
        const INTEGERS: bool = true;
        #[inline(always)]
        fn step(_: Avx2, a: Narrow, b: Narrow, acc: Narrow) -> Narrow {
            let (a, b, acc) = (avx2::ints(a), avx2::ints(b), avx2::ints(acc));
            unsafe {
                let products = [_mm256_madd_epi16(a[0], b[0]), _mm256_madd_epi16(a[1], b[1])];
                avx2::bits([_mm256_add_epi32(acc[0], products[0]), _mm256_add_epi32(acc[1], products[1])])
            }
        }
    }

    /// The same in one instruction (VNNI). By name, because the compiler turns its intrinsic into the two of [`Pairs`] in
    /// tall tiles.
    pub(in super::super) struct Dot;

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn dot_wide(a: Wide, b: Wide, mut acc: Wide) -> Wide {
        unsafe {
            asm!("vpdpwssd {0}, {1}, {2}", inout(zmm_reg) acc, in(zmm_reg) a, in(zmm_reg) b,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn dot_narrow(a: __m256, b: __m256, mut acc: __m256) -> __m256 {
        unsafe {
            asm!("{{vex}} vpdpwssd {0}, {1}, {2}", inout(ymm_reg) acc, in(ymm_reg) a, in(ymm_reg) b,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }

    impl Op<Avx512> for Dot {
        const INTEGERS: bool = true;
        #[inline(always)]
        fn step(_: Avx512, a: Wide, b: Wide, acc: Wide) -> Wide {
            unsafe { dot_wide(a, b, acc) }
        }
    }

    impl Op<Avx2> for Dot {
        const INTEGERS: bool = true;
        #[inline(always)]
        fn step(_: Avx2, a: Narrow, b: Narrow, acc: Narrow) -> Narrow {
            unsafe { [dot_narrow(a[0], b[0], acc[0]), dot_narrow(a[1], b[1], acc[1])] }
        }
    }
}
