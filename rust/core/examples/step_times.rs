//! Trains on random tokens and tells how long updates take, whenever it is asked: `step_times CONFIG.json`.
//!
//! Each line of standard input is a number of updates; the answer is a line with the seconds that they took and the
//! loss of the last one. Two builds that take turns, each idle while the other works, can be compared on a machine whose
//! speed changes from one second to the next.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use symlm_core::Error;
use symlm_core::config::EngineConfig;
use symlm_core::rng::{Stream, draw};
use symlm_core::step::{Engine, StepReport, Switches};
use symlm_core::system::machine;

fn run(path: &str) -> symlm_core::Result<()> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::usage(format!("{path}: {e}")))?;
    let config: EngineConfig = serde_json::from_str(&text).map_err(|e| Error::usage(format!("{path}: {e}")))?;
    config.check()?;
    let (vocab, batches) = (config.model.vocab_size as u32, 4);
    let count = (batches * config.train.batch_size * (config.model.seq_len + 1)) as u64;
    let tokens: Vec<u32> = (0..count).map(|i| draw(0, Stream::Sample, i, 0)[0] % vocab).collect();
    let engine = Engine::new(config, machine::active_isa()?, Arc::new(tokens), Switches::default())?;
    let mut until = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Error::usage(format!("standard input: {e}")))?;
        let updates: u64 =
            line.trim().parse().map_err(|_| Error::usage(format!("{line:?} is not a number of updates")))?;
        until += updates;
        let start = Instant::now();
        engine.run_until(until)?;
        let mut last = None;
        while last.as_ref().is_none_or(|report: &StepReport| report.step < until) {
            last = engine.poll(Duration::from_secs(60))?.or(last);
        }
        let loss = last.map_or(f64::NAN, |report| report.loss);
        println!("{} {loss}", start.elapsed().as_secs_f64());
        std::io::stdout().flush().map_err(|e| Error::usage(format!("standard output: {e}")))?;
    }
    Ok(())
}

fn main() {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: step_times CONFIG.json");
        std::process::exit(2);
    };
    if let Err(error) = run(&path) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}
