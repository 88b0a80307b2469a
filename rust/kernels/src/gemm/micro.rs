//! The microkernel: one tile of the product in registers.
//!
//! ```text
//! acc[r][v] = start[r][v], or +0               r < ROWS, v < VECTORS; a vector has 16 columns
//! for p in 0..k:
//!     b[v] = B[p][v]                           each loaded once
//!     for r:
//!         a = A[r][p] in all lanes             each read once
//!         acc[r][v] = fma(a, b[v], acc[r][v])
//! C[r][v] = add[r][v] + acc[r][v], or acc[r][v]
//! ```
//!
//! With 16-bit integers ([`super::int16`]) an element of A or B is a pair of them, a step adds both products to a 32-bit
//! accumulator, which starts at 0, and `acc[r][v] = start[r][v] + (f32(acc[r][v]) * row[r]) * column[v]` follows the loop.
//!
//! k is the outermost loop because every element is one chain over it, ascending (contract G1): between two links of a
//! chain lie the multiply-adds of all the others, which hides their latency. A step reads ROWS + VECTORS operands for
//! ROWS * VECTORS multiply-adds, so a tile is as large as the registers allow: in a low one the reads set the pace.
//!
//! A tile is `ROWS x VECTORS * 16` accumulators. AVX-512 has 32 registers: 14 x 32 uses 28 of them for accumulators, 2
//! for the columns of B and 1 for the broadcast of A. AVX2 has 16: 6 x 16 uses 12, 2 and 1. Two FMA ports of latency 4
//! need 8 accumulators to stay busy, so lower tiles keep the pace down to 4 x 32 (AVX-512).
//!
//! Tiles are separate functions, compiled with the instructions of their token and called through [`super::tables`].

use super::ops::Op;
use super::pack::PANEL;
use crate::simd::{LANES, Simd};

/// Operands of a tile. Row stride and pointer of an absent operand are unused.
pub(crate) struct Tile {
    pub k: usize,
    /// Row i at `a + i * a_stride` (`TRANSPOSED`: element (i, p) at `a + p * a_stride + i`).
    pub a: *const f32,
    pub a_stride: usize,
    /// Row p at `b + p * b_stride`.
    pub b: *const f32,
    pub b_stride: usize,
    /// Where the chains start, if not at +0.
    pub start: *const f32,
    pub start_stride: usize,
    /// What is added to the finished chains, if anything.
    pub add: *const f32,
    pub add_stride: usize,
    /// Where the results go.
    pub c: *mut f32,
    pub c_stride: usize,
    /// Columns of a tail tile, at most 16.
    pub lanes: usize,
    /// Of integers only.
    pub scales: Scales,
    /// Asked for during the first steps, a row of the tile's width at each: where the next tile's results will go, then rows
    /// that will be copied.
    pub near: [Rows; 2],
    /// Asked for into a larger cache, the first line of a row at each step: after `near` (`TRANSPOSED`), or at every step,
    /// whatever the number of rows.
    pub ahead: Rows,
}

/// Factors of integer sums, by rows and, where not null, by columns of the result.
#[derive(Clone, Copy)]
pub(crate) struct Scales {
    pub row: *const f32,
    pub row_stride: usize,
    pub column: *const f32,
}

impl Scales {
    pub const NONE: Scales = Scales { row: std::ptr::null(), row_stride: 0, column: std::ptr::null() };

    /// Those of the tile that begins at an element of the result.
    #[inline(always)]
    pub fn at(self, i: usize, j: usize) -> Self {
        let column = if self.column.is_null() { self.column } else { self.column.wrapping_add(j) };
        Scales { row: self.row.wrapping_add(i * self.row_stride), column, ..self }
    }
}

/// Rows to bring near.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub ptr: *const f32,
    pub stride: usize,
    pub count: usize,
}

impl Rows {
    pub const NONE: Rows = Rows { ptr: std::ptr::null(), stride: 0, count: 0 };
}

/// Computes a tile.
///
/// One long function, with macros where functions would do, because the accumulators and the few pointers must stay in the
/// same registers from the first load to the last store. The same code as always-inlined methods of a struct was tried (rustc
/// 1.95): most tiles came out longer, up to a third those of the 256-bit and the portable tokens.
///
/// # Safety
/// The operands have the extents that [`Tile`] says, for a tile of this shape.
#[allow(clippy::pointers_in_nomem_asm_block)] // the block is empty
// The body of `rows!` is written for an index, which it has where the rows are written out.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub(super) unsafe fn tile<
    S: Simd,
    O: Op<S>,
    const ROWS: usize,
    const VECTORS: usize,
    const TRANSPOSED: bool,
    const TAIL: bool,
>(
    s: S,
    t: &Tile,
) {
    let lanes = if TAIL { t.lanes } else { LANES };
    // SAFETY: the caller guarantees the extents; a tail loads and stores only `lanes` columns.
    unsafe {
        // A macro: a closure might be compiled apart, without the token's instructions.
        macro_rules! load {
            ($p:expr) => {
                if TAIL { s.load_n($p, lanes) } else { s.load($p) }
            };
        }
        // For each row; without a loop where the compiler would leave it.
        macro_rules! written_out {
            ($i:ident, $body:block, $($row:literal)*) => {
                $(if $row < ROWS {
                    let $i = $row;
                    $body
                })*
            };
        }
        macro_rules! rows {
            ($i:ident, $body:block) => {
                if S::WRITTEN_OUT {
                    written_out!($i, $body, 0 1 2 3 4 5);
                } else {
                    for $i in 0..ROWS $body
                }
            };
        }
        const { assert!(!S::WRITTEN_OUT || ROWS <= 6) };
        let mut acc = [[s.zero(); VECTORS]; ROWS];
        if !O::INTEGERS && !t.start.is_null() {
            for (r, row) in acc.iter_mut().enumerate() {
                for (v, x) in row.iter_mut().enumerate() {
                    *x = load!(t.start.add(r * t.start_stride + v * LANES));
                }
            }
        }
        // Three rows for each pointer: left to itself, the compiler keeps a pointer for each row, more than there are
        // registers, and loads some of them from the stack at every step.
        let mut a = [t.a; ROWS];
        for (g, a) in a.iter_mut().enumerate() {
            *a = t.a.wrapping_add(3 * g * if TRANSPOSED { 1 } else { t.a_stride });
        }
        let mut b = t.b;
        macro_rules! operands {
            ($n:literal) => {
                let row = b.wrapping_add($n * t.b_stride);
                // Rows of B that the first-level cache has no room for come from the second. Packed panels have a fixed
                // distance between rows; the panel of a weight gradient has just been written.
                let coming = row.wrapping_add(8 * PANEL);
                for v in 0..if TRANSPOSED { 0 } else { VECTORS } {
                    s.prefetch_near(coming.wrapping_add(v * LANES));
                }
                let mut columns = [s.zero(); VECTORS];
                for (v, x) in columns.iter_mut().enumerate() {
                    *x = load!(row.add(v * LANES));
                }
                macro_rules! row {
                    ($a:expr, $r:expr, $row:expr) => {
                        let at = if TRANSPOSED { $n * t.a_stride + $r } else { $r * t.a_stride + $n };
                        let x = s.broadcast($a.add(at));
                        for v in 0..VECTORS {
                            $row[v] = O::step(s, x, columns[v], $row[v]);
                        }
                    };
                }
                if S::WRITTEN_OUT {
                    written_out!(i, { row!(a[i / 3], i % 3, acc[i]); }, 0 1 2 3 4 5);
                } else {
                    for (a, rows) in a.iter().zip(acc.chunks_mut(3)) {
                        for (r, row) in rows.iter_mut().enumerate() {
                            row!(a, r, row);
                        }
                    }
                }
            };
        }
        macro_rules! advance {
            ($n:literal) => {
                for a in a[..ROWS.div_ceil(3)].iter_mut() {
                    *a = a.wrapping_add(if TRANSPOSED { $n * t.a_stride } else { $n });
                    // The compiler cannot see through this, so the pointers stay what they are here.
                    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
                    std::arch::asm!("/* {0} */", inout(reg) * a, options(nomem, nostack, preserves_flags));
                }
                b = b.wrapping_add($n * t.b_stride);
            };
        }
        macro_rules! step {
            () => {
                operands!(0);
                advance!(1);
            };
        }
        macro_rules! two_steps {
            () => {
                operands!(0);
                operands!(1);
                advance!(2);
            };
        }
        let mut ahead = t.ahead.ptr;
        macro_rules! ask_ahead {
            () => {
                s.prefetch(ahead);
                ahead = ahead.wrapping_add(t.ahead.stride);
            };
        }
        let mut left = t.k;
        for near in t.near {
            let (mut row, count) = (near.ptr, near.count.min(left));
            left -= count;
            for _ in 0..count {
                for v in 0..VECTORS {
                    s.prefetch_near(row.wrapping_add(v * LANES));
                }
                row = row.wrapping_add(near.stride);
                if !TRANSPOSED {
                    ask_ahead!();
                }
                step!();
            }
        }
        let mut count = if TRANSPOSED { t.ahead.count.min(left) } else { left };
        // What need not be asked for takes no turn from the rest where two threads share a core.
        let mut rest = left - count;
        if VECTORS == 1 && !TAIL {
            // With few multiply-adds in a step, its pointers count: two steps share them.
            for _ in 0..count / 2 {
                s.prefetch(ahead);
                s.prefetch(ahead.wrapping_add(t.ahead.stride));
                ahead = ahead.wrapping_add(2 * t.ahead.stride);
                two_steps!();
            }
            count %= 2;
            if TRANSPOSED {
                for _ in 0..rest / 2 {
                    two_steps!();
                }
                rest %= 2;
            }
        }
        for _ in 0..count {
            ask_ahead!();
            step!();
        }
        if TRANSPOSED {
            for _ in 0..rest {
                step!();
            }
        }
        if O::INTEGERS {
            // Short loops, or the compiler leaves them as they are and keeps the accumulators in memory from the start.
            rows!(r, {
                let scale = s.splat(*t.scales.row.wrapping_add(r * t.scales.row_stride));
                for x in &mut acc[r] {
                    *x = s.mul(s.ints_to_f32(*x), scale);
                }
            });
            if !t.scales.column.is_null() {
                let mut scales = [s.zero(); VECTORS];
                for (v, scale) in scales.iter_mut().enumerate() {
                    *scale = load!(t.scales.column.add(v * LANES));
                }
                rows!(r, {
                    for (x, scale) in acc[r].iter_mut().zip(scales) {
                        *x = s.mul(*x, scale);
                    }
                });
            }
            if !t.start.is_null() {
                rows!(r, {
                    for (v, x) in acc[r].iter_mut().enumerate() {
                        *x = s.add(load!(t.start.add(r * t.start_stride + v * LANES)), *x);
                    }
                });
            }
        }
        if !t.add.is_null() {
            for (r, row) in acc.iter_mut().enumerate() {
                for (v, x) in row.iter_mut().enumerate() {
                    *x = s.add(load!(t.add.add(r * t.add_stride + v * LANES)), *x);
                }
            }
        }
        for (r, row) in acc.iter().enumerate() {
            for (v, x) in row.iter().enumerate() {
                let to = t.c.add(r * t.c_stride + v * LANES);
                if TAIL { s.store_n(to, *x, lanes) } else { s.store(to, *x) }
            }
        }
    }
}
