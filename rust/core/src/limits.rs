//! What numbers a setting may have, each limit once: the checks of the core read them here, and those of Python, which come
//! first and know the flags, through the extension module.
//!
//! Numbers beyond them could only be a mistake. None of them moves a bit.

use crate::contract::SECTORS;
use crate::error::{Error, Result};

/// Bytes, and the token between documents.
pub const MIN_VOCAB: usize = 257;
/// Most rows of the embedding.
pub const MAX_VOCAB: usize = 1 << 20;
/// Most columns of a matrix, and most heads.
pub const MAX_WIDTH: usize = 1 << 16;
/// Most transformer blocks.
pub const MAX_LAYERS: usize = 1 << 10;
/// Most positions of a window.
pub const MAX_POSITIONS: usize = 1 << 17;
/// Most threads that compute or read text.
pub const MAX_THREADS: usize = 1 << 10;

/// Numbers that become an f32 keep their precision from here on.
const LEAST_F32: f64 = f32::MIN_POSITIVE as f64;
const MAX_LORA_RANK: usize = 1 << 10;

/// The numbers that a setting may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The setting.
    pub name: &'static str,
    /// The smallest number.
    pub low: f64,
    /// The largest number.
    pub high: f64,
    /// Whether only numbers above `low` will do, and not `low` itself.
    pub above: bool,
}

const fn from(name: &'static str, low: f64, high: f64) -> Limits {
    Limits { name, low, high, above: false }
}

const fn whole(name: &'static str, low: usize, high: usize) -> Limits {
    from(name, low as f64, high as f64)
}

const fn above(name: &'static str, low: f64, high: f64) -> Limits {
    Limits { name, low, high, above: true }
}

/// A limit, readable.
fn bound(value: f64) -> String {
    if value > 0.0 && value < 1e-6 { format!("{value:e}") } else { value.to_string() }
}

impl Limits {
    /// Checks a number.
    ///
    /// # Errors
    /// `User` with the setting, what was found and what was expected.
    pub fn check(&self, found: f64) -> Result<()> {
        let Self { name, low, high, above } = *self;
        // Not a number is in no range.
        if (low..=high).contains(&found) && !(above && found == low) {
            return Ok(());
        }
        let low = bound(low);
        let expected = if above { format!("a number above {low}, at most {high}") } else { format!("{low} to {high}") };
        Err(Error::user(format!("{name} is {found}, expected {expected}")))
    }
}

/// Of models, also of those whose tokenizer symlm cannot train.
pub const MODEL_VOCAB: Limits = whole("vocab_size", 1, MAX_VOCAB);
/// Of the tokenizers that symlm trains.
pub const VOCAB_SIZE: Limits = whole("vocab_size", MIN_VOCAB, MAX_VOCAB);
/// A head needs a pair of columns.
pub const HIDDEN_SIZE: Limits = whole("hidden_size", 2, MAX_WIDTH);
/// Columns inside the MLP.
pub const INTERMEDIATE_SIZE: Limits = whole("intermediate_size", 1, MAX_WIDTH);
/// Transformer blocks.
pub const NUM_LAYERS: Limits = whole("num_layers", 1, MAX_LAYERS);
/// Query heads.
pub const NUM_HEADS: Limits = whole("num_heads", 1, MAX_WIDTH);
/// Key/value heads.
pub const NUM_KV_HEADS: Limits = whole("num_kv_heads", 1, MAX_WIDTH);
/// Positions of a window.
pub const SEQ_LEN: Limits = whole("seq_len", 1, MAX_POSITIONS);
/// Windows of a batch.
pub const BATCH_SIZE: Limits = whole("batch_size", 1, 1 << 16);
/// Peak.
pub const LEARNING_RATE: Limits = from("learning_rate", LEAST_F32, 100.0);
/// The last learning rate as a part of the peak.
pub const MIN_LR_RATIO: Limits = from("min_lr_ratio", 0.0, 1.0);
/// Of matrices.
pub const WEIGHT_DECAY: Limits = from("weight_decay", 0.0, 100.0);
/// Of the rate of the other tensors.
pub const EMBEDDING_LR_RATIO: Limits = from("embedding_lr_ratio", 0.0, 1000.0);
/// At 1 a moment would never change.
pub const BETA1: Limits = from("beta1", 0.0, 0.999_999_9);
/// As `BETA1`.
pub const BETA2: Limits = from("beta2", 0.0, 0.999_999_9);
/// Keeps the quotient of the moments finite.
pub const EPS: Limits = from("eps", LEAST_F32, 1.0);
/// 0 does not clip.
pub const GRAD_CLIP: Limits = from("grad_clip", 0.0, 1e9);
/// Columns of the factors of an adapter.
pub const LORA_RANK: Limits = whole("lora_rank", 1, MAX_LORA_RANK);
/// Divided by any rank it is still at least the smallest.
pub const LORA_ALPHA: Limits = from("lora_alpha", LEAST_F32 * MAX_LORA_RANK as f64, 1e6);
/// Workers.
pub const THREADS: Limits = whole("threads", 1, MAX_THREADS);
/// Workers that the tasks are cut for.
pub const PLAN_THREADS: Limits = whole("plan_threads", 1, MAX_THREADS);
/// Sectors whose activations are in memory at once.
pub const SECTORS_IN_FLIGHT: Limits = whole("sectors_in_flight", 1, SECTORS);
/// 0 always takes the most likely token.
pub const TEMPERATURE: Limits = from("temperature", 0.0, 1000.0);
/// 1 keeps all.
pub const TOP_P: Limits = above("top_p", 0.0, 1.0);
/// 0 keeps all.
pub const MIN_P: Limits = from("min_p", 0.0, 1.0);
/// Scores stay finite.
pub const REPETITION_PENALTY: Limits = from("repetition_penalty", 0.01, 100.0);

/// All that a user can set.
const SETTINGS: [Limits; 24] = [
    VOCAB_SIZE,
    HIDDEN_SIZE,
    INTERMEDIATE_SIZE,
    NUM_LAYERS,
    NUM_HEADS,
    NUM_KV_HEADS,
    SEQ_LEN,
    BATCH_SIZE,
    LEARNING_RATE,
    MIN_LR_RATIO,
    EMBEDDING_LR_RATIO,
    WEIGHT_DECAY,
    BETA1,
    BETA2,
    EPS,
    GRAD_CLIP,
    LORA_RANK,
    LORA_ALPHA,
    THREADS,
    SECTORS_IN_FLIGHT,
    TEMPERATURE,
    TOP_P,
    MIN_P,
    REPETITION_PENALTY,
];

/// The limits of a setting.
///
/// # Errors
/// `Internal` for a setting that the core does not limit.
pub fn of(name: &str) -> Result<Limits> {
    let found = SETTINGS.into_iter().find(|limits| limits.name == name);
    found.ok_or_else(|| Error::internal(format!("the core has no limits of {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_belong_to_a_range_but_what_it_is_above() {
        for limits in SETTINGS {
            let Limits { name, low, high, above } = limits;
            assert_eq!(of(name).unwrap(), limits);
            assert_eq!(limits.check(low).is_err(), above, "{name}");
            assert!(limits.check(high).is_ok(), "{name}");
            for wrong in [low - 1.0, high + 1.0, f64::NAN, f64::INFINITY] {
                let message = limits.check(wrong).unwrap_err().message;
                assert!(message.starts_with(&format!("{name} is {wrong}, expected ")), "{message}");
            }
        }
        assert_eq!(of("colour").unwrap_err().kind, crate::ErrorKind::Internal);
    }
}
