//! The task graph of an update and of an evaluation batch.
//!
//! A window goes through alternating *row* stages (products and elementwise work, split into strips of rows) and *attention* stages
//! (attention, split by key/value heads). Its own chain never waits for another window. Weight gradients of a group of sectors start
//! when the windows of the group have passed the stage that leaves the operands; a group's slots are free for later
//! sectors when its weight gradients are done. Nothing here can move a bit: the plan only decides who computes
//! what and when.

use super::limits::{B_ROWS, FACTOR_ELEMENTS, ROW_BLOCK, SQUARE_BLOCKS};
use super::messages::{Division, Stage};
use super::partition::Partition;
use super::symmetry::{SECTORS, sector_windows};
use super::task::{RowStage, Task};
use super::tiles::{a_tiles, block, gradient_tiles};
use crate::contract::SQUARE_BLOCK;
use crate::model::{Adapter, Adapters, Layout, MatrixId};
use crate::pool::Graph;
use std::ops::Range;

/// A graph with what its nodes do.
#[derive(Default)]
pub(crate) struct Plan {
    pub graph: Graph,
    pub tasks: Vec<Task>,
    /// Nodes that also wait for the messages of a stage.
    pub arrivals: Vec<(Stage, u32)>,
    /// The node that waits until everything has left.
    pub sent: Option<u32>,
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
    fn forward(&mut self, partition: &Partition, window: usize, start: &[u32]) -> Vec<u32> {
        let rows = |plan: &mut Self, l: usize, after: &[u32]| -> Vec<u32> {
            let stage = RowStage::Forward(l);
            (0..partition.strips()).map(|strip| plan.add(Task::Rows { window, stage, strip }, after)).collect()
        };
        let mut before = rows(self, 0, start);
        for layer in 0..partition.layers {
            let heads = self.attention(partition, window, layer, false, &before);
            before = rows(self, layer + 1, &heads);
        }
        before
    }

    fn attention(
        &mut self,
        partition: &Partition,
        window: usize,
        layer: usize,
        backward: bool,
        after: &[u32],
    ) -> Vec<u32> {
        (0..partition.attention_parts())
            .map(|part| self.add(Task::Attention { window, layer, part, backward }, after))
            .collect()
    }

    /// The graph of an evaluation batch.
    pub fn evaluation(partition: &Partition) -> Self {
        let mut plan = Self::default();
        let start = plan.add(Task::EvalCut, &[]);
        let mut sector_done: Vec<u32> = Vec::new();
        let mut all = Vec::new();
        for sector in 0..SECTORS {
            let free = if sector >= partition.slots { sector_done[sector - partition.slots] } else { start };
            let mut ends = Vec::new();
            for window in sector_windows(partition.batch, sector) {
                let before = plan.forward(partition, window, &[free]);
                let stage = RowStage::EvalLoss;
                ends.extend(
                    (0..partition.strips())
                        .map(|strip| plan.add(Task::Rows { window, stage, strip }, &[before[strip]])),
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
    pub fn training(partition: &Partition, layout: &Layout, adapters: Option<&Adapters>, update: bool) -> Self {
        TrainingPlan::new(partition, layout, adapters).build(update, None)
    }

    /// The graph of an update that several ranks compute.
    pub fn shared(partition: &Partition, layout: &Layout, adapters: Option<&Adapters>, division: &Division) -> Self {
        let mut plan = TrainingPlan::new(partition, layout, adapters);
        plan.begin = Some(plan.plan.add(Task::Begin, &[]));
        plan.build(true, Some(division))
    }
}

pub(super) struct TrainingPlan<'a> {
    pub plan: Plan,
    partition: &'a Partition,
    pub layout: &'a Layout,
    pub adapters: Option<&'a Adapters>,
    /// Weight-gradient tiles of every matrix.
    tiles: Vec<usize>,
    /// Of each layer, the nodes after which all its windows have passed it on the way back.
    passed: Vec<Vec<u32>>,
    /// With several ranks the node before which nothing leaves: until it has run a completion would be lost.
    pub begin: Option<u32>,
}

/// The last nodes of the gradients, over the sectors of this process.
pub(super) struct Computed {
    /// Of the tiles of each matrix.
    pub matrices: Vec<Vec<u32>>,
    /// Of the tiles of the output head.
    pub lm_head: Vec<u32>,
    /// Of each layer, the nodes after which all its windows have passed it on the way back.
    pub passed: Vec<Vec<u32>>,
    /// All windows have reached the embedding.
    pub bottom: u32,
}

/// Nodes that leave the operands of weight gradients behind: `[layer]`, for the windows of the group at hand.
#[derive(Default, Clone)]
struct Ready {
    /// Down, gate-up and output projections.
    mlp: Vec<Vec<u32>>,
    /// Query, key, value projections.
    qkv: Vec<Vec<u32>>,
}

impl<'a> TrainingPlan<'a> {
    fn new(partition: &'a Partition, layout: &'a Layout, adapters: Option<&'a Adapters>) -> Self {
        let tiles = gradient_tiles(layout, adapters, partition.threads).iter().map(Vec::len).collect();
        let passed = vec![Vec::new(); partition.layers];
        Self { plan: Plan::default(), partition, layout, adapters, tiles, passed, begin: None }
    }

    fn build(mut self, update: bool, division: Option<&Division>) -> Plan {
        let (partition, layers, sectors) = (self.partition, self.partition.layers, self.partition.sectors.clone());
        let before = |sector: usize, slots: usize| sector.checked_sub(slots)?.checked_sub(sectors.start);
        let mut lm_head_before: Vec<Option<u32>> = vec![None; self.tiles[self.layout.lm_head()]];
        let mut logits_free: Vec<u32> = Vec::new();
        let mut released: Vec<u32> = Vec::new();
        let mut gradient_before: Vec<Vec<Option<u32>>> = self.tiles.iter().map(|&count| vec![None; count]).collect();
        let empty = Ready { mlp: vec![Vec::new(); layers], qkv: vec![Vec::new(); layers] };
        let (mut ready, mut group_start, mut ends, mut group_end) = (empty.clone(), sectors.start, Vec::new(), 0);
        for sector in sectors.clone() {
            let start: Vec<u32> = before(sector, partition.slots).map(|s| released[s]).into_iter().collect();
            let logits: Vec<u32> = before(sector, partition.logit_slots).map(|s| logits_free[s]).into_iter().collect();
            let losses = self.windows(sector, &start, &logits, &mut ready, &mut ends);
            let loss_join = self.plan.add(Task::Join, &losses);
            for (tile, before) in lm_head_before.iter_mut().enumerate() {
                let after: Vec<u32> = before.iter().copied().chain([loss_join]).collect();
                *before = Some(self.plan.add(Task::LmHeadGradient { sector, tile }, &after));
            }
            let mut done: Vec<u32> = lm_head_before.iter().flatten().copied().collect();
            if done.is_empty() {
                // An output head that stays as it is has no gradient, whose tiles would follow those of the sectors before.
                done.extend(logits_free.last().into_iter().chain([&loss_join]));
            }
            logits_free.push(self.plan.add(Task::Join, &done));
            if sector + 1 - group_start == partition.group || sector + 1 == sectors.end {
                let range = group_start..sector + 1;
                let mut group = self.matrix_gradients(range.clone(), &ready, &mut gradient_before);
                group.extend(range.clone().map(|s| logits_free[s - sectors.start]));
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
        let lm_head: Vec<u32> = lm_head_before.into_iter().flatten().collect();
        ends.extend(&lm_head);
        let bottom = self.plan.add(Task::Join, &ends);
        let matrices: Vec<Vec<u32>> =
            gradient_before.into_iter().map(|of| of.into_iter().flatten().collect()).collect();
        if let Some(division) = division {
            let passed = std::mem::take(&mut self.passed);
            return self.exchange(division, &Computed { matrices, lm_head, passed, bottom });
        }
        let all = self.last_gradients(matrices.concat(), bottom);
        if update {
            self.update(all);
        }
        self.plan
    }

    /// The gradients that follow `bottom`, where all windows have reached the embedding; returns a join of all gradients.
    fn last_gradients(&mut self, mut gradients: Vec<u32>, bottom: u32) -> u32 {
        match self.adapters {
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
        }
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
        let (partition, layers) = (self.partition, self.partition.layers);
        let mut losses = Vec::new();
        for window in sector_windows(partition.batch, sector) {
            let before = self.plan.forward(partition, window, start);
            let mut before: Vec<u32> = (0..partition.strips())
                .map(|strip| {
                    let after: Vec<u32> = [before[strip]].iter().chain(logits).copied().collect();
                    self.plan.add(Task::Rows { window, stage: RowStage::Loss, strip }, &after)
                })
                .collect();
            losses.extend_from_slice(&before);
            ready.mlp[layers - 1].extend_from_slice(&before);
            for layer in (self.lowest()..layers).rev() {
                let heads = self.plan.attention(partition, window, layer, true, &before);
                let stage = RowStage::Backward(layer);
                before = (0..partition.strips())
                    .map(|strip| self.plan.add(Task::Rows { window, stage, strip }, &heads))
                    .collect();
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
        for layer in (0..self.partition.layers).rev() {
            let joins = [self.plan.add(Task::Join, &ready.mlp[layer]), self.plan.add(Task::Join, &ready.qkv[layer])];
            self.passed[layer].push(joins[1]);
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

    /// Gradients of all factors, after `gradients`.
    fn adapter_gradients(&mut self, adapters: &Adapters, gradients: u32) -> Vec<u32> {
        let mut nodes = Vec::new();
        for (index, adapter) in adapters.list.iter().enumerate() {
            for tile in 0..a_tiles(adapter) + adapter.rows.div_ceil(B_ROWS) {
                nodes.push(self.plan.add(Task::AdapterGradient { adapter: index, tile }, &[gradients]));
            }
        }
        nodes
    }

    /// The update of all factors, and of the weights that follow from them.
    fn update_adapters(&mut self, layout: &Layout, adapters: &Adapters, finish: u32) {
        let mut updates = Vec::new();
        for (factor, p) in adapters.params.iter().enumerate() {
            for tile in 0..p.len().div_ceil(FACTOR_ELEMENTS) {
                updates.push(self.plan.add(Task::UpdateFactor { factor, tile }, &[finish]));
            }
        }
        self.merge_adapted(layout, adapters, &updates);
    }

    /// Merged weights, once all factors have their new values.
    pub(super) fn merge_adapted(&mut self, layout: &Layout, adapters: &Adapters, updates: &[u32]) {
        let updated = self.plan.add(Task::Join, updates);
        for (matrix, m) in layout.matrices.iter().enumerate() {
            for tile in 0..m.rows.div_ceil(ROW_BLOCK) {
                let rows = block(tile, ROW_BLOCK, m.rows);
                let touched = |a: &Adapter| a.row < rows.end && rows.start < a.row + a.rows;
                if adapters.of_matrix(matrix).any(touched) {
                    self.plan.add(Task::Merge { matrix, tile }, &[updated]);
                }
            }
        }
    }
}
