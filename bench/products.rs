//! The matrix products of a training step: forward and input gradient with packed weights, weight gradients tile by tile.

use crate::common::{Buf, Lcg, assert_same, chains};
use crate::models::{MODELS, TILE_ROWS, Unique, row_stride, tile_cols};
use crate::peer::{Call, Room};
use crate::tables::{Cell, Ratio, Row};
use crate::turns::{Contender, Turns, isas, timed};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::cell::LazyCell;
use std::ops::Range;
use symlm_kernels::gemm::{Fold, Left, Packed, Right, pack, packed_len, product};
use symlm_kernels::gemm::{weight_gradient, weight_gradient_scratch};
use symlm_kernels::{Isa, Mat, MatMut};

/// Multiply-adds of the scalar specification that a check may cost; beyond, it is computed for some elements.
const CHECKED: usize = 1 << 24;

/// A product m x k by k x n. Of a weight gradient m are the outputs, n the inputs and k the tokens of a sector.
#[derive(Clone, Copy, PartialEq)]
pub struct Shape {
    pub gradient: bool,
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// Those of all presets, with who has them.
pub fn shapes() -> Unique<Shape> {
    let mut shapes = Unique::new();
    for model in &MODELS {
        for (name, outputs, inputs, rows) in model.matrices() {
            let name = format!("{} {name}", model.name);
            shapes.add(Shape { gradient: false, m: rows, n: outputs, k: inputs }, name.clone());
            shapes.add(Shape { gradient: false, m: rows, n: inputs, k: outputs }, format!("{name} dx"));
            shapes.add(Shape { gradient: true, m: outputs, n: inputs, k: model.sector() }, format!("{name} dw"));
        }
    }
    shapes
}

/// Runs what is asked for.
pub fn run(criterion: &mut Criterion) -> Vec<Row> {
    let mut rows = Vec::new();
    for (shape, users) in shapes().0 {
        let Shape { gradient, m, n, k } = shape;
        let problem = LazyCell::new(|| Problem::new(shape, &users));
        let mut row = Row::new(users.clone(), format!("{m} x {n} x {k}"));
        let operations = 2 * (m * n * k) as u64;
        let mut group = criterion.benchmark_group(if gradient { "weight gradient" } else { "product" });
        group.throughput(Throughput::Elements(operations));
        for isa in isas() {
            let mut turns = None;
            let id = BenchmarkId::new(format!("{m}x{n}x{k} {users}"), isa.name());
            group.bench_function(id, |bencher| {
                let turns = turns.get_or_insert_with(|| problem.turns(isa));
                bencher.iter_custom(|runs| turns.take(runs));
            });
            let Some(times) = turns.as_ref().and_then(Turns::result) else { continue };
            row.cells.push(Cell::operations(isa, times, operations as f64));
            if isa == Isa::detect() {
                row.ratio = Some(Ratio {
                    speed: operations as f64 / times.median(|turn| turn[2]) / 1e9,
                    packing: times.median(|turn| turn[3] / turn[2]),
                    call: times.median(|turn| turn[2] / turn[0]),
                    bare: times.median(|turn| (turn[2] - turn[3]) / turn[0]),
                });
            }
        }
        rows.push(row);
    }
    rows.retain(|row| !row.cells.is_empty());
    rows
}

/// One product, its operands as they lie in a training step.
struct Problem {
    shape: Shape,
    /// m x k; of a gradient its transpose.
    a: Vec<f32>,
    a_stride: usize,
    /// Weights n x k; of a gradient k x n.
    b: Vec<f32>,
    b_stride: usize,
    packed: Vec<f32>,
}

fn spread(x: &Buf, stride: usize) -> Vec<f32> {
    let mut data = vec![0.0; x.rows * stride];
    for i in 0..x.rows {
        data[i * stride..][..x.cols].copy_from_slice(x.row(i));
    }
    data
}

impl Problem {
    /// Draws the operands and checks the answers of every instruction set and of the peer.
    fn new(shape: Shape, name: &str) -> Self {
        let Shape { gradient, m, n, k } = shape;
        let rng = &mut Lcg((m * n + k) as u32);
        let (a, b) = if gradient { ((k, m), (k, n)) } else { ((m, k), (n, k)) };
        let (a_stride, b_stride) = (row_stride(a.1), if gradient { row_stride(n) } else { k });
        let (a, b) = (Buf::new(rng, a.0, a.1, false), Buf::new(rng, b.0, b.1, false));
        let mut packed = vec![0.0; if gradient { 0 } else { packed_len(k, n) }];
        if !gradient {
            pack::transposed(Isa::detect(), b.view(), &mut packed);
        }
        let problem = Self { shape, a: spread(&a, a_stride), a_stride, b: spread(&b, b_stride), b_stride, packed };
        let (mut want, mut c) = (vec![0.0; m * n], vec![0.0; m * n]);
        let scratch = &mut problem.scratch();
        for (i, isa) in isas().into_iter().enumerate() {
            problem.ours(isa, if i == 0 { &mut want } else { &mut c }, scratch);
            if i > 0 {
                assert_same(isa, name, &c, &want);
            }
        }
        // An odd step meets every row and column.
        let step = (m * n * k).div_ceil(CHECKED) | 1;
        for at in (0..m * n).step_by(step).chain([m * n - 1]) {
            let (i, j) = (at / n, at % n);
            let spec = if gradient {
                chains::weight_gradient_element(&a, &b, i, j)
            } else {
                chains::chain(0.0, a.row(i).iter().copied().zip(b.row(j).iter().copied()))
            };
            assert_same(Isa::detect(), name, &[want[at]], &[spec]);
        }
        problem.call().run(&mut c);
        for (i, (x, want)) in c.iter().zip(&want).enumerate() {
            // It adds the same terms, each below 4, in another order.
            assert!((x - want).abs() <= 4e-6 * k as f32, "{name}[{i}] of the peer: {x}, not {want}");
        }
        problem
    }

    /// The left-hand operand as it lies.
    fn a(&self) -> Mat<'_> {
        let Shape { gradient, m, k, .. } = self.shape;
        let (rows, cols) = if gradient { (k, m) } else { (m, k) };
        Mat::new(&self.a, rows, cols, self.a_stride)
    }

    fn call(&self) -> Call {
        // SAFETY: b was drawn in this shape, and the problem outlives its calls.
        unsafe { Call::new(self.a(), self.shape.gradient, &self.b, self.b_stride, self.shape.n) }
    }

    fn scratch(&self) -> Vec<f32> {
        let Shape { gradient, n, k, .. } = self.shape;
        vec![0.0; if gradient { weight_gradient_scratch(k, TILE_ROWS, tile_cols(n)) } else { 0 }]
    }

    fn ours(&self, isa: Isa, c: &mut [f32], scratch: &mut [f32]) {
        let Shape { gradient, m, n, k } = self.shape;
        let mut c = MatMut::new(c, m, n, n);
        if !gradient {
            return product(isa, Left::Rows(self.a()), Right::packed(Packed::new(&self.packed, k, n)), c);
        }
        let dy = self.a();
        let x = Mat::new(&self.b, k, n, self.b_stride);
        let tiles: Vec<_> = (0..m)
            .step_by(TILE_ROWS)
            .flat_map(|row| (0..n).step_by(tile_cols(n)).map(move |column| (row, column)))
            .map(|(row, column)| (row..m.min(row + TILE_ROWS), column..n.min(column + tile_cols(n))))
            .collect();
        let operands =
            |(rows, columns): &(Range<usize>, Range<usize>)| (dy.col_range(rows.clone()), x.col_range(columns.clone()));
        for (i, tile) in tiles.iter().enumerate() {
            let (dy, x) = operands(tile);
            let mut rows = c.row_range(tile.0.clone());
            // A training step, too, names the operands of the tile that comes next.
            let coming = tiles.get(i + 1).map(operands);
            weight_gradient(isa, dy, x, rows.col_range(tile.1.clone()), Fold::Set, coming, scratch);
        }
    }

    fn turns(&self, isa: Isa) -> Turns<'_> {
        let area = self.shape.m * self.shape.n;
        let (mut c, mut scratch) = (vec![0.0; area], self.scratch());
        let kernel: Contender<'_> =
            Box::new(move |runs| timed(|| (0..runs).for_each(|_| self.ours(isa, &mut c, &mut scratch))));
        let mut peers: Vec<Contender<'_>> = Vec::new();
        if isa == Isa::detect() {
            let (mut c, mut room) = (vec![0.0; area], Room::default());
            peers.push(Box::new(move |runs| timed(|| (0..runs).for_each(|_| self.call().run(&mut c)))));
            peers.push(Box::new(move |runs| timed(|| (0..runs).for_each(|_| self.call().pack(&mut room)))));
        }
        Turns::new(isa, kernel, peers)
    }
}
