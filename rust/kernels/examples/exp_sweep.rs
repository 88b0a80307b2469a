//! Checks `exp` on all 2^32 arguments: the same bits on every instruction set, and the largest error on [-87, 88].
//!
//! `cargo run --release -p symlm-kernels --example exp_sweep [threads]`; some minutes of CPU time.

use symlm_kernels::math;
use symlm_kernels::simd::{Isa, Kernel, LANES, Simd, dispatch};

const CHUNK: usize = 1 << 16;

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

/// What one thread found.
#[derive(Default)]
struct Found {
    unequal: u64,
    worst: f64,
    at: f32,
    lost_nan: u64,
}

/// Compares the chunks `first, first + step, ..`.
fn sweep(first: usize, step: usize) -> Found {
    let mut found = Found::default();
    let (mut x, mut want, mut got) = (vec![0.0; CHUNK], vec![0.0; CHUNK], vec![0.0; CHUNK]);
    for chunk in (first..(1 << 32) / CHUNK).step_by(step) {
        for (i, x) in x.iter_mut().enumerate() {
            *x = f32::from_bits((chunk * CHUNK + i) as u32);
        }
        dispatch(Isa::Portable, Exp(&x, &mut want));
        for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Portable) {
            dispatch(isa, Exp(&x, &mut got));
            let pairs = x.iter().zip(want.iter().zip(&got));
            found.unequal += pairs.filter(|(x, (w, g))| !x.is_nan() && w.to_bits() != g.to_bits()).count() as u64;
        }
        for (x, y) in x.iter().zip(&want) {
            found.lost_nan += u64::from(x.is_nan() && !y.is_nan());
            if (-87.0..=88.0).contains(x) {
                let exact = libm::exp(f64::from(*x));
                let exponent = (exact.to_bits() >> 52) as i32 - 1023;
                let ulps = (f64::from(*y) - exact).abs() * 2_f64.powi(23 - exponent);
                if ulps > found.worst {
                    (found.worst, found.at) = (ulps, *x);
                }
            }
        }
    }
    found
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_usize).max(1);
    let found: Vec<Found> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|t| scope.spawn(move || sweep(t, threads))).collect();
        handles.into_iter().map(|h| h.join().expect("a sweep thread panicked")).collect()
    });
    let worst = found.iter().max_by(|a, b| a.worst.total_cmp(&b.worst)).expect("at least one thread");
    let names: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    let unequal: u64 = found.iter().map(|f| f.unequal).sum();
    println!("instruction sets: {}", names.join(", "));
    println!("arguments with other bits: {unequal}");
    println!("largest error on [-87, 88]: {:.4} ulp at {:e}", worst.worst, worst.at);
    println!("NaN arguments whose result is a number: {}", found.iter().map(|f| f.lost_nan).sum::<u64>());
    if unequal > 0 || worst.worst > 1.5 {
        std::process::exit(1);
    }
}
