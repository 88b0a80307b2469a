//! What a corpus is opened with, for all that reads its files.

use crate::system::child::Command;
use crate::system::interrupts::Interrupts;

/// What is taken out of tables, what takes it out of those that are not read here, and who may stop that.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Names of columns; a name with dots may be that of a field inside of one.
    pub(crate) columns: Vec<String>,
    /// The program that reads Parquet and Arrow.
    pub(crate) tables: Option<Command>,
    /// Asked while files are read or waited for.
    pub(crate) interrupts: Interrupts,
}
