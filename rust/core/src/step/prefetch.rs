//! Batches, cut ahead of the step by a thread of their own.

use crate::error::{Error, Result};
use crate::rng::{Permutation, Stream, draw};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Token ids by position.
pub trait TokenSource: Send + Sync + 'static {
    /// Number of ids.
    fn tokens(&self) -> u64;
    /// Copies `out.len()` ids from position `start`.
    ///
    /// # Errors
    /// If the position is outside or an id is damaged.
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()>;
}

impl TokenSource for crate::data::Shards {
    fn tokens(&self) -> u64 {
        Self::tokens(self)
    }
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
        Self::copy_ids(self, start, out)
    }
}

impl TokenSource for Vec<u32> {
    fn tokens(&self) -> u64 {
        self.len() as u64
    }
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let part = self.get(start as usize..start as usize + out.len());
        out.copy_from_slice(
            part.ok_or_else(|| Error::internal(format!("ids {start}+{} of {}", out.len(), self.len())))?,
        );
        Ok(())
    }
}

/// The windows of one update.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Update that the batch belongs to, from 0.
    pub step: u64,
    /// Windows that count (an evaluation's last batch may be short).
    pub windows: usize,
    /// Inputs, window after window.
    pub inputs: Vec<u32>,
    /// Targets, window after window.
    pub targets: Vec<u32>,
    /// Positions in `inputs`, ordered by id, then ascending.
    order: Vec<u32>,
    /// First entry of `order` for each id; one more at the end.
    id_start: Vec<u32>,
    ids: Vec<u32>,
}

impl Batch {
    /// An empty batch.
    pub fn new(windows: usize, positions: usize) -> Self {
        let tokens = vec![0; windows * positions];
        Self { inputs: tokens.clone(), targets: tokens, ids: vec![0; positions + 1], ..Self::default() }
    }

    /// Tokens that the buffers hold; 0 for the placeholder between updates.
    pub fn capacity(&self) -> usize {
        self.inputs.len()
    }

    /// Reads window `index` from position `at` of the source.
    ///
    /// # Errors
    /// As the source.
    pub fn set_window(&mut self, index: usize, source: &dyn TokenSource, at: u64) -> Result<()> {
        let positions = self.ids.len() - 1;
        source.copy_ids(at, &mut self.ids)?;
        let range = index * positions..(index + 1) * positions;
        self.inputs[range.clone()].copy_from_slice(&self.ids[..positions]);
        self.targets[range].copy_from_slice(&self.ids[1..]);
        Ok(())
    }

    /// Checks that every id is below `vocab`.
    ///
    /// # Errors
    /// `Data` with the first that is not.
    pub fn check_ids(&self, vocab: usize) -> Result<()> {
        match self.inputs.iter().chain(&self.targets).find(|&&id| id as usize >= vocab) {
            Some(id) => {
                Err(Error::data(format!("token id {id} found, expected ids below the vocabulary size {vocab}")))
            }
            None => Ok(()),
        }
    }

    /// Orders the inputs by id (a stable counting sort), for the embedding's gradient.
    ///
    /// # Errors
    /// `Data` if an id is not below `vocab`.
    pub fn index(&mut self, vocab: usize) -> Result<()> {
        self.check_ids(vocab)?;
        self.id_start.clear();
        self.id_start.resize(vocab + 1, 0);
        for &id in &self.inputs {
            self.id_start[id as usize + 1] += 1;
        }
        for id in 0..vocab {
            self.id_start[id + 1] += self.id_start[id];
        }
        self.order.resize(self.inputs.len(), 0);
        // Fill from the back, so that the starts end where they belong.
        let mut next = std::mem::take(&mut self.id_start);
        for (position, &id) in self.inputs.iter().enumerate() {
            self.order[next[id as usize] as usize] = position as u32;
            next[id as usize] += 1;
        }
        // Each start has moved to the next id's start: shift back.
        for id in (1..=vocab).rev() {
            next[id] = next[id - 1];
        }
        next[0] = 0;
        self.id_start = next;
        Ok(())
    }

    /// Positions of an id in `inputs`, ascending.
    pub fn tokens_with_id(&self, id: usize) -> &[u32] {
        &self.order[self.id_start[id] as usize..self.id_start[id + 1] as usize]
    }
}

/// Which window comes at which place of the run (contract R2, R3).
#[derive(Clone, Copy, Debug)]
pub struct WindowOrder {
    seed: u64,
    tokens: u64,
    positions: u64,
    /// Windows of an epoch.
    pub windows: u64,
}

impl WindowOrder {
    /// # Errors
    /// `Data` if there is not even one window.
    pub fn new(seed: u64, tokens: u64, positions: usize) -> Result<Self> {
        let positions = positions as u64;
        if tokens < positions + 1 {
            return Err(Error::data(format!(
                "the corpus has {tokens} tokens, expected at least {} (one window)",
                positions + 1
            ))
            .hint("use more text or a smaller seq_len"));
        }
        // One window less than fits, so that any offset below a window's length leaves room.
        let windows = (tokens / positions).saturating_sub(1).max(1);
        Ok(Self { seed, tokens, positions, windows })
    }

    /// First token of the window at place `place` of the run.
    pub fn start(&self, place: u64) -> u64 {
        let (epoch, index) = ((place / self.windows) as u32, place % self.windows);
        let room = (self.tokens - self.windows * self.positions).min(self.positions);
        let offset = u64::from(draw(self.seed, Stream::Offset, u64::from(epoch), 0)[0]) % room;
        offset + Permutation::new(self.seed, epoch, self.windows).at(index) * self.positions
    }
}

/// Batches in the channel at most.
pub(super) const CAPACITY: usize = 3;

/// What the thread sends: the buffer always comes along, so that none is lost on an error.
pub(super) struct Cut {
    generation: u64,
    batch: Batch,
    outcome: Result<()>,
}

/// The thread `symlm-pre` and its channels.
pub(super) struct Prefetcher {
    full: Receiver<Cut>,
    empty: Option<Sender<Batch>>,
    /// Generation and next step: a seek replaces both at once.
    seek: Arc<Mutex<(u64, u64)>>,
    generation: Arc<AtomicU64>,
    /// Without cutting ahead the buffers wait here, and the thread gets one when a batch is asked for.
    held: Option<RefCell<Vec<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetcher {
    pub fn new(
        source: Arc<dyn TokenSource>,
        order: WindowOrder,
        batch: usize,
        positions: usize,
        vocab: usize,
        ahead: bool,
    ) -> Result<Self> {
        let (full_in, full) = bounded(CAPACITY);
        let (empty, empty_out) = bounded::<Batch>(CAPACITY + 1);
        let held = if ahead {
            for _ in 0..=CAPACITY {
                // The channel was just made with room for all of them.
                let _ = empty.send(Batch::new(batch, positions));
            }
            None
        } else {
            Some(RefCell::new(vec![Batch::new(batch, positions)]))
        };
        let seek = Arc::new(Mutex::new((0, 0)));
        let generation = Arc::new(AtomicU64::new(0));
        let (thread_seek, thread_generation) = (seek.clone(), generation.clone());
        let body = move || {
            let (mut current, mut step) = (0, 0);
            while let Ok(mut buffer) = empty_out.recv() {
                if thread_generation.load(Ordering::Acquire) != current {
                    (current, step) = *super::state::lock(&thread_seek);
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
                if full_in.send(Cut { generation: current, batch: buffer, outcome }).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("symlm-pre".into())
            .spawn(body)
            .map_err(|e| Error::user(format!("cannot start the prefetch thread: {}", crate::error::io_reason(&e))))?;
        Ok(Self { full, empty: Some(empty), seek, generation, held, thread: Some(thread) })
    }

    /// The next batch will be that of `step`. Called from the thread that also receives.
    pub fn seek(&self, step: u64) {
        let mut seek = super::state::lock(&self.seek);
        *seek = (seek.0 + 1, step);
        // Inside the lock, so that the thread never sees a newer pair than the number that announces it.
        self.generation.store(seek.0, Ordering::Release);
    }

    /// The next batch.
    ///
    /// # Errors
    /// As the source; the next call tries again.
    pub fn next(&self) -> Result<Batch> {
        loop {
            if let (Some(held), Some(empty)) = (&self.held, &self.empty) {
                let batch = held.borrow_mut().pop().ok_or_else(|| Error::internal("the buffer of a batch is gone"))?;
                // A failed send means that the thread has ended; the receive reports it.
                let _ = empty.try_send(batch);
            }
            let cut = self.full.recv().map_err(|_| Error::internal("the prefetch thread has ended"))?;
            if cut.generation == self.generation.load(Ordering::Acquire) {
                match cut.outcome {
                    Ok(()) => return Ok(cut.batch),
                    Err(error) => {
                        self.recycle(cut.batch);
                        return Err(error);
                    }
                }
            }
            // Cut before the last seek.
            self.recycle(cut.batch);
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

    /// A receiver that only serves to look at the fill.
    pub fn gauge(&self) -> Receiver<Cut> {
        self.full.clone()
    }

    /// Ends the thread.
    pub fn close(&mut self) {
        self.empty = None;
        // Make room, so that a blocked send ends.
        while let Some(thread) = &self.thread {
            if thread.is_finished() {
                break;
            }
            let _ = self.full.recv_timeout(std::time::Duration::from_millis(1));
        }
        if let Some(thread) = self.thread.take() {
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
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_epoch_visits_every_window_once_and_stays_inside(seed: u64, tokens in 9_u64..3000, positions in 1_usize..8) {
            let order = WindowOrder::new(seed, tokens, positions).unwrap();
            for epoch in 0..3 {
                let mut starts: Vec<u64> = (0..order.windows).map(|i| order.start(epoch * order.windows + i)).collect();
                starts.sort_unstable();
                for pair in starts.windows(2) {
                    prop_assert_eq!(pair[1] - pair[0], positions as u64);
                }
                prop_assert!(starts[starts.len() - 1] + (positions as u64) < tokens);
            }
        }

        #[test]
        fn the_index_lists_every_position_by_id(ids in proptest::collection::vec(0_u32..20, 21)) {
            let mut batch = Batch::new(4, 5);
            for i in 0..4 {
                batch.set_window(i, &ids, i as u64 * 5).unwrap();
            }
            batch.index(20).unwrap();
            let mut count = 0;
            for id in 0..20 {
                let places = batch.tokens_with_id(id);
                prop_assert!(places.windows(2).all(|p| p[0] < p[1]));
                prop_assert!(places.iter().all(|&p| batch.inputs[p as usize] == id as u32));
                count += places.len();
            }
            prop_assert_eq!(count, 20);
        }
    }

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
            assert_eq!((a.step, &a.inputs, &a.targets, &a.order), (step, &b.inputs, &b.targets, &b.order));
            assert_eq!((b.step, demand.gauge().len()), (step, 0));
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
