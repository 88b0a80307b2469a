//! The windows of an update, and which window comes when.

use super::source::{BEGIN, CONTEXT, TokenSource};
use crate::error::{Error, Result};
use crate::rng::{Permutation, Stream, draw};
use std::ops::Range;
use symlm_kernels::loss::IGNORED;

/// The windows of one update.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Update that the batch belongs to, from 0.
    pub step: u64,
    /// Windows that count (an evaluation's last batch may be short).
    pub windows: usize,
    /// Inputs, window after window.
    pub inputs: Vec<u32>,
    /// Targets, window after window; those that do not count are `IGNORED`.
    pub targets: Vec<u32>,
    /// Targets that count, of each window.
    pub counted: Vec<usize>,
    /// Of each window, the positions at which its documents begin: the first is 0, and with `Attend::Window` the only one.
    begins: Vec<Vec<usize>>,
    /// Positions in `inputs`, ordered by id, then ascending.
    order: Vec<u32>,
    /// First entry of `order` for each id; one more at the end.
    id_start: Vec<u32>,
    ids: Vec<u32>,
}

impl Batch {
    /// An empty batch.
    pub fn new(windows: usize, seq_len: usize) -> Self {
        let tokens = vec![0; windows * seq_len];
        let (ids, counted, begins) = (vec![0; seq_len + 1], vec![0; windows], vec![vec![0]; windows]);
        Self { inputs: tokens.clone(), targets: tokens, counted, begins, ids, ..Self::default() }
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
        let seq_len = self.ids.len() - 1;
        source.copy_window(at, &mut self.ids)?;
        let range = index * seq_len..(index + 1) * seq_len;
        let begins = &mut self.begins[index];
        begins.clear();
        for (at, (input, id)) in self.inputs[range.clone()].iter_mut().zip(&self.ids).enumerate() {
            *input = id & !(CONTEXT | BEGIN);
            // What the window before has of a document is not seen here.
            if at == 0 || id & BEGIN != 0 {
                begins.push(at);
            }
        }
        self.counted[index] = 0;
        for (target, id) in self.targets[range].iter_mut().zip(&self.ids[1..]) {
            let counts = id & CONTEXT == 0;
            *target = if counts { id & !BEGIN } else { IGNORED };
            self.counted[index] += usize::from(counts);
        }
        Ok(())
    }

    /// The documents of a window, each as its positions in the window.
    pub fn documents(&self, window: usize) -> impl Iterator<Item = Range<usize>> {
        let (begins, seq_len) = (&self.begins[window], self.ids.len() - 1);
        let ends = begins[1..].iter().copied().chain([seq_len]);
        begins.iter().zip(ends).map(|(&begin, end)| begin..end)
    }

    /// What of the documents of a window lies in some of its positions, and the position in its document of the first token
    /// of each part.
    pub fn parts(&self, window: usize, rows: &Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
        let rows = rows.clone();
        let (first, end) = (rows.start, rows.end);
        let reached = self.documents(window).skip_while(move |document| document.end <= first);
        reached.take_while(move |document| document.start < end).map(move |document| {
            let part = document.start.max(first)..document.end.min(end);
            (part.clone(), part.start - document.start)
        })
    }

    /// Targets that count, of the windows that do.
    pub fn targets_counted(&self) -> usize {
        self.counted[..self.windows].iter().sum()
    }

    /// Checks that every id is below `vocab`.
    ///
    /// # Errors
    /// `Data` with the first that is not.
    pub fn check_ids(&self, vocab: usize) -> Result<()> {
        let targets = self.targets.iter().filter(|&&id| id != IGNORED);
        match self.inputs.iter().chain(targets).find(|&&id| id as usize >= vocab) {
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

/// Which window comes when in a run (contract R2, R3).
#[derive(Clone, Copy, Debug)]
pub struct WindowOrder {
    seed: u64,
    /// From one window to the next.
    stride: u64,
    /// Offsets that an epoch may have.
    room: u64,
    /// Windows of an epoch.
    pub windows: u64,
}

impl WindowOrder {
    /// # Errors
    /// `Data` if there is not even one window.
    pub fn new(seed: u64, tokens: u64, seq_len: usize) -> Result<Self> {
        let seq_len = seq_len as u64;
        if tokens < seq_len + 1 {
            return Err(Error::data(format!(
                "the corpus has {tokens} tokens, expected at least {} (one window)",
                seq_len + 1
            ))
            .hint("use more text or a smaller seq_len"));
        }
        // One window less than fits, so that any offset below a window's length leaves room.
        let windows = (tokens / seq_len).saturating_sub(1).max(1);
        let room = (tokens - windows * seq_len).min(seq_len);
        Ok(Self { seed, stride: seq_len, room, windows })
    }

    /// The order of the windows of a source: any that fit into a text, or those that it is cut into already.
    ///
    /// # Errors
    /// `Data` if there is not even one window, `Internal` if the source is cut for another length.
    pub fn of(seed: u64, source: &dyn TokenSource, seq_len: usize) -> Result<Self> {
        let Some(stride) = source.window() else {
            return Self::new(seed, source.tokens(), seq_len);
        };
        check_cut(stride, seq_len)?;
        let windows = source.tokens() / stride;
        if windows == 0 {
            return Err(Error::data("the corpus has no window, expected at least one"));
        }
        Ok(Self { seed, stride, room: 1, windows })
    }

    /// First token of window `number` of the run, counted from 0 over all updates.
    pub fn start(&self, number: u64) -> u64 {
        let (epoch, index) = ((number / self.windows) as u32, number % self.windows);
        let offset = u64::from(draw(self.seed, Stream::Offset, u64::from(epoch), 0)[0]) % self.room;
        offset + Permutation::new(self.seed, epoch, self.windows).at(index) * self.stride
    }
}

/// Windows that follow each other in a source, and how far it is from one to the next (contract L7).
///
/// # Errors
/// `Internal` if the source is cut into windows of another length.
pub fn windows_in(source: &dyn TokenSource, seq_len: usize) -> Result<(u64, u64)> {
    match source.window() {
        None => Ok((source.tokens().saturating_sub(1) / seq_len as u64, seq_len as u64)),
        Some(stride) => check_cut(stride, seq_len).map(|()| (source.tokens() / stride, stride)),
    }
}

fn check_cut(stride: u64, seq_len: usize) -> Result<()> {
    if stride == seq_len as u64 + 1 {
        return Ok(());
    }
    Err(Error::internal(format!("tokens cut into windows of {stride}, expected {}", seq_len + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ids that are cut into windows.
    struct Windows(Vec<u32>, u64);
    impl TokenSource for Windows {
        fn tokens(&self) -> u64 {
            self.0.tokens()
        }
        fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
            self.0.copy_ids(start, out)
        }
        fn window(&self) -> Option<u64> {
            Some(self.1)
        }
    }

    proptest! {
        #[test]
        fn an_epoch_visits_every_window_once_and_stays_inside(seed: u64, tokens in 9_u64..3000, seq_len in 1_usize..8) {
            let order = WindowOrder::new(seed, tokens, seq_len).unwrap();
            for epoch in 0..3 {
                let mut starts: Vec<u64> = (0..order.windows).map(|i| order.start(epoch * order.windows + i)).collect();
                starts.sort_unstable();
                for pair in starts.windows(2) {
                    prop_assert_eq!(pair[1] - pair[0], seq_len as u64);
                }
                prop_assert!(starts[starts.len() - 1] + (seq_len as u64) < tokens);
            }
        }

        #[test]
        fn windows_that_are_cut_already_come_whole(seed: u64, count in 1_u64..50, seq_len in 1_usize..8) {
            let stride = seq_len + 1;
            let source = Windows((0..count as u32 * stride as u32).collect(), stride as u64);
            let order = WindowOrder::of(seed, &source, seq_len).unwrap();
            prop_assert_eq!(order.windows, count);
            prop_assert_eq!(windows_in(&source, seq_len).unwrap(), (count, stride as u64));
            for epoch in 0..3 {
                let mut starts: Vec<u64> = (0..count).map(|i| order.start(epoch * count + i)).collect();
                starts.sort_unstable();
                prop_assert!(starts.iter().enumerate().all(|(i, start)| *start == (i * stride) as u64));
            }
            prop_assert!(WindowOrder::of(seed, &source, seq_len + 1).is_err() && windows_in(&source, seq_len + 1).is_err());
        }

        #[test]
        fn ids_with_the_bit_are_no_targets(ids in proptest::collection::vec(0_u32..20, 12), mask: u16) {
            let words: Vec<u32> = ids.iter().enumerate().map(|(i, id)| id | (u32::from(mask >> i & 1) << 31)).collect();
            let mut batch = Batch::new(2, 5);
            batch.windows = 2;
            for i in 0..2 {
                batch.set_window(i, &words, i as u64 * 6).unwrap();
                prop_assert_eq!(&batch.inputs[i * 5..i * 5 + 5], &ids[i * 6..i * 6 + 5]);
                for t in 0..5 {
                    let ignored = mask >> (i * 6 + t + 1) & 1 == 1;
                    prop_assert_eq!(batch.targets[i * 5 + t], if ignored { IGNORED } else { ids[i * 6 + t + 1] });
                }
            }
            batch.index(20).unwrap();
            prop_assert_eq!(batch.targets_counted(), batch.targets.iter().filter(|&&t| t != IGNORED).count());
            batch.windows = 1;
            prop_assert_eq!(batch.targets_counted(), batch.counted[0]);
        }

        #[test]
        fn documents_are_cut_at_the_marks(ids in proptest::collection::vec(0_u32..20, 12), mask: u16, cut in 0_usize..5) {
            let words: Vec<u32> = ids.iter().enumerate().map(|(i, id)| id | (u32::from(mask >> i & 1) << 30)).collect();
            let mut batch = Batch::new(2, 5);
            prop_assert_eq!(batch.documents(1).collect::<Vec<_>>(), vec![0..5]);
            for i in 0..2 {
                // Twice, so that what a buffer held before is gone.
                batch.set_window(i, &words, 6 - i as u64 * 6).unwrap();
                batch.set_window(i, &words, i as u64 * 6).unwrap();
                let begins: Vec<usize> = (0..5).filter(|t| *t == 0 || mask >> (i * 6 + t) & 1 == 1).collect();
                let documents: Vec<Range<usize>> = batch.documents(i).collect();
                prop_assert_eq!(documents.iter().map(|d| d.start).collect::<Vec<_>>(), begins);
                prop_assert!(documents.windows(2).all(|d| d[0].end == d[1].start) && documents.last().unwrap().end == 5);
                prop_assert_eq!(&batch.inputs[i * 5..i * 5 + 5], &ids[i * 6..i * 6 + 5]);
                prop_assert_eq!(&batch.targets[i * 5..i * 5 + 5], &ids[i * 6 + 1..i * 6 + 6]);
                // The parts of two strips are every position once, each with its place in its document.
                let parts = [0..cut, cut..5].map(|rows| batch.parts(i, &rows).collect::<Vec<_>>()).concat();
                let places: Vec<(usize, usize)> =
                    parts.into_iter().flat_map(|(part, at)| part.clone().map(move |t| (t, at + t - part.start))).collect();
                let place = |t: usize| t - documents.iter().find(|d| d.contains(&t)).unwrap().start;
                prop_assert_eq!(places, (0..5).map(|t| (t, place(t))).collect::<Vec<_>>());
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
}
