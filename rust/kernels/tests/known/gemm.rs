//! Matrix products and weight gradients.

use crate::common::Lcg;
use crate::{Answer, Bits};
use symlm_kernels::gemm::{
    Fold, Left, Packed, Right, pack, packed_len, product, product_add, weight_gradient, weight_gradient_scratch,
};
use symlm_kernels::{Isa, Mat, MatMut, adapter};

pub const ANSWERS: &[Answer] = &[
    Answer {
        name: "gemm.packed",
        seed: 19,
        run: packed,
        sha256: "ca9ce0ea9b2788516e325391507d404a4b418183ec8f59f708b5a40e0c5ae430",
    },
    Answer {
        name: "gemm.rows",
        seed: 20,
        run: rows,
        sha256: "ed6225e384a1d22b0988d03251654b68d64e1dc0d5e16738b07d0d0b7cc0867f",
    },
    Answer {
        name: "gemm.columns",
        seed: 21,
        run: columns,
        sha256: "5cf3eeb9fa41fd6c2cb9b4c6d90eed05a4bfc6d6ebd8c02a5aa52ce8afdc85bc",
    },
    Answer {
        name: "gemm.weight_gradient",
        seed: 22,
        run: gradient,
        sha256: "7bc1fe487d5fd046dbdbb2b5b03ae73806aca27703d84990b46d174b25cf6e22",
    },
];

/// Adapters came later: the table of the contract continues with them.
pub const ADAPTERS: &[Answer] = &[
    Answer {
        name: "adapter.gradients",
        seed: 25,
        run: adapter_gradients,
        sha256: "116bf85bad27e98e55c2564f19c41d0106d005690e3148344113ce9c10686d5b",
    },
    Answer {
        name: "adapter.merge",
        seed: 26,
        run: adapter_merge,
        sha256: "42cf80b424113fc138263a263a8aae3d18166e978e5b6147d6c7e31b6d6d061a",
    },
];

/// No multiple of any tile or vector.
const M: usize = 45;
const N: usize = 83;
const K: usize = 71;

fn draw(rng: &mut Lcg, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.value()).collect()
}

/// x (45 x 71), w (83 x 71); `x w^T` with w packed.
fn packed(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (x, w) = (draw(rng, M * K), draw(rng, N * K));
    let (mut panels, mut y) = (vec![0.0; packed_len(K, N)], vec![0.0; M * N]);
    pack::transposed(isa, Mat::new(&w, N, K, K), &mut panels);
    let right = Right::packed(Packed::new(&panels, K, N));
    product(isa, Left::Rows(Mat::new(&x, M, K, K)), right, MatMut::new(&mut y, M, N, N));
    bits.f32(&y);
}

/// a (45 x 71), b (71 x 83), r (45 x 83); `r + a b`.
fn rows(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (a, b, r) = (draw(rng, M * K), draw(rng, K * N), draw(rng, M * N));
    let mut y = vec![0.0; M * N];
    let (left, right) = (Left::Rows(Mat::new(&a, M, K, K)), Right::rows(Mat::new(&b, K, N, N)));
    product_add(isa, left, right, Mat::new(&r, M, N, N), MatMut::new(&mut y, M, N, N));
    bits.f32(&y);
}

/// a (71 x 45), b (71 x 83); `a^T b`.
fn columns(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (a, b) = (draw(rng, K * M), draw(rng, K * N));
    let mut y = vec![0.0; M * N];
    let (left, right) = (Left::Columns(Mat::new(&a, K, M, M)), Right::rows(Mat::new(&b, K, N, N)));
    product(isa, left, right, MatMut::new(&mut y, M, N, N));
    bits.f32(&y);
}

/// dy (1,500 x 21), x (1,500 x 37), dw (21 x 37); the gradient alone, then added to dw.
fn gradient(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (dy, x) = (draw(rng, 1500 * 21), draw(rng, 1500 * 37));
    let (mut dw, mut scratch) = (draw(rng, 21 * 37), vec![0.0; weight_gradient_scratch(1500, 21, 37)]);
    let (dy, x) = (Mat::new(&dy, 1500, 21, 21), Mat::new(&x, 1500, 37, 37));
    let mut alone = vec![0.0; 21 * 37];
    weight_gradient(isa, dy, x, MatMut::new(&mut alone, 21, 37, 37), Fold::Set, None, &mut scratch);
    weight_gradient(isa, dy, x, MatMut::new(&mut dw, 21, 37, 37), Fold::Add, None, &mut scratch);
    bits.f32(&alone);
    bits.f32(&dw);
}

/// Rank of the adapters.
const RANK: usize = 7;
const SCALE: f32 = 0.6;

/// b (45 x 7), a (7 x 83), dw (45 x 83); gradients of a and of b, scale 0.6.
fn adapter_gradients(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (b, a, dw) = (draw(rng, M * RANK), draw(rng, RANK * N), draw(rng, M * N));
    let (mut da, mut db) = (vec![0.0; RANK * N], vec![0.0; M * RANK]);
    let (b, a, dw) = (Mat::new(&b, M, RANK, RANK), Mat::new(&a, RANK, N, N), Mat::new(&dw, M, N, N));
    adapter::gradient_a(isa, b, dw, SCALE, MatMut::new(&mut da, RANK, N, N));
    let packed = &mut vec![0.0; packed_len(N, RANK)];
    adapter::gradient_b(isa, dw, a, SCALE, MatMut::new(&mut db, M, RANK, RANK), packed);
    bits.f32(&da);
    bits.f32(&db);
}

/// b (45 x 7), a (7 x 83), w0 (45 x 83); merged weights, scale 0.6.
fn adapter_merge(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (b, a, w0) = (draw(rng, M * RANK), draw(rng, RANK * N), draw(rng, M * N));
    let mut w = vec![0.0; M * N];
    let (b, a, w0) = (Mat::new(&b, M, RANK, RANK), Mat::new(&a, RANK, N, N), Mat::new(&w0, M, N, N));
    adapter::merge(isa, b, a, w0, SCALE, MatMut::new(&mut w, M, N, N));
    bits.f32(&w);
}
