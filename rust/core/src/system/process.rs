//! Forks: a child has the handles of its parent's threads, but not the threads.

/// The process that something was made in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home(u32);

impl Home {
    /// The process at hand.
    pub(crate) fn here() -> Self {
        Self(std::process::id())
    }

    /// Whether this is still the same process, not one forked from it.
    pub(crate) fn is_here(self) -> bool {
        std::process::id() == self.0
    }
}
