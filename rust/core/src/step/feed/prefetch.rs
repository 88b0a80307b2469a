//! Batches, cut ahead of the step by a separate thread.
//!
//! # Protocol
//!
//! A fixed number of buffers goes round: the control thread sends an empty one, the thread fills it and sends it back
//! with what became of it. Both channels have room for all buffers that can come, so the control thread never blocks in a
//! send and the prefetch thread only while it is ahead by [`BATCHES_AHEAD`] batches. A buffer has one owner at a time: who
//! received it last.
//!
//! A seek replaces the number of the next step. The pair of generation and step is written under a lock, and the
//! generation's atomic counter inside that lock: the thread that sees a new count finds its pair, or a newer one. Each
//! batch carries the generation that it was cut in; the control thread, which alone seeks, returns those of an older one.
//! So no batch from before a seek is ever trained on, and none is lost.
//!
//! The thread waits in two places, for an empty buffer and for room for a full one. [`Prefetcher::close`] drops the
//! other ends of both channels, either wait then fails, and the thread ends after at most the batch it is cutting. If it
//! is the thread that ends first (its source panicked), the control thread's receive fails and becomes an error.

use super::batch::{Batch, WindowOrder};
use super::source::TokenSource;
use crate::error::{Error, Result};
use crate::step::plan::limits::BATCHES_AHEAD;
use crate::system::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::system::sync::channel::{Receiver, Sender, bounded};
use crate::system::sync::{Mutex, lock, thread};
use std::cell::RefCell;
use std::sync::Arc;

/// What the thread sends: the buffer always comes along, so that none is lost on an error.
struct Prefetched {
    generation: u64,
    batch: Batch,
    outcome: Result<()>,
}

/// How many batches are ready. It holds no end of the channel, so it keeps nobody alive.
#[derive(Clone, Default)]
pub struct Gauge(Arc<AtomicUsize>);

impl Gauge {
    /// Batches in the channel.
    pub fn fill(&self) -> usize {
        // One more is counted while the thread waits for room.
        self.0.load(Ordering::Relaxed).min(BATCHES_AHEAD)
    }
}

/// The thread `symlm-pre` and its channels.
pub struct Prefetcher {
    /// `None` once closed, as `empty`.
    full: Option<Receiver<Prefetched>>,
    empty: Option<Sender<Batch>>,
    /// Generation and next step: a seek replaces both at once.
    seek: Arc<Mutex<(u64, u64)>>,
    generation: Arc<AtomicU64>,
    fill: Gauge,
    /// Without cutting ahead the buffers wait here, and the thread gets one when a batch is asked for.
    held: Option<RefCell<Vec<Batch>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Prefetcher {
    /// Starts the thread. Without `ahead` it cuts a batch only when one is asked for.
    ///
    /// # Errors
    /// `User` if the system refuses the thread.
    pub fn new(
        source: Arc<dyn TokenSource>,
        order: WindowOrder,
        batch: usize,
        seq_len: usize,
        vocab: usize,
        ahead: bool,
    ) -> Result<Self> {
        let (full_in, full) = bounded(BATCHES_AHEAD);
        let (empty, empty_out) = bounded::<Batch>(BATCHES_AHEAD + 1);
        let held = if ahead {
            for _ in 0..=BATCHES_AHEAD {
                // The channel was just made with room for all of them.
                let _ = empty.send(Batch::new(batch, seq_len));
            }
            None
        } else {
            Some(RefCell::new(vec![Batch::new(batch, seq_len)]))
        };
        let seek = Arc::new(Mutex::new((0, 0)));
        let generation = Arc::new(AtomicU64::new(0));
        let fill = Gauge::default();
        let (thread_seek, thread_generation, thread_fill) = (seek.clone(), generation.clone(), fill.clone());
        let body = move || {
            let (mut current, mut step) = (0, 0);
            while let Ok(mut buffer) = empty_out.recv() {
                if thread_generation.load(Ordering::Acquire) != current {
                    (current, step) = *lock(&thread_seek);
                }
                let outcome = (|| {
                    buffer.step = step;
                    buffer.windows = batch;
                    for i in 0..batch {
                        buffer.set_window(i, &*source, order.start(step * batch as u64 + i as u64))?;
                    }
                    buffer.index(vocab)
                })();
                // After an error the same step is tried again: the cause may have gone.
                step += u64::from(outcome.is_ok());
                // Before the send, so that the count is never below what was received.
                thread_fill.0.fetch_add(1, Ordering::Relaxed);
                if full_in.send(Prefetched { generation: current, batch: buffer, outcome }).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("symlm-pre".into())
            .spawn(body)
            .map_err(|e| Error::user(format!("cannot start the prefetch thread: {}", crate::error::io_reason(&e))))?;
        Ok(Self { full: Some(full), empty: Some(empty), seek, generation, fill, held, thread: Some(thread) })
    }

    /// The next batch will be that of `step`. Called from the thread that also receives.
    pub fn seek(&self, step: u64) {
        let mut seek = lock(&self.seek);
        *seek = (seek.0 + 1, step);
        // Inside the lock, so that the thread never sees a newer pair than the number that announces it.
        self.generation.store(seek.0, Ordering::Release);
    }

    /// The next batch.
    ///
    /// # Errors
    /// As the source; the next call tries again.
    pub fn next(&self) -> Result<Batch> {
        let ended = || Error::internal("the prefetch thread has ended");
        loop {
            if let (Some(held), Some(empty)) = (&self.held, &self.empty) {
                // A buffer that never came back went down with the thread.
                let batch = held.borrow_mut().pop().ok_or_else(ended)?;
                // A failed send means that the thread has ended; the receive reports it.
                let _ = empty.try_send(batch);
            }
            let ready = self.full.as_ref().and_then(|full| full.recv().ok()).ok_or_else(ended)?;
            self.fill.0.fetch_sub(1, Ordering::Relaxed);
            if ready.generation == self.generation.load(Ordering::Acquire) {
                match ready.outcome {
                    Ok(()) => return Ok(ready.batch),
                    Err(error) => {
                        self.recycle(ready.batch);
                        return Err(error);
                    }
                }
            }
            // Prefetched before the last seek.
            self.recycle(ready.batch);
        }
    }

    /// Gives a buffer back.
    pub fn recycle(&self, batch: Batch) {
        if let Some(held) = &self.held {
            held.borrow_mut().push(batch);
        } else if let Some(empty) = &self.empty {
            // A failed send means that the thread has ended; the next receive reports it.
            let _ = empty.try_send(batch);
        }
    }

    /// To look at the fill from elsewhere.
    pub fn gauge(&self) -> Gauge {
        self.fill.clone()
    }

    /// Ends the thread.
    pub fn close(&mut self) {
        (self.empty, self.full) = (None, None);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by a receive, or nobody asked for its batches.
            let _ = thread.join();
        }
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that fails until told otherwise.
    struct Flaky(std::sync::atomic::AtomicBool);
    impl TokenSource for Flaky {
        fn tokens(&self) -> u64 {
            1000
        }
        fn copy_ids(&self, _: u64, out: &mut [u32]) -> Result<()> {
            out.fill(3);
            if self.0.load(Ordering::Relaxed) { Err(Error::data("disk")) } else { Ok(()) }
        }
    }

    #[test]
    fn errors_of_the_source_cost_no_buffers_and_may_pass() {
        for ahead in [true, false] {
            let source = Arc::new(Flaky(true.into()));
            let order = WindowOrder::new(1, 1000, 10).unwrap();
            let p = Prefetcher::new(source.clone(), order, 4, 10, 50, ahead).unwrap();
            for _ in 0..20 {
                assert_eq!(p.next().unwrap_err().message, "disk");
            }
            source.0.store(false, Ordering::Relaxed);
            p.seek(7);
            // Errors from before the seek are dropped, one after it may still have met the failing source.
            let batch = p.next().or_else(|_| p.next()).unwrap();
            assert_eq!(batch.step, 7);
        }
    }

    #[test]
    fn batches_cut_on_demand_are_those_cut_ahead() {
        let ids: Arc<dyn TokenSource> = Arc::new((0..1000).map(|i| i * i % 50).collect::<Vec<u32>>());
        let order = WindowOrder::new(1, 1000, 10).unwrap();
        let make = |ahead| Prefetcher::new(ids.clone(), order, 4, 10, 50, ahead).unwrap();
        let (ahead, demand) = (make(true), make(false));
        for step in 0..20 {
            let (a, b) = (ahead.next().unwrap(), demand.next().unwrap());
            assert_eq!((a.step, &a.inputs, &a.targets), (step, &b.inputs, &b.targets));
            assert!((0..50).all(|id| a.tokens_with_id(id) == b.tokens_with_id(id)));
            assert_eq!((b.step, demand.gauge().fill()), (step, 0));
            ahead.recycle(a);
            demand.recycle(b);
        }
    }

    #[test]
    fn a_seek_skips_what_was_cut_before() {
        let ids: Vec<u32> = (0..1000).map(|i| i % 50).collect();
        let order = WindowOrder::new(1, 1000, 10).unwrap();
        let source: Arc<dyn TokenSource> = Arc::new(ids);
        let p = Prefetcher::new(source, order, 4, 10, 50, true).unwrap();
        for step in [0, 1, 2] {
            let batch = p.next().unwrap();
            assert_eq!(batch.step, step);
            p.recycle(batch);
        }
        p.seek(77);
        for step in [77, 78, 79, 80, 81] {
            let batch = p.next().unwrap();
            assert_eq!(batch.step, step);
            p.recycle(batch);
        }
    }
}
