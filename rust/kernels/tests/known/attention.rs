//! Causal attention: 75 positions, two query heads of 20 elements that share a key/value head.

use crate::common::Lcg;
use crate::{Answer, Bits};
use symlm_kernels::attention::{self, Heads, scratch_len};
use symlm_kernels::{Isa, Mat, MatMut};

pub const ANSWERS: &[Answer] = &[
    Answer {
        name: "attention.forward",
        seed: 23,
        run: forward,
        sha256: "1111475b329e09b470494c3add5f1b4db05ad3658c6c49aa7f8fab35d0c50fa2",
    },
    Answer {
        name: "attention.backward",
        seed: 24,
        run: backward,
        sha256: "c883c03f0d937c6c31b87e0ed691cecc81809ecd866b06830ddfffd2e7df00e3",
    },
];

const T: usize = 75;
const D: usize = 20;
const GROUP: usize = 2;
const WIDTH: usize = GROUP * D;

struct Window {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
    maximum: Vec<f32>,
    inverse_sum: Vec<f32>,
    scratch: Vec<f32>,
}

fn draw(rng: &mut Lcg, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.value()).collect()
}

fn window(isa: Isa, rng: &mut Lcg) -> Window {
    let (q, k, v) = (draw(rng, T * WIDTH), draw(rng, T * D), draw(rng, T * D));
    let (mut out, mut scratch) = (vec![0.0; T * WIDTH], vec![0.0; scratch_len(T, D)]);
    let (mut maximum, mut inverse_sum) = (vec![0.0; GROUP * T], vec![0.0; GROUP * T]);
    attention::forward(
        isa,
        Heads { head_dim: D, group: GROUP },
        Mat::new(&q, T, WIDTH, WIDTH),
        Mat::new(&k, T, D, D),
        Mat::new(&v, T, D, D),
        MatMut::new(&mut out, T, WIDTH, WIDTH),
        &mut maximum,
        &mut inverse_sum,
        &mut scratch,
    );
    Window { q, k, v, out, maximum, inverse_sum, scratch }
}

/// q (75 x 40), k, v (75 x 20); the output, then per head and position the largest score and the inverse sum.
fn forward(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let w = window(isa, rng);
    bits.f32(&w.out);
    bits.f32(&w.maximum);
    bits.f32(&w.inverse_sum);
}

/// q, k, v as before, then the gradient of the output (75 x 40); the gradients of q, k, v.
fn backward(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let mut w = window(isa, rng);
    let dout = draw(rng, T * WIDTH);
    attention::backward(
        isa,
        Heads { head_dim: D, group: GROUP },
        MatMut::new(&mut w.q, T, WIDTH, WIDTH),
        MatMut::new(&mut w.k, T, D, D),
        MatMut::new(&mut w.v, T, D, D),
        Mat::new(&w.out, T, WIDTH, WIDTH),
        Mat::new(&dout, T, WIDTH, WIDTH),
        &w.maximum,
        &w.inverse_sum,
        &mut w.scratch,
    );
    bits.f32(&w.q);
    bits.f32(&w.k);
    bits.f32(&w.v);
}
