//! Progress reports to the caller, at a bearable rate.

use std::time::Instant;

use crate::error::Result;
use crate::system::interrupts::INTERVAL;

/// Called with (done, total) from the calling thread, at most about twenty times a second. An error stops the work,
/// leaves no half-written file behind and comes back to the caller.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// Passes reports on, but not too often.
pub(crate) struct Meter<'a> {
    report: Progress<'a>,
    total: u64,
    last: Option<Instant>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(report: Progress<'a>, total: u64) -> Self {
        Self { report, total, last: None }
    }

    /// Reports `done` if the last report is long enough ago.
    pub(crate) fn at(&mut self, done: u64) -> Result<()> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            return Ok(());
        }
        self.last = Some(now);
        (self.report)(done.min(self.total), self.total)
    }

    /// Reports the end, which is never left out.
    pub(crate) fn finish(&mut self) -> Result<()> {
        (self.report)(self.total, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_rare_and_end_at_the_total() {
        let mut seen = Vec::new();
        let mut report = |done, total| {
            seen.push((done, total));
            Ok(())
        };
        let mut meter = Meter::new(&mut report, 1000);
        for done in 0..1000 {
            meter.at(done).unwrap();
        }
        meter.finish().unwrap();
        assert_eq!(seen.first(), Some(&(0, 1000)));
        assert_eq!(seen.last(), Some(&(1000, 1000)));
        assert!(seen.len() < 100);
    }

    #[test]
    fn an_error_comes_back() {
        let mut report = |_, _| Err(crate::Error::user("stopped"));
        assert_eq!(Meter::new(&mut report, 1).at(0).unwrap_err().message, "stopped");
    }
}
