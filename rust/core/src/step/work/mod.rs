//! What the nodes of a plan compute.
//!
//! Read in this order: `state` (everything that nodes read and write), `rows` (of it, for products), `tensors` (by name),
//! `hyper` (the constants of an update), `forward`, `backward`, `gradients`, `update`, `adapters` (its nodes), `mailbox`,
//! `shared` and `exchange` (those of several ranks), `job` (which node calls what), `fill` (the weights at the start and
//! after a load).

mod adapters;
mod backward;
mod exchange;
mod fill;
mod forward;
mod gradients;
mod hyper;
mod job;
mod mailbox;
mod rows;
mod shared;
mod state;
mod tensors;
#[cfg(test)]
mod tests;
mod update;

pub(crate) use fill::{Initialise, PackAll};
pub(crate) use job::Job;
pub use mailbox::{Outgoing, Transfer};
pub(crate) use shared::Shared;
pub(crate) use state::{EvalState, State};
pub use tensors::Tensors;
