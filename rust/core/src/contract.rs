//! The fixed numbers of the numeric contract (docs/contract.md). Changing one changes the bits of every run.

/// Version of the contract; every checkpoint stores it.
pub const CONTRACT_VERSION: u64 = 2;
/// Sectors of a batch (S1).
pub const SECTORS: usize = 12;
/// Rows of a block of the norm-weight gradient (E5).
pub const NORM_BLOCK: usize = 64;
/// Elements of a block of the sum of squares (O1).
pub const SQUARE_BLOCK: usize = 4096;
