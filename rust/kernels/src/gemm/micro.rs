//! The microkernel and the loops around it.
//!
//! A tile is `ROWS x VECTORS * 16` accumulators in registers. AVX-512 has 32 registers: 14 x 32 uses 28 of them for
//! accumulators, 2 for the columns of B and 1 for the broadcast of A. AVX2 has 16: 6 x 16 uses 12, 2 and 1. Two FMA
//! ports of latency 4 need 8 accumulators to stay busy, so lower tiles keep the pace down to 4 x 32 (AVX-512).

use super::epilogue::Epilogue;
use super::{PANEL, Right};
use crate::simd::{LANES, Simd};

/// One tile: rows `i..i+ROWS`, columns `j..j+lanes` of the product. `a` points at row i (or column i, transposed),
/// `b` at column j.
#[inline(always)]
unsafe fn tile<S: Simd, E: Epilogue, const ROWS: usize, const VECTORS: usize, const TRANSPOSED: bool, const TAIL: bool>(
    s: S,
    k: usize,
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    b_stride: usize,
    e: E,
    i: usize,
    j: usize,
    lanes: usize,
) {
    // SAFETY: the caller guarantees the extents; a tail loads and stores only `lanes` columns.
    unsafe {
        let lanes = if TAIL { lanes } else { LANES };
        let mut acc = [[s.zero(); VECTORS]; ROWS];
        for (r, row) in acc.iter_mut().enumerate() {
            for (v, x) in row.iter_mut().enumerate() {
                *x = e.start(s, i + r, j + v * LANES, lanes);
            }
        }
        for p in 0..k {
            let row = b.add(p * b_stride);
            let mut columns = [s.zero(); VECTORS];
            for (v, x) in columns.iter_mut().enumerate() {
                *x = if TAIL { s.load_n(row.add(v * LANES), lanes) } else { s.load(row.add(v * LANES)) };
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let x = s.splat(*if TRANSPOSED { a.add(p * a_stride + r) } else { a.add(r * a_stride + p) });
                for v in 0..VECTORS {
                    row[v] = s.fma(x, columns[v], row[v]);
                }
            }
        }
        for (r, row) in acc.iter().enumerate() {
            for (v, x) in row.iter().enumerate() {
                e.finish(s, i + r, j + v * LANES, lanes, *x);
            }
        }
    }
}

/// Height of the next tile of `left` rows: the full height, but the last two tiles share what is left evenly, since
/// a low tile is bound by latency.
#[inline(always)]
fn tile_height(left: usize, full: usize) -> usize {
    if left >= 2 * full || left == full {
        full
    } else if left > full {
        left.div_ceil(2)
    } else {
        left
    }
}

/// All row tiles of one column tile.
#[inline(always)]
unsafe fn column<S: Simd, E: Epilogue, const VECTORS: usize, const TRANSPOSED: bool, const TAIL: bool>(
    s: S,
    k: usize,
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    b_stride: usize,
    e: E,
    first: usize,
    rows: usize,
    j: usize,
    lanes: usize,
) {
    let mut i = first;
    let end = first + rows;
    while i < end {
        let height = tile_height(end - i, S::TILE_ROWS);
        let start = if TRANSPOSED { a.wrapping_add(i) } else { a.wrapping_add(i * a_stride) };
        macro_rules! heights {
            ($($h:literal)*) => {
                match height {
                    $($h => {
                        if S::TILE_ROWS >= $h {
                            // SAFETY: rows i..i+height and columns j.. are inside, by the caller's guarantee.
                            unsafe {
                                tile::<S, E, $h, VECTORS, TRANSPOSED, TAIL>(s, k, start, a_stride, b, b_stride, e, i, j, lanes)
                            }
                        }
                    })*
                    _ => unreachable!("tile height {height}"),
                }
            };
        }
        heights!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        i += height;
    }
}

/// Rows `first..first+rows` of the product, all columns.
///
/// # Safety
/// `a` covers the rows and k; the epilogue covers rows and columns.
#[inline(always)]
pub(super) unsafe fn block<S: Simd, E: Epilogue, const TRANSPOSED: bool>(
    s: S,
    a: *const f32,
    a_stride: usize,
    b: &Right<'_>,
    e: E,
    first: usize,
    rows: usize,
    k: usize,
) {
    let width = S::TILE_VECTORS * LANES;
    let column_ptr = |j: usize| b.ptr.wrapping_add(j / PANEL * b.panel_stride + j % PANEL);
    let mut j = 0;
    // SAFETY: passed on to the caller; columns beyond n are only read by masked loads.
    unsafe {
        while j + width <= b.n {
            if S::TILE_VECTORS == 2 {
                column::<S, E, 2, TRANSPOSED, false>(s, k, a, a_stride, column_ptr(j), b.row_stride, e, first, rows, j, LANES);
            } else {
                column::<S, E, 1, TRANSPOSED, false>(s, k, a, a_stride, column_ptr(j), b.row_stride, e, first, rows, j, LANES);
            }
            j += width;
        }
        while j < b.n {
            let lanes = (b.n - j).min(LANES);
            column::<S, E, 1, TRANSPOSED, true>(s, k, a, a_stride, column_ptr(j), b.row_stride, e, first, rows, j, lanes);
            j += LANES;
        }
    }
}
