//! The one error type of the core.
//!
//! A message is a single line in lower case: what was found, what was expected, and the file. A hint says what to
//! do about it. The face prints both and exits with the code of the kind.

use std::path::Path;

use crate::foreign::LfsPointer;

/// Result of everything in the core that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of thing went wrong; decides the exit code and the Python exception class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The user asked for something that cannot be done here (an unwritable folder, an existing run).
    User,
    /// An argument has a value that can never be right.
    Usage,
    /// A file or a corpus is missing, unreadable, damaged or too small.
    Data,
    /// The run would not fit in memory.
    Memory,
    /// The loss or the gradients stopped being numbers.
    NotANumber,
    /// A broken promise of this program itself.
    Internal,
}

impl ErrorKind {
    /// The exit code of the command line for this kind.
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::User => 1,
            Self::Usage => 2,
            Self::Data => 3,
            Self::Memory => 4,
            Self::NotANumber => 5,
            Self::Internal => 70,
        }
    }
}

/// An error with its kind, a one-line message and perhaps a hint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What sort of thing went wrong.
    pub kind: ErrorKind,
    /// One line, lower case: what was found, what was expected, the file.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// [`ErrorKind::User`], exit code 1.
    pub fn user(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::User, message)
    }

    /// [`ErrorKind::Usage`], exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// [`ErrorKind::Data`], exit code 3.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// [`ErrorKind::Memory`], exit code 4.
    pub fn memory(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Memory, message)
    }

    /// [`ErrorKind::NotANumber`], exit code 5.
    pub fn not_a_number(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotANumber, message)
    }

    /// [`ErrorKind::Internal`], exit code 70.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A file that could not be read: [`ErrorKind::Data`].
    pub fn cannot_read(path: &Path, error: &std::io::Error) -> Self {
        let this = Self::data(format!("cannot read {}: {}", path.display(), io_reason(error)));
        let pointer = error.get_ref().is_some_and(|inner| inner.is::<LfsPointer>());
        if pointer { this.hint(LfsPointer::HINT) } else { this }
    }

    /// A file or folder that could not be written: [`ErrorKind::User`].
    pub fn cannot_write(path: &Path, error: &std::io::Error) -> Self {
        Self::user(format!("cannot write {}: {}", path.display(), io_reason(error)))
    }

    /// The same error with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The reason in an I/O error in lower case and without the number of the operating system.
pub(crate) fn io_reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "unknown reason".into(),
    }
}

/// Characters of somebody else's message that are shown.
const BRIEF: usize = 200;

/// A message about the content of a file, which it may repeat: cut, on one line, without control characters.
pub(crate) fn brief(message: &dyn std::fmt::Display) -> String {
    use std::fmt::Write;

    /// Takes the beginning and refuses the rest, so that a huge message is never put together.
    struct Beginning(String, usize);
    impl Write for Beginning {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            for c in text.chars() {
                self.1 = self.1.checked_sub(1).ok_or(std::fmt::Error)?;
                self.0.push(if c.is_control() { ' ' } else { c });
            }
            Ok(())
        }
    }

    let mut text = Beginning(String::new(), BRIEF);
    if write!(text, "{message}").is_err() {
        text.0.push_str("...");
    }
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_others_are_cut() {
        assert_eq!(brief(&"a\nb\u{1b}"), "a b ");
        assert_eq!(brief(&"ä".repeat(1000)), "ä".repeat(BRIEF) + "...");
        assert_eq!(brief(&"ä".repeat(BRIEF)), "ä".repeat(BRIEF));
    }

    #[test]
    fn kinds_have_the_documented_exit_codes() {
        let codes = [
            (Error::user("a"), 1),
            (Error::usage("a"), 2),
            (Error::data("a"), 3),
            (Error::memory("a"), 4),
            (Error::not_a_number("a"), 5),
            (Error::internal("a"), 70),
        ];
        for (error, code) in codes {
            assert_eq!(error.kind.exit_code(), code);
        }
    }

    #[test]
    fn message_and_hint_are_apart() {
        let error = Error::data("found 1, expected 2").hint("add one");
        assert_eq!(error.to_string(), "found 1, expected 2");
        assert_eq!(error.hint.as_deref(), Some("add one"));
    }

    #[test]
    fn io_errors_read_as_one_lower_case_line() {
        let error = std::fs::File::open("/nonexistent-file").unwrap_err();
        let error = Error::cannot_read(Path::new("/nonexistent-file"), &error);
        assert_eq!(error.message, "cannot read /nonexistent-file: no such file or directory");
        assert_eq!(error.kind, ErrorKind::Data);
    }
}
