//! Whether a pass takes less time on all threads of a team or on one.
//!
//! That depends on the model, on the rows of the pass, and on what else the processors do; so it is measured all the time. The
//! slower way is tried too, the less often the longer it has been the slower one.

/// Passes before the slower way is tried again: at first, and at most.
const SOON: u32 = 4;
const LATE: u32 = 128;
/// What one pass counts in the time of the faster way, and the most times that time that it counts as: a hiccup changes
/// nothing, but has the other way tried soon.
const WEIGHT: f64 = 0.125;
const MOST: f64 = 2.0;

/// Who computes a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    Together,
    Alone,
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Together => Self::Alone,
            Self::Alone => Self::Together,
        }
    }
}

/// The faster way, as far as it is known.
pub(super) struct Choice {
    faster: Way,
    /// Seconds of a pass in it; infinite before the first.
    seconds: f64,
    /// Passes until the other way is tried, and how many they were at first.
    left: u32,
    pause: u32,
}

impl Default for Choice {
    fn default() -> Self {
        Self { faster: Way::Together, seconds: f64::INFINITY, left: SOON, pause: SOON }
    }
}

impl Choice {
    /// The way of the next pass.
    pub(super) fn next(&mut self) -> Way {
        if self.left > 0 {
            self.left -= 1;
            return self.faster;
        }
        self.pause = (2 * self.pause).min(LATE);
        self.left = self.pause;
        self.faster.other()
    }

    /// A pass took so many seconds.
    pub(super) fn took(&mut self, way: Way, seconds: f64) {
        if way != self.faster {
            if seconds < self.seconds {
                *self = Self { faster: way, seconds, left: SOON, pause: SOON };
            }
        } else if self.seconds.is_finite() {
            if seconds > MOST * self.seconds {
                self.left = self.left.min(SOON);
            }
            self.seconds += WEIGHT * (seconds.min(MOST * self.seconds) - self.seconds);
        } else {
            self.seconds = seconds;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes that are computed alone, of so many, if the ways take these seconds.
    fn passes_alone(choice: &mut Choice, passes: u32, together: f64, alone: f64) -> u32 {
        let mut count = 0;
        for _ in 0..passes {
            let way = choice.next();
            count += u32::from(way == Way::Alone);
            choice.took(way, if way == Way::Alone { alone } else { together });
        }
        count
    }

    #[test]
    fn the_faster_way_is_taken_and_the_other_one_tried_now_and_then() {
        let mut choice = Choice::default();
        assert!((1..20).contains(&passes_alone(&mut choice, 1000, 1.0, 1.8)));
        // It may take as many passes as lie between two trials until a change is seen.
        assert!((700..1000).contains(&passes_alone(&mut choice, 1000, 3.0, 1.8)));
        assert!((1..300).contains(&passes_alone(&mut choice, 1000, 1.0, 1.8)));
    }

    #[test]
    fn one_slow_pass_changes_nothing() {
        let mut choice = Choice::default();
        passes_alone(&mut choice, 1000, 1.0, 1.8);
        choice.took(Way::Together, 1000.0);
        assert!(passes_alone(&mut choice, 100, 1.0, 1.8) < 5);
    }

    #[test]
    fn a_slow_first_pass_is_forgotten() {
        let mut choice = Choice::default();
        let first = choice.next();
        choice.took(first, 50.0);
        assert!(passes_alone(&mut choice, 1000, 1.0, 1.8) < 40);
    }
}
