//! The tasks of an update that several ranks compute (contract, "Ranks").
//!
//! Safety of every block here: a task reads what the tasks before it have left, and bytes that have arrived, for which the
//! graph has nodes too; it writes the own part of a bucket, or what belongs to it alone. Bytes that arrive are written by
//! the thread outside, where no task reads before the node of their arrival: partial sums and notes have separate memory;
//! new values come when their owner knows the norm, so after the last task of this rank that reads the old ones.

use super::shared::{Shared, WORDS, digest, get, put};
use super::state::State;
use crate::contract::SQUARE_BLOCK;
use crate::pool::Scratch;
use crate::step::plan::{FoldStep, Stage};
use std::ops::Range;
use std::sync::atomic::Ordering;
use symlm_kernels::reduce;

/// Elements that are folded at a time: they stay in the first-level cache.
const FOLD: usize = SQUARE_BLOCK;

impl State {
    /// What there is because of other ranks. Tasks that call this are in no other plan.
    fn ranks(&self) -> &Shared {
        self.shared.as_ref().expect("a plan of several ranks has their memory")
    }

    pub(super) fn begin(&self) {
        self.ranks().mailbox.begin();
    }

    pub(super) fn leave(&self, stage: Stage) {
        self.ranks().leave(stage);
    }

    /// The total of some elements of the own part of a bucket (contract P5).
    pub(super) fn fold_part(&self, bucket: usize, start: usize, len: usize, scratch: &mut Scratch) {
        let shared = self.ranks();
        let tied = shared.division.buckets[bucket].tied;
        let [at_hand, aside, rows] = scratch.buffers([FOLD, 2 * FOLD, FOLD]);
        for first in (start..start + len).step_by(FOLD) {
            let range = first..(first + FOLD).min(start + len);
            let at_hand = &mut at_hand[..range.len()];
            // SAFETY: see the top of this file.
            unsafe {
                self.fold_sums(shared, bucket, false, &range, at_hand, aside);
                if tied {
                    let rows = &mut rows[..range.len()];
                    self.fold_sums(shared, bucket, true, &range, rows, aside);
                    reduce::add(self.isa, at_hand, rows);
                }
                self.gradient.slice_mut(range.start, range.len()).copy_from_slice(at_hand);
            }
        }
    }

    unsafe fn fold_sums(
        &self,
        shared: &Shared,
        bucket: usize,
        rows: bool,
        range: &Range<usize>,
        at_hand: &mut [f32],
        aside: &mut [f32],
    ) {
        let mut depth = 0;
        let place = |depth: usize| depth * FOLD..depth * FOLD + range.len();
        for &step in &shared.steps {
            match step {
                FoldStep::Set { node } => {
                    // SAFETY: passed on to the caller.
                    let sum = unsafe { shared.source(&self.gradient, node, bucket, rows, range) };
                    at_hand.copy_from_slice(sum);
                }
                FoldStep::Add { node } => {
                    // SAFETY: passed on to the caller.
                    let sum = unsafe { shared.source(&self.gradient, node, bucket, rows, range) };
                    reduce::add(self.isa, at_hand, sum);
                }
                FoldStep::Aside => {
                    aside[place(depth)].copy_from_slice(at_hand);
                    depth += 1;
                }
                FoldStep::AddAside => {
                    depth -= 1;
                    reduce::add(self.isa, at_hand, &aside[place(depth)]);
                }
            }
        }
    }

    /// Sums of squares of an own piece.
    pub(super) fn own_squares(&self, piece: usize) {
        let piece = self.ranks().division.pieces[piece];
        self.square_range(piece.param, piece.start, piece.len);
    }

    /// Puts the own sums of squares and row losses together.
    pub(super) fn note(&self) {
        let shared = self.ranks();
        let rank = shared.division.rank;
        let (range, rows, blocks) = (shared.note(rank), shared.rows[rank].clone(), &shared.blocks[rank]);
        // SAFETY: see the top of this file.
        unsafe {
            let (squares, losses) = shared.notes.slice_mut(range.start, range.len()).split_at_mut(WORDS * blocks.len());
            for (out, &block) in squares.chunks_exact_mut(WORDS).zip(blocks) {
                put(out, self.squares[block].load(Ordering::Relaxed));
            }
            losses.copy_from_slice(self.losses.slice(rows.start, rows.len()));
        }
    }

    /// Takes over the sums of squares and row losses of another rank.
    pub(super) fn learn(&self, rank: usize) {
        let shared = self.ranks();
        let (range, rows, blocks) = (shared.note(rank), shared.rows[rank].clone(), &shared.blocks[rank]);
        // SAFETY: see the top of this file.
        unsafe {
            let (squares, losses) = shared.notes.slice(range.start, range.len()).split_at(WORDS * blocks.len());
            for (from, &block) in squares.chunks_exact(WORDS).zip(blocks) {
                self.squares[block].store(get(from), Ordering::Relaxed);
            }
            self.losses.slice_mut(rows.start, rows.len()).copy_from_slice(losses);
        }
    }

    /// AdamW for an own piece.
    pub(super) fn update_own(&self, piece: usize) {
        let piece = self.ranks().division.pieces[piece];
        let p = &self.trained()[piece.param];
        self.adamw(p.offset + piece.start, piece.len, &self.hyper(p.kind()));
    }

    /// The digest of the own part of a bucket.
    pub(super) fn digest(&self, bucket: usize) {
        let shared = self.ranks();
        let rank = shared.division.rank;
        let range = shared.division.buckets[bucket].values[rank].clone();
        // SAFETY: see the top of this file.
        unsafe {
            let value = digest(self.trained_values().slice(range.start, range.len()));
            put(shared.digests.slice_mut(shared.digest_at(rank, bucket), WORDS), value);
        }
    }

    /// Compares the copy of another rank's part of a bucket with its digest.
    pub(super) fn check(&self, bucket: usize, rank: usize) {
        let shared = self.ranks();
        let range = shared.division.buckets[bucket].values[rank].clone();
        // SAFETY: see the top of this file.
        let same = unsafe {
            let found = digest(self.trained_values().slice(range.start, range.len()));
            found == get(shared.digests.slice(shared.digest_at(rank, bucket), WORDS))
        };
        if !same {
            shared.wrong.store(rank + 1, Ordering::Relaxed);
        }
    }
}
