//! What the nodes of the graphs do.

use super::messages::Stage;

/// A row stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowStage {
    /// From the attention of layer l - 1 (from the token ids for l = 0) to that of layer l (to the final norm for the last).
    Forward(usize),
    /// Output head, loss, and back to the attention of the last layer.
    Loss,
    /// Output head and loss of an evaluation.
    EvalLoss,
    /// From the attention of layer l down to the attention of layer l - 1 (the embedding for l = 0).
    Backward(usize),
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Nothing: other nodes wait for it.
    Join,
    /// A strip of a window.
    Rows { window: usize, stage: RowStage, strip: usize },
    /// The attention of some key/value heads of a window.
    Attention { window: usize, layer: usize, part: usize, backward: bool },
    /// A tile of the output head's weight gradient, one sector.
    LmHeadGradient { sector: usize, tile: usize },
    /// A tile of a matrix's weight gradient, sectors `first..end`.
    MatrixGradient { first: usize, end: usize, matrix: usize, tile: usize },
    /// The gradient of a norm weight.
    NormGradient { norm: usize },
    /// Some rows of the embedding's gradient.
    EmbeddingGradient { tile: usize },
    /// A tile of the gradients of an adapter's factors.
    AdapterGradient { adapter: usize, tile: usize },
    /// Sums of squares of some blocks of a trained tensor's gradient.
    Squares { param: usize, block: usize },
    /// Loss, gradient norm, clip factor, learning rate.
    Finish,
    /// AdamW and packing for some rows of a matrix.
    UpdateMatrix { matrix: usize, tile: usize },
    /// AdamW for a norm weight.
    UpdateNorm { norm: usize },
    /// AdamW for some elements of an adapter's factor.
    UpdateFactor { factor: usize, tile: usize },
    /// Merged weights and packing for some rows of a matrix.
    Merge { matrix: usize, tile: usize },
    /// What may arrive and leave from now on is that of this update.
    Begin,
    /// Messages to other ranks may leave.
    Leave { stage: Stage },
    /// The total of some elements of the own part of a bucket, from the partial sums of all ranks.
    FoldPart { bucket: usize, start: usize, len: usize },
    /// Sums of squares of an own piece.
    OwnSquares { piece: usize },
    /// Puts the own sums of squares and row losses together, for the other ranks.
    Note,
    /// Takes over those of another rank.
    Learn { rank: usize },
    /// AdamW for an own piece.
    UpdateOwn { piece: usize },
    /// The digest of the own part of a bucket.
    Digest { bucket: usize },
    /// Compares the copy of another rank's part of a bucket with its digest.
    Check { bucket: usize, rank: usize },
    /// Cuts an evaluation batch out of the shards.
    EvalCut,
    /// Adds up the losses of an evaluation batch.
    EvalSum,
}
