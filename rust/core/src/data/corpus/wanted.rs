//! What is asked of tables.

use crate::system::child::Command;

/// What is taken out of tables, and what takes it out of those that are not read here.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Names of columns; a name with dots may be that of a field inside of one.
    pub(crate) columns: Vec<String>,
    /// The program that reads Parquet and Arrow.
    pub(crate) tables: Option<Command>,
}
