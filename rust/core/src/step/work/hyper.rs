//! What AdamW needs to know of an update, for every kind of tensor.

use crate::config::TrainConfig;
use crate::model::ParamKind;
use symlm_kernels::adamw::Hyper;

/// The constants of one update for every kind of tensor (contract O3, O5).
#[derive(Clone, Copy, Debug)]
pub struct Hypers {
    embedding: Hyper,
    matrix: Hyper,
    vector: Hyper,
}

impl Hypers {
    /// Those of update `n`, counted from 1, with the learning rate `lr`.
    pub fn new(train: &TrainConfig, lr: f64, clip: f32, n: u64) -> Self {
        let matrix = Hyper::new(lr, train.beta1, train.beta2, train.eps, train.weight_decay, clip, n);
        let embedding = Hyper { lr: (lr * train.embedding_lr_ratio) as f32, ..matrix };
        Self { embedding, matrix, vector: Hyper { decay: 0.0, ..matrix } }
    }

    /// Those of a kind.
    pub fn of(&self, kind: ParamKind) -> Hyper {
        match kind {
            ParamKind::Embedding => self.embedding,
            ParamKind::Matrix => self.matrix,
            ParamKind::Vector => self.vector,
        }
    }
}
