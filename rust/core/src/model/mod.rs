//! The model: one table of parameters, and where their packed copies lie.

pub mod adapters;
mod flops;
pub mod layout;
pub mod weights;

pub use adapters::{Adapter, Adapters};
pub use layout::{Initial, Layout, Matrix, MatrixId, Param};
pub use weights::Weights;
