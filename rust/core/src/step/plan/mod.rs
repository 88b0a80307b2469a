//! What an update does, decided before anything runs: no number here moves a bit of the result.
//!
//! Read in this order: `symmetry` (twelve sectors, the tree that folds them), `limits` (how large a piece of work is),
//! `partition` (windows into strips and heads, sectors into slots), `tiles` (weight gradients), `slots` (where activations
//! lie), `division`, `optimizer`, `ownership` and `messages` (what each of several ranks computes, owns and sends), `task` (what a node does), `graph` (which node waits for which), `exchange` (the nodes of several ranks), `names` (of the nodes, for traces), `rounds`
//! (the graph for fork-join scheduling), `memory` (what it takes).

mod division;
mod exchange;
mod graph;
pub mod limits;
mod memory;
mod messages;
mod names;
mod optimizer;
mod ownership;
mod partition;
mod rounds;
mod slots;
mod symmetry;
mod task;
#[cfg(test)]
mod tests;
mod tiles;

pub(crate) use division::{FoldStep, fold_steps, rank_sectors};
pub(crate) use graph::Plan;
pub use memory::{MemoryPlan, check_memory};
pub(crate) use memory::{RowScratch, Sizes, copy_bytes};
pub(crate) use messages::{Division, Message, Stage};
#[cfg(test)]
pub(crate) use optimizer::Unit;
pub(crate) use optimizer::{ADAMW, Optimizer};
pub(crate) use ownership::{Piece, pieces};
pub(crate) use partition::Partition;
pub(crate) use slots::{Buffer, InputBuffer, SlotLayout};
pub use symmetry::{SECTORS, sector_windows};
pub(crate) use symmetry::{SumPlace, Then, visit};
pub(crate) use task::{RowStage, Task};
pub(crate) use tiles::{Tile, a_tiles, block, gradient_tiles, square_blocks};
