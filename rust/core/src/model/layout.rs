//! The one table of parameters: name, shape, offset, initialisation, decay; and the matrices that the step multiplies with.

use crate::config::{InitialWeights, ModelConfig, Precision};
use crate::rng::{self, Stream};
use symlm_kernels::gemm::{int16, packed_len};

/// First values of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// All one.
    Ones,
    /// All +0.
    Zeros,
    /// Normal (contract R1).
    Normal,
    /// Normal, or all +0, of the matrices that add to the residual stream (contract R1).
    Residual,
    /// Uniform between this and its negative (contract R5).
    Uniform(f64),
}

impl Initial {
    /// The values from element `start` on of tensor `number`, which is a position in the table of a model.
    pub fn fill(self, how: &Random, number: usize, start: usize, out: &mut [f32]) {
        let (seed, index) = (how.seed, |i: usize| (start + i) as u64);
        let mut normal = |std: f64| {
            for (i, x) in out.iter_mut().enumerate() {
                *x = (rng::normal(seed, Stream::Init, index(i), number as u32) * std) as f32;
            }
        };
        match self {
            Initial::Ones => out.fill(1.0),
            Initial::Zeros => out.fill(0.0),
            Initial::Normal => normal(how.deviation),
            Initial::Residual if how.residual == 0.0 => out.fill(0.0),
            Initial::Residual => normal(how.residual),
            Initial::Uniform(limit) => {
                for (i, x) in out.iter_mut().enumerate() {
                    let [low, high, ..] = rng::draw(seed, Stream::Adapter, index(i), number as u32);
                    *x = ((2.0 * rng::uniform(low, high) - 1.0) * limit) as f32;
                }
            }
        }
    }
}

/// Name of the token embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// What random first values follow from.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    seed: u64,
    /// Standard deviation of matrices.
    deviation: f64,
    /// That of the matrices that add to the residual stream.
    residual: f64,
}

impl Random {
    /// For a model and the settings of a run (contract, "Parameters").
    pub fn new(model: &ModelConfig, how: InitialWeights, seed: u64) -> Self {
        let (deviation, residual) = match how {
            InitialWeights::Gpt2 => (0.02, 0.02 / libm::sqrt(2.0 * model.num_layers as f64)),
            InitialWeights::Width => (1.0 / libm::sqrt(model.hidden_size as f64), 0.0),
        };
        Self { seed, deviation, residual }
    }
}

/// One tensor, named as in `LlamaForCausalLM`.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name in checkpoints.
    pub name: String,
    /// Rows and columns; a vector has one dimension.
    pub shape: Vec<usize>,
    /// First element in the arenas of weights, gradients and moments.
    pub offset: usize,
    /// Its first values.
    pub initial: Initial,
}

impl Param {
    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// What the optimizer treats it as.
    pub fn kind(&self) -> ParamKind {
        match self.shape.len() {
            2 if self.name == EMBEDDING => ParamKind::Embedding,
            2 => ParamKind::Matrix,
            _ => ParamKind::Vector,
        }
    }
}

/// Kinds of tensors with constants of their own in an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// The token embedding, also where it is the output head.
    Embedding,
    /// Every other tensor of two dimensions.
    Matrix,
    /// Norm weights.
    Vector,
}

/// Which matrix of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixId {
    /// Token embedding; also the output head where these are tied.
    Embedding,
    /// Query, key and value projections of a layer, as one matrix.
    Qkv(usize),
    /// Output projection of a layer's attention.
    Out(usize),
    /// Gate and up projections of a layer, as one matrix.
    GateUp(usize),
    /// Down projection of a layer.
    Down(usize),
    /// The output head where it is a separate tensor.
    LmHead,
}

/// A matrix of `rows` outputs and `cols` inputs: one tensor, or several that share their input.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Which.
    pub id: MatrixId,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// First element in the arenas.
    pub offset: usize,
    /// First element of its panels for the forward product (k = inputs), if any.
    pub forward: Option<usize>,
    /// First element of its panels for the input gradient (k = outputs), if any.
    pub backward: Option<usize>,
    /// The first of the scales of its rows, where it is multiplied with as integers.
    pub scales: usize,
}

/// Positions of the four matrices of a layer in [`Layout::matrices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerMatrices {
    /// Query, key and value projections.
    pub qkv: usize,
    /// Output projection of the attention.
    pub out: usize,
    /// Gate and up projections.
    pub gate_up: usize,
    /// Down projection.
    pub down: usize,
}

/// A norm weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormParam {
    /// First element in the arenas.
    pub offset: usize,
}

/// Sizes and places of everything that has the shape of the parameters.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The table, in storage order.
    pub params: Vec<Param>,
    /// The matrices.
    pub matrices: Vec<Matrix>,
    /// Where those of each layer are.
    pub layers: Vec<LayerMatrices>,
    /// Norm weights: `[2 l]` before attention, `[2 l + 1]` before the MLP of layer l, the last one final.
    pub norms: Vec<NormParam>,
    /// Elements of an arena of weights, gradients or moments (with alignment gaps).
    pub len: usize,
    /// Elements of the arena of packed panels.
    pub packed_len: usize,
    /// Scales of the rows of all matrices.
    pub scales_len: usize,
}

/// Tensors start on a cache line.
pub(super) const ALIGN: usize = 16;

struct Builder {
    layout: Layout,
    precision: Precision,
}

impl Builder {
    fn tensor(&mut self, name: String, shape: &[usize], initial: Initial, aligned: bool) -> usize {
        if aligned {
            self.layout.len = self.layout.len.next_multiple_of(ALIGN);
        }
        let offset = self.layout.len;
        self.layout.len += shape.iter().product::<usize>();
        self.layout.params.push(Param { name, shape: shape.to_vec(), offset, initial });
        offset
    }

    fn norm(&mut self, name: String, width: usize) {
        let offset = self.tensor(name, &[width], Initial::Ones, true);
        self.layout.norms.push(NormParam { offset });
    }

    /// Tensors that share their input, one after the other without gaps, are one matrix.
    fn matrix(
        &mut self,
        id: MatrixId,
        parts: &[(String, usize)],
        cols: usize,
        initial: Initial,
        used: [bool; 2],
    ) -> usize {
        let mut first = None;
        for (name, rows) in parts {
            let offset = self.tensor(name.clone(), &[*rows, cols], initial, first.is_none());
            first.get_or_insert(offset);
        }
        let rows = parts.iter().map(|p| p.1).sum();
        let mut place = |used: bool, k: usize, n: usize| {
            used.then(|| {
                let at = self.layout.packed_len;
                self.layout.packed_len += match self.precision {
                    Precision::F32 => packed_len(k, n),
                    Precision::Int16 => int16::packed_len(k, n),
                };
                at
            })
        };
        let (forward, backward) = (place(used[0], cols, rows), place(used[1], rows, cols));
        let (offset, scales) = (first.unwrap_or_default(), self.layout.scales_len);
        self.layout.scales_len += rows;
        self.layout.matrices.push(Matrix { id, rows, cols, offset, forward, backward, scales });
        self.layout.matrices.len() - 1
    }
}

impl Layout {
    /// The table of a model, multiplied with as f32.
    pub fn new(c: &ModelConfig) -> Self {
        Self::of(c, Precision::F32)
    }

    /// The table of a model; panels and scales are those of a precision.
    pub fn of(c: &ModelConfig, precision: Precision) -> Self {
        let empty = Layout {
            params: vec![],
            matrices: vec![],
            layers: vec![],
            norms: vec![],
            len: 0,
            packed_len: 0,
            scales_len: 0,
        };
        let mut b = Builder { layout: empty, precision };
        let (d, f, kv) = (c.hidden_size, c.intermediate_size, c.kv_size());
        let (normal, residual) = (Initial::Normal, Initial::Residual);
        let both = [true, true];
        // The embedding is looked up by rows; only a tied head multiplies with it.
        b.matrix(MatrixId::Embedding, &[(EMBEDDING.into(), c.vocab_size)], d, normal, [c.tie_embeddings; 2]);
        for l in 0..c.num_layers {
            let name = |part: &str| format!("model.layers.{l}.{part}.weight");
            b.norm(name("input_layernorm"), d);
            let parts = [(name("self_attn.q_proj"), d), (name("self_attn.k_proj"), kv), (name("self_attn.v_proj"), kv)];
            let qkv = b.matrix(MatrixId::Qkv(l), &parts, d, normal, both);
            let out = b.matrix(MatrixId::Out(l), &[(name("self_attn.o_proj"), d)], d, residual, both);
            b.norm(name("post_attention_layernorm"), d);
            let parts = [(name("mlp.gate_proj"), f), (name("mlp.up_proj"), f)];
            let gate_up = b.matrix(MatrixId::GateUp(l), &parts, d, normal, both);
            let down = b.matrix(MatrixId::Down(l), &[(name("mlp.down_proj"), d)], f, residual, both);
            b.layout.layers.push(LayerMatrices { qkv, out, gate_up, down });
        }
        b.norm("model.norm.weight".into(), d);
        if !c.tie_embeddings {
            b.matrix(MatrixId::LmHead, &[("lm_head.weight".into(), c.vocab_size)], d, normal, both);
        }
        b.layout.len = b.layout.len.next_multiple_of(ALIGN);
        b.layout
    }

    /// Elements of all tensors, gaps not counted.
    pub fn parameters(&self) -> usize {
        self.params.iter().map(Param::len).sum()
    }

    /// Position of a matrix in [`Layout::matrices`].
    pub fn matrix_index(&self, id: MatrixId) -> usize {
        self.matrices.iter().position(|m| m.id == id).expect("the table has this matrix")
    }

    /// The matrix of the output head.
    pub fn lm_head(&self) -> usize {
        let last = self.matrices.len() - 1;
        if self.matrices[last].id == MatrixId::LmHead { last } else { 0 }
    }
}
