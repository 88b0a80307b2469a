//! Ranks compute the bits of one process however the optimizer wants the parameters divided.

use super::{Initialise, Job, PackAll, State};
use crate::config::EngineConfig;
use crate::pool::{Pool, Run};
use crate::step::feed::Batch;
use crate::step::plan::{ADAMW, Optimizer, Unit};
use crate::system::arena::Arena;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use symlm_kernels::Isa;

const UPDATES: u64 = 3;
/// Ranks that take longer wait for each other; no slow machine comes near.
const HANGS: Duration = Duration::from_secs(600);

fn config(ranks: usize, rank: usize, tied: bool) -> EngineConfig {
    serde_json::from_str(&format!(
        r#"{{"model": {{"vocab_size": 301, "hidden_size": 72, "intermediate_size": 100, "num_layers": 2,
        "num_heads": 6, "num_kv_heads": 2, "seq_len": 5, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "tie_embeddings": {tied}}}, "train": {{"batch_size": 12, "max_steps": 9, "learning_rate": 3e-3,
        "warmup_steps": 0, "decay_start": 9, "schedule": "wsd", "min_lr_ratio": 0.1, "weight_decay": 0.1,
        "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "grad_clip": 0.5, "seed": 1}},
        "threads": 1, "sectors_in_flight": 0, "ranks": {ranks}, "rank": {rank}}}"#
    ))
    .unwrap()
}

fn batch(config: &EngineConfig, step: u64) -> Batch {
    let (windows, seq_len) = (config.train.batch_size, config.model.seq_len);
    let ids: Vec<u32> = (0..97).map(|i| (i * i * (step as u32 + 3)) % 301).collect();
    let mut batch = Batch::new(windows, seq_len);
    (batch.step, batch.windows) = (step, windows);
    for window in 0..windows {
        batch.set_window(window, &ids, 7 * window as u64).unwrap();
    }
    batch.index(config.model.vocab_size).unwrap();
    batch
}

/// Some updates of one rank, on a new thread.
fn train(state: Arc<State>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let pool = Pool::new(1).unwrap();
        pool.execute(&Initialise::new(state.clone(), true).run()).unwrap();
        pool.execute(&PackAll::new(state.clone()).run()).unwrap();
        let plan = state.plan(true);
        let run = Run::new(Arc::new(Job { state: state.clone(), tasks: plan.tasks }), Arc::new(plan.graph));
        if let Some(shared) = &state.shared {
            shared.mailbox.open(pool.door(&run));
        }
        for step in 0..UPDATES {
            *state.batch.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(batch(&state.config, step));
            pool.execute(&run).unwrap();
        }
    })
}

/// Copies what leaves a rank to where it arrives, until all have trained.
fn carry(states: &[Arc<State>], threads: &[std::thread::JoinHandle<()>]) {
    let mailbox = |rank: usize| &states[rank].shared.as_ref().expect("one of several ranks").mailbox;
    let mut expected: Vec<Vec<u32>> = vec![Vec::new(); states.len()];
    let mut left: Vec<(usize, u32)> = Vec::new();
    let end = Instant::now() + HANGS;
    while threads.iter().any(|thread| !thread.is_finished()) {
        assert!(Instant::now() < end, "the ranks wait for each other: {left:?} have left, {expected:?} are expected");
        for (rank, expected) in expected.iter_mut().enumerate() {
            let out = mailbox(rank).wait(Duration::from_micros(100));
            let transfers = mailbox(rank).transfers().iter().enumerate();
            if out.begun > 0 {
                expected.extend(transfers.filter(|(_, t)| t.incoming).map(|(index, _)| index as u32));
            }
            left.extend(out.leaving.into_iter().map(|index| (rank, index)));
        }
        left.retain(|&(rank, index)| {
            let from = mailbox(rank).transfers()[index as usize];
            let fits = |&at: &u32| {
                let to = mailbox(from.peer).transfers()[at as usize];
                (to.peer, to.tag) == (rank, from.tag)
            };
            let Some(found) = expected[from.peer].iter().position(fits) else { return true };
            let at = expected[from.peer].swap_remove(found);
            let to = mailbox(from.peer).transfers()[at as usize];
            assert_eq!(to.bytes, from.bytes);
            // SAFETY: both have that many bytes; until these transfers are done no task writes the first or touches the second.
            unsafe { std::ptr::copy_nonoverlapping(from.address as *const u8, to.address as *mut u8, to.bytes) };
            mailbox(from.peer).done(&[at]);
            mailbox(rank).done(&[index]);
            false
        });
    }
}

fn bits(arena: &Arena) -> Vec<u32> {
    // SAFETY: nothing runs any more.
    unsafe { arena.slice(0, arena.len()) }.iter().map(|value| value.to_bits()).collect()
}

/// Weights and moments after some updates. A rank has the moments that it owns; those of the others are still zero.
fn trained(optimizer: Optimizer, ranks: usize, tied: bool) -> (Vec<u32>, [Vec<u32>; 2]) {
    let of = |rank| Arc::new(State::trained_by(optimizer, Isa::Portable, config(ranks, rank, tied)).unwrap());
    let states: Vec<Arc<State>> = (0..ranks).map(of).collect();
    let threads: Vec<_> = states.iter().cloned().map(train).collect();
    if ranks > 1 {
        carry(&states, &threads);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let weights = bits(&states[0].weights.values);
    assert!(states.iter().all(|state| bits(&state.weights.values) == weights));
    let of_all = |arena: fn(&State) -> &Arena| {
        let each = states.iter().map(|state| bits(arena(state)));
        each.reduce(|all, own| all.iter().zip(&own).map(|(a, b)| a | b).collect()).unwrap()
    };
    (weights, [of_all(|state| &state.first_moment), of_all(|state| &state.second_moment)])
}

#[test]
fn whole_tensors_give_the_bits_of_blocks_and_of_one_process() {
    let tensors = Optimizer { unit: Unit::Tensor };
    for tied in [true, false] {
        let alone = trained(ADAMW, 1, tied);
        for ranks in [2, 3] {
            for optimizer in [ADAMW, tensors] {
                assert!(trained(optimizer, ranks, tied) == alone, "{optimizer:?}, {ranks} ranks, tied: {tied}");
            }
        }
        assert!(trained(tensors, 12, tied) == alone, "12 ranks, tied: {tied}");
    }
}
