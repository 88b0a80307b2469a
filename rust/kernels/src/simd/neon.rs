//! NEON: four 128-bit registers are a vector.
//!
//! Safety argument of every block in this file: a [`Neon`] exists only where its constructor's caller has guaranteed NEON;
//! the pointer methods pass on the bounds that their callers guarantee.
#![allow(clippy::undocumented_unsafe_blocks)]

use super::{LANES, Simd};
use std::arch::aarch64::*;
use std::arch::asm;

/// Token: this CPU has NEON.
#[derive(Clone, Copy)]
pub struct Neon(());

impl Neon {
    /// # Safety
    /// The CPU has NEON.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Registers of a vector.
const PARTS: usize = 4;
/// Lanes of a register.
const PART: usize = LANES / PARTS;

type Quad = [float32x4_t; PARTS];
type Ints = [int32x4_t; PARTS];
type Bits = [uint32x4_t; PARTS];

/// Register by register.
macro_rules! parts {
    ($i:ident, $e:expr) => {{
        let $i = 0;
        let mut out = [unsafe { $e }; PARTS];
        for $i in 1..PARTS {
            out[$i] = unsafe { $e };
        }
        out
    }};
}

#[inline(always)]
pub(crate) fn ints(x: Quad) -> Ints {
    parts!(i, vreinterpretq_s32_f32(x[i]))
}

#[inline(always)]
pub(crate) fn floats(x: Ints) -> Quad {
    parts!(i, vreinterpretq_f32_s32(x[i]))
}

#[inline(always)]
fn bits(x: Quad) -> Bits {
    parts!(i, vreinterpretq_u32_f32(x[i]))
}

#[inline(always)]
fn unbits(x: Bits) -> Quad {
    parts!(i, vreinterpretq_f32_u32(x[i]))
}

/// The first `n` of four lanes. There are no masked loads: lanes that are not wanted may lie where no memory is.
#[inline(always)]
unsafe fn load_part(p: *const f32, n: usize) -> float32x4_t {
    unsafe {
        let none = vdupq_n_f32(0.0);
        match n {
            0 => none,
            1 => vld1q_lane_f32::<0>(p, none),
            2 => vcombine_f32(vld1_f32(p), vdup_n_f32(0.0)),
            3 => vld1q_lane_f32::<2>(p.add(2), vcombine_f32(vld1_f32(p), vdup_n_f32(0.0))),
            _ => vld1q_f32(p),
        }
    }
}

#[inline(always)]
unsafe fn store_part(p: *mut f32, x: float32x4_t, n: usize) {
    unsafe {
        match n {
            0 => {}
            1 => vst1q_lane_f32::<0>(p, x),
            2 => vst1_f32(p, vget_low_f32(x)),
            3 => {
                vst1_f32(p, vget_low_f32(x));
                vst1q_lane_f32::<2>(p.add(2), x);
            }
            _ => vst1q_f32(p, x),
        }
    }
}

#[inline(always)]
fn transpose4(r: [float32x4_t; 4]) -> [float32x4_t; 4] {
    unsafe {
        let low = [vtrn1q_f32(r[0], r[1]), vtrn2q_f32(r[0], r[1])].map(|x| vreinterpretq_f64_f32(x));
        let high = [vtrn1q_f32(r[2], r[3]), vtrn2q_f32(r[2], r[3])].map(|x| vreinterpretq_f64_f32(x));
        [
            vreinterpretq_f32_f64(vtrn1q_f64(low[0], high[0])),
            vreinterpretq_f32_f64(vtrn1q_f64(low[1], high[1])),
            vreinterpretq_f32_f64(vtrn2q_f64(low[0], high[0])),
            vreinterpretq_f32_f64(vtrn2q_f64(low[1], high[1])),
        ]
    }
}

impl Simd for Neon {
    type F = Quad;
    type M = Bits;
    type D = [float64x2_t; 2 * PARTS];
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 1;
    const WRITTEN_OUT: bool = true;

    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block)] // a request for a line reads nothing that the program sees
    fn prefetch(self, p: *const f32) {
        unsafe { asm!("prfm pldl2keep, [{0}]", in(reg) p, options(nomem, nostack, preserves_flags)) }
    }
    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block)] // a request for a line reads nothing that the program sees
    fn prefetch_near(self, p: *const f32) {
        unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) p, options(nomem, nostack, preserves_flags)) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Quad {
        unsafe { [vdupq_n_f32(x); PARTS] }
    }
    /// A multiply-add takes its factor from one lane of a register, so that a plain load of it is all there is to do. Left to
    /// itself, the compiler loads it into all lanes, by an instruction that knows no offsets and takes a slot of the
    /// multiply-adds on some cores; it cannot see through the empty block.
    #[inline(always)]
    unsafe fn broadcast(self, p: *const f32) -> Quad {
        unsafe {
            let mut x = *p;
            asm!("/* {0:s} */", inout(vreg) x, options(pure, nomem, nostack, preserves_flags));
            self.splat(x)
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Quad {
        parts!(i, vld1q_f32(p.add(i * PART)))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Quad) {
        for (i, part) in v.into_iter().enumerate() {
            unsafe { vst1q_f32(p.add(i * PART), part) };
        }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> Quad {
        parts!(i, load_part(p.wrapping_add(i * PART), n.saturating_sub(i * PART)))
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: Quad, n: usize) {
        for (i, part) in v.into_iter().enumerate() {
            unsafe { store_part(p.wrapping_add(i * PART), part, n.saturating_sub(i * PART)) };
        }
    }
    #[inline(always)]
    fn add(self, a: Quad, b: Quad) -> Quad {
        parts!(i, vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: Quad, b: Quad) -> Quad {
        parts!(i, vsubq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: Quad, b: Quad) -> Quad {
        parts!(i, vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: Quad, b: Quad) -> Quad {
        parts!(i, vdivq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn sqrt(self, a: Quad) -> Quad {
        parts!(i, vsqrtq_f32(a[i]))
    }
    #[inline(always)]
    fn fma(self, a: Quad, b: Quad, c: Quad) -> Quad {
        parts!(i, vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn fnma(self, a: Quad, b: Quad, c: Quad) -> Quad {
        parts!(i, vfmsq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn fms(self, a: Quad, b: Quad, c: Quad) -> Quad {
        parts!(i, vfmaq_f32(vnegq_f32(c[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn gt(self, a: Quad, b: Quad) -> Bits {
        parts!(i, vcgtq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn not_gt(self, a: Quad, b: Quad) -> Bits {
        parts!(i, vmvnq_u32(vcgtq_f32(a[i], b[i])))
    }
    // `max` and `min` are a comparison and a choice: the instructions of these names return a NaN where there is one.
    #[inline(always)]
    fn select(self, mask: Bits, a: Quad, b: Quad) -> Quad {
        parts!(i, vbslq_f32(mask[i], a[i], b[i]))
    }
    #[inline(always)]
    fn keep(self, mask: Bits, a: Quad) -> Quad {
        let a = bits(a);
        unbits(parts!(i, vandq_u32(mask[i], a[i])))
    }
    #[inline(always)]
    fn first_n(self, n: usize) -> Bits {
        static NUMBERS: [u32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        parts!(i, vcgtq_u32(vdupq_n_u32(n.min(LANES) as u32), vld1q_u32(NUMBERS.as_ptr().add(i * PART))))
    }
    #[inline(always)]
    fn exponent_add(self, p: Quad, t: Quad) -> Quad {
        let (p, t) = (ints(p), ints(t));
        floats(parts!(i, vaddq_s32(p[i], vshlq_n_s32::<23>(t[i]))))
    }
    #[inline(always)]
    fn to_array(self, v: Quad) -> [f32; LANES] {
        let mut a = [0.0; LANES];
        unsafe { self.store(a.as_mut_ptr(), v) };
        a
    }
    #[inline(always)]
    fn transpose(self, r: [Quad; LANES]) -> [Quad; LANES] {
        let mut out = r;
        for rows in 0..PARTS {
            for cols in 0..PARTS {
                let mut x = [r[0][0]; PART];
                for i in 0..PART {
                    x[i] = r[PART * rows + i][cols];
                }
                let y = transpose4(x);
                for i in 0..PART {
                    out[PART * cols + i][rows] = y[i];
                }
            }
        }
        out
    }
    #[inline(always)]
    fn zero_d(self) -> [float64x2_t; 2 * PARTS] {
        unsafe { [vdupq_n_f64(0.0); 2 * PARTS] }
    }
    #[inline(always)]
    fn add_square_d(self, d: [float64x2_t; 2 * PARTS], v: Quad) -> [float64x2_t; 2 * PARTS] {
        let mut out = d;
        for i in 0..PARTS {
            unsafe {
                let (low, high) = (vcvt_f64_f32(vget_low_f32(v[i])), vcvt_high_f64_f32(v[i]));
                out[2 * i] = vfmaq_f64(d[2 * i], low, low);
                out[2 * i + 1] = vfmaq_f64(d[2 * i + 1], high, high);
            }
        }
        out
    }
    #[inline(always)]
    fn to_array_d(self, d: [float64x2_t; 2 * PARTS]) -> [f64; LANES] {
        let mut a = [0.0; LANES];
        for (i, part) in d.into_iter().enumerate() {
            unsafe { vst1q_f64(a.as_mut_ptr().add(2 * i), part) };
        }
        a
    }
    #[inline(always)]
    fn to_ints(self, x: Quad) -> Quad {
        floats(parts!(i, vcvtnq_s32_f32(x[i])))
    }
    #[inline(always)]
    fn ints_to_f32(self, x: Quad) -> Quad {
        let x = ints(x);
        parts!(i, vcvtq_f32_s32(x[i]))
    }
    #[inline(always)]
    fn max_bits(self, a: Quad, x: Quad) -> Quad {
        let (a, x) = (bits(a), bits(x));
        unbits(parts!(i, vmaxq_u32(a[i], vandq_u32(x[i], vdupq_n_u32(0x7FFF_FFFF)))))
    }
    #[inline(always)]
    fn pairs(self, low: Quad, high: Quad) -> Quad {
        let (low, high) = (ints(low), ints(high));
        floats(parts!(i, vsliq_n_s32::<16>(low[i], high[i])))
    }
    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> Quad {
        floats(parts!(i, vmovl_s16(vld1_s16(p.add(i * PART)))))
    }
    #[inline(always)]
    unsafe fn store_i16(self, p: *mut i16, x: Quad) {
        for (i, part) in ints(x).into_iter().enumerate() {
            unsafe { vst1_s16(p.add(i * PART), vmovn_s32(part)) };
        }
    }
}
