//! The operations of the tokens, the emulated FMA, `exp` and `log`.

mod common;

use common::{Lcg, assert_same, isas, same_bits, spec};
use symlm_kernels::math;
use symlm_kernels::simd::{Kernel, LANES, Simd, dispatch, soft_fma};

/// e^x of whole vectors.
struct Exp<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Exp<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, y) in self.0.chunks_exact(LANES).zip(self.1.chunks_exact_mut(LANES)) {
            // SAFETY: both chunks have sixteen elements.
            unsafe { s.store(y.as_mut_ptr(), math::exp(s, s.load(x.as_ptr()))) }
        }
    }
}

struct Log<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Log<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, y) in self.0.iter().zip(self.1) {
            *y = math::log(s, *x);
        }
    }
}

/// Distance in units in the last place of the binade of `exact`.
fn ulps(got: f32, exact: f64) -> f64 {
    let exponent = ((exact.abs().to_bits() >> 52) as i32 - 1023).max(-126);
    (f64::from(got) - exact).abs() / 2_f64.powi(exponent - 23)
}

/// Every `step`-th f32 from the smallest positive one to `last`, a whole number of vectors.
fn sweep(first: f32, last: f32, step: usize) -> Vec<f32> {
    let mut x: Vec<f32> = (first.to_bits()..=last.to_bits()).step_by(step).map(f32::from_bits).collect();
    x.resize(x.len().next_multiple_of(LANES), last);
    x
}

#[test]
fn exp_is_accurate_and_equal_everywhere() {
    let mut x = sweep(0.0, 88.0, 997);
    x.extend(sweep(0.0, 87.0, 997).iter().map(|x| -x));
    let mut worst = 0.0_f64;
    let want: Vec<f32> = x.iter().map(|x| spec::exp(*x)).collect();
    for (x, y) in x.iter().zip(&want) {
        worst = worst.max(ulps(*y, libm::exp(f64::from(*x))));
    }
    assert!(worst <= 1.5, "{worst} ulp");
    for isa in isas() {
        let mut y = vec![0.0; x.len()];
        dispatch(isa, Exp(&x, &mut y));
        assert_same(isa, "exp", &y, &want);
    }
}

#[test]
fn exp_of_special_values() {
    let low = f32::from_bits(87_f32.to_bits() + 1);
    let cases = [
        (0.0, 1.0),
        (-0.0, 1.0),
        (f32::NEG_INFINITY, 0.0),
        (-low, 0.0),
        (-1e30, 0.0),
        (f32::MIN_POSITIVE, 1.0),
        (-1e-45, 1.0),
    ];
    for isa in isas() {
        for (x, want) in cases {
            let mut y = [f32::NAN; LANES];
            dispatch(isa, Exp(&[x; LANES], &mut y));
            assert_eq!(y[3].to_bits(), f32::to_bits(want), "exp({x:e}) on {}", isa.name());
        }
        let (mut top, mut over, mut nan) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        dispatch(isa, Exp(&[88.0; LANES], &mut top));
        dispatch(isa, Exp(&[f32::INFINITY; LANES], &mut over));
        dispatch(isa, Exp(&[f32::NAN; LANES], &mut nan));
        assert!(top == over && top[0] > 1.6e38 && nan.iter().all(|v| v.is_nan()));
    }
}

#[test]
fn log_is_accurate_and_equal_everywhere() {
    let mut x = sweep(1.0, 1e6, 397);
    x.extend(sweep(1.0, 1.001, 1));
    let want: Vec<f32> = x.iter().map(|x| spec::log(*x)).collect();
    let mut worst = 0.0_f64;
    for (x, y) in x.iter().zip(&want) {
        worst = worst.max(ulps(*y, libm::log(f64::from(*x))));
    }
    assert!(worst <= 1.0, "{worst} ulp");
    for isa in isas() {
        let mut y = vec![0.0; x.len()];
        dispatch(isa, Log(&x, &mut y));
        assert_same(isa, "log", &y, &want);
    }
    assert_eq!(spec::log(1.0).to_bits(), 0);
}

/// Values whose products and sums meet every special case of rounding.
fn special() -> Vec<f32> {
    let positive = [
        0.0,
        f32::from_bits(1),
        f32::from_bits(3),
        f32::from_bits(0x007F_FFFF),
        f32::MIN_POSITIVE,
        f32::from_bits(0x0080_0001),
        f32::EPSILON,
        f32::EPSILON / 2.0,
        1.0 - f32::EPSILON / 2.0,
        1.0,
        1.0 + f32::EPSILON,
        1.5,
        4097.0,
        16_777_217.0 - 1.0,
        1e-20,
        1e20,
        f32::MAX / 2.0,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ];
    positive.into_iter().flat_map(|v: f32| [v, -v]).collect()
}

#[test]
fn emulated_fma_is_fma() {
    let check = |a: f32, b: f32, c: f32| {
        let (got, want) = (soft_fma(a, b, c), a.mul_add(b, c));
        assert!(same_bits(got, want), "fma({a:e}, {b:e}, {c:e}) = {want:e}, emulated {got:e}");
    };
    for a in special() {
        for b in special() {
            for c in special() {
                check(a, b, c);
            }
        }
    }
    let rng = &mut Lcg(11);
    for _ in 0..1_000_000 {
        let (a, b, c) = (rng.wild(), rng.wild(), rng.wild());
        check(a, b, c);
        check(a, b, f32::from_bits(rng.bits()));
        // Near cancellation, and a tie that only the last bit of the product breaks.
        check(a, b, -(a * b));
        check(a, b, f32::from_bits((a * b).to_bits() ^ (rng.bits() >> 6)));
        check(rng.value(), rng.value(), rng.wild());
        check(1.0 + f32::EPSILON * rng.below(4) as f32, 1.0 + f32::EPSILON * rng.below(4) as f32, c * f32::EPSILON);
    }
}

/// Every lane operation on three vectors; comparisons and folds as numbers.
struct Operations([f32; LANES], [f32; LANES], [f32; LANES]);

impl Kernel for Operations {
    type Output = (Vec<f32>, [f64; LANES]);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        // SAFETY: the arrays have sixteen elements.
        let (a, b, c) = unsafe { (s.load(self.0.as_ptr()), s.load(self.1.as_ptr()), s.load(self.2.as_ptr())) };
        let results = [
            s.add(a, b),
            s.sub(a, b),
            s.mul(a, b),
            s.div(a, b),
            s.sqrt(a),
            s.fma(a, b, c),
            s.fnma(a, b, c),
            s.fms(a, b, c),
            s.select(s.gt(a, b), a, c),
            s.max(a, b),
            s.select(s.first_n(0), a, b),
            s.select(s.first_n(5), a, b),
            s.select(s.first_n(11), a, b),
            s.select(s.first_n(16), a, b),
            s.splat(self.0[7]),
            s.zero(),
        ];
        let squares = s.to_array_d(s.add_square_d(s.add_square_d(s.zero_d(), b), a));
        (results.map(|v| s.to_array(v)).concat(), squares)
    }
}

#[test]
fn lane_operations_are_scalar_operations() {
    let rng = &mut Lcg(21);
    let special = special();
    for round in 0..2_000 {
        let mut draw = || -> [f32; LANES] {
            std::array::from_fn(|_| if round % 2 == 0 { rng.wild() } else { special[rng.below(special.len())] })
        };
        let (a, b, c) = (draw(), draw(), draw());
        let each = |f: &dyn Fn(usize) -> f32| (0..LANES).map(f).collect::<Vec<f32>>();
        let want = [
            each(&|i| a[i] + b[i]),
            each(&|i| a[i] - b[i]),
            each(&|i| a[i] * b[i]),
            each(&|i| a[i] / b[i]),
            each(&|i| a[i].sqrt()),
            each(&|i| a[i].mul_add(b[i], c[i])),
            each(&|i| (-a[i]).mul_add(b[i], c[i])),
            each(&|i| a[i].mul_add(b[i], -c[i])),
            each(&|i| if a[i] > b[i] { a[i] } else { c[i] }),
            each(&|i| if a[i] > b[i] { a[i] } else { b[i] }),
            each(&|i| b[i]),
            each(&|i| if i < 5 { a[i] } else { b[i] }),
            each(&|i| if i < 11 { a[i] } else { b[i] }),
            each(&|i| a[i]),
            each(&|_| a[7]),
            each(&|_| 0.0),
        ]
        .concat();
        for isa in isas() {
            let (got, squares) = dispatch(isa, Operations(a, b, c));
            assert_same(isa, "operation", &got, &want);
            for i in 0..LANES {
                let want = f64::from(b[i]) * f64::from(b[i]) + f64::from(a[i]) * f64::from(a[i]);
                assert!(squares[i] == want || squares[i].is_nan() && want.is_nan());
            }
        }
    }
}

/// Moves a block through a transpose, and a vector through partial loads and stores.
struct Moves<'a>(&'a [f32; 256], &'a mut [f32; 256], &'a mut [f32; 256]);

impl Kernel for Moves<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut rows = [s.zero(); LANES];
        for (row, x) in rows.iter_mut().zip(self.0.chunks_exact(LANES)) {
            // SAFETY: the chunk has sixteen elements.
            *row = unsafe { s.load(x.as_ptr()) };
        }
        for (row, y) in s.transpose(rows).into_iter().zip(self.1.chunks_exact_mut(LANES)) {
            // SAFETY: the chunk has sixteen elements.
            unsafe { s.store(y.as_mut_ptr(), row) }
        }
        for (n, (x, y)) in self.0.chunks_exact(LANES).zip(self.2.chunks_exact_mut(LANES)).enumerate() {
            // SAFETY: n < 16 elements from the start of chunks of sixteen; the second load reads n of them again.
            unsafe {
                s.store_n(y.as_mut_ptr(), s.load_n(x.as_ptr(), n), n);
                let padded = s.to_array(s.load_n(x.as_ptr(), n));
                assert!(padded[n..].iter().all(|v| v.to_bits() == 0));
            }
        }
    }
}

#[test]
fn transposes_and_tails_move_exactly_their_lanes() {
    let x: [f32; 256] = std::array::from_fn(|i| i as f32 + 1.0);
    let transposed: Vec<f32> = (0..256).map(|i| x[i % 16 * 16 + i / 16]).collect();
    let tails: Vec<f32> = (0..256).map(|i| if i % 16 < i / 16 { x[i] } else { -1.0 }).collect();
    for isa in isas() {
        let (mut y, mut z) = ([0.0; 256], [-1.0; 256]);
        dispatch(isa, Moves(&x, &mut y, &mut z));
        assert_same(isa, "transpose", &y, &transposed);
        assert_same(isa, "tail", &z, &tails);
    }
}
