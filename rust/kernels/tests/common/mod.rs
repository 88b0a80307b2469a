//! What the kernel tests share: inputs, padded buffers, comparison by bits, the scalar specification.
#![allow(dead_code)] // each test binary uses its part

pub mod chains;
pub mod int16;
pub mod spec;

use symlm_kernels::{Isa, Mat, MatMut};

/// Stands in every element outside of a view: reading it would spoil a result, writing it is seen.
pub const OUTSIDE: f32 = 9.875e29;

/// What this machine can run, or those of them that `SYMLM_TEST_ISAS` names, with commas: an emulated processor is slow.
pub fn isas() -> Vec<Isa> {
    let all = Isa::available();
    let Ok(names) = std::env::var("SYMLM_TEST_ISAS") else { return all };
    let known: Vec<&str> = all.iter().map(|isa| isa.name()).collect();
    let find =
        |name| known.iter().position(|k| *k == name).unwrap_or_else(|| panic!("{name:?}, expected of {known:?}"));
    names.split(',').map(|name| all[find(name)]).collect()
}

/// Linear congruential generator of "Numerical Recipes", 32 bits.
pub struct Lcg(pub u32);

impl Lcg {
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0
    }
    /// A multiple of 2^-22 in [-2, 2).
    pub fn value(&mut self) -> f32 {
        ((self.bits() as i32) >> 8) as f32 / 4_194_304.0
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 8) as usize % n
    }
    /// Zeros of both signs, subnormals, tiny, huge and ordinary values.
    pub fn wild(&mut self) -> f32 {
        let sign = self.bits() & 0x8000_0000;
        let mantissa = (self.bits() >> 9) & 0x007F_FFFF;
        let magnitude = match self.bits() >> 29 {
            0 => [0, 1, 0x007F_FFFF, 0x0080_0000][self.below(4)],
            1 => mantissa,
            2 => ((1 + self.below(253) as u32) << 23) | mantissa,
            3 => ((187 + self.below(20) as u32) << 23) | mantissa,
            _ => ((120 + self.below(12) as u32) << 23) | mantissa,
        };
        f32::from_bits(sign | magnitude)
    }
    pub fn pick(&mut self, wild: bool) -> f32 {
        if wild { self.wild() } else { self.value() }
    }
    pub fn vec(&mut self, n: usize, wild: bool) -> Vec<f32> {
        (0..n).map(|_| self.pick(wild)).collect()
    }
}

/// A matrix with a margin before, between and after its rows.
#[derive(Clone)]
pub struct Buf {
    pub data: Vec<f32>,
    pub rows: usize,
    pub cols: usize,
    stride: usize,
    start: usize,
}

impl Buf {
    pub fn new(rng: &mut Lcg, rows: usize, cols: usize, wild: bool) -> Self {
        let (stride, start) = (cols + rng.below(20), rng.below(5));
        let mut data = vec![OUTSIDE; start + rows * stride + 17];
        for i in 0..rows {
            for j in 0..cols {
                data[start + i * stride + j] = rng.pick(wild);
            }
        }
        Self { data, rows, cols, stride, start }
    }
    pub fn view(&self) -> Mat<'_> {
        Mat::new(&self.data[self.start..], self.rows, self.cols, self.stride)
    }
    pub fn view_mut(&mut self) -> MatMut<'_> {
        MatMut::new(&mut self.data[self.start..], self.rows, self.cols, self.stride)
    }
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[self.start + i * self.stride..][..self.cols]
    }
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[self.start + i * self.stride..][..self.cols]
    }
}

/// Whether two results are the same bits; NaN payloads are outside of the contract.
pub fn same_bits(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Compares whole buffers, so that a change outside of a view shows too.
pub fn assert_same(isa: Isa, what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(same_bits(*g, *w), "{what}[{i}] on {}: {g:e}, specification {w:e}", isa.name());
    }
}
