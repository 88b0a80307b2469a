//! Measurements in turns.
//!
//! On a shared machine the speed changes from one second to the next, so two things are only comparable when they take
//! turns every fraction of a millisecond. Criterion times one thing after the other; its `iter_custom` hands the timing
//! over, so that each of its samples is made of turns here: the kernel, whose time criterion gets, then the FMA loop,
//! then the peer. The ratios of the table are medians over the turns.

use cpu_time::ThreadTime;
use std::hint::black_box;
use std::time::{Duration, Instant};
use symlm_kernels::{Isa, peak};

/// Least time of the kernel in a turn: far above the clock's resolution, far below a scheduler's time slice.
const TURN: Duration = Duration::from_micros(100);
/// Rounds of the FMA loop in a turn: some tens of microseconds, and more in proportion to a kernel that takes longer
/// than a turn.
const ROUNDS: u64 = 8192;

/// Works as often as it is told and returns how long that took, without what it had to prepare.
pub type Contender<'a> = Box<dyn FnMut(u64) -> Duration + 'a>;

/// How long `work` takes, without the time that the thread had to leave the processor to others. The clock of the thread
/// is a system call: for short work the ordinary clock, read inside of it, is the smaller and better one.
pub fn timed(work: impl FnOnce()) -> Duration {
    let thread = ThreadTime::now();
    let start = Instant::now();
    work();
    let wall = start.elapsed();
    wall.min(thread.elapsed())
}

/// The instruction sets worth timing: emulated FMA is for tests.
pub fn isas() -> Vec<Isa> {
    Isa::available().into_iter().filter(|isa| *isa != Isa::PortableSoft).collect()
}

/// A kernel, the FMA loop and peers.
pub struct Turns<'a> {
    isa: Isa,
    kernel: Contender<'a>,
    peers: Vec<Contender<'a>>,
    /// Runs of a whole turn.
    runs: u64,
    /// Rounds of the FMA loop.
    rounds: u64,
    times: Times,
}

impl<'a> Turns<'a> {
    /// Finds out how long a turn is.
    pub fn new(isa: Isa, mut kernel: Contender<'a>, peers: Vec<Contender<'a>>) -> Self {
        let once = kernel(1).min(kernel(1)).max(Duration::from_nanos(1));
        let runs = TURN.as_nanos().div_ceil(once.as_nanos()) as u64;
        let rounds = ROUNDS * (1 + (once.as_nanos() / TURN.as_nanos()) as u64);
        Self { isa, kernel, peers, runs, rounds, times: Times(Vec::new()) }
    }

    /// Runs the kernel `runs` times, in turns with the others, and returns its time.
    pub fn take(&mut self, runs: u64) -> Duration {
        let (mut total, mut left) = (Duration::ZERO, runs);
        while left > 0 {
            let runs = left.min(self.runs);
            left -= runs;
            let kernel = (self.kernel)(runs);
            total += kernel;
            let mut operations = 0;
            let fma = timed(|| operations = black_box(peak::fma_loop(self.isa, black_box(self.rounds))).1);
            let run = |time: Duration| time.as_secs_f64() / runs as f64;
            let peers = self.peers.iter_mut().map(|peer| run(peer(runs)));
            let turn = [run(kernel), fma.as_secs_f64() / operations as f64].into_iter().chain(peers).collect();
            // A turn that is cut short says less.
            if runs == self.runs || self.times.0.is_empty() {
                self.times.0.push(turn);
            }
        }
        total
    }

    /// What was measured; nothing if the command line left this out.
    pub fn result(&self) -> Option<&Times> {
        (!self.times.0.is_empty()).then_some(&self.times)
    }
}

/// Of each turn the seconds of a run of the kernel, of an operation of the FMA loop, and of a run of each peer.
pub struct Times(Vec<Vec<f64>>);

impl Times {
    /// Median over the turns of what `of` makes of a turn's seconds.
    pub fn median(&self, of: impl Fn(&[f64]) -> f64) -> f64 {
        let mut values: Vec<f64> = self.0.iter().map(|turn| of(turn)).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
    /// Median seconds of a run of the kernel.
    pub fn seconds(&self) -> f64 {
        self.median(|turn| turn[0])
    }
    /// The kernel's share of the FMA peak if it does so many operations.
    pub fn share(&self, operations: f64) -> f64 {
        self.median(|turn| operations * turn[1] / turn[0])
    }
    /// The FMA peak, GFLOP/s.
    pub fn peak(&self) -> f64 {
        1e-9 / self.median(|turn| turn[1])
    }
}
