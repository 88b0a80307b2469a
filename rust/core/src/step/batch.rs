//! The windows of an update, and which window comes when.

use super::source::TokenSource;
use crate::error::{Error, Result};
use crate::rng::{Permutation, Stream, draw};

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
}
