//! The work of a trained token.

use super::{Adapters, Layout};
use crate::config::{EngineConfig, ModelConfig};

impl ModelConfig {
    /// Floating-point operations per trained token: 6 for each matrix weight that a token meets (the output head included,
    /// the embedding look-up not) and 6 T D a layer for causal attention.
    pub fn flops_per_token(&self) -> f64 {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let layer = d * (d + 2 * self.kv_size()) + d * d + 3 * d * f;
        let matrices = self.num_layers * layer + self.vocab_size * d;
        6.0 * matrices as f64 + 6.0 * (self.num_layers * self.seq_len * d) as f64
    }
}

impl EngineConfig {
    /// Floating-point operations per trained token: as [`ModelConfig::flops_per_token`], but a matrix weight that stays
    /// as it is has no gradient, which is a third of them. The products of the factors do not count: there are a few an update.
    pub fn flops_per_token(&self) -> f64 {
        let model = &self.model;
        let Some(lora) = &self.train.lora else { return model.flops_per_token() };
        let layout = Layout::new(model);
        let adapted = Adapters::new(&layout, lora).adapted_len;
        let matrices = layout.parameters() - layout.norms.len() * model.hidden_size;
        // The embedding is looked up; a tied one is the output head as well.
        let met = if model.tie_embeddings { matrices } else { matrices - model.vocab_size * model.hidden_size };
        model.flops_per_token() - 2.0 * (met - adapted) as f64
    }
}
