//! Softmax cross-entropy on a strip of logits (contract L2, L3).
//!
//! ```text
//! for each row whose target y counts:
//!     m = max l
//!     for vector i:  e = exp(l[i] - m);  sum = sum + e             backward: l[i] = e
//!     S = fold16(sum);  loss = (m - l[y]) + log(S)
//!     backward:      l[i] = (l[i] * (1 / S)) * scale,  l[y] = ((l[y] * (1 / S)) - 1) * scale
//! ```
//!
//! Row after row: a row of some thousand logits stays in a cache, where the later passes find it. The maximum takes a
//! separate pass because the order of the sum is fixed: a running maximum would rescale it on the way. The target's
//! gradient is computed apart from the others, so that their loop has no branch.

use crate::math::{exp, fold16, load, log, store};
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};
use crate::{Mat, MatMut, vectors};

/// A target that does not count: the row has the loss +0 and the gradient +0, whatever its logits are (L2, L3).
pub const IGNORED: u32 = u32::MAX;

/// Row losses (L2): `m = max l`, `S = sum16(exp(l - m))`, `loss = (m - l_target) + log(S)`. The logits stay.
///
/// Shapes: logits rows x vocabulary, targets and losses rows. Error of a loss at most about 3 + cols/16 half-ulps of S
/// in log(S), plus 2 ulp of the result. A row with a NaN, or whose largest logit is infinite, has the loss NaN. A row
/// whose target is [`IGNORED`] is skipped: its loss is 0.
///
/// # Panics
/// If the shapes do not match, the vocabulary is empty or a target is outside of it.
pub fn rows(isa: Isa, logits: Mat<'_>, targets: &[u32], losses: &mut [f32]) {
    check(logits.rows(), logits.cols(), targets, losses);
    dispatch(isa, Rows { logits, targets, losses });
}

/// Row losses as [`rows`], and in place of the logits their gradient (L3).
///
/// `z = 1/S`, `dl_i = (e_i*z)*scale`, for the target `((e_y*z) - 1)*scale`. One exponential per logit. The gradient of a
/// row whose target is [`IGNORED`] is 0.
///
/// Shapes and panics as there. Error of a gradient at most about (5 + cols/16 / 2) ulp of `e_i*z*scale`, for the
/// target 1 ulp of scale more.
///
/// # Panics
/// If the shapes do not match, the vocabulary is empty or a target is outside of it.
pub fn rows_backward(isa: Isa, logits_to_grad: MatMut<'_>, targets: &[u32], scale: f32, losses: &mut [f32]) {
    check(logits_to_grad.rows(), logits_to_grad.cols(), targets, losses);
    dispatch(isa, RowsBackward { logits: logits_to_grad, targets, scale, losses });
}

fn check(rows: usize, cols: usize, targets: &[u32], losses: &[f32]) {
    assert!(cols > 0, "loss over an empty vocabulary");
    assert!(
        targets.len() == rows && losses.len() == rows,
        "loss of {rows} rows with {} targets and {} results",
        targets.len(),
        losses.len()
    );
    for t in targets {
        assert!(*t == IGNORED || (*t as usize) < cols, "target {t} of a vocabulary of {cols}");
    }
}

struct Rows<'a> {
    logits: Mat<'a>,
    targets: &'a [u32],
    losses: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.logits.cols();
        for (row, (target, loss)) in self.targets.iter().zip(self.losses).enumerate() {
            if *target == IGNORED {
                *loss = 0.0;
                continue;
            }
            let l = self.logits.row(row);
            // SAFETY: the row has n elements, which are not written without KEEP.
            let (m, sum) = unsafe { softmax_terms::<S, false>(s, l.as_ptr().cast_mut(), n) };
            *loss = row_loss(s, m, l[*target as usize], sum);
        }
    }
}

struct RowsBackward<'a> {
    logits: MatMut<'a>,
    targets: &'a [u32],
    scale: f32,
    losses: &'a mut [f32],
}

impl Kernel for RowsBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let n = self.logits.cols();
        let scale = s.splat(self.scale);
        for (row, (target, loss)) in self.targets.iter().zip(self.losses).enumerate() {
            let l = self.logits.row(row);
            if *target == IGNORED {
                l.fill(0.0);
                *loss = 0.0;
                continue;
            }
            let target = *target as usize;
            let wanted = l[target];
            // SAFETY: the row has n elements and is this function's own.
            let (m, sum) = unsafe { softmax_terms::<S, true>(s, l.as_mut_ptr(), n) };
            *loss = row_loss(s, m, wanted, sum);
            let z = 1.0 / sum;
            let of_target = ((l[target] * z) - 1.0) * self.scale;
            let p = l.as_mut_ptr();
            let z = s.splat(z);
            vectors!(n, i, lanes, {
                // SAFETY: the row has n elements, and i + lanes <= n.
                unsafe { store(s, p.add(i), s.mul(s.mul(load(s, p.add(i), lanes), z), scale), lanes) }
            });
            l[target] = of_target;
        }
    }
}

/// `(m - wanted) + log(sum)`. The row maximum contributes 1 to the sum, so a smaller one is NaN, and so is the loss.
#[inline(always)]
fn row_loss<S: Simd>(s: S, m: f32, wanted: f32, sum: f32) -> f32 {
    if sum >= 1.0 { (m - wanted) + log(s, sum) } else { f32::NAN }
}

/// The largest element m of a row and `sum16(exp(l - m))`; with `KEEP` the exponentials replace the row.
///
/// # Safety
/// `row..row + n` is readable, and writable with `KEEP`; n > 0.
#[inline(always)]
unsafe fn softmax_terms<S: Simd, const KEEP: bool>(s: S, row: *mut f32, n: usize) -> (f32, f32) {
    // Four chains of maxima hide the latency; the order does not matter.
    const CHAINS: usize = 4;
    let lowest = s.splat(f32::NEG_INFINITY);
    let mut top = [lowest; CHAINS];
    let grouped = n / (CHAINS * LANES) * (CHAINS * LANES);
    let mut i = 0;
    while i < grouped {
        for (k, top) in top.iter_mut().enumerate() {
            // SAFETY: i + CHAINS * LANES <= grouped <= n.
            *top = s.max(*top, unsafe { s.load(row.add(i + k * LANES)) });
        }
        i += CHAINS * LANES;
    }
    vectors!(n - grouped, i, lanes, {
        // SAFETY: grouped + i + lanes <= n.
        let v = unsafe { load(s, row.add(grouped + i), lanes) };
        top[0] = s.max(top[0], s.select(s.first_n(lanes), v, lowest));
    });
    let lanes = s.to_array(s.max(s.max(top[0], top[1]), s.max(top[2], top[3])));
    let mut m = lanes[0];
    for v in &lanes[1..] {
        m = if m > *v { m } else { *v };
    }
    let top = s.splat(m);
    let mut acc = s.zero();
    vectors!(n, i, lanes, {
        // SAFETY: i + lanes <= n; written only with KEEP.
        unsafe {
            let e = exp(s, s.sub(load(s, row.add(i), lanes), top));
            acc = s.add(acc, s.select(s.first_n(lanes), e, s.zero()));
            if KEEP {
                store(s, row.add(i), e, lanes);
            }
        }
    });
    (m, fold16(s.to_array(acc)))
}
