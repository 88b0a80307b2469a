//! Norm, rotary embedding and SwiGLU equal their formulas bit for bit on every instruction set.

mod common;

use common::{Buf, Lcg, assert_same, isas, spec};
use proptest::prelude::*;
use symlm_kernels::norm::BLOCK;
use symlm_kernels::rope::Table;
use symlm_kernels::{Isa, mlp, norm, rope};

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn norm_forward(seed: u32, rows in 0_usize..12, cols in 1_usize..100, wild: bool) {
        let rng = &mut Lcg(seed);
        let (x, y, w) = (Buf::new(rng, rows, cols, wild), Buf::new(rng, rows, cols, false), rng.vec(cols, wild));
        let (mut want, mut want_r) = (y.clone(), vec![0.0; rows]);
        for (i, r) in want_r.iter_mut().enumerate() {
            *r = spec::norm(x.row(i), &w, 1e-5, want.row_mut(i));
        }
        for isa in isas() {
            let (mut got, mut r) = (y.clone(), vec![0.0; rows]);
            norm::forward(isa, x.view(), &w, 1e-5, got.view_mut(), &mut r);
            assert_same(isa, "y", &got.data, &want.data);
            assert_same(isa, "rstd", &r, &want_r);
        }
    }

    #[test]
    fn norm_backward(seed: u32, rows in 0_usize..150, cols in 1_usize..70, wild: bool, residual: bool) {
        let rng = &mut Lcg(seed);
        let (x, dy, res) = (Buf::new(rng, rows, cols, wild), Buf::new(rng, rows, cols, wild), Buf::new(rng, rows, cols, wild));
        let dw = Buf::new(rng, rows.div_ceil(BLOCK), cols, false);
        let (w, r) = (rng.vec(cols, wild), rng.vec(rows, wild));
        let (mut want, mut want_dw) = (x.clone(), dw.clone());
        for (i, r) in r.iter().enumerate() {
            let chain = want_dw.row_mut(i / BLOCK);
            if i % BLOCK == 0 {
                chain.fill(0.0);
            }
            spec::norm_backward(want.row_mut(i), dy.row(i), &w, *r, residual.then(|| res.row(i)), chain);
        }
        for isa in isas() {
            let (mut got, mut got_dw) = (x.clone(), dw.clone());
            let res = residual.then(|| res.view());
            norm::backward(isa, dy.view(), &w, &r, res, got.view_mut(), got_dw.view_mut());
            assert_same(isa, "dx", &got.data, &want.data);
            assert_same(isa, "dw", &got_dw.data, &want_dw.data);
        }
    }

    #[test]
    fn rotary(seed: u32, rows in 0_usize..6, heads in 0_usize..4, half in 1_usize..40, first in 0_usize..9, wild: bool) {
        let rng = &mut Lcg(seed);
        let table = Table::new(10_000.0, 2 * half, first + rows);
        let x = Buf::new(rng, rows, heads * 2 * half, wild);
        for forward in [true, false] {
            let mut want = x.clone();
            for i in 0..rows {
                spec::rope(want.row_mut(i), 2 * half, table.cos(first + i), table.sin(first + i), forward);
            }
            for isa in isas() {
                let mut got = x.clone();
                let kernel = if forward { rope::forward } else { rope::backward };
                kernel(isa, got.view_mut(), 2 * half, &table, first);
                assert_same(isa, "rope", &got.data, &want.data);
            }
        }
    }

    #[test]
    fn swiglu(seed: u32, rows in 0_usize..5, f in 0_usize..70, wild: bool, spread in 1_u32..80) {
        let rng = &mut Lcg(seed);
        let mut x = Buf::new(rng, rows, 2 * f, wild);
        for i in 0..rows {
            x.row_mut(i)[..f].iter_mut().for_each(|g| *g *= spread as f32);
        }
        let (dh, h) = (Buf::new(rng, rows, f, wild), Buf::new(rng, rows, f, false));
        let (mut want, mut want_h) = (x.clone(), h.clone());
        for i in 0..rows {
            for j in 0..f {
                let (g, u) = (x.row(i)[j], x.row(i)[f + j]);
                want_h.row_mut(i)[j] = spec::swiglu(g, u);
                (want.row_mut(i)[j], want.row_mut(i)[f + j]) = spec::swiglu_backward(dh.row(i)[j], g, u);
            }
        }
        for isa in isas() {
            let (mut got, mut got_h) = (x.clone(), h.clone());
            mlp::forward(isa, x.view(), got_h.view_mut());
            mlp::backward(isa, dh.view(), got.view_mut());
            assert_same(isa, "h", &got_h.data, &want_h.data);
            assert_same(isa, "dgate, dup", &got.data, &want.data);
        }
    }
}

#[test]
fn rotary_table_is_the_f64_formula() {
    let table = Table::new(10_000.0, 6, 50);
    assert_eq!((table.head_dim(), table.positions()), (6, 50));
    for position in 0..50 {
        for j in 0..3 {
            let angle = libm::pow(10_000.0, -2.0 * j as f64 / 6.0) * position as f64;
            assert_eq!(table.cos(position)[j], libm::cos(angle) as f32);
            assert_eq!(table.sin(position)[j], libm::sin(angle) as f32);
        }
    }
}

#[test]
fn rotary_backward_undoes_forward() {
    let rng = &mut Lcg(5);
    let table = Table::new(10_000.0, 16, 40);
    let x = Buf::new(rng, 40, 48, false);
    let mut y = x.clone();
    rope::forward(Isa::detect(), y.view_mut(), 16, &table, 0);
    rope::backward(Isa::detect(), y.view_mut(), 16, &table, 0);
    for (a, b) in x.data.iter().zip(&y.data) {
        assert!((a - b).abs() <= 1e-6, "{a} {b}");
    }
}

fn message(f: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let payload = std::panic::catch_unwind(f).expect_err("wrong shapes were accepted");
    payload.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn wrong_shapes_are_refused() {
    let two_by_three = || Buf::new(&mut Lcg(1), 2, 3, false);
    let text = message(|| {
        let (x, mut y) = (two_by_three(), two_by_three());
        norm::forward(Isa::Portable, x.view(), &[1.0; 4], 1e-5, y.view_mut(), &mut [0.0; 2]);
    });
    assert_eq!(text, "norm of 3 columns with 4 weights");
    let text = message(|| mlp::forward(Isa::Portable, two_by_three().view(), two_by_three().view_mut()));
    assert_eq!(text, "SwiGLU of 2 x 3 with 2 x 3 results");
    let text = message(|| rope::forward(Isa::Portable, two_by_three().view_mut(), 2, &Table::new(1e4, 2, 9), 0));
    assert_eq!(text, "3 columns are not a whole number of heads of 2");
    let text = message(|| {
        rope::forward(Isa::Portable, Buf::new(&mut Lcg(1), 2, 4, false).view_mut(), 2, &Table::new(1e4, 2, 9), 8)
    });
    assert_eq!(text, "2 rows from position 8 with a table of 9");
}
