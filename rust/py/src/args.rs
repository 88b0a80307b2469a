//! Texts and paths as Python gives them. A Python string may hold halves of characters (lone surrogates), which no text
//! in Rust can, and with which Python writes the bytes of a path that is not UTF-8.

use crate::errors::to_py;
use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::prelude::*;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use symlm_core::Error;

/// A text; `UsageError` for one that is not whole characters.
pub struct Text<'a>(pub &'a str);

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        self.0
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Text<'a> {
    type Error = PyErr;
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let text = object.extract::<&str>();
        text.map(Text).map_err(|error| not_unicode(object.py(), error, "a text of whole characters"))
    }
}

/// The path of a file or folder, of any bytes; `UsageError` for one that no file can have.
pub struct Location(PathBuf);

impl Location {
    /// The path itself.
    pub fn into_path(self) -> PathBuf {
        self.0
    }
}

impl Deref for Location {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Location {
    type Error = PyErr;
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let path = object.extract::<PathBuf>();
        let path = path.map_err(|error| not_unicode(py, error, "a path that this system can have"))?;
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(to_py(py, Error::usage("found a path with a NUL character, which no file can have")));
        }
        Ok(Self(path))
    }
}

/// The usage error for a string that cannot be encoded; any other error as it is.
fn not_unicode(py: Python<'_>, error: PyErr, expected: &str) -> PyErr {
    if !error.is_instance_of::<PyUnicodeEncodeError>(py) {
        return error;
    }
    let at = error.value(py).getattr("start").and_then(|start| start.extract::<usize>()).unwrap_or_default();
    to_py(
        py,
        Error::usage(format!("found half of a character (a lone surrogate) at character {at}, expected {expected}")),
    )
}
