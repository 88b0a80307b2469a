//! Speed of every kernel, one thread, on each instruction set of this machine: `cargo bench -p symlm-kernels`, with a
//! word of a row's name behind `--` for some of them.
//!
//! Every answer is compared with the scalar specification, bit for bit, before it is timed. Speeds are shares of the
//! FMA peak, measured between the kernels. The peer is the `gemm` crate, called the way a trainer would call it: it packs
//! its operands in each call, while weights are packed once per update here.

#[path = "../rust/kernels/tests/common/mod.rs"]
mod common;
mod elementwise;
mod products;
mod timing;

use std::time::Duration;
use symlm_kernels::{Isa, peak};
use timing::{Contender, best_seconds, timed};

/// Time for one row of a table.
const BUDGET: Duration = Duration::from_millis(800);

/// What the command line asks for.
pub struct Options {
    words: Vec<String>,
    /// Without it (`cargo test --benches`) answers are checked and nothing is timed.
    timing: bool,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word))
    }
}

/// The instruction sets worth timing: emulated FMA is for tests.
pub fn isas() -> Vec<Isa> {
    Isa::available().into_iter().filter(|isa| *isa != Isa::PortableSoft).collect()
}

/// Times the kernels together with the FMA loop of each instruction set: seconds, and FMA peaks in GFLOP/s.
pub fn against_peak(mut kernels: Vec<Contender<'_>>) -> (Vec<f64>, Vec<f64>) {
    const ROUNDS: u64 = 4096;
    let count = kernels.len();
    let mut operations = Vec::new();
    for isa in isas() {
        operations.push(peak::fma_loop(isa, 1).1 * ROUNDS);
        kernels.push(Box::new(move || {
            timed(|| {
                std::hint::black_box(peak::fma_loop(isa, std::hint::black_box(ROUNDS)));
            })
        }));
    }
    let mut seconds = best_seconds(&mut kernels, BUDGET);
    let peaks = seconds.split_off(count).iter().zip(operations).map(|(s, n)| n as f64 / s / 1e9).collect();
    (seconds, peaks)
}

/// The highest FMA peaks seen.
#[derive(Default)]
pub struct Peaks(Vec<f64>);

impl Peaks {
    /// Takes the peaks of one row.
    pub fn see(&mut self, peaks: &[f64]) {
        self.0.resize(peaks.len(), 0.0);
        self.0.iter_mut().zip(peaks).for_each(|(a, b)| *a = a.max(*b));
    }
}

fn main() {
    let mut options = Options { words: Vec::new(), timing: false };
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--bench" => options.timing = true,
            other if other.starts_with('-') => {}
            word => options.words.push(word.to_owned()),
        }
    }
    let mut peaks = Peaks::default();
    products::run(&options, &mut peaks);
    elementwise::run(&options, &mut peaks);
    if options.timing {
        let peaks = isas().into_iter().zip(&peaks.0).map(|(isa, peak)| format!("{} {peak:.0}", isa.name()));
        println!("\nFMA peak, GFLOP/s: {}. All answers equal the specification.", peaks.collect::<Vec<_>>().join(", "));
    }
}
