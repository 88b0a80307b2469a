//! Rotary position embedding in half-rotation order (contract E6, E7, E8; Su et al., "RoFormer", 2021).
//!
//! Pair j of a head is its elements j and j + head_dim/2.
//!
//! ```text
//! for each row, for vector j of pairs:
//!     c, s = cos, sin of the row's position and these pairs
//!     for each head:  x1, x2 = x[j], x[j + head_dim/2]
//!         forward:    x1 * c - x2 * s,  x2 * c + x1 * s
//!         backward:   x1 * c + x2 * s,  x2 * c - x1 * s
//! ```
//!
//! All heads of a row turn by the same angles, so the heads are the inner loop: the table is read once for each row. In half
//! rotation the two elements of sixteen pairs are two whole vectors; neighbours would have to be shuffled.

use crate::math::{load, store};
use crate::simd::{Isa, Kernel, Simd, dispatch};
use crate::{MatMut, vectors};

/// Cosines and sines of every position and pair (E6), rounded from f64; at most 0.5 ulp plus the error of the f64
/// functions of the `libm` crate.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    half: usize,
    positions: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Frequencies stretched for longer contexts than those of the original training, the type "llama3" of `config.json` (E6a).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// Long waves become this many times as long.
    pub factor: f64,
    /// Waves longer than `positions / low` are long.
    pub low: f64,
    /// Waves shorter than `positions / high` stay as they are.
    pub high: f64,
    /// Positions of the first training.
    pub positions: f64,
}

impl Scaling {
    /// The frequency that takes the place of `w` (E6a).
    fn apply(&self, w: f64) -> f64 {
        let wave = 2.0 * std::f64::consts::PI / w;
        if wave < self.positions / self.high {
            w
        } else if wave > self.positions / self.low {
            w / self.factor
        } else {
            let part = (self.positions / wave - self.low) / (self.high - self.low);
            (1.0 - part) * (w / self.factor) + part * w
        }
    }
}

impl Table {
    /// Tables for positions 0..positions: the angle of pair j is `theta^(-2j/head_dim) * position` in f64.
    ///
    /// # Panics
    /// If `head_dim` is odd or zero.
    pub fn new(theta: f64, head_dim: usize, positions: usize) -> Self {
        Self::scaled(theta, head_dim, positions, None)
    }

    /// The same with frequencies that are stretched.
    ///
    /// # Panics
    /// If `head_dim` is odd or zero.
    pub fn scaled(theta: f64, head_dim: usize, positions: usize, scaling: Option<Scaling>) -> Self {
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "rotary embedding needs an even head_dim, got {head_dim}");
        let half = head_dim / 2;
        let plain = (0..half).map(|j| libm::pow(theta, -(2.0 * j as f64) / head_dim as f64));
        let frequencies: Vec<f64> = plain.map(|w| scaling.map_or(w, |scaling| scaling.apply(w))).collect();
        let angles = || (0..positions).flat_map(|p| frequencies.iter().map(move |f| f * p as f64));
        Self {
            half,
            positions,
            cos: angles().map(|a| libm::cos(a) as f32).collect(),
            sin: angles().map(|a| libm::sin(a) as f32).collect(),
        }
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }
    /// Positions that the table covers.
    pub fn positions(&self) -> usize {
        self.positions
    }
    /// Cosines of a position, one per pair.
    ///
    /// # Panics
    /// If the table does not cover the position.
    pub fn cos(&self, position: usize) -> &[f32] {
        &self.cos[position * self.half..][..self.half]
    }
    /// Sines of a position, one per pair.
    ///
    /// # Panics
    /// If the table does not cover the position.
    pub fn sin(&self, position: usize) -> &[f32] {
        &self.sin[position * self.half..][..self.half]
    }
}

/// Rotates each head of each row, in place (E7): `y1 = fma(x1, c, -(x2*s))`, `y2 = fma(x2, c, x1*s)`.
///
/// x is rows x (heads * head_dim); row i stands at position `first_position + i`. Each result is within 1 ulp of
/// `|x1*c| + |x2*s|`.
///
/// # Panics
/// If the shapes do not match or the table does not cover the positions.
pub fn forward(isa: Isa, x: MatMut<'_>, head_dim: usize, table: &Table, first_position: usize) {
    check(&x, head_dim, table, first_position);
    dispatch(isa, Rotate::<true> { x, table, first_position });
}

/// Gradient of [`forward`], in place (E8): `dx1 = fma(dy1, c, dy2*s)`, `dx2 = fma(dy2, c, -(dy1*s))`.
///
/// Shapes, error and panics as there.
///
/// # Panics
/// If the shapes do not match or the table does not cover the positions.
pub fn backward(isa: Isa, dy_to_dx: MatMut<'_>, head_dim: usize, table: &Table, first_position: usize) {
    check(&dy_to_dx, head_dim, table, first_position);
    dispatch(isa, Rotate::<false> { x: dy_to_dx, table, first_position });
}

fn check(x: &MatMut<'_>, head_dim: usize, table: &Table, first_position: usize) {
    assert!(head_dim == table.head_dim(), "head_dim {head_dim} with a table for {}", table.head_dim());
    assert!(x.cols().is_multiple_of(head_dim), "{} columns are not a whole number of heads of {head_dim}", x.cols());
    let covered = first_position.checked_add(x.rows()).is_some_and(|end| end <= table.positions());
    assert!(covered, "{} rows from position {first_position} with a table of {}", x.rows(), table.positions());
}

/// `FORWARD` turns by the angle, otherwise by its negative.
struct Rotate<'a, const FORWARD: bool> {
    x: MatMut<'a>,
    table: &'a Table,
    first_position: usize,
}

impl<const FORWARD: bool> Kernel for Rotate<'_, FORWARD> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let half = self.table.half;
        let heads = self.x.cols() / (2 * half);
        for row in 0..self.x.rows() {
            let (cos, sin) = (self.table.cos(self.first_position + row), self.table.sin(self.first_position + row));
            let x = self.x.row(row).as_mut_ptr();
            vectors!(half, i, lanes, {
                // SAFETY: cos and sin have `half` elements, the row 2 * half * heads, and i + lanes <= half.
                unsafe {
                    let c = load(s, cos.as_ptr().add(i), lanes);
                    let n = load(s, sin.as_ptr().add(i), lanes);
                    for head in 0..heads {
                        let p1 = x.add(2 * half * head + i);
                        let p2 = p1.add(half);
                        let (x1, x2) = (load(s, p1, lanes), load(s, p2, lanes));
                        let (y1, y2) = if FORWARD {
                            (s.fms(x1, c, s.mul(x2, n)), s.fma(x2, c, s.mul(x1, n)))
                        } else {
                            (s.fma(x1, c, s.mul(x2, n)), s.fms(x2, c, s.mul(x1, n)))
                        };
                        store(s, p1, y1, lanes);
                        store(s, p2, y2, lanes);
                    }
                }
            });
        }
    }
}
