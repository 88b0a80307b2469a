//! What travels between ranks in an update.
//!
//! Every rank knows the messages of all from the division alone, so that nothing has to be announced. A message leaves
//! when the task for it has run; a node that stands for arrivals is completed from outside, once for each message.

use super::division::{Node, all_nodes};
use super::optimizer::Optimizer;
use super::ownership::{Bucket, Piece, buckets, pieces};
use crate::model::{Adapters, Layout};

/// Messages that leave together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Partial sums of a bucket's gradient; `rows`: those of the embedding's rows where the head has some too.
    Gradient { bucket: usize, rows: bool },
    /// Sums of squares and row losses.
    Notes,
    /// New values of a bucket.
    Values { bucket: usize },
    /// Digests of the new values.
    Digests,
}

/// One message of a stage, as this rank sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub stage: Stage,
    /// The other rank.
    pub peer: usize,
    /// Whether it comes from there.
    pub incoming: bool,
    /// The partial sum that it is a part of, counted over all ranks; 0 in stages without.
    pub node: usize,
}

/// Who computes and owns what, seen from one rank.
#[derive(Clone, Debug)]
pub(crate) struct Division {
    pub ranks: usize,
    pub rank: usize,
    /// Partial sums of all ranks.
    pub nodes: Vec<Node>,
    pub buckets: Vec<Bucket>,
    /// What this rank owns.
    pub pieces: Vec<Piece>,
}

impl Division {
    pub fn new(layout: &Layout, adapters: Option<&Adapters>, optimizer: Optimizer, ranks: usize, rank: usize) -> Self {
        let buckets = buckets(layout, adapters, optimizer, ranks);
        let params = adapters.map_or(&layout.params, |adapters| &adapters.params);
        let pieces = pieces(&buckets, params, rank);
        Self { ranks, rank, nodes: all_nodes(ranks), buckets, pieces }
    }

    /// Where the own parts of other ranks' partial sums lie in an arena for each of these: the start of each bucket, that
    /// of the embedding's rows, and the length of all.
    pub fn arrived(&self) -> (Vec<usize>, usize, usize) {
        let mut len = 0;
        let mut place = |bucket: &Bucket| {
            let start = len;
            len += bucket.gradient[self.rank].len().next_multiple_of(16);
            start
        };
        let at = self.buckets.iter().map(&mut place).collect();
        let rows_at = self.buckets.iter().find(|bucket| bucket.tied).map_or(0, &mut place);
        (at, rows_at, len)
    }

    /// Elements that the exchange takes: partial sums of this rank beside the gradient (`gradient` elements each, and with
    /// a tied head `embedding` more), and those that arrive.
    pub fn elements(&self, gradient: usize, embedding: usize) -> usize {
        let own = self.nodes.iter().filter(|node| node.rank == self.rank).count();
        let rows = if self.buckets.iter().any(|bucket| bucket.tied) { own * embedding } else { 0 };
        (own - 1) * gradient + rows + (self.nodes.len() - own) * self.arrived().2
    }

    /// Trained elements that this rank owns.
    pub fn owned(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.values[self.rank].len()).sum()
    }

    /// All other ranks.
    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.rank;
        (0..self.ranks).filter(move |&other| other != rank)
    }

    /// All stages of an update, in the order in which they begin.
    pub fn stages(&self) -> Vec<Stage> {
        let count = self.buckets.len();
        let gradients = (0..count).map(|bucket| Stage::Gradient { bucket, rows: false });
        let rows = (0..count).filter(|&b| self.buckets[b].tied).map(|bucket| Stage::Gradient { bucket, rows: true });
        let values = (0..count).map(|bucket| Stage::Values { bucket });
        gradients.chain(rows).chain([Stage::Notes]).chain(values).chain([Stage::Digests]).collect()
    }

    /// The messages of a stage that this rank sends and receives.
    pub fn messages(&self, stage: Stage) -> Vec<Message> {
        let message = |peer, incoming, node| Message { stage, peer, incoming, node };
        let mut all = Vec::new();
        for peer in self.others() {
            match stage {
                Stage::Gradient { bucket, .. } => {
                    let parts = &self.buckets[bucket].gradient;
                    for (number, node) in self.nodes.iter().enumerate() {
                        if node.rank == peer && !parts[self.rank].is_empty() {
                            all.push(message(peer, true, number));
                        } else if node.rank == self.rank && !parts[peer].is_empty() {
                            all.push(message(peer, false, number));
                        }
                    }
                }
                Stage::Values { bucket } => {
                    let parts = &self.buckets[bucket].values;
                    all.extend((!parts[peer].is_empty()).then(|| message(peer, true, 0)));
                    all.extend((!parts[self.rank].is_empty()).then(|| message(peer, false, 0)));
                }
                Stage::Notes | Stage::Digests => all.extend([true, false].map(|incoming| message(peer, incoming, 0))),
            }
        }
        all
    }

    pub fn incoming(&self, stage: Stage) -> u32 {
        self.messages(stage).iter().filter(|message| message.incoming).count() as u32
    }
}
