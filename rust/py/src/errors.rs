//! Errors of the core as Python exceptions, and progress callbacks.

use pyo3::prelude::*;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use symlm_core::data::Interrupts;
use symlm_core::{Error, ErrorKind, Result};

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

/// An error that is given to Python as a value, not raised.
#[derive(Clone, PartialEq)]
pub struct Failure(pub Error);

impl<'py> IntoPyObject<'py> for Failure {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        Ok(to_py(py, self.0).into_value(py).into_bound(py).into_any())
    }
}

thread_local! {
    /// How many calls of `guarded` this thread is in.
    static GUARDS: Cell<u32> = const { Cell::new(0) };
    /// What the last panic below one of them said, and where.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    /// What Python raised below `detached`.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Keeps panics below `guarded` from the terminal: they become errors, which say what the hook would have printed.
pub fn quieten_panics() {
    let before = take_hook();
    set_hook(Box::new(move |info| {
        if GUARDS.get() > 0 {
            let place =
                info.location().map_or_else(String::new, |place| format!("{}:{}: ", place.file(), place.line()));
            let what = said(info.payload()).unwrap_or("no message");
            PANIC.set(Some(format!("{place}{what}")));
        } else {
            before(info);
        }
    }));
}

/// The message of a panic.
fn said(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// Runs `f`; a panic in it is an internal error like any other.
pub fn guarded<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    GUARDS.set(GUARDS.get() + 1);
    PANIC.take();
    // What `f` was changing may be left halfway; whoever gets an internal error stops using it.
    let outcome = catch_unwind(AssertUnwindSafe(f));
    GUARDS.set(GUARDS.get() - 1);
    outcome.unwrap_or_else(|payload| {
        // A panic of another thread that continues in this one has not passed the hook here.
        let known = PANIC.take();
        let what = known.as_deref().or_else(|| said(payload.as_ref())).unwrap_or("no message");
        Err(Error::internal(format!("panic in the core: {what}")))
    })
}

/// Runs `f` without the GIL and maps its error. The exception of a signal or of a callback that stopped it is raised instead,
/// be it that `f` has passed over the error.
pub fn detached<T: Send>(py: Python<'_>, f: impl Send + FnOnce() -> Result<T>) -> PyResult<T> {
    RAISED.take();
    let outcome = py.detach(|| guarded(f));
    match RAISED.take() {
        Some(error) => Err(error),
        None => outcome.map_err(|error| to_py(py, error)),
    }
}

/// Calls Python from below `detached`. Once it has raised something nothing is called any more.
fn asked(call: impl FnOnce(Python<'_>) -> PyResult<()>) -> Result<()> {
    if !RAISED.with_borrow(Option::is_some) {
        match Python::attach(call) {
            Ok(()) => return Ok(()),
            Err(error) => RAISED.set(Some(error)),
        }
    }
    Err(Error::user("stopped by an exception"))
}

/// Has signals looked at while something is read.
pub fn signals() -> Interrupts {
    Interrupts::new(|| asked(|py| py.check_signals()))
}

/// Runs `f` without the GIL, with a progress function that calls `callback`. An exception of the callback stops `f`.
pub fn with_progress<T: Send>(
    py: Python<'_>,
    callback: Option<Py<PyAny>>,
    f: impl Send + FnOnce(&mut dyn FnMut(u64, u64) -> Result<()>) -> Result<T>,
) -> PyResult<T> {
    detached(py, || {
        f(&mut |done, total| {
            asked(|py| match &callback {
                Some(callback) => callback.call1(py, (done, total)).map(drop),
                // Without a callback signals are still looked at.
                None => py.check_signals(),
            })
        })
    })
}
