//! Products of 16-bit integers equal the specification bit for bit, with every set of instructions, for all tails, and at the
//! edge of what 32 bits hold.

mod common;

use common::{Buf, Lcg, assert_same, int16 as spec, isas};
use proptest::prelude::*;
use symlm_kernels::gemm::int16::{
    self, BLOCK, Quantised, QuantisedMut, pack_weights, packed_len, product, product_add, quantise_rows, row_pairs,
};
use symlm_kernels::gemm::{Fold, Packed};
use symlm_kernels::{Integers, Isa, Mat, MatMut};

/// What this machine can run, of the instruction sets that are tested.
fn all() -> Vec<Integers> {
    let isas = isas();
    Integers::available().into_iter().filter(|integers| isas.contains(&integers.isa())).collect()
}

/// Integers, with room between their rows, and scales.
struct Ints {
    pairs: Vec<f32>,
    scales: Vec<f32>,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Ints {
    fn of(isa: Isa, x: &Buf, factors: Option<&[f32]>, group: Option<usize>) -> Self {
        let (rows, cols, stride) = (x.rows, x.cols, row_pairs(x.cols) + 3);
        let groups = x.cols.div_ceil(group.unwrap_or(x.cols).max(1)).max(1);
        let mut ints = Self { pairs: vec![7.0; rows * stride], scales: vec![7.0; rows * groups], rows, cols, stride };
        let pairs = MatMut::new(&mut ints.pairs, rows, row_pairs(cols), stride);
        quantise_rows(isa, x.view(), factors, group, QuantisedMut::new(pairs, cols, &mut ints.scales));
        ints
    }
    fn view(&self) -> Quantised<'_> {
        Quantised::new(Mat::new(&self.pairs, self.rows, row_pairs(self.cols), self.stride), self.cols, &self.scales)
    }
}

/// Weights packed both ways, some rows at a time.
struct Weights {
    scales: Vec<f32>,
    forward: Vec<f32>,
    backward: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl Weights {
    fn of(isa: Isa, w: &Buf) -> Self {
        let (rows, cols) = (w.rows, w.cols);
        let mut forward = vec![0.0; packed_len(cols, rows)];
        let mut backward = vec![0.0; packed_len(rows, cols)];
        let (mut scales, mut scratch) = (vec![7.0; rows], vec![7.0; 64 * row_pairs(cols)]);
        for first in (0..rows).step_by(64) {
            let part = first..rows.min(first + 64);
            let panels = [forward.as_mut_ptr(), backward.as_mut_ptr()];
            // SAFETY: the panels have room for the matrix, and nobody else uses them.
            unsafe {
                let w = w.view().row_range(part.clone());
                pack_weights(isa, w, first, rows, &mut scales[part], panels, &mut scratch);
            }
        }
        Self { scales, forward, backward, rows, cols }
    }
    fn forward(&self) -> Packed<'_> {
        Packed::new(&self.forward, self.cols.div_ceil(2), self.rows)
    }
    fn backward(&self) -> Packed<'_> {
        Packed::new(&self.backward, self.rows.div_ceil(2), self.cols)
    }
}

fn with_rows(like: &Buf, values: &[f32]) -> Buf {
    let mut out = like.clone();
    for i in 0..like.rows {
        out.row_mut(i).copy_from_slice(&values[i * like.cols..(i + 1) * like.cols]);
    }
    out
}

fn label(integers: Integers, what: &str) -> String {
    format!("{what}, {}", integers.name())
}

/// `y = x wᵀ`, alone and added to `r`, and `dx = dy w`.
fn check_products(rng: &mut Lcg, x: &Buf, w: &Buf, dy: &Buf) {
    let (y, r) = (Buf::new(rng, x.rows, w.rows, false), Buf::new(rng, x.rows, w.rows, false));
    let dx = Buf::new(rng, x.rows, w.cols, false);
    let chain = spec::product(x, w);
    let sums: Vec<f32> = (0..r.rows).flat_map(|i| r.row(i).to_vec()).zip(&chain).map(|(r, y)| r + y).collect();
    let back = with_rows(&dx, &spec::input_gradient(dy, w));
    for integers in all() {
        let (isa, ints) = (integers.isa(), Ints::of(integers.isa(), x, None, None));
        let weights = Weights::of(isa, w);
        let mut got = y.clone();
        product(integers, ints.view(), weights.forward(), Some(&weights.scales), got.view_mut());
        assert_same(isa, &label(integers, "y"), &got.data, &with_rows(&y, &chain).data);
        let mut got = y.clone();
        product_add(integers, ints.view(), weights.forward(), Some(&weights.scales), r.view(), got.view_mut());
        assert_same(isa, &label(integers, "r + y"), &got.data, &with_rows(&y, &sums).data);
        let mut got = dx.clone();
        let ints = Ints::of(isa, dy, Some(&weights.scales), Some(BLOCK));
        product(integers, ints.view(), weights.backward(), None, got.view_mut());
        assert_same(isa, &label(integers, "dx"), &got.data, &back.data);
    }
}

fn check_gradient(rng: &mut Lcg, dy: &Buf, x: &Buf) {
    let dw = Buf::new(rng, dy.cols, x.cols, false);
    let sector = spec::weight_gradient(dy, x);
    let sums: Vec<f32> = (0..dw.rows).flat_map(|i| dw.row(i).to_vec()).zip(&sector).map(|(d, s)| d + s).collect();
    for integers in all() {
        let (isa, ints) = (integers.isa(), Ints::of(integers.isa(), x, None, None));
        for (fold, want) in [(Fold::Set, &sector), (Fold::Add, &sums)] {
            let mut got = dw.clone();
            let scratch = &mut vec![f32::NAN; int16::weight_gradient_scratch(dy.rows, dy.cols, x.cols)];
            let coming = Some((dy.view(), ints.view().pairs()));
            int16::weight_gradient(integers, dy.view(), ints.view(), got.view_mut(), fold, coming, scratch);
            assert_same(isa, &label(integers, "dw"), &got.data, &with_rows(&dw, want).data);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_of_integers(
        seed: u32,
        m in 0_usize..50,
        n in prop_oneof![6 => 0_usize..100, 1 => 510_usize..520, 1 => 1020_usize..1030],
        k in prop_oneof![6 => 0_usize..80, 1 => 510_usize..520, 1 => 1020_usize..1030],
        wild: bool,
    ) {
        let rng = &mut Lcg(seed);
        let (x, w, dy) = (Buf::new(rng, m, k, wild), Buf::new(rng, n, k, wild), Buf::new(rng, m, n, wild));
        check_products(rng, &x, &w, &dy);
    }

    #[test]
    fn weight_gradients_of_integers(
        seed: u32,
        tokens in prop_oneof![6 => 0_usize..80, 1 => 510_usize..520, 1 => 1020_usize..1030],
        rows in prop_oneof![6 => 0_usize..60, 1 => 250_usize..300],
        cols in 0_usize..100,
        wild: bool,
    ) {
        let rng = &mut Lcg(seed);
        let (dy, x) = (Buf::new(rng, tokens, rows, wild), Buf::new(rng, tokens, cols, wild));
        check_gradient(rng, &dy, &x);
    }
}

/// All elements the same, which quantises to the largest integer.
fn full(rows: usize, cols: usize, value: f32) -> Buf {
    let mut x = Buf::new(&mut Lcg(1), rows, cols, false);
    (0..rows).for_each(|i| x.row_mut(i).fill(value));
    x
}

/// 2,047.5 rounds to 2,048 and is clamped; 512 products of 2,047 and 2,047 are 2,145,387,008.
#[test]
fn the_largest_sums_fit() {
    let largest = f32::from_bits(2.0_f32.to_bits() - 1);
    assert_eq!(spec::group(&[largest, -largest, 1.0]).integers, [2047, -2047, 1024]);
    let rng = &mut Lcg(5);
    for (a, b) in [(largest, largest), (largest, -largest), (-largest, -largest)] {
        for k in [511, 512, 513, 1024] {
            let (x, w) = (full(15, k, a), full(33, k, b));
            check_products(rng, &x, &w, &full(15, 33, a));
            check_products(rng, &full(15, 33, a), &full(k, 33, b), &full(15, k, a));
            check_gradient(rng, &full(k, 15, a), &full(k, 33, b));
        }
    }
    let sum = 512.0 * 2047.0 * 2047.0 * f32::from_bits((127 - 20) << 23);
    assert_eq!(spec::product(&full(1, 512, largest), &full(1, 512, largest)), [sum]);
}

/// Whatever a group holds beside it, a NaN or an infinity is a NaN in every element that its group takes part in.
#[test]
fn what_is_not_finite_stays_so() {
    let rng = &mut Lcg(8);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let draw = |rng: &mut Lcg, rows, cols| Buf::new(rng, rows, cols, false);
        let (mut x, w, dy) = (draw(rng, 5, 600), draw(rng, 40, 600), draw(rng, 5, 40));
        x.row_mut(3)[599] = bad;
        check_products(rng, &x, &w, &dy);
        let y = spec::product(&x, &w);
        assert!((0..5).all(|t| (0..40).all(|o| y[t * 40 + o].is_nan() == (t == 3))));
        check_gradient(rng, &dy, &x);
        assert!(spec::weight_gradient(&dy, &x).iter().all(|x| x.is_nan()));
        let (x, mut w, mut dy) = (draw(rng, 5, 600), draw(rng, 40, 600), draw(rng, 5, 40));
        w.row_mut(7)[0] = bad;
        check_products(rng, &x, &w, &dy);
        assert!(spec::input_gradient(&dy, &w).iter().all(|x| x.is_nan()));
        dy.row_mut(2)[9] = bad;
        check_gradient(rng, &dy, &x);
        let dw = spec::weight_gradient(&dy, &x);
        assert!((0..40).all(|o| (0..600).all(|i| dw[o * 600 + i].is_nan() == (o == 9))));
    }
}

/// Zeros of both signs, subnormal rows and empty products are +0.
#[test]
fn what_is_tiny_is_zero() {
    let rng = &mut Lcg(3);
    for value in [0.0, -0.0, f32::from_bits(1), -1e-40, f32::from_bits((127 - 112) << 23)] {
        let (x, w) = (full(4, 50, value), full(20, 50, 1.0));
        check_products(rng, &x, &w, &full(4, 20, value));
        assert!(spec::product(&x, &w).iter().all(|y| y.to_bits() == 0));
        check_gradient(rng, &full(4, 20, value), &x);
    }
}

/// Groups of rows that fill no vectors, by definition.
#[test]
fn rows_are_quantised_as_the_contract_says() {
    let rng = &mut Lcg(77);
    for cols in [1, 15, 16, 17, 31, 33, 700] {
        for wild in [false, true] {
            let x = Buf::new(rng, 9, cols, wild);
            for isa in isas() {
                let ints = Ints::of(isa, &x, None, None);
                for t in 0..9 {
                    let want = spec::group(x.row(t));
                    assert_same(isa, "scale", &[ints.scales[t]], &[want.scale]);
                    let got: Vec<i64> = (0..cols).map(|i| i64::from(ints.view().integer(t, i))).collect();
                    assert_eq!(got, want.integers, "{}", isa.name());
                }
            }
        }
    }
}

/// Every instruction has a peak that it can be compared with, and every round counts.
#[test]
fn the_peak_does_what_it_says() {
    for integers in all() {
        let Some((sum, operations)) = int16::integer_loop(integers, 10) else {
            assert_eq!(integers.isa().name().split('-').next(), Some("portable"));
            continue;
        };
        // Two operations for each product, of which half are 3 * 3 and half 1 * 1.
        let products = match integers.isa() {
            Isa::Avx512 => 12 * 16 * 2,
            Isa::Avx2 => 12 * 8 * 2,
            _ => 24 * 4,
        };
        assert_eq!((sum, operations), (10 * products * 5, 10 * products as u64 * 2), "{}", integers.name());
    }
}

/// Safe functions never reach instructions that the CPU lacks. (Each machine lacks those of another architecture.)
#[test]
fn instructions_that_the_cpu_lacks_are_refused() {
    let x = full(3, 32, 1.0);
    let (ints, weights) = (Ints::of(Isa::Portable, &x, None, None), Weights::of(Isa::Portable, &x));
    for integers in Integers::ALL.into_iter().filter(|integers| !integers.is_available()) {
        let refused = |what: &str, kernel: &dyn Fn(MatMut<'_>)| {
            let run = std::panic::AssertUnwindSafe(|| kernel(full(32, 32, 0.0).view_mut()));
            let payload = std::panic::catch_unwind(run).expect_err(what);
            let found = payload.downcast_ref::<String>().map_or("", |text| text);
            assert_eq!(found, format!("this CPU has no {}", integers.name()), "{what}");
        };
        let (view, forward) = (ints.view(), weights.forward());
        refused("product", &|mut c| product(integers, view, forward, None, c.row_range(0..3).col_range(0..3)));
        refused("product_add", &|mut c| {
            product_add(integers, view, forward, None, x.view().col_range(0..3), c.row_range(0..3).col_range(0..3));
        });
        refused("weight_gradient", &|dw| {
            let scratch = &mut vec![0.0; int16::weight_gradient_scratch(3, 32, 32)];
            int16::weight_gradient(integers, x.view(), view, dw, Fold::Set, None, scratch);
        });
    }
}
