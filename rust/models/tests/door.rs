//! Nodes that wait for something outside of the pool: completions from another thread, a failure there, a panic here.

mod common;

use common::check;
use loom::cell::UnsafeCell;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use symlm_models::pool::{Door, Graph, Pool, Program, Run, Scratch};

const ASKS: u32 = 0;
const WAITS: u32 = 1;

/// The first node asks for bytes, the second one reads what has been delivered by then, the third one follows it.
struct Bytes {
    asked: Notify,
    wanted: AtomicU32,
    delivered: UnsafeCell<u32>,
    read: UnsafeCell<Vec<u32>>,
    /// The first node panics, and what it asks for is completed in its place.
    fails: bool,
    door: Mutex<Option<Door>>,
}

// SAFETY: loom watches the accesses, which is the purpose.
unsafe impl Sync for Bytes {}
// SAFETY: as above.
unsafe impl Send for Bytes {}

impl Program for Bytes {
    fn run(&self, node: u32, _: &mut Scratch) {
        if node == ASKS && self.fails {
            // Does not call the panic hook: there are thousands of executions.
            std::panic::resume_unwind(Box::new("told to fail"));
        } else if node == ASKS {
            self.wanted.fetch_add(1, Ordering::Release);
            self.asked.notify();
        } else {
            // SAFETY: loom watches the accesses.
            let delivered = self.delivered.with(|delivered| unsafe { *delivered });
            // SAFETY: as above.
            self.read.with_mut(|read| unsafe { (*read).push(delivered) });
        }
    }

    fn pass_over(&self, node: u32) {
        if node == ASKS
            && let Some(door) = &*self.door.lock().unwrap()
        {
            door.complete(WAITS);
        }
    }
}

impl Bytes {
    fn new(fails: bool) -> Arc<Self> {
        Arc::new(Self {
            asked: Notify::new(),
            wanted: AtomicU32::new(0),
            delivered: UnsafeCell::new(0),
            read: UnsafeCell::new(Vec::new()),
            fails,
            door: Mutex::new(None),
        })
    }

    fn read(&self) -> Vec<u32> {
        // SAFETY: loom watches the accesses.
        self.read.with(|read| unsafe { (*read).clone() })
    }

    /// Another thread, which delivers when it is asked and lets the node continue.
    fn deliver(self: Arc<Self>, door: Door, times: u32, fails: bool) -> loom::thread::JoinHandle<()> {
        loom::thread::spawn(move || {
            for time in 1..=times {
                // A wait may also end for no reason.
                while self.wanted.load(Ordering::Acquire) < time {
                    self.asked.wait();
                }
                // SAFETY: loom watches the accesses.
                self.delivered.with_mut(|delivered| unsafe { *delivered += 1 });
                if fails {
                    door.fail("gone");
                }
                door.complete(WAITS);
            }
        })
    }
}

fn graph() -> Arc<Graph> {
    let mut graph = Graph::default();
    let first = graph.add(true, &[]);
    let waits = graph.add(true, &[first]);
    graph.wait_outside(waits, 1);
    graph.add(false, &[waits]);
    Arc::new(graph)
}

#[test]
fn a_node_sees_what_was_delivered_and_no_completion_is_lost() {
    check("completions", 2, || {
        let program = Bytes::new(false);
        let run = Run::new(program.clone(), graph());
        let pool = Pool::new(1).unwrap();
        let outside = program.clone().deliver(pool.door(&run), 2, false);
        for times in 1..=2 {
            pool.execute(&run).unwrap();
            assert_eq!(program.read()[2 * times - 2..], [times as u32; 2]);
        }
        outside.join().unwrap();
    });
    check("completions for two workers", 1, || {
        let program = Bytes::new(false);
        let run = Run::new(program.clone(), graph());
        let pool = Pool::new(2).unwrap();
        let outside = program.clone().deliver(pool.door(&run), 1, false);
        pool.execute(&run).unwrap();
        assert_eq!(program.read(), [1, 1]);
        outside.join().unwrap();
    });
}

#[test]
fn a_failure_outside_ends_the_run_and_what_comes_after_it_is_passed_over() {
    check("failure outside", 2, || {
        let program = Bytes::new(false);
        let run = Run::new(program.clone(), graph());
        let pool = Pool::new(1).unwrap();
        let outside = program.clone().deliver(pool.door(&run), 1, true);
        let error = pool.execute(&run).unwrap_err();
        assert!(error.message.contains("gone"), "{}", error.message);
        assert!(program.read().is_empty());
        outside.join().unwrap();
    });
}

#[test]
fn a_panic_completes_what_waits() {
    check("panic with a node that waits", 2, || {
        let program = Bytes::new(true);
        let run = Run::new(program.clone(), graph());
        let pool = Pool::new(1).unwrap();
        *program.door.lock().unwrap() = Some(pool.door(&run));
        let error = pool.execute(&run).unwrap_err();
        assert!(error.message.contains("told to fail"), "{}", error.message);
        assert!(program.read().is_empty());
        // The door holds the pool's memory, which loom wants back.
        *program.door.lock().unwrap() = None;
    });
}
