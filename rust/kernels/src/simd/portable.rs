//! The specification: a vector is an array of sixteen scalars.

use super::{LANES, Simd};

/// Token of the scalar specification. `HARDWARE_FMA` says whether `f32::mul_add` is one instruction where this is
/// compiled; otherwise the product-sum is emulated exactly, never left to the platform's C library.
#[derive(Clone, Copy)]
pub struct Portable<const HARDWARE_FMA: bool>(());

impl<const HARDWARE_FMA: bool> Portable<HARDWARE_FMA> {
    pub(crate) fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    fn fma1(a: f32, b: f32, c: f32) -> f32 {
        if HARDWARE_FMA { a.mul_add(b, c) } else { soft_fma(a, b, c) }
    }
}

/// `a * b + c` with one rounding, without fused hardware.
///
/// The product of two f32 is exact in f64. The sum is rounded to odd, so the final rounding to f32 sees on which
/// side of a tie the exact sum lies (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
pub fn soft_fma(a: f32, b: f32, c: f32) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let addend = f64::from(c);
    let sum = product + addend;
    if !sum.is_finite() {
        return sum as f32;
    }
    // Knuth's two-sum: `error` is exactly (product + addend) - sum.
    let back = sum - product;
    let error = (product - (sum - back)) + (addend - back);
    let bits = sum.to_bits();
    let odd = if error != 0.0 && bits & 1 == 0 {
        // Step to the odd neighbour on the side of the exact sum. `sum` is not zero here.
        if (error > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 }
    } else {
        bits
    };
    f64::from_bits(odd) as f32
}

/// Sixteen f32 in an array.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct F(pub(crate) [f32; LANES]);

/// Lane by lane, as a loop: a closure might be compiled apart, without the instructions of the caller.
macro_rules! lanes {
    ($i:ident, $e:expr) => {{
        let mut out = [0.0; LANES];
        for $i in 0..LANES {
            out[$i] = $e;
        }
        F(out)
    }};
}

impl<const HARDWARE_FMA: bool> Simd for Portable<HARDWARE_FMA> {
    type F = F;
    type M = [bool; LANES];
    type D = [f64; LANES];
    const TILE_ROWS: usize = 4;
    const TILE_VECTORS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        F([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller guarantees sixteen readable lanes; read_unaligned needs no alignment.
        F(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller guarantees sixteen writable lanes.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v.0) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> F {
        let mut v = [0.0; LANES];
        for (i, lane) in v.iter_mut().enumerate().take(n) {
            // SAFETY: the caller guarantees n readable lanes.
            *lane = unsafe { p.add(i).read() };
        }
        F(v)
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, v: F, n: usize) {
        for (i, lane) in v.0.iter().enumerate().take(n) {
            // SAFETY: the caller guarantees n writable lanes.
            unsafe { p.add(i).write(*lane) }
        }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        lanes!(i, a.0[i] + b.0[i])
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        lanes!(i, a.0[i] - b.0[i])
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        lanes!(i, a.0[i] * b.0[i])
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        lanes!(i, a.0[i] / b.0[i])
    }
    #[inline(always)]
    fn sqrt(self, a: F) -> F {
        // f32::sqrt is the IEEE operation (a single instruction), never a library approximation.
        lanes!(i, a.0[i].sqrt())
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        lanes!(i, Self::fma1(a.0[i], b.0[i], c.0[i]))
    }
    #[inline(always)]
    fn fnma(self, a: F, b: F, c: F) -> F {
        lanes!(i, Self::fma1(-a.0[i], b.0[i], c.0[i]))
    }
    #[inline(always)]
    fn fms(self, a: F, b: F, c: F) -> F {
        lanes!(i, Self::fma1(a.0[i], b.0[i], -c.0[i]))
    }
    #[inline(always)]
    fn gt(self, a: F, b: F) -> [bool; LANES] {
        let mut mask = [false; LANES];
        for (i, lane) in mask.iter_mut().enumerate() {
            *lane = a.0[i] > b.0[i];
        }
        mask
    }
    #[inline(always)]
    fn not_gt(self, a: F, b: F) -> [bool; LANES] {
        let mut mask = self.gt(a, b);
        for lane in &mut mask {
            *lane = !*lane;
        }
        mask
    }
    #[inline(always)]
    fn select(self, mask: [bool; LANES], a: F, b: F) -> F {
        lanes!(i, if mask[i] { a.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    fn first_n(self, n: usize) -> [bool; LANES] {
        std::array::from_fn(|i| i < n)
    }
    #[inline(always)]
    fn exponent_add(self, p: F, t: F) -> F {
        lanes!(i, f32::from_bits(p.0[i].to_bits().wrapping_add(t.0[i].to_bits() << 23)))
    }
    #[inline(always)]
    fn to_array(self, v: F) -> [f32; LANES] {
        v.0
    }
    #[inline(always)]
    fn transpose(self, rows: [F; LANES]) -> [F; LANES] {
        let mut out = rows;
        for (i, row) in out.iter_mut().enumerate() {
            for (j, lane) in row.0.iter_mut().enumerate() {
                *lane = rows[j].0[i];
            }
        }
        out
    }
    #[inline(always)]
    fn zero_d(self) -> [f64; LANES] {
        [0.0; LANES]
    }
    #[inline(always)]
    fn add_square_d(self, d: [f64; LANES], v: F) -> [f64; LANES] {
        let mut sum = d;
        for (lane, x) in sum.iter_mut().zip(v.0) {
            *lane += f64::from(x) * f64::from(x);
        }
        sum
    }
    #[inline(always)]
    fn to_array_d(self, d: [f64; LANES]) -> [f64; LANES] {
        d
    }
    #[inline(always)]
    fn to_ints(self, x: F) -> F {
        // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
        const ROUND: f32 = 12_582_912.0;
        lanes!(i, f32::from_bits((x.0[i] + ROUND).to_bits().wrapping_sub(ROUND.to_bits())))
    }
    #[inline(always)]
    fn ints_to_f32(self, x: F) -> F {
        lanes!(i, x.0[i].to_bits() as i32 as f32)
    }
    #[inline(always)]
    fn max_bits(self, a: F, x: F) -> F {
        lanes!(i, f32::from_bits(a.0[i].to_bits().max(x.0[i].to_bits() & 0x7FFF_FFFF)))
    }
    #[inline(always)]
    fn pairs(self, low: F, high: F) -> F {
        lanes!(i, f32::from_bits(low.0[i].to_bits() & 0xFFFF | high.0[i].to_bits() << 16))
    }
    #[inline(always)]
    unsafe fn load_i16(self, p: *const i16) -> F {
        // SAFETY: the caller guarantees sixteen readable integers; read_unaligned needs no alignment.
        let x = unsafe { p.cast::<[i16; LANES]>().read_unaligned() };
        lanes!(i, f32::from_bits(i32::from(x[i]) as u32))
    }
    #[inline(always)]
    unsafe fn store_i16(self, p: *mut i16, x: F) {
        let mut low = [0; LANES];
        for (low, x) in low.iter_mut().zip(x.0) {
            *low = x.to_bits() as i16;
        }
        // SAFETY: the caller guarantees sixteen writable integers.
        unsafe { p.cast::<[i16; LANES]>().write_unaligned(low) }
    }
}
