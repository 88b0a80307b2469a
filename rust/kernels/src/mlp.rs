//! SwiGLU (contract E9, E10; Shazeer, "GLU Variants Improve Transformer", 2020).
//!
//! ```text
//! for each row, for vector i:
//!     s = 1 / (1 + exp(-g[i]))
//!     forward:   h[i] = (g[i] * s) * u[i]
//!     backward:  g[i], u[i] = (dh[i] * u[i]) * (s * fma(g[i], 1 - s, 1)),  dh[i] * (g[i] * s)
//! ```
//!
//! One pass, with nothing kept between elements: the sigmoid is computed again in the backward pass, which is cheaper than
//! a third matrix of this size in memory.

use crate::math::{exp, load, store};
use crate::simd::{Isa, Kernel, Simd, dispatch};
use crate::{Mat, MatMut, vectors};

/// `s = 1 / (1 + exp(-g))`, `h = (g*s)*u` (E9), out of place.
///
/// gate_up is rows x 2F, the gates g in the first F columns and u in the others; h is rows x F. Relative error of h at
/// most 4 ulp while `exp(-g)` is in range; below g = -88 the sigmoid stays at that of -88.
///
/// # Panics
/// If the shapes do not match.
pub fn forward(isa: Isa, gate_up: Mat<'_>, h: MatMut<'_>) {
    check(gate_up.rows(), gate_up.cols(), h.rows(), h.cols());
    dispatch(isa, Forward { gate_up, h });
}

/// Gradients of SwiGLU (E10), in place: gate becomes dgate, up becomes dup.
///
/// `du = dh*(g*s)`, `dg = (dh*u) * (s * fma(g, 1-s, 1))`. dh is rows x F, gate_up_to_grad rows x 2F. Error of du at
/// most 4 ulp, of dg about 6 ulp of `|dh*u*s| * (1 + |g*(1-s)|)`.
///
/// # Panics
/// If the shapes do not match.
pub fn backward(isa: Isa, dh: Mat<'_>, gate_up_to_grad: MatMut<'_>) {
    check(gate_up_to_grad.rows(), gate_up_to_grad.cols(), dh.rows(), dh.cols());
    dispatch(isa, Backward { dh, gate_up: gate_up_to_grad });
}

fn check(rows: usize, cols: usize, h_rows: usize, h_cols: usize) {
    assert!(
        rows == h_rows && Some(cols) == h_cols.checked_mul(2),
        "SwiGLU of {rows} x {cols} with {h_rows} x {h_cols} results"
    );
}

/// `1 / (1 + exp(-g))`.
#[inline(always)]
fn sigmoid<S: Simd>(s: S, g: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.zero(), g))))
}

struct Forward<'a> {
    gate_up: Mat<'a>,
    h: MatMut<'a>,
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let f = self.h.cols();
        for row in 0..self.h.rows() {
            let x = self.gate_up.row(row).as_ptr();
            let h = self.h.row(row).as_mut_ptr();
            vectors!(f, i, lanes, {
                // SAFETY: the row of gate_up has 2f elements, that of h has f, and i + lanes <= f.
                unsafe {
                    let g = load(s, x.add(i), lanes);
                    let u = load(s, x.add(f + i), lanes);
                    store(s, h.add(i), s.mul(s.mul(g, sigmoid(s, g)), u), lanes);
                }
            });
        }
    }
}

struct Backward<'a> {
    dh: Mat<'a>,
    gate_up: MatMut<'a>,
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let f = self.dh.cols();
        let one = s.splat(1.0);
        for row in 0..self.dh.rows() {
            let dh = self.dh.row(row).as_ptr();
            let x = self.gate_up.row(row).as_mut_ptr();
            vectors!(f, i, lanes, {
                // SAFETY: the row of gate_up has 2f elements, that of dh has f, and i + lanes <= f.
                unsafe {
                    let g = load(s, x.add(i), lanes);
                    let u = load(s, x.add(f + i), lanes);
                    let dh = load(s, dh.add(i), lanes);
                    let sig = sigmoid(s, g);
                    let slope = s.mul(sig, s.fma(g, s.sub(one, sig), one));
                    store(s, x.add(i), s.mul(s.mul(dh, u), slope), lanes);
                    store(s, x.add(f + i), s.mul(dh, s.mul(g, sig)), lanes);
                }
            });
        }
    }
}
