//! Attention, and the kernels that pass once over their data.

use crate::common::chains::Attention;
use crate::common::{Buf, Lcg, assert_same, spec};
use crate::timing::{Contender, timed};
use crate::{Options, Peaks, against_peak, isas};
use symlm_kernels::adamw::Hyper;
use symlm_kernels::attention::{Heads, scratch_len};
use symlm_kernels::{Isa, Mat, MatMut, adamw, attention, loss, mlp, norm};

/// A sector of three windows of the reference model.
const ROWS: usize = 384;
const HIDDEN: usize = 256;
const INNER: usize = 512;
const VOCABULARY: usize = 1024;
/// Distances between rows: an odd number of cache lines, as in a training step.
const HIDDEN_STRIDE: usize = HIDDEN + 16;
const INNER_STRIDE: usize = INNER + 16;
const WIDE_STRIDE: usize = VOCABULARY + 16;
/// One window, one head.
const POSITIONS: usize = 128;
const HEAD: usize = 32;
const WEIGHTS: usize = 1 << 18;

const EPS: f32 = 1e-5;
const SCALE: f32 = 1.0 / 4096.0;
const TARGETS: [u32; ROWS] = [7; ROWS];
const ADAM: spec::Adam = spec::Adam { lr: 3e-3, b1: 0.9, b2: 0.95, eps: 1e-8, wd: 0.1, f: 0.5, n: 3 };

/// What a case counts.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    /// Operations of the causal products, without those of masked keys.
    Operations(usize),
    Elements(usize),
}

/// A kernel on buffers: after a run they equal those after `spec`, but for scratch memory, which `spec` empties.
struct Case {
    name: &'static str,
    shape: String,
    work: Work,
    start: Vec<Vec<f32>>,
    /// Buffers that a run replaces and the next one needs.
    in_place: &'static [usize],
    run: fn(Isa, &mut [Vec<f32>]),
    spec: fn(&mut [Vec<f32>]),
}

/// Runs and prints the rows that are asked for.
pub fn run(options: &Options, peaks: &mut Peaks) {
    let rng = &mut Lcg(31);
    let wanted = attention_cases(rng).into_iter().chain(row_cases(rng)).filter(|case| options.wants(case.name));
    for (i, case) in wanted.enumerate() {
        if i == 0 && options.timing {
            println!("\nOther kernels: microseconds, and share of the FMA peak or 10^9 elements a second.\n");
            print!("{:<20} {:<16}", "", "");
            isas().iter().for_each(|isa| print!(" {:>17}", isa.name()));
            println!();
        }
        row(&case, options, peaks);
    }
}

fn row(case: &Case, options: &Options, peaks: &mut Peaks) {
    let mut want = case.start.clone();
    (case.spec)(&mut want);
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for isa in isas() {
        let mut buffers = case.start.clone();
        (case.run)(isa, &mut buffers);
        for (got, want) in buffers.iter().zip(&want).filter(|(_, want)| !want.is_empty()) {
            assert_same(isa, case.name, got, want);
        }
        contenders.push(Box::new(move || {
            for i in case.in_place {
                buffers[*i].copy_from_slice(&case.start[*i]);
            }
            timed(|| (case.run)(isa, &mut buffers))
        }));
    }
    if !options.timing {
        return;
    }
    let (seconds, fma) = against_peak(contenders);
    peaks.see(&fma);
    print!("{:<20} {:<16}", case.name, case.shape);
    for (s, fma) in seconds.iter().zip(&fma) {
        match case.work {
            Work::Operations(n) => print!(" {:>9.1} {:>5.0} %", s * 1e6, 100.0 * n as f64 / s / 1e9 / fma),
            Work::Elements(n) => print!(" {:>9.1} {:>5.2} G", s * 1e6, n as f64 / s / 1e9),
        }
    }
    println!();
}

fn buf(data: &[f32], rows: usize, cols: usize) -> Buf {
    let mut buf = Buf::new(&mut Lcg(0), rows, cols, false);
    for i in 0..rows {
        buf.row_mut(i).copy_from_slice(&data[i * cols..(i + 1) * cols]);
    }
    buf
}

fn rows_of(buf: &Buf) -> Vec<f32> {
    (0..buf.rows).flat_map(|i| buf.row(i).to_vec()).collect()
}

fn window(data: &[f32]) -> Mat<'_> {
    Mat::new(data, POSITIONS, HEAD, HEAD)
}

fn window_mut(data: &mut [f32]) -> MatMut<'_> {
    MatMut::new(data, POSITIONS, HEAD, HEAD)
}

const HEADS: Heads = Heads { head_size: HEAD, group: 1 };

/// Takes buffers apart by name.
macro_rules! named {
    ($buffers:expr, $($name:ident)*) => {
        let [$($name),*] = $buffers else { unreachable!("as many buffers as names") };
    };
}

fn attention_cases(rng: &mut Lcg) -> [Case; 2] {
    // One product of a causal head: half of the square, diagonal included.
    let product = POSITIONS * (POSITIONS + 1) * HEAD;
    let mut inputs: Vec<Vec<f32>> = (0..3).map(|_| rng.vec(POSITIONS * HEAD, false)).collect();
    inputs.extend([vec![0.0; POSITIONS * HEAD], vec![0.0; POSITIONS], vec![0.0; POSITIONS]]);
    let scratch = vec![0.0; scratch_len(POSITIONS, HEAD)];
    inputs.push(scratch.clone());
    let forward = Case {
        name: "attention",
        shape: format!("{POSITIONS} x {HEAD}"),
        work: Work::Operations(2 * product),
        start: inputs.clone(),
        in_place: &[],
        run: |isa, buffers| {
            named!(buffers, q k v out m z scratch);
            let (q, k, v) = (window(q), window(k), window(v));
            attention::forward(isa, HEADS, q, k, v, window_mut(out), m, z, scratch);
        },
        spec: |buffers| {
            named!(buffers, q k v out m z scratch);
            scratch.clear();
            let [q, k, v, mut o] = [q, k, v, &mut *out].map(|x| buf(x, POSITIONS, HEAD));
            Attention { size: HEAD, group: 1, q: &q, k: &k, v: &v }.forward(&mut o, m, z);
            *out = rows_of(&o);
        },
    };
    let mut after = inputs;
    (forward.spec)(&mut after);
    after.pop();
    after.extend([rng.vec(POSITIONS * HEAD, false), scratch]);
    let backward = Case {
        name: "attention backward",
        shape: forward.shape.clone(),
        work: Work::Operations(5 * product),
        start: after,
        in_place: &[0, 1, 2],
        run: |isa, buffers| {
            named!(buffers, q k v out m z dout scratch);
            let (q, k, v) = (window_mut(q), window_mut(k), window_mut(v));
            attention::backward(isa, HEADS, q, k, v, window(out), window(dout), m, z, scratch);
        },
        spec: |buffers| {
            let [q, k, v, out, dout] = [0, 1, 2, 3, 6].map(|i| buf(&buffers[i], POSITIONS, HEAD));
            let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
            let case = Attention { size: HEAD, group: 1, q: &q, k: &k, v: &v };
            case.backward(&out, &dout, &mut dq, &mut dk, &mut dv);
            (buffers[0], buffers[1], buffers[2]) = (rows_of(&dq), rows_of(&dk), rows_of(&dv));
            buffers[7].clear();
        },
    };
    [forward, backward]
}

fn row_cases(rng: &mut Lcg) -> [Case; 6] {
    let mut draw = |n: usize| rng.vec(n, false);
    let [hidden, inner, wide] = [HIDDEN_STRIDE, INNER_STRIDE, WIDE_STRIDE].map(|stride| ROWS * stride);
    [
        Case {
            name: "norm",
            shape: format!("{ROWS} x {HIDDEN}"),
            work: Work::Elements(ROWS * HIDDEN),
            start: vec![draw(hidden), draw(HIDDEN), vec![0.0; hidden], vec![0.0; ROWS]],
            in_place: &[],
            run: |isa, buffers| {
                named!(buffers, x w y rstd);
                let y = MatMut::new(y, ROWS, HIDDEN, HIDDEN_STRIDE);
                norm::forward(isa, Mat::new(x, ROWS, HIDDEN, HIDDEN_STRIDE), w, EPS, y, rstd);
            },
            spec: |buffers| {
                named!(buffers, x w y rstd);
                for (i, r) in rstd.iter_mut().enumerate() {
                    *r = spec::norm(&x[i * HIDDEN_STRIDE..][..HIDDEN], w, EPS, &mut y[i * HIDDEN_STRIDE..][..HIDDEN]);
                }
            },
        },
        Case {
            name: "norm backward",
            shape: format!("{ROWS} x {HIDDEN}"),
            work: Work::Elements(ROWS * HIDDEN),
            start: vec![
                draw(hidden),
                draw(hidden),
                draw(hidden),
                draw(HIDDEN),
                draw(ROWS),
                vec![0.0; ROWS / norm::BLOCK * HIDDEN],
            ],
            in_place: &[0],
            run: |isa, buffers| {
                named!(buffers, x dy res w rstd dw);
                let [dy, res] = [dy, res].map(|m| Mat::new(m, ROWS, HIDDEN, HIDDEN_STRIDE));
                let dw = MatMut::new(dw, ROWS / norm::BLOCK, HIDDEN, HIDDEN);
                norm::backward(isa, dy, w, rstd, Some(res), MatMut::new(x, ROWS, HIDDEN, HIDDEN_STRIDE), dw);
            },
            spec: |buffers| {
                named!(buffers, x dy res w rstd dw);
                for i in 0..ROWS {
                    let [dy, res] = [&dy, &res].map(|m| &m[i * HIDDEN_STRIDE..][..HIDDEN]);
                    let chain = &mut dw[i / norm::BLOCK * HIDDEN..][..HIDDEN];
                    spec::norm_backward(&mut x[i * HIDDEN_STRIDE..][..HIDDEN], dy, w, rstd[i], Some(res), chain);
                }
            },
        },
        Case {
            name: "mlp",
            shape: format!("{ROWS} x {INNER}"),
            work: Work::Elements(ROWS * INNER),
            start: vec![draw(wide), vec![0.0; inner]],
            in_place: &[],
            run: |isa, buffers| {
                named!(buffers, x h);
                mlp::forward(isa, Mat::new(x, ROWS, 2 * INNER, WIDE_STRIDE), MatMut::new(h, ROWS, INNER, INNER_STRIDE));
            },
            spec: |buffers| {
                named!(buffers, x h);
                for (x, h) in x.chunks(WIDE_STRIDE).zip(h.chunks_mut(INNER_STRIDE)) {
                    (0..INNER).for_each(|j| h[j] = spec::swiglu(x[j], x[INNER + j]));
                }
            },
        },
        Case {
            name: "mlp backward",
            shape: format!("{ROWS} x {INNER}"),
            work: Work::Elements(ROWS * INNER),
            start: vec![draw(wide), draw(inner)],
            in_place: &[0],
            run: |isa, buffers| {
                named!(buffers, x dh);
                mlp::backward(
                    isa,
                    Mat::new(dh, ROWS, INNER, INNER_STRIDE),
                    MatMut::new(x, ROWS, 2 * INNER, WIDE_STRIDE),
                );
            },
            spec: |buffers| {
                named!(buffers, x dh);
                for (x, dh) in x.chunks_mut(WIDE_STRIDE).zip(dh.chunks(INNER_STRIDE)) {
                    (0..INNER).for_each(|j| (x[j], x[INNER + j]) = spec::swiglu_backward(dh[j], x[j], x[INNER + j]));
                }
            },
        },
        Case {
            name: "loss, gradient",
            shape: format!("{ROWS} x {VOCABULARY}"),
            work: Work::Elements(ROWS * VOCABULARY),
            start: vec![draw(wide), vec![0.0; ROWS]],
            in_place: &[0],
            run: |isa, buffers| {
                named!(buffers, logits losses);
                let logits = MatMut::new(logits, ROWS, VOCABULARY, WIDE_STRIDE);
                loss::rows_backward(isa, logits, &TARGETS, SCALE, losses);
            },
            spec: |buffers| {
                named!(buffers, logits losses);
                for (l, loss) in logits.chunks_mut(WIDE_STRIDE).zip(losses) {
                    *loss = spec::loss(&mut l[..VOCABULARY], TARGETS[0] as usize, SCALE);
                }
            },
        },
        Case {
            name: "adamw",
            shape: format!("{WEIGHTS}"),
            work: Work::Elements(WEIGHTS),
            start: vec![draw(WEIGHTS), draw(WEIGHTS), draw(WEIGHTS).iter().map(|v| v.abs()).collect(), draw(WEIGHTS)],
            in_place: &[],
            run: |isa, buffers| {
                named!(buffers, w m v g);
                let a = ADAM;
                adamw::update(isa, w, m, v, g, &Hyper::new(a.lr, a.b1, a.b2, a.eps, a.wd, a.f, a.n));
            },
            spec: |buffers| {
                named!(buffers, w m v g);
                (0..WEIGHTS).for_each(|i| spec::adamw(&mut w[i], &mut m[i], &mut v[i], g[i], ADAM));
            },
        },
    ]
}
