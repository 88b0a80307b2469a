//! Kernels of symlm: maths on slices, bit-identical on every instruction set.
//!
//! Each kernel is one generic body over a [`simd::Simd`] token; the portable token is the specification
//! (docs/contract.md) and every other must equal it bit for bit. No threads, no files, no allocation in hot paths.

pub mod adamw;
pub mod adapter;
pub mod attention;
pub mod embedding;
pub mod gemm;
pub mod loss;
pub mod mat;
pub mod math;
pub mod mlp;
pub mod norm;
pub mod peak;
pub mod reduce;
pub mod rope;
pub mod simd;

/// Whether this build breaks the contract wherever that is faster, to measure what the contract costs: no sectors and
/// blocks of tokens in weight gradients, shorter exponentials, approximate division and roots, an f32 gradient norm. No
/// other use; the bindings refuse it and the tests of bits fail.
pub const ANY_ORDER: bool = cfg!(feature = "any-order");

pub use mat::{Mat, MatMut};
pub use simd::{Integers, Isa};
