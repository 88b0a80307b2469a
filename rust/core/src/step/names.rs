//! Names of the nodes for people, and the operations that they are parts of.

use super::plan::{Plan, Stage, Task};
use crate::model::{Layout, MatrixId};
use crate::pool::rounds::Round;
use crate::trace::TaskNode;
use std::collections::BTreeMap;

/// Kind and detail of a node.
fn name(task: Task, layout: &Layout) -> (&'static str, String) {
    let matrix_name = |matrix: usize| match layout.matrices[matrix].id {
        MatrixId::Embedding => "embedding".to_owned(),
        MatrixId::Head => "head".to_owned(),
        MatrixId::Qkv(l) => format!("layer {l} query, key, value"),
        MatrixId::Out(l) => format!("layer {l} attention output"),
        MatrixId::GateUp(l) => format!("layer {l} gate and up"),
        MatrixId::Down(l) => format!("layer {l} down"),
    };
    match task {
        Task::Join => ("join", String::new()),
        Task::Rows { window, stage, strip } => match stage {
            Stage::Forward(l) => ("forward", format!("stage {l} window {window} strip {strip}")),
            Stage::Loss => ("loss", format!("window {window} strip {strip}")),
            Stage::EvalLoss => ("evaluation loss", format!("window {window} strip {strip}")),
            Stage::Backward(l) => ("backward", format!("stage {l} window {window} strip {strip}")),
        },
        Task::Heads { window, layer, part, backward } => {
            let kind = if backward { "attention backward" } else { "attention" };
            (kind, format!("layer {layer} window {window} part {part}"))
        }
        Task::HeadGradient { sector, tile } => ("head gradient", format!("sector {sector} tile {tile}")),
        Task::MatrixGradient { first, end, matrix, tile } => {
            ("matrix gradient", format!("{} sectors {first} to {} tile {tile}", matrix_name(matrix), end - 1))
        }
        Task::NormGradient { norm } => ("norm gradient", format!("norm {norm}")),
        Task::EmbeddingGradient { tile } => ("embedding gradient", format!("tile {tile}")),
        Task::Squares { param, block } => ("squares", format!("{} block {block}", layout.params[param].name)),
        Task::Finish => ("finish", String::new()),
        Task::UpdateMatrix { matrix, tile } => ("update", format!("{} tile {tile}", matrix_name(matrix))),
        Task::UpdateNorm { norm } => ("update", format!("norm {norm}")),
        Task::EvalCut => ("evaluation cut", String::new()),
        Task::EvalSum => ("evaluation sum", String::new()),
    }
}

impl Plan {
    /// The nodes with their names and dependencies.
    pub fn task_graph(&self, layout: &Layout) -> Vec<TaskNode> {
        let nodes = self.tasks.iter().zip(self.graph.predecessors());
        nodes
            .map(|(&task, after)| {
                let (kind, detail) = name(task, layout);
                TaskNode { kind, detail, after }
            })
            .collect()
    }

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
            // Joins do nothing: they need no round of their own.
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
fn operation(task: Task) -> Option<(u8, isize)> {
    let layer = |l: usize| l as isize;
    Some(match task {
        Task::Join => return None,
        Task::EvalCut => (0, 0),
        Task::Rows { stage: Stage::Forward(l), .. } => (1, 2 * layer(l)),
        Task::Heads { layer: l, backward: false, .. } => (1, 2 * layer(l) + 1),
        Task::Rows { stage: Stage::Loss | Stage::EvalLoss, .. } => (2, 0),
        Task::HeadGradient { .. } => (3, 0),
        Task::Heads { layer: l, backward: true, .. } => (4, -2 * layer(l) - 1),
        Task::Rows { stage: Stage::Backward(l), .. } => (4, -2 * layer(l)),
        Task::MatrixGradient { matrix, .. } => (5, -layer(matrix)),
        Task::NormGradient { .. } => (6, 0),
        Task::EmbeddingGradient { .. } => (7, 0),
        Task::Squares { .. } => (8, 0),
        Task::Finish => (9, 0),
        Task::UpdateMatrix { .. } | Task::UpdateNorm { .. } => (10, 0),
        Task::EvalSum => (11, 0),
    })
}
