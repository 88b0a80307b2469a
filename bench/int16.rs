//! The integer products of a training step with `--precision int16`, beside the integer peak and the same products in f32.

use crate::common::Lcg;
use crate::models::{TILE_ROWS, row_stride, tile_cols};
use crate::products::{Shape, shapes};
use crate::turns::{Contender, Turns, timed};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use symlm_kernels::gemm::int16::{self, Quantised, QuantisedMut};
use symlm_kernels::gemm::{self, Fold, Left, Packed, Right, pack};
use symlm_kernels::{Integers, Mat, MatMut};

/// Rounds of the loop that measures the peak of the integers in a turn.
const ROUNDS: u64 = 8192;

/// What was measured of one shape with one set of instructions.
pub struct Row {
    name: String,
    shape: String,
    integers: Integers,
    speed: f64,
    /// Of the peak of the integers.
    share: f64,
    /// Times the speed of the f32 product of the same instruction set.
    ratio: f64,
}

/// Instructions with a peak.
fn all() -> Vec<Integers> {
    Integers::available().into_iter().filter(|integers| int16::integer_loop(*integers, 1).is_some()).collect()
}

/// Runs what is asked for.
pub fn run(criterion: &mut Criterion) -> Vec<Row> {
    let mut rows = Vec::new();
    for (shape, users) in shapes().0 {
        let Shape { gradient, m, n, k } = shape;
        let operations = 2 * (m * n * k) as u64;
        let mut group = criterion.benchmark_group(if gradient { "int16 weight gradient" } else { "int16 product" });
        group.throughput(Throughput::Elements(operations));
        for integers in all() {
            let mut turns = None;
            let id = BenchmarkId::new(format!("{m}x{n}x{k} {users}"), integers.name());
            group.bench_function(id, |bencher| {
                let turns = turns.get_or_insert_with(|| Problem::new(shape, integers).turns());
                bencher.iter_custom(|runs| turns.take(runs));
            });
            let Some(times) = turns.as_ref().and_then(Turns::result) else { continue };
            let peak = int16::integer_loop(integers, ROUNDS).map_or(0, |(_, operations)| operations) as f64;
            rows.push(Row {
                name: users.clone(),
                shape: format!("{m} x {n} x {k}"),
                integers,
                speed: operations as f64 / times.seconds() / 1e9,
                share: times.median(|turn| operations as f64 / turn[0] / (peak / turn[2])),
                ratio: times.median(|turn| turn[3] / turn[0]),
            });
        }
    }
    rows
}

/// Prints everything that was measured.
pub fn print(rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    println!("\nProducts of 16-bit integers: 10^9 operations a second, share of their peak, times the f32 product.\n");
    for Row { name, shape, integers, speed, share, ratio } in rows {
        let share = 100.0 * share;
        println!("{name:<44} {shape:<19} {:<12} {speed:>8.1} {share:>4.0} % {ratio:>6.2}", integers.name());
    }
}

/// One shape in integers and in f32, with its operands laid out as in a training step.
struct Problem {
    shape: Shape,
    integers: Integers,
    /// Left operand (m x k; of a gradient k x m), its integers and scales; of a gradient those of the right one.
    a: Vec<f32>,
    pairs: Vec<f32>,
    scales: Vec<f32>,
    /// Right operand: packed, as integers and their scales; of a gradient k x n.
    b: Vec<f32>,
    packed: Vec<f32>,
    columns: Vec<f32>,
}

impl Problem {
    fn new(shape: Shape, integers: Integers) -> Self {
        let Shape { gradient, m, n, k } = shape;
        let (isa, rng) = (integers.isa(), &mut Lcg((m * n + k) as u32));
        let mut draw = |rows: usize, cols: usize| rng.vec(rows * row_stride(cols), false);
        let (a, b) = if gradient { (draw(k, m), draw(k, n)) } else { (draw(m, k), draw(n, k)) };
        let (left, rows, cols) = if gradient { (&b, k, n) } else { (&a, m, k) };
        let width = int16::row_pairs(cols);
        let stride = row_stride(width);
        let (mut pairs, mut scales) = (vec![0.0; rows * stride], vec![0.0; rows]);
        let to = QuantisedMut::new(MatMut::new(&mut pairs, rows, width, stride), cols, &mut scales);
        int16::quantise_rows(isa, Mat::new(left, rows, cols, row_stride(cols)), None, None, to);
        if gradient {
            return Self { shape, integers, a, pairs, scales, b, packed: Vec::new(), columns: Vec::new() };
        }
        let (w, mut columns) = (Mat::new(&b, n, k, row_stride(k)), vec![0.0; n]);
        let (mut packed, mut backward) = (vec![0.0; int16::packed_len(k, n)], vec![0.0; int16::packed_len(n, k)]);
        let panels = [packed.as_mut_ptr(), backward.as_mut_ptr()];
        let scratch = &mut vec![0.0; n * int16::row_pairs(k)];
        // SAFETY: the panels have room for the matrix, and nobody else uses them.
        unsafe { int16::pack_weights(isa, w, 0, n, &mut columns, panels, scratch) };
        let mut floats = vec![0.0; gemm::packed_len(k, n)];
        pack::transposed(isa, w, &mut floats);
        Self { shape, integers, a, pairs, scales, b: floats, packed, columns }
    }

    fn quantised(&self) -> Quantised<'_> {
        let Shape { gradient, m, n, k } = self.shape;
        let (rows, cols) = if gradient { (k, n) } else { (m, k) };
        let width = int16::row_pairs(cols);
        Quantised::new(Mat::new(&self.pairs, rows, width, row_stride(width)), cols, &self.scales)
    }

    /// Tiles of a weight gradient: first row and column, rows and columns.
    fn tiles(&self) -> Vec<[usize; 4]> {
        let Shape { m, n, .. } = self.shape;
        let columns =
            |i| (0..n).step_by(tile_cols(n)).map(move |j| [i, j, TILE_ROWS.min(m - i), tile_cols(n).min(n - j)]);
        (0..m).step_by(TILE_ROWS).flat_map(columns).collect()
    }

    fn integers(&self, c: &mut [f32], scratch: &mut [f32]) {
        let Shape { gradient, m, n, k } = self.shape;
        let mut c = MatMut::new(c, m, n, n);
        if !gradient {
            let b = Packed::new(&self.packed, int16::pairs(k), n);
            return int16::product(self.integers, self.quantised(), b, Some(&self.columns), c);
        }
        let dy = Mat::new(&self.a, k, m, row_stride(m));
        for [i, j, rows, cols] in self.tiles() {
            let (dy, x) = (dy.col_range(i..i + rows), self.quantised().col_range(j..j + cols));
            let mut rows_of = c.row_range(i..i + rows);
            int16::weight_gradient(self.integers, dy, x, rows_of.col_range(j..j + cols), Fold::Set, None, scratch);
        }
    }

    fn floats(&self, c: &mut [f32], scratch: &mut [f32]) {
        let (Shape { gradient, m, n, k }, isa) = (self.shape, self.integers.isa());
        let mut c = MatMut::new(c, m, n, n);
        if !gradient {
            let a = Left::Rows(Mat::new(&self.a, m, k, row_stride(k)));
            return gemm::product(isa, a, Right::packed(Packed::new(&self.b, k, n)), c);
        }
        let (dy, x) = (Mat::new(&self.a, k, m, row_stride(m)), Mat::new(&self.b, k, n, row_stride(n)));
        for [i, j, rows, cols] in self.tiles() {
            let (dy, x) = (dy.col_range(i..i + rows), x.col_range(j..j + cols));
            let mut rows_of = c.row_range(i..i + rows);
            gemm::weight_gradient(isa, dy, x, rows_of.col_range(j..j + cols), Fold::Set, None, scratch);
        }
    }

    fn turns(self) -> Turns<'static> {
        let Shape { m, n, k, .. } = self.shape;
        let problem = std::rc::Rc::new(self);
        let room = || {
            let (rows, cols) = (TILE_ROWS, tile_cols(n));
            let floats = gemm::weight_gradient_scratch(k, rows, cols);
            (vec![0.0; m * n], vec![0.0; floats.max(int16::weight_gradient_scratch(k, rows, cols))])
        };
        let (mine, theirs, integers) = (problem.clone(), problem.clone(), problem.integers);
        let (mut c, mut scratch) = room();
        let kernel: Contender<'static> =
            Box::new(move |runs| timed(|| (0..runs).for_each(|_| mine.integers(&mut c, &mut scratch))));
        let (mut c, mut scratch) = room();
        // Of a turn counts the time of one run: the loop of the peak takes as many as there are.
        let peak: Contender<'static> = Box::new(move |runs| {
            let once = timed(|| _ = black_box(int16::integer_loop(integers, black_box(ROUNDS))));
            once * u32::try_from(runs).unwrap_or(u32::MAX)
        });
        let floats: Contender<'static> =
            Box::new(move |runs| timed(|| (0..runs).for_each(|_| theirs.floats(&mut c, &mut scratch))));
        Turns::new(integers.isa(), kernel, vec![peak, floats])
    }
}
