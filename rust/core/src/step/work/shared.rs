//! The memory of an update that several ranks compute (contract, "Ranks"), and the transfers between its parts.

use super::mailbox::{Mailbox, Transfer};
use crate::error::Result;
use crate::step::plan::{Division, FoldStep, Message, Plan, Stage, fold_steps};
use crate::system::arena::Arena;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Floats that a 64-bit number takes in an arena.
pub(super) const WORDS: usize = 2;
/// What an engine has more of where it is one of several ranks.
pub(crate) struct Shared {
    pub division: Division,
    pub mailbox: Mailbox,
    /// The transfers of each stage that leave, by their position.
    outgoing: HashMap<Stage, Vec<u32>>,
    pub steps: Vec<FoldStep>,
    /// This rank's partial sums after the first, which lies in the arena of gradients.
    partials: Vec<Arena>,
    /// This rank's partial sums of the embedding's rows, where the output head is tied.
    embedding: Vec<Arena>,
    /// The own parts of the partial sums of other ranks, bucket after bucket, and their rows.
    arrived: Vec<Arena>,
    /// First element of each bucket in `arrived`.
    at: Vec<usize>,
    /// Where the rows begin in `arrived`.
    rows_at: usize,
    /// Of each rank: sums of squares of what it owns, then its row losses.
    pub notes: Arena,
    note_len: usize,
    /// Of each rank, a digest for each bucket.
    pub digests: Arena,
    /// Position in the table of squares of each block that a rank owns, in the order of its note.
    pub blocks: Vec<Vec<usize>>,
    /// Tokens of each rank in the batch.
    pub rows: Vec<Range<usize>>,
    /// One more than the rank whose values differ from their digest here; 0 for none.
    pub wrong: AtomicUsize,
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
    /// `blocks` are those of the table of squares that each rank owns, `rows` the tokens of each rank in the batch,
    /// `gradient` the elements of an arena of gradients, `embedding` the end of the embedding in it.
    pub fn new(
        division: Division,
        blocks: Vec<Vec<usize>>,
        rows: Vec<Range<usize>>,
        gradient: usize,
        embedding: usize,
    ) -> Result<Self> {
        let me = division.rank;
        let (own, foreign): (Vec<_>, Vec<_>) = division.nodes.iter().partition(|node| node.rank == me);
        let (at, rows_at, len) = division.arrived();
        let tied = division.buckets.iter().find(|bucket| bucket.tied);
        let note = |rank: usize| WORDS * blocks[rank].len() + rows[rank].len();
        let note_len = (0..division.ranks).map(note).max().unwrap_or_default().next_multiple_of(16);
        let digest_len = division.ranks * division.buckets.len() * WORDS;
        let arenas = |count: usize, len: usize| (0..count).map(|_| Arena::new(len)).collect::<Result<Vec<_>>>();
        Ok(Self {
            mailbox: Mailbox::default(),
            outgoing: HashMap::new(),
            steps: fold_steps(&division.nodes),
            partials: arenas(own.len() - 1, gradient)?,
            embedding: arenas(if tied.is_some() { own.len() } else { 0 }, embedding)?,
            arrived: arenas(foreign.len(), len)?,
            notes: Arena::new(note_len * division.ranks)?,
            digests: Arena::new(digest_len)?,
            wrong: AtomicUsize::new(0),
            division,
            at,
            rows_at,
            note_len,
            blocks,
            rows,
        })
    }

    /// Fixes the transfers, once the graph is known.
    pub fn connect(&mut self, gradient: &Arena, values: &Arena, plan: &Plan) {
        let stages = self.division.stages();
        let mut transfers = Vec::new();
        for (number, &stage) in stages.iter().enumerate() {
            let arrival = plan.arrivals.iter().find(|(of, _)| *of == stage).map(|(_, node)| *node);
            for message in self.division.messages(stage) {
                if !message.incoming {
                    self.outgoing.entry(stage).or_default().push(transfers.len() as u32);
                }
                let (arena, range) = self.memory(gradient, values, message);
                let node = if message.incoming { arrival } else { plan.sent };
                let of = if message.incoming { message.peer } else { self.division.rank };
                transfers.push(Transfer {
                    tag: (number * 12 + message.node) as u32,
                    peer: message.peer,
                    incoming: message.incoming,
                    address: arena.ptr(range.start) as usize,
                    bytes: range.len() * size_of::<f32>(),
                    values_of: matches!(stage, Stage::Values { .. }).then_some(of),
                    sums: matches!(stage, Stage::Gradient { .. }),
                    node: node.expect("a plan of several ranks has a node for each message"),
                });
            }
        }
        self.mailbox = Mailbox::new(transfers);
    }

    /// Where a message lies.
    fn memory<'a>(&'a self, gradient: &'a Arena, values: &'a Arena, message: Message) -> (&'a Arena, Range<usize>) {
        let division = &self.division;
        let holder = if message.incoming { message.peer } else { division.rank };
        match message.stage {
            Stage::Gradient { bucket, rows } => {
                let parts = &division.buckets[bucket].gradient;
                if message.incoming {
                    let start = if rows { self.rows_at } else { self.at[bucket] };
                    return (self.foreign(message.node), start..start + parts[division.rank].len());
                }
                (self.partial(gradient, division.nodes[message.node].index, rows), parts[message.peer].clone())
            }
            Stage::Values { bucket } => (values, division.buckets[bucket].values[holder].clone()),
            Stage::Notes => (&self.notes, self.note(holder)),
            Stage::Digests => {
                let len = division.buckets.len() * WORDS;
                (&self.digests, holder * len..(holder + 1) * len)
            }
        }
    }

    /// Where the note of a rank lies.
    pub fn note(&self, rank: usize) -> Range<usize> {
        let start = rank * self.note_len;
        start..start + WORDS * self.blocks[rank].len() + self.rows[rank].len()
    }

    /// Where the digest of a rank's part of a bucket lies.
    pub fn digest_at(&self, rank: usize, bucket: usize) -> usize {
        (rank * self.division.buckets.len() + bucket) * WORDS
    }

    /// The arena of an own partial sum: the first one lies in that of gradients.
    pub fn partial<'a>(&'a self, gradient: &'a Arena, index: usize, rows: bool) -> &'a Arena {
        if rows {
            &self.embedding[index]
        } else if index == 0 {
            gradient
        } else {
            &self.partials[index - 1]
        }
    }

    /// A digest of all partial sums of this rank.
    ///
    /// # Safety
    /// Nobody writes them meanwhile.
    pub unsafe fn sums_digest(&self, gradient: &Arena) -> u64 {
        let arenas = [gradient].into_iter().chain(&self.partials).chain(&self.embedding);
        // SAFETY: passed on to the caller.
        let each = arenas.map(|arena| digest(unsafe { arena.slice(0, arena.len()) }));
        each.fold(0, |sum: u64, one| sum.rotate_left(9) ^ one)
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
        self.mailbox.leave(self.outgoing.get(&stage).map_or(&[], Vec::as_slice));
    }

    /// Elements `range` of a node's sum, as far as this rank has it: `bucket` and `rows` say of what.
    ///
    /// # Safety
    /// Nobody writes them while the slice lives.
    pub unsafe fn source<'a>(
        &'a self,
        gradient: &'a Arena,
        node: usize,
        bucket: usize,
        rows: bool,
        range: &Range<usize>,
    ) -> &'a [f32] {
        let n = &self.division.nodes[node];
        // SAFETY: passed on to the caller.
        unsafe {
            if n.rank == self.division.rank {
                return self.partial(gradient, n.index, rows).slice(range.start, range.len());
            }
            let first = if rows { self.rows_at } else { self.at[bucket] };
            let own = &self.division.buckets[bucket].gradient[self.division.rank];
            self.foreign(node).slice(first + range.start - own.start, range.len())
        }
    }
}

/// A 64-bit number as two floats, bit by bit.
pub(super) fn put(out: &mut [f32], value: u64) {
    (out[0], out[1]) = (f32::from_bits(value as u32), f32::from_bits((value >> 32) as u32));
}

pub(super) fn get(from: &[f32]) -> u64 {
    u64::from(from[0].to_bits()) | u64::from(from[1].to_bits()) << 32
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
