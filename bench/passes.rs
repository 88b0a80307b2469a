//! The kernels that pass once over their data.

use crate::case::{Case, Work, draw, measure, named};
use crate::common::{Lcg, spec};
use crate::models::{LOGIT_ROWS, MODELS, Model, ROW_BLOCK, Unique, row_stride};
use crate::tables::Row;
use criterion::Criterion;
use symlm_kernels::adamw::{self, Hyper};
use symlm_kernels::gemm::{PANEL, pack, packed_len};
use symlm_kernels::{Mat, MatMut, embedding, loss, mlp, norm, reduce, rope};

const EPS: f32 = 1e-5;
const SCALE: f32 = 1.0 / 4096.0;
const TARGET: u32 = 7;
const ADAM: spec::Adam = spec::Adam { lr: 3e-3, b1: 0.9, b2: 0.95, eps: 1e-8, wd: 0.1, f: 0.5, n: 3 };
/// Elements of a pass over memory, beyond the second-level cache.
const MEMORY: usize = 1 << 22;

/// Rows and columns of a case; of a rotation `head_dim`, of an embedding the vocabulary.
type Shape = [usize; 3];

/// A kernel, its shape in a model, and how a case is made of it.
type Pass = (&'static str, fn(&Model) -> Shape, fn(Shape) -> Case);

const PASSES: [Pass; 17] = [
    ("norm", |m| [m.positions, m.hidden, 0], norm_forward),
    ("norm backward", |m| [m.positions, m.hidden, 0], norm_backward),
    ("rope", |m| [m.positions, m.hidden + m.kv_size(), m.head_dim()], rotation::<true>),
    ("rope backward", |m| [m.positions, m.hidden + m.kv_size(), m.head_dim()], rotation::<false>),
    ("mlp", |m| [m.positions, m.inner, 0], mlp_forward),
    ("mlp backward", |m| [m.positions, m.inner, 0], mlp_backward),
    ("loss", |m| [LOGIT_ROWS, m.vocabulary, 0], losses),
    ("loss, gradient", |m| [LOGIT_ROWS, m.vocabulary, 0], loss_gradients),
    ("embedding", |m| [m.positions, m.hidden, m.vocabulary], gather),
    ("embedding scatter", |m| [m.sector(), m.hidden, m.vocabulary], scatter),
    ("adamw", |m| [ROW_BLOCK, m.hidden, 0], optimizer),
    ("adamw", |_| [1, MEMORY, 0], optimizer),
    ("pack transposed", |m| [2 * m.inner, m.hidden, 0], pack_transposed),
    ("pack rows", |m| [2 * m.inner, m.hidden, 0], pack_rows),
    ("squares", |_| [16, reduce::BLOCK, 0], squares),
    ("add", |m| [ROW_BLOCK, m.hidden, 0], add),
    ("fold pair", |m| [ROW_BLOCK, m.hidden, 0], fold_pair),
];

/// Runs what is asked for.
pub fn run(criterion: &mut Criterion) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, shape, make) in PASSES {
        let mut shapes = Unique::new();
        MODELS.iter().for_each(|model| shapes.add(shape(model), model.name.to_owned()));
        for (shape, users) in shapes.0 {
            let text: Vec<String> = shape.iter().filter(|n| **n > 0).map(usize::to_string).collect();
            measure(criterion, &mut rows, name, &text.join(" x "), &users, || make(shape));
        }
    }
    rows
}

fn norm_forward([rows, cols, _]: Shape) -> Case {
    let stride = row_stride(cols);
    let mut start = draw([rows * stride, cols]);
    start.extend([vec![0.0; rows * stride], vec![0.0; rows]]);
    Case {
        work: Work::Elements(rows * cols),
        start,
        in_place: &[],
        run: Box::new(move |isa, buffers| {
            named!(buffers, x w y rstd);
            norm::forward(isa, Mat::new(x, rows, cols, stride), w, EPS, MatMut::new(y, rows, cols, stride), rstd);
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, x w y rstd);
            for (i, r) in rstd.iter_mut().enumerate() {
                *r = spec::norm(&x[i * stride..][..cols], w, EPS, &mut y[i * stride..][..cols]);
            }
        }),
    }
}

fn norm_backward([rows, cols, _]: Shape) -> Case {
    let (stride, blocks) = (row_stride(cols), rows.div_ceil(norm::BLOCK));
    let mut start = draw([rows * stride, rows * stride, rows * stride, cols, rows]);
    start.push(vec![0.0; blocks * cols]);
    Case {
        work: Work::Elements(rows * cols),
        start,
        in_place: &[0],
        run: Box::new(move |isa, buffers| {
            named!(buffers, x dy res w rstd dw);
            let [dy, res] = [dy, res].map(|m| Mat::new(m, rows, cols, stride));
            let (x, dw) = (MatMut::new(x, rows, cols, stride), MatMut::new(dw, blocks, cols, cols));
            norm::backward(isa, dy, w, rstd, Some(res), x, dw);
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, x dy res w rstd dw);
            for i in 0..rows {
                let [dy, res] = [&dy, &res].map(|m| &m[i * stride..][..cols]);
                let chain = &mut dw[i / norm::BLOCK * cols..][..cols];
                spec::norm_backward(&mut x[i * stride..][..cols], dy, w, rstd[i], Some(res), chain);
            }
        }),
    }
}

fn rotation<const FORWARD: bool>([rows, cols, size]: Shape) -> Case {
    let stride = row_stride(cols);
    let table = rope::Table::new(10_000.0, size, rows);
    let angles = table.clone();
    Case {
        work: Work::Elements(rows * cols),
        start: draw([rows * stride]),
        in_place: &[0],
        run: Box::new(move |isa, buffers| {
            let x = MatMut::new(&mut buffers[0], rows, cols, stride);
            let rotate = if FORWARD { rope::forward } else { rope::backward };
            rotate(isa, x, size, &table, 0);
        }),
        spec: Box::new(move |buffers| {
            for (i, x) in buffers[0].chunks_mut(stride).enumerate() {
                spec::rope(&mut x[..cols], size, angles.cos(i), angles.sin(i), FORWARD);
            }
        }),
    }
}

fn mlp_forward([rows, inner, _]: Shape) -> Case {
    let (wide, stride) = (row_stride(2 * inner), row_stride(inner));
    let mut start = draw([rows * wide]);
    start.push(vec![0.0; rows * stride]);
    Case {
        work: Work::Elements(rows * inner),
        start,
        in_place: &[],
        run: Box::new(move |isa, buffers| {
            named!(buffers, x h);
            mlp::forward(isa, Mat::new(x, rows, 2 * inner, wide), MatMut::new(h, rows, inner, stride));
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, x h);
            for (x, h) in x.chunks(wide).zip(h.chunks_mut(stride)) {
                (0..inner).for_each(|j| h[j] = spec::swiglu(x[j], x[inner + j]));
            }
        }),
    }
}

fn mlp_backward([rows, inner, _]: Shape) -> Case {
    let (wide, stride) = (row_stride(2 * inner), row_stride(inner));
    Case {
        work: Work::Elements(rows * inner),
        start: draw([rows * wide, rows * stride]),
        in_place: &[0],
        run: Box::new(move |isa, buffers| {
            named!(buffers, x dh);
            mlp::backward(isa, Mat::new(dh, rows, inner, stride), MatMut::new(x, rows, 2 * inner, wide));
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, x dh);
            for (x, dh) in x.chunks_mut(wide).zip(dh.chunks(stride)) {
                (0..inner).for_each(|j| (x[j], x[inner + j]) = spec::swiglu_backward(dh[j], x[j], x[inner + j]));
            }
        }),
    }
}

fn losses([rows, cols, _]: Shape) -> Case {
    let stride = row_stride(cols);
    let mut start = draw([rows * stride]);
    start.push(vec![0.0; rows]);
    Case {
        work: Work::Elements(rows * cols),
        start,
        in_place: &[],
        run: Box::new(move |isa, buffers| {
            named!(buffers, logits losses);
            loss::rows(isa, Mat::new(logits, rows, cols, stride), &vec![TARGET; rows], losses);
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, logits losses);
            for (l, loss) in logits.chunks(stride).zip(losses) {
                *loss = spec::loss(&mut l[..cols].to_vec(), TARGET as usize, SCALE);
            }
        }),
    }
}

fn loss_gradients(shape: Shape) -> Case {
    let [rows, cols, _] = shape;
    let stride = row_stride(cols);
    Case {
        in_place: &[0],
        run: Box::new(move |isa, buffers| {
            named!(buffers, logits losses);
            let logits = MatMut::new(logits, rows, cols, stride);
            loss::rows_backward(isa, logits, &vec![TARGET; rows], SCALE, losses);
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, logits losses);
            for (l, loss) in logits.chunks_mut(stride).zip(losses) {
                *loss = spec::loss(&mut l[..cols], TARGET as usize, SCALE);
            }
        }),
        ..losses(shape)
    }
}

/// Ids of a window or a sector, evenly distributed.
fn ids(count: usize, vocabulary: usize) -> Vec<u32> {
    let rng = &mut Lcg(5);
    (0..count).map(|_| rng.below(vocabulary) as u32).collect()
}

fn gather([rows, cols, vocabulary]: Shape) -> Case {
    let stride = row_stride(cols);
    let mut start = draw([vocabulary * cols]);
    start.push(vec![0.0; rows * stride]);
    let ids = ids(rows, vocabulary);
    let same_ids = ids.clone();
    Case {
        work: Work::Elements(rows * cols),
        start,
        in_place: &[],
        run: Box::new(move |_, buffers| {
            named!(buffers, table x);
            let table = Mat::new(table, vocabulary, cols, cols);
            embedding::gather(table, &ids, MatMut::new(x, rows, cols, stride));
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, table x);
            for (x, id) in x.chunks_mut(stride).zip(&same_ids) {
                x[..cols].copy_from_slice(&table[*id as usize * cols..][..cols]);
            }
        }),
    }
}

/// The tokens of each id of a sector, row by row of the vocabulary.
fn scatter([tokens, cols, vocabulary]: Shape) -> Case {
    let stride = row_stride(cols);
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); vocabulary];
    for (token, id) in ids(tokens, vocabulary).into_iter().enumerate() {
        rows[id as usize].push(token as u32);
    }
    rows.retain(|tokens| !tokens.is_empty());
    let mut start = draw([tokens * stride]);
    start.push(vec![0.0; rows.len() * cols]);
    let same_rows = rows.clone();
    Case {
        work: Work::Elements(tokens * cols),
        start,
        in_place: &[1],
        run: Box::new(move |isa, buffers| {
            named!(buffers, dx sums);
            let dx = Mat::new(dx, tokens, cols, stride);
            for (tokens, sum) in rows.iter().zip(sums.chunks_mut(cols)) {
                embedding::scatter_row(isa, dx, tokens, sum);
            }
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, dx sums);
            for (tokens, sum) in same_rows.iter().zip(sums.chunks_mut(cols)) {
                for token in tokens {
                    (0..cols).for_each(|j| sum[j] += dx[*token as usize * stride + j]);
                }
            }
        }),
    }
}

fn optimizer([rows, cols, _]: Shape) -> Case {
    let n = rows * cols;
    let mut start = draw([n, n, n, n]);
    start[2].iter_mut().for_each(|v| *v = v.abs());
    Case {
        work: Work::Elements(n),
        start,
        in_place: &[],
        run: Box::new(|isa, buffers| {
            named!(buffers, w m v g);
            let a = ADAM;
            adamw::update(isa, w, m, v, g, &Hyper::new(a.lr, a.b1, a.b2, a.eps, a.wd, a.f, a.n));
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, w m v g);
            (0..n).for_each(|i| spec::adamw(&mut w[i], &mut m[i], &mut v[i], g[i], ADAM));
        }),
    }
}

/// Weights rows x cols as a right-hand matrix; `TRANSPOSED` for the forward product.
fn packing<const TRANSPOSED: bool>([rows, cols, _]: Shape) -> Case {
    let (k, n) = if TRANSPOSED { (cols, rows) } else { (rows, cols) };
    let mut start = draw([rows * cols]);
    start.push(vec![0.0; packed_len(k, n)]);
    Case {
        work: Work::Elements(rows * cols),
        start,
        in_place: &[],
        run: Box::new(move |isa, buffers| {
            named!(buffers, w packed);
            let w = Mat::new(w, rows, cols, cols);
            if TRANSPOSED { pack::transposed(isa, w, packed) } else { pack::rows(w, packed) }
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, w packed);
            for (i, w) in w.iter().enumerate() {
                let (row, col) = (i / cols, i % cols);
                let (p, j) = if TRANSPOSED { (col, row) } else { (row, col) };
                packed[(j / PANEL * k + p) * PANEL + j % PANEL] = *w;
            }
        }),
    }
}

fn pack_transposed(shape: Shape) -> Case {
    packing::<true>(shape)
}

fn pack_rows(shape: Shape) -> Case {
    packing::<false>(shape)
}

fn squares([blocks, block, _]: Shape) -> Case {
    let mut start = draw([blocks * block]);
    start.push(vec![0.0; blocks]);
    Case {
        work: Work::Elements(blocks * block),
        start,
        in_place: &[],
        run: Box::new(|isa, buffers| {
            named!(buffers, g sums);
            let mut exact = vec![0.0; sums.len()];
            reduce::sum_squares_blocks(isa, g, &mut exact);
            sums.iter_mut().zip(exact).for_each(|(sum, exact)| *sum = exact as f32);
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, g sums);
            sums.iter_mut().zip(g.chunks(block)).for_each(|(sum, g)| *sum = spec::sum_squares(g) as f32);
        }),
    }
}

fn add([rows, cols, _]: Shape) -> Case {
    Case {
        work: Work::Elements(rows * cols),
        start: draw([rows * cols, rows * cols]),
        in_place: &[0],
        run: Box::new(|isa, buffers| {
            named!(buffers, to from);
            reduce::add(isa, to, from);
        }),
        spec: Box::new(|buffers| {
            named!(buffers, to from);
            to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
        }),
    }
}

fn fold_pair([rows, cols, _]: Shape) -> Case {
    let n = rows * cols;
    Case {
        work: Work::Elements(n),
        start: draw([n, n, n]),
        in_place: &[0],
        run: Box::new(|isa, buffers| {
            named!(buffers, total pair triple);
            reduce::fold_pair(isa, total, pair, triple);
        }),
        spec: Box::new(move |buffers| {
            named!(buffers, total pair triple);
            (0..n).for_each(|i| total[i] += pair[i] + triple[i]);
        }),
    }
}
