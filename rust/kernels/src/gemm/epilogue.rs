//! What happens to a finished element of a product, vector by vector.

use crate::math;
use crate::simd::Simd;

/// Consumes finished chains. Implementations hold raw pointers: the caller of `gemm` guarantees their extent.
pub(crate) trait Epilogue: Copy {
    /// Where the chains of row `i`, columns `j..j+lanes`, start: +0 unless an earlier part of k is stored.
    ///
    /// # Safety
    /// (i, j..j+lanes) is inside the epilogue's matrices.
    #[inline(always)]
    unsafe fn start<S: Simd>(&self, s: S, _i: usize, _j: usize, _lanes: usize) -> S::F {
        s.zero()
    }
    /// Takes the finished vector.
    ///
    /// # Safety
    /// (i, j..j+lanes) is inside the epilogue's matrices.
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, lanes: usize, acc: S::F);
}

/// `c = acc`.
#[derive(Clone, Copy)]
pub(crate) struct Store {
    pub c: *mut f32,
    pub stride: usize,
}

impl Epilogue for Store {
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, lanes: usize, acc: S::F) {
        // SAFETY: inside c, by the trait's contract.
        unsafe { math::store(s, self.c.add(i * self.stride + j), acc, lanes) }
    }
}

/// `c = r + acc`.
#[derive(Clone, Copy)]
pub(crate) struct Add {
    pub r: *const f32,
    pub r_stride: usize,
    pub c: *mut f32,
    pub stride: usize,
}

impl Epilogue for Add {
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, lanes: usize, acc: S::F) {
        // SAFETY: inside r and c, by the trait's contract.
        unsafe {
            let r = math::load(s, self.r.add(i * self.r_stride + j), lanes);
            math::store(s, self.c.add(i * self.stride + j), s.add(r, acc), lanes);
        }
    }
}

/// The chain goes on from `c`.
#[derive(Clone, Copy)]
pub(crate) struct Continue {
    pub c: *mut f32,
    pub stride: usize,
}

impl Epilogue for Continue {
    #[inline(always)]
    unsafe fn start<S: Simd>(&self, s: S, i: usize, j: usize, lanes: usize) -> S::F {
        // SAFETY: inside c, by the trait's contract.
        unsafe { math::load(s, self.c.add(i * self.stride + j), lanes) }
    }
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, lanes: usize, acc: S::F) {
        // SAFETY: inside c, by the trait's contract.
        unsafe { math::store(s, self.c.add(i * self.stride + j), acc, lanes) }
    }
}

/// `c = acc * factor` (attention scores, A1).
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    pub factor: f32,
    pub c: *mut f32,
    pub stride: usize,
}

impl Epilogue for Scale {
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, lanes: usize, acc: S::F) {
        // SAFETY: inside c, by the trait's contract.
        unsafe { math::store(s, self.c.add(i * self.stride + j), s.mul(acc, s.splat(self.factor)), lanes) }
    }
}

/// `c = acc * row_factor[i] + 0` (attention output, A3).
#[derive(Clone, Copy)]
pub(crate) struct RowScale {
    pub row_factor: *const f32,
    pub c: *mut f32,
    pub stride: usize,
}

impl Epilogue for RowScale {
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, lanes: usize, acc: S::F) {
        // SAFETY: inside row_factor and c, by the trait's contract.
        unsafe {
            let y = s.add(s.mul(acc, s.splat(*self.row_factor.add(i))), s.zero());
            math::store(s, self.c.add(i * self.stride + j), y, lanes);
        }
    }
}

/// `c = acc + 0`: -0 becomes +0 (query gradient, A6).
#[derive(Clone, Copy)]
pub(crate) struct StorePlusZero {
    pub c: *mut f32,
    pub stride: usize,
}

impl Epilogue for StorePlusZero {
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, lanes: usize, acc: S::F) {
        // SAFETY: inside c, by the trait's contract.
        unsafe { math::store(s, self.c.add(i * self.stride + j), s.add(acc, s.zero()), lanes) }
    }
}

/// `c = (p * (acc - row_term[i])) * factor` (score gradient, A5); c may be p.
#[derive(Clone, Copy)]
pub(crate) struct ScoreGradient {
    pub p: *const f32,
    pub p_stride: usize,
    pub row_term: *const f32,
    pub factor: f32,
    pub c: *mut f32,
    pub stride: usize,
}

impl Epilogue for ScoreGradient {
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, lanes: usize, acc: S::F) {
        // SAFETY: inside p, row_term and c, by the trait's contract.
        unsafe {
            let p = math::load(s, self.p.add(i * self.p_stride + j), lanes);
            let d = s.sub(acc, s.splat(*self.row_term.add(i)));
            let y = s.mul(s.mul(p, d), s.splat(self.factor));
            math::store(s, self.c.add(i * self.stride + j), y, lanes);
        }
    }
}
