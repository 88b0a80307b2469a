//! Products of 16-bit integers.

use crate::common::Lcg;
use crate::{Answer, Bits};
use symlm_kernels::gemm::int16::{
    BLOCK, Quantised, QuantisedMut, pack_weights, packed_len, product, quantise_rows, row_pairs, weight_gradient,
    weight_gradient_scratch,
};
use symlm_kernels::gemm::{Fold, Packed};
use symlm_kernels::{Integers, Isa, Mat, MatMut};

pub const ANSWERS: &[Answer] = &[
    Answer {
        name: "int16.product",
        seed: 27,
        run: forward,
        sha256: "b011cbf8f4c1ca8cbd75f053a381f25896865de8add739ca27f8f13aabda5914",
    },
    Answer {
        name: "int16.input_gradient",
        seed: 28,
        run: input_gradient,
        sha256: "1f6652f947e1f17a80f7d5e7ae98b6e43a6034c5415d634458b7ca010b05921d",
    },
    Answer {
        name: "int16.weight_gradient",
        seed: 29,
        run: gradient,
        sha256: "701eeaf51516b6e2fd2f00a908c074a4868e943ed9d928810e3c10eae037e6b2",
    },
];

/// More than a block of k, and no multiple of any tile or vector.
const M: usize = 45;
const N: usize = 583;
const K: usize = 571;

fn draw(rng: &mut Lcg, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.value()).collect()
}

/// Integers and scales of a rows x cols matrix.
fn quantised(isa: Isa, x: &[f32], cols: usize, factors: Option<&[f32]>, group: Option<usize>) -> (Vec<f32>, Vec<f32>) {
    let (rows, width) = (x.len() / cols, row_pairs(cols));
    let (mut pairs, mut scales) = (vec![0.0; rows * width], vec![0.0; rows * group.map_or(1, |g| cols.div_ceil(g))]);
    let to = QuantisedMut::new(MatMut::new(&mut pairs, rows, width, width), cols, &mut scales);
    quantise_rows(isa, Mat::new(x, rows, cols, cols), factors, group, to);
    (pairs, scales)
}

fn view<'a>((pairs, scales): &'a (Vec<f32>, Vec<f32>), cols: usize) -> Quantised<'a> {
    let width = row_pairs(cols);
    Quantised::new(Mat::new(pairs, pairs.len() / width, width, width), cols, scales)
}

/// Scales and both packings of w (583 x 571).
fn packed(isa: Isa, w: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (mut scales, mut forward, mut backward) =
        (vec![0.0; N], vec![0.0; packed_len(K, N)], vec![0.0; packed_len(N, K)]);
    let panels = [forward.as_mut_ptr(), backward.as_mut_ptr()];
    let scratch = &mut vec![0.0; N * row_pairs(K)];
    // SAFETY: the panels have room for the matrix.
    unsafe { pack_weights(isa, Mat::new(w, N, K, K), 0, N, &mut scales, panels, scratch) };
    (scales, forward, backward)
}

/// x (45 x 571), w (583 x 571); `x w^T` by I6.
fn forward(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (x, w) = (draw(rng, M * K), draw(rng, N * K));
    let (ints, (scales, forward, _)) = (quantised(isa, &x, K, None, None), packed(isa, &w));
    let mut y = vec![0.0; M * N];
    let right = Packed::new(&forward, K.div_ceil(2), N);
    product(Integers::of(isa), view(&ints, K), right, Some(&scales), MatMut::new(&mut y, M, N, N));
    bits.f32(&y);
}

/// dy (45 x 583), w (583 x 571); `dy w` by I7.
fn input_gradient(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (dy, w) = (draw(rng, M * N), draw(rng, N * K));
    let (scales, _, backward) = packed(isa, &w);
    let ints = quantised(isa, &dy, N, Some(&scales), Some(BLOCK));
    let mut dx = vec![0.0; M * K];
    let right = Packed::new(&backward, N.div_ceil(2), K);
    product(Integers::of(isa), view(&ints, N), right, None, MatMut::new(&mut dx, M, K, K));
    bits.f32(&dx);
}

/// dy (1,500 x 21), x (1,500 x 37), dw (21 x 37); the gradient alone by I8, then added to dw.
fn gradient(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (dy, x) = (draw(rng, 1500 * 21), draw(rng, 1500 * 37));
    let (mut dw, mut scratch) = (draw(rng, 21 * 37), vec![0.0; weight_gradient_scratch(1500, 21, 37)]);
    let (dy, ints, integers) = (Mat::new(&dy, 1500, 21, 21), quantised(isa, &x, 37, None, None), Integers::of(isa));
    let mut alone = vec![0.0; 21 * 37];
    weight_gradient(integers, dy, view(&ints, 37), MatMut::new(&mut alone, 21, 37, 37), Fold::Set, None, &mut scratch);
    weight_gradient(integers, dy, view(&ints, 37), MatMut::new(&mut dw, 21, 37, 37), Fold::Add, None, &mut scratch);
    bits.f32(&alone);
    bits.f32(&dw);
}
