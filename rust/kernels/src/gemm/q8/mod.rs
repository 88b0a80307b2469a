//! Products with 8-bit weights (contract, "8-bit weights").
//!
//! ```text
//! for each panel of 32 columns of W, for rows of x, as many as a tile has:
//!     for each group of 32 of k:   sum = integers, exact
//!                                  c = fma(f32(sum), scale of the column * scale of the row, c)
//! ```
//!
//! A group of weights has a scale of f16, a group of activations one of f32. An integer sum is exact in any order, so that the
//! instructions are free; what follows it is one chain over the groups, as in an f32 product.
//!
//! A panel of 32 columns is, for each group of k, eight rows of four weights of each column, then their scales: 34 bytes for 32
//! weights, as in a Q8_0 file, read from the first to the last. Weights are stored with 128 added, as unsigned bytes: the dot product
//! of unsigned and signed bytes (VNNI) then takes them as they are, -128 included, and what they have too much, 128 times the sum of
//! the activations, is the same for all columns, so the sums start at its negative. The instructions of AVX2 saturate: there the
//! weight gives up its sign to the activation, which is at most 127 and can take it.

mod ops;
mod product;
mod quantise;

pub use product::product;
pub use quantise::{Quantised, QuantisedMut, clear, pack_blocks, quantise_blocks, quantise_rows, unpack_row};

use super::pack::PANEL;

/// Elements of k that share a scale.
pub const GROUP: usize = 32;

/// Bytes of a Q8_0 block: a scale in f16, then 32 signed bytes.
pub const BLOCK_BYTES: usize = 34;

/// Bytes of a group of a panel: 32 columns of 32 weights, then 32 scales.
const PANEL_GROUP: usize = PANEL * BLOCK_BYTES;

/// Where the scales of a group of a panel begin.
const SCALES_AT: usize = PANEL * GROUP;

/// Groups of a row of `k` elements.
pub fn groups(k: usize) -> usize {
    k.div_ceil(GROUP)
}

/// Bytes of a packed matrix of k inputs and n outputs.
pub fn packed_bytes(k: usize, n: usize) -> usize {
    n.div_ceil(PANEL) * groups(k) * PANEL_GROUP
}

/// A packed matrix.
#[derive(Clone, Copy)]
pub struct Panels<'a> {
    bytes: &'a [u8],
    k: usize,
    n: usize,
}

impl<'a> Panels<'a> {
    /// View of [`packed_bytes`] bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn new(bytes: &'a [u8], k: usize, n: usize) -> Self {
        assert!(bytes.len() >= packed_bytes(k, n), "8-bit {k} x {n} in {} bytes", bytes.len());
        Self { bytes, k, n }
    }
    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }
    /// A panel.
    fn panel(&self, panel: usize) -> &'a [u8] {
        let len = groups(self.k) * PANEL_GROUP;
        &self.bytes[panel * len..][..len]
    }
    /// Outputs `range`, which begins at a multiple of 32.
    ///
    /// # Panics
    /// If it does not, or ends beyond the last one.
    pub fn columns(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start.is_multiple_of(PANEL) && range.end <= self.n, "columns {range:?} of {}", self.n);
        let first = range.start / PANEL * groups(self.k) * PANEL_GROUP;
        Self { bytes: &self.bytes[first..], n: range.len(), ..*self }
    }
}

/// The value of an f16, exactly.
fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, u32::from(bits >> 10 & 31), u32::from(bits & 1023));
    let magnitude = match exponent {
        // 2^-24 is a unit of the last place.
        0 => (fraction as f32 * f32::from_bits(103 << 23)).to_bits(),
        31 => 255 << 23 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}
