//! Attention equals its formulas bit for bit on every instruction set, however its rows are cut into strips.

mod common;

use common::chains::Attention;
use common::{Buf, Lcg, OUTSIDE, assert_same, isas};
use proptest::prelude::*;
use symlm_kernels::attention::{self, Heads};
use symlm_kernels::gemm::{Packed, pack, packed_len};
use symlm_kernels::{Isa, Mat, MatMut};

/// Zeros of both signs, subnormals and tiny values, but nothing so large that a product of three overflows: a masked
/// key weighs exactly nothing only against finite numbers.
fn matrix(rng: &mut Lcg, rows: usize, cols: usize, wild: bool) -> Buf {
    let mut buf = Buf::new(rng, rows, cols, wild);
    for i in 0..rows {
        for x in buf.row_mut(i) {
            if x.abs() > 1e5 {
                *x = f32::from_bits(x.to_bits() & 0x807F_FFFF | 128 << 23);
            }
        }
    }
    buf
}

/// Inputs and the specification's results for one key/value head.
struct Case {
    heads: Heads,
    q: Buf,
    k: Buf,
    v: Buf,
    out: Buf,
    maximum: Vec<f32>,
    inverse_sum: Vec<f32>,
}

impl Case {
    fn new(rng: &mut Lcg, positions: usize, head_dim: usize, group: usize, wild: bool) -> Self {
        let q = matrix(rng, positions, group * head_dim, wild);
        let (k, v) = (matrix(rng, positions, head_dim, wild), matrix(rng, positions, head_dim, wild));
        Self::of(rng, Heads { head_dim, group }, q, k, v)
    }

    fn of(rng: &mut Lcg, heads: Heads, q: Buf, k: Buf, v: Buf) -> Self {
        let Heads { head_dim: size, group } = heads;
        let (mut out, stats) = (Buf::new(rng, q.rows, q.cols, false), group * q.rows);
        let (mut maximum, mut inverse_sum) = (vec![0.0; stats], vec![0.0; stats]);
        Attention { size, group, q: &q, k: &k, v: &v }.forward(&mut out, &mut maximum, &mut inverse_sum);
        Self { heads, q, k, v, out, maximum, inverse_sum }
    }

    fn spec(&self) -> Attention<'_> {
        Attention { size: self.heads.head_dim, group: self.heads.group, q: &self.q, k: &self.k, v: &self.v }
    }

    fn stats(&self) -> usize {
        self.maximum.len()
    }

    fn scratch(&self) -> Vec<f32> {
        vec![OUTSIDE; attention::scratch_len(self.q.rows, self.heads.head_dim)]
    }

    /// The result buffer with nothing in its rows yet.
    fn empty_out(&self) -> Buf {
        let mut out = self.out.clone();
        for i in 0..out.rows {
            out.row_mut(i).fill(OUTSIDE);
        }
        out
    }

    /// Forward and backward on every instruction set that computes products at some speed.
    fn assert_everywhere(&self, dout: &Buf) {
        let (mut dq, mut dk, mut dv) = (self.q.clone(), self.k.clone(), self.v.clone());
        self.spec().backward(&self.out, dout, &mut dq, &mut dk, &mut dv);
        for isa in isas().into_iter().filter(|isa| *isa != Isa::PortableSoft) {
            let (mut q, mut k, mut v) = (self.q.clone(), self.k.clone(), self.v.clone());
            let (mut out, mut m, mut z) = (self.empty_out(), vec![0.0; self.stats()], vec![0.0; self.stats()]);
            let scratch = &mut self.scratch();
            attention::forward(isa, self.heads, q.view(), k.view(), v.view(), out.view_mut(), &mut m, &mut z, scratch);
            self.assert_forward(isa, "out", &out, &m, &z);
            let (q_view, k_view, v_view) = (q.view_mut(), k.view_mut(), v.view_mut());
            attention::backward(isa, self.heads, q_view, k_view, v_view, out.view(), dout.view(), &m, &z, scratch);
            assert_same(isa, "dq", &q.data, &dq.data);
            assert_same(isa, "dk", &k.data, &dk.data);
            assert_same(isa, "dv", &v.data, &dv.data);
        }
    }

    fn assert_forward(&self, isa: Isa, what: &str, out: &Buf, maximum: &[f32], inverse_sum: &[f32]) {
        assert_same(isa, what, &out.data, &self.out.data);
        // The sign of a zero maximum is open: it cannot reach a weight.
        let plus_zero = |x: &[f32]| x.iter().map(|x| x + 0.0).collect::<Vec<_>>();
        assert_same(isa, "maximum", &plus_zero(maximum), &plus_zero(&self.maximum));
        assert_same(isa, "inverse sum", inverse_sum, &self.inverse_sum);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forward(seed: u32, positions in 1_usize..=100, head_dim in 2_usize..=40, group in 1_usize..=3, wild: bool) {
        let case = Case::new(&mut Lcg(seed), positions, head_dim, group, wild);
        for isa in isas() {
            let (mut out, mut m, mut z) = (case.empty_out(), vec![0.0; case.stats()], vec![0.0; case.stats()]);
            let (q, k, v) = (case.q.view(), case.k.view(), case.v.view());
            attention::forward(isa, case.heads, q, k, v, out.view_mut(), &mut m, &mut z, &mut case.scratch());
            case.assert_forward(isa, "out", &out, &m, &z);
        }
    }

    #[test]
    fn backward(seed: u32, positions in 1_usize..=100, head_dim in 2_usize..=40, group in 1_usize..=3, wild: bool) {
        let rng = &mut Lcg(seed);
        let case = Case::new(rng, positions, head_dim, group, wild);
        let dout = matrix(rng, positions, group * head_dim, wild);
        let (mut dq, mut dk, mut dv) = (case.q.clone(), case.k.clone(), case.v.clone());
        case.spec().backward(&case.out, &dout, &mut dq, &mut dk, &mut dv);
        for isa in isas() {
            let (mut q, mut k, mut v) = (case.q.clone(), case.k.clone(), case.v.clone());
            attention::backward(
                isa,
                case.heads,
                q.view_mut(),
                k.view_mut(),
                v.view_mut(),
                case.out.view(),
                dout.view(),
                &case.maximum,
                &case.inverse_sum,
                &mut case.scratch(),
            );
            assert_same(isa, "dq", &q.data, &dq.data);
            assert_same(isa, "dk", &k.data, &dk.data);
            assert_same(isa, "dv", &v.data, &dv.data);
        }
    }

    /// Heads as wide as models have them, whole and broken vectors, and windows around the ends of tiles, groups of rows
    /// and strips.
    #[test]
    fn wide_heads(seed: u32, positions in 40_usize..=210, eighths in 1_usize..=16, odd in 0_usize..=1, group in 1_usize..=3) {
        let rng = &mut Lcg(seed);
        let head_dim = 8 * eighths + 6 * odd;
        let case = Case::new(rng, positions, head_dim, group, false);
        let dout = matrix(rng, positions, group * head_dim, false);
        case.assert_everywhere(&dout);
    }

    /// Query rows in any strips, keys and values with room for later positions: how text is continued.
    #[test]
    fn strips(seed: u32, positions in 1_usize..=60, head_dim in 2_usize..=40, room in 0_usize..40, wild: bool) {
        let rng = &mut Lcg(seed);
        let case = Case::new(rng, positions, head_dim, 1, wild);
        let total = positions + room;
        let (mut keys, mut values) = (matrix(rng, total, head_dim, wild), matrix(rng, total, head_dim, wild));
        for t in 0..positions {
            keys.row_mut(t).copy_from_slice(case.k.row(t));
            values.row_mut(t).copy_from_slice(case.v.row(t));
        }
        for isa in isas() {
            let mut panels = vec![OUTSIDE; packed_len(head_dim, total)];
            pack::transposed(isa, keys.view(), &mut panels);
            let packed = Packed::new(&panels, head_dim, total);
            let (mut out, mut m, mut z) = (case.empty_out(), vec![0.0; positions], vec![0.0; positions]);
            let mut first = 0;
            while first < positions {
                let rows = first..(first + 1 + rng.below(40)).min(positions);
                let mut strip = vec![OUTSIDE; attention::strip_len(rows.len(), rows.end)];
                attention::strip_forward(
                    isa,
                    case.q.view().row_range(rows.clone()),
                    first,
                    packed,
                    values.view(),
                    out.view_mut().row_range(rows.clone()),
                    &mut m[rows.clone()],
                    &mut z[rows.clone()],
                    &mut strip,
                );
                first = rows.end;
            }
            case.assert_forward(isa, "out of strips", &out, &m, &z);
        }
    }
}

/// Long enough for many strips and for score rows beyond one panel of keys.
#[test]
fn a_long_window() {
    let rng = &mut Lcg(21);
    let case = Case::new(rng, 300, 10, 2, false);
    let dout = matrix(rng, 300, 20, false);
    case.assert_everywhere(&dout);
}

/// A weighted sum that rounds to -0 leaves as +0, which random numbers are too large to show.
/// A window whose score strips are as low as they get: the results do not depend on the instruction set, and the last
/// rows are those of the whole.
#[test]
fn a_window_longer_than_a_strip_has_elements() {
    let (rng, positions, size) = (&mut Lcg(9), 4112, 8);
    let [q, k, v, dout] = [0; 4].map(|_| matrix(rng, positions, size, false));
    let heads = Heads { head_dim: size, group: 1 };
    let run = |isa| {
        let mut scratch = vec![OUTSIDE; attention::scratch_len(positions, size)];
        let (mut out, mut maximum, mut inverse_sum) = (q.clone(), vec![0.0; positions], vec![0.0; positions]);
        let (m, z) = (&mut maximum, &mut inverse_sum);
        attention::forward(isa, heads, q.view(), k.view(), v.view(), out.view_mut(), m, z, &mut scratch);
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        let grads = (dq.view_mut(), dk.view_mut(), dv.view_mut());
        attention::backward(
            isa,
            heads,
            grads.0,
            grads.1,
            grads.2,
            out.view(),
            dout.view(),
            &maximum,
            &inverse_sum,
            &mut scratch,
        );
        [out, dq, dk, dv]
    };
    let want = run(Isa::Portable);
    assert!(want.iter().all(|m| m.data.iter().all(|x| x.is_finite())));
    for isa in isas().into_iter().filter(|isa| *isa != Isa::PortableSoft) {
        for (got, want) in run(isa).iter().zip(&want) {
            assert_same(isa, "long window", &got.data, &want.data);
        }
    }
}

#[test]
fn no_negative_zero_leaves() {
    let rng = &mut Lcg(22);
    let [mut q, mut k, mut v] = [0; 3].map(|_| Buf::new(rng, 40, 5, false));
    for (t, i) in (0..40).flat_map(|t| (0..5).map(move |i| (t, i))) {
        (q.row_mut(t)[i], k.row_mut(t)[i], v.row_mut(t)[i]) =
            (0.0, 0.0, if t == 0 { -f32::from_bits(1) } else { -0.0 });
    }
    let case = Case::of(rng, Heads { head_dim: 5, group: 1 }, q, k, v);
    assert!((1..40).all(|t| case.out.row(t).iter().all(|x| x.to_bits() == 0)));
    for isa in isas() {
        let (mut out, mut m, mut z) = (case.empty_out(), vec![0.0; case.stats()], vec![0.0; case.stats()]);
        let (q, k, v) = (case.q.view(), case.k.view(), case.v.view());
        attention::forward(isa, case.heads, q, k, v, out.view_mut(), &mut m, &mut z, &mut case.scratch());
        case.assert_forward(isa, "out", &out, &m, &z);
    }
}

/// Two positions of one head of size 4, with one thing wrong.
fn forward_with(change: &str) {
    let x = [0.5; 32];
    let mat = |rows: usize, cols: usize| Mat::new(&x, rows, cols, cols);
    let rows = |what: &str| if change == what { 3 } else { 2 };
    let (mut out, statistics) = ([0.0; 32], if change == "statistics" { 1 } else { 2 });
    let (mut m, mut z) = (vec![0.0; statistics], vec![0.0; statistics]);
    let mut scratch = vec![0.0; if change == "scratch" { 100 } else { attention::scratch_len(2, 4) }];
    attention::forward(
        Isa::Portable,
        Heads { head_dim: 4, group: if change == "group" { 2 } else { 1 } },
        mat(2, 4),
        mat(rows("keys"), 4),
        mat(2, if change == "value columns" { 3 } else { 4 }),
        MatMut::new(&mut out, rows("out"), 4, 4),
        &mut m,
        &mut z,
        &mut scratch,
    );
}

fn backward_with(change: &str) {
    let x = [0.5; 32];
    let mat = |rows: usize, cols: usize| Mat::new(&x, rows, cols, cols);
    let rows = |what: &str| if change == what { 3 } else { 2 };
    let (mut q, mut k, mut v) = ([0.5; 32], [0.5; 32], [0.5; 32]);
    let statistics = vec![0.5; if change == "statistics" { 1 } else { 2 }];
    let mut scratch = vec![0.0; if change == "scratch" { 100 } else { attention::scratch_len(2, 4) }];
    attention::backward(
        Isa::Portable,
        Heads { head_dim: 4, group: if change == "group" { 2 } else { 1 } },
        MatMut::new(&mut q, 2, 4, 4),
        MatMut::new(&mut k, 2, 4, 4),
        MatMut::new(&mut v, rows("values"), 4, 4),
        mat(rows("out"), 4),
        mat(2, if change == "dout columns" { 3 } else { 4 }),
        &statistics,
        &statistics,
        &mut scratch,
    );
}

#[test]
fn wrong_shapes_are_refused() {
    let message = |f: fn(&str), change: &str| {
        let payload = std::panic::catch_unwind(|| f(change)).expect_err(change);
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_string())).unwrap_or_default()
    };
    for (f, change, want) in [
        (forward_with as fn(&str), "group", "head columns"),
        (forward_with, "keys", "head rows"),
        (forward_with, "out", "head rows"),
        (forward_with, "value columns", "head columns"),
        (backward_with, "group", "head columns"),
        (backward_with, "values", "head rows"),
        (backward_with, "out", "head rows"),
        (backward_with, "dout columns", "head columns of the output"),
    ] {
        let text = message(f, change);
        assert!(text.contains(want), "{change}: {want:?} is not in {text:?}");
    }
    // Short workspaces and statistics are refused by the slices they are cut from.
    for f in [forward_with as fn(&str), backward_with] {
        for change in ["statistics", "scratch"] {
            assert!(!message(f, change).is_empty());
        }
    }
    forward_with("nothing");
    backward_with("nothing");
}
