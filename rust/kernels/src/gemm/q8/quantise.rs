//! From f32 to 8-bit integers, and from the blocks of a file to panels.

use super::product::{Step, run};
use super::{BLOCK_BYTES, GROUP, PANEL_GROUP, Panels, SCALES_AT, groups, half, ops::Bytes};
use crate::gemm::pack::PANEL;
use crate::math::load;
use crate::simd::{Integers, LANES, Simd};
use crate::{Mat, vectors};

/// Rows of 8-bit integers in groups of 32, with the scale of each.
#[derive(Clone, Copy)]
pub struct Quantised<'a> {
    /// Whole groups, row by row; those beyond the last column are 0.
    pub(super) integers: &'a [i8],
    /// Of the groups, row by row.
    pub(super) scales: &'a [f32],
    /// -128 times the sum of each group.
    pub(super) starts: &'a [i32],
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// Memory for [`Quantised`].
#[derive(Default)]
pub struct QuantisedMut {
    integers: Vec<i8>,
    scales: Vec<f32>,
    starts: Vec<i32>,
}

impl QuantisedMut {
    /// For so many rows of at most so many columns.
    pub fn new(rows: usize, cols: usize) -> Self {
        let groups = rows * groups(cols);
        Self { integers: vec![0; groups * GROUP], scales: vec![0.0; groups], starts: vec![0; groups] }
    }
}

/// Scale of a group whose largest magnitude has these bits, and the factor of its values (contract Q2).
#[inline(always)]
fn scale_of(largest: u32) -> (f32, f32) {
    match largest >> 23 {
        255 => (f32::NAN, 0.0),
        // Below 2^-100, so that the factor is a number.
        0..27 => (0.0, 0.0),
        _ => (f32::from_bits(largest) / 127.0, 127.0 / f32::from_bits(largest)),
    }
}

/// Quantises the rows of `x` (contract Q2, Q3).
///
/// # Panics
/// If there is too little room.
pub fn quantise_rows<'a>(kind: Integers, x: Mat<'_>, to: &'a mut QuantisedMut) -> Quantised<'a> {
    let (rows, cols) = (x.rows(), x.cols());
    let count = rows * groups(cols);
    assert!(to.scales.len() >= count, "{rows} x {cols} in {} groups", to.scales.len());
    run(kind, Rows { x, to });
    let (integers, scales, starts) = (&to.integers[..count * GROUP], &to.scales[..count], &to.starts[..count]);
    Quantised { integers, scales, starts, rows, cols }
}

struct Rows<'a> {
    x: Mat<'a>,
    to: &'a mut QuantisedMut,
}

impl Step for Rows<'_> {
    #[inline(always)]
    fn run<S: Simd, B: Bytes<S>, const ROWS: usize, const VECTORS: usize>(self, s: S) {
        let (cols, groups) = (self.x.cols(), groups(self.x.cols()));
        for row in 0..self.x.rows() {
            let x = self.x.row(row);
            for (number, x) in x.chunks(GROUP).enumerate() {
                let group = row * groups + number;
                let mut top = s.zero();
                vectors!(x.len(), i, lanes, {
                    // SAFETY: i + lanes <= x.len().
                    top = s.max_bits(top, unsafe { load(s, x.as_ptr().add(i), lanes) });
                });
                let mut largest = 0;
                for lane in s.to_array(top) {
                    largest = lane.to_bits().max(largest);
                }
                let (scale, factor) = scale_of(largest);
                let (factor, mut sum) = (s.splat(factor), s.zero());
                let to = self.to.integers[group * GROUP..][..GROUP].as_mut_ptr();
                for i in (0..GROUP).step_by(LANES) {
                    let lanes = x.len().saturating_sub(i).min(LANES);
                    // SAFETY: i + lanes <= x.len(), or no lane at all; the group has 32 integers.
                    unsafe {
                        let x = if lanes == 0 { s.zero() } else { load(s, x.as_ptr().add(i), lanes) };
                        let integers = s.to_ints(s.mul(x, factor));
                        sum = B::add(s, sum, integers);
                        B::store_bytes(s, to.add(i), integers);
                    }
                }
                let mut total = 0_i32;
                for lane in s.to_array(sum) {
                    total = total.wrapping_add(lane.to_bits().cast_signed());
                }
                self.to.scales[group] = scale;
                self.to.starts[group] = total.wrapping_mul(-128);
            }
        }
        debug_assert!(cols > 0 || groups == 0);
    }
}

/// Makes all weights and scales of panels 0.
pub fn clear(panels: &mut [u8]) {
    for group in panels.chunks_exact_mut(PANEL_GROUP) {
        group[..SCALES_AT].fill(128);
        group[SCALES_AT..].fill(0);
    }
}

/// Packs rows of Q8_0 blocks, `groups(k)` for each, as outputs `first..` of panels that were [`clear`]ed.
///
/// # Panics
/// If these are not whole rows, or there are too many.
pub fn pack_blocks(blocks: &[u8], k: usize, first: usize, panels: &mut [u8]) {
    let groups = groups(k);
    assert!(blocks.len().is_multiple_of(groups * BLOCK_BYTES), "{} bytes of blocks of rows of {k}", blocks.len());
    for (row, blocks) in blocks.chunks_exact(groups * BLOCK_BYTES).enumerate() {
        let (panel, column) = ((first + row) / PANEL, (first + row) % PANEL);
        for (g, block) in blocks.chunks_exact(BLOCK_BYTES).enumerate() {
            let to = &mut panels[(panel * groups + g) * PANEL_GROUP..][..PANEL_GROUP];
            for (i, four) in block[2..].chunks_exact(4).enumerate() {
                for (to, x) in to[(i * PANEL + column) * 4..][..4].iter_mut().zip(four) {
                    *to = x ^ 128;
                }
            }
            to[SCALES_AT + 2 * column..][..2].copy_from_slice(&block[..2]);
        }
    }
}

/// Quantises a row of weights as Q8_0 blocks (contract Q1), the last one filled up with 0.
pub fn quantise_blocks(row: &[f32], out: &mut Vec<u8>) {
    for x in row.chunks(GROUP) {
        let largest = x.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
        let nan = x.iter().any(|x| !x.is_finite());
        let scale = if nan { f32::NAN } else { largest / 127.0 };
        let factor = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        out.extend_from_slice(&half_bits(scale).to_le_bytes());
        // Away from zero at ties, as llama.cpp.
        let integer = |x: &f32| (x * factor).round().clamp(-127.0, 127.0) as i8;
        out.extend(x.iter().map(|x| integer(x).cast_unsigned()));
        out.resize(out.len() + GROUP - x.len(), 0);
    }
}

/// The nearest f16, ties to even.
fn half_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let (sign, magnitude) = ((bits >> 16 & 0x8000) as u16, bits & 0x7FFF_FFFF);
    if magnitude > 0x7F80_0000 {
        return sign | 0x7E00;
    }
    // The value in units of the last place, at most 2^11 of them, by which the exponent is implied.
    let exponent = (magnitude >> 23).max(113);
    let unit = f32::from_bits((exponent - 10) << 23);
    let units = f32::from_bits(magnitude) / unit;
    // Rounds to even.
    let units = (units + 8_388_608.0 - 8_388_608.0) as u32;
    let half = ((exponent - 113) << 10) + units;
    sign | half.min(0x7C00) as u16
}

/// Output `row` of a packed matrix as f32: a row of an embedding.
///
/// # Panics
/// If there is no such row, or `out` does not have k elements.
pub fn unpack_row(panels: Panels<'_>, row: usize, out: &mut [f32]) {
    assert!(row < panels.n() && out.len() == panels.k(), "row {row} of {}", panels.n());
    let column = row % PANEL;
    let bytes = panels.panel(row / PANEL);
    for (group, out) in bytes.chunks_exact(PANEL_GROUP).zip(out.chunks_mut(GROUP)) {
        let at = SCALES_AT + 2 * column;
        let scale = half(u16::from_le_bytes([group[at], group[at + 1]]));
        for (i, x) in out.iter_mut().enumerate() {
            let byte = group[(i / 4 * PANEL + column) * 4 + i % 4];
            *x = f32::from((byte ^ 128).cast_signed()) * scale;
        }
    }
}
