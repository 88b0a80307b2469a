//! What the models need of a step.

pub mod feed;
pub mod plan;
