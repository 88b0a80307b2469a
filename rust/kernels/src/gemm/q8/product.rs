//! `y = x Wᵀ` over quantised rows and packed weights.

use super::ops::{Bytes, Plain};
use super::{GROUP, PANEL_GROUP, Panels, Quantised, SCALES_AT, groups};
use crate::gemm::pack::PANEL;
use crate::math::{load, store};
use crate::simd::{Integers, LANES, Simd};
use crate::{Mat, MatMut};

/// `c = x b`, and `r + x b` where a residual is given, the sum after the product is complete (contract Q4, G4).
///
/// # Panics
/// If the shapes do not fit.
pub fn product(kind: Integers, x: Quantised<'_>, b: Panels<'_>, r: Option<Mat<'_>>, c: MatMut<'_>) {
    assert_eq!(x.cols, b.k(), "inner sizes");
    assert_eq!((x.rows, b.n()), (c.rows(), c.cols()), "output shape");
    assert!(r.is_none_or(|r| (r.rows(), r.cols()) == (c.rows(), c.cols())), "residual shape");
    run(kind, Product { x, b, r, c });
}

/// Something that is compiled for every instruction set.
pub(super) trait Step {
    /// The body; `ROWS x VECTORS` is the largest tile that the registers hold.
    fn run<S: Simd, B: Bytes<S>, const ROWS: usize, const VECTORS: usize>(self, s: S);
}

/// Runs a step with the instructions of `kind`.
pub(super) fn run<T: Step>(kind: Integers, step: T) {
    assert!(kind.is_available(), "this CPU has no {}", kind.name());
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the features were just detected. All processors with AVX2 convert f16, but it is a feature apart.
        unsafe {
            match kind {
                Integers::Avx512Vnni => return x86::dot_wide(step),
                Integers::AvxVnni if x86::has_f16() => return x86::dot_narrow(step),
                Integers::Avx2 | Integers::Avx512Bw if x86::has_f16() => return x86::signs(step),
                _ => {}
            }
        }
        if kind != Integers::PortableSoft && crate::simd::hardware_fma() {
            // SAFETY: as above.
            return unsafe { x86::plain(step) };
        }
    }
    type Token = crate::simd::Portable<{ cfg!(target_arch = "aarch64") }>;
    step.run::<Token, Plain, 2, 1>(Token::new());
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::ops::{Dot, Plain, Signs};
    use super::Step;
    use crate::simd::{Avx2, Avx512, Portable};

    pub(super) fn has_f16() -> bool {
        std::arch::is_x86_feature_detected!("f16c")
    }

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn dot_wide<T: Step>(step: T) {
        // SAFETY: the caller guarantees the features.
        step.run::<Avx512, Dot, 6, 2>(unsafe { Avx512::new() });
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn dot_narrow<T: Step>(step: T) {
        // SAFETY: as above.
        step.run::<Avx2, Dot, 3, 1>(unsafe { Avx2::new() });
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn signs<T: Step>(step: T) {
        // SAFETY: as above.
        step.run::<Avx2, Signs, 2, 1>(unsafe { Avx2::new() });
    }

    #[target_feature(enable = "avx,fma")]
    pub(super) unsafe fn plain<T: Step>(step: T) {
        step.run::<Portable<true>, Plain, 2, 1>(Portable::new());
    }
}

struct Product<'a> {
    x: Quantised<'a>,
    b: Panels<'a>,
    r: Option<Mat<'a>>,
    c: MatMut<'a>,
}

impl Step for Product<'_> {
    #[inline(always)]
    fn run<S: Simd, B: Bytes<S>, const ROWS: usize, const VECTORS: usize>(mut self, s: S) {
        for panel in 0..self.b.n().div_ceil(PANEL) {
            let bytes = self.b.panel(panel).as_ptr();
            for column in (0..PANEL).step_by(VECTORS * LANES) {
                let first = panel * PANEL + column;
                let left = self.b.n().saturating_sub(first);
                if left == 0 {
                    break;
                }
                let at = Place { panel: bytes, column, first, left };
                // Tiles of nearly the same height: a row or two left over would wait for their own sums.
                let tiles = self.x.rows.div_ceil(ROWS);
                if tiles == 1 {
                    self.tile_of::<S, B, ROWS, VECTORS, true>(s, at, 0..self.x.rows, Ahead::nothing());
                    continue;
                }
                for tile in 0..tiles {
                    let rows = tile * self.x.rows / tiles..(tile + 1) * self.x.rows / tiles;
                    let ahead = match column {
                        0 => Ahead::of(bytes.wrapping_add(groups(self.b.k()) * PANEL_GROUP), tile, tiles),
                        _ => Ahead::nothing(),
                    };
                    self.tile_of::<S, B, ROWS, VECTORS, false>(s, at, rows, ahead);
                }
            }
        }
    }
}

/// The columns of a tile: at most `left` from `first` on, which begin at `column` of their panel.
#[derive(Clone, Copy)]
struct Place {
    panel: *const u8,
    column: usize,
    first: usize,
    left: usize,
}

/// Bytes of a cache line.
const LINE: usize = 64;
/// Cache lines of a group of a panel.
const GROUP_LINES: usize = PANEL_GROUP.div_ceil(LINE);

/// Cache lines of the next panel that a tile asks for with each of its groups. The tiles of a panel ask for all of it: weights come
/// from memory while this panel is computed, not while the first tile of the next one waits.
#[derive(Clone, Copy)]
struct Ahead {
    from: *const u8,
    lines: usize,
}

impl Ahead {
    fn nothing() -> Self {
        Self { from: std::ptr::null(), lines: 0 }
    }

    /// The share of one of so many tiles.
    fn of(next: *const u8, tile: usize, tiles: usize) -> Self {
        let (first, end) = (GROUP_LINES * tile / tiles, GROUP_LINES * (tile + 1) / tiles);
        Self { from: next.wrapping_add(first * LINE), lines: end - first }
    }
}

impl Product<'_> {
    /// A tile of so many rows, at most `ROWS`.
    #[inline(always)]
    fn tile_of<S: Simd, B: Bytes<S>, const ROWS: usize, const VECTORS: usize, const ALONE: bool>(
        &mut self,
        s: S,
        at: Place,
        rows: std::ops::Range<usize>,
        ahead: Ahead,
    ) {
        // ROWS is known when this is compiled, and so are the arms that stay.
        const { assert!(ROWS <= 6, "every height has its arm") };
        debug_assert!((1..=ROWS).contains(&rows.len()), "a tile of {} rows", rows.len());
        match rows.len() {
            6 if ROWS >= 6 => self.tile::<S, B, 6, VECTORS, ALONE>(s, at, rows.start, ahead),
            5 if ROWS >= 5 => self.tile::<S, B, 5, VECTORS, ALONE>(s, at, rows.start, ahead),
            4 if ROWS >= 4 => self.tile::<S, B, 4, VECTORS, ALONE>(s, at, rows.start, ahead),
            3 if ROWS >= 3 => self.tile::<S, B, 3, VECTORS, ALONE>(s, at, rows.start, ahead),
            2 if ROWS >= 2 => self.tile::<S, B, 2, VECTORS, ALONE>(s, at, rows.start, ahead),
            _ => self.tile::<S, B, 1, VECTORS, ALONE>(s, at, rows.start, ahead),
        }
    }

    /// `ROWS` rows from `row` on. A tile that is alone asks for its own weights.
    #[inline(always)]
    fn tile<S: Simd, B: Bytes<S>, const ROWS: usize, const VECTORS: usize, const ALONE: bool>(
        &mut self,
        s: S,
        at: Place,
        row: usize,
        mut ahead: Ahead,
    ) {
        let Place { panel, column, first, left } = at;
        let groups = groups(self.b.k());
        let mut acc = [[s.zero(); VECTORS]; ROWS];
        let (mut weights, mut group) = (panel.wrapping_add(4 * column), row * groups);
        for _ in 0..groups {
            let sums = self.sums::<S, B, ROWS, VECTORS, ALONE>(s, weights, group, groups);
            if !ALONE {
                for line in 0..ahead.lines {
                    s.prefetch(ahead.from.wrapping_add(line * LINE).cast());
                }
                ahead.from = ahead.from.wrapping_add(PANEL_GROUP);
            }
            for v in 0..VECTORS {
                // SAFETY: sixteen of the 32 scales of a group of a panel.
                let scale =
                    unsafe { B::halves(s, weights.wrapping_sub(4 * column).add(SCALES_AT + 2 * (column + v * LANES))) };
                for r in 0..ROWS {
                    // SAFETY: a scale for each group of each row, `row + ROWS` of which exist.
                    let x = s.splat(unsafe { *self.x.scales.get_unchecked(group + r * groups) });
                    acc[r][v] = s.fma(s.ints_to_f32(sums[r][v]), s.mul(scale, x), acc[r][v]);
                }
            }
            weights = weights.wrapping_add(PANEL_GROUP);
            group += 1;
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, x) in acc.iter().enumerate() {
                let lanes = left.saturating_sub(v * LANES).min(LANES);
                if lanes == 0 {
                    continue;
                }
                let at = first + v * LANES;
                // SAFETY: `lanes` columns from `at` on are in the result and in the residual.
                unsafe {
                    let x = match self.r {
                        None => *x,
                        Some(add) => s.add(load(s, add.ptr().add((row + r) * add.stride() + at), lanes), *x),
                    };
                    let to = self.c.ptr().add((row + r) * self.c.stride() + at);
                    store(s, to, x, lanes);
                }
            }
        }
    }

    /// The integer sums of a group.
    #[inline(always)]
    fn sums<S: Simd, B: Bytes<S>, const ROWS: usize, const VECTORS: usize, const ALONE: bool>(
        &self,
        s: S,
        weights: *const u8,
        group: usize,
        groups: usize,
    ) -> [[S::F; VECTORS]; ROWS] {
        // A single row has two sums of each vector, since one would wait for itself.
        let mut sums = [[[s.zero(); VECTORS]; ROWS]; 2];
        if B::BIASED {
            for (r, sums) in sums[0].iter_mut().enumerate() {
                // SAFETY: as for the scales.
                let start = unsafe { *self.x.starts.get_unchecked(group + r * groups) };
                *sums = [s.splat(f32::from_bits(start.cast_unsigned())); VECTORS];
            }
        }
        for four in 0..GROUP / 4 {
            let chain = if ROWS == 1 { four % 2 } else { 0 };
            // SAFETY: a row of a group of a panel, and four activations of each row, `row + ROWS` of which exist.
            unsafe {
                let row = weights.add(four * 4 * PANEL).cast::<f32>();
                if ALONE {
                    s.prefetch_near(row.wrapping_byte_add(2 * PANEL_GROUP));
                }
                if ALONE && VECTORS == 2 {
                    s.prefetch_near(row.wrapping_byte_add(2 * PANEL_GROUP + 64));
                }
                let mut w = [s.zero(); VECTORS];
                for (v, w) in w.iter_mut().enumerate() {
                    *w = s.load(row.add(v * LANES));
                }
                for (r, sums) in sums[chain].iter_mut().enumerate() {
                    let x = self.x.integers.as_ptr().add((group + r * groups) * GROUP + 4 * four);
                    let x = s.splat(x.cast::<f32>().read_unaligned());
                    for (w, sum) in w.iter().zip(sums) {
                        *sum = B::dot(s, *w, x, *sum);
                    }
                }
            }
        }
        let [mut first, second] = sums;
        if ROWS == 1 {
            for (a, b) in first[0].iter_mut().zip(second[0]) {
                *a = B::add(s, *a, b);
            }
        }
        first
    }
}
