//! Attention of single query rows over keys and values that lie in pages of [`PANEL`] positions (contract A1 to A3).
//!
//! ```text
//! for each query head:                 for each page:  s[32] = chain(i: q[i], keys[i])
//!                                      m = max s * f,  e = exp(s * f - m),  z = 1 / sum(e)
//! for four heads, for two vectors:     out = chain(pages, positions: e, values) * z + 0
//! ```
//!
//! Text is generated a position at a time, so a strip is one row and a chain over the positions is bound by latency: heads, which
//! do not depend on each other, run side by side. Every chain and sum is that of a strip, so the bits are, too.

use super::score_scale;
use super::tile::Strip;
use crate::gemm::PANEL;
use crate::math;
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};

/// Elements of a key/value head in a page: keys `[element][position]`, then values `[position][element]`.
pub fn page_len(head_dim: usize) -> usize {
    2 * PANEL * head_dim
}

/// Keys and values of some neighbouring key/value heads for positions `0..last`.
#[derive(Clone, Copy)]
pub struct Paged<'a> {
    pages: &'a [*const f32],
    /// Where the first of the heads begins in a page.
    at: usize,
    heads: usize,
    head_dim: usize,
    last: usize,
}

impl<'a> Paged<'a> {
    /// Heads whose regions of [`page_len`] elements begin `at` elements behind the start of each page.
    ///
    /// # Safety
    /// The regions of all heads in the first `last / 32` pages, rounded up, are readable, and nobody writes them meanwhile.
    ///
    /// # Panics
    /// If there are not so many pages.
    pub unsafe fn new(pages: &'a [*const f32], at: usize, heads: usize, head_dim: usize, last: usize) -> Self {
        assert!(pages.len() >= last.div_ceil(PANEL), "{} pages for {last} positions", pages.len());
        Self { pages, at, heads, head_dim, last }
    }

    /// Keys of a head in a page.
    #[inline(always)]
    fn keys(&self, page: usize, head: usize) -> *const f32 {
        self.pages[page].wrapping_add(self.at + head * page_len(self.head_dim))
    }

    /// Values of a head in a page.
    #[inline(always)]
    fn values(&self, page: usize, head: usize) -> *const f32 {
        self.keys(page, head).wrapping_add(PANEL * self.head_dim)
    }

    /// Copies a head to where its pages follow each other: keys packed, values in rows.
    ///
    /// # Panics
    /// If there is no such head, or too little room.
    pub fn gather(&self, head: usize, keys: &mut [f32], values: &mut [f32]) {
        assert!(head < self.heads, "head {head} of {}", self.heads);
        let len = PANEL * self.head_dim;
        let pages = 0..self.last.div_ceil(PANEL);
        for ((page, keys), values) in pages.zip(keys.chunks_exact_mut(len)).zip(values.chunks_exact_mut(len)) {
            // SAFETY: the head's region of the page is readable by the promise of `new`.
            let (from_keys, from_values) = unsafe {
                (
                    std::slice::from_raw_parts(self.keys(page, head), len),
                    std::slice::from_raw_parts(self.values(page, head), len),
                )
            };
            keys.copy_from_slice(from_keys);
            values.copy_from_slice(from_values);
        }
    }
}

/// Elements of scratch memory that [`row_forward`] needs for so many query heads and positions.
pub fn row_len(heads: usize, last: usize) -> usize {
    heads * Strip::stride(last) + heads
}

/// Attention of one row: `group` query heads to each head of `cache`, whose last position is the row's.
///
/// `q` and `out` have `head_dim` elements for each query head.
///
/// # Panics
/// If the lengths do not fit.
pub fn row_forward(isa: Isa, q: &[f32], group: usize, cache: Paged<'_>, out: &mut [f32], scratch: &mut [f32]) {
    let heads = cache.heads * group;
    assert_eq!((q.len(), out.len()), (heads * cache.head_dim, heads * cache.head_dim), "query heads of a row");
    assert!(cache.last > 0 && scratch.len() >= row_len(heads, cache.last), "scratch of {heads} heads");
    let (strips, inverse) = scratch.split_at_mut(heads * Strip::stride(cache.last));
    dispatch(isa, RowForward { q, group, cache, out, strips, inverse });
}

struct RowForward<'a> {
    q: &'a [f32],
    group: usize,
    cache: Paged<'a>,
    out: &'a mut [f32],
    strips: &'a mut [f32],
    inverse: &'a mut [f32],
}

impl Kernel for RowForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let heads = self.cache.heads * self.group;
        for head in 0..heads {
            self.scores(s, head);
            self.softmax(s, head);
        }
        let mut head = 0;
        // As many accumulators as latency asks for, if there are registers.
        while S::TILE_ROWS >= 6 && head + 4 <= heads {
            self.sums::<S, 4>(s, head);
            head += 4;
        }
        while head < heads {
            self.sums::<S, 1>(s, head);
            head += 1;
        }
    }
}

impl RowForward<'_> {
    #[inline(always)]
    fn strip(&mut self, head: usize) -> &mut [f32] {
        let stride = Strip::stride(self.cache.last);
        &mut self.strips[head * stride..][..stride]
    }

    #[inline(always)]
    fn scores<S: Simd>(&mut self, s: S, head: usize) {
        let (cache, d) = (self.cache, self.cache.head_dim);
        let q = &self.q[head * d..][..d];
        let kv = head / self.group;
        let stride = Strip::stride(cache.last);
        let to = self.strips[head * stride..][..stride].as_mut_ptr();
        for page in 0..cache.last.div_ceil(PANEL) {
            let keys = cache.keys(page, kv);
            let (mut low, mut high) = (s.zero(), s.zero());
            for (i, x) in q.iter().enumerate() {
                // SAFETY: element i of 32 positions of a page, readable by the promise of `Paged::new`.
                unsafe {
                    let x = s.splat(*x);
                    low = s.fma(x, s.load(keys.add(i * PANEL)), low);
                    high = s.fma(x, s.load(keys.add(i * PANEL + LANES)), high);
                }
            }
            // SAFETY: a strip holds whole vectors up to its last position.
            unsafe {
                s.store(to.add(page * PANEL), low);
                if page * PANEL + LANES < cache.last {
                    s.store(to.add(page * PANEL + LANES), high);
                }
            }
        }
    }

    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, head: usize) {
        let last = self.cache.last;
        let factor = s.splat(score_scale(self.cache.head_dim));
        let strip = self.strip(head).as_mut_ptr();
        let seen = |j: usize| s.first_n(last - j);
        let mut top = s.splat(f32::NEG_INFINITY);
        for j in (0..last).step_by(LANES) {
            // SAFETY: a whole vector of the strip, as below.
            let x = unsafe { s.load(strip.add(j)) };
            let x = if j + LANES > last { s.select(seen(j), x, s.splat(f32::NEG_INFINITY)) } else { x };
            top = s.max(x, top);
        }
        let mut most = f32::NEG_INFINITY;
        for x in s.to_array(top) {
            most = if x > most { x } else { most };
        }
        let top = s.mul(s.splat(most), factor);
        let mut sum = s.zero();
        let mut j = 0;
        // Four exponentials run side by side; their sum has its order.
        while j + 4 * LANES <= last {
            let mut x = [s.zero(); 4];
            for (i, x) in x.iter_mut().enumerate() {
                // SAFETY: as above.
                *x = s.sub(s.mul(unsafe { s.load(strip.add(j + i * LANES)) }, factor), top);
            }
            for (i, e) in math::exp_bounded(s, x).into_iter().enumerate() {
                sum = s.add(sum, e);
                // SAFETY: as above.
                unsafe { s.store(strip.add(j + i * LANES), e) };
            }
            j += 4 * LANES;
        }
        while j < last {
            // SAFETY: as above.
            let x = s.sub(s.mul(unsafe { s.load(strip.add(j)) }, factor), top);
            let e = math::exp_bounded(s, [x])[0];
            let e = if j + LANES > last { s.keep(seen(j), e) } else { e };
            sum = s.add(sum, e);
            // SAFETY: as above.
            unsafe { s.store(strip.add(j), e) };
            j += LANES;
        }
        self.inverse[head] = s.to_array(s.div(s.splat(1.0), s.splat(math::fold16(s.to_array(sum)))))[0];
    }

    #[inline(always)]
    fn sums<S: Simd, const HEADS: usize>(&mut self, s: S, head: usize) {
        let d = self.cache.head_dim;
        let mut j = 0;
        while S::TILE_VECTORS == 2 && j + 2 * LANES <= d {
            self.columns::<S, HEADS, 2>(s, head, j, LANES);
            j += 2 * LANES;
        }
        while j < d {
            self.columns::<S, HEADS, 1>(s, head, j, (d - j).min(LANES));
            j += LANES;
        }
    }

    /// Columns from j on, `VECTORS` vectors of them, the last one of so many lanes.
    #[inline(always)]
    fn columns<S: Simd, const HEADS: usize, const VECTORS: usize>(
        &mut self,
        s: S,
        head: usize,
        j: usize,
        lanes: usize,
    ) {
        let (cache, d, stride) = (self.cache, self.cache.head_dim, Strip::stride(self.cache.last));
        let mut acc = [[s.zero(); VECTORS]; HEADS];
        for page in 0..cache.last.div_ceil(PANEL) {
            let mut values = [std::ptr::null(); HEADS];
            for (h, values) in values.iter_mut().enumerate() {
                *values = cache.values(page, (head + h) / self.group).wrapping_add(j);
            }
            let weights = self.strips.as_ptr().wrapping_add(head * stride + page * PANEL);
            for p in 0..PANEL.min(cache.last - page * PANEL) {
                for h in 0..HEADS {
                    // SAFETY: position p of a page, which is not behind the last one, and columns of its values.
                    unsafe {
                        let x = s.splat(*weights.add(h * stride + p));
                        for (v, acc) in acc[h].iter_mut().enumerate() {
                            let value = values[h].add(p * d + v * LANES);
                            let value = if VECTORS == 1 { math::load(s, value, lanes) } else { s.load(value) };
                            *acc = s.fma(x, value, *acc);
                        }
                    }
                }
            }
        }
        for (h, row) in acc.iter().enumerate() {
            let inverse = s.splat(self.inverse[head + h]);
            let to = self.out[(head + h) * d + j..][..(VECTORS - 1) * LANES + lanes].as_mut_ptr();
            for (v, x) in row.iter().enumerate() {
                let x = s.add(s.mul(*x, inverse), s.zero());
                // SAFETY: columns of the head that were just cut out.
                unsafe { math::store(s, to.add(v * LANES), x, if VECTORS == 1 { lanes } else { LANES }) };
            }
        }
    }
}
