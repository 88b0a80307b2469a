//! Where the activations of the sectors in flight lie.
//!
//! A slot holds one sector: every buffer is a matrix of `rows` = windows x positions, so that a sector's tokens are
//! consecutive rows and a weight gradient sees one matrix. Several buffers change their meaning under way: the
//! gradient of a row takes the place of the value once nobody reads the value again.

use crate::config::ModelConfig;
use crate::system::arena::row_stride;

/// A matrix inside a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    /// First element, from the start of the slot.
    pub offset: usize,
    /// Columns.
    pub cols: usize,
    /// Distance between rows.
    pub stride: usize,
}

/// Buffers of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerBuffers {
    /// Layer input; then the gradient at the layer input. Layer 0's lies in the embedding arena instead.
    pub x: Buffer,
    /// Normalised input of the attention.
    pub attention_normed: Buffer,
    /// Rotated queries and keys, values; then their gradients, finally before the rotation.
    pub qkv: Buffer,
    /// Attention output before the projection.
    pub attended: Buffer,
    /// Residual stream after the attention; then its gradient.
    pub middle: Buffer,
    /// Normalised input of the MLP.
    pub mlp_normed: Buffer,
    /// Gate and up; then their gradients.
    pub gate_up: Buffer,
    /// SwiGLU output.
    pub hidden: Buffer,
    /// 1 / rms of the attention norm, one value a row.
    pub attention_rstd: usize,
    /// 1 / rms of the MLP norm.
    pub mlp_rstd: usize,
    /// Largest score per head and row: `[window][head][position]`.
    pub maximum: usize,
    /// Inverse softmax sum, as `maximum`.
    pub inverse_sum: usize,
}

/// One slot.
#[derive(Clone, Debug)]
pub(crate) struct SlotLayout {
    pub layers: Vec<LayerBuffers>,
    /// Output of the last layer; then its gradient.
    pub last: Buffer,
    /// Final norm's output.
    pub normed: Buffer,
    /// 1 / rms of the final norm.
    pub rstd: usize,
    /// Gradient at a norm's output.
    pub d_normed: Buffer,
    /// Gradient at the SwiGLU output.
    pub d_hidden: Buffer,
    /// Gradient at the attention output.
    pub d_attended: Buffer,
    /// Elements of a slot.
    pub len: usize,
}

struct Allocator {
    rows: usize,
    next: usize,
}

impl Allocator {
    fn matrix(&mut self, cols: usize) -> Buffer {
        let stride = row_stride(cols);
        Buffer { offset: self.vector(self.rows * stride), cols, stride }
    }
    fn vector(&mut self, len: usize) -> usize {
        let offset = self.next;
        self.next += len.next_multiple_of(16);
        offset
    }
}

impl SlotLayout {
    /// A slot for up to `rows` tokens.
    pub fn new(c: &ModelConfig, rows: usize) -> Self {
        let mut a = Allocator { rows, next: 0 };
        let (d, f) = (c.hidden_size, c.intermediate_size);
        let layers = (0..c.num_layers)
            .map(|l| LayerBuffers {
                x: if l == 0 { Buffer { offset: 0, cols: d, stride: row_stride(d) } } else { a.matrix(d) },
                attention_normed: a.matrix(d),
                qkv: a.matrix(d + 2 * c.kv_size()),
                attended: a.matrix(d),
                middle: a.matrix(d),
                mlp_normed: a.matrix(d),
                gate_up: a.matrix(2 * f),
                hidden: a.matrix(f),
                attention_rstd: a.vector(rows),
                mlp_rstd: a.vector(rows),
                maximum: a.vector(rows * c.num_heads),
                inverse_sum: a.vector(rows * c.num_heads),
            })
            .collect();
        let (last, normed, rstd) = (a.matrix(d), a.matrix(d), a.vector(rows));
        let (d_normed, d_hidden, d_attended) = (a.matrix(d), a.matrix(f), a.matrix(d));
        Self { layers, last, normed, rstd, d_normed, d_hidden, d_attended, len: a.next }
    }
}
