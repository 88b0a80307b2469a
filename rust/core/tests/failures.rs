//! Failures inside and outside the threads of an engine: a typed error each time, and never a hang.

mod common;

use common::{config, engine, hash, report, tokens, train};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use symlm_core::pool::chaos::Chaos;
use symlm_core::step::{Engine, Switches, Tensors, TokenSource};
use symlm_core::{Error, ErrorKind, Result};

/// Nodes run by an engine until so many updates were done.
fn nodes(threads: usize, switches: Switches, updates: u64) -> u64 {
    let engine = engine(config(threads, 0), tokens(), switches).unwrap();
    train(&engine, updates).unwrap();
    engine.workers().unwrap().iter().map(|w| w.tasks).sum()
}

/// Nothing that could show or write weights works any more.
fn assert_broken(engine: &Engine, message: &str) {
    let evaluation = engine.evaluate(tokens(), 1, |_, _| Ok(())).map(|_| ());
    let tensors = engine.tensors(&[Tensors::Weights], |_| ());
    engine.run_until(9).unwrap();
    for outcome in [evaluation, tensors, engine.set_step(0), report(engine).map(|_| ())] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
        assert_eq!(error.message, message);
    }
}

#[test]
fn a_panic_in_a_worker_is_an_error_whatever_is_switched_off() {
    for (threads, prefetch, barriers) in
        [(1, true, false), (1, false, false), (3, true, false), (3, false, false), (3, true, true), (3, false, true)]
    {
        let switches = Switches { prefetch, barriers, chaos: None };
        let (before, after) = (nodes(threads, switches, 1), nodes(threads, switches, 2));
        // The first, one in the middle and the last node of the second update.
        for node in [before, (before + after) / 2, after - 1] {
            let chaos = Some(Chaos { seed: node, panic_at: Some(node) });
            let engine = engine(config(threads, 0), tokens(), Switches { chaos, ..switches }).unwrap();
            engine.run_until(5).unwrap();
            assert_eq!(report(&engine).unwrap().step, 1);
            let error = report(&engine).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Internal);
            assert_eq!(error.message, format!("a worker failed: node {node} was told to fail"));
            assert!(error.hint.as_deref().unwrap_or_default().contains("checkpoint"));
            assert_eq!(engine.step(), 1);
            assert_broken(&engine, &error.message);
        }
    }
}

/// A source that panics, fails or works.
#[derive(Default)]
struct Unsound {
    panics: AtomicBool,
    fails: AtomicBool,
}

impl TokenSource for Unsound {
    fn tokens(&self) -> u64 {
        5000
    }
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
        assert!(!self.panics.load(Ordering::Relaxed), "the source panics");
        if self.fails.load(Ordering::Relaxed) {
            return Err(Error::data("the source fails"));
        }
        tokens().copy_ids(start, out)
    }
}

#[test]
fn a_panic_in_the_prefetch_thread_is_an_error_each_time() {
    for prefetch in [true, false] {
        let source = Arc::new(Unsound { panics: true.into(), ..Unsound::default() });
        let engine = engine(config(2, 0), source, Switches { prefetch, ..Switches::default() }).unwrap();
        for _ in 0..3 {
            let error = train(&engine, 1).unwrap_err();
            assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Internal, "the prefetch thread has ended"));
        }
        // The weights are what they were.
        assert!(engine.tensors(&[Tensors::Weights], |_| ()).is_ok());
    }
}

#[test]
fn an_evaluation_that_fails_or_panics_changes_nothing() {
    for prefetch in [true, false] {
        let start = || engine(config(2, 0), tokens(), Switches { prefetch, ..Switches::default() }).unwrap();
        let (engine, undisturbed) = (start(), start());
        train(&engine, 1).unwrap();
        for (panics, message) in [(true, "a worker failed: the source panics"), (false, "the source fails")] {
            let source = Arc::new(Unsound { panics: panics.into(), fails: true.into() });
            let error = engine.evaluate(source, 0, |_, _| Ok(())).unwrap_err();
            assert_eq!(error.message, message);
        }
        train(&engine, 2).unwrap();
        train(&undisturbed, 2).unwrap();
        assert_eq!(hash(&engine), hash(&undisturbed));
    }
}

#[test]
fn a_caller_that_panics_with_the_tensors_leaves_the_engine_usable() {
    let engine = engine(config(2, 0), tokens(), Switches::default()).unwrap();
    let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
        engine.tensors(&[Tensors::Weights], |_| panic!("the caller panics"))
    }));
    assert!(caught.is_err());
    train(&engine, 1).unwrap();
}

#[test]
fn a_second_caller_is_told_that_the_engine_is_busy() {
    let engine = engine(config(1, 0), tokens(), Switches::default()).unwrap();
    let error = engine.tensors(&[Tensors::Weights], |_| engine.run_until(1).unwrap_err()).unwrap();
    assert_eq!(error.message, "the engine is busy with a call of another thread");
}

#[test]
fn an_engine_that_is_dropped_in_the_middle_ends() {
    for (turn, prefetch) in (0..60).zip([true, false].into_iter().cycle()) {
        let engine = engine(config(1 + turn % 5, 0), tokens(), Switches { prefetch, ..Switches::default() }).unwrap();
        engine.run_until(u64::MAX).unwrap();
        match turn % 3 {
            0 => {}
            1 => drop(report(&engine).unwrap()),
            _ => thread::sleep(std::time::Duration::from_micros(97 * turn as u64)),
        }
    }
}

#[test]
fn runs_side_by_side_have_the_bits_that_they_have_alone() {
    let one = |threads: usize, sectors: usize| {
        let engine = engine(config(threads, sectors), tokens(), Switches::default()).unwrap();
        train(&engine, 20).unwrap();
        hash(&engine)
    };
    let alone = one(2, 0);
    // Many more workers than processors.
    let both = thread::scope(|scope| {
        let handles = [(16, 3), (5, 12), (2, 1)].map(|(threads, sectors)| scope.spawn(move || one(threads, sectors)));
        handles.map(|handle| handle.join().unwrap())
    });
    assert_eq!(both, [alone.clone(), alone.clone(), alone]);
}
