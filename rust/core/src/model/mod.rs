//! The model: one table of parameters, and where their packed copies lie.

pub mod layout;
pub mod weights;

pub use layout::{Layout, Matrix, MatrixId, Param};
pub use weights::Weights;
