//! Sums in a fixed order: gradient folding, gradient norm, batch loss (contract S2, G4, O1, L4).
//!
//! ```text
//! sum_squares_blocks:  for block of 4,096:  for vector i:  acc = acc + f64(g[i])^2;  out = fold16(acc)
//! add, fold_pair:      p[i] = p[i] + q[i],  p[i] = p[i] + (q[i] + t[i])
//! batch_loss:          for block of 4,096:  sum = sum + f64(loss);  total = total + sum
//! ```
//!
//! The blocks are what threads share out: their length is fixed, so their sums do not depend on who has computed them.

use crate::math::{fold16, fold16_f64, load, store};
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};
use crate::vectors;

/// Elements of one block of the gradient norm and of the batch loss.
pub const BLOCK: usize = 4096;

/// Sums of squares of aligned blocks of 4,096 elements, in f64 (O1): one result per block, the last may be short.
///
/// In a block `acc[i mod 16] += f64(g_i)^2`, folded as `sum16`; relative error at most 260 * 2^-53.
///
/// # Panics
/// If `out` has not `ceil(g.len() / 4096)` elements.
pub fn sum_squares_blocks(isa: Isa, g: &[f32], out: &mut [f64]) {
    assert!(out.len() == g.len().div_ceil(BLOCK), "{} block sums for {} elements", out.len(), g.len());
    dispatch(isa, SumSquares { g, out });
}

struct SumSquares<'a> {
    g: &'a [f32],
    out: &'a mut [f64],
}

impl Kernel for SumSquares<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (block, sum) in self.g.chunks(BLOCK).zip(self.out) {
            if crate::ANY_ORDER {
                let mut acc = [s.zero(); 4];
                vectors!(block.len(), i, lanes, {
                    // SAFETY: i + lanes <= block.len().
                    let g = unsafe { load(s, block.as_ptr().add(i), lanes) };
                    acc[i / LANES % 4] = s.fma(g, g, acc[i / LANES % 4]);
                });
                let total = s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3]));
                *sum = f64::from(fold16(s.to_array(total)));
                continue;
            }
            let mut acc = s.zero_d();
            vectors!(block.len(), i, lanes, {
                // SAFETY: i + lanes <= block.len(). The lanes beyond add +0 to sums that are not negative.
                acc = s.add_square_d(acc, unsafe { load(s, block.as_ptr().add(i), lanes) });
            });
            *sum = fold16_f64(s.to_array_d(acc));
        }
    }
}

/// `dst = dst + src`, in place, one rounding per element.
///
/// # Panics
/// If the lengths differ.
pub fn add(isa: Isa, dst: &mut [f32], src: &[f32]) {
    assert!(dst.len() == src.len(), "sum of {} and {} elements", dst.len(), src.len());
    dispatch(isa, Add { dst, src });
}

struct Add<'a> {
    dst: &'a mut [f32],
    src: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (dst, src) = (self.dst.as_mut_ptr(), self.src.as_ptr());
        vectors!(self.src.len(), i, lanes, {
            // SAFETY: both slices have the same length, and i + lanes does not exceed it.
            unsafe { store(s, dst.add(i), s.add(load(s, dst.add(i), lanes), load(s, src.add(i), lanes)), lanes) }
        });
    }
}

/// `p = p + (q + t)`, in place: the last level of the sector tree (S2). Two roundings per element.
///
/// # Panics
/// If the lengths differ.
pub fn fold_pair(isa: Isa, p: &mut [f32], q: &[f32], t: &[f32]) {
    assert!(q.len() == p.len() && t.len() == p.len(), "fold of {}, {}, {} elements", p.len(), q.len(), t.len());
    dispatch(isa, FoldPair { p, q, t });
}

struct FoldPair<'a> {
    p: &'a mut [f32],
    q: &'a [f32],
    t: &'a [f32],
}

impl Kernel for FoldPair<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (p, q, t) = (self.p.as_mut_ptr(), self.q.as_ptr(), self.t.as_ptr());
        vectors!(self.q.len(), i, lanes, {
            // SAFETY: the three slices have the same length, and i + lanes does not exceed it.
            unsafe {
                let right = s.add(load(s, q.add(i), lanes), load(s, t.add(i), lanes));
                store(s, p.add(i), s.add(load(s, p.add(i), lanes), right), lanes);
            }
        });
    }
}

/// Mean of the row losses of a batch (L4): f64 sums of blocks of 4,096, added ascending, divided by the number of rows
/// that count; the losses of the others are 0. The mean of no rows is 0.
///
/// # Panics
/// If more rows count than there are.
pub fn batch_loss(losses: &[f32], counted: usize) -> f64 {
    assert!(counted <= losses.len(), "{counted} of {} losses count", losses.len());
    if counted == 0 {
        return 0.0;
    }
    let mut total = 0.0;
    for block in losses.chunks(BLOCK) {
        let mut sum = 0.0;
        for loss in block {
            sum += f64::from(*loss);
        }
        total += sum;
    }
    total / counted as f64
}
