//! What an engine takes in memory: the sizes that the state of a step allocates by, and their sum before anything is allocated.

use super::limits::{BATCHES_AHEAD, LOGIT_ROWS, TILE_COLS};
use super::messages::Division;
use super::optimizer::ADAMW;
use super::partition::Partition;
use super::slots::SlotLayout;
use super::tiles::tile_height;
use crate::config::{Attend, EngineConfig, ModelConfig, Precision};
use crate::contract::NORM_BLOCK;
use crate::error::{Error, Result};
use crate::generate::Session;
use crate::model::{Adapters, GradientRoom, Layout};
use crate::system::arena::row_stride;
use crate::system::machine;
use symlm_kernels::attention;
use symlm_kernels::gemm::{int16, weight_gradient_scratch};

/// Bytes of a graph node with its edges, roughly.
const NODE_BYTES: f64 = 160.0;

/// Elements of the arenas of an engine.
pub(crate) struct Sizes {
    pub slot: SlotLayout,
    /// Distance between the logits of two slots.
    pub logit_rows: usize,
    pub slots: usize,
    pub embedded: usize,
    pub logits: usize,
    pub norm_blocks: usize,
    pub losses: usize,
    /// Of each arena with the shape of the parameters.
    pub parameters: usize,
    /// Of each arena with the shape of what is trained.
    pub trained: usize,
    /// Of the arenas of adapters: factors, their gradients, the weights they are added to.
    pub adapters: usize,
    /// Elements of the gradient's arena, and of each arena of partial sums, that are ever touched.
    pub gradient: usize,
    /// Whether triples need a separate arena.
    pub triple: bool,
    pub lm_head_triple: usize,
}

impl Sizes {
    pub fn new(
        m: &ModelConfig,
        precision: Precision,
        partition: &Partition,
        layout: &Layout,
        adapters: Option<&Adapters>,
    ) -> Self {
        let rows = partition.slot_windows() * m.seq_len;
        let slot = SlotLayout::new(m, precision, rows);
        let (tokens, d) = (partition.batch * m.seq_len, m.hidden_size);
        let logit_rows = rows * row_stride(m.vocab_size);
        Self {
            slots: partition.slots * slot.len,
            embedded: tokens * row_stride(d),
            logits: partition.logit_slots * logit_rows,
            norm_blocks: layout.norms.len() * partition.batch * m.seq_len.div_ceil(NORM_BLOCK) * d,
            losses: tokens,
            parameters: layout.len,
            trained: adapters.map_or(layout.len, |all| all.len),
            adapters: adapters.map_or(0, |all| 2 * all.len + all.base_len),
            gradient: adapters.map_or(layout.len, |all| all.adapted_len),
            triple: partition.has_triples() && partition.group != 3,
            // An output head that stays as it is has no gradient.
            lm_head_triple: if adapters.is_none() { m.vocab_size * d } else { 0 },
            slot,
            logit_rows,
        }
    }
}

/// Bytes of memory, part by part. In f64, so that absurd sizes cannot overflow.
///
/// With several ranks it is that of one of them, and of what it touches.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// What the engine holds from its start to its end.
    pub engine: Vec<(&'static str, f64)>,
    /// What is held beside it for a while: the copy that a checkpoint is written from, the copy that writes samples.
    pub beside: Vec<(&'static str, f64)>,
}

impl MemoryPlan {
    /// The plan of a training run.
    pub fn new(c: &EngineConfig) -> Self {
        let (m, precision, partition) = (&c.model, c.train.precision, Partition::new(c));
        let layout = Layout::of(m, precision);
        let adapters = c.train.lora.as_ref().map(|lora| Adapters::new(&layout, lora));
        let sizes = Sizes::new(m, precision, &partition, &layout, adapters.as_ref());
        let floats = |count: usize| 4.0 * count as f64;
        let tokens = partition.batch * partition.seq_len;
        // Inputs, targets and their order, for each buffer and the batch at hand; where documents begin, if at every token.
        let begins = if c.train.attend == Attend::Document { 2 * tokens } else { 0 };
        let batches = (BATCHES_AHEAD + 2) as f64 * floats(3 * tokens + m.vocab_size + begins);
        let stages = 2 * m.num_layers * (partition.strips() + partition.attention_parts());
        let nodes = 2.0 * (partition.batch * stages) as f64 + 12.0 * layout.len as f64 / 4096.0;
        let activations = sizes.slots + sizes.embedded + sizes.norm_blocks + sizes.losses;
        let division = (c.ranks > 1).then(|| Division::new(&layout, adapters.as_ref(), ADAMW, c.ranks, c.rank));
        let embedding = m.vocab_size * m.hidden_size;
        let exchange = division.as_ref().map_or(0, |division| division.elements(sizes.gradient, embedding));
        let sums = sizes.gradient * (1 + usize::from(sizes.triple)) + sizes.lm_head_triple + exchange;
        // Pages that are never touched take no memory; rank 0 gathers the moments of all for checkpoints.
        let moments = division.as_ref().filter(|division| division.rank > 0).map_or(sizes.trained, Division::owned);
        let scales = if precision == Precision::Int16 { layout.scales_len } else { 0 };
        let rotary = 2 * partition.seq_len * m.head_dim();
        let mut engine = vec![
            ("parameters", floats(sizes.parameters)),
            ("packed parameters", floats(layout.packed_len + scales)),
            ("gradient", floats(sizes.gradient)),
            ("partial gradients", floats(sums)),
            ("optimizer", floats(2 * moments)),
            ("activations", floats(activations)),
            ("logits", floats(sizes.logits)),
            ("batches", batches),
            ("workers", c.threads as f64 * floats(scratch(c, &partition))),
            ("task graphs", NODE_BYTES * nodes + floats(rotary)),
        ];
        if adapters.is_some() {
            engine.push(("adapters", floats(sizes.adapters)));
        }
        // A copy for samples computes in f32, and of its panels only those for the forward pass are touched.
        let forward = Layout::new(m).packed_len / 2;
        let beside = vec![
            ("checkpoint copy", copy_bytes(&layout, adapters.as_ref())),
            ("sampling copy", floats(sizes.parameters + forward + Session::elements(m, c.threads))),
        ];
        Self { engine, beside }
    }

    /// Bytes of the engine alone.
    pub fn engine_bytes(&self) -> f64 {
        self.engine.iter().map(|part| part.1).sum()
    }
}

/// What a stage of some rows takes with `int16` beside the slots: values until they are integers, and the integers of gradients.
pub(crate) struct RowScratch {
    /// Values of normalised rows, then those of the MLP's hidden rows.
    pub values: [usize; 2],
    /// Pairs and scales of gradients.
    pub room: [usize; 2],
}

impl RowScratch {
    pub fn new(m: &ModelConfig, precision: Precision, rows: usize) -> Self {
        if precision == Precision::F32 {
            return Self { values: [0; 2], room: [0; 2] };
        }
        let widest = (2 * m.intermediate_size).max(m.hidden_size + 2 * m.kv_size());
        let [layer, logits] =
            [GradientRoom::elements(rows, widest), GradientRoom::elements(LOGIT_ROWS.min(rows), m.vocab_size)];
        let values = [m.hidden_size, m.intermediate_size].map(|cols| rows * row_stride(cols));
        Self { values, room: [layer[0].max(logits[0]), layer[1].max(logits[1])] }
    }
}

/// Elements of the buffers that a worker grows to.
fn scratch(c: &EngineConfig, partition: &Partition) -> usize {
    let (m, precision) = (&c.model, c.train.precision);
    let (rows, cols) = (tile_height(partition.threads), TILE_COLS);
    let area = rows.min(m.vocab_size.max(2 * m.intermediate_size)) * cols.min(m.hidden_size.max(m.intermediate_size));
    let tokens = partition.slot_windows() * partition.seq_len;
    let strip = RowScratch::new(m, precision, partition.strip.min(partition.seq_len));
    let attention = |positions: usize| attention::scratch_len(positions, m.head_dim());
    let attention = match c.train.attend {
        Attend::Window => attention(partition.seq_len),
        // Documents that are shorter than a window may take a little more.
        Attend::Document => (1..=partition.seq_len).map(attention).max().unwrap_or_default(),
    };
    let first = [area, attention, LOGIT_ROWS * row_stride(m.vocab_size), strip.values.iter().sum()];
    let gradient = match precision {
        Precision::F32 => weight_gradient_scratch(tokens, rows, cols.min(m.hidden_size)),
        Precision::Int16 => int16::weight_gradient_scratch(tokens, rows, cols.min(m.hidden_size)),
    };
    first.into_iter().max().unwrap_or_default() + gradient.max(strip.room[0]) + strip.room[1]
}

/// Bytes of a copy: the weights, two moments of what is trained, and the adapters if there are any.
pub(crate) fn copy_bytes(layout: &Layout, adapters: Option<&Adapters>) -> f64 {
    let (weights, factors) = (layout.parameters(), adapters.map(Adapters::parameters));
    4.0 * (weights + factors.map_or(2 * weights, |factors| 3 * factors)) as f64
}

/// Checks that an engine of this configuration fits into the memory that is available now.
///
/// # Errors
/// `Memory` with what it needs and what there is.
pub fn check_memory(c: &EngineConfig) -> Result<()> {
    let needed = MemoryPlan::new(c).engine_bytes();
    let Some(available) = machine::available_memory().filter(|available| needed > available.bytes) else {
        return Ok(());
    };
    let gigabytes = |bytes: f64| bytes / 1e9;
    Err(Error::memory(format!(
        "training needs about {:.1} GB of memory, {:.1} GB are available ({})",
        gigabytes(needed),
        gigabytes(available.bytes),
        available.rule,
    ))
    .hint("use a smaller model, batch_size, seq_len or sectors_in_flight"))
}
