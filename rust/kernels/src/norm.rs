//! RMSNorm (contract E3, E4, E5; Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019).
//!
//! ```text
//! forward, for four rows:
//!     for vector i:  sum = fma(x[i], x[i], sum)
//!     r = 1 / sqrt(fold16(sum) / n + eps)
//!     for vector i:  y[i] = (x[i] * r) * w[i]
//!
//! backward, for four rows of a block of 64:
//!     for vector i:  h = x[i] * r;  sum = fma(dy[i] * w[i], h, sum);  dw[i] = fma(dy[i], h, dw[i])
//!     c = fold16(sum) / n
//!     for vector i:  h = x[i] * r;  x[i] = fma(fma(-h, c, dy[i] * w[i]), r, residual[i])
//! ```
//!
//! A row's dot product is one chain of fused operations per lane, bound by latency; four rows run side by side. The second
//! pass finds the row in the nearest cache and computes h again instead of keeping it. dw goes through the rows of a block in
//! order, one load and one store for all four.

use crate::math::{fold16, load, store};
use crate::simd::{Isa, Kernel, Simd, dispatch};
use crate::{Mat, MatMut, vectors};

/// Positions of one block of the weight gradient.
pub const BLOCK: usize = 64;

/// Rows that run side by side; divides [`BLOCK`].
const GROUP: usize = 4;

/// `y = (x * r) * w` with `r = 1 / sqrt(mean(x^2) + eps)` per row (E3), out of place; `rstd` receives r.
///
/// Shapes: x and y rows x n, w n, rstd rows. Forward error of y: about (n/16 + 8) half-ulps, all terms being
/// non-negative.
///
/// # Panics
/// If the shapes do not match.
pub fn forward(isa: Isa, x: Mat<'_>, w: &[f32], eps: f32, y: MatMut<'_>, rstd: &mut [f32]) {
    let (rows, n) = (x.rows(), x.cols());
    assert!(y.rows() == rows && y.cols() == n, "norm of {rows} x {n} into {} x {}", y.rows(), y.cols());
    assert!(w.len() == n, "norm of {n} columns with {} weights", w.len());
    assert!(rstd.len() == rows, "norm of {rows} rows with {} results", rstd.len());
    dispatch(isa, Forward { x, w, eps, y, rstd });
}

struct Forward<'a> {
    x: Mat<'a>,
    w: &'a [f32],
    eps: f32,
    y: MatMut<'a>,
    rstd: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let rows = self.x.rows();
        let mut row = 0;
        while row + GROUP <= rows {
            self.rows::<S, GROUP>(s, row);
            row += GROUP;
        }
        while row < rows {
            self.rows::<S, 1>(s, row);
            row += 1;
        }
    }
}

impl Forward<'_> {
    /// Rows `first..first + R`, which exist.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, s: S, first: usize) {
        let n = self.w.len();
        let (x_stride, y_stride) = (self.x.stride(), self.y.stride());
        // SAFETY: row `first` exists in both views.
        let (x, y) = unsafe { (self.x.ptr().add(first * x_stride), self.y.ptr().add(first * y_stride)) };
        let mut acc = [s.zero(); R];
        vectors!(n, i, lanes, {
            for (k, acc) in acc.iter_mut().enumerate() {
                // SAFETY: rows first..first + R have n columns, and i + lanes <= n.
                let v = unsafe { load(s, x.add(k * x_stride + i), lanes) };
                *acc = s.fma(v, v, *acc);
            }
        });
        let mut r = [s.zero(); R];
        for k in 0..R {
            let mean = fold16(s.to_array(acc[k])) / n as f32;
            let rstd = 1.0 / (mean + self.eps).sqrt();
            self.rstd[first + k] = rstd;
            r[k] = s.splat(rstd);
        }
        vectors!(n, i, lanes, {
            // SAFETY: w has n elements; rows first..first + R of x and y have n columns, and i + lanes <= n.
            unsafe {
                let w = load(s, self.w.as_ptr().add(i), lanes);
                for (k, r) in r.iter().enumerate() {
                    let v = load(s, x.add(k * x_stride + i), lanes);
                    store(s, y.add(k * y_stride + i), s.mul(s.mul(v, *r), w), lanes);
                }
            }
        });
    }
}

/// Gradients of RMSNorm (E4, E5). In place: `x_to_dx` holds x on entry and dx on return.
///
/// `h = x * r`, `g = dy * w`, `c = dot16(g, h) / n`, `dx = fma(fma(-h, c, g), r, residual)`, where no residual is
/// +0. Row b of `dw_blocks` receives `chain(t: dy_t, h_t)` over rows 64b..64b+63.
///
/// Shapes: dy, residual and x_to_dx rows x n, w n, rstd rows, dw_blocks ceil(rows / 64) x n. The error of c is about
/// n/16 + 5 half-ulps of `dot16(|g|, |h|) / n`, that of a weight gradient at most 64 half-ulps of the sum of magnitudes.
///
/// # Panics
/// If the shapes do not match.
pub fn backward(
    isa: Isa,
    dy: Mat<'_>,
    w: &[f32],
    rstd: &[f32],
    residual: Option<Mat<'_>>,
    x_to_dx: MatMut<'_>,
    dw_blocks: MatMut<'_>,
) {
    let (rows, n) = (dy.rows(), dy.cols());
    let same = |name: &str, r: usize, c: usize| {
        assert!(r == rows && c == n, "norm gradient: dy is {rows} x {n}, {name} is {r} x {c}");
    };
    same("x", x_to_dx.rows(), x_to_dx.cols());
    if let Some(m) = residual {
        same("the residual", m.rows(), m.cols());
    }
    assert!(w.len() == n, "norm gradient of {n} columns with {} weights", w.len());
    assert!(rstd.len() == rows, "norm gradient of {rows} rows with {} factors", rstd.len());
    let (blocks, columns) = (dw_blocks.rows(), dw_blocks.cols());
    assert!(
        blocks == rows.div_ceil(BLOCK) && columns == n,
        "norm gradient of {rows} x {n} with {blocks} x {columns} weight gradient blocks"
    );
    match residual {
        Some(residual) => dispatch(isa, Backward::<true> { dy, w, rstd, residual, x_to_dx, dw_blocks }),
        None => dispatch(isa, Backward::<false> { dy, w, rstd, residual: dy, x_to_dx, dw_blocks }),
    }
}

/// Without `RESIDUAL` the view `residual` is not read.
struct Backward<'a, const RESIDUAL: bool> {
    dy: Mat<'a>,
    w: &'a [f32],
    rstd: &'a [f32],
    residual: Mat<'a>,
    x_to_dx: MatMut<'a>,
    dw_blocks: MatMut<'a>,
}

impl<const RESIDUAL: bool> Kernel for Backward<'_, RESIDUAL> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let rows = self.dy.rows();
        for block in 0..rows.div_ceil(BLOCK) {
            self.dw_blocks.row(block).fill(0.0);
            let end = rows.min((block + 1) * BLOCK);
            let mut row = block * BLOCK;
            while row + GROUP <= end {
                self.rows::<S, GROUP>(s, row);
                row += GROUP;
            }
            while row < end {
                self.rows::<S, 1>(s, row);
                row += 1;
            }
        }
    }
}

impl<const RESIDUAL: bool> Backward<'_, RESIDUAL> {
    /// Rows `first..first + R`, which exist and lie in one block.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, s: S, first: usize) {
        let n = self.w.len();
        let (x_stride, dy_stride, res_stride) = (self.x_to_dx.stride(), self.dy.stride(), self.residual.stride());
        let dw = self.dw_blocks.row(first / BLOCK).as_mut_ptr();
        // SAFETY: row `first` exists in the three views.
        let (x, dy, res) = unsafe {
            (
                self.x_to_dx.ptr().add(first * x_stride),
                self.dy.ptr().add(first * dy_stride),
                self.residual.ptr().add(first * res_stride),
            )
        };
        let mut r = [s.zero(); R];
        for (r, rstd) in r.iter_mut().zip(&self.rstd[first..first + R]) {
            *r = s.splat(*rstd);
        }
        let mut acc = [s.zero(); R];
        vectors!(n, i, lanes, {
            // SAFETY: w and dw have n elements; rows first..first + R of x and dy have n columns, and i + lanes <= n.
            unsafe {
                let w = load(s, self.w.as_ptr().add(i), lanes);
                let mut sum = load(s, dw.add(i), lanes);
                for k in 0..R {
                    let h = s.mul(load(s, x.add(k * x_stride + i), lanes), r[k]);
                    let dy = load(s, dy.add(k * dy_stride + i), lanes);
                    acc[k] = s.fma(s.mul(dy, w), h, acc[k]);
                    sum = s.fma(dy, h, sum);
                }
                store(s, dw.add(i), sum, lanes);
            }
        });
        let mut c = [s.zero(); R];
        for k in 0..R {
            c[k] = s.splat(fold16(s.to_array(acc[k])) / n as f32);
        }
        vectors!(n, i, lanes, {
            // SAFETY: as above, and the residual has the same shape.
            unsafe {
                let w = load(s, self.w.as_ptr().add(i), lanes);
                for k in 0..R {
                    let h = s.mul(load(s, x.add(k * x_stride + i), lanes), r[k]);
                    let g = s.mul(load(s, dy.add(k * dy_stride + i), lanes), w);
                    let res = if RESIDUAL { load(s, res.add(k * res_stride + i), lanes) } else { s.zero() };
                    store(s, x.add(k * x_stride + i), s.fma(s.fnma(h, c[k], g), r[k], res), lanes);
                }
            }
        });
    }
}
