//! Products of a single row with packed weights: what the generation of one text consists of.
//!
//! ```text
//! for two panels:  for k:  acc[v] = fma(x[k], b[k][v], acc[v])      four vectors of each panel's row, or two
//! ```
//!
//! Every weight is used once, so the memory sets the pace, not the arithmetic. Two panels at a time are four chains, which wait for
//! each other no longer than their operands take to come, and two streams for the prefetcher; what it would see too late, at the
//! ends of pages, is asked for here.

use super::pack::PANEL;
use super::{At, Right};
use crate::simd::{Kernel, LANES, Simd};

/// Rows of a panel that are asked for before they are used: 4 KB of it.
const AHEAD: usize = 32;

/// `c = x b`, or `add + x b`; `b` is packed, and x has its k elements.
pub(super) struct Row<'a> {
    pub x: *const f32,
    pub b: Right<'a>,
    pub add: At,
    pub c: At,
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut j = 0;
        while j + 2 * PANEL <= self.b.n {
            self.panels::<S, 2>(s, j);
            j += 2 * PANEL;
        }
        while j < self.b.n {
            self.panels::<S, 1>(s, j);
            j += PANEL;
        }
    }
}

impl Row<'_> {
    /// The columns of `PANELS` panels from j on, as far as there are any.
    #[inline(always)]
    fn panels<S: Simd, const PANELS: usize>(&self, s: S, j: usize) {
        let mut acc = [[s.zero(); 2]; PANELS];
        let mut panels = [std::ptr::null(); PANELS];
        for (i, panel) in panels.iter_mut().enumerate() {
            *panel = self.b.column(j + i * PANEL);
        }
        for p in 0..self.b.k {
            // SAFETY: element p of the row, and row p of panels that exist, whole even where columns are missing.
            unsafe {
                let x = s.splat(*self.x.add(p));
                for (acc, panel) in acc.iter_mut().zip(panels) {
                    let row = panel.wrapping_add(p * PANEL);
                    s.prefetch_near(row.wrapping_add(AHEAD * PANEL));
                    s.prefetch_near(row.wrapping_add(AHEAD * PANEL + LANES));
                    acc[0] = s.fma(x, s.load(row), acc[0]);
                    acc[1] = s.fma(x, s.load(row.add(LANES)), acc[1]);
                }
            }
        }
        for (i, x) in acc.iter().flatten().enumerate() {
            let first = j + i * LANES;
            let lanes = self.b.n.saturating_sub(first).min(LANES);
            if lanes == 0 {
                break;
            }
            // SAFETY: columns `first..first + lanes` of the result, and of what is added if there is any.
            unsafe {
                let add = self.add.element(0, first);
                let x = if add.is_null() { *x } else { s.add(s.load_n(add, lanes), *x) };
                s.store_n(self.c.element(0, first), x, lanes);
            }
        }
    }
}
