//! One layer of the model, forward and backward.
//!
//! ```text
//! attention_in     n1 = norm(x)        qkv = n1 Wqkvᵀ       q, k = rotated(q), rotated(k)
//!     attention    a = softmax(q kᵀ) v                      the caller's: see below
//! attention_out    middle = x + a Woutᵀ
//! mlp              n2 = norm(middle)   gu = n2 Wguᵀ         h = swiglu(gu)     x' = middle + h Wdownᵀ
//! ```
//!
//! Backward, each function takes the gradient at what its forward namesake gave, from the last to the first. A gradient
//! overwrites the value that nobody reads any more: that of `x'` is where `x'` was, and so on.
//!
//! Attention is between positions, all else row by row. So the caller brings the attention: training has whole windows at hand
//! and saves the statistics of the softmax, generation has a cache of keys and values. Both are kernels of `symlm_kernels::attention`
//! with the same bits.

use super::network::Network;
use super::{GradientRoom, Inputs, LayerMatrices, Operand};
use symlm_kernels::gemm::int16::QuantisedMut;
use symlm_kernels::{Mat, MatMut, mlp, norm, rope};

/// A layer's weights, and what it takes to compute with them.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    network: Network<'a>,
    matrices: LayerMatrices,
    layer: usize,
}

/// What the MLP leaves behind.
pub struct MlpRows<'a> {
    /// Normalised input.
    pub normed: Inputs<'a>,
    /// 1 / rms of each row.
    pub rstd: &'a mut [f32],
    /// Gate and up.
    pub gate_up: MatMut<'a>,
    /// SwiGLU output.
    pub hidden: Inputs<'a>,
}

/// What the way back through the MLP reads and writes.
pub struct MlpGradients<'a> {
    /// 1 / rms of each row.
    pub rstd: &'a [f32],
    /// Gate and up; then their gradients.
    pub gate_up: MatMut<'a>,
    /// Gradient at the SwiGLU output.
    pub d_hidden: MatMut<'a>,
    /// Gradient at the normalised input.
    pub d_normed: MatMut<'a>,
    /// Blocks of the gradient of the norm's weight.
    pub norm_blocks: MatMut<'a>,
}

impl<'a> Block<'a> {
    /// Layer `layer` of a network.
    pub fn new(network: Network<'a>, layer: usize) -> Self {
        Self { network, matrices: network.weights.layout.layers[layer], layer }
    }

    fn attention_norm(&self) -> &'a [f32] {
        self.network.norm(2 * self.layer)
    }

    fn mlp_norm(&self) -> &'a [f32] {
        self.network.norm(2 * self.layer + 1)
    }

    /// Rotated queries and keys, and values, of rows from `position` on.
    pub fn attention_in(&self, x: Mat<'_>, position: usize, normed: Inputs<'_>, rstd: &mut [f32], mut qkv: MatMut<'_>) {
        self.projections(x, normed, rstd, qkv.reborrow());
        self.rotation(qkv, position);
    }

    /// Queries and keys that are not rotated yet, and values.
    pub fn projections(&self, x: Mat<'_>, mut normed: Inputs<'_>, rstd: &mut [f32], qkv: MatMut<'_>) {
        let isa = self.network.isa;
        norm::forward(isa, x, self.attention_norm(), self.network.eps(), normed.values.reborrow(), rstd);
        self.network.forward(normed.operand(isa), self.matrices.qkv, None, qkv);
    }

    /// Rotates queries and keys of rows from `position` on.
    pub fn rotation(&self, mut qkv: MatMut<'_>, position: usize) {
        let Network { isa, weights, rope, .. } = self.network;
        let rotated = qkv.col_range(weights.config.rotated_columns());
        rope::forward(isa, rotated, weights.config.head_dim(), rope, position);
    }

    /// The residual stream behind the attention.
    pub fn attention_out<'b>(
        &self,
        x: Mat<'_>,
        attended: Mat<'b>,
        integers: Option<QuantisedMut<'b>>,
        middle: MatMut<'_>,
    ) {
        let attended = Operand::new(self.network.isa, attended, integers);
        self.network.forward(attended, self.matrices.out, Some(x), middle);
    }

    /// The residual stream behind the MLP.
    pub fn mlp(&self, middle: Mat<'_>, rows: MlpRows<'_>, x: MatMut<'_>) {
        let isa = self.network.isa;
        let MlpRows { mut normed, rstd, mut gate_up, mut hidden } = rows;
        norm::forward(isa, middle, self.mlp_norm(), self.network.eps(), normed.values.reborrow(), rstd);
        self.network.forward(normed.operand(isa), self.matrices.gate_up, None, gate_up.reborrow());
        mlp::forward(isa, gate_up.as_mat(), hidden.values.reborrow());
        self.network.forward(hidden.operand(isa), self.matrices.down, Some(middle), x);
    }

    /// From the gradient behind the MLP to that behind the attention, which takes the place of `middle`.
    pub fn mlp_backward(&self, dx: Mat<'_>, rows: MlpGradients<'_>, middle: MatMut<'_>, room: &mut GradientRoom<'_>) {
        let isa = self.network.isa;
        let MlpGradients { rstd, mut gate_up, mut d_hidden, mut d_normed, norm_blocks } = rows;
        self.network.backward(dx, self.matrices.down, d_hidden.reborrow(), room);
        mlp::backward(isa, d_hidden.as_mat(), gate_up.reborrow());
        self.network.backward(gate_up.as_mat(), self.matrices.gate_up, d_normed.reborrow(), room);
        norm::backward(isa, d_normed.as_mat(), self.mlp_norm(), rstd, Some(dx), middle, norm_blocks);
    }

    /// From the gradient behind the attention to that at its output before the projection.
    pub fn attention_out_backward(&self, d_middle: Mat<'_>, d_attended: MatMut<'_>, room: &mut GradientRoom<'_>) {
        self.network.backward(d_middle, self.matrices.out, d_attended, room);
    }

    /// Gradients of rotated queries and keys become those before the rotation.
    pub fn rotation_backward(&self, mut d_qkv: MatMut<'_>, position: usize) {
        let Network { isa, weights, rope, .. } = self.network;
        let rotated = d_qkv.col_range(weights.config.rotated_columns());
        rope::backward(isa, rotated, weights.config.head_dim(), rope, position);
    }

    /// From the gradients of queries (before the rotation), keys and values, and that behind the attention, to the one at the
    /// layer's input, which takes the place of `x`; `norm_blocks` get that of the norm's weight.
    pub fn attention_in_backward(
        &self,
        d_qkv: Mat<'_>,
        d_middle: Mat<'_>,
        mut d_normed: MatMut<'_>,
        rstd: &[f32],
        x: MatMut<'_>,
        norm_blocks: MatMut<'_>,
        room: &mut GradientRoom<'_>,
    ) {
        let isa = self.network.isa;
        self.network.backward(d_qkv, self.matrices.qkv, d_normed.reborrow(), room);
        norm::backward(isa, d_normed.as_mat(), self.attention_norm(), rstd, Some(d_middle), x, norm_blocks);
    }
}
