//! What happens to the finished tiles of a product.

use super::micro::Tile;
use super::pack::PANEL;
use crate::math;
use crate::simd::{LANES, Simd};

/// Consumes tiles. Implementations hold raw pointers: the caller of `gemm` guarantees their extent.
pub(crate) trait Epilogue: Copy {
    /// Sets where the tile whose first element is (i, j) starts and goes. `buffer` is free memory for a tile of
    /// [`PANEL`] columns.
    ///
    /// # Safety
    /// The tile is inside the epilogue's matrices.
    unsafe fn place(&self, tile: &mut Tile, i: usize, j: usize, buffer: *mut f32);
    /// Where the results go.
    fn result(&self) -> At;
    /// Takes the tile from the buffer, if `place` sent it there.
    ///
    /// # Safety
    /// As `place`; the tile has `rows` rows and `cols` columns.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, _s: S, _i: usize, _j: usize, _rows: usize, _cols: usize, _buffer: *const f32) {}
}

/// A matrix by pointer and row stride; null where there is none.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub ptr: *mut f32,
    pub stride: usize,
}

impl At {
    pub const NONE: At = At { ptr: std::ptr::null_mut(), stride: 0 };

    #[inline(always)]
    pub fn element(self, i: usize, j: usize) -> *mut f32 {
        if self.ptr.is_null() { self.ptr } else { self.ptr.wrapping_add(i * self.stride + j) }
    }
}

/// `c = add + chain`, the chain going on from `start`; both may be absent.
#[derive(Clone, Copy)]
pub(crate) struct Direct {
    pub start: At,
    pub add: At,
    pub c: At,
}

impl Epilogue for Direct {
    #[inline(always)]
    fn result(&self) -> At {
        self.c
    }
    #[inline(always)]
    unsafe fn place(&self, tile: &mut Tile, i: usize, j: usize, _buffer: *mut f32) {
        (tile.start, tile.start_stride) = (self.start.element(i, j), self.start.stride);
        (tile.add, tile.add_stride) = (self.add.element(i, j), self.add.stride);
        (tile.c, tile.c_stride) = (self.c.element(i, j), self.c.stride);
    }
}

/// Sends the tile to the buffer.
#[inline(always)]
fn to_buffer(tile: &mut Tile, buffer: *mut f32) {
    (tile.c, tile.c_stride) = (buffer, PANEL);
}

/// Runs a block for each vector of a tile in the buffer: row, column, lanes and value are bound.
macro_rules! each_vector {
    ($s:ident, $rows:ident, $cols:ident, $buffer:ident, |$r:ident, $q:ident, $lanes:ident, $x:ident| $body:block) => {
        for $r in 0..$rows {
            let mut $q = 0;
            while $q < $cols {
                let $lanes = ($cols - $q).min(LANES);
                let $x = math::load($s, $buffer.add($r * PANEL + $q), $lanes);
                $body
                $q += LANES;
            }
        }
    };
}

/// `c = chain * factor` (attention scores, A1).
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    pub factor: f32,
    pub c: At,
}

impl Epilogue for Scale {
    #[inline(always)]
    fn result(&self) -> At {
        self.c
    }
    #[inline(always)]
    unsafe fn place(&self, tile: &mut Tile, _i: usize, _j: usize, buffer: *mut f32) {
        to_buffer(tile, buffer);
    }
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, rows: usize, cols: usize, buffer: *const f32) {
        let factor = s.splat(self.factor);
        // SAFETY: inside the buffer and c, by the trait's contract.
        unsafe {
            each_vector!(s, rows, cols, buffer, |r, q, lanes, x| {
                math::store(s, self.c.element(i + r, j + q), s.mul(x, factor), lanes);
            });
        }
    }
}

/// `c = chain * row_factor[i] + 0` (attention output, A3).
#[derive(Clone, Copy)]
pub(crate) struct RowScale {
    pub row_factor: *const f32,
    pub c: At,
}

impl Epilogue for RowScale {
    #[inline(always)]
    fn result(&self) -> At {
        self.c
    }
    #[inline(always)]
    unsafe fn place(&self, tile: &mut Tile, _i: usize, _j: usize, buffer: *mut f32) {
        to_buffer(tile, buffer);
    }
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, rows: usize, cols: usize, buffer: *const f32) {
        // SAFETY: inside the buffer, row_factor and c, by the trait's contract.
        unsafe {
            each_vector!(s, rows, cols, buffer, |r, q, lanes, x| {
                let y = s.add(s.mul(x, s.splat(*self.row_factor.add(i + r))), s.zero());
                math::store(s, self.c.element(i + r, j + q), y, lanes);
            });
        }
    }
}

/// `c = chain + 0`: -0 becomes +0 (query gradient, A6).
#[derive(Clone, Copy)]
pub(crate) struct PlusZero {
    pub c: At,
}

impl Epilogue for PlusZero {
    #[inline(always)]
    fn result(&self) -> At {
        self.c
    }
    #[inline(always)]
    unsafe fn place(&self, tile: &mut Tile, _i: usize, _j: usize, buffer: *mut f32) {
        to_buffer(tile, buffer);
    }
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, rows: usize, cols: usize, buffer: *const f32) {
        // SAFETY: inside the buffer and c, by the trait's contract.
        unsafe {
            each_vector!(s, rows, cols, buffer, |r, q, lanes, x| {
                math::store(s, self.c.element(i + r, j + q), s.add(x, s.zero()), lanes);
            });
        }
    }
}

/// `c = (p * (chain - row_term[i])) * factor` (score gradient, A5).
#[derive(Clone, Copy)]
pub(crate) struct ScoreGradient {
    pub p: At,
    pub row_term: *const f32,
    pub factor: f32,
    pub c: At,
}

impl Epilogue for ScoreGradient {
    #[inline(always)]
    fn result(&self) -> At {
        self.c
    }
    #[inline(always)]
    unsafe fn place(&self, tile: &mut Tile, _i: usize, _j: usize, buffer: *mut f32) {
        to_buffer(tile, buffer);
    }
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, i: usize, j: usize, rows: usize, cols: usize, buffer: *const f32) {
        let factor = s.splat(self.factor);
        // SAFETY: inside the buffer, p, row_term and c, by the trait's contract.
        unsafe {
            each_vector!(s, rows, cols, buffer, |r, q, lanes, x| {
                let p = math::load(s, self.p.element(i + r, j + q), lanes);
                let d = s.sub(x, s.splat(*self.row_term.add(i + r)));
                math::store(s, self.c.element(i + r, j + q), s.mul(s.mul(p, d), factor), lanes);
            });
        }
    }
}
