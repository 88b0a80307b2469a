//! The model around its layers: embedding, final norm and output head, forward and backward.
//!
//! A pass is `embed`, then each [`Block`](super::Block), then `final_norm` and `logits`. Training and generation call the same
//! functions, on as many rows as they like: every element is its own chain, so no bit depends on the number.

use super::{GradientRoom, Inputs, Operand, Weights};
use symlm_kernels::gemm::{Left, int16, product, product_add};
use symlm_kernels::rope::Table;
use symlm_kernels::{Isa, Mat, MatMut, embedding, norm};

/// Weights that nobody writes meanwhile, and what it takes to compute with them.
#[derive(Clone, Copy)]
pub struct Network<'a> {
    pub(super) isa: Isa,
    pub(super) weights: &'a Weights,
    pub(super) rope: &'a Table,
}

impl<'a> Network<'a> {
    /// # Safety
    /// Nobody writes the weights or their panels as long as this or a [`Block`](super::Block) of it lives.
    pub unsafe fn new(isa: Isa, weights: &'a Weights, rope: &'a Table) -> Self {
        Self { isa, weights, rope }
    }

    pub(super) fn eps(&self) -> f32 {
        self.weights.config.rms_norm_eps as f32
    }

    /// A norm's weight: `2 l` before the attention, `2 l + 1` before the MLP of layer l, the last one final.
    pub(super) fn norm(&self, index: usize) -> &'a [f32] {
        // SAFETY: nobody writes, by the promise of `new`.
        unsafe { self.weights.norm(index) }
    }

    fn last_norm(&self) -> &'a [f32] {
        self.norm(2 * self.weights.config.num_layers)
    }

    /// The residual stream at the first layer: a row of the embedding for each id.
    pub fn embed(&self, ids: &[u32], x: MatMut<'_>) {
        // SAFETY: nobody writes, by the promise of `new`.
        embedding::gather(unsafe { self.weights.embedding() }, ids, x);
    }

    /// `normed = norm(x)` behind the last layer.
    pub fn final_norm<'b>(&self, x: Mat<'_>, mut normed: Inputs<'b>, rstd: &mut [f32]) -> Operand<'b> {
        norm::forward(self.isa, x, self.last_norm(), self.eps(), normed.values.reborrow(), rstd);
        normed.operand(self.isa)
    }

    /// `logits = normed Wᵀ`.
    pub fn logits(&self, normed: Operand<'_>, logits: MatMut<'_>) {
        self.forward(normed, self.weights.layout.lm_head(), None, logits);
    }

    /// The gradient at the normed rows from that at the logits.
    pub fn logits_backward(&self, d_logits: Mat<'_>, d_normed: MatMut<'_>, room: &mut GradientRoom<'_>) {
        self.backward(d_logits, self.weights.layout.lm_head(), d_normed, room);
    }

    /// The gradient behind the last layer takes the place of `x`; `blocks` get that of the norm's weight.
    pub fn final_norm_backward(&self, d_normed: Mat<'_>, rstd: &[f32], x: MatMut<'_>, blocks: MatMut<'_>) {
        norm::backward(self.isa, d_normed, self.last_norm(), rstd, None, x, blocks);
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
