//! Recorded updates.

use crate::args::Location;
use crate::errors::detached;
use pyo3::prelude::*;
use symlm_core::trace;

/// Spans of recorded updates, and how each worker spent them. Times in spans are nanoseconds from one origin.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Trace(pub trace::Trace);

#[pymethods]
impl Trace {
    /// (worker, node, start, end) of each task, by start.
    #[getter]
    fn spans(&self) -> Vec<(u32, u32, u64, u64)> {
        self.0.spans.iter().map(|s| (s.worker, s.node, s.start, s.end)).collect()
    }
    /// (start, end) of each update.
    #[getter]
    fn updates(&self) -> Vec<(u64, u64)> {
        self.0.updates.clone()
    }
    /// (start, end) of each wait of the control thread for a batch.
    #[getter]
    fn prefetch_waits(&self) -> Vec<(u64, u64)> {
        self.0.prefetch_waits.clone()
    }
    /// (busy, steal, idle, prefetch wait, tasks, steals) of each worker. The four times, in seconds, add up to those of
    /// the updates: inside tasks; handing on and looking for work; without work; without work for want of a batch.
    #[getter]
    fn workers(&self) -> Vec<(f64, f64, f64, f64, u64, u64)> {
        let seconds = |ns: u64| ns as f64 * 1e-9;
        let one = |w: trace::WorkerTime| {
            let [busy, steal, idle, wait] = [w.busy_ns, w.steal_ns, w.idle_ns, w.prefetch_wait_ns].map(seconds);
            (busy, steal, idle, wait, w.tasks, w.steals)
        };
        self.0.workers().into_iter().map(one).collect()
    }
    /// Writes the JSON file that Perfetto and chrome://tracing open.
    fn write_chrome(&self, py: Python<'_>, path: Location) -> PyResult<()> {
        detached(py, || self.0.write_chrome(&path))
    }
}
