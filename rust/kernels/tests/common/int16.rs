//! The chapter "Integer products" of docs/contract.md as plain loops over scalars, written apart from the kernels.
#![allow(dead_code)]

use super::Buf;

/// A group of numbers as integers, and their scale.
pub struct Group {
    pub integers: Vec<i64>,
    pub scale: f32,
}

/// I1 to I3.
pub fn group(x: &[f32]) -> Group {
    let largest = x.iter().map(|x| x.to_bits() & 0x7FFF_FFFF).max().unwrap_or(0);
    let exponent = (largest >> 23).max(27) as i32 - 127;
    if exponent == 128 {
        return Group { integers: vec![0; x.len()], scale: f32::NAN };
    }
    let q = |x: &f32| (f64::from(*x) * 2_f64.powi(10 - exponent)).round_ties_even().clamp(-2047.0, 2047.0) as i64;
    Group { integers: x.iter().map(q).collect(), scale: 2_f64.powi(exponent - 10) as f32 }
}

/// I4.
fn sum(a: &[i64], b: &[i64]) -> f32 {
    let sum: i64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    i32::try_from(sum).expect("a sum of 32 bits") as f32
}

/// I5 of blocks.
fn blocks(terms: impl Iterator<Item = f32>) -> f32 {
    terms.reduce(|c, t| c + t).unwrap_or(0.0)
}

fn columns(x: &Buf, j: usize) -> Vec<f32> {
    (0..x.rows).map(|i| x.row(i)[j]).collect()
}

/// I6: x (tokens x inputs), w (outputs x inputs).
pub fn product(x: &Buf, w: &Buf) -> Vec<f32> {
    let groups = |m: &Buf| (0..m.rows).map(|i| group(m.row(i))).collect::<Vec<_>>();
    let (x, w) = (groups(x), groups(w));
    let element = |x: &Group, w: &Group| {
        blocks(x.integers.chunks(512).zip(w.integers.chunks(512)).map(|(a, b)| (sum(a, b) * x.scale) * w.scale))
    };
    x.iter().flat_map(|x| w.iter().map(move |w| element(x, w))).collect()
}

/// I7: dy (tokens x outputs), w (outputs x inputs).
pub fn input_gradient(dy: &Buf, w: &Buf) -> Vec<f32> {
    let rows: Vec<Group> = (0..w.rows).map(|o| group(w.row(o))).collect();
    let mut out = Vec::new();
    for t in 0..dy.rows {
        let z: Vec<f32> = dy.row(t).iter().zip(&rows).map(|(dy, w)| dy * w.scale).collect();
        for i in 0..w.cols {
            out.push(blocks(z.chunks(512).zip(rows.chunks(512)).map(|(z, rows)| {
                let (z, w) = (group(z), rows.iter().map(|w| w.integers[i]).collect::<Vec<_>>());
                sum(&z.integers, &w) * z.scale
            })));
        }
    }
    out
}

/// I8 of one sector: dy (tokens x outputs), x (tokens x inputs).
pub fn weight_gradient(dy: &Buf, x: &Buf) -> Vec<f32> {
    let rows: Vec<Group> = (0..x.rows).map(|t| group(x.row(t))).collect();
    let mut out = Vec::new();
    for o in 0..dy.cols {
        let z: Vec<f32> = columns(dy, o).iter().zip(&rows).map(|(dy, x)| dy * x.scale).collect();
        for i in 0..x.cols {
            out.push(blocks(z.chunks(512).zip(rows.chunks(512)).map(|(z, rows)| {
                let (z, x) = (group(z), rows.iter().map(|x| x.integers[i]).collect::<Vec<_>>());
                sum(&z.integers, &x) * z.scale
            })));
        }
    }
    out
}
