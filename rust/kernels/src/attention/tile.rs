//! Products of a strip of scores, tile by tile and no further than causality asks.
//!
//! ```text
//! a tile:  acc[r][v] = fma(left[r][p], right[p][v], acc[r][v])  for p ascending; r < ROWS, v < VECTORS
//!
//!              r           p                              v          begin      end
//! scores       query rows  elements of a head             keys       +0         strip = acc
//! row_sums     query rows  keys up to the tile's last     elements   +0         c = acc * factor + 0
//! column_sums  keys        query rows from the first key  elements   +0, or c   c = acc, + 0 after the last strip
//! ```
//!
//! Scores and column sums have the rows of tiles as their outer loop, so that the left-hand operand stays near; row sums have
//! the columns, so that those of the right-hand one do. The last tile of a column begins early instead of being lower: it
//! computes some rows twice, to the same bits, and needs no code for other heights.
//!
//! The microkernel of `gemm` would do, but chains are short here (a head's size, or the positions), so what happens
//! around a tile weighs: these are compiled into the kernel of the strip instead of called through a table, are low, so
//! that little lies beyond the diagonal, and leave the scores as they are for the row kernels to scale.

use crate::gemm::{PANEL, Packed};
use crate::mat::{Mat, MatMut};
use crate::simd::{LANES, Simd};
use std::marker::PhantomData;

/// Scores (or what becomes of them) of some query rows: element (r, j) belongs to position `first + r` and key j.
///
/// Rows hold whole vectors. From element `first + r + 1` on, elements mean nothing until the row kernels have made the next
/// [`BEYOND`] of them +0.
pub(super) struct Strip<'a> {
    ptr: *mut f32,
    stride: usize,
    pub first: usize,
    pub rows: usize,
    life: PhantomData<&'a mut f32>,
}

/// Rows of the tallest tile.
pub(super) const MOST_ROWS: usize = 8;

/// Keys beyond its own position that a row's tile may read.
pub(super) const BEYOND: usize = MOST_ROWS - 1;

impl<'a> Strip<'a> {
    /// Distance between two rows for keys up to `last`: an odd number of cache lines, so that rows spread over the
    /// cache sets.
    pub fn stride(last: usize) -> usize {
        let lines = last.div_ceil(LANES);
        (lines + 1 - lines % 2) * LANES
    }

    /// The strip of positions `first..first + rows` in `memory`.
    ///
    /// # Panics
    /// If the memory is too short.
    pub fn new(memory: &'a mut [f32], first: usize, rows: usize) -> Self {
        let stride = Self::stride(first + rows);
        assert!(memory.len() >= rows * stride, "strip of {rows} x {stride} in {} elements", memory.len());
        Self { ptr: memory.as_mut_ptr(), stride, first, rows, life: PhantomData }
    }

    /// Keys that the last row sees.
    pub fn last(&self) -> usize {
        self.first + self.rows
    }

    /// Row `r`: [`Self::stride`] elements.
    #[inline(always)]
    pub fn row(&self, r: usize) -> *mut f32 {
        debug_assert!(r < self.rows);
        self.ptr.wrapping_add(r * self.stride)
    }
}

/// The left-hand elements of a tile: (i, p) at `ptr + i * row + p * step`.
#[derive(Clone, Copy)]
struct Left {
    ptr: *const f32,
    row: usize,
    step: usize,
}

/// The right-hand rows of a tile: row p at `ptr + p * stride`.
#[derive(Clone, Copy)]
struct Right {
    ptr: *const f32,
    stride: usize,
}

/// Continues the chains of `acc` over k; a `TAIL` reads only `lanes` columns.
///
/// # Safety
/// ROWS x k elements of `left` and k rows of `right` are readable.
#[inline(always)]
unsafe fn chains<S: Simd, const ROWS: usize, const VECTORS: usize, const TAIL: bool>(
    s: S,
    mut acc: [[S::F; VECTORS]; ROWS],
    k: usize,
    left: Left,
    right: Right,
    lanes: usize,
) -> [[S::F; VECTORS]; ROWS] {
    let (mut a, mut b) = (left.ptr, right.ptr);
    for _ in 0..k {
        let mut columns = [s.zero(); VECTORS];
        for (v, x) in columns.iter_mut().enumerate() {
            // SAFETY: row p of `right` is readable by the caller's word.
            *x = unsafe { if TAIL { s.load_n(b, lanes) } else { s.load(b.add(v * LANES)) } };
        }
        for (r, row) in acc.iter_mut().enumerate() {
            // SAFETY: element (r, p) of `left` is readable by the caller's word.
            let x = s.splat(unsafe { *a.add(r * left.row) });
            for v in 0..VECTORS {
                row[v] = s.fma(x, columns[v], row[v]);
            }
        }
        a = a.wrapping_add(left.step);
        b = b.wrapping_add(right.stride);
    }
    acc
}

/// Calls a method of `$kernel` with the height and the width in vectors of the token's tiles, and how many exponentials
/// run together. 8 x 32 (AVX-512) are 16 accumulators, enough for two FMA ports of latency 4; 6 x 16 (AVX2) and 4 x 16
/// as in `gemm`.
macro_rules! with_tiles {
    ($s:ident: $token:ident, $kernel:ident.$method:ident) => {
        if $token::TILE_ROWS >= MOST_ROWS {
            $kernel.$method::<$token, 8, 2, 4>($s)
        } else if $token::TILE_ROWS >= 6 {
            $kernel.$method::<$token, 6, 1, 2>($s)
        } else {
            $kernel.$method::<$token, 4, 1, 1>($s)
        }
    };
}
pub(super) use with_tiles;

/// Covers n rows with tiles: the function is called with the first row of a tile and the number of its rows that the
/// tile before has already done. Fewer rows than a tile has are done one by one.
macro_rules! cover {
    ($n:expr, $function:ident::<$s:ident, $rows:ident, $vectors:ident $(, $tail:ident)?>($($argument:expr),*)) => {{
        let n: usize = $n;
        let mut i = 0;
        while i < n {
            if n < $rows {
                $function::<$s, 1, $vectors $(, $tail)?>($($argument,)* i, 0);
                i += 1;
            } else {
                let start = i.min(n - $rows);
                $function::<$s, $rows, $vectors $(, $tail)?>($($argument,)* start, i - start);
                i += $rows;
            }
        }
    }};
}

/// Covers n columns with tiles of $vectors vectors, one vector and a tail: `$function::<S, ROWS, VECTORS, TAIL>(.., j, lanes)`.
macro_rules! across {
    ($n:expr, $function:ident::<$s:ident, $rows:ident, $vectors:ident>($($argument:expr),*)) => {{
        let n: usize = $n;
        let mut j = 0;
        while j + $vectors * LANES <= n {
            $function::<$s, $rows, $vectors, false>($($argument,)* j, LANES);
            j += $vectors * LANES;
        }
        if $vectors > 1 && j + LANES <= n {
            $function::<$s, $rows, 1, false>($($argument,)* j, LANES);
            j += LANES;
        }
        if j < n {
            $function::<$s, $rows, 1, true>($($argument,)* j, n - j);
        }
    }};
}

/// Row r of the strip = the chains of row r of `x` with the keys, not scaled yet (A1, A5). Meanwhile row r of each
/// matrix of `next` is brought near: read row by row, it comes too slowly from far.
///
/// # Panics
/// If `x` does not have the strip's rows, or the keys end before its last position.
#[inline(always)]
pub(super) fn scores<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    x: Mat<'_>,
    keys: Packed<'_>,
    strip: &mut Strip<'_>,
    next: &[Mat<'_>],
) {
    assert_eq!((x.rows(), x.cols()), (strip.rows, keys.k()), "rows of a strip");
    assert!(keys.n() >= strip.last(), "{} keys for position {}", keys.n(), strip.last());
    // SAFETY: the shapes were checked.
    unsafe { cover!(strip.rows, score_rows::<S, ROWS, VECTORS>(s, x, keys, strip, next)) }
}

/// # Safety
/// As checked by [`scores`]; rows `i..i + ROWS` are in the strip.
#[inline(always)]
unsafe fn score_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    x: Mat<'_>,
    keys: Packed<'_>,
    strip: &Strip<'_>,
    next: &[Mat<'_>],
    i: usize,
    done: usize,
) {
    for m in next {
        for r in i + done..i + ROWS {
            let row = m.ptr().wrapping_add(r * m.stride());
            let mut c = 0;
            while c < m.cols() {
                s.prefetch(row.wrapping_add(c));
                c += LANES;
            }
        }
    }
    let left = Left { ptr: x.ptr().wrapping_add(i * x.stride()), row: x.stride(), step: 1 };
    let needed = strip.first + i + ROWS;
    // Whole vectors: a strip's rows and the panels of the keys have room for them.
    let needed = needed.next_multiple_of(LANES);
    // SAFETY: passed on.
    unsafe { across!(needed, score_tile::<S, ROWS, VECTORS>(s, left, keys, strip, i)) }
}

/// # Safety
/// As [`score_rows`]; columns up to `j + VECTORS * 16` are in the strip and the keys.
#[inline(always)]
unsafe fn score_tile<S: Simd, const ROWS: usize, const VECTORS: usize, const TAIL: bool>(
    s: S,
    left: Left,
    keys: Packed<'_>,
    strip: &Strip<'_>,
    i: usize,
    j: usize,
    _lanes: usize,
) {
    let right = Right { ptr: keys.ptr().wrapping_add(j / PANEL * PANEL * keys.k() + j % PANEL), stride: PANEL };
    // SAFETY: whole vectors of a panel and of the strip's rows, by the caller's word.
    unsafe {
        let acc = chains::<S, ROWS, VECTORS, false>(s, [[s.zero(); VECTORS]; ROWS], keys.k(), left, right, LANES);
        for (r, row) in acc.iter().enumerate() {
            for (v, x) in row.iter().enumerate() {
                s.store(strip.row(i + r).add(j + v * LANES), *x);
            }
        }
    }
}

/// `c[r] = chain(j <= first + r: strip[r, j], b[j]) * factor[r] + 0` (A3), the factor 1 where there is none (A6).
///
/// # Panics
/// If the shapes do not fit.
#[inline(always)]
pub(super) fn row_sums<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    strip: &Strip<'_>,
    b: Mat<'_>,
    factor: Option<&[f32]>,
    c: &mut MatMut<'_>,
) {
    assert_eq!((c.rows(), c.cols()), (strip.rows, b.cols()), "sums of a strip");
    assert!(b.rows() >= strip.last(), "{} rows for position {}", b.rows(), strip.last());
    assert!(factor.is_none_or(|factor| factor.len() >= strip.rows), "factors of a strip");
    let c = (c.ptr(), c.stride());
    // Column by column of `b`, so that a column stays in the cache for all rows.
    // SAFETY: the shapes were checked.
    unsafe { across!(b.cols(), row_sum_columns::<S, ROWS, VECTORS>(s, strip, b, factor, c)) }
}

/// # Safety
/// As checked by [`row_sums`]; the columns from j are in `b` and `c`.
#[inline(always)]
unsafe fn row_sum_columns<S: Simd, const ROWS: usize, const VECTORS: usize, const TAIL: bool>(
    s: S,
    strip: &Strip<'_>,
    b: Mat<'_>,
    factor: Option<&[f32]>,
    c: (*mut f32, usize),
    j: usize,
    lanes: usize,
) {
    // SAFETY: passed on.
    unsafe { cover!(strip.rows, row_sum_tile::<S, ROWS, VECTORS, TAIL>(s, strip, b, factor, c, j, lanes)) }
}

/// # Safety
/// As [`row_sum_columns`]; rows `i..i + ROWS` are in the strip.
#[inline(always)]
unsafe fn row_sum_tile<S: Simd, const ROWS: usize, const VECTORS: usize, const TAIL: bool>(
    s: S,
    strip: &Strip<'_>,
    b: Mat<'_>,
    factor: Option<&[f32]>,
    (c, c_stride): (*mut f32, usize),
    j: usize,
    lanes: usize,
    i: usize,
    _done: usize,
) {
    let left = Left { ptr: strip.row(i), row: strip.stride, step: 1 };
    let right = Right { ptr: b.ptr().wrapping_add(j), stride: b.stride() };
    // SAFETY: keys up to the position of the tile's last row are in the strip and in `b`.
    unsafe {
        let start = [[s.zero(); VECTORS]; ROWS];
        let acc = chains::<S, ROWS, VECTORS, TAIL>(s, start, strip.first + i + ROWS, left, right, lanes);
        for (r, row) in acc.iter().enumerate() {
            let factor = s.splat(if let Some(factor) = factor { *factor.get_unchecked(i + r) } else { 1.0 });
            for (v, x) in row.iter().enumerate() {
                let (x, to) = (s.add(s.mul(*x, factor), s.zero()), c.add((i + r) * c_stride + j + v * LANES));
                if TAIL { s.store_n(to, x, lanes) } else { s.store(to, x) }
            }
        }
    }
}

/// Where the chains of [`column_sums`] stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stage {
    /// They start at +0; else they continue from what `c` holds.
    pub fresh: bool,
    /// They end: +0 is added.
    pub end: bool,
}

/// `c[j] = chain(r with first + r >= j: strip[r, j], b[r])` for the keys up to the strip's last position (A7).
///
/// # Panics
/// If the shapes do not fit.
#[inline(always)]
pub(super) fn column_sums<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    strip: &Strip<'_>,
    b: Mat<'_>,
    stage: Stage,
    c: &mut [f32],
) {
    assert_eq!(b.rows(), strip.rows, "rows of a strip");
    assert!(c.len() >= strip.last() * b.cols(), "{} x {} sums in {} elements", strip.last(), b.cols(), c.len());
    let c = c.as_mut_ptr();
    // SAFETY: the shapes were checked.
    unsafe { cover!(strip.last(), column_sum_rows::<S, ROWS, VECTORS>(s, strip, b, stage, c)) }
}

/// # Safety
/// As checked by [`column_sums`]; keys `j..j + ROWS` are in the strip, and those below `j + done` are complete.
#[inline(always)]
unsafe fn column_sum_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    strip: &Strip<'_>,
    b: Mat<'_>,
    stage: Stage,
    c: *mut f32,
    j: usize,
    done: usize,
) {
    // SAFETY: passed on.
    unsafe { across!(b.cols(), column_sum_tile::<S, ROWS, VECTORS>(s, strip, b, stage, c, j, done)) }
}

/// # Safety
/// As [`column_sum_rows`]; the columns from i are in `b`.
#[inline(always)]
unsafe fn column_sum_tile<S: Simd, const ROWS: usize, const VECTORS: usize, const TAIL: bool>(
    s: S,
    strip: &Strip<'_>,
    b: Mat<'_>,
    stage: Stage,
    c: *mut f32,
    j: usize,
    done: usize,
    i: usize,
    lanes: usize,
) {
    // Queries before key j see none of the tile's keys.
    let begin = j.saturating_sub(strip.first);
    let left = Left { ptr: strip.row(begin).wrapping_add(j), row: 1, step: strip.stride };
    let right = Right { ptr: b.ptr().wrapping_add(begin * b.stride() + i), stride: b.stride() };
    // SAFETY: rows from `begin` on are in the strip and in `b`, the tile's keys in the strip's rows and in `c`.
    unsafe {
        let mut acc = [[s.zero(); VECTORS]; ROWS];
        if !stage.fresh {
            for (r, row) in acc.iter_mut().enumerate() {
                for (v, x) in row.iter_mut().enumerate() {
                    let from = c.add((j + r) * b.cols() + i + v * LANES);
                    *x = if TAIL { s.load_n(from, lanes) } else { s.load(from) };
                }
            }
        }
        let acc = chains::<S, ROWS, VECTORS, TAIL>(s, acc, strip.rows - begin, left, right, lanes);
        for (r, row) in acc.iter().enumerate() {
            // Not by `skip`: an index that is not known at compile time sends all accumulators through memory.
            if r < done {
                continue;
            }
            for (v, x) in row.iter().enumerate() {
                let x = if stage.end { s.add(*x, s.zero()) } else { *x };
                let to = c.add((j + r) * b.cols() + i + v * LANES);
                if TAIL { s.store_n(to, x, lanes) } else { s.store(to, x) }
            }
        }
    }
}
