//! What happens to the finished tiles of a product.

use super::micro::Tile;
use crate::simd::Simd;

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
