//! Products of 16-bit integers (contract, "Integer products").
//!
//! ```text
//! quantise:   scale = 2^(exponent of the largest magnitude of the group - 10)      q = x / scale, rounded, within +-2,047
//! product:    for k in blocks of 512:  sum = integers, exact
//!                                      c = c + (f32(sum) * scale of the row) * scale of the column
//! ```
//!
//! Rows of weights and of activations are quantised once, where they are produced. A factor that changes along a product (the
//! scale of a row of weights in an input gradient, that of a token in a weight gradient) goes into the other operand before
//! that is quantised, so the same integers serve both products.
//!
//! Two integers that follow each other in k are a pair, which takes the place of an f32: matrices of pairs are views,
//! panels and arenas of f32, and the tiles of `micro` run on them with another step.

mod gradient;
mod peak;
mod product;
mod quantise;

pub use gradient::{weight_gradient, weight_gradient_scratch};
pub use peak::integer_loop;
pub use product::{product, product_add};
pub use quantise::{Quantised, QuantisedMut, pack_weights, packed_len, pairs, quantise_rows, row_pairs};

/// Largest integer.
pub const LIMIT: i32 = 2047;

/// Products of one integer sum (contract I4): so many of the largest integers stay below 2^31.
pub const BLOCK: usize = 512;

/// Pairs of a block.
const BLOCK_PAIRS: usize = BLOCK / 2;

const _: () = assert!(BLOCK as i64 * (LIMIT as i64) * (LIMIT as i64) < 1 << 31);
