//! What the models need of a step.

#[path = "../../../core/src/step/batch.rs"]
pub mod batch;
#[path = "../../../core/src/step/prefetch.rs"]
pub mod prefetch;
pub mod source;
#[path = "../../../core/src/step/symmetry.rs"]
pub mod symmetry;
