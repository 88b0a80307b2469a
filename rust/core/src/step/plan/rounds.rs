//! Plans for fork-join scheduling: the operations that nodes are parts of, one after the other.

use super::graph::Plan;
use super::task::{RowStage, Task};
use crate::pool::rounds::Round;
use std::collections::BTreeMap;

impl Plan {
    /// The graph as one operation after the other, for fork-join scheduling: of all nodes that are ready, those of the
    /// operation that comes first in a pass. So the sectors that lag behind catch up, and a round has as many windows
    /// as the slots allow.
    pub fn rounds(&self) -> Vec<Round> {
        let mut waiting = self.graph.dependencies().to_vec();
        let mut ready: BTreeMap<(u8, isize), Vec<u32>> = BTreeMap::new();
        let mut rounds = Vec::new();
        let mut freed: Vec<u32> = (0..waiting.len() as u32).filter(|&node| waiting[node as usize] == 0).collect();
        loop {
            let mut round = Round::default();
            // Joins do nothing: they need no separate round.
            while let Some(node) = freed.pop() {
                if let Some(operation) = operation(self.tasks[node as usize]) {
                    ready.entry(operation).or_default().push(node);
                } else {
                    round.serial.push(node);
                    self.free(node, &mut waiting, &mut freed);
                }
            }
            if let Some((_, mut nodes)) = ready.pop_first() {
                nodes.sort_unstable();
                nodes.iter().for_each(|&node| self.free(node, &mut waiting, &mut freed));
                round.shared = nodes;
            } else if round.serial.is_empty() {
                return rounds;
            }
            rounds.push(round);
        }
    }

    fn free(&self, node: u32, waiting: &mut [u32], freed: &mut Vec<u32>) {
        for &next in self.graph.successors(node) {
            waiting[next as usize] -= 1;
            if waiting[next as usize] == 0 {
                freed.push(next);
            }
        }
    }
}

/// The operation that a node is a part of, in the order of a pass; `None` for a join.
pub(super) fn operation(task: Task) -> Option<(u8, isize)> {
    let layer = |l: usize| l as isize;
    Some(match task {
        // Plans of several ranks are not run in rounds.
        Task::Join | Task::Begin | Task::Leave { .. } => return None,
        Task::EvalCut => (0, 0),
        Task::Rows { stage: RowStage::Forward(l), .. } => (1, 2 * layer(l)),
        Task::Attention { layer: l, backward: false, .. } => (1, 2 * layer(l) + 1),
        Task::Rows { stage: RowStage::Loss | RowStage::EvalLoss, .. } => (2, 0),
        Task::LmHeadGradient { .. } => (3, 0),
        Task::Attention { layer: l, backward: true, .. } => (4, -2 * layer(l) - 1),
        Task::Rows { stage: RowStage::Backward(l), .. } => (4, -2 * layer(l)),
        Task::MatrixGradient { matrix, .. } => (5, -layer(matrix)),
        Task::NormGradient { .. } => (6, 0),
        Task::EmbeddingGradient { .. } => (7, 0),
        Task::FoldPart { .. } | Task::AdapterGradient { .. } => (8, 0),
        Task::Squares { .. } | Task::OwnSquares { .. } | Task::Note | Task::Learn { .. } => (9, 0),
        Task::Finish => (10, 0),
        Task::UpdateMatrix { .. } | Task::UpdateNorm { .. } | Task::UpdateFactor { .. } | Task::UpdateOwn { .. } => {
            (11, 0)
        }
        Task::Merge { .. } | Task::Digest { .. } | Task::Check { .. } => (12, 0),
        Task::EvalSum => (13, 0),
    })
}
