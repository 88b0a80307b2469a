//! Matrix products, one FMA chain per element (contract G1-G4).
//!
//! `C[i,j] = chain(k ascending: A[i,k], B[k,j])`. A is read where it lies, by rows or by columns; B is either packed
//! into panels of [`PANEL`] columns (weights: once per update) or read by rows (attention, weight gradients). What
//! happens to a finished element is an [`Epilogue`]. Tile shape, blocking and the split between threads cannot move
//! a bit, because every element is its own chain and a chain that is cut over k goes on from the stored value.

pub(crate) mod epilogue;
mod micro;
pub mod pack;

use crate::mat::{Mat, MatMut};
use crate::simd::{Isa, Kernel, Simd, dispatch};
use epilogue::{Add, Continue, Epilogue, Store};
pub use pack::{PANEL, Packed, packed_len};
use std::marker::PhantomData;

/// Tokens of one weight-gradient chain (contract G3).
pub const TOKEN_BLOCK: usize = 1024;

/// Elements of the A block that is kept in the second-level cache while the panels of B pass by.
const A_BLOCK: usize = 96 * 1024;

/// The right-hand matrix, k x n.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    ptr: *const f32,
    /// Distance between k and k + 1.
    row_stride: usize,
    /// Distance between the starts of two panels of 32 columns.
    panel_stride: usize,
    k: usize,
    n: usize,
    life: PhantomData<&'a f32>,
}

impl<'a> Right<'a> {
    /// Packed panels.
    pub fn packed(b: Packed<'a>) -> Self {
        Self { ptr: b.ptr(), row_stride: PANEL, panel_stride: b.k() * PANEL, k: b.k(), n: b.n(), life: PhantomData }
    }
    /// Rows as they lie.
    pub fn rows(b: Mat<'a>) -> Self {
        Self { ptr: b.ptr(), row_stride: b.stride(), panel_stride: PANEL, k: b.rows(), n: b.cols(), life: PhantomData }
    }
    /// The first `n` columns.
    pub fn first_columns(self, n: usize) -> Self {
        assert!(n <= self.n, "{n} columns of {}", self.n);
        Self { n, ..self }
    }
}

/// The left-hand matrix, m x k.
#[derive(Clone, Copy)]
pub enum Left<'a> {
    /// Element (i, k) is in row i.
    Rows(Mat<'a>),
    /// The transpose: element (i, k) is in row k, column i.
    Columns(Mat<'a>),
}

struct Gemm<'a, E> {
    a: Left<'a>,
    b: Right<'a>,
    epilogue: E,
}

impl<E: Epilogue> Kernel for Gemm<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (m, k) = match self.a {
            Left::Rows(a) => (a.rows(), a.cols()),
            Left::Columns(a) => (a.cols(), a.rows()),
        };
        // Whole tiles of A per block, at least two, so that B is read as seldom as the cache allows.
        let block = (A_BLOCK / k.max(1) / S::TILE_ROWS).max(2) * S::TILE_ROWS;
        let mut first = 0;
        while first < m {
            // A short last block would read all of B for a few rows: let the block before it take them too.
            let rows = if m - first < 2 * block { m - first } else { block };
            // SAFETY: `gemm` checked the shapes; the epilogue covers m x n (its constructors' contract).
            unsafe {
                match self.a {
                    Left::Rows(a) => micro::block::<S, E, false>(s, a.ptr(), a.stride(), &self.b, self.epilogue, first, rows, k),
                    Left::Columns(a) => micro::block::<S, E, true>(s, a.ptr(), a.stride(), &self.b, self.epilogue, first, rows, k),
                }
            }
            first += rows;
        }
    }
}

/// Runs the product of `a` and `b` into an epilogue that covers m x n elements.
///
/// # Safety
/// The epilogue's matrices hold at least m rows and n columns.
pub(crate) unsafe fn gemm<E: Epilogue>(isa: Isa, a: Left<'_>, b: Right<'_>, epilogue: E) {
    let k = match a {
        Left::Rows(a) => a.cols(),
        Left::Columns(a) => a.rows(),
    };
    assert_eq!(k, b.k, "inner sizes {k} and {}", b.k);
    dispatch(isa, Gemm { a, b, epilogue });
}

fn check_output(a: &Left<'_>, b: &Right<'_>, rows: usize, cols: usize) {
    let m = match a {
        Left::Rows(a) => a.rows(),
        Left::Columns(a) => a.cols(),
    };
    assert_eq!((m, b.n), (rows, cols), "output shape");
}

/// `c = a b`.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(isa: Isa, a: Left<'_>, b: Right<'_>, mut c: MatMut<'_>) {
    check_output(&a, &b, c.rows(), c.cols());
    let (ptr, stride) = (c.ptr(), c.stride());
    // SAFETY: c has the shape of the product.
    unsafe { gemm(isa, a, b, Store { c: ptr, stride }) }
}

/// `c = r + a b`, the sum after the chain is complete (contract G4).
///
/// # Panics
/// If the shapes do not fit.
pub fn product_add(isa: Isa, a: Left<'_>, b: Right<'_>, r: Mat<'_>, mut c: MatMut<'_>) {
    check_output(&a, &b, c.rows(), c.cols());
    assert_eq!((r.rows(), r.cols()), (c.rows(), c.cols()), "residual shape");
    let epilogue = Add { r: r.ptr(), r_stride: r.stride(), c: c.ptr(), stride: c.stride() };
    // SAFETY: r and c have the shape of the product.
    unsafe { gemm(isa, a, b, epilogue) }
}

/// `c = c + a b`, the sum after the chain is complete.
///
/// # Panics
/// If the shapes do not fit.
pub fn product_accumulate(isa: Isa, a: Left<'_>, b: Right<'_>, mut c: MatMut<'_>) {
    check_output(&a, &b, c.rows(), c.cols());
    let (ptr, stride) = (c.ptr(), c.stride());
    // SAFETY: c has the shape of the product.
    unsafe { gemm(isa, a, b, Add { r: ptr, r_stride: stride, c: ptr, stride }) }
}

/// The chains of `c` go on over the k of `a` and `b`: for a product whose k arrives in blocks.
///
/// # Panics
/// If the shapes do not fit.
pub fn product_continue(isa: Isa, a: Left<'_>, b: Right<'_>, mut c: MatMut<'_>) {
    check_output(&a, &b, c.rows(), c.cols());
    let (ptr, stride) = (c.ptr(), c.stride());
    // SAFETY: c has the shape of the product.
    unsafe { gemm(isa, a, b, Continue { c: ptr, stride }) }
}

/// What a weight-gradient tile does with the sum of a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fold {
    /// `dw = sector`.
    Set,
    /// `dw = dw + sector`.
    Add,
}

/// Weight gradient of one sector (contract G3), folded into `dw`: `dy` is tokens x outputs, `x` tokens x inputs.
///
/// Workspace: `scratch` of dw.rows() * dw.cols() elements, used only beyond [`TOKEN_BLOCK`] tokens.
/// An empty sector contributes +0.
///
/// # Panics
/// If the shapes do not fit.
pub fn weight_gradient(isa: Isa, dy: Mat<'_>, x: Mat<'_>, mut dw: MatMut<'_>, fold: Fold, scratch: &mut [f32]) {
    let tokens = dy.rows();
    assert_eq!(tokens, x.rows(), "tokens of dy and x");
    let run = |range: std::ops::Range<usize>, c: MatMut<'_>, fold: Fold| {
        let (a, b) = (Left::Columns(dy.row_range(range.clone())), Right::rows(x.row_range(range)));
        match fold {
            Fold::Set => product(isa, a, b, c),
            Fold::Add => product_accumulate(isa, a, b, c),
        }
    };
    if tokens <= TOKEN_BLOCK {
        // A product over no tokens is +0, which is what an empty sector adds.
        return run(0..tokens, dw, fold);
    }
    let (rows, cols) = (dw.rows(), dw.cols());
    let mut sum = MatMut::new(scratch, rows, cols, cols);
    let mut start = 0;
    while start < tokens {
        let end = (start + TOKEN_BLOCK).min(tokens);
        run(start..end, sum.reborrow(), if start == 0 { Fold::Set } else { Fold::Add });
        start = end;
    }
    for i in 0..rows {
        match fold {
            Fold::Set => dw.row(i).copy_from_slice(sum.row(i)),
            Fold::Add => dw.row(i).iter_mut().zip(sum.row(i).iter()).for_each(|(d, x)| *d += *x),
        }
    }
}
