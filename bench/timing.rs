//! Timing in turns. On a shared machine the speed changes from one second to the next, so that two things are only
//! comparable when they take turns every fraction of a millisecond; the best of many short samples is the one that
//! nobody disturbed.

use std::time::{Duration, Instant};

/// Shortest sample: far above the clock's resolution, far below a scheduler's time slice.
const SAMPLE: Duration = Duration::from_micros(200);

/// Does its work once and returns how long that took, without what it had to prepare.
pub type Contender<'a> = Box<dyn FnMut() -> Duration + 'a>;

/// How long `work` takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Best seconds of a single run of each contender, in turns until `budget` is used up, at least three of them.
pub fn best_seconds(contenders: &mut [Contender<'_>], budget: Duration) -> Vec<f64> {
    let mut best = vec![f64::INFINITY; contenders.len()];
    let start = Instant::now();
    let mut turns = 0;
    while turns < 3 || start.elapsed() < budget {
        for (run, best) in contenders.iter_mut().zip(&mut best) {
            let (mut time, mut runs) = (Duration::ZERO, 0);
            while time < SAMPLE {
                time += run();
                runs += 1;
            }
            *best = best.min(time.as_secs_f64() / f64::from(runs));
        }
        turns += 1;
    }
    best
}
