//! Low-rank adapters: `W = W0 + s B A`, and the gradients of A and B by the chain rule (contract D1-D3).
//!
//! ```text
//! merge:       w = B A;         for vector i of each row:  w[i] = fma(s, w[i], w0[i])
//! gradient_a:  da = B^T dW;     for vector i of each row:  da[i] = s * da[i]
//! gradient_b:  db = dW A^T;     for vector i of each row:  db[i] = s * db[i]
//! ```
//!
//! The products are those of `gemm`, so their chains are too. The scale comes after them, in a separate pass: the rank is
//! small, so the gradient of a factor is short, while scaling dW instead would go through a whole matrix of weights.

use crate::gemm::{Left, Packed, Right, pack, product};
use crate::mat::{Mat, MatMut};
use crate::math::{load, store};
use crate::simd::{Isa, Kernel, Simd, dispatch};
use crate::vectors;

/// Some columns of the gradient of A (D2): `da[k,i] = s * chain(o: b[o,k], dw[o,i])`.
///
/// `b` is outputs x rank, `dw` outputs x columns, `da` rank x columns.
///
/// # Panics
/// If the shapes do not fit.
pub fn gradient_a(isa: Isa, b: Mat<'_>, dw: Mat<'_>, s: f32, mut da: MatMut<'_>) {
    product(isa, Left::Columns(b), Right::rows(dw), da.reborrow());
    scale(isa, s, da);
}

/// Some rows of the gradient of B (D3): `db[o,k] = s * chain(i: dw[o,i], a[k,i])`.
///
/// `dw` is rows x inputs, `a` rank x inputs, `db` rows x rank. Workspace: `packed_len(inputs, rank)` elements.
///
/// # Panics
/// If the shapes do not fit or the workspace is too small.
pub fn gradient_b(isa: Isa, dw: Mat<'_>, a: Mat<'_>, s: f32, mut db: MatMut<'_>, packed: &mut [f32]) {
    pack::transposed(isa, a, packed);
    let right = Right::packed(Packed::new(packed, a.cols(), a.rows()));
    product(isa, Left::Rows(dw), right, db.reborrow());
    scale(isa, s, db);
}

/// Some rows of the weights that the model computes with (D1): `w[o,i] = fma(s, chain(k: b[o,k], a[k,i]), w0[o,i])`.
///
/// `b` is rows x rank, `a` rank x inputs, `w0` and `w` rows x inputs.
///
/// # Panics
/// If the shapes do not fit.
pub fn merge(isa: Isa, b: Mat<'_>, a: Mat<'_>, w0: Mat<'_>, s: f32, mut w: MatMut<'_>) {
    assert_eq!((w0.rows(), w0.cols()), (w.rows(), w.cols()), "base weights");
    product(isa, Left::Rows(b), Right::rows(a), w.reborrow());
    for i in 0..w.rows() {
        dispatch(isa, Merge { w: w.row(i), w0: w0.row(i), s });
    }
}

fn scale(isa: Isa, s: f32, mut x: MatMut<'_>) {
    for i in 0..x.rows() {
        dispatch(isa, Scale { x: x.row(i), s });
    }
}

struct Scale<'a> {
    x: &'a mut [f32],
    s: f32,
}

impl Kernel for Scale<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (x, factor) = (self.x.as_mut_ptr(), s.splat(self.s));
        vectors!(self.x.len(), i, lanes, {
            // SAFETY: i + lanes does not exceed the length.
            unsafe { store(s, x.add(i), s.mul(factor, load(s, x.add(i), lanes)), lanes) }
        });
    }
}

struct Merge<'a> {
    w: &'a mut [f32],
    w0: &'a [f32],
    s: f32,
}

impl Kernel for Merge<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (w, w0, factor) = (self.w.as_mut_ptr(), self.w0.as_ptr(), s.splat(self.s));
        vectors!(self.w0.len(), i, lanes, {
            // SAFETY: both rows have the same length (`merge` has compared the shapes), and i + lanes does not exceed it.
            unsafe { store(s, w.add(i), s.fma(factor, load(s, w.add(i), lanes), load(s, w0.add(i), lanes)), lanes) }
        });
    }
}
