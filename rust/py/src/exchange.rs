//! Moving bytes between ranks: the calls of the thread that does it.

use crate::errors::detached;
use crate::records::records;
use pyo3::prelude::*;
use std::time::Duration;
use symlm_core::step::{self, Tensors};

records! {
    /// A range of memory that leaves to, or arrives from another rank in every update.
    Transfer {
        /// Tells it from others between the same two ranks.
        tag: u32,
        /// The other rank.
        peer: usize,
        /// Whether it comes from there.
        incoming: bool,
        /// First byte of the memory, which lives as long as the exchange.
        address: usize,
        /// Its length.
        bytes: usize,
        /// The rank whose new values it holds; None for everything else.
        values_of: Option<usize>,
        /// Whether it holds partial sums of the gradient.
        sums: bool,
    }
    /// What there is to do for the thread that moves bytes.
    Outgoing {
        /// Updates that have begun since the last call.
        begun: u32,
        /// Transfers that may leave, by their position.
        leaving: Vec<u32>,
    }
    /// A range of memory, which lives as long as the exchange.
    Memory {
        /// First byte.
        address: usize,
        /// Its length.
        bytes: usize,
    }
}

fn memory(m: step::Memory) -> Memory {
    Memory { address: m.address, bytes: m.bytes }
}

/// The side of an engine that other ranks see; it may outlive the engine.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Exchange(pub step::Exchange);

#[pymethods]
impl Exchange {
    /// What leaves and arrives in every update.
    fn plan(&self) -> Vec<Transfer> {
        let one = |t: &step::Transfer| Transfer {
            tag: t.tag,
            peer: t.peer,
            incoming: t.incoming,
            address: t.address,
            bytes: t.bytes,
            values_of: t.values_of,
            sums: t.sums,
        };
        self.0.plan().iter().map(one).collect()
    }
    /// What has come up since the last call; waits for it up to `timeout_s`.
    fn wait(&self, py: Python<'_>, timeout_s: f64) -> Outgoing {
        let timeout = Duration::try_from_secs_f64(timeout_s.clamp(0.0, 3600.0)).unwrap_or_default();
        let found = py.detach(|| self.0.wait(timeout));
        Outgoing { begun: found.begun, leaving: found.leaving }
    }
    /// These transfers have arrived, or have left.
    fn done(&self, py: Python<'_>, transfers: Vec<u32>) -> PyResult<()> {
        detached(py, || self.0.done(&transfers))
    }
    /// Ends the update under way, and those to come, with an error.
    fn fail(&self, py: Python<'_>, message: &str) {
        py.detach(|| self.0.fail(message));
    }
    /// The parts of both moments that each rank owns.
    fn owned_moments(&self, py: Python<'_>) -> PyResult<Vec<Vec<Memory>>> {
        self.owned(py, &[Tensors::FirstMoment, Tensors::SecondMoment])
    }
    /// The parts of the gradient of the last update that each rank owns.
    fn owned_gradient(&self, py: Python<'_>) -> PyResult<Vec<Vec<Memory>>> {
        self.owned(py, &[Tensors::Gradient])
    }
    /// What a checkpoint restores on every rank; the moments go to their owners.
    fn whole_state(&self) -> Vec<Memory> {
        self.0.whole_state().into_iter().map(memory).collect()
    }
    /// A digest of the partial sums of this rank, once all of them may leave and before any others have arrived.
    fn sums_digest(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.0.sums_digest())
    }
    /// The rank whose new values differed from their digest here, if any did.
    #[getter]
    fn wrong_copy(&self) -> Option<usize> {
        self.0.wrong_copy()
    }
}

impl Exchange {
    fn owned(&self, py: Python<'_>, which: &[Tensors]) -> PyResult<Vec<Vec<Memory>>> {
        let all = detached(py, || which.iter().map(|&which| self.0.owned(which)).collect::<Result<Vec<_>, _>>())?;
        let ranks = all.first().map_or(0, Vec::len);
        let of = |rank: usize| all.iter().flat_map(|of| of[rank].iter().copied().map(memory)).collect();
        Ok((0..ranks).map(of).collect())
    }
}
