//! Speed of every kernel, one thread, on each instruction set of this machine, in the shapes of all presets:
//! `cargo bench -p symlm-bench`. A regular expression behind `--` chooses some: `-- "product.*3m qkv"`, `-- attention`,
//! `-- avx2`; `--help` names the other options of criterion, which keeps every result under `target/criterion` and
//! compares it with the last.
//!
//! Every answer is compared with the scalar specification, bit for bit, before it is timed. A table at the end has the
//! shares of the FMA peak and the speed of the `gemm` crate, both measured in turns with the kernels.

mod adapters;
mod attention;
mod case;
#[path = "../rust/kernels/tests/common/mod.rs"]
mod common;
mod int16;
mod memory_layout;
mod models;
mod passes;
mod peer;
mod products;
mod tables;
mod turns;

use criterion::Criterion;
use std::time::Duration;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(300))
        .sample_size(10)
        .nresamples(1000)
        // Below this, two runs on a shared machine are not different.
        .noise_threshold(0.1)
        .configure_from_args();
    let products = products::run(&mut criterion);
    let integers = int16::run(&mut criterion);
    let mut others = attention::run(&mut criterion);
    others.extend(adapters::run(&mut criterion));
    others.extend(passes::run(&mut criterion));
    criterion.final_summary();
    // `cargo test --benches` gives no argument and `--test` asks for it: then everything ran once, as a check.
    let timing = std::env::args().any(|argument| argument == "--bench");
    if timing && !std::env::args().any(|argument| argument == "--test") {
        tables::print(&products, &others);
        int16::print(&integers);
    }
}
