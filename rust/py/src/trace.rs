//! Recorded updates.

use crate::args::Location;
use crate::errors::detached;
use crate::records::records;
use pyo3::prelude::*;
use symlm_core::trace;

records! {
    /// A task on a worker. Times are nanoseconds from the origin of the trace.
    Span {
        /// Number of the worker, from 0.
        worker: u32,
        /// Number of the node in the graph.
        node: u32,
        /// When it began.
        start_ns: u64,
        /// When it ended.
        end_ns: u64,
    }
    /// An interval of time in nanoseconds from the origin of the trace.
    Interval {
        /// When it began.
        start_ns: u64,
        /// When it ended.
        end_ns: u64,
    }
    /// How a worker spent the updates, in seconds. The four times add up to those of the updates.
    WorkerTimes {
        /// Inside tasks.
        busy_s: f64,
        /// Handing on and looking for work.
        steal_s: f64,
        /// Without work.
        idle_s: f64,
        /// Without work for want of a batch.
        prefetch_wait_s: f64,
        /// Tasks done.
        tasks: u64,
        /// Tasks taken from other workers.
        steals: u64,
    }
}

fn intervals(pairs: &[(u64, u64)]) -> Vec<Interval> {
    pairs.iter().map(|&(start_ns, end_ns)| Interval { start_ns, end_ns }).collect()
}

/// Spans of recorded updates, and how each worker spent them. Times in spans are nanoseconds from one origin.
#[pyclass(frozen, module = "symlm._symlm")]
pub struct Trace(pub trace::Trace);

#[pymethods]
impl Trace {
    /// Every task, by start.
    #[getter]
    fn spans(&self) -> Vec<Span> {
        let spans = self.0.spans.iter();
        spans.map(|s| Span { worker: s.worker, node: s.node, start_ns: s.start, end_ns: s.end }).collect()
    }
    /// Where all times count from, in nanoseconds of `time.monotonic_ns()`.
    #[getter]
    fn origin_ns(&self) -> u64 {
        self.0.origin
    }
    /// Every update.
    #[getter]
    fn updates(&self) -> Vec<Interval> {
        intervals(&self.0.updates)
    }
    /// Every wait of the control thread for a batch.
    #[getter]
    fn prefetch_waits(&self) -> Vec<Interval> {
        intervals(&self.0.prefetch_waits)
    }
    /// How each worker spent the updates.
    #[getter]
    fn workers(&self) -> Vec<WorkerTimes> {
        let seconds = |ns: u64| ns as f64 * 1e-9;
        let one = |w: trace::WorkerTime| WorkerTimes {
            busy_s: seconds(w.busy_ns),
            steal_s: seconds(w.steal_ns),
            idle_s: seconds(w.idle_ns),
            prefetch_wait_s: seconds(w.prefetch_wait_ns),
            tasks: w.tasks,
            steals: w.steals,
        };
        self.0.workers().into_iter().map(one).collect()
    }
    /// Writes the JSON file that Perfetto and chrome://tracing open.
    fn write_chrome(&self, py: Python<'_>, path: Location) -> PyResult<()> {
        detached(py, || self.0.write_chrome(&path))
    }
}
