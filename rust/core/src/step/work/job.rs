//! A graph with the state that its nodes work on.

use super::state::State;
use crate::pool::{Program, Scratch};
use crate::step::plan::{RowStage, Task};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A state with the plan whose nodes it runs.
pub(crate) struct Job {
    pub state: Arc<State>,
    pub tasks: Vec<Task>,
}

impl Program for Job {
    fn run(&self, node: u32, scratch: &mut Scratch) {
        let s = &*self.state;
        match self.tasks[node as usize] {
            Task::Join => {}
            Task::Rows { window, stage, strip } => {
                let rows = s.partition.strip_rows(strip);
                let batch = s.batch();
                if window >= batch.windows {
                    return;
                }
                match stage {
                    RowStage::Forward(l) => s.forward(l, window, &rows, &batch, scratch),
                    RowStage::Loss => s.loss(window, &rows, &batch, scratch),
                    RowStage::EvalLoss => s.eval_loss(window, &rows, &batch, scratch),
                    RowStage::Backward(l) => s.backward(l, window, &rows, &batch, scratch),
                }
            }
            Task::Attention { window, layer, part, backward } => {
                let batch = s.batch();
                if window < batch.windows {
                    s.attention(layer, window, part, backward, &batch, scratch);
                }
            }
            Task::LmHeadGradient { sector, tile } => s.lm_head_gradient(sector, tile, scratch),
            Task::MatrixGradient { first, end, matrix, tile } => s.matrix_gradient(first..end, matrix, tile, scratch),
            Task::NormGradient { norm } => s.norm_gradient(norm, scratch),
            Task::EmbeddingGradient { tile } => s.embedding_gradient(tile, scratch),
            Task::AdapterGradient { adapter, tile } => s.adapter_gradient(adapter, tile, scratch),
            Task::Squares { param, block } => s.square_sums(param, block),
            Task::Finish => s.finish(),
            Task::UpdateMatrix { .. }
            | Task::UpdateNorm { .. }
            | Task::UpdateFactor { .. }
            | Task::Merge { .. }
            | Task::UpdateOwn { .. } => {
                if !s.failed.load(Ordering::Relaxed) {
                    update(s, self.tasks[node as usize], scratch);
                }
            }
            Task::Begin => s.begin(),
            Task::Leave { stage } => s.leave(stage),
            Task::FoldPart { bucket, start, len } => s.fold_part(bucket, start, len, scratch),
            Task::OwnSquares { piece } => s.own_squares(piece),
            Task::Note => s.note(),
            Task::Learn { rank } => s.learn(rank),
            Task::Digest { bucket } => s.digest(bucket),
            Task::Check { bucket, rank } => s.check(bucket, rank),
            Task::EvalCut => s.eval_cut(),
            Task::EvalSum => s.eval_sum(),
        }
    }

    /// The nodes that wait for other ranks are completed, as nothing leaves any more; that needs the first node in any case.
    fn pass_over(&self, node: u32) {
        if let (Some(shared), Some(Task::Begin)) = (&self.state.shared, self.tasks.first()) {
            shared.mailbox.fail("a task of this rank has failed");
            if self.tasks[node as usize] == Task::Begin {
                shared.mailbox.begin();
            }
        }
    }
}

/// The tasks that change weights, none of which runs in an update whose loss or gradient is not finite.
fn update(s: &State, task: Task, scratch: &mut Scratch) {
    match task {
        Task::UpdateMatrix { matrix, tile } => s.update_matrix(matrix, tile, scratch),
        Task::UpdateNorm { norm } => s.update_norm(norm),
        Task::UpdateFactor { factor, tile } => s.update_factor(factor, tile),
        Task::Merge { matrix, tile } => s.merge(matrix, tile, scratch),
        Task::UpdateOwn { piece } => s.update_own(piece),
        other => unreachable!("{other:?} changes no weights"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EngineConfig;
    use crate::pool::{Pool, Run};
    use std::sync::mpsc;
    use std::time::Duration;

    fn state() -> Arc<State> {
        let config = r#"{"model": {"vocab_size": 30, "hidden_size": 8, "intermediate_size": 12, "num_layers": 1,
            "num_heads": 2, "num_kv_heads": 1, "seq_len": 7, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
            "tie_embeddings": true}, "train": {"batch_size": 5, "max_steps": 9, "learning_rate": 1e-3,
            "warmup_steps": 0, "decay_start": 9, "schedule": "wsd", "min_lr_ratio": 0.1, "weight_decay": 0.1,
            "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "grad_clip": 1.0, "seed": 1},
            "threads": 1, "sectors_in_flight": 0, "ranks": 3, "rank": 1}"#;
        let config = serde_json::from_str::<EngineConfig>(config).unwrap();
        Arc::new(State::new(symlm_kernels::Isa::Portable, config).unwrap())
    }

    #[test]
    fn a_panic_anywhere_ends_an_update_that_waits_for_other_ranks() {
        let nodes = state().plan(true).tasks.len();
        for fails in 1..nodes {
            let state = state();
            let plan = state.plan(true);
            // Only what meets other ranks is done, but for one task, which there is no piece for.
            let quiet = |(node, task): (usize, Task)| match task {
                _ if node == fails => Task::OwnSquares { piece: usize::MAX },
                Task::Begin | Task::Leave { .. } => task,
                _ => Task::Join,
            };
            let tasks: Vec<Task> = plan.tasks.into_iter().enumerate().map(quiet).collect();
            let run = Run::new(Arc::new(Job { state: state.clone(), tasks }), Arc::new(plan.graph));
            let ((ended, end), other) = (mpsc::channel(), state.clone());
            std::thread::spawn(move || {
                let pool = Pool::new(2).unwrap();
                state.shared.as_ref().unwrap().mailbox.open(pool.door(&run));
                ended.send(pool.execute(&run))
            });
            // All other ranks do as they should until this one fails.
            let mailbox = &other.shared.as_ref().unwrap().mailbox;
            let outcome = (0..6000).find_map(|_| {
                let out = mailbox.wait(Duration::from_millis(1));
                if out.begun > 0 {
                    let all = 0..mailbox.transfers().len() as u32;
                    mailbox.done(&all.filter(|&i| mailbox.transfers()[i as usize].incoming).collect::<Vec<_>>());
                }
                mailbox.done(&out.leaving);
                end.recv_timeout(Duration::from_millis(1)).ok()
            });
            let error = outcome.expect("the update ends").unwrap_err();
            assert!(error.message.contains("index out of bounds"), "{}", error.message);
        }
    }
}
