//! Weight gradients: chains per sector, folded in the fixed tree while a tile is in cache.
//!
//! Safety of every block here: a node reads operands that the nodes it follows have left, and writes the elements of
//! its own tile; nodes of one tile follow each other.

use super::state::State;
use crate::contract::NORM_BLOCK;
use crate::model::{MatrixId, Operand};
use crate::pool::Scratch;
use crate::step::plan::limits::ROW_BLOCK;
use crate::step::plan::{Buffer, InputBuffer, SumPlace, Then, sector_windows, visit};
use crate::system::arena::{Arena, row_stride};
use std::ops::Range;
use symlm_kernels::gemm::int16::{self, Quantised};
use symlm_kernels::gemm::{Fold, weight_gradient, weight_gradient_scratch};
use symlm_kernels::{Mat, MatMut, embedding, reduce};

impl State {
    /// Tokens of a sector, all rows of a buffer.
    unsafe fn sector_rows(&self, buffer: Buffer, sector: usize) -> Mat<'_> {
        let rows = sector_windows(self.partition.batch, sector).len() * self.seq_len();
        let at = sector % self.partition.slots * self.slot_layout.len + buffer.offset;
        // SAFETY: passed on to the caller.
        unsafe { self.slots.mat(at, rows, buffer.cols, buffer.stride) }
    }

    /// As [`State::sector_rows`], of rows that were multiplied with weights.
    unsafe fn sector_inputs(&self, input: InputBuffer, sector: usize) -> Operand<'_> {
        // SAFETY: passed on to the caller.
        let values = unsafe { self.sector_rows(input.buffer, sector) };
        let Some(scales) = input.scales else { return Operand::Floats(values) };
        let at = sector % self.partition.slots * self.slot_layout.len + scales;
        // SAFETY: passed on to the caller.
        Operand::Integers(Quantised::new(values, input.cols, unsafe { self.slots.slice(at, values.rows()) }))
    }

    /// Elements of workspace of a weight gradient.
    fn gradient_scratch(&self, tokens: usize, rows: usize, cols: usize) -> usize {
        match self.weights.integers {
            None => weight_gradient_scratch(tokens, rows, cols),
            Some(_) => int16::weight_gradient_scratch(tokens, rows, cols),
        }
    }

    /// Gradient at the outputs of a matrix and its inputs, for the tokens of a sector.
    unsafe fn operands(&self, matrix: usize, sector: usize) -> (Mat<'_>, Operand<'_>) {
        // SAFETY: passed on to the caller.
        unsafe {
            let rows = |buffer| self.sector_rows(buffer, sector);
            let inputs = |input| self.sector_inputs(input, sector);
            match self.weights.layout.matrices[matrix].id {
                MatrixId::Qkv(l) => {
                    (rows(self.slot_layout.layers[l].qkv), inputs(self.slot_layout.layers[l].attention_normed))
                }
                MatrixId::Out(l) => {
                    (rows(self.slot_layout.layers[l].middle), inputs(self.slot_layout.layers[l].attended_input))
                }
                MatrixId::GateUp(l) => {
                    (rows(self.slot_layout.layers[l].gate_up), inputs(self.slot_layout.layers[l].mlp_normed))
                }
                MatrixId::Down(l) => {
                    let next = self.slot_layout.layers.get(l + 1).map_or(self.slot_layout.last, |b| b.x);
                    (rows(next), inputs(self.slot_layout.layers[l].hidden))
                }
                MatrixId::Embedding | MatrixId::LmHead => unreachable!("the output head has its own nodes"),
            }
        }
    }

    /// Folds the sectors of a group into one tile.
    pub(super) fn matrix_gradient(&self, sectors: Range<usize>, matrix: usize, tile: usize, scratch: &mut Scratch) {
        let m = &self.weights.layout.matrices[matrix];
        let (rows, cols) = self.tiles[matrix][tile].clone();
        let area = rows.len() * cols.len();
        let tokens = self.partition.slot_windows() * self.seq_len();
        let [own, block, _] = scratch.buffers([area, self.gradient_scratch(tokens, rows.len(), cols.len()), 0]);
        let at = m.offset + rows.start * m.cols + cols.start;
        // SAFETY: see the top of this file.
        unsafe {
            let shared = |arena: &Arena| MatMut::from_raw(arena.ptr(at), rows.len(), cols.len(), m.cols);
            let mut pair = shared(&self.pair);
            let mut triple = match &self.triple {
                Some(arena) => shared(arena),
                None => MatMut::new(own, rows.len(), cols.len(), cols.len()),
            };
            let operands = |sector| {
                let (dy, x) = self.operands(matrix, sector);
                (dy.col_range(rows.clone()), x.col_range(cols.clone()))
            };
            // The tile that this worker is likely to have next: the workers take turns.
            let next = self.tiles[matrix].get(tile + self.partition.threads).map(|(rows, cols)| {
                let (dy, x) = self.operands(matrix, sectors.start);
                (dy.col_range(rows.clone()), x.col_range(cols.clone()))
            });
            let end = sectors.end;
            for sector in sectors {
                let coming = if sector + 1 < end { Some(operands(sector + 1)) } else { next };
                let (node, place) = self.partition.place(sector);
                let mut total = shared(self.partial(node, false));
                self.fold_sector(place, operands(sector), coming, &mut total, &mut pair, &mut triple, block);
            }
        }
    }

    /// One tile of the output head's gradient, one sector.
    pub(super) fn lm_head_gradient(&self, sector: usize, tile: usize, scratch: &mut Scratch) {
        let m = &self.weights.layout.matrices[self.lm_head];
        let (rows, cols) = self.tiles[self.lm_head][tile].clone();
        let windows = sector_windows(self.partition.batch, sector);
        let tokens = windows.len() * self.seq_len();
        let [block, _, _] = scratch.buffers([self.gradient_scratch(tokens, rows.len(), cols.len()), 0, 0]);
        let stride = row_stride(m.rows);
        let at = rows.start * m.cols + cols.start;
        // SAFETY: see the top of this file.
        unsafe {
            let logits = self.places.get(windows.start).map_or(0, |p| p.logits);
            let dy = self.logits.mat(logits, tokens, m.rows, stride).col_range(rows.clone());
            let x = self.sector_inputs(self.slot_layout.normed, sector).col_range(cols.clone());
            let shared = |ptr: *mut f32| MatMut::from_raw(ptr, rows.len(), cols.len(), m.cols);
            let (node, place) = self.partition.place(sector);
            let mut total = shared(self.partial(node, false).ptr(m.offset + at));
            let mut pair = shared(self.pair.ptr(m.offset + at));
            let mut triple = shared(self.lm_head_triple.ptr(at));
            self.fold_sector(place, (dy, x), None, &mut total, &mut pair, &mut triple, block);
        }
    }

    /// Adds one sector, which is at `place` in the sum that it is a part of.
    fn fold_sector(
        &self,
        place: usize,
        (dy, x): (Mat<'_>, Operand<'_>),
        coming: Option<(Mat<'_>, Operand<'_>)>,
        total: &mut MatMut<'_>,
        pair: &mut MatMut<'_>,
        triple: &mut MatMut<'_>,
        block: &mut [f32],
    ) {
        let step = visit(place);
        let place = match step.place {
            SumPlace::Total => total.reborrow(),
            SumPlace::Triple => triple.reborrow(),
            SumPlace::Pair => pair.reborrow(),
        };
        let coming = coming.map(|(dy, x)| (dy, x.memory()));
        match (x, self.weights.integers) {
            (Operand::Integers(x), Some(integers)) => {
                int16::weight_gradient(integers, dy, x, place, step.fold, coming, block);
            }
            (x, _) => weight_gradient(self.isa, dy, x.memory(), place, step.fold, coming, block),
        }
        for i in 0..total.rows() {
            match step.then {
                Then::Nothing => break,
                Then::AddTriple => reduce::add(self.isa, total.row(i), triple.row(i)),
                Then::AddPair => reduce::fold_pair(self.isa, total.row(i), pair.row(i), triple.row(i)),
            }
        }
    }

    /// Folds one value per sector (a row of `width` elements each) of a sum of the tree into `total`.
    ///
    /// `sector_sum(sector, out)` adds the sector's terms to `out`, which is +0 on entry. `work` is 3 x width.
    fn fold_rows(
        &self,
        width: usize,
        sectors: &Range<usize>,
        total: &mut [f32],
        work: &mut [f32],
        mut sector_sum: impl FnMut(usize, &mut [f32]),
    ) {
        let (sum, rest) = work.split_at_mut(width);
        let (triple, pair) = rest.split_at_mut(width);
        let pair = &mut pair[..width];
        for sector in sectors.clone() {
            sum.fill(0.0);
            sector_sum(sector, sum);
            let step = visit(sector - sectors.start);
            let place = match step.place {
                SumPlace::Total => &mut *total,
                SumPlace::Triple => &mut *triple,
                SumPlace::Pair => &mut *pair,
            };
            match step.fold {
                Fold::Set => place.copy_from_slice(sum),
                Fold::Add => reduce::add(self.isa, place, sum),
            }
            match step.then {
                Then::Nothing => {}
                Then::AddTriple => reduce::add(self.isa, total, triple),
                Then::AddPair => reduce::fold_pair(self.isa, total, pair, triple),
            }
        }
    }

    /// Gradient of a norm weight from its blocks (contract E5).
    pub(super) fn norm_gradient(&self, norm: usize, scratch: &mut Scratch) {
        let d = self.config.model.hidden_size;
        let blocks = self.seq_len().div_ceil(NORM_BLOCK);
        let [work, _, _] = scratch.buffers([3 * d, 0, 0]);
        for (node, sectors) in self.partition.nodes.iter().enumerate() {
            // SAFETY: see the top of this file.
            let total = unsafe { self.partial(node, false).slice_mut(self.weights.layout.norms[norm].offset, d) };
            self.fold_rows(d, sectors, total, work, |sector, sum| {
                let windows = sector_windows(self.partition.batch, sector);
                let first = (norm * self.partition.batch + windows.start) * blocks;
                for block in first..first + windows.len() * blocks {
                    // SAFETY: see the top of this file.
                    reduce::add(self.isa, sum, unsafe { self.norm_blocks.slice(block * d, d) });
                }
            });
        }
    }

    /// Where a sum over sectors that this process makes lies; `rows`: that of the embedding's rows where it is apart.
    fn partial(&self, node: usize, rows: bool) -> &Arena {
        self.shared.as_ref().map_or(&self.gradient, |shared| shared.partial(&self.gradient, node, rows))
    }

    /// Gradient of some rows of the embedding (contract L6), added to the output head's where these are tied.
    pub(super) fn embedding_gradient(&self, tile: usize, scratch: &mut Scratch) {
        for node in 0..self.partition.nodes.len() {
            self.embedding_sums(node, tile, scratch);
        }
    }

    fn embedding_sums(&self, node: usize, tile: usize, scratch: &mut Scratch) {
        let m = &self.weights.layout.matrices[self.embedding];
        let (d, stride) = (m.cols, self.slot_layout.layers[0].x.stride);
        let tied = self.lm_head == self.embedding;
        // With other ranks the two parts of a tied matrix are added when both are whole.
        let apart = tied && self.shared.is_some();
        let (sums, sectors) = (self.partial(node, apart), &self.partition.nodes[node]);
        let [work, folded, _] = scratch.buffers([3 * d, d, 0]);
        let folded = &mut folded[..d];
        let batch = self.batch();
        for row in tile * ROW_BLOCK..((tile + 1) * ROW_BLOCK).min(m.rows) {
            let tokens = batch.tokens_with_id(row);
            // SAFETY: see the top of this file.
            let (dx, total) = unsafe {
                let dx = self.embedded.mat(0, self.partition.batch * self.seq_len(), d, stride);
                (dx, sums.slice_mut(m.offset + row * d, d))
            };
            if tokens.is_empty() {
                // The tree over zeros.
                folded.fill(0.0);
            } else {
                self.fold_rows(d, sectors, folded, work, |sector, sum| {
                    let windows = sector_windows(self.partition.batch, sector);
                    let limit = |window: usize| tokens.partition_point(|&t| (t as usize) < window * self.seq_len());
                    embedding::scatter_row(self.isa, dx, &tokens[limit(windows.start)..limit(windows.end)], sum);
                });
            }
            if tied && !apart {
                reduce::add(self.isa, total, folded);
            } else {
                total.copy_from_slice(folded);
            }
        }
    }
}
