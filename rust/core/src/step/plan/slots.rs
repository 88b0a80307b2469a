//! Where the activations of the sectors in flight lie.
//!
//! A slot holds one sector: every buffer is a matrix of `rows` = windows x positions, so that a sector's tokens are
//! consecutive rows and a weight gradient sees one matrix. Several buffers change their meaning under way: the
//! gradient of a row takes the place of the value once nobody reads the value again.

use crate::config::{ModelConfig, Precision};
use crate::system::arena::row_stride;
use symlm_kernels::gemm::int16;

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

/// Rows that are multiplied with weights, forward and in a weight gradient: their values, or with `int16` their integers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InputBuffer {
    /// Values, or pairs of integers.
    pub buffer: Buffer,
    /// Columns as the product sees them.
    pub cols: usize,
    /// First of the scales of the integers, one a row.
    pub scales: Option<usize>,
}

/// Buffers of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerBuffers {
    /// Layer input; then the gradient at the layer input. Layer 0's lies in the embedding arena instead.
    pub x: Buffer,
    /// Normalised input of the attention.
    pub attention_normed: InputBuffer,
    /// Rotated queries and keys, values; then their gradients, finally before the rotation.
    pub qkv: Buffer,
    /// Attention output before the projection.
    pub attended: Buffer,
    /// The same as the projection reads it: with f32 the same buffer.
    pub attended_input: InputBuffer,
    /// Residual stream after the attention; then its gradient.
    pub middle: Buffer,
    /// Normalised input of the MLP.
    pub mlp_normed: InputBuffer,
    /// Gate and up; then their gradients.
    pub gate_up: Buffer,
    /// SwiGLU output.
    pub hidden: InputBuffer,
    /// 1 / rms of the attention norm, one value a row.
    pub attention_rstd: usize,
    /// 1 / rms of the MLP norm.
    pub mlp_rstd: usize,
    /// Largest score per head and row: `[window][key/value head][document][head of the group][position]`.
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
    pub normed: InputBuffer,
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
    precision: Precision,
}

impl Allocator {
    fn matrix(&mut self, cols: usize) -> Buffer {
        let stride = row_stride(cols);
        Buffer { offset: self.vector(self.rows * stride), cols, stride }
    }
    fn input(&mut self, cols: usize) -> InputBuffer {
        match self.precision {
            Precision::F32 => InputBuffer { buffer: self.matrix(cols), cols, scales: None },
            Precision::Int16 => {
                let buffer = self.matrix(int16::row_pairs(cols));
                InputBuffer { buffer, cols, scales: Some(self.vector(self.rows)) }
            }
        }
    }
    fn attended(&mut self, cols: usize) -> (Buffer, InputBuffer) {
        // The way back through the attention reads the values themselves.
        let buffer = self.matrix(cols);
        match self.precision {
            Precision::F32 => (buffer, InputBuffer { buffer, cols, scales: None }),
            Precision::Int16 => (buffer, self.input(cols)),
        }
    }
    fn vector(&mut self, len: usize) -> usize {
        let offset = self.next;
        self.next += len.next_multiple_of(16);
        offset
    }
}

impl SlotLayout {
    /// A slot for up to `rows` tokens.
    pub fn new(c: &ModelConfig, precision: Precision, rows: usize) -> Self {
        let mut a = Allocator { rows, next: 0, precision };
        let (d, f) = (c.hidden_size, c.intermediate_size);
        let layer = |l| {
            let x = if l == 0 { Buffer { offset: 0, cols: d, stride: row_stride(d) } } else { a.matrix(d) };
            let (attention_normed, qkv) = (a.input(d), a.matrix(d + 2 * c.kv_size()));
            let (attended, attended_input) = a.attended(d);
            LayerBuffers {
                x,
                attention_normed,
                qkv,
                attended,
                attended_input,
                middle: a.matrix(d),
                mlp_normed: a.input(d),
                gate_up: a.matrix(2 * f),
                hidden: a.input(f),
                attention_rstd: a.vector(rows),
                mlp_rstd: a.vector(rows),
                maximum: a.vector(rows * c.num_heads),
                inverse_sum: a.vector(rows * c.num_heads),
            }
        };
        let layers = (0..c.num_layers).map(layer).collect();
        let (last, normed, rstd) = (a.matrix(d), a.input(d), a.vector(rows));
        let (d_normed, d_hidden, d_attended) = (a.matrix(d), a.matrix(f), a.matrix(d));
        Self { layers, last, normed, rstd, d_normed, d_hidden, d_attended, len: a.next }
    }
}
