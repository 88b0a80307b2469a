//! One update: the plan, what it is fed, the work, and the engine that drives it all.
//!
//! `plan` decides what is computed in which pieces and order, `feed` cuts batches out of token ids, `work` holds the
//! state and computes the nodes, `engine` owns the threads. Each imports only those before it; `tests/layers.rs` holds that.

mod engine;
mod feed;
mod plan;
mod work;

pub use engine::{
    Engine, EvalReport, Exchange, Memory, NamedTensor, SavedFiles, Saving, StepReport, Switches, TensorNumbers,
    WorkerReport,
};
pub use feed::{Batch, TokenSource, WindowOrder};
pub use plan::{MemoryPlan, SECTORS, check_memory, sector_windows};
pub use work::{Outgoing, Tensors, Transfer};
