//! The formulas of docs/contract.md as plain loops over scalars, written apart from the kernels.
#![allow(dead_code, clippy::excessive_precision)]

fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// E1.
pub fn exp(x: f32) -> f32 {
    let mut z = if x > 88.0 { 88.0 } else { x };
    z = if z < -87.0 { -87.0 } else { z };
    // 0x1.715476p+0
    let t = fma(z, f32::from_bits(0x3FB8_AA3B), 12_582_912.0);
    let n = t - 12_582_912.0;
    let mut r = fma(n, -0.693359375, z);
    r = fma(n, 2.12194440e-4, r);
    let mut p = 1.9875691500e-4_f32;
    p = fma(p, r, 1.3981999507e-3);
    p = fma(p, r, 8.3334519073e-3);
    p = fma(p, r, 4.1665795894e-2);
    p = fma(p, r, 1.6666665459e-1);
    p = fma(p, r, 5.0000001201e-1);
    p = fma(p, r * r, r) + 1.0;
    if x < -87.0 {
        0.0
    } else if n.is_nan() {
        f32::NAN
    } else {
        f32::from_bits((p.to_bits() as i32 + ((n as i32) << 23)) as u32)
    }
}

/// E2.
pub fn log(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut e = ((bits >> 23) & 0xFF) as i32 - 127;
    let mut m = f32::from_bits((bits & 0x007F_FFFF) | (127 << 23));
    if (bits & 0x007F_FFFF) > 0x3504F3 {
        e += 1;
        m /= 2.0;
    }
    let f = m - 1.0;
    let z = f * f;
    let mut p = 7.0376836292e-2_f32;
    for c in [
        -1.1514610310e-1_f32,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ] {
        p = fma(p, f, c);
    }
    let mut y = (p * f) * z;
    y = fma(e as f32, -2.12194440e-4, y);
    y = fma(z, -0.5, y);
    fma(e as f32, 0.693359375, f + y)
}

fn tree(mut acc: [f32; 16]) -> f32 {
    for j in 0..8 {
        acc[j] += acc[j + 8];
    }
    for j in 0..4 {
        acc[j] += acc[j + 4];
    }
    for j in 0..2 {
        acc[j] += acc[j + 2];
    }
    acc[0] + acc[1]
}

pub fn sum16(x: &[f32]) -> f32 {
    let mut acc = [0.0; 16];
    for i in 0..x.len().next_multiple_of(16) {
        acc[i % 16] += if i < x.len() { x[i] } else { 0.0 };
    }
    tree(acc)
}

pub fn dot16(x: &[f32], y: &[f32]) -> f32 {
    let mut acc = [0.0; 16];
    for i in 0..x.len().next_multiple_of(16) {
        let (a, b) = if i < x.len() { (x[i], y[i]) } else { (0.0, 0.0) };
        acc[i % 16] = fma(a, b, acc[i % 16]);
    }
    tree(acc)
}

/// E3, one row; returns r.
pub fn norm(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) -> f32 {
    let ms = dot16(x, x) / x.len() as f32;
    let r = 1.0 / (ms + eps).sqrt();
    for i in 0..x.len() {
        y[i] = (x[i] * r) * w[i];
    }
    r
}

/// E4 and the step of E5, one row: dx and the next link of the chain of each weight.
pub fn norm_backward(x: &mut [f32], dy: &[f32], w: &[f32], r: f32, res: Option<&[f32]>, dw: &mut [f32]) {
    let h: Vec<f32> = x.iter().map(|x| x * r).collect();
    let g: Vec<f32> = dy.iter().zip(w).map(|(dy, w)| dy * w).collect();
    let c = dot16(&g, &h) / x.len() as f32;
    for i in 0..x.len() {
        x[i] = fma(fma(-h[i], c, g[i]), r, res.map_or(0.0, |res| res[i]));
        dw[i] = fma(dy[i], h[i], dw[i]);
    }
}

/// E7 and E8, one row.
pub fn rope(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], forward: bool) {
    for head in x.chunks_mut(head_dim) {
        for j in 0..head_dim / 2 {
            let (x1, x2, c, s) = (head[j], head[j + head_dim / 2], cos[j], sin[j]);
            let (y1, y2) = if forward {
                (fma(x1, c, -(x2 * s)), fma(x2, c, x1 * s))
            } else {
                (fma(x1, c, x2 * s), fma(x2, c, -(x1 * s)))
            };
            head[j] = y1;
            head[j + head_dim / 2] = y2;
        }
    }
}

/// E9.
pub fn swiglu(g: f32, u: f32) -> f32 {
    let s = 1.0 / (1.0 + exp(-g));
    (g * s) * u
}

/// E10: (dg, du).
pub fn swiglu_backward(dh: f32, g: f32, u: f32) -> (f32, f32) {
    let s = 1.0 / (1.0 + exp(-g));
    ((dh * u) * (s * fma(g, 1.0 - s, 1.0)), dh * (g * s))
}

/// L2 and L3, one row: the loss; the gradient replaces the logits.
pub fn loss(l: &mut [f32], target: usize, c: f32) -> f32 {
    let m = l.iter().copied().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
    let e: Vec<f32> = l.iter().map(|l| exp(l - m)).collect();
    let s = sum16(&e);
    let loss = (m - l[target]) + log(s);
    let z = 1.0 / s;
    for i in 0..l.len() {
        l[i] = if i == target { ((e[i] * z) - 1.0) * c } else { (e[i] * z) * c };
    }
    loss
}

/// The numbers of O3.
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    pub lr: f64,
    pub b1: f64,
    pub b2: f64,
    pub eps: f64,
    pub wd: f64,
    pub f: f32,
    pub n: u64,
}

/// O3, one element.
pub fn adamw(w: &mut f32, m: &mut f32, v: &mut f32, g: f32, a: Adam) {
    let (b1, b2) = (a.b1 as f32, a.b2 as f32);
    let (k1, k2) = ((1.0 - a.b1) as f32, (1.0 - a.b2) as f32);
    let c1 = (1.0 / (1.0 - libm::pow(a.b1, a.n as f64))) as f32;
    let c2 = (1.0 / (1.0 - libm::pow(a.b2, a.n as f64))) as f32;
    let g = g * a.f;
    *m = fma(b1, *m, k1 * g);
    *v = fma(b2, *v, (k2 * g) * g);
    let u = (*m * c1) / ((*v * c2).sqrt() + a.eps as f32);
    *w = fma(-(a.lr as f32), fma(a.wd as f32, *w, u), *w);
}

/// One block of O1.
pub fn sum_squares(g: &[f32]) -> f64 {
    let mut acc = [0.0_f64; 16];
    for (i, g) in g.iter().enumerate() {
        acc[i % 16] += f64::from(*g) * f64::from(*g);
    }
    for half in [8, 4, 2, 1] {
        for j in 0..half {
            acc[j] += acc[j + half];
        }
    }
    acc[0]
}
