//! Whether work is to stop, which whatever waits or reads for long asks now and then.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;

/// Time between two questions, and the longest wait for bytes that nobody can break off.
pub(crate) const INTERVAL: Duration = Duration::from_millis(50);

/// Whom to ask; by default nobody, and nothing is stopped.
#[derive(Clone)]
pub struct Interrupts(Arc<dyn Fn() -> Result<()> + Send + Sync>);

impl Interrupts {
    /// `ask` is called some twenty times a second, from whatever thread works. Its error stops the work, and every further
    /// call has to give one too: some errors of files are passed over.
    pub fn new(ask: impl Fn() -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl Default for Interrupts {
    fn default() -> Self {
        Self::new(|| Ok(()))
    }
}

impl fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupts")
    }
}

/// Asks, but not too often.
#[derive(Debug)]
pub(crate) struct Watch {
    interrupts: Interrupts,
    asked: Instant,
}

impl Watch {
    pub(crate) fn new(interrupts: &Interrupts) -> Self {
        Self { interrupts: interrupts.clone(), asked: Instant::now() }
    }

    /// Asks if the last question is long enough ago.
    pub(crate) fn look(&mut self) -> Result<()> {
        let now = Instant::now();
        if now.duration_since(self.asked) < INTERVAL {
            return Ok(());
        }
        self.asked = now;
        (self.interrupts.0)()
    }

    /// The same for those whose errors are of reading.
    pub(crate) fn look_io(&mut self) -> std::io::Result<()> {
        self.look().map_err(std::io::Error::other)
    }
}
