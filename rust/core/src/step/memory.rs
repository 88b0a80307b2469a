//! What an engine will need in memory, before anything is allocated.

use super::plan::{Cut, STRIP_ALIGN};
use super::prefetch::CAPACITY;
use super::save::COPY_BYTES;
use crate::arena::row_stride;
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::machine;

/// Bytes of a graph node with its edges, roughly.
const NODE_BYTES: f64 = 160.0;

/// Bytes that the arenas and graphs of an engine take. In f64, so that absurd sizes cannot overflow.
pub(super) fn planned_bytes(c: &EngineConfig) -> f64 {
    let (m, cut) = (&c.model, Cut::new(c));
    let stride = |cols: usize| row_stride(cols) as f64;
    let (d, f, vocab) = (m.hidden_size, m.intermediate_size, m.vocab_size);
    let layers = m.num_layers as f64;
    let embedding = vocab as f64 * d as f64;
    let layer = d as f64 * (2.0 * d as f64 + 2.0 * m.kv_size() as f64 + 3.0 * f as f64 + 2.0);
    let head = if m.tie_embeddings { 0.0 } else { embedding };
    let weights = embedding + head + layers * layer;
    // Weights, both packed copies, gradient, third triple, two moments; one more where a triple is split.
    let copies = if cut.group == 3 { 7.0 } else { 8.0 };
    let rows = cut.slot_windows() as f64 * cut.positions as f64;
    let per_layer =
        5.0 * stride(d) + stride(d + 2 * m.kv_size()) + stride(2 * f) + stride(f) + 2.0 * m.num_heads as f64;
    let per_row = layers * per_layer + 4.0 * stride(d) + stride(f);
    let activations = rows * (cut.slots as f64 * per_row + cut.logit_slots as f64 * stride(vocab));
    let tokens = cut.batch as f64 * cut.positions as f64;
    let norm_blocks = (2.0 * layers + 1.0) * cut.batch as f64 * cut.positions.div_ceil(STRIP_ALIGN) as f64 * d as f64;
    // Inputs, targets and their order, for each buffer and the batch at hand.
    let batches = (CAPACITY + 2) as f64 * (3.0 * tokens + vocab as f64);
    let rotary = cut.positions as f64 * m.head_size() as f64;
    let floats =
        copies * weights + embedding + activations + norm_blocks + batches + rotary + tokens * (stride(d) + 1.0);
    let stages = 2.0 * layers * (cut.strips() + cut.head_parts()) as f64;
    let nodes = 2.0 * cut.batch as f64 * stages + 12.0 * weights / 4096.0;
    // A sample has a copy of the weights too, but never while a save is under way.
    4.0 * floats + NODE_BYTES * nodes + COPY_BYTES * weights
}

/// Checks that an engine of this configuration fits into the memory that is available now.
///
/// # Errors
/// `Memory` with what it needs and what there is.
pub fn check_memory(c: &EngineConfig) -> Result<()> {
    let (needed, available) = (planned_bytes(c), machine::available_memory());
    if available.is_some_and(|available| needed > available) {
        let gigabytes = |bytes: f64| bytes / 1e9;
        let available = gigabytes(available.unwrap_or_default());
        return Err(Error::memory(format!(
            "training needs about {:.1} GB of memory, {available:.1} GB are available",
            gigabytes(needed)
        ))
        .hint("use a smaller model, batch_size, seq_len or sectors_in_flight"));
    }
    Ok(())
}
