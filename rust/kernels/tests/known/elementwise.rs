//! Every kernel but matrix products and attention.

use crate::common::Lcg;
use crate::{Answer, Bits};
use symlm_kernels::adamw::Hyper;
use symlm_kernels::rope::{Scaling, Table};
use symlm_kernels::simd::{Kernel, LANES, Simd, dispatch};
use symlm_kernels::{Isa, Mat, MatMut, adamw, embedding, loss, math, mlp, norm, reduce, rope};

pub const ANSWERS: &[Answer] = &[
    Answer {
        name: "exp",
        seed: 1,
        run: exp,
        sha256: "080106f759e494841e730a99d3728e2458bff0ffad4524bb72f07a77452de6aa",
    },
    Answer {
        name: "log",
        seed: 2,
        run: log,
        sha256: "bfb57df99c180228d0bb6c498fbd3364d566b3d24d35849bbed3cb53d8cb9509",
    },
    Answer {
        name: "norm.forward",
        seed: 3,
        run: norm_forward,
        sha256: "925fdeb41c08159e1714d3f24f704dd664b0dd9cb6410838711a12e72ce936ef",
    },
    Answer {
        name: "norm.backward",
        seed: 4,
        run: norm_backward,
        sha256: "0a6e29e7dbc9f2e796deff0a45991b15d2797b1419fed9507ba9302b82688c0a",
    },
    Answer {
        name: "rope.table",
        seed: 5,
        run: rope_table,
        sha256: "9019fb5082a4849d953a10ca9f895306a302f5d40da087933195dc4239971757",
    },
    Answer {
        name: "rope.forward",
        seed: 6,
        run: rope_forward,
        sha256: "082959ab746533c1393e00d9b724143d5125f299a26c518aedeb83b8f016d091",
    },
    Answer {
        name: "rope.backward",
        seed: 7,
        run: rope_backward,
        sha256: "900c5756aea96e60aaf2d7dc4c40129a4a6f18d81a980ea2ea2a9fb2eb1cbfb9",
    },
    Answer {
        name: "mlp.forward",
        seed: 8,
        run: mlp_forward,
        sha256: "0d4de7607f414a4c0370ee410ea77586f2c9dab03e49cec97da814131494bc79",
    },
    Answer {
        name: "mlp.backward",
        seed: 9,
        run: mlp_backward,
        sha256: "070881c9bf293b1516a8596c76eea312c0836ed772f874483e3581876636e6c3",
    },
    Answer {
        name: "loss.rows_backward",
        seed: 10,
        run: loss_rows,
        sha256: "8e72d615d7dad7fd4c3550094f404beb993a0b6eccdf14b8b2703ae7922ed4b5",
    },
    Answer {
        name: "embedding.scatter_row",
        seed: 11,
        run: scatter_row,
        sha256: "807b2db15b196f7fab5e84c2cca3aa30fa8a863578ee66feca26039a7e508169",
    },
    Answer {
        name: "adamw.update",
        seed: 12,
        run: adamw_update,
        sha256: "e8a7a613ebc95476b1b2cd944b6b6af0cb31d5cb613a340dc6270a46a01c6b53",
    },
    Answer {
        name: "reduce.sum_squares_blocks",
        seed: 13,
        run: sum_squares,
        sha256: "14b12da41bf583c5479b01522af24f91d6da1deefbc3caa35bd38e1a61bde3db",
    },
    Answer {
        name: "reduce.fold_pair",
        seed: 14,
        run: fold_pair,
        sha256: "cf1320fd500834a035337df4e2e229690cde83648d59260e386519a1b5d05df3",
    },
    Answer {
        name: "reduce.batch_loss",
        seed: 15,
        run: batch_loss,
        sha256: "ccfeb123f0cee7899cf6f4f40de36ab9c7d18cce9602a82d190189e5725834e0",
    },
    Answer {
        name: "loss.rows",
        seed: 16,
        run: loss_only,
        sha256: "5c8b8f9fa4a83aac749065033a698c2c894b2f582633c3a176927d346f768b5e",
    },
    Answer {
        name: "embedding.gather",
        seed: 17,
        run: gather,
        sha256: "9c501d22ca681c72b08401fbd7c7bca2a3ac35c4f261ce5505c4395dfc7f5a7f",
    },
    Answer {
        name: "reduce.add",
        seed: 18,
        run: add,
        sha256: "d39b240793092b8a63844655b80916a60cbeeece6c36595c345106c220fc8420",
    },
    Answer {
        name: "rope.table_llama3",
        seed: 25,
        run: rope_table_llama3,
        sha256: "3b68fc6908b051df5db7fe4091cf01753447468f8a745b1ce5a200eeb8873e6f",
    },
];

/// Rows and columns of most inputs: a tail in both.
const ROWS: usize = 70;
const COLS: usize = 77;

fn draw(rng: &mut Lcg, n: usize) -> Vec<f32> {
    rng.vec(n, false)
}

fn mat(data: &[f32], cols: usize) -> Mat<'_> {
    Mat::new(data, data.len() / cols, cols, cols)
}

fn mat_mut(data: &mut [f32], cols: usize) -> MatMut<'_> {
    let rows = data.len() / cols;
    MatMut::new(data, rows, cols, cols)
}

/// `exp` in place.
struct Exp<'a>(&'a mut [f32]);

impl Kernel for Exp<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in self.0.chunks_exact_mut(LANES) {
            // SAFETY: the chunk has sixteen elements.
            unsafe { s.store(x.as_mut_ptr(), math::exp(s, s.load(x.as_ptr()))) }
        }
    }
}

/// `log` in place.
struct Log<'a>(&'a mut [f32]);

impl Kernel for Log<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.iter_mut().for_each(|x| *x = math::log(s, *x));
    }
}

/// 65,536 values in [-90, 90).
fn exp(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let mut x: Vec<f32> = draw(rng, 65_536).iter().map(|x| x * 45.0).collect();
    dispatch(isa, Exp(&mut x));
    bits.f32(&x);
}

/// 65,536 values in [1, 1 + 2^20).
fn log(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let mut x: Vec<f32> = (0..65_536).map(|i| 1.0 + rng.value().abs() * (1 << (i % 20)) as f32).collect();
    dispatch(isa, Log(&mut x));
    bits.f32(&x);
}

/// x, w; then y and rstd.
fn norm_forward(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (x, w) = (draw(rng, ROWS * COLS), draw(rng, COLS));
    let (mut y, mut rstd) = (vec![0.0; ROWS * COLS], vec![0.0; ROWS]);
    norm::forward(isa, mat(&x, COLS), &w, 1e-5, mat_mut(&mut y, COLS), &mut rstd);
    bits.f32(&y);
    bits.f32(&rstd);
}

/// x, dy, residual, w, rstd; then dx and dw.
fn norm_backward(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (mut x, dy, res) = (draw(rng, ROWS * COLS), draw(rng, ROWS * COLS), draw(rng, ROWS * COLS));
    let (w, rstd, mut dw) = (draw(rng, COLS), draw(rng, ROWS), vec![0.0; 2 * COLS]);
    let residual = Some(mat(&res, COLS));
    norm::backward(isa, mat(&dy, COLS), &w, &rstd, residual, mat_mut(&mut x, COLS), mat_mut(&mut dw, COLS));
    bits.f32(&x);
    bits.f32(&dw);
}

/// Heads of 32, theta 10,000, 512 positions: cosines and sines of each position.
fn rope_table(_: Isa, _: &mut Lcg, bits: &mut Bits) {
    let table = Table::new(10_000.0, 32, 512);
    for position in 0..512 {
        bits.f32(table.cos(position));
        bits.f32(table.sin(position));
    }
}

/// Heads of 64, theta 500,000, 256 positions, stretched as in Llama 3.1 (factor 8, 1 to 4, 8,192 positions).
fn rope_table_llama3(_: Isa, _: &mut Lcg, bits: &mut Bits) {
    let scaling = Scaling { factor: 8.0, low: 1.0, high: 4.0, positions: 8192.0 };
    let table = Table::scaled(500_000.0, 64, 256, Some(scaling));
    for position in 0..256 {
        bits.f32(table.cos(position));
        bits.f32(table.sin(position));
    }
}

/// Three heads of 26, positions from 5.
fn rope_forward(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let mut x = draw(rng, ROWS * 78);
    rope::forward(isa, mat_mut(&mut x, 78), 26, &Table::new(10_000.0, 26, 75), 5);
    bits.f32(&x);
}

/// As the forward one.
fn rope_backward(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let mut x = draw(rng, ROWS * 78);
    rope::backward(isa, mat_mut(&mut x, 78), 26, &Table::new(10_000.0, 26, 75), 5);
    bits.f32(&x);
}

/// Gates and ups, all multiplied by 4.
fn gate_up(rng: &mut Lcg) -> Vec<f32> {
    draw(rng, ROWS * 2 * COLS).iter().map(|x| x * 4.0).collect()
}

fn mlp_forward(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (x, mut h) = (gate_up(rng), vec![0.0; ROWS * COLS]);
    mlp::forward(isa, mat(&x, 2 * COLS), mat_mut(&mut h, COLS));
    bits.f32(&h);
}

/// Gates and ups, then dh.
fn mlp_backward(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (mut x, dh) = (gate_up(rng), draw(rng, ROWS * COLS));
    mlp::backward(isa, mat(&dh, COLS), mat_mut(&mut x, 2 * COLS));
    bits.f32(&x);
}

/// Logits, multiplied by 4; target of row i is i; scale 1/64; then losses and gradients.
fn loss_rows(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let mut l: Vec<f32> = draw(rng, ROWS * COLS).iter().map(|x| x * 4.0).collect();
    let (targets, mut losses) = ((0..ROWS as u32).collect::<Vec<_>>(), vec![0.0; ROWS]);
    loss::rows_backward(isa, mat_mut(&mut l, COLS), &targets, 1.0 / 64.0, &mut losses);
    bits.f32(&losses);
    bits.f32(&l);
}

/// dx, the accumulator; every third row.
fn scatter_row(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (dx, mut acc) = (draw(rng, ROWS * COLS), draw(rng, COLS));
    let tokens: Vec<u32> = (0..ROWS as u32).step_by(3).collect();
    embedding::scatter_row(isa, mat(&dx, COLS), &tokens, &mut acc);
    bits.f32(&acc);
}

/// w, m, v (absolute values), then ten updates with fresh g; lr 3e-3, betas 0.9 and 0.95, eps 1e-8, decay 0.1, clip 0.75.
fn adamw_update(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let n = ROWS * COLS;
    let (mut w, mut m) = (draw(rng, n), draw(rng, n));
    let mut v: Vec<f32> = draw(rng, n).iter().map(|v| v.abs()).collect();
    for update in 1..=10 {
        let hyper = Hyper::new(3e-3, 0.9, 0.95, 1e-8, 0.1, 0.75, update);
        adamw::update(isa, &mut w, &mut m, &mut v, &draw(rng, n), &hyper);
    }
    bits.f32(&w);
    bits.f32(&m);
    bits.f32(&v);
}

/// 10,001 elements.
fn sum_squares(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let mut sums = [0.0; 3];
    reduce::sum_squares_blocks(isa, &draw(rng, 10_001), &mut sums);
    bits.f64(&sums);
}

/// p, q, t of 1,003 elements.
fn fold_pair(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (mut p, q, t) = (draw(rng, 1003), draw(rng, 1003), draw(rng, 1003));
    reduce::fold_pair(isa, &mut p, &q, &t);
    bits.f32(&p);
}

/// 10,001 losses.
fn batch_loss(_: Isa, rng: &mut Lcg, bits: &mut Bits) {
    bits.f64(&[reduce::batch_loss(&draw(rng, 10_001), 10_001)]);
}

/// As `rows_backward`; the losses.
fn loss_only(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let l: Vec<f32> = draw(rng, ROWS * COLS).iter().map(|x| x * 4.0).collect();
    let (targets, mut losses) = ((0..ROWS as u32).collect::<Vec<_>>(), vec![0.0; ROWS]);
    loss::rows(isa, mat(&l, COLS), &targets, &mut losses);
    bits.f32(&losses);
}

/// The table; row i of the result is its row 3i mod 70.
fn gather(_: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (table, mut out) = (draw(rng, ROWS * COLS), vec![0.0; ROWS * COLS]);
    let ids: Vec<u32> = (0..ROWS as u32).map(|i| 3 * i % ROWS as u32).collect();
    embedding::gather(mat(&table, COLS), &ids, mat_mut(&mut out, COLS));
    bits.f32(&out);
}

/// dst, src of 1,003 elements.
fn add(isa: Isa, rng: &mut Lcg, bits: &mut Bits) {
    let (mut dst, src) = (draw(rng, 1003), draw(rng, 1003));
    reduce::add(isa, &mut dst, &src);
    bits.f32(&dst);
}
