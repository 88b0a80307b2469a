//! What an update has more of where several ranks compute it: the nodes of `messages`, and the work on the own part.

use super::graph::{Computed, Plan, TrainingPlan};
use super::limits::{B_ROWS, ROW_BLOCK, SQUARE_BLOCKS};
use super::messages::{Division, Stage};
use super::ownership::{Bucket, Piece};
use super::task::Task;
use super::tiles::{a_tiles, block};
use crate::contract::SQUARE_BLOCK;
use crate::model::MatrixId;

impl TrainingPlan<'_> {
    /// Everything from the partial sums of this rank to the new weights.
    pub(super) fn exchange(mut self, division: &Division, computed: &Computed) -> Plan {
        let count = division.buckets.len();
        let ready: Vec<Option<u32>> =
            (0..count).map(|bucket| self.total_gradient(division, bucket, computed)).collect();
        let square = |plan: &mut Plan, (piece, p): (usize, &Piece)| {
            plan.add(Task::OwnSquares { piece }, &[ready[p.bucket].expect("a piece is part of an own part")])
        };
        let mut squares: Vec<u32> =
            division.pieces.iter().enumerate().map(|piece| square(&mut self.plan, piece)).collect();
        squares.push(computed.bottom);
        squares.extend(self.begin);
        let note = self.plan.add(Task::Note, &squares);
        self.plan.add(Task::Leave { stage: Stage::Notes }, &[note]);
        let notes = self.arrive(division, Stage::Notes, &[]);
        let mut known: Vec<u32> = division.others().map(|rank| self.plan.add(Task::Learn { rank }, &[notes])).collect();
        known.push(note);
        let finish = self.plan.add(Task::Finish, &known);
        let left = self.own_updates(division, finish);
        self.gather(division, left);
        let messages = division.stages().into_iter().flat_map(|stage| division.messages(stage));
        let sent = self.plan.add(Task::Join, &[]);
        self.plan.graph.wait_outside(sent, messages.filter(|message| !message.incoming).count() as u32);
        self.plan.sent = Some(sent);
        self.plan
    }

    /// A node that is done when all messages of a stage are there, and `after`.
    fn arrive(&mut self, division: &Division, stage: Stage, after: &[u32]) -> u32 {
        let node = self.plan.add(Task::Join, after);
        self.plan.graph.wait_outside(node, division.incoming(stage));
        self.plan.arrivals.push((stage, node));
        node
    }

    /// Lets the partial sums of a bucket leave, and folds the own part of it; returns the end of the latter.
    fn total_gradient(&mut self, division: &Division, bucket: usize, computed: &Computed) -> Option<u32> {
        let b = &division.buckets[bucket];
        let mut after = Vec::new();
        for rows in [false, true].into_iter().take(1 + usize::from(b.tied)) {
            let stage = Stage::Gradient { bucket, rows };
            let mut own = self.own_gradient(b, rows, computed);
            own.extend(self.begin);
            after.push(self.plan.add(Task::Leave { stage }, &own));
            if !b.gradient[division.rank].is_empty() {
                after.push(self.arrive(division, stage, &[]));
            }
        }
        let own = &b.gradient[division.rank];
        if own.is_empty() {
            return None;
        }
        let len = SQUARE_BLOCK * SQUARE_BLOCKS;
        let parts =
            own.clone().step_by(len).map(|start| Task::FoldPart { bucket, start, len: len.min(own.end - start) });
        let folded: Vec<u32> = parts.map(|task| self.plan.add(task, &after)).collect();
        let folded = self.plan.add(Task::Join, &folded);
        let (Some(index), Some(adapters)) = (b.adapter, self.adapters) else { return Some(folded) };
        let adapter = &adapters.list[index];
        let tiles = 0..a_tiles(adapter) + adapter.rows.div_ceil(B_ROWS);
        let factors: Vec<u32> =
            tiles.map(|tile| self.plan.add(Task::AdapterGradient { adapter: index, tile }, &[folded])).collect();
        Some(self.plan.add(Task::Join, &factors))
    }

    /// The nodes that leave this rank's partial sums of a bucket behind.
    fn own_gradient(&mut self, bucket: &Bucket, rows: bool, computed: &Computed) -> Vec<u32> {
        let mut nodes = Vec::new();
        for &matrix in &bucket.matrices {
            let m = &self.layout.matrices[matrix];
            if m.id == MatrixId::Embedding && rows == bucket.tied {
                let tiles = 0..m.rows.div_ceil(ROW_BLOCK);
                nodes.extend(tiles.map(|tile| self.plan.add(Task::EmbeddingGradient { tile }, &[computed.bottom])));
            } else if matrix == self.layout.lm_head() {
                nodes.extend(&computed.lm_head);
            } else {
                nodes.extend(&computed.matrices[matrix]);
            }
        }
        for &norm in &bucket.norms {
            let last = [computed.bottom];
            let after = computed.passed.get(norm / 2).map_or(&last[..], |passed| passed);
            nodes.push(self.plan.add(Task::NormGradient { norm }, after));
        }
        nodes
    }

    /// The update of the own part; returns the node after which all new values of this rank have been let go.
    fn own_updates(&mut self, division: &Division, finish: u32) -> u32 {
        let mut left = vec![finish];
        for (bucket, b) in division.buckets.iter().enumerate() {
            let pieces = division.pieces.iter().enumerate().filter(|(_, piece)| piece.bucket == bucket);
            let updates: Vec<u32> =
                pieces.map(|(piece, _)| self.plan.add(Task::UpdateOwn { piece }, &[finish])).collect();
            if !b.values[division.rank].is_empty() {
                let digest = self.plan.add(Task::Digest { bucket }, &updates);
                left.push(self.plan.add(Task::Leave { stage: Stage::Values { bucket } }, &[digest]));
            }
        }
        self.plan.add(Task::Leave { stage: Stage::Digests }, &left)
    }

    /// The new values of all: compared with their digests, then packed. This rank lets its values leave first, because
    /// others wait for them, then packs its own while theirs are on their way.
    fn gather(&mut self, division: &Division, left: u32) {
        let digests = self.arrive(division, Stage::Digests, &[left]);
        let mut all = Vec::new();
        for (bucket, b) in division.buckets.iter().enumerate() {
            let there = self.arrive(division, Stage::Values { bucket }, &[left]);
            for rank in division.others().filter(|&rank| !b.values[rank].is_empty()) {
                self.plan.add(Task::Check { bucket, rank }, &[there, digests]);
            }
            all.push(there);
            if self.adapters.is_none() {
                let own = &b.values[division.rank];
                for &matrix in &b.matrices {
                    let m = &self.layout.matrices[matrix];
                    for tile in 0..m.rows.div_ceil(ROW_BLOCK) {
                        let rows = block(tile, ROW_BLOCK, m.rows);
                        let (first, end) = (m.offset + rows.start * m.cols, m.offset + rows.end * m.cols);
                        let at_hand = own.start <= first && end <= own.end;
                        self.plan.add(Task::Merge { matrix, tile }, &[if at_hand { left } else { there }]);
                    }
                }
            }
        }
        if let Some(adapters) = self.adapters {
            self.merge_adapted(self.layout, adapters, &all);
        }
    }
}
