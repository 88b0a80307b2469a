//! Matrix products and attention of docs/contract.md (G1-G4, A1-A7) as plain loops over scalars.
#![allow(dead_code)]

use super::Buf;
use super::spec::{dot16, exp, sum16};

/// `chain(k: a_k, b_k)` continuing from `c`.
pub fn chain(c: f32, terms: impl Iterator<Item = (f32, f32)>) -> f32 {
    terms.fold(c, |c, (a, b)| a.mul_add(b, c))
}

/// The product of `a` and the first `n` columns of `b`, row by row.
pub fn product(a: &Buf, b: &Buf, n: usize) -> Vec<f32> {
    go_on(&vec![0.0; a.rows * n], a, b, n)
}

/// As [`product`], each chain continuing from the element of `c`.
pub fn go_on(c: &[f32], a: &Buf, b: &Buf, n: usize) -> Vec<f32> {
    let mut out = c.to_vec();
    for (i, row) in out.chunks_mut(n.max(1)).enumerate() {
        for (j, out) in row.iter_mut().enumerate() {
            *out = chain(*out, (0..a.cols).map(|k| (a.row(i)[k], b.row(k)[j])));
        }
    }
    out
}

/// G3 of one sector, row by row.
pub fn weight_gradient(dy: &Buf, x: &Buf) -> Vec<f32> {
    (0..dy.cols * x.cols).map(|index| weight_gradient_element(dy, x, index / x.cols, index % x.cols)).collect()
}

/// Output `o` and input `i` of [`weight_gradient`].
pub fn weight_gradient_element(dy: &Buf, x: &Buf, o: usize, i: usize) -> f32 {
    let mut tokens = 0..dy.rows;
    let mut block = || chain(0.0, tokens.by_ref().take(1024).map(|t| (dy.row(t)[o], x.row(t)[i])));
    let mut sum = block();
    for _ in 1..dy.rows.div_ceil(1024) {
        sum += block();
    }
    sum
}

/// Inputs of the attention of one key/value head: q is positions x (group * size), k and v positions x size.
pub struct Attention<'a> {
    pub size: usize,
    pub group: usize,
    pub q: &'a Buf,
    pub k: &'a Buf,
    pub v: &'a Buf,
}

impl Attention<'_> {
    fn query(&self, h: usize, t: usize) -> &[f32] {
        &self.q.row(t)[h * self.size..][..self.size]
    }

    fn scale(&self) -> f32 {
        (1.0 / libm::sqrt(self.size as f64)) as f32
    }

    /// A1 and A2 of one query: the weights e up to its position, their maximum, z.
    fn softmax(&self, h: usize, t: usize) -> (Vec<f32>, f32, f32) {
        let q = self.query(h, t);
        let score = |j: usize| chain(0.0, (0..self.size).map(|i| (q[i], self.k.row(j)[i]))) * self.scale();
        let s: Vec<f32> = (0..=t).map(score).collect();
        let m = s.iter().copied().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
        let e: Vec<f32> = s.iter().map(|s| exp(s - m)).collect();
        let z = 1.0 / sum16(&e);
        (e, m, z)
    }

    /// A1-A3: rows of `out`; maximum and inverse sum of head h at h * positions + t.
    pub fn forward(&self, out: &mut Buf, maximum: &mut [f32], inverse_sum: &mut [f32]) {
        for h in 0..self.group {
            for t in 0..self.q.rows {
                let (e, m, z) = self.softmax(h, t);
                (maximum[h * self.q.rows + t], inverse_sum[h * self.q.rows + t]) = (m, z);
                for i in 0..self.size {
                    let sum = chain(0.0, (0..=t).map(|j| (e[j], self.v.row(j)[i])));
                    out.row_mut(t)[h * self.size + i] = sum * z + 0.0;
                }
            }
        }
    }

    /// A4-A7: gradients of q, k, v.
    pub fn backward(&self, out: &Buf, dout: &Buf, dq: &mut Buf, dk: &mut Buf, dv: &mut Buf) {
        let (size, positions) = (self.size, self.q.rows);
        for j in 0..positions {
            dk.row_mut(j).fill(0.0);
            dv.row_mut(j).fill(0.0);
        }
        for h in 0..self.group {
            let columns = h * size..(h + 1) * size;
            let (mut p, mut ds) = (Vec::new(), Vec::new());
            for t in 0..positions {
                let (e, _, z) = self.softmax(h, t);
                let (o, d) = (&out.row(t)[columns.clone()], &dout.row(t)[columns.clone()]);
                let term = dot16(d, o);
                let weight: Vec<f32> = e.iter().map(|e| e * z).collect();
                let gradient: Vec<f32> = (0..=t)
                    .map(|j| {
                        let dp = chain(0.0, (0..size).map(|i| (d[i], self.v.row(j)[i])));
                        (weight[j] * (dp - term)) * self.scale()
                    })
                    .collect();
                for i in 0..size {
                    let sum = chain(0.0, (0..=t).map(|j| (gradient[j], self.k.row(j)[i])));
                    dq.row_mut(t)[h * size + i] = sum + 0.0;
                }
                p.push(weight);
                ds.push(gradient);
            }
            for j in 0..positions {
                for i in 0..size {
                    let from_scores = (j..positions).map(|t| (ds[t][j], self.query(h, t)[i]));
                    dk.row_mut(j)[i] = chain(dk.row(j)[i], from_scores) + 0.0;
                    let from_output = (j..positions).map(|t| (p[t][j], dout.row(t)[h * size + i]));
                    dv.row_mut(j)[i] = chain(dv.row(j)[i], from_output) + 0.0;
                }
            }
        }
    }
}
