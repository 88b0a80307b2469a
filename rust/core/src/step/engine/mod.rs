//! The engine: threads, commands, and the files of a checkpoint.
//!
//! Read in this order: `handle` (what its user holds), `control` (the thread that publishes), `tensors` (reading and
//! writing them), `exchange` (with other ranks), `save` and `load` (checkpoints while it works, and back), `recover` (what is called when an update goes wrong).

mod control;
mod exchange;
mod handle;
mod load;
mod recover;
mod save;
mod tensors;

pub use control::{EvalReport, StepReport};
pub use exchange::{Exchange, Memory};
pub use handle::{Engine, Switches, WorkerReport};
pub use recover::TensorNumbers;
pub use save::{SavedFiles, Saving};
pub use tensors::NamedTensor;
