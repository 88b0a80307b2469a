//! The model: one table of parameters, where their packed copies lie, and the passes through them.

pub mod adapters;
pub mod block;
mod flops;
pub mod layout;
pub mod network;
pub mod products;
pub mod weights;

pub use adapters::{Adapter, Adapters};
pub use block::{Block, MlpGradients, MlpRows};
pub use layout::{Initial, LayerMatrices, Layout, Matrix, MatrixId, Param, ParamKind, Random};
pub use network::Network;
pub use products::{GradientRoom, Inputs, Operand};
pub use weights::Weights;
