//! Settings that are one of a few names.

use serde::{Deserialize, Serialize};

/// Learning-rate schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Warm-up, stable, linear decay from `decay_start`.
    Wsd,
    /// Half a cosine from the end of the warm-up.
    Cosine,
    /// Linear from the end of the warm-up.
    Linear,
    /// Constant after the warm-up.
    Constant,
}

/// What products with weights are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Floats of 32 bits.
    #[default]
    F32,
    /// Integers of 16 bits (contract, "Integer products").
    Int16,
}

/// How the weights of a new model are drawn (contract, "Parameters").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitialWeights {
    /// One standard deviation for every width, less for what adds to the residual stream.
    #[default]
    Gpt2,
    /// A standard deviation by the width; what adds to the residual stream begins at 0.
    Width,
}

/// What a token sees of its window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attend {
    /// All tokens before it.
    #[default]
    Window,
    /// Those of its document (contract, "Documents").
    Document,
}
