//! The matrix products of a step of the reference model.

use crate::common::{Buf, Lcg, assert_same, chains};
use crate::timing::{Contender, timed};
use crate::{Options, Peaks, against_peak, isas};
use symlm_kernels::gemm::{Fold, Left, Packed, Right, pack, packed_len, product, weight_gradient};
use symlm_kernels::{Isa, Mat, MatMut};

/// Name, columns, length of the chains. The head has the shape of gate_up; of the square matrix one direction stands
/// for both.
const LINEAR: [(&str, usize, usize); 7] = [
    ("qkv", 768, 256),
    ("qkv dx", 256, 768),
    ("out, out dx", 256, 256),
    ("gate_up, head", 1024, 256),
    ("gate_up dx, head dx", 256, 1024),
    ("down", 256, 512),
    ("down dx", 512, 256),
];

/// Rows of a linear layer: one window, and a sector of three.
const ROWS: [usize; 2] = [128, 384];

/// Name, outputs, inputs.
const GRADIENTS: [(&str, usize, usize); 4] =
    [("qkv dw", 768, 256), ("out dw", 256, 256), ("gate_up dw, head dw", 1024, 256), ("down dw", 256, 512)];

/// Tokens of a weight gradient.
const TOKENS: usize = 384;

/// Rows of a tile of a weight gradient: one task of a step.
const TILE: usize = 64;

/// Runs and prints the rows that are asked for.
pub fn run(options: &Options, peaks: &mut Peaks) {
    let linear = ROWS.iter().flat_map(|m| LINEAR.map(|(name, n, k)| (name, *m, n, k, false)));
    let gradients = GRADIENTS.map(|(name, m, n)| (name, m, n, TOKENS, true));
    let mut first = true;
    for (name, m, n, k, gradient) in linear.chain(gradients) {
        if !options.wants(name) {
            continue;
        }
        if std::mem::take(&mut first) && options.timing {
            println!(
                "\nMatrix products: GFLOP/s and share of the FMA peak of the instruction set; the peer's share is that"
            );
            println!("of the fastest one, and the last column the speed of the fastest one over the peer's.\n");
            print!("{:<20} {:>5} {:>5} {:>5}", "", "m", "n", "k");
            isas().iter().for_each(|isa| print!(" {:>12}", isa.name()));
            println!(" {:>12} {:>6}", "gemm crate", "ratio");
        }
        row(name, m, n, k, gradient, options, peaks);
    }
}

fn row(name: &str, m: usize, n: usize, k: usize, gradient: bool, options: &Options, peaks: &mut Peaks) {
    let rng = &mut Lcg((m * n * k) as u32);
    let problem = Problem::new(rng, m, n, k, gradient);
    let (mut ours, mut theirs) = (vec![vec![0.0; m * n]; isas().len()], vec![0.0; m * n]);
    let mut scratch = vec![vec![0.0; if gradient { 2 * TILE * n } else { 0 }]; isas().len()];
    for ((isa, c), scratch) in isas().into_iter().zip(&mut ours).zip(&mut scratch) {
        problem.ours(isa, c, scratch);
        assert_same(isa, name, c, &problem.want);
    }
    problem.peer(&mut theirs);
    for (i, (x, want)) in theirs.iter().zip(&problem.want).enumerate() {
        // It adds the same terms, each below 4, in another order.
        assert!((x - want).abs() <= 4e-6 * k as f32, "{name}[{i}] of the peer: {x}, not {want}");
    }
    if !options.timing {
        return;
    }
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for ((isa, c), scratch) in isas().into_iter().zip(&mut ours).zip(&mut scratch) {
        let problem = &problem;
        contenders.push(Box::new(move || timed(|| problem.ours(isa, c, scratch))));
    }
    contenders.push(Box::new(|| timed(|| problem.peer(&mut theirs))));
    let (seconds, fma) = against_peak(contenders);
    peaks.see(&fma);
    let speed: Vec<f64> = seconds.iter().map(|s| 2e-9 * (m * n * k) as f64 / s).collect();
    print!("{name:<20} {m:>5} {n:>5} {k:>5}");
    for (i, speed) in speed.iter().enumerate() {
        print!(" {speed:>6.1} {:>3.0} %", 100.0 * speed / fma.get(i).unwrap_or(&fma[0]));
    }
    println!(" {:>6.2}", speed[0] / speed[speed.len() - 1]);
}

/// One product, its operands as they lie in a training step, and its answer.
struct Problem {
    m: usize,
    n: usize,
    k: usize,
    gradient: bool,
    /// m x k; of a gradient its transpose.
    a: Vec<f32>,
    a_stride: usize,
    /// Weights n x k; of a gradient k x n.
    b: Vec<f32>,
    b_stride: usize,
    packed: Vec<f32>,
    want: Vec<f32>,
}

/// Rows of activations start a cache line and more apart from a power of two.
const PADDING: usize = 16;

fn padded(x: &Buf, padding: usize) -> (Vec<f32>, usize) {
    let stride = x.cols + padding;
    let mut data = vec![0.0; x.rows * stride];
    for i in 0..x.rows {
        data[i * stride..][..x.cols].copy_from_slice(x.row(i));
    }
    (data, stride)
}

impl Problem {
    fn new(rng: &mut Lcg, m: usize, n: usize, k: usize, gradient: bool) -> Self {
        if gradient {
            let (dy, x) = (Buf::new(rng, k, m, false), Buf::new(rng, k, n, false));
            let want = chains::weight_gradient(&dy, &x);
            let ((a, a_stride), (b, b_stride)) = (padded(&dy, PADDING), padded(&x, PADDING));
            return Self { m, n, k, gradient, a, a_stride, b, b_stride, packed: Vec::new(), want };
        }
        let (x, w) = (Buf::new(rng, m, k, false), Buf::new(rng, n, k, false));
        let pairs = |i: usize, j: usize| x.row(i).iter().copied().zip(w.row(j).iter().copied());
        let want = (0..m * n).map(|c| chains::chain(0.0, pairs(c / n, c % n))).collect();
        let mut packed = vec![0.0; packed_len(k, n)];
        pack::transposed(Isa::detect(), w.view(), &mut packed);
        let ((a, a_stride), (b, b_stride)) = (padded(&x, PADDING), padded(&w, 0));
        Self { m, n, k, gradient, a, a_stride, b, b_stride, packed, want }
    }

    fn ours(&self, isa: Isa, c: &mut [f32], scratch: &mut [f32]) {
        let Self { m, n, k, .. } = *self;
        let mut c = MatMut::new(c, m, n, n);
        if self.gradient {
            let (dy, x) = (Mat::new(&self.a, k, m, self.a_stride), Mat::new(&self.b, k, n, self.b_stride));
            for first in (0..m).step_by(TILE) {
                let rows = first..m.min(first + TILE);
                weight_gradient(isa, dy.col_range(rows.clone()), x, c.row_range(rows), Fold::Set, None, scratch);
            }
        } else {
            let a = Left::Rows(Mat::new(&self.a, m, k, self.a_stride));
            product(isa, a, Right::packed(Packed::new(&self.packed, k, n)), c);
        }
    }

    fn peer(&self, c: &mut [f32]) {
        let Self { m, n, k, .. } = *self;
        let (a_stride, b_stride) = (self.a_stride as isize, self.b_stride as isize);
        // Steps to the next row and the next k of a, to the next column and the next k of b.
        let (a_row, a_k, b_column, b_k) =
            if self.gradient { (1, a_stride, 1, b_stride) } else { (a_stride, 1, b_stride, 1) };
        assert!(c.len() >= m * n);
        let gemm = gemm_f32::gemm::f32::get_gemm_fn();
        let (read, conjugate, threads) = (false, false, gemm_common::Parallelism::None);
        let (a, b, c) = (self.a.as_ptr(), self.b.as_ptr(), c.as_mut_ptr());
        // It stores columns, so it computes the transpose, as the crate's own entry point would arrange.
        // SAFETY: the operands hold m x k and k x n elements with these steps, the result m x n.
        unsafe {
            gemm(
                n, m, k, c, n as isize, 1, read, b, b_k, b_column, a, a_row, a_k, 0.0, 1.0, conjugate, conjugate,
                conjugate, threads,
            );
        }
    }
}
