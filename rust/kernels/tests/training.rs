//! Loss, embedding, AdamW and reductions equal their formulas bit for bit on every instruction set.

mod common;

use common::{Buf, Lcg, assert_same, isas, spec};
use proptest::prelude::*;
use symlm_kernels::adamw::Hyper;
use symlm_kernels::{Isa, adamw, embedding, loss, reduce};

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn row_loss(seed: u32, rows in 0_usize..5, cols in 1_usize..200, wild: bool, spread in 1_u32..60, scale in 0.001_f32..1.0) {
        let rng = &mut Lcg(seed);
        let mut l = Buf::new(rng, rows, cols, wild);
        l.data.iter_mut().filter(|v| **v != common::OUTSIDE).for_each(|v| *v = (*v * spread as f32).clamp(f32::MIN, f32::MAX));
        let targets: Vec<u32> = (0..rows).map(|_| rng.below(cols) as u32).collect();
        let (mut want, mut want_losses) = (l.clone(), vec![0.0; rows]);
        for i in 0..rows {
            want_losses[i] = spec::loss(want.row_mut(i), targets[i] as usize, scale);
        }
        for isa in isas() {
            let (mut got, mut losses) = (l.clone(), vec![0.0; rows]);
            loss::rows(isa, l.view(), &targets, &mut losses);
            assert_same(isa, "loss", &losses, &want_losses);
            losses.fill(0.0);
            loss::rows_backward(isa, got.view_mut(), &targets, scale, &mut losses);
            assert_same(isa, "loss with gradient", &losses, &want_losses);
            assert_same(isa, "gradient", &got.data, &want.data);
        }
    }

    #[test]
    fn ignored_rows_are_zero_and_the_others_as_before(seed: u32, rows in 1_usize..7, cols in 1_usize..200, wild: bool, mask: u8) {
        let rng = &mut Lcg(seed);
        let l = Buf::new(rng, rows, cols, wild);
        let targets: Vec<u32> = (0..rows).map(|_| rng.below(cols) as u32).collect();
        let ignored = |i: usize| mask >> i & 1 == 1;
        let masked: Vec<u32> = (0..rows).map(|i| if ignored(i) { loss::IGNORED } else { targets[i] }).collect();
        for isa in isas() {
            let (mut want, mut want_losses) = (l.clone(), vec![1.0; rows]);
            loss::rows_backward(isa, want.view_mut(), &targets, 0.25, &mut want_losses);
            for i in (0..rows).filter(|i| ignored(*i)) {
                want.row_mut(i).fill(0.0);
                want_losses[i] = 0.0;
            }
            let (mut got, mut losses) = (l.clone(), vec![1.0; rows]);
            loss::rows(isa, l.view(), &masked, &mut losses);
            assert_same(isa, "masked loss", &losses, &want_losses);
            losses.fill(1.0);
            loss::rows_backward(isa, got.view_mut(), &masked, 0.25, &mut losses);
            assert_same(isa, "masked loss with gradient", &losses, &want_losses);
            assert_same(isa, "masked gradient", &got.data, &want.data);
        }
    }

    #[test]
    fn embedding_rows(seed: u32, rows in 1_usize..40, cols in 0_usize..150, wild: bool) {
        let rng = &mut Lcg(seed);
        let (table, out, dx) = (Buf::new(rng, 7, cols, wild), Buf::new(rng, rows, cols, false), Buf::new(rng, rows, cols, wild));
        let ids: Vec<u32> = (0..rows).map(|_| rng.below(7) as u32).collect();
        let (mut got, mut want) = (out.clone(), out.clone());
        embedding::gather(table.view(), &ids, got.view_mut());
        for (i, id) in ids.iter().enumerate() {
            want.row_mut(i).copy_from_slice(table.row(*id as usize));
        }
        assert_same(Isa::Portable, "gather", &got.data, &want.data);

        let tokens: Vec<u32> = (0..rows as u32).filter(|t| ids[*t as usize] < 4).collect();
        let acc = rng.vec(cols, wild);
        let mut want = acc.clone();
        for t in &tokens {
            want.iter_mut().zip(dx.row(*t as usize)).for_each(|(a, d)| *a += d);
        }
        for isa in isas() {
            let mut got = acc.clone();
            embedding::scatter_row(isa, dx.view(), &tokens, &mut got);
            assert_same(isa, "scatter", &got, &want);
        }
    }

    #[test]
    fn adamw_update(seed: u32, len in 0_usize..100, wild: bool, n in 1_u64..5000, f in 0.001_f32..=1.0, decay: bool) {
        let rng = &mut Lcg(seed);
        let (w, m, g) = (rng.vec(len, wild), rng.vec(len, wild), rng.vec(len, wild));
        let v: Vec<f32> = rng.vec(len, wild).iter().map(|v| v.abs()).collect();
        let a = spec::Adam { lr: 3e-3, b1: 0.9, b2: 0.95, eps: 1e-8, wd: if decay { 0.1 } else { 0.0 }, f, n };
        let hyper = Hyper::new(a.lr, a.b1, a.b2, a.eps, a.wd, a.f, a.n);
        let (mut want_w, mut want_m, mut want_v) = (w.clone(), m.clone(), v.clone());
        for i in 0..len {
            spec::adamw(&mut want_w[i], &mut want_m[i], &mut want_v[i], g[i], a);
        }
        for isa in isas() {
            let (mut w, mut m, mut v) = (w.clone(), m.clone(), v.clone());
            adamw::update(isa, &mut w, &mut m, &mut v, &g, &hyper);
            assert_same(isa, "w", &w, &want_w);
            assert_same(isa, "m", &m, &want_m);
            assert_same(isa, "v", &v, &want_v);
        }
    }

    #[test]
    fn sums(seed: u32, len in 0_usize..10_000, wild: bool) {
        let rng = &mut Lcg(seed);
        let (p, q, t) = (rng.vec(len, wild), rng.vec(len, wild), rng.vec(len, wild));
        let sum: Vec<f32> = p.iter().zip(&q).map(|(p, q)| p + q).collect();
        let fold: Vec<f32> = (0..len).map(|i| p[i] + (q[i] + t[i])).collect();
        let squares: Vec<u64> = p.chunks(4096).map(|b| spec::sum_squares(b).to_bits()).collect();
        for isa in isas() {
            let (mut a, mut b, mut blocks) = (p.clone(), p.clone(), vec![0.0; len.div_ceil(4096)]);
            reduce::add(isa, &mut a, &q);
            reduce::fold_pair(isa, &mut b, &q, &t);
            reduce::sum_squares_blocks(isa, &p, &mut blocks);
            assert_same(isa, "p + q", &a, &sum);
            assert_same(isa, "p + (q + t)", &b, &fold);
            prop_assert_eq!(&squares, &blocks.iter().map(|b| b.to_bits()).collect::<Vec<_>>());
        }
    }
}

#[test]
fn batch_loss_sums_blocks() {
    let losses = Lcg(3).vec(10_000, false);
    let block = |r: std::ops::Range<usize>| losses[r].iter().fold(0.0, |a, l| a + f64::from(*l));
    let want = (block(0..4096) + block(4096..8192) + block(8192..10_000)) / 10_000.0;
    assert_eq!(reduce::batch_loss(&losses, 10_000).to_bits(), want.to_bits());
    assert_eq!(reduce::batch_loss(&losses, 625).to_bits(), (want * 16.0).to_bits());
    assert_eq!(reduce::batch_loss(&losses, 0).to_bits(), 0);
}

#[test]
fn moments_keep_a_zero_weight_at_zero() {
    let hyper = Hyper::new(1e-3, 0.9, 0.95, 1e-8, 0.1, 1.0, 1);
    for isa in isas() {
        let (mut w, mut m, mut v) = ([0.0; 20], [0.0; 20], [0.0; 20]);
        adamw::update(isa, &mut w, &mut m, &mut v, &[0.0; 20], &hyper);
        assert!(w.iter().chain(&m).chain(&v).all(|x| *x == 0.0), "{}", isa.name());
    }
}

#[test]
fn a_broken_row_has_no_loss() {
    for isa in isas() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut l = Buf::new(&mut Lcg(9), 2, 21, false);
            l.row_mut(1)[17] = bad;
            let mut losses = [0.0; 2];
            loss::rows(isa, l.view(), &[3, 4], &mut losses);
            assert!(losses[0].is_finite() && losses[1].is_nan(), "{}: {losses:?}", isa.name());
            loss::rows_backward(isa, l.view_mut(), &[3, 4], 0.5, &mut losses);
            assert!(losses[0].is_finite() && losses[1].is_nan(), "{}: {losses:?}", isa.name());
            assert!(l.row(0).iter().all(|v| v.is_finite()) && l.row(1).iter().any(|v| v.is_nan()));
        }
    }
}

#[test]
#[should_panic(expected = "target 21 of a vocabulary of 21")]
fn a_target_outside_the_vocabulary_is_refused() {
    loss::rows(Isa::Portable, Buf::new(&mut Lcg(9), 1, 21, false).view(), &[21], &mut [0.0]);
}

#[test]
#[should_panic(expected = "token 5 of 5")]
fn a_token_outside_the_sector_is_refused() {
    embedding::scatter_row(Isa::Portable, Buf::new(&mut Lcg(9), 5, 3, false).view(), &[5], &mut [0.0; 3]);
}
