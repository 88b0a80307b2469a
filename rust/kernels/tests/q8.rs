//! Products with 8-bit weights equal their formulas bit for bit, whatever instructions compute them.

mod common;

use common::{Buf, Lcg};
use proptest::prelude::*;
use symlm_kernels::gemm::q8::{self, Panels, QuantisedMut};
use symlm_kernels::{Integers, Mat, MatMut};

/// Blocks of a file: any bytes, -128 among them, and scales that are f16.
fn blocks(rng: &mut Lcg, n: usize, k: usize, scale: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..n * q8::groups(k) {
        bytes.extend((scale ^ (rng.value().to_bits() >> 9) as u16 & 0x83FF).to_le_bytes());
        let weights: Vec<u8> = (0..32).map(|_| (rng.value() * 64.0) as i32 as u8).collect();
        bytes.extend(weights.iter().enumerate().map(|(i, w)| if i % 7 == 3 { 128 } else { *w }));
    }
    // What lies beyond a row's end.
    for row in bytes.chunks_mut(q8::groups(k) * q8::BLOCK_BYTES) {
        let end = row.len();
        row[end - (q8::groups(k) * 32 - k)..].fill(0);
    }
    bytes
}

fn half(bits: u16) -> f32 {
    let (sign, e, f) = (if bits >> 15 == 1 { -1.0 } else { 1.0 }, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let x = if e == 0 { f * 2_f64.powi(-24) } else { (1024.0 + f) * 2_f64.powi(e - 25) };
    (sign * x) as f32
}

/// Q2 and Q3: integers and scale of a group.
fn group(x: &[f32]) -> (Vec<i64>, f32) {
    let largest = x.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
    if largest < 2_f32.powi(-100) {
        return (vec![0; 32], 0.0);
    }
    let factor = 127.0 / largest;
    let mut integers: Vec<i64> = x.iter().map(|x| f64::from(x * factor).round_ties_even() as i64).collect();
    integers.resize(32, 0);
    (integers, largest / 127.0)
}

/// Q4 of one element.
fn element(x: &[f32], row: &[u8]) -> f32 {
    let mut c = 0.0_f32;
    for (x, block) in x.chunks(32).zip(row.chunks(q8::BLOCK_BYTES)) {
        let (integers, scale) = group(x);
        let weights = block[2..].iter().map(|w| i64::from(w.cast_signed()));
        let sum: i64 = integers.iter().zip(weights).map(|(x, w)| x * w).sum();
        let both = half(u16::from_le_bytes([block[0], block[1]])) * scale;
        c = (sum as f32).mul_add(both, c);
    }
    c
}

fn packed(blocks: &[u8], k: usize, n: usize) -> Vec<u8> {
    let mut panels = vec![7; q8::packed_bytes(k, n)];
    q8::clear(&mut panels);
    // In two parts, as tensors that share their input.
    let cut = n / 2 * q8::groups(k) * q8::BLOCK_BYTES;
    q8::pack_blocks(&blocks[..cut], k, 0, &mut panels);
    q8::pack_blocks(&blocks[cut..], k, n / 2, &mut panels);
    panels
}

fn product(kind: Integers, x: &Buf, panels: Panels<'_>, residual: Option<Mat<'_>>) -> Vec<f32> {
    let (rows, n) = (x.rows, panels.n());
    let mut out = vec![0.0; rows * n];
    let mut room = QuantisedMut::new(rows, x.cols);
    let quantised = q8::quantise_rows(kind, x.view(), &mut room);
    q8::product(kind, quantised, panels, residual, MatMut::new(&mut out, rows, n, n));
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #[test]
    fn a_product_is_its_formula(rows in 1_usize..15, k in 1_usize..200, n in 1_usize..100, seed in any::<u32>(), wild in any::<bool>()) {
        let mut rng = Lcg(seed);
        let blocks = blocks(&mut rng, n, k, 0x1C00);
        let mut x = Buf::new(&mut rng, rows, k, wild);
        for i in 0..rows {
            // Nothing that overflows, but zeros and subnormals.
            x.row_mut(i).iter_mut().filter(|x| !x.is_finite() || x.abs() > 1e20).for_each(|x| *x = 1.5);
        }
        let row = |o: usize| &blocks[o * q8::groups(k) * q8::BLOCK_BYTES..][..q8::groups(k) * q8::BLOCK_BYTES];
        let expected: Vec<f32> = (0..rows).flat_map(|i| (0..n).map(move |o| (i, o))).map(|(i, o)| element(x.row(i), row(o))).collect();
        let bytes = packed(&blocks, k, n);
        let panels = Panels::new(&bytes, k, n);
        let residual: Vec<f32> = (0..rows * n).map(|_| rng.value()).collect();
        let sums: Vec<f32> = residual.iter().zip(&expected).map(|(r, c)| r + c).collect();
        for kind in Integers::available() {
            prop_assert!(bits(&product(kind, &x, panels, None)) == bits(&expected), "{}", kind.name());
            let found = product(kind, &x, panels, Some(Mat::new(&residual, rows, n, n)));
            prop_assert!(bits(&found) == bits(&sums), "{} with a residual", kind.name());
            if n > 32 {
                let part = product(kind, &x, panels.columns(32..n), None);
                let whole: Vec<f32> = (0..rows).flat_map(|i| expected[i * n + 32..(i + 1) * n].to_vec()).collect();
                prop_assert!(bits(&part) == bits(&whole), "{} from column 32 on", kind.name());
            }
        }
    }

    #[test]
    fn quantised_weights_are_near_and_unpack_as_their_blocks(seed in any::<u32>(), k in 1_usize..100) {
        let mut rng = Lcg(seed);
        let row: Vec<f32> = (0..k).map(|_| rng.value()).collect();
        let mut blocks = Vec::new();
        q8::quantise_blocks(&row, &mut blocks);
        prop_assert_eq!(blocks.len(), q8::groups(k) * q8::BLOCK_BYTES);
        let mut panels = vec![0; q8::packed_bytes(k, 1)];
        q8::clear(&mut panels);
        q8::pack_blocks(&blocks, k, 0, &mut panels);
        let mut out = vec![0.0; k];
        q8::unpack_row(Panels::new(&panels, k, 1), 0, &mut out);
        for (out, (block, x)) in out.chunks(32).zip(blocks.chunks(q8::BLOCK_BYTES).zip(row.chunks(32))) {
            let scale = half(u16::from_le_bytes([block[0], block[1]]));
            for (i, (out, x)) in out.iter().zip(x).enumerate() {
                prop_assert_eq!(*out, f32::from(block[2 + i].cast_signed()) * scale);
                prop_assert!((out - x).abs() <= 0.57 * scale, "{} for {}", out, x);
            }
        }
    }
}

#[test]
fn infinities_and_nan_do_not_vanish() {
    let blocks = blocks(&mut Lcg(1), 1, 32, 0x1C00);
    let bytes = packed(&blocks, 32, 1);
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = Buf::new(&mut Lcg(2), 1, 32, false);
        x.row_mut(0)[5] = wrong;
        for kind in Integers::available() {
            assert!(product(kind, &x, Panels::new(&bytes, 32, 1), None)[0].is_nan(), "{}", kind.name());
        }
    }
}
