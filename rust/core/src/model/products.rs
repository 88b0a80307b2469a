//! What is multiplied with weights, in f32 or in integers, as the weights are packed.

use std::ops::Range;
use symlm_kernels::gemm::int16;
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
