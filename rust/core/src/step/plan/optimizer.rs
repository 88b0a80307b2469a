//! What a plan has to know of an optimizer.

/// The least part of the parameters that needs one owner (contract P3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Blocks of the gradient norm: no element depends on another one.
    Block,
    /// A tensor: its elements depend on each other.
    #[cfg_attr(not(test), expect(dead_code, reason = "AdamW is the only optimizer, and tests divide by tensors"))]
    Tensor,
}

/// An optimizer, as far as plans depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Optimizer {
    pub unit: Unit,
}

/// AdamW (contract O3).
pub(crate) const ADAMW: Optimizer = Optimizer { unit: Unit::Block };
