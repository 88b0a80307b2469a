//! No plan lets a sector into memory that an earlier one still needs, whatever is trained; rounds and names of every plan.

use super::limits::ROW_BLOCK;
use super::optimizer::ADAMW;
use super::rounds::operation;
use super::tiles::block;
use super::{Division, Partition, Plan, RowStage, SECTORS, Stage, Task, sector_windows};
use crate::config::{ADAPTER_TARGETS, EngineConfig, LoraConfig};
use crate::model::{Adapters, Layout};
use crate::pool::rounds::Round;
use crate::pool::{Program, Run, Scratch};
use std::sync::Arc;

/// Of each node, the nodes that it comes after, as bits.
fn ancestors(plan: &Plan) -> Vec<Vec<u64>> {
    let words = plan.tasks.len().div_ceil(64);
    let mut all: Vec<Vec<u64>> = Vec::new();
    for before in plan.graph.predecessors() {
        let mut own = vec![0; words];
        for b in before {
            own[b as usize / 64] |= 1_u64 << (b % 64);
            own.iter_mut().zip(&all[b as usize]).for_each(|(own, other)| *own |= other);
        }
        all.push(own);
    }
    all
}

/// The sectors whose activations a task reads or writes, and whether it does the same with their logits.
fn touched(partition: &Partition, task: Task) -> (Vec<usize>, bool) {
    // A sector without windows has no memory.
    let filled =
        |sectors: std::ops::Range<usize>| sectors.filter(|&s| !sector_windows(partition.batch, s).is_empty()).collect();
    match task {
        Task::Rows { window, stage, .. } => (vec![partition.sector_of(window)], stage == RowStage::Loss),
        Task::Attention { window, .. } => (vec![partition.sector_of(window)], false),
        Task::LmHeadGradient { sector, .. } => (filled(sector..sector + 1), true),
        Task::MatrixGradient { first, end, .. } => (filled(first..end), false),
        _ => (Vec::new(), false),
    }
}

fn check(partition: &Partition, plan: &Plan) {
    let ancestors = ancestors(plan);
    let comes_after = |late: usize, early: usize| ancestors[late][early / 64] >> (early % 64) & 1 == 1;
    let mut users: Vec<Vec<(usize, bool)>> = vec![Vec::new(); SECTORS];
    for (node, &task) in plan.tasks.iter().enumerate() {
        let (sectors, logits) = touched(partition, task);
        sectors.into_iter().for_each(|sector| users[sector].push((node, logits)));
    }
    for late in 0..SECTORS {
        for early in 0..late {
            let (slot, logit_slot) = (
                early % partition.slots == late % partition.slots,
                early % partition.logit_slots == late % partition.logit_slots,
            );
            for &(a, a_logits) in &users[early] {
                for &(b, b_logits) in &users[late] {
                    let shared = slot || (logit_slot && a_logits && b_logits);
                    assert!(!shared || comes_after(b, a), "{:?} does not follow {:?}", plan.tasks[b], plan.tasks[a]);
                }
            }
        }
    }
    // What is updated is read by everything before, and follows from all of it.
    let Some(finish) = plan.tasks.iter().position(|&task| task == Task::Finish) else { return };
    for (node, &task) in plan.tasks.iter().enumerate().filter(|&(node, task)| node < finish && *task != Task::Join) {
        assert!(comes_after(finish, node), "the update does not follow {task:?}");
    }
    for (node, &task) in plan.tasks.iter().enumerate().filter(|&(node, _)| node > finish) {
        assert!(comes_after(node, finish), "{task:?} does not follow the update's numbers");
    }
}

#[test]
fn memory_is_used_again_only_when_it_is_free() {
    for (batch, slots, layers) in [(1, 1, 1), (2, 0, 2), (3, 3, 1), (5, 1, 2), (7, 5, 2), (13, 0, 2), (13, 12, 1)] {
        let config = serde_json::from_str::<EngineConfig>(&format!(
            r#"{{"model": {{"vocab_size": 30, "hidden_size": 8, "intermediate_size": 12, "num_layers": {layers},
            "num_heads": 2, "num_kv_heads": 1, "seq_len": 70, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
            "tie_embeddings": true}}, "train": {{"batch_size": {batch}, "max_steps": 9, "learning_rate": 1e-3,
            "warmup_steps": 0, "decay_start": 9, "schedule": "wsd", "min_lr_ratio": 0.1, "weight_decay": 0.1,
            "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "grad_clip": 1.0, "seed": 1}},
            "threads": 2, "sectors_in_flight": {slots}}}"#
        ))
        .unwrap();
        let (partition, layout) = (Partition::new(&config), Layout::new(&config.model));
        check(&partition, &Plan::training(&partition, &layout, None, true));
        let choices: [&[&str]; 5] = [&ADAPTER_TARGETS, &["q_proj"], &["o_proj"], &["up_proj"], &["down_proj"]];
        for targets in choices {
            let targets = targets.iter().map(|&name| name.to_owned()).collect();
            let adapters = Adapters::new(&layout, &LoraConfig { rank: 2, alpha: 2.0, targets });
            check(&partition, &Plan::training(&partition, &layout, Some(&adapters), true));
        }
    }
}

struct Nothing;
impl Program for Nothing {
    fn run(&self, _: u32, _: &mut Scratch) {}
}

fn config_of(batch: usize, threads: usize, sectors_in_flight: usize) -> EngineConfig {
    serde_json::from_str(&format!(
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
        let config = config_of(batch, threads, slots);
        let (partition, layout) = (Partition::new(&config), Layout::new(&config.model));
        let plans = adapters(&layout).map(|adapters| Plan::training(&partition, &layout, adapters.as_ref(), true));
        for plan in plans.into_iter().chain([Plan::evaluation(&partition)]) {
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
    let config = config_of(24, 2, 12);
    let plan = Plan::training(&Partition::new(&config), &Layout::new(&config.model), None, true);
    let forward = |round: &&Round| {
        let first = round.shared.first().map(|&node| plan.tasks[node as usize]);
        matches!(first, Some(Task::Rows { stage: RowStage::Forward(_), .. }))
    };
    assert_eq!(plan.rounds().iter().filter(forward).count(), config.model.num_layers + 1);
}

#[test]
fn every_node_has_a_name_of_its_own_but_joins_and_the_end() {
    let config = config_of(7, 3, 0);
    let (partition, layout) = (Partition::new(&config), Layout::new(&config.model));
    for adapters in adapters(&layout) {
        let nodes = Plan::training(&partition, &layout, adapters.as_ref(), true).task_graph(&layout, adapters.as_ref());
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

#[test]
fn nothing_leaves_before_the_update_has_begun() {
    let config = config_of(13, 2, 0);
    let (partition, layout) = (Partition::new(&config), Layout::new(&config.model));
    for adapters in adapters(&layout) {
        for ranks in [2, 3, 7, 12] {
            let division = Division::new(&layout, adapters.as_ref(), ADAMW, ranks, ranks - 1);
            let plan = Plan::shared(&partition, &layout, adapters.as_ref(), &division);
            assert_eq!(plan.tasks[0], Task::Begin);
            let ancestors = ancestors(&plan);
            for (node, task) in
                plan.tasks.iter().enumerate().filter(|(_, task)| matches!(task, Task::Leave { .. } | Task::Note))
            {
                assert!(ancestors[node][0] & 1 == 1, "{task:?} may run before the update has begun");
            }
        }
    }
}

#[test]
fn own_values_leave_before_any_is_packed_and_are_packed_before_others_arrive() {
    let config = config_of(13, 2, 0);
    let (partition, layout) = (Partition::new(&config), Layout::new(&config.model));
    for ranks in [2, 3, 7, 12] {
        let division = Division::new(&layout, None, ADAMW, ranks, ranks - 1);
        let plan = Plan::shared(&partition, &layout, None, &division);
        let ancestors = ancestors(&plan);
        let follows = |node: usize, other: usize| ancestors[node][other / 64] >> (other % 64) & 1 == 1;
        let values = |stage: Stage| matches!(stage, Stage::Values { .. });
        let leaving = |task: &Task| matches!(task, Task::Leave { stage } if values(*stage));
        let left: Vec<usize> = (0..plan.tasks.len()).filter(|&node| leaving(&plan.tasks[node])).collect();
        let mut early = 0;
        for (node, task) in plan.tasks.iter().enumerate() {
            let Task::Merge { matrix, tile } = *task else { continue };
            assert!(left.iter().all(|&other| follows(node, other)), "{task:?} keeps others waiting");
            let bucket = division.buckets.iter().position(|bucket| bucket.matrices.contains(&matrix)).unwrap();
            let m = &layout.matrices[matrix];
            let rows = block(tile, ROW_BLOCK, m.rows);
            let own = &division.buckets[bucket].values[ranks - 1];
            let at_hand = own.start <= m.offset + rows.start * m.cols && m.offset + rows.end * m.cols <= own.end;
            let arrived = |&(stage, other): &(Stage, u32)| values(stage) && follows(node, other as usize);
            let waits: Vec<Stage> = plan.arrivals.iter().filter(|&a| arrived(a)).map(|&(stage, _)| stage).collect();
            assert_eq!(waits, if at_hand { vec![] } else { vec![Stage::Values { bucket }] }, "{task:?}");
            early += usize::from(at_hand);
        }
        assert!(early > 0 || ranks > 2, "nothing is packed while others' values are on their way");
    }
}
