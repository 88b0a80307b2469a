//! Names of the nodes for people, and the operations that they are parts of.

use super::graph::Plan;
use super::task::{Stage, Task};
use crate::model::{Adapters, Layout, MatrixId};
use crate::pool::rounds::Round;
use crate::trace::TaskNode;
use std::collections::BTreeMap;

/// Kind and detail of a node.
fn name(task: Task, layout: &Layout, adapters: Option<&Adapters>) -> (&'static str, String) {
    let matrix_name = |matrix: usize| match layout.matrices[matrix].id {
        MatrixId::Embedding => "embedding".to_owned(),
        MatrixId::LmHead => "head".to_owned(),
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
        Task::Attention { window, layer, part, backward } => {
            let kind = if backward { "attention backward" } else { "attention" };
            (kind, format!("layer {layer} window {window} part {part}"))
        }
        Task::LmHeadGradient { sector, tile } => ("head gradient", format!("sector {sector} tile {tile}")),
        Task::MatrixGradient { first, end, matrix, tile } => {
            ("matrix gradient", format!("{} sectors {first} to {} tile {tile}", matrix_name(matrix), end - 1))
        }
        Task::NormGradient { norm } => ("norm gradient", format!("norm {norm}")),
        Task::EmbeddingGradient { tile } => ("embedding gradient", format!("tile {tile}")),
        Task::AdapterGradient { adapter, tile } => ("adapter gradient", format!("adapter {adapter} tile {tile}")),
        Task::Squares { param, block } => {
            let params = adapters.map_or(&layout.params, |adapters| &adapters.params);
            ("squares", format!("{} block {block}", params[param].name))
        }
        Task::Finish => ("finish", String::new()),
        Task::UpdateMatrix { matrix, tile } => ("update", format!("{} tile {tile}", matrix_name(matrix))),
        Task::UpdateNorm { norm } => ("update", format!("norm {norm}")),
        Task::UpdateFactor { factor, tile } => ("update", format!("factor {factor} tile {tile}")),
        Task::Merge { matrix, tile } => ("merge", format!("{} tile {tile}", matrix_name(matrix))),
        Task::EvalCut => ("evaluation cut", String::new()),
        Task::EvalSum => ("evaluation sum", String::new()),
    }
}

impl Plan {
    /// The nodes with their names, dependencies and urgency.
    pub fn task_graph(&self, layout: &Layout, adapters: Option<&Adapters>) -> Vec<TaskNode> {
        let nodes = self.tasks.iter().zip(self.graph.predecessors()).zip(self.graph.urgent());
        nodes
            .map(|((&task, after), &urgent)| {
                let (kind, detail) = name(task, layout, adapters);
                TaskNode { kind, detail, after, urgent }
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
        Task::Attention { layer: l, backward: false, .. } => (1, 2 * layer(l) + 1),
        Task::Rows { stage: Stage::Loss | Stage::EvalLoss, .. } => (2, 0),
        Task::LmHeadGradient { .. } => (3, 0),
        Task::Attention { layer: l, backward: true, .. } => (4, -2 * layer(l) - 1),
        Task::Rows { stage: Stage::Backward(l), .. } => (4, -2 * layer(l)),
        Task::MatrixGradient { matrix, .. } => (5, -layer(matrix)),
        Task::NormGradient { .. } => (6, 0),
        Task::EmbeddingGradient { .. } => (7, 0),
        Task::AdapterGradient { .. } => (8, 0),
        Task::Squares { .. } => (9, 0),
        Task::Finish => (10, 0),
        Task::UpdateMatrix { .. } | Task::UpdateNorm { .. } | Task::UpdateFactor { .. } => (11, 0),
        Task::Merge { .. } => (12, 0),
        Task::EvalSum => (13, 0),
    })
}

#[cfg(test)]
mod tests {
    use super::super::partition::Partition;
    use super::*;
    use crate::config::{ADAPTER_TARGETS, EngineConfig, LoraConfig};
    use crate::pool::{Program, Run, Scratch};
    use std::sync::Arc;

    struct Nothing;
    impl Program for Nothing {
        fn run(&self, _: u32, _: &mut Scratch) {}
    }

    fn config(batch: usize, threads: usize, sectors_in_flight: usize) -> EngineConfig {
        EngineConfig::from_json(&format!(
            r#"{{"model": {{"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_layers": 3,
            "num_heads": 4, "num_kv_heads": 2, "seq_len": 130, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
            "tie_embeddings": false}}, "train": {{"batch_size": {batch}, "max_steps": 9, "learning_rate": 1e-3,
            "warmup_steps": 0, "decay_start": 9, "schedule": "wsd", "min_lr_ratio": 0.1, "weight_decay": 0.1,
            "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "grad_clip": 1.0, "seed": 1}},
            "threads": {threads}, "sectors_in_flight": {sectors_in_flight}}}"#
        ))
        .unwrap()
    }

    /// No adapters, all of them, and those of which the attention of the lowest layer needs no gradient.
    fn adapters(layout: &Layout) -> [Option<Adapters>; 3] {
        let some = |targets: &[&str]| {
            let targets = targets.iter().map(|&name| name.to_owned()).collect();
            Some(Adapters::new(layout, &LoraConfig { rank: 4, alpha: 8.0, targets }))
        };
        [None, some(&ADAPTER_TARGETS), some(&["up_proj", "down_proj"])]
    }

    #[test]
    fn rounds_of_every_plan_are_in_order_and_of_one_operation() {
        for (batch, threads, slots) in [(1, 1, 0), (5, 3, 1), (12, 2, 0), (31, 2, 12), (32, 63, 0), (32, 2, 5)] {
            let config = config(batch, threads, slots);
            let (partition, layout) = (Partition::new(&config), Layout::new(&config.model));
            let trainings =
                adapters(&layout).map(|adapters| Plan::training(&partition, &layout, adapters.as_ref(), true));
            for plan in trainings.into_iter().chain([Plan::evaluation(&partition)]) {
                let rounds = plan.rounds();
                for round in &rounds {
                    let mut operations = round.shared.iter().map(|&node| operation(plan.tasks[node as usize]));
                    let first = operations.next().flatten();
                    assert!(operations.all(|o| o == first));
                    assert!(round.serial.iter().all(|&node| plan.tasks[node as usize] == Task::Join));
                }
                // Refuses what is incomplete or out of order.
                Run::in_rounds(Arc::new(Nothing), Arc::new(plan.graph), rounds);
            }
        }
    }

    #[test]
    fn with_all_sectors_in_flight_a_stage_is_one_round() {
        let config = config(24, 2, 12);
        let plan = Plan::training(&Partition::new(&config), &Layout::new(&config.model), None, true);
        let forward = |round: &&Round| {
            let first = round.shared.first().map(|&node| plan.tasks[node as usize]);
            matches!(first, Some(Task::Rows { stage: Stage::Forward(_), .. }))
        };
        assert_eq!(plan.rounds().iter().filter(forward).count(), config.model.num_layers + 1);
    }

    #[test]
    fn every_node_has_a_name_of_its_own_but_joins_and_the_end() {
        let config = config(7, 3, 0);
        let (partition, layout) = (Partition::new(&config), Layout::new(&config.model));
        for adapters in adapters(&layout) {
            let nodes =
                Plan::training(&partition, &layout, adapters.as_ref(), true).task_graph(&layout, adapters.as_ref());
            let mut names: Vec<_> = nodes.iter().filter(|n| n.kind != "join").map(|n| (n.kind, &n.detail)).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all);
            for (node, after) in nodes.iter().map(|n| &n.after).enumerate() {
                assert!(after.iter().all(|&b| (b as usize) < node));
            }
        }
    }
}
