//! Errors of the core as Python exceptions, and progress callbacks.

use pyo3::prelude::*;
use symlm_core::{Error, ErrorKind};

fn class(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::User => "UserError",
        ErrorKind::Usage => "UsageError",
        ErrorKind::Data => "DataError",
        ErrorKind::Memory => "MemoryPlanError",
        ErrorKind::NotANumber => "NanError",
        ErrorKind::Internal => "InternalError",
    }
}

/// The exception for an error.
pub fn to_py(py: Python<'_>, error: Error) -> PyErr {
    let make = || -> PyResult<Bound<'_, PyAny>> {
        py.import("symlm.errors")?.getattr(class(error.kind))?.call1((error.message.as_str(), error.hint.as_deref()))
    };
    make().map_or_else(|failed| failed, PyErr::from_value)
}

/// Runs `f` without the GIL and maps its error.
pub fn detached<T: Send>(py: Python<'_>, f: impl Send + FnOnce() -> symlm_core::Result<T>) -> PyResult<T> {
    py.detach(f).map_err(|error| to_py(py, error))
}

/// Runs `f` without the GIL, with a progress function that calls `callback`. An exception of the callback stops `f` and is
/// raised instead of the error that `f` then returns.
pub fn with_progress<T: Send>(
    py: Python<'_>,
    callback: Option<Py<PyAny>>,
    f: impl Send + FnOnce(&mut dyn FnMut(u64, u64) -> symlm_core::Result<()>) -> symlm_core::Result<T>,
) -> PyResult<T> {
    let mut raised: Option<PyErr> = None;
    let outcome = py.detach(|| {
        f(&mut |done, total| {
            let call = |py: Python<'_>| match &callback {
                Some(callback) => callback.call1(py, (done, total)).map(drop),
                // Without a callback signals are still looked at.
                None => py.check_signals(),
            };
            Python::attach(call).map_err(|error| {
                raised = Some(error);
                Error::user("stopped by the progress callback")
            })
        })
    });
    match (outcome, raised) {
        (_, Some(error)) => Err(error),
        (outcome, None) => outcome.map_err(|error| to_py(py, error)),
    }
}
