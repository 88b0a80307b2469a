//! Names of the nodes, for traces.

use super::graph::Plan;
use super::messages::Stage;
use super::task::{RowStage, Task};
use crate::model::{Adapters, Layout, MatrixId};
use crate::trace::TaskNode;

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
            RowStage::Forward(l) => ("forward", format!("stage {l} window {window} strip {strip}")),
            RowStage::Loss => ("loss", format!("window {window} strip {strip}")),
            RowStage::EvalLoss => ("evaluation loss", format!("window {window} strip {strip}")),
            RowStage::Backward(l) => ("backward", format!("stage {l} window {window} strip {strip}")),
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
        Task::Begin => ("begin", String::new()),
        Task::Leave { stage } => ("leave", stage_name(stage)),
        Task::FoldPart { bucket, start, .. } => ("fold", format!("bucket {bucket} from {start}")),
        Task::OwnSquares { piece } => ("squares", format!("piece {piece}")),
        Task::Note => ("note", String::new()),
        Task::Learn { rank } => ("learn", format!("rank {rank}")),
        Task::UpdateOwn { piece } => ("update", format!("piece {piece}")),
        Task::Digest { bucket } => ("digest", format!("bucket {bucket}")),
        Task::Check { bucket, rank } => ("check", format!("bucket {bucket} rank {rank}")),
        Task::EvalCut => ("evaluation cut", String::new()),
        Task::EvalSum => ("evaluation sum", String::new()),
    }
}

fn stage_name(stage: Stage) -> String {
    match stage {
        Stage::Gradient { bucket, rows: false } => format!("gradient of bucket {bucket}"),
        Stage::Gradient { bucket, rows: true } => format!("gradient of the rows of bucket {bucket}"),
        Stage::Notes => "notes".to_owned(),
        Stage::Values { bucket } => format!("values of bucket {bucket}"),
        Stage::Digests => "digests".to_owned(),
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
}
