//! The FMA peak: as many independent chains as the microkernel has accumulators, nothing else.

use crate::simd::{Isa, Kernel, Simd, dispatch};

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
        let (x, y) = (s.splat(std::hint::black_box(0.999_999)), s.splat(std::hint::black_box(1e-9)));
        let mut acc = [s.splat(std::hint::black_box(1.0)); CHAINS];
        for _ in 0..self.rounds {
            for a in acc.iter_mut().take(chains) {
                *a = s.fma(*a, x, y);
            }
        }
        let mut sum = 0.0;
        for a in acc {
            sum += s.to_array(a)[0];
        }
        (sum, self.rounds * (chains * 16 * 2) as u64)
    }
}

/// Runs `rounds` of the loop and returns a value that depends on all of it and the floating-point operations done.
pub fn fma_loop(isa: Isa, rounds: u64) -> (f32, u64) {
    dispatch(isa, Peak { rounds })
}
