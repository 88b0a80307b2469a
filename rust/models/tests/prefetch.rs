//! The prefetch thread: buffers that go round, seeks, and the end of either side.

mod common;

use common::check;
use std::sync::Arc;
use symlm_models::step::feed::batch::WindowOrder;
use symlm_models::step::feed::prefetch::Prefetcher;
use symlm_models::system::sync::channel::bounded;
use symlm_models::system::sync::thread;

fn prefetcher(ahead: bool) -> Prefetcher {
    let ids: Vec<u32> = (0..40).map(|i| i % 7).collect();
    let order = WindowOrder::new(1, ids.len() as u64, 2).unwrap();
    Prefetcher::new(Arc::new(ids), order, 1, 2, 7, ahead).unwrap()
}

#[test]
fn the_thread_ends_whatever_it_is_doing() {
    for ahead in [true, false] {
        check("closed at once", 3, move || drop(prefetcher(ahead)));
        check("closed with a batch out", 2, move || {
            let prefetcher = prefetcher(ahead);
            let batch = prefetcher.next().unwrap();
            drop(prefetcher);
            drop(batch);
        });
    }
}

#[test]
fn batches_come_in_order_and_none_from_before_a_seek() {
    for ahead in [true, false] {
        check("seeks", 2, move || {
            let prefetcher = prefetcher(ahead);
            let take = |step| {
                let batch = prefetcher.next().unwrap();
                assert_eq!(batch.step, step);
                prefetcher.recycle(batch);
            };
            take(0);
            prefetcher.seek(5);
            take(5);
            prefetcher.seek(2);
            prefetcher.seek(3);
            take(3);
            take(4);
            assert!(prefetcher.gauge().fill() <= 3);
        });
    }
}

/// As the control thread: commands come in, reports go out, and it owns the prefetch thread.
#[test]
fn both_threads_end_when_the_engine_is_dropped() {
    check("dropped engine", 2, || {
        let (commands, received) = bounded::<u64>(4);
        let (reports, answers) = bounded(4);
        let control = thread::spawn(move || {
            let prefetcher = prefetcher(true);
            while let Ok(step) = received.recv() {
                prefetcher.seek(step);
                let batch = prefetcher.next().unwrap();
                // Nobody may be left to hear it.
                let _ = reports.send(batch.step);
                prefetcher.recycle(batch);
            }
        });
        commands.send(7).unwrap();
        drop(commands);
        // Either end may go first.
        drop(answers);
        control.join().unwrap();
    });
}
