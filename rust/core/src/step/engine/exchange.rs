//! What the thread that moves bytes between ranks needs of an engine.
//!
//! These calls take no command and wait for no other thread but in [`Exchange::wait`], so they work while an update is under
//! way, and from another thread than the one that asks for updates. The memory that they tell of lives as long as the
//! exchange, which may outlive its engine.

use super::handle::Engine;
use crate::error::{Error, Result};
use crate::step::work::{Outgoing, Shared, State, Tensors, Transfer};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A part of the memory of some tensors: its first byte and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// First byte.
    pub address: usize,
    /// Bytes.
    pub bytes: usize,
}

/// The side of an engine that other ranks see.
pub struct Exchange {
    state: Arc<State>,
}

impl Engine {
    /// The way to other ranks.
    ///
    /// # Errors
    /// `Internal` unless the engine is one of several ranks.
    pub fn exchange(&self) -> Result<Exchange> {
        if self.state.shared.is_none() {
            return Err(Error::internal("this engine is not one of several ranks"));
        }
        Ok(Exchange { state: self.state.clone() })
    }
}

impl Exchange {
    fn shared(&self) -> &Shared {
        self.state.shared.as_ref().expect("an exchange is made where there are other ranks")
    }

    /// What leaves and arrives in every update.
    pub fn plan(&self) -> &[Transfer] {
        self.shared().mailbox.transfers()
    }

    /// What has come up since the last call; waits for it up to `timeout`.
    pub fn wait(&self, timeout: Duration) -> Outgoing {
        self.shared().mailbox.wait(timeout)
    }

    /// These transfers have arrived, or have left.
    ///
    /// # Errors
    /// `Internal` if there is no such transfer.
    pub fn done(&self, transfers: &[u32]) -> Result<()> {
        let mailbox = &self.shared().mailbox;
        if let Some(unknown) = transfers.iter().find(|&&index| index as usize >= mailbox.transfers().len()) {
            return Err(Error::internal(format!("there is no transfer {unknown}")));
        }
        mailbox.done(transfers);
        Ok(())
    }

    /// Ends the update under way, and those to come, with an error.
    pub fn fail(&self, message: &str) {
        self.shared().mailbox.fail(message);
    }

    /// The parts of some tensors that each rank owns. Only what is trained has an owner.
    ///
    /// # Errors
    /// `Internal` if every rank has the tensors.
    pub fn owned(&self, which: Tensors) -> Result<Vec<Vec<Memory>>> {
        let state = &self.state;
        let arena = match which {
            Tensors::Gradient => state.trained_gradient(),
            Tensors::FirstMoment => &state.first_moment,
            Tensors::SecondMoment => &state.second_moment,
            Tensors::Weights | Tensors::Adapters | Tensors::Base => {
                return Err(Error::internal("every rank has these tensors"));
            }
        };
        let memory = |range: &Range<usize>| Memory { address: arena.ptr(range.start) as usize, bytes: 4 * range.len() };
        let division = &self.shared().division;
        let of = |rank: usize| {
            let parts = division.buckets.iter().map(|bucket| &bucket.values[rank]);
            parts.filter(|part| !part.is_empty()).map(memory).collect()
        };
        Ok((0..division.ranks).map(of).collect())
    }

    /// What a checkpoint restores on every rank: weights, base and factors of adapters. Moments have owners.
    pub fn whole_state(&self) -> Vec<Memory> {
        let state = &self.state;
        let mut arenas = vec![&state.weights.values];
        if let Some(adapters) = &state.adapters {
            arenas.extend([&adapters.values, &adapters.base]);
        }
        arenas.into_iter().map(|arena| Memory { address: arena.ptr(0) as usize, bytes: 4 * arena.len() }).collect()
    }

    /// A digest of the partial sums of this rank. They rest from the moment that all of them may leave until others arrive.
    pub fn sums_digest(&self) -> u64 {
        // SAFETY: the caller waits for that moment; what is read too early is a wrong number and nothing else.
        unsafe { self.shared().sums_digest(&self.state.gradient) }
    }

    /// The rank whose new values differed from their digest here, if any did.
    pub fn wrong_copy(&self) -> Option<usize> {
        self.shared().wrong()
    }
}
