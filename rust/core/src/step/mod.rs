//! One update: sectors, buffers, task graph, task bodies, and the engine that drives them.
//!
//! Read in this order: `symmetry` (twelve sectors, the tree), `slots` (where activations lie), `plan` and `tiles` (the graph),
//! `names` (of its nodes), `memory` (what it takes), `forward`, `backward`, `gradients`, `update`, `adapters` (what the nodes
//! do), `source`, `batch` and `prefetch` (what they are fed), `control` (the thread that publishes), `engine` and `tensors` (what
//! its user calls), `save` and `load` (checkpoints while it works, and back), `recover` (what is called when an update goes wrong).

mod adapters;
mod backward;
mod batch;
mod control;
mod engine;
mod fill;
mod forward;
mod gradients;
mod load;
mod memory;
mod names;
mod plan;
#[cfg(test)]
mod plan_tests;
mod prefetch;
mod recover;
mod save;
mod slots;
mod source;
mod state;
mod symmetry;
mod tensors;
mod tiles;
mod update;

pub use batch::{Batch, WindowOrder};
pub use control::{EvalReport, StepReport};
pub use engine::{Engine, Switches, WorkerReport};
pub use memory::{MemoryPlan, check_memory};
pub use recover::TensorNumbers;
pub use save::{SavedFiles, Saving};
pub use source::TokenSource;
pub use symmetry::{SECTORS, sector_windows};
pub use tensors::{NamedTensor, Tensors};
