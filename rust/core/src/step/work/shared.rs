//! The memory and the tasks of an update that several ranks compute (contract, "Ranks").
//!
//! Safety of every block here: a task reads what the tasks before it have left, and bytes that have arrived, for which the
//! graph has nodes too; it writes the own part of a bucket, or what belongs to it alone. Bytes that arrive are written by
//! the thread outside, where no task reads before the node of their arrival: partial sums and notes have memory of their
//! own; new values come when their owner knows the norm, so after the last task of this rank that reads the old ones.

use super::mailbox::{Mailbox, Transfer};
use super::state::State;
use crate::contract::SQUARE_BLOCK;
use crate::error::Result;
use crate::pool::Scratch;
use crate::step::plan::{Division, FoldStep, Message, Plan, Stage, fold_steps, pieces, rank_sectors};
use crate::system::arena::Arena;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use symlm_kernels::adamw::Hyper;
use symlm_kernels::reduce;

/// Floats that a 64-bit number takes in an arena.
const WORDS: usize = 2;
/// Elements that are folded at a time: they stay in the first-level cache.
const FOLD: usize = SQUARE_BLOCK;

/// What an engine has more of where it is one of several ranks.
pub(crate) struct Shared {
    pub division: Division,
    pub mailbox: Mailbox,
    steps: Vec<FoldStep>,
    /// This rank's partial sums after the first, which lies in the arena of gradients.
    partials: Vec<Arena>,
    /// This rank's partial sums of the embedding's rows, where the output head is tied.
    rows: Vec<Arena>,
    /// The own parts of the partial sums of other ranks, bucket after bucket, and their rows.
    arrived: Vec<Arena>,
    /// First element of each bucket in `arrived`.
    at: Vec<usize>,
    /// Where the rows begin in `arrived`.
    rows_at: usize,
    /// Of each rank: sums of squares of what it owns, then its row losses.
    notes: Arena,
    note_len: usize,
    /// Of each rank, a digest for each bucket.
    digests: Arena,
    /// Position in the table of squares of each block that a rank owns, in the order of its note.
    blocks: Vec<Vec<usize>>,
    /// One more than the rank whose values differ from their digest here; 0 for none.
    wrong: AtomicUsize,
}

/// A 64-bit digest of some values: a change of one bit always changes it.
pub(crate) fn digest(values: &[f32]) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut lanes = [ODD; 8];
    let chunks = values.chunks_exact(16);
    let mut last = [0.0; 16];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    for chunk in chunks.chain([&last[..]]) {
        for (lane, pair) in lanes.iter_mut().zip(chunk.chunks_exact(2)) {
            let word = u64::from(pair[0].to_bits()) | u64::from(pair[1].to_bits()) << 32;
            *lane = (*lane ^ word).wrapping_mul(ODD).rotate_left(29);
        }
    }
    lanes.iter().fold(values.len() as u64, |sum, &lane| (sum.rotate_left(7) ^ lane).wrapping_mul(ODD))
}

impl Shared {
    /// For an engine of which `plan` is the graph of an update.
    pub fn new(state: &State, division: Division) -> Result<Self> {
        let me = division.rank;
        let (own, foreign): (Vec<_>, Vec<_>) = division.nodes.iter().partition(|node| node.rank == me);
        let mut len = 0;
        let mut place = |range: &Range<usize>| {
            len += range.len().next_multiple_of(16);
            len - range.len().next_multiple_of(16)
        };
        let at = division.buckets.iter().map(|bucket| place(&bucket.gradient[me])).collect();
        let tied = division.buckets.iter().find(|bucket| bucket.tied);
        let rows_at = tied.map_or(0, |bucket| place(&bucket.gradient[me]));
        let blocks: Vec<Vec<usize>> = (0..division.ranks).map(|rank| blocks_of(state, &division, rank)).collect();
        let windows = |rank: usize| state.partition.windows_of(&rank_sectors(division.ranks)[rank]).len();
        let note = |rank: usize| WORDS * blocks[rank].len() + windows(rank) * state.seq_len();
        let note_len = (0..division.ranks).map(note).max().unwrap_or_default().next_multiple_of(16);
        let digest_len = division.ranks * division.buckets.len() * WORDS;
        let arenas = |count: usize, len: usize| (0..count).map(|_| Arena::new(len)).collect::<Result<Vec<_>>>();
        let embedding = &state.weights.layout.matrices[state.embedding];
        let rows = if tied.is_some() { own.len() } else { 0 };
        Ok(Self {
            mailbox: Mailbox::default(),
            steps: fold_steps(&division.nodes),
            partials: arenas(own.len() - 1, state.gradient.len())?,
            rows: arenas(rows, embedding.offset + embedding.rows * embedding.cols)?,
            arrived: arenas(foreign.len(), len)?,
            notes: Arena::new(note_len * division.ranks)?,
            digests: Arena::new(digest_len)?,
            wrong: AtomicUsize::new(0),
            division,
            at,
            rows_at,
            note_len,
            blocks,
        })
    }

    /// Fixes the transfers, once the graph is known.
    pub fn connect(&mut self, state: &State, plan: &Plan) {
        let stages = self.division.stages();
        let mut transfers = Vec::new();
        for (number, &stage) in stages.iter().enumerate() {
            let arrival = plan.arrivals.iter().find(|(of, _)| *of == stage).map(|(_, node)| *node);
            for message in self.division.messages(stage) {
                let (arena, range) = self.memory(state, message);
                let node = if message.incoming { arrival } else { plan.sent };
                let of = if message.incoming { message.peer } else { self.division.rank };
                transfers.push(Transfer {
                    tag: (number * 12 + message.node) as u32,
                    peer: message.peer,
                    incoming: message.incoming,
                    address: arena.ptr(range.start) as usize,
                    bytes: range.len() * size_of::<f32>(),
                    values_of: matches!(stage, Stage::Values { .. }).then_some(of),
                    node: node.expect("a plan of several ranks has a node for each message"),
                });
            }
        }
        self.mailbox = Mailbox::new(transfers);
    }

    /// Where a message lies.
    fn memory<'a>(&'a self, state: &'a State, message: Message) -> (&'a Arena, Range<usize>) {
        let division = &self.division;
        let holder = if message.incoming { message.peer } else { division.rank };
        match message.stage {
            Stage::Gradient { bucket, rows } => {
                let parts = &division.buckets[bucket].gradient;
                if message.incoming {
                    let start = if rows { self.rows_at } else { self.at[bucket] };
                    return (self.foreign(message.node), start..start + parts[division.rank].len());
                }
                (self.partial(state, division.nodes[message.node].index, rows), parts[message.peer].clone())
            }
            Stage::Values { bucket } => (state.trained_values(), division.buckets[bucket].values[holder].clone()),
            Stage::Notes => (&self.notes, self.note(state, holder)),
            Stage::Digests => {
                let len = division.buckets.len() * WORDS;
                (&self.digests, holder * len..(holder + 1) * len)
            }
        }
    }

    fn note(&self, state: &State, rank: usize) -> Range<usize> {
        let windows = state.partition.windows_of(&rank_sectors(self.division.ranks)[rank]);
        let start = rank * self.note_len;
        start..start + WORDS * self.blocks[rank].len() + windows.len() * state.seq_len()
    }

    /// The arena of an own partial sum.
    pub fn partial<'a>(&'a self, state: &'a State, index: usize, rows: bool) -> &'a Arena {
        if rows {
            &self.rows[index]
        } else if index == 0 {
            &state.gradient
        } else {
            &self.partials[index - 1]
        }
    }

    /// The arena of another rank's partial sum.
    fn foreign(&self, node: usize) -> &Arena {
        let before = self.division.nodes[..node].iter().filter(|n| n.rank != self.division.rank).count();
        &self.arrived[before]
    }

    /// The rank whose values were found to differ from their digest.
    pub fn wrong(&self) -> Option<usize> {
        self.wrong.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Lets the messages of a stage leave.
    pub fn leave(&self, stage: Stage) {
        let messages = self.division.stages().into_iter().flat_map(|stage| self.division.messages(stage));
        let of_stage = messages.enumerate().filter(|(_, m)| m.stage == stage && !m.incoming);
        self.mailbox.leave(&of_stage.map(|(index, _)| index as u32).collect::<Vec<_>>());
    }

    /// Elements `range` of a node's sum, as far as this rank has it: `bucket` and `rows` say of what.
    unsafe fn source<'a>(
        &'a self,
        state: &'a State,
        node: usize,
        bucket: usize,
        rows: bool,
        range: &Range<usize>,
    ) -> &'a [f32] {
        let n = &self.division.nodes[node];
        // SAFETY: passed on to the caller.
        unsafe {
            if n.rank == self.division.rank {
                return self.partial(state, n.index, rows).slice(range.start, range.len());
            }
            let first = if rows { self.rows_at } else { self.at[bucket] };
            let own = &self.division.buckets[bucket].gradient[self.division.rank];
            self.foreign(node).slice(first + range.start - own.start, range.len())
        }
    }
}

/// Positions in the table of squares of the blocks that a rank owns.
fn blocks_of(state: &State, division: &Division, rank: usize) -> Vec<usize> {
    let of = |piece: crate::step::plan::Piece| {
        let first = state.square_start[piece.param] + piece.start / SQUARE_BLOCK;
        first..first + piece.len.div_ceil(SQUARE_BLOCK)
    };
    pieces(&division.buckets, state.trained(), rank).into_iter().flat_map(of).collect()
}

/// A 64-bit number as two floats, bit by bit.
fn put(out: &mut [f32], value: u64) {
    (out[0], out[1]) = (f32::from_bits(value as u32), f32::from_bits((value >> 32) as u32));
}

fn get(from: &[f32]) -> u64 {
    u64::from(from[0].to_bits()) | u64::from(from[1].to_bits()) << 32
}

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
                // SAFETY: passed on to the caller.
                FoldStep::Set { node } => {
                    at_hand.copy_from_slice(unsafe { shared.source(self, node, bucket, rows, range) });
                }
                // SAFETY: as above.
                FoldStep::Add { node } => {
                    reduce::add(self.isa, at_hand, unsafe { shared.source(self, node, bucket, rows, range) });
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
        let (range, windows) = (shared.note(self, rank), self.partition.windows_of(&self.partition.sectors));
        let rows = windows.start * self.seq_len()..windows.end * self.seq_len();
        let blocks = &shared.blocks[rank];
        // SAFETY: see the top of this file.
        unsafe {
            let (squares, losses) =
                shared.notes.slice_mut(range.start, range.len()).split_at_mut(WORDS * blocks.len());
            for (out, &block) in squares.chunks_exact_mut(WORDS).zip(blocks) {
                put(out, self.squares[block].load(Ordering::Relaxed));
            }
            losses.copy_from_slice(self.losses.slice(rows.start, rows.len()));
        }
    }

    /// Takes over the sums of squares and row losses of another rank.
    pub(super) fn learn(&self, rank: usize) {
        let shared = self.ranks();
        let range = shared.note(self, rank);
        let windows = self.partition.windows_of(&rank_sectors(shared.division.ranks)[rank]);
        let blocks = &shared.blocks[rank];
        // SAFETY: see the top of this file.
        unsafe {
            let (squares, losses) = shared.notes.slice(range.start, range.len()).split_at(WORDS * blocks.len());
            for (from, &block) in squares.chunks_exact(WORDS).zip(blocks) {
                self.squares[block].store(get(from), Ordering::Relaxed);
            }
            self.losses.slice_mut(windows.start * self.seq_len(), losses.len()).copy_from_slice(losses);
        }
    }

    /// AdamW for an own piece.
    pub(super) fn update_own(&self, piece: usize) {
        let piece = self.ranks().division.pieces[piece];
        let (p, hyper) = (&self.trained()[piece.param], self.hyper());
        let hyper = if p.decays() { hyper } else { Hyper { decay: 0.0, ..hyper } };
        self.adamw(p.offset + piece.start, piece.len, &hyper);
    }

    /// The digest of the own part of a bucket.
    pub(super) fn digest(&self, bucket: usize) {
        let shared = self.ranks();
        let rank = shared.division.rank;
        let range = shared.division.buckets[bucket].values[rank].clone();
        // SAFETY: see the top of this file.
        unsafe {
            let value = digest(self.trained_values().slice(range.start, range.len()));
            put(shared.digests.slice_mut(self.digest_at(rank, bucket), WORDS), value);
        }
    }

    fn digest_at(&self, rank: usize, bucket: usize) -> usize {
        (rank * self.ranks().division.buckets.len() + bucket) * WORDS
    }

    /// Compares the copy of another rank's part of a bucket with its digest.
    pub(super) fn check(&self, bucket: usize, rank: usize) {
        let shared = self.ranks();
        let range = shared.division.buckets[bucket].values[rank].clone();
        // SAFETY: see the top of this file.
        let same = unsafe {
            let found = digest(self.trained_values().slice(range.start, range.len()));
            found == get(shared.digests.slice(self.digest_at(rank, bucket), WORDS))
        };
        if !same {
            shared.wrong.store(rank + 1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::digest;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_flipped_bit_changes_the_digest(
            mut values in proptest::collection::vec(-1e9_f32..1e9, 1..80), at: proptest::sample::Index, bit in 0_u32..32,
        ) {
            let before = digest(&values);
            let at = at.index(values.len());
            values[at] = f32::from_bits(values[at].to_bits() ^ 1 << bit);
            prop_assert_ne!(digest(&values), before);
        }
    }
}
