//! The products of low-rank adapters: merged weights and the gradients of both factors, in the tiles of a step.

use crate::case::{Case, Work, draw, measure, named};
use crate::common::chains::chain;
use crate::models::{MODELS, ROW_BLOCK, TILE_COLS, Unique};
use crate::tables::Row;
use criterion::Criterion;
use symlm_kernels::gemm::packed_len;
use symlm_kernels::{Mat, MatMut, adapter};

/// The rank of the examples in the guide.
const RANK: usize = 8;
const SCALE: f32 = 2.0;
/// Rows of a gradient of B that one task computes, as in `rust/core/src/step/plan/limits.rs`.
const B_ROWS: usize = 4 * ROW_BLOCK;

/// Outputs and inputs of a projection, or of a tile of it.
type Shape = [usize; 2];

/// A kernel, its tile of a projection, and how a case is made of it.
type Product = (&'static str, fn(Shape) -> Shape, fn(Shape) -> Case);

const PRODUCTS: [Product; 3] = [
    ("adapter merge", |[outputs, inputs]| [outputs.min(ROW_BLOCK), inputs], merge),
    ("adapter gradient a", |[outputs, inputs]| [outputs, inputs.min(TILE_COLS)], gradient_a),
    ("adapter gradient b", |[outputs, inputs]| [outputs.min(B_ROWS), inputs], gradient_b),
];

/// Runs what is asked for.
pub fn run(criterion: &mut Criterion) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, tile, make) in PRODUCTS {
        let mut shapes = Unique::new();
        for model in &MODELS {
            let (hidden, inner) = (model.hidden, model.inner);
            let projections = [[hidden, hidden], [model.kv_size(), hidden], [inner, hidden], [hidden, inner]];
            projections.into_iter().for_each(|shape| shapes.add(tile(shape), model.name.to_owned()));
        }
        for (shape, users) in shapes.0 {
            let [outputs, inputs] = shape;
            measure(criterion, &mut rows, name, &format!("{outputs} x {inputs} x {RANK}"), &users, || make(shape));
        }
    }
    rows
}

fn merge([outputs, inputs]: Shape) -> Case {
    Case {
        work: Work::Operations(2 * outputs * inputs * (RANK + 1)),
        start: draw([outputs * RANK, RANK * inputs, outputs * inputs, outputs * inputs]),
        in_place: &[],
        run: Box::new(move |isa, buffers| {
            named!(buffers, b a w0 w);
            let (b, a) = (Mat::new(b, outputs, RANK, RANK), Mat::new(a, RANK, inputs, inputs));
            let w = MatMut::new(w, outputs, inputs, inputs);
            adapter::merge(isa, b, a, Mat::new(w0, outputs, inputs, inputs), SCALE, w);
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, b a w0 w);
            for o in 0..outputs {
                for i in 0..inputs {
                    let product = chain(0.0, (0..RANK).map(|k| (b[o * RANK + k], a[k * inputs + i])));
                    w[o * inputs + i] = SCALE.mul_add(product, w0[o * inputs + i]);
                }
            }
        }),
    }
}

fn gradient_a([outputs, inputs]: Shape) -> Case {
    Case {
        work: Work::Operations(2 * outputs * inputs * RANK),
        start: draw([outputs * RANK, outputs * inputs, RANK * inputs]),
        in_place: &[],
        run: Box::new(move |isa, buffers| {
            named!(buffers, b dw da);
            let (b, dw) = (Mat::new(b, outputs, RANK, RANK), Mat::new(dw, outputs, inputs, inputs));
            adapter::gradient_a(isa, b, dw, SCALE, MatMut::new(da, RANK, inputs, inputs));
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, b dw da);
            for k in 0..RANK {
                for i in 0..inputs {
                    da[k * inputs + i] =
                        SCALE * chain(0.0, (0..outputs).map(|o| (b[o * RANK + k], dw[o * inputs + i])));
                }
            }
        }),
    }
}

fn gradient_b([outputs, inputs]: Shape) -> Case {
    let mut start = draw([outputs * inputs, RANK * inputs, outputs * RANK]);
    start.push(vec![0.0; packed_len(inputs, RANK)]);
    Case {
        work: Work::Operations(2 * outputs * inputs * RANK),
        start,
        in_place: &[],
        run: Box::new(move |isa, buffers| {
            named!(buffers, dw a db packed);
            let (dw, a) = (Mat::new(dw, outputs, inputs, inputs), Mat::new(a, RANK, inputs, inputs));
            adapter::gradient_b(isa, dw, a, SCALE, MatMut::new(db, outputs, RANK, RANK), packed);
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, dw a db packed);
            packed.clear();
            for o in 0..outputs {
                for k in 0..RANK {
                    db[o * RANK + k] = SCALE * chain(0.0, (0..inputs).map(|i| (dw[o * inputs + i], a[k * inputs + i])));
                }
            }
        }),
    }
}
