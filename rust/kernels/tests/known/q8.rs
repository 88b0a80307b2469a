//! Products with 8-bit weights.

use crate::common::Lcg;
use crate::{Answer, Bits};
use symlm_kernels::gemm::q8::{self, Panels, QuantisedMut};
use symlm_kernels::{Integers, Isa, Mat, MatMut};

pub const ANSWERS: &[Answer] = &[Answer {
    name: "q8.product",
    seed: 30,
    run: product,
    sha256: "08c6dc6c58761ac9a8f66c4f9d36fe8531c8d2d85c007b13964974e59e2e73d0",
}];

/// No multiple of any tile, group or panel.
const M: usize = 17;
const N: usize = 107;
const K: usize = 331;

/// x (17 x 331), w (107 x 331), r (17 x 107); w in 8 bits by Q1, `x w^T` by Q4 alone, then added to r.
fn product(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let mut draw = |n: usize| (0..n).map(|_| rng.value()).collect::<Vec<_>>();
    let (x, w, mut r) = (draw(M * K), draw(N * K), draw(M * N));
    let (kind, mut blocks) = (Integers::of(isa), Vec::new());
    w.chunks(K).for_each(|row| q8::quantise_blocks(row, &mut blocks));
    let (mut panels, mut room) = (vec![0; q8::packed_bytes(K, N)], QuantisedMut::new(M, K));
    q8::clear(&mut panels);
    q8::pack_blocks(&blocks, K, 0, &mut panels);
    let panels = Panels::new(&panels, K, N);
    let x = q8::quantise_rows(kind, Mat::new(&x, M, K, K), &mut room);
    let mut y = vec![0.0; M * N];
    q8::product(kind, x, panels, None, MatMut::new(&mut y, M, N, N));
    bits.f32(&y);
    q8::product(kind, x, panels, Some(Mat::new(&r.clone(), M, N, N)), MatMut::new(&mut r, M, N, N));
    bits.f32(&r);
}
