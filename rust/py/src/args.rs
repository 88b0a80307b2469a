//! Texts, paths and numbers as Python gives them, which become errors of symlm where they are something else. A Python string may hold halves of characters (lone surrogates), which no text
//! in Rust can, and with which Python writes the bytes of a path that is not UTF-8.

use crate::errors::to_py;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyUnicodeEncodeError};
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::ops::Deref;
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
        text.map(Text).map_err(|error| refused(&object, error, "a text of whole characters"))
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
        let path = object.extract::<PathBuf>();
        let path = path.map_err(|error| refused(&object, error, "a path that this system can have"))?;
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(to_py(object.py(), Error::usage("found a path with a NUL character, which no file can have")));
        }
        Ok(Self(path))
    }
}

/// The path of a file or folder as people write it: `~` in a text is a home folder.
pub struct Written(Location);

impl Deref for Written {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Written {
    type Error = PyErr;
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let names = object.py().import("symlm.system.names")?;
        names.getattr("as_location")?.call1(("path", object))?.extract().map(Self)
    }
}

/// Values that a Python object converts to, one by one or several; `UsageError` for an object that has none.
pub struct Given<T>(pub T);

impl<T> Deref for Given<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A type that arguments are converted to.
pub trait Expected {
    /// What a message says of its values.
    const EXPECTED: &'static str;
}

macro_rules! expected {
    ($($type:ty: $expected:literal),+ $(,)?) => {$(
        impl Expected for $type {
            const EXPECTED: &'static str = $expected;
        }
    )+};
}

expected! {
    u32: "a whole number from 0 to 4294967295",
    u64: "a whole number from 0 to 18446744073709551615",
    usize: "a whole number from 0 to 18446744073709551615",
    f64: "a number",
    Vec<u32>: "a list of token ids, whole numbers from 0 to 4294967295",
    Vec<Vec<u32>>: "lists of token ids, whole numbers from 0 to 4294967295",
}

impl<T: Expected> Expected for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
}

impl<'a, 'py, T: Expected + FromPyObject<'a, 'py>> FromPyObject<'a, 'py> for Given<T> {
    type Error = PyErr;
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        object.extract::<T>().map(Given).map_err(|error| refused(&object, error.into(), T::EXPECTED))
    }
}

/// The usage error for an object that cannot be converted; an exception of the object's own code as it is.
fn refused(object: &Bound<'_, PyAny>, error: PyErr, expected: &str) -> PyErr {
    let py = object.py();
    let what = if error.is_instance_of::<PyUnicodeEncodeError>(py) {
        let at = error.value(py).getattr("start").and_then(|start| start.extract::<usize>()).unwrap_or_default();
        format!("found half of a character (a lone surrogate) at character {at}, expected {expected}")
    } else if error.is_instance_of::<PyTypeError>(py) || error.is_instance_of::<PyOverflowError>(py) {
        format!("found {}, expected {expected}", described(object))
    } else {
        return error;
    };
    to_py(py, Error::usage(what))
}

/// An object as a message shows it; of a list, the first element that is not a token id.
fn described(object: &Bound<'_, PyAny>) -> String {
    if let Ok(list) = object.cast::<PyList>()
        && let Some(wrong) = list.iter().find(|item| item.extract::<u32>().is_err())
    {
        return format!("{} in a list", shown_value(&wrong));
    }
    shown_value(object)
}

/// An object as a message shows it, cut to some length.
pub fn shown_value(object: &Bound<'_, PyAny>) -> String {
    let shown = || object.py().import("symlm.errors")?.getattr("shown")?.call1((object,))?.extract::<String>();
    shown().unwrap_or_else(|_| "an object that cannot be shown".into())
}
