//! How the windows of a batch are cut up for the workers at hand.

use super::division::{nodes_of, rank_sectors};
use super::limits::SECTORS_PER_LOGITS;
use super::symmetry::{SECTORS, sector_windows};
use crate::config::{AUTO_SECTORS, EngineConfig};
use crate::contract::NORM_BLOCK;
use std::ops::Range;

/// How work is cut up. Any values give the same bits.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    pub batch: usize,
    pub seq_len: usize,
    pub layers: usize,
    pub kv_heads: usize,
    pub threads: usize,
    /// Rows of a strip.
    pub strip: usize,
    /// Key/value heads of an attention task.
    pub task_heads: usize,
    /// Sectors in flight: slots.
    pub slots: usize,
    /// Sectors whose weight gradients one task folds.
    pub group: usize,
    /// Sectors whose logits and their gradients are in memory at once.
    pub logit_slots: usize,
    /// The sectors that this process computes: those of its rank.
    pub sectors: Range<usize>,
    /// The sums over sectors that it makes: one without other ranks.
    pub nodes: Vec<Range<usize>>,
}

impl Partition {
    pub fn new(c: &EngineConfig) -> Self {
        let (batch, seq_len) = (c.train.batch_size, c.model.seq_len);
        let threads = if c.plan_threads == 0 { c.threads } else { c.plan_threads };
        let sectors = rank_sectors(c.ranks.max(1))[c.rank].clone();
        let slots = if c.sectors_in_flight == 0 { AUTO_SECTORS } else { c.sectors_in_flight };
        let slots = slots.min(sectors.len());
        let group = (slots / 2).clamp(1, 3);
        // At least two units of work per worker, as far as the windows can be split.
        let in_flight = (batch * slots).div_ceil(SECTORS).min(batch);
        let parts = (2 * threads).div_ceil(in_flight);
        // Rows of a strip are whole blocks of the norm-weight gradient (contract E5).
        let most_strips = seq_len.div_ceil(NORM_BLOCK);
        let strips = if in_flight >= 2 * threads { 1 } else { parts.clamp(1, most_strips) };
        let strip = seq_len.div_ceil(strips).next_multiple_of(NORM_BLOCK);
        let attention_parts = if in_flight >= 2 * threads { 1 } else { parts.clamp(1, c.model.num_kv_heads) };
        let task_heads = c.model.num_kv_heads.div_ceil(attention_parts);
        let logit_slots = (batch.min(SECTORS) / SECTORS_PER_LOGITS).clamp(1, slots);
        let (layers, kv_heads) = (c.model.num_layers, c.model.num_kv_heads);
        let nodes = nodes_of(sectors.clone());
        Self { batch, seq_len, layers, kv_heads, threads, strip, task_heads, slots, group, logit_slots, sectors, nodes }
    }

    pub fn strips(&self) -> usize {
        self.seq_len.div_ceil(self.strip)
    }
    pub fn attention_parts(&self) -> usize {
        self.kv_heads.div_ceil(self.task_heads)
    }
    /// Rows of a strip, in its window.
    pub fn strip_rows(&self, strip: usize) -> Range<usize> {
        strip * self.strip..((strip + 1) * self.strip).min(self.seq_len)
    }
    /// The sector of a window.
    pub fn sector_of(&self, window: usize) -> usize {
        (0..SECTORS).find(|&s| sector_windows(self.batch, s).contains(&window)).expect("a window of the batch")
    }
    /// The windows of some sectors.
    pub fn windows_of(&self, sectors: &Range<usize>) -> Range<usize> {
        sector_windows(self.batch, sectors.start).start..sector_windows(self.batch, sectors.end - 1).end
    }
    /// The sum that a sector is a part of, and its place in it.
    pub fn place(&self, sector: usize) -> (usize, usize) {
        let node = self.nodes.iter().position(|node| node.contains(&sector)).expect("a sector of this rank");
        (node, sector - self.nodes[node].start)
    }
    /// Whether triples are folded beside a sum: only halves of the tree, and the whole, are made of several.
    pub fn has_triples(&self) -> bool {
        self.nodes.iter().any(|node| node.len() > 3)
    }
    /// Most windows of a sector.
    pub fn slot_windows(&self) -> usize {
        self.batch.div_ceil(SECTORS)
    }
}
