//! The resolved configuration that the engine computes from. Defaults live in the Python dataclasses alone.

mod choices;

pub use choices::{Attend, InitialWeights, Precision, Schedule};

use crate::contract::SECTORS;
use crate::error::{Error, Result, brief};
use crate::limits::{self, MAX_POSITIONS};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use symlm_kernels::rope;

/// Rotary frequencies stretched for longer contexts, the type "llama3" (contract E6a).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeScaling {
    /// Long waves become this many times as long.
    pub factor: f64,
    /// Waves longer than the original positions divided by this are long.
    pub low_freq_factor: f64,
    /// Waves shorter than the original positions divided by this stay as they are.
    pub high_freq_factor: f64,
    /// Positions of the first training.
    pub original_max_position_embeddings: usize,
}

impl RopeScaling {
    /// Checks ranges.
    ///
    /// # Errors
    /// `User` with what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        let positions = self.original_max_position_embeddings;
        let numbers = [self.factor, self.low_freq_factor, self.high_freq_factor, positions as f64];
        let sound = numbers.iter().all(|x| x.is_finite() && *x > 0.0) && positions <= MAX_POSITIONS;
        if sound && self.factor >= 1.0 && self.low_freq_factor < self.high_freq_factor {
            return Ok(());
        }
        Err(Error::user(format!(
            "rope_scaling is {numbers:?}, expected a factor from 1, a low and a higher frequency factor, and 1 to \
             {MAX_POSITIONS} positions"
        )))
    }
}

/// Shape of a Llama-architecture model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Positions of a window.
    pub seq_len: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Whether the output head is the embedding.
    pub tie_embeddings: bool,
    /// How the rotary frequencies are stretched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
}

/// Sectors in flight if none are asked for: two triples, of which one is filled while the weight gradients of the other
/// are folded.
pub const AUTO_SECTORS: usize = 6;

/// Most tokens of a batch: positions are 32-bit numbers.
const MAX_BATCH_TOKENS: usize = 1 << 31;

/// Whether a number is positive and neither overflows nor loses its precision as an f32.
fn positive_f32(x: f64) -> bool {
    x > 0.0 && (x as f32).is_normal()
}

impl ModelConfig {
    /// Elements of an attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
    /// Columns of the key (or value) projection.
    pub fn kv_size(&self) -> usize {
        self.num_kv_heads * self.head_dim()
    }
    /// Columns of queries and keys, which are rotated, in a row of the joint projection; those of the values follow.
    pub fn rotated_columns(&self) -> Range<usize> {
        0..self.hidden_size + self.kv_size()
    }
    /// Columns of the queries of a key/value head in a row of the joint projection, and in one of the attention's output.
    pub fn query_columns(&self, kv_head: usize) -> Range<usize> {
        let width = self.group() * self.head_dim();
        kv_head * width..(kv_head + 1) * width
    }
    /// Columns of the keys of a key/value head in a row of the joint projection.
    pub fn key_columns(&self, kv_head: usize) -> Range<usize> {
        let start = self.hidden_size + kv_head * self.head_dim();
        start..start + self.head_dim()
    }
    /// Columns of the values of a key/value head in a row of the joint projection.
    pub fn value_columns(&self, kv_head: usize) -> Range<usize> {
        let start = self.hidden_size + self.kv_size() + kv_head * self.head_dim();
        start..start + self.head_dim()
    }
    /// Query heads of a key/value head.
    pub fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Cosines and sines of every position, for training and for generation alike. Made in the caller's rounding mode.
    pub fn rotary_table(&self) -> rope::Table {
        let scaling = self.rope_scaling.map(|s| rope::Scaling {
            factor: s.factor,
            low: s.low_freq_factor,
            high: s.high_freq_factor,
            positions: s.original_max_position_embeddings as f64,
        });
        rope::Table::scaled(self.rope_theta, self.head_dim(), self.seq_len, scaling)
    }

    /// Checks that the shape makes sense.
    ///
    /// # Errors
    /// `User` with the field, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            (limits::MODEL_VOCAB, self.vocab_size),
            (limits::HIDDEN_SIZE, self.hidden_size),
            (limits::INTERMEDIATE_SIZE, self.intermediate_size),
            (limits::NUM_LAYERS, self.num_layers),
            (limits::NUM_HEADS, self.num_heads),
            (limits::NUM_KV_HEADS, self.num_kv_heads),
            (limits::SEQ_LEN, self.seq_len),
        ];
        for (limits, size) in sizes {
            limits.check(size as f64)?;
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            let (h, n) = (self.hidden_size, self.num_heads);
            return Err(Error::user(format!("hidden_size {h} is not divisible by num_heads {n}")));
        }
        if !self.head_dim().is_multiple_of(2) {
            return Err(Error::user(format!("head_dim {} is odd, rotary embeddings need pairs", self.head_dim())));
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let (h, n) = (self.num_heads, self.num_kv_heads);
            return Err(Error::user(format!("num_heads {h} is not divisible by num_kv_heads {n}")));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(Error::user(format!("rope_theta is {}, expected a positive number", self.rope_theta)));
        }
        self.rope_scaling.as_ref().map_or(Ok(()), RopeScaling::check)?;
        if !positive_f32(self.rms_norm_eps) {
            return Err(Error::user(format!("rms_norm_eps is {}, expected a positive number", self.rms_norm_eps)));
        }
        Ok(())
    }
}

/// What one training run computes, with every limit resolved to step numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Windows per update.
    pub batch_size: usize,
    /// Updates of the whole run.
    pub max_steps: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Updates of linear warm-up.
    pub warmup_steps: u64,
    /// First update of the decay (wsd).
    pub decay_start: u64,
    /// Schedule.
    pub schedule: Schedule,
    /// Final learning rate as a fraction of the peak.
    pub min_lr_ratio: f64,
    /// Learning rate of the embedding as a multiple of that of the other tensors.
    #[serde(default = "one")]
    pub embedding_lr_ratio: f64,
    /// How the weights of a new model are drawn.
    #[serde(default)]
    pub initial_weights: InitialWeights,
    /// Decoupled weight decay of two-dimensional tensors.
    pub weight_decay: f64,
    /// AdamW's first-moment decay.
    pub beta1: f64,
    /// AdamW's second-moment decay.
    pub beta2: f64,
    /// AdamW's denominator term.
    pub eps: f64,
    /// Largest gradient norm; 0 = no clipping.
    pub grad_clip: f64,
    /// Seed of everything random.
    pub seed: u64,
    /// What products with weights are computed in.
    #[serde(default)]
    pub precision: Precision,
    /// What a token sees of its window.
    #[serde(default)]
    pub attend: Attend,
    /// Adapters that are trained in place of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

fn one() -> f64 {
    1.0
}

/// The projections that can have an adapter, in the order of the table of parameters.
pub const ADAPTER_TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Low-rank adapters (contract, "Low-rank adapters").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Columns of B and rows of A.
    pub rank: usize,
    /// `alpha / rank` is the factor of their product.
    pub alpha: f64,
    /// The projections that have them, such as `q_proj`.
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// The factor of the product (contract D1).
    pub fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }

    /// Checks ranges and names.
    ///
    /// # Errors
    /// `User` with the field, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        limits::LORA_RANK.check(self.rank as f64)?;
        limits::LORA_ALPHA.check(self.alpha)?;
        let known = ADAPTER_TARGETS;
        let unknown = self.targets.iter().find(|name| !known.contains(&name.as_str()));
        if let Some(name) = unknown {
            return Err(Error::user(format!("found a target {:?}, expected {}", brief(name), known.join(", "))));
        }
        if self.targets.is_empty() {
            return Err(Error::user(format!("adapters have no target, expected some of {}", known.join(", "))));
        }
        Ok(())
    }
}

impl TrainConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// `User` with the field, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        limits::BATCH_SIZE.check(self.batch_size as f64)?;
        let numbers = [
            (limits::LEARNING_RATE, self.learning_rate),
            (limits::MIN_LR_RATIO, self.min_lr_ratio),
            (limits::EMBEDDING_LR_RATIO, self.embedding_lr_ratio),
            (limits::WEIGHT_DECAY, self.weight_decay),
            (limits::BETA1, self.beta1),
            (limits::BETA2, self.beta2),
            (limits::EPS, self.eps),
            (limits::GRAD_CLIP, self.grad_clip),
        ];
        for (limits, number) in numbers {
            limits.check(number)?;
        }
        self.lora.as_ref().map_or(Ok(()), LoraConfig::check)
    }

    /// Learning rate of update `n` (from 0), contract O4.
    pub fn learning_rate_at(&self, n: u64) -> f64 {
        let lr = self.learning_rate;
        if n < self.warmup_steps {
            return lr * (n + 1) as f64 / self.warmup_steps as f64;
        }
        let r = self.min_lr_ratio;
        let progress = |start: u64| {
            let length = self.max_steps.saturating_sub(start).max(1);
            (n.saturating_sub(start) as f64 / length as f64).min(1.0)
        };
        match self.schedule {
            Schedule::Constant => lr,
            Schedule::Wsd if n < self.decay_start => lr,
            Schedule::Wsd => lr * (1.0 - (1.0 - r) * progress(self.decay_start)),
            Schedule::Linear => lr * (1.0 - (1.0 - r) * progress(self.warmup_steps)),
            Schedule::Cosine => {
                let q = progress(self.warmup_steps);
                lr * (r + (1.0 - r) * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * q)))
            }
        }
    }
}

/// Everything the engine is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Shape of the model.
    pub model: ModelConfig,
    /// The run.
    pub train: TrainConfig,
    /// Worker threads.
    pub threads: usize,
    /// Sectors whose activations are in memory at once; 0 = automatic.
    #[serde(default)]
    pub sectors_in_flight: usize,
    /// Workers that the tasks are cut for; 0 = as many as there are. For measuring the plan of a larger machine.
    #[serde(default)]
    pub plan_threads: usize,
    /// Processes that compute the run together; 0 counts as 1.
    #[serde(default)]
    pub ranks: usize,
    /// Which of them this is.
    #[serde(default)]
    pub rank: usize,
}

impl EngineConfig {
    /// Checks the model, the run, and what they are together.
    ///
    /// # Errors
    /// `User` with the field, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        self.model.check()?;
        self.train.check()?;
        let tokens = self.train.batch_size * self.model.seq_len;
        if tokens > MAX_BATCH_TOKENS {
            return Err(Error::user(format!("a batch has {tokens} tokens, expected at most {MAX_BATCH_TOKENS}"))
                .hint("use a smaller batch_size or seq_len"));
        }
        limits::THREADS.check(self.threads as f64)?;
        if self.plan_threads > 0 {
            limits::PLAN_THREADS.check(self.plan_threads as f64)?;
        }
        if self.sectors_in_flight > 0 {
            limits::SECTORS_IN_FLIGHT.check(self.sectors_in_flight as f64)?;
        }
        if self.ranks > SECTORS || self.rank >= self.ranks.max(1) {
            let (rank, ranks) = (self.rank, self.ranks);
            return Err(Error::user(format!("rank {rank} of {ranks}, expected 1 to {SECTORS} ranks, counted from 0")));
        }
        Ok(())
    }
}
