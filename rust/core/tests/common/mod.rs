//! A small training, and what is left of it.
#![allow(dead_code, reason = "each test file uses its part")]

use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};
use symlm_core::Result;
use symlm_core::config::EngineConfig;
use symlm_core::rng::{Stream, draw};
use symlm_core::step::{Engine, StepReport, Switches, Tensors, TokenSource};
use symlm_core::system::machine;

/// A model of two layers that has every kind of task; windows of 130 tokens make strips of rows for many workers.
pub fn config(threads: usize, sectors_in_flight: usize) -> EngineConfig {
    config_of(threads, sectors_in_flight, 130, 13)
}

/// As [`config`], with other batches.
pub fn config_of(threads: usize, sectors_in_flight: usize, seq_len: usize, batch_size: usize) -> EngineConfig {
    let json = format!(
        r#"{{"model": {{"vocab_size": 97, "hidden_size": 16, "intermediate_size": 24, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "seq_len": {seq_len}, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_embeddings": false}},
        "train": {{"batch_size": {batch_size}, "max_steps": 100, "learning_rate": 0.003, "warmup_steps": 2, "decay_start": 80,
        "schedule": "wsd", "min_lr_ratio": 0.1, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
        "grad_clip": 1.0, "seed": 42}}, "threads": {threads}, "sectors_in_flight": {sectors_in_flight}}}"#
    );
    serde_json::from_str(&json).expect("a sound configuration")
}

/// Random ids.
pub fn tokens() -> Arc<Vec<u32>> {
    Arc::new((0..5000).map(|i| draw(0, Stream::Sample, i, 0)[0] % 97).collect())
}

/// An engine on random ids, with the instruction set of this machine (or of `SYMLM_ISA`).
pub fn engine(config: EngineConfig, source: Arc<dyn TokenSource>, switches: Switches) -> Result<Engine> {
    Engine::new(config, machine::active_isa()?, source, switches)
}

/// Long enough for any machine; a test that waits longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(1200);

/// The next report; a panic if none comes.
pub fn report(engine: &Engine) -> Result<StepReport> {
    let start = Instant::now();
    loop {
        if let Some(report) = engine.poll(Duration::from_millis(100))? {
            return Ok(report);
        }
        assert!(start.elapsed() < PATIENCE, "no report came");
    }
}

/// Updates until `step` are done.
pub fn train(engine: &Engine, step: u64) -> Result<()> {
    engine.run_until(step)?;
    while report(engine)?.step < step {}
    Ok(())
}

/// A hash of weights, moments and adapters.
pub fn hash(engine: &Engine) -> String {
    let which = [Tensors::Weights, Tensors::FirstMoment, Tensors::SecondMoment, Tensors::Adapters];
    let hash = engine.tensors(&which, |tensors| {
        let mut hash = Sha256::new();
        for (name, _, values) in tensors {
            hash.update(name);
            for value in *values {
                hash.update(value.to_bits().to_le_bytes());
            }
        }
        hash.finalize()
    });
    hash.expect("an idle engine").iter().map(|byte| format!("{byte:02x}")).collect()
}
