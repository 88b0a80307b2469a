//! The numbers of a plan, and the tree.

#[path = "../../../../core/src/step/plan/limits.rs"]
pub mod limits;
#[path = "../../../../core/src/step/plan/symmetry.rs"]
pub mod symmetry;
