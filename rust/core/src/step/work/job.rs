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
                    RowStage::Backward(l) => s.backward(l, window, &rows, scratch),
                }
            }
            Task::Attention { window, layer, part, backward } => {
                if window < s.batch().windows {
                    s.attention(layer, window, part, backward, scratch);
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
