//! Records that are given to Python: immutable, with named fields, equal where their fields are, and shown as
//! `Name(field=value, ..)`.

use pyo3::prelude::*;

/// An object as `Name(field=value, ..)`, with its values as Python shows them.
pub fn shown(object: &Bound<'_, PyAny>, fields: &[&str]) -> PyResult<String> {
    let value = |field: &&str| Ok(format!("{field}={}", object.getattr(*field)?.repr()?));
    let values = fields.iter().map(value).collect::<PyResult<Vec<_>>>()?;
    Ok(format!("{}({})", object.get_type().name()?, values.join(", ")))
}

/// Classes of named fields that only Rust makes.
macro_rules! records {
    ($($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $field:ident: $type:ty),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[pyo3::pyclass(frozen, eq, get_all, module = "symlm._symlm")]
        #[derive(Clone, PartialEq)]
        pub struct $name { $($(#[$about])* pub $field: $type),+ }

        #[pyo3::pymethods]
        impl $name {
            fn __repr__(this: &pyo3::Bound<'_, Self>) -> pyo3::PyResult<String> {
                $crate::records::shown(this.as_any(), &[$(stringify!($field)),+])
            }
        }
    )+};
}
pub(crate) use records;
