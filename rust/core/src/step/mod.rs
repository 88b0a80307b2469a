//! One update: sectors, buffers, task graph, task bodies, and the engine that drives them.
//!
//! Read in this order: `symmetry` (twelve sectors, the tree), `slots` (where activations lie), `plan` (the graph),
//! `names` (of its nodes), `memory` (what it takes), `forward`, `backward`, `gradients`, `update` (what the nodes do), `source`,
//! `batch` and `prefetch` (what they are fed), `control` (the thread that publishes), `engine` (what its user calls),
//! `save` (checkpoints while it works), `recover` (what is called when an update goes wrong).

mod backward;
mod batch;
mod control;
mod engine;
mod fill;
mod forward;
mod gradients;
mod memory;
mod names;
mod plan;
mod prefetch;
mod recover;
mod save;
mod slots;
mod source;
mod state;
mod symmetry;
mod update;

pub use batch::{Batch, WindowOrder};
pub use control::{EvalReport, StepReport};
pub use engine::{Engine, NamedTensor, Switches, Tensors, WorkerReport};
pub use memory::{MemoryPlan, check_memory};
pub use recover::TensorNumbers;
pub use save::{SavedFiles, Saving};
pub use source::TokenSource;
pub use symmetry::{SECTORS, sector_windows};
