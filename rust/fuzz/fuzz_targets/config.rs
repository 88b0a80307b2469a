//! Any text as the configuration of an engine or the shape of a model: an error on one line, or numbers with which all
//! sizes can be computed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use symlm_core::Error;
use symlm_core::config::{EngineConfig, ModelConfig};
use symlm_core::step::check_memory;

fn check(error: &Error) {
    assert!(matches!(error.kind.exit_code(), 1 | 2 | 4), "{error}");
    assert!(error.message.len() < 2000 && !error.message.contains('\n'), "{error}");
}

fn sizes(model: &ModelConfig) {
    assert!(model.flops_per_token() > 0.0);
    assert_eq!(model.head_dim() * model.num_heads, model.hidden_size);
    assert_eq!(model.group() * model.num_kv_heads, model.num_heads);
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(model) = serde_json::from_str::<ModelConfig>(text) {
        match model.check() {
            Ok(()) => sizes(&model),
            Err(error) => check(&error),
        }
    }
    let Ok(config) = serde_json::from_str::<EngineConfig>(text) else { return };
    match config.check() {
        Ok(()) => {
            sizes(&config.model);
            for n in [0, 1, config.train.warmup_steps, config.train.decay_start, config.train.max_steps, u64::MAX] {
                assert!(!config.train.learning_rate_at(n).is_nan());
            }
            if let Err(error) = check_memory(&config) {
                check(&error);
            }
        }
        Err(error) => check(&error),
    }
});
