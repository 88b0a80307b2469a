//! Products with weights, in f32 or in integers, as the weights are packed.

use super::network::Network;
use std::ops::Range;
use symlm_kernels::gemm::{Left, int16, product, product_add};
use symlm_kernels::{Isa, Mat, MatMut};

/// Rows to be multiplied with weights: their values, and where their integers go if the weights are integers.
pub struct Inputs<'a> {
    /// The values.
    pub values: MatMut<'a>,
    /// What is multiplied in their place.
    pub integers: Option<int16::QuantisedMut<'a>>,
}

/// Rows that are multiplied with weights.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// As they are.
    Floats(Mat<'a>),
    /// Their integers.
    Integers(int16::Quantised<'a>),
}

impl<'a> From<MatMut<'a>> for Inputs<'a> {
    fn from(values: MatMut<'a>) -> Self {
        Self { values, integers: None }
    }
}

impl<'a> Inputs<'a> {
    /// What is multiplied.
    pub(super) fn operand(self, isa: Isa) -> Operand<'a> {
        Operand::new(isa, self.values.into_mat(), self.integers)
    }
}

impl<'a> Operand<'a> {
    /// The values, quantised if there is a place for integers.
    pub(super) fn new(isa: Isa, values: Mat<'a>, integers: Option<int16::QuantisedMut<'a>>) -> Self {
        match integers {
            None => Operand::Floats(values),
            Some(integers) => Operand::Integers(int16::quantise_rows(isa, values, None, None, integers)),
        }
    }

    /// The columns of `range`, which starts at a multiple of 16.
    pub fn col_range(&self, range: Range<usize>) -> Self {
        match self {
            Operand::Floats(x) => Operand::Floats(x.col_range(range)),
            Operand::Integers(x) => Operand::Integers(x.col_range(range)),
        }
    }

    /// The elements as they lie: values, or pairs of integers.
    pub fn memory(&self) -> Mat<'a> {
        match self {
            Operand::Floats(x) => *x,
            Operand::Integers(x) => x.pairs(),
        }
    }
}

/// Room for the integers of gradients; empty where the weights are f32.
#[derive(Default)]
pub struct GradientRoom<'a> {
    /// For rows times pairs of integers.
    pub pairs: &'a mut [f32],
    /// For rows times blocks.
    pub scales: &'a mut [f32],
}

impl GradientRoom<'_> {
    /// Elements of both for so many rows and columns.
    pub fn elements(rows: usize, cols: usize) -> [usize; 2] {
        [rows * int16::row_pairs(cols), rows * cols.div_ceil(int16::BLOCK)]
    }
}

impl Network<'_> {
    /// `y = x Wᵀ`, added to `residual` if there is one.
    pub(super) fn forward(&self, x: Operand<'_>, matrix: usize, residual: Option<Mat<'_>>, y: MatMut<'_>) {
        match x {
            Operand::Floats(x) => {
                // SAFETY: nobody writes, by the promise of `Network::new`.
                let (x, w) = (Left::Rows(x), unsafe { self.weights.forward(matrix) });
                match residual {
                    None => product(self.isa, x, w, y),
                    Some(residual) => product_add(self.isa, x, w, residual, y),
                }
            }
            Operand::Integers(x) => {
                let integers = self.weights.integers.expect("weights of integers");
                // SAFETY: nobody writes, by the promise of `Network::new`.
                let (w, scales) = unsafe { self.weights.forward_integers(matrix) };
                match residual {
                    None => int16::product(integers, x, w, Some(scales), y),
                    Some(residual) => int16::product_add(integers, x, w, Some(scales), residual, y),
                }
            }
        }
    }

    /// `dx = dy W`.
    pub(super) fn backward(&self, dy: Mat<'_>, matrix: usize, dx: MatMut<'_>, room: &mut GradientRoom<'_>) {
        let Some(integers) = self.weights.integers else {
            // SAFETY: nobody writes, by the promise of `Network::new`.
            return product(self.isa, Left::Rows(dy), unsafe { self.weights.backward(matrix) }, dx);
        };
        // SAFETY: as above.
        let (w, scales) = unsafe { self.weights.backward_integers(matrix) };
        let (rows, cols, width) = (dy.rows(), dy.cols(), int16::row_pairs(dy.cols()));
        let pairs = MatMut::new(room.pairs, rows, width, width);
        let to = int16::QuantisedMut::new(pairs, cols, &mut room.scales[..rows * cols.div_ceil(int16::BLOCK)]);
        let dy = int16::quantise_rows(self.isa, dy, Some(scales), Some(int16::BLOCK), to);
        int16::product(integers, dy, w, None, dx);
    }
}
