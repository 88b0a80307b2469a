//! The peaks of the processor: loops on registers alone, on as many threads as are asked for.

use crate::error::{Error, Result, io_reason};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use symlm_kernels::gemm::int16::integer_loop;
use symlm_kernels::{Integers, Isa, peak};

/// Rounds of a loop before the clock starts, and between two looks at it.
const WARM_UP_ROUNDS: u64 = 100_000;
const ROUNDS: u64 = 20_000;

/// GFLOP/s of a loop of fused multiply-adds on registers, on `threads` new threads that are joined before return.
/// With more threads than processors the loops share them.
///
/// # Errors
/// `User` if a thread cannot be started.
pub fn fma_peak(isa: Isa, threads: usize, seconds: f64) -> Result<f64> {
    billions(threads, seconds, |rounds| std::hint::black_box(peak::fma_loop(isa, rounds)).1)
}

/// As [`fma_peak`], of products of 16-bit integers: billions of multiplications and additions a second. Nothing for the
/// specification, which has no instruction.
///
/// # Errors
/// `User` if a thread cannot be started.
pub fn integer_peak(integers: Integers, threads: usize, seconds: f64) -> Result<Option<f64>> {
    if integer_loop(integers, 0).is_none() {
        return Ok(None);
    }
    let run = |rounds| std::hint::black_box(integer_loop(integers, rounds)).map_or(0, |found| found.1);
    billions(threads, seconds, run).map(Some)
}

/// Billions of operations a second that `run`, which does some rounds and gives their operations, does on all threads.
fn billions(threads: usize, seconds: f64, run: impl Fn(u64) -> u64 + Sync) -> Result<f64> {
    const WAIT: u8 = 0;
    const GO: u8 = 1;
    const GIVE_UP: u8 = 2;
    let duration = Duration::try_from_secs_f64(seconds.clamp(0.001, 60.0)).unwrap_or(Duration::from_millis(100));
    let (signal, ready) = (AtomicU8::new(WAIT), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let spawn = |index: usize| {
            let (signal, ready, run) = (&signal, &ready, &run);
            std::thread::Builder::new().name(format!("symlm-peak{index:02}")).spawn_scoped(scope, move || {
                run(WARM_UP_ROUNDS);
                ready.fetch_add(1, Ordering::AcqRel);
                while signal.load(Ordering::Acquire) == WAIT {
                    std::thread::yield_now();
                }
                let (start, mut done) = (Instant::now(), 0_u64);
                while signal.load(Ordering::Acquire) == GO && start.elapsed() < duration {
                    done += run(ROUNDS);
                }
                done as f64 / start.elapsed().as_secs_f64()
            })
        };
        let mut workers = Vec::with_capacity(threads);
        for index in 0..threads {
            match spawn(index) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    // Those that have started must not wait for the others.
                    signal.store(GIVE_UP, Ordering::Release);
                    let reason = io_reason(&error);
                    let error = Error::user(format!("cannot start thread {index} of {threads}: {reason}"));
                    return Err(error.hint("use fewer threads"));
                }
            }
        }
        while ready.load(Ordering::Acquire) < threads {
            std::thread::yield_now();
        }
        signal.store(GO, Ordering::Release);
        Ok(workers.into_iter().map(|w| w.join().unwrap_or(0.0)).sum::<f64>() / 1e9)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_with_an_instruction_has_a_peak() {
        assert!(fma_peak(Isa::detect(), 2, 0.02).unwrap() > 0.1);
        for integers in Integers::available() {
            let found = integer_peak(integers, 2, 0.02).unwrap();
            let portable = integers.name().starts_with("portable");
            assert_eq!(found.is_none(), portable, "{}", integers.name());
            assert!(found.is_none_or(|found| found > 0.1), "{}", integers.name());
        }
    }
}
