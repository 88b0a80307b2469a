//! The task graph of an update and of an evaluation batch.
//!
//! A window goes through alternating *row* stages (products and elementwise work, split into strips of rows) and *head* stages
//! (attention, split by key/value heads). Its own chain never waits for another window. Weight gradients of a group of sectors start
//! when the windows of the group have passed the stage that leaves the operands; a group's slots are free for later
//! sectors when its weight gradients are done. Nothing here can move a bit: the plan only decides who computes
//! what and when.

use super::symmetry::{SECTORS, sector_windows};
use super::tiles::gradient_tiles;
use crate::config::EngineConfig;
use crate::model::{Adapters, Layout, MatrixId};
use crate::pool::Graph;
use std::ops::Range;

/// Rows of a strip are a multiple of the fixed blocks of the norm-weight gradient (contract E5).
pub(super) const STRIP_ALIGN: usize = 64;
/// Rows of a matrix that one task updates, packs or gathers.
pub(super) const ROW_BLOCK: usize = 64;
/// At most one in so many sectors has its logits in memory: tokens x vocabulary never exists as a whole.
const SECTORS_PER_LOGITS: usize = 4;
/// Blocks of 4,096 gradient elements that one task squares.
pub(super) const SQUARE_BLOCKS: usize = 16;
/// Elements of the block of contract O1.
pub(super) const SQUARE_BLOCK: usize = 4096;

/// A row stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The MLP of layer l - 1 (the embedding for l = 0), then up to the attention of layer l (the final norm for the last).
    Forward(usize),
    /// Head, loss, and back to the attention of the last layer.
    Loss,
    /// Head and loss of an evaluation.
    EvalLoss,
    /// From the attention of layer l down to the attention of layer l - 1 (the embedding for l = 0).
    Backward(usize),
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Nothing: other nodes wait for it.
    Join,
    /// A strip of a window.
    Rows { window: usize, stage: Stage, strip: usize },
    /// Some key/value heads of a window.
    Heads { window: usize, layer: usize, part: usize, backward: bool },
    /// A tile of the head's weight gradient, one sector.
    HeadGradient { sector: usize, tile: usize },
    /// A tile of a matrix's weight gradient, sectors `first..end`.
    MatrixGradient { first: usize, end: usize, matrix: usize, tile: usize },
    /// The gradient of a norm weight.
    NormGradient { norm: usize },
    /// Some rows of the embedding's gradient.
    EmbeddingGradient { tile: usize },
    /// A tile of the gradients of an adapter's factors.
    AdapterGradient { adapter: usize, tile: usize },
    /// Sums of squares of some blocks of a trained tensor's gradient.
    Squares { param: usize, block: usize },
    /// Loss, gradient norm, clip factor, learning rate.
    Finish,
    /// AdamW and packing for some rows of a matrix.
    UpdateMatrix { matrix: usize, tile: usize },
    /// AdamW for a norm weight.
    UpdateNorm { norm: usize },
    /// AdamW for some elements of an adapter's factor.
    UpdateFactor { factor: usize, tile: usize },
    /// Merged weights and packing for some rows of a matrix.
    Merge { matrix: usize, tile: usize },
    /// Cuts an evaluation batch out of the shards.
    EvalCut,
    /// Adds up the losses of an evaluation batch.
    EvalSum,
}

/// How work is cut up. Any values give the same bits.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub batch: usize,
    pub positions: usize,
    pub layers: usize,
    pub kv_heads: usize,
    pub threads: usize,
    /// Rows of a strip.
    pub strip: usize,
    /// Key/value heads of a head task.
    pub heads: usize,
    /// Sectors in flight: slots.
    pub slots: usize,
    /// Sectors whose weight gradients one task folds.
    pub group: usize,
    /// Sectors whose logits and their gradients are in memory at once.
    pub logit_slots: usize,
}

impl Cut {
    pub fn new(c: &EngineConfig) -> Self {
        let (batch, positions) = (c.train.batch_size, c.model.seq_len);
        let threads = if c.plan_threads == 0 { c.threads } else { c.plan_threads };
        // Six slots are two triples: one is filled while the weight gradients of the other are folded.
        let slots = if c.sectors_in_flight == 0 { 6 } else { c.sectors_in_flight };
        let group = (slots / 2).clamp(1, 3);
        // At least two units of work per worker, as far as the windows can be split.
        let in_flight = (batch * slots).div_ceil(SECTORS).min(batch);
        let parts = (2 * threads).div_ceil(in_flight);
        let most_strips = positions.div_ceil(STRIP_ALIGN);
        let strips = if in_flight >= 2 * threads { 1 } else { parts.clamp(1, most_strips) };
        let strip = positions.div_ceil(strips).next_multiple_of(STRIP_ALIGN);
        let head_parts = if in_flight >= 2 * threads { 1 } else { parts.clamp(1, c.model.num_kv_heads) };
        let heads = c.model.num_kv_heads.div_ceil(head_parts);
        let logit_slots = (batch.min(SECTORS) / SECTORS_PER_LOGITS).clamp(1, slots);
        let (layers, kv_heads) = (c.model.num_layers, c.model.num_kv_heads);
        Self { batch, positions, layers, kv_heads, threads, strip, heads, slots, group, logit_slots }
    }

    pub fn strips(&self) -> usize {
        self.positions.div_ceil(self.strip)
    }
    pub fn head_parts(&self) -> usize {
        self.kv_heads.div_ceil(self.heads)
    }
    /// Rows of a strip, in its window.
    pub fn strip_rows(&self, strip: usize) -> Range<usize> {
        strip * self.strip..((strip + 1) * self.strip).min(self.positions)
    }
    /// The sector of a window.
    pub fn sector_of(&self, window: usize) -> usize {
        (0..SECTORS).find(|&s| sector_windows(self.batch, s).contains(&window)).expect("a window of the batch")
    }
    /// Most windows of a sector.
    pub fn slot_windows(&self) -> usize {
        self.batch.div_ceil(SECTORS)
    }
}

/// A graph with what its nodes do.
#[derive(Default)]
pub(super) struct Plan {
    pub graph: Graph,
    pub tasks: Vec<Task>,
}

impl Plan {
    pub(super) fn add(&mut self, task: Task, after: &[u32]) -> u32 {
        // Windows first: they are the long chains. Gradients of weights fill the gaps.
        let urgent =
            !matches!(task, Task::MatrixGradient { .. } | Task::EmbeddingGradient { .. } | Task::NormGradient { .. });
        self.tasks.push(task);
        self.graph.add(urgent, after)
    }

    /// Forward stages of a window; returns the nodes of the final norm, strip by strip.
    fn forward(&mut self, cut: &Cut, window: usize, start: &[u32]) -> Vec<u32> {
        let rows = |plan: &mut Self, l: usize, after: &[u32]| -> Vec<u32> {
            let stage = Stage::Forward(l);
            (0..cut.strips()).map(|strip| plan.add(Task::Rows { window, stage, strip }, after)).collect()
        };
        let mut before = rows(self, 0, start);
        for layer in 0..cut.layers {
            let heads = self.heads(cut, window, layer, false, &before);
            before = rows(self, layer + 1, &heads);
        }
        before
    }

    fn heads(&mut self, cut: &Cut, window: usize, layer: usize, backward: bool, after: &[u32]) -> Vec<u32> {
        (0..cut.head_parts()).map(|part| self.add(Task::Heads { window, layer, part, backward }, after)).collect()
    }

    /// The graph of an evaluation batch.
    pub fn evaluation(cut: &Cut) -> Self {
        let mut plan = Self::default();
        let start = plan.add(Task::EvalCut, &[]);
        let mut sector_done: Vec<u32> = Vec::new();
        let mut all = Vec::new();
        for sector in 0..SECTORS {
            let free = if sector >= cut.slots { sector_done[sector - cut.slots] } else { start };
            let mut ends = Vec::new();
            for window in sector_windows(cut.batch, sector) {
                let before = plan.forward(cut, window, &[free]);
                let stage = Stage::EvalLoss;
                ends.extend(
                    (0..cut.strips()).map(|strip| plan.add(Task::Rows { window, stage, strip }, &[before[strip]])),
                );
            }
            all.extend_from_slice(&ends);
            ends.push(free);
            sector_done.push(plan.add(Task::Join, &ends));
        }
        plan.add(Task::EvalSum, &all);
        plan
    }

    /// The graph of an update of all tensors, or of `adapters`; without `update` it ends with the gradients.
    pub fn training(cut: &Cut, layout: &Layout, adapters: Option<&Adapters>, update: bool) -> Self {
        let tiles = gradient_tiles(layout, adapters, cut.threads).iter().map(Vec::len).collect();
        TrainingPlan { plan: Self::default(), cut, layout, adapters, tiles }.build(update)
    }
}

pub(super) struct TrainingPlan<'a> {
    pub(super) plan: Plan,
    cut: &'a Cut,
    layout: &'a Layout,
    adapters: Option<&'a Adapters>,
    /// Weight-gradient tiles of every matrix.
    tiles: Vec<usize>,
}

/// Nodes that leave the operands of weight gradients behind: `[layer]`, for the windows of the group at hand.
#[derive(Default, Clone)]
struct Ready {
    /// Down, gate-up and output projections.
    mlp: Vec<Vec<u32>>,
    /// Query, key, value projections.
    qkv: Vec<Vec<u32>>,
}

impl TrainingPlan<'_> {
    fn build(mut self, update: bool) -> Plan {
        let (cut, layers) = (self.cut, self.cut.layers);
        let mut head_before: Vec<Option<u32>> = vec![None; self.tiles[self.layout.head()]];
        let mut logits_free: Vec<u32> = Vec::new();
        let mut released: Vec<u32> = Vec::new();
        let mut gradient_before: Vec<Vec<Option<u32>>> = self.tiles.iter().map(|&count| vec![None; count]).collect();
        let empty = Ready { mlp: vec![Vec::new(); layers], qkv: vec![Vec::new(); layers] };
        let (mut ready, mut group_start, mut ends, mut group_end) = (empty.clone(), 0, Vec::new(), 0);
        for sector in 0..SECTORS {
            let start: Vec<u32> = sector.checked_sub(cut.slots).map(|s| released[s]).into_iter().collect();
            let logits: Vec<u32> = sector.checked_sub(cut.logit_slots).map(|s| logits_free[s]).into_iter().collect();
            let losses = self.windows(sector, &start, &logits, &mut ready, &mut ends);
            let loss_join = self.plan.add(Task::Join, &losses);
            for (tile, before) in head_before.iter_mut().enumerate() {
                let after: Vec<u32> = before.iter().copied().chain([loss_join]).collect();
                *before = Some(self.plan.add(Task::HeadGradient { sector, tile }, &after));
            }
            let mut done: Vec<u32> = head_before.iter().flatten().copied().collect();
            if done.is_empty() {
                // A head that stays as it is has no gradient, whose tiles would follow those of the sectors before.
                done.extend(logits_free.last().into_iter().chain([&loss_join]));
            }
            logits_free.push(self.plan.add(Task::Join, &done));
            if sector + 1 - group_start == cut.group || sector + 1 == SECTORS {
                let range = group_start..sector + 1;
                let mut group = self.matrix_gradients(range.clone(), &ready, &mut gradient_before);
                group.extend(range.clone().map(|s| logits_free[s]));
                if self.adapters.is_some() {
                    // Weight gradients that are not there wait neither for the windows nor for the groups before.
                    group.extend(ends[group_end..].iter().chain(released.last()));
                    group_end = ends.len();
                }
                let release = self.plan.add(Task::Join, &group);
                released.extend(range.map(|_| release));
                (ready, group_start) = (empty.clone(), sector + 1);
            }
        }
        let mut gradients: Vec<u32> = gradient_before.into_iter().flatten().flatten().collect();
        ends.extend(head_before.iter().flatten());
        let bottom = self.plan.add(Task::Join, &ends);
        let all = match self.adapters {
            None => {
                let embedding = &self.layout.matrices[self.layout.matrix_index(MatrixId::Embedding)];
                let rows = embedding.rows.div_ceil(ROW_BLOCK);
                gradients.extend((0..rows).map(|tile| self.plan.add(Task::EmbeddingGradient { tile }, &[bottom])));
                let norms = self.layout.norms.len();
                gradients.extend((0..norms).map(|norm| self.plan.add(Task::NormGradient { norm }, &[bottom])));
                self.plan.add(Task::Join, &gradients)
            }
            Some(adapters) => {
                gradients.push(bottom);
                let folded = self.plan.add(Task::Join, &gradients);
                let of_factors = self.adapter_gradients(adapters, folded);
                self.plan.add(Task::Join, &of_factors)
            }
        };
        if update {
            self.update(all);
        }
        self.plan
    }

    /// The lowest layer whose attention the gradient has to go through.
    fn lowest(&self) -> usize {
        let first = self.layout.matrix_index(MatrixId::Qkv(0));
        usize::from(self.adapters.is_some_and(|adapters| adapters.of_matrix(first).next().is_none()))
    }

    /// Windows of a sector, all stages. Returns the loss nodes; `ends` receives the nodes at the embedding.
    fn windows(
        &mut self,
        sector: usize,
        start: &[u32],
        logits: &[u32],
        ready: &mut Ready,
        ends: &mut Vec<u32>,
    ) -> Vec<u32> {
        let (cut, layers) = (self.cut, self.cut.layers);
        let mut losses = Vec::new();
        for window in sector_windows(cut.batch, sector) {
            let before = self.plan.forward(cut, window, start);
            let mut before: Vec<u32> = (0..cut.strips())
                .map(|strip| {
                    let after: Vec<u32> = [before[strip]].iter().chain(logits).copied().collect();
                    self.plan.add(Task::Rows { window, stage: Stage::Loss, strip }, &after)
                })
                .collect();
            losses.extend_from_slice(&before);
            ready.mlp[layers - 1].extend_from_slice(&before);
            for layer in (self.lowest()..layers).rev() {
                let heads = self.plan.heads(cut, window, layer, true, &before);
                let stage = Stage::Backward(layer);
                before =
                    (0..cut.strips()).map(|strip| self.plan.add(Task::Rows { window, stage, strip }, &heads)).collect();
                ready.qkv[layer].extend_from_slice(&before);
                if layer > 0 {
                    ready.mlp[layer - 1].extend_from_slice(&before);
                }
            }
            ends.extend_from_slice(&before);
        }
        losses
    }

    /// Weight gradients of a group of sectors. A tile's sectors are visited in order: each node follows the group before.
    fn matrix_gradients(&mut self, sectors: Range<usize>, ready: &Ready, before: &mut [Vec<Option<u32>>]) -> Vec<u32> {
        let mut nodes = Vec::new();
        for layer in (0..self.cut.layers).rev() {
            let joins = [self.plan.add(Task::Join, &ready.mlp[layer]), self.plan.add(Task::Join, &ready.qkv[layer])];
            let ids = [MatrixId::Down(layer), MatrixId::GateUp(layer), MatrixId::Out(layer), MatrixId::Qkv(layer)];
            for id in ids {
                let matrix = self.layout.matrix_index(id);
                let join = joins[usize::from(matches!(id, MatrixId::Qkv(_)))];
                for (tile, before) in before[matrix].iter_mut().enumerate() {
                    let after: Vec<u32> = before.iter().copied().chain([join]).collect();
                    let task = Task::MatrixGradient { first: sectors.start, end: sectors.end, matrix, tile };
                    let node = self.plan.add(task, &after);
                    *before = Some(node);
                    nodes.push(node);
                }
            }
        }
        nodes
    }

    fn update(&mut self, gradients: u32) {
        let (layout, adapters) = (self.layout, self.adapters);
        let mut squares = Vec::new();
        for (param, p) in adapters.map_or(&layout.params, |adapters| &adapters.params).iter().enumerate() {
            for block in (0..p.len().div_ceil(SQUARE_BLOCK)).step_by(SQUARE_BLOCKS) {
                squares.push(self.plan.add(Task::Squares { param, block }, &[gradients]));
            }
        }
        let finish = self.plan.add(Task::Finish, &squares);
        if let Some(adapters) = adapters {
            return self.update_adapters(layout, adapters, finish);
        }
        for (matrix, m) in layout.matrices.iter().enumerate() {
            for tile in 0..m.rows.div_ceil(ROW_BLOCK) {
                self.plan.add(Task::UpdateMatrix { matrix, tile }, &[finish]);
            }
        }
        for norm in 0..layout.norms.len() {
            self.plan.add(Task::UpdateNorm { norm }, &[finish]);
        }
    }
}

/// Blocks that a [`Task::Squares`] handles.
pub(super) fn square_blocks(len: usize, block: usize) -> Range<usize> {
    block..(block + SQUARE_BLOCKS).min(len.div_ceil(SQUARE_BLOCK))
}
