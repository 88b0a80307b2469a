//! How large a piece of work is at most, and how many there are at once. None of these numbers moves a bit.

use crate::contract::{NORM_BLOCK, SQUARE_BLOCK};

/// Rows of a matrix that one task updates, packs or gathers.
pub const ROW_BLOCK: usize = 64;
/// At most one in so many sectors has its logits in memory: tokens x vocabulary never exists as a whole.
pub const SECTORS_PER_LOGITS: usize = 4;
/// Blocks of gradient elements (contract O1) that one task squares.
pub const SQUARE_BLOCKS: usize = 16;
/// Most columns of a weight-gradient tile.
pub const TILE_COLS: usize = 512;
/// Rows of logits that are worked on at a time: they stay in the second-level cache.
pub const LOGIT_ROWS: usize = 64;
/// Rows of B that one task computes the gradient of.
pub const B_ROWS: usize = 4 * ROW_BLOCK;
/// Elements of a factor that one task updates.
pub const FACTOR_ELEMENTS: usize = SQUARE_BLOCK * SQUARE_BLOCKS;
/// Batches that are cut ahead of the updates at most.
pub const BATCHES_AHEAD: usize = 3;

const _: () = assert!(NORM_BLOCK.is_multiple_of(LOGIT_ROWS));
