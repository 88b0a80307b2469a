//! Attention of one key/value head with its queries, in the window of each model.

use crate::case::{Case, Work, measure, named};
use crate::common::chains::Attention;
use crate::common::{Buf, Lcg};
use crate::models::{MODELS, Unique, row_stride};
use crate::tables::Row;
use criterion::Criterion;
use symlm_kernels::attention::{self, Heads, scratch_len};
use symlm_kernels::{Mat, MatMut};

#[derive(Clone, Copy)]
struct Shape {
    positions: usize,
    size: usize,
    group: usize,
    /// Distance between the rows of q, k and v, which are columns of one matrix in a step.
    qkv_stride: usize,
    /// Distance between the rows of the result.
    out_stride: usize,
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        (self.positions, self.size, self.group) == (other.positions, other.size, other.group)
    }
}

/// Runs what is asked for.
pub fn run(criterion: &mut Criterion) -> Vec<Row> {
    let mut shapes = Unique::new();
    for model in &MODELS {
        let shape = Shape {
            positions: model.positions,
            size: model.head_dim(),
            group: model.group(),
            qkv_stride: row_stride(model.hidden + 2 * model.kv_size()),
            out_stride: row_stride(model.hidden),
        };
        shapes.add(shape, model.name.to_owned());
    }
    let mut rows = Vec::new();
    for (shape, users) in shapes.0 {
        let text = format!("{} x {} x {}", shape.positions, shape.group, shape.size);
        measure(criterion, &mut rows, "attention", &text, &users, || shape.forward());
        measure(criterion, &mut rows, "attention backward", &text, &users, || shape.backward());
    }
    rows
}

/// The first columns of a matrix by rows as a matrix of the scalar specification.
fn buf(data: &[f32], rows: usize, cols: usize, stride: usize) -> Buf {
    let mut buf = Buf::new(&mut Lcg(0), rows, cols, false);
    for i in 0..rows {
        buf.row_mut(i).copy_from_slice(&data[i * stride..][..cols]);
    }
    buf
}

fn put_back(buf: &Buf, data: &mut [f32], stride: usize) {
    for i in 0..buf.rows {
        data[i * stride..][..buf.cols].copy_from_slice(buf.row(i));
    }
}

impl Shape {
    fn heads(self) -> Heads {
        Heads { head_dim: self.size, group: self.group }
    }

    /// Operations of one product with the keys up to each position.
    fn product(self) -> usize {
        self.positions * (self.positions + 1) * self.size * self.group
    }

    fn inputs(self) -> Vec<Vec<f32>> {
        let (t, rng) = (self.positions, &mut Lcg(31));
        let mut inputs: Vec<Vec<f32>> = (0..3).map(|_| rng.vec(t * self.qkv_stride, false)).collect();
        inputs.push(vec![0.0; t * self.out_stride]);
        inputs.extend([vec![0.0; t * self.group], vec![0.0; t * self.group]]);
        inputs
    }

    fn forward(self) -> Case {
        let (t, size, wide) = (self.positions, self.size, self.group * self.size);
        let (stride, out_stride) = (self.qkv_stride, self.out_stride);
        let mut start = self.inputs();
        start.push(vec![0.0; scratch_len(t, size)]);
        Case {
            work: Work::Operations(2 * self.product()),
            start,
            in_place: &[],
            run: Box::new(move |isa, buffers| {
                named!(buffers, q k v out m z scratch);
                let (q, k, v) =
                    (Mat::new(q, t, wide, stride), Mat::new(k, t, size, stride), Mat::new(v, t, size, stride));
                let out = MatMut::new(out, t, wide, out_stride);
                attention::forward(isa, self.heads(), q, k, v, out, m, z, scratch);
            }),
            spec: Box::new(move |buffers| {
                named!(buffers, q k v out m z scratch);
                scratch.clear();
                let [q, k, v] = [(q, wide), (k, size), (v, size)].map(|(x, cols)| buf(x, t, cols, stride));
                let mut o = buf(out, t, wide, out_stride);
                Attention { size, group: self.group, q: &q, k: &k, v: &v }.forward(&mut o, m, z);
                put_back(&o, out, out_stride);
            }),
        }
    }

    fn backward(self) -> Case {
        let (t, size, wide) = (self.positions, self.size, self.group * self.size);
        let (stride, out_stride) = (self.qkv_stride, self.out_stride);
        let forward = self.forward();
        let mut start = forward.start.clone();
        (forward.spec)(&mut start);
        start.pop();
        start.extend([Lcg(32).vec(t * out_stride, false), vec![0.0; scratch_len(t, size)]]);
        Case {
            work: Work::Operations(5 * self.product()),
            start,
            in_place: &[0, 1, 2],
            run: Box::new(move |isa, buffers| {
                named!(buffers, q k v out m z dout scratch);
                let q = MatMut::new(q, t, wide, stride);
                let (k, v) = (MatMut::new(k, t, size, stride), MatMut::new(v, t, size, stride));
                let (out, dout) = (Mat::new(out, t, wide, out_stride), Mat::new(dout, t, wide, out_stride));
                attention::backward(isa, self.heads(), q, k, v, out, dout, m, z, scratch);
            }),
            spec: Box::new(move |buffers| {
                buffers[7].clear();
                let [out, dout] = [3, 6].map(|i| buf(&buffers[i], t, wide, out_stride));
                let [q, k, v] = [(0, wide), (1, size), (2, size)].map(|(i, cols)| buf(&buffers[i], t, cols, stride));
                let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
                let heads = Attention { size, group: self.group, q: &q, k: &k, v: &v };
                heads.backward(&out, &dout, &mut dq, &mut dk, &mut dv);
                for (i, gradient) in [dq, dk, dv].iter().enumerate() {
                    put_back(gradient, &mut buffers[i], stride);
                }
            }),
        }
    }
}
