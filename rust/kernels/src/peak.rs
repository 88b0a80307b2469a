//! The FMA peak: independent chains of multiply-adds, nothing else.
//!
//! ```text
//! for each round:  for each of at most 12 chains:  acc = fma(acc, x, y)
//! ```
//!
//! At most as many chains as the microkernel has accumulators.

use crate::math::fold16;
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};

struct Peak {
    rounds: u64,
}

/// Accumulators of the loop: more than latency x ports on every known core, no more than registers.
const CHAINS: usize = 12;

impl Kernel for Peak {
    type Output = (f32, u64);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, u64) {
        // A vector is two registers where these are half as wide.
        let chains = CHAINS.min(S::TILE_ROWS * S::TILE_VECTORS);
        // Every lane starts from memory that the compiler knows nothing of, and every lane counts at the end: else it
        // computes equal chains once.
        let mut start = [1.0_f32; CHAINS * LANES];
        std::hint::black_box(&mut start);
        let (x, y) = (s.splat(std::hint::black_box(0.999_999)), s.splat(std::hint::black_box(1e-9)));
        let mut acc = [s.zero(); CHAINS];
        for (i, a) in acc.iter_mut().enumerate() {
            // SAFETY: `start` has sixteen elements for each chain.
            *a = unsafe { s.load(start.as_ptr().add(i * LANES)) };
        }
        for _ in 0..self.rounds {
            for a in acc.iter_mut().take(chains) {
                *a = s.fma(*a, x, y);
            }
        }
        let mut sum = s.zero();
        for a in acc {
            sum = s.add(sum, a);
        }
        (fold16(s.to_array(sum)), self.rounds * (chains * LANES * 2) as u64)
    }
}

/// Runs `rounds` of the loop and returns a value that depends on all of it and the floating-point operations done.
pub fn fma_loop(isa: Isa, rounds: u64) -> (f32, u64) {
    dispatch(isa, Peak { rounds })
}

struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = u32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> u32 {
        let mut top = [s.zero(); 4];
        for part in self.0.chunks_exact(4 * LANES) {
            for (i, top) in top.iter_mut().enumerate() {
                // SAFETY: the part has four vectors.
                *top = s.max_bits(*top, unsafe { s.load(part.as_ptr().add(i * LANES)) });
            }
        }
        top.into_iter().flat_map(|top| s.to_array(top)).fold(0, |a, x| a.max(x.to_bits()))
    }
}

/// The largest magnitude, as bits, of the whole vectors of a slice, four at a time: reads it as fast as the memory gives it.
pub fn largest(isa: Isa, x: &[f32]) -> u32 {
    dispatch(isa, Largest(x))
}
