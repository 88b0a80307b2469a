//! Merged weights and gradients of adapters equal their formulas bit for bit on every instruction set (contract D1-D3).

mod common;

use common::chains::chain;
use common::{Buf, Lcg, assert_same, isas};
use proptest::prelude::*;
use symlm_kernels::adapter;
use symlm_kernels::gemm::packed_len;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn adapters(seed: u32, rank in 1_usize..70, rows in 1_usize..70, cols in 1_usize..90, wild: bool, s in 0.01_f32..4.0) {
        let rng = &mut Lcg(seed);
        let (a, b) = (Buf::new(rng, rank, cols, wild), Buf::new(rng, rows, rank, wild));
        let (w0, dw) = (Buf::new(rng, rows, cols, wild), Buf::new(rng, rows, cols, wild));
        let (mut w, mut da, mut db) = (w0.clone(), a.clone(), b.clone());
        for o in 0..rows {
            for i in 0..cols {
                let product = chain(0.0, (0..rank).map(|k| (b.row(o)[k], a.row(k)[i])));
                w.row_mut(o)[i] = s.mul_add(product, w0.row(o)[i]);
            }
            for k in 0..rank {
                db.row_mut(o)[k] = s * chain(0.0, (0..cols).map(|i| (dw.row(o)[i], a.row(k)[i])));
            }
        }
        for k in 0..rank {
            for i in 0..cols {
                da.row_mut(k)[i] = s * chain(0.0, (0..rows).map(|o| (b.row(o)[k], dw.row(o)[i])));
            }
        }
        for isa in isas() {
            let (mut got_w, mut got_a, mut got_b) = (w0.clone(), a.clone(), b.clone());
            adapter::merge(isa, b.view(), a.view(), w0.view(), s, got_w.view_mut());
            adapter::gradient_a(isa, b.view(), dw.view(), s, got_a.view_mut());
            let packed = &mut vec![f32::NAN; packed_len(cols, rank)];
            adapter::gradient_b(isa, dw.view(), a.view(), s, got_b.view_mut(), packed);
            assert_same(isa, "merged weights", &got_w.data, &w.data);
            assert_same(isa, "gradient of a", &got_a.data, &da.data);
            assert_same(isa, "gradient of b", &got_b.data, &db.data);
        }
    }
}
