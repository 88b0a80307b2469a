//! AdamW (contract O3; Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).
//!
//! ```text
//! for vector i:
//!     g = g[i] * clip
//!     m[i] = fma(beta1, m[i], (1 - beta1) * g)
//!     v[i] = fma(beta2, v[i], ((1 - beta2) * g) * g)
//!     u = (m[i] * c1) / (sqrt(v[i] * c2) + eps)
//!     w[i] = fma(-lr, fma(decay, w[i], u), w[i])
//! ```
//!
//! One pass over four streams, since memory sets the pace: clipping and the corrections of the moments are factors in it,
//! not passes before it. The corrections are multiplied, so that only one division is left.

use crate::math::{load, store};
use crate::simd::{Isa, Kernel, Simd, dispatch};
use crate::vectors;

/// The constants of one update of one tensor, rounded from f64 as the contract says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// Learning rate of this update.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// `1 - beta1`, computed in f64.
    pub one_minus_beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// `1 - beta2`, computed in f64.
    pub one_minus_beta2: f32,
    /// `1 / (1 - beta1^n)`, computed in f64.
    pub correction1: f32,
    /// `1 / (1 - beta2^n)`, computed in f64.
    pub correction2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Weight decay; 0 for one-dimensional tensors.
    pub decay: f32,
    /// Clip factor of the gradient.
    pub clip: f32,
}

impl Hyper {
    /// Constants of update `n`, counted from 1.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn new(lr: f64, beta1: f64, beta2: f64, eps: f64, weight_decay: f64, clip_factor: f32, n: u64) -> Self {
        assert!(n > 0, "updates count from 1");
        Self {
            lr: lr as f32,
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            correction1: (1.0 / (1.0 - libm::pow(beta1, n as f64))) as f32,
            correction2: (1.0 / (1.0 - libm::pow(beta2, n as f64))) as f32,
            eps: eps as f32,
            decay: weight_decay as f32,
            clip: clip_factor,
        }
    }
}

/// One update of weights and moments, in place (O3).
///
/// `g = g*f`; `m = fma(b1, m, (1-b1)*g)`; `v = fma(b2, v, ((1-b2)*g)*g)`; `u = (m*c1) / (sqrt(v*c2) + eps)`;
/// `w = fma(-lr, fma(wd, w, u), w)`. All slices have the same length. Each moment carries at most 2 ulp of its terms,
/// u at most 4 ulp relative to the moments, the weight one rounding more.
///
/// # Panics
/// If the lengths differ.
pub fn update(isa: Isa, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], hyper: &Hyper) {
    let n = w.len();
    assert!(
        m.len() == n && v.len() == n && g.len() == n,
        "AdamW of {n} weights with {}, {} moments and {} gradients",
        m.len(),
        v.len(),
        g.len()
    );
    dispatch(isa, Update { w, m, v, g, hyper: *hyper });
}

struct Update<'a> {
    w: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a [f32],
    hyper: Hyper,
}

impl Kernel for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let h = self.hyper;
        let (beta1, keep1, correction1) = (s.splat(h.beta1), s.splat(h.one_minus_beta1), s.splat(h.correction1));
        let (beta2, keep2, correction2) = (s.splat(h.beta2), s.splat(h.one_minus_beta2), s.splat(h.correction2));
        let (lr, eps, decay, clip) = (s.splat(h.lr), s.splat(h.eps), s.splat(h.decay), s.splat(h.clip));
        let (pw, pm, pv, pg) = (self.w.as_mut_ptr(), self.m.as_mut_ptr(), self.v.as_mut_ptr(), self.g.as_ptr());
        vectors!(self.w.len(), i, lanes, {
            // SAFETY: the four slices have the same length, and i + lanes does not exceed it.
            unsafe {
                let g = s.mul(load(s, pg.add(i), lanes), clip);
                let m = s.fma(beta1, load(s, pm.add(i), lanes), s.mul(keep1, g));
                let v = s.fma(beta2, load(s, pv.add(i), lanes), s.mul(s.mul(keep2, g), g));
                let u = s.div(s.mul(m, correction1), s.add(s.sqrt(s.mul(v, correction2)), eps));
                let w = load(s, pw.add(i), lanes);
                store(s, pm.add(i), m, lanes);
                store(s, pv.add(i), v, lanes);
                store(s, pw.add(i), s.fnma(lr, s.fma(decay, w, u), w), lanes);
            }
        });
    }
}
