//! Which rank computes which sectors, and which partial sums of the tree that leaves (contract P1, P2).

use super::symmetry::SECTORS;
use std::ops::Range;

/// A partial sum of the tree over the sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Who computes it.
    pub rank: usize,
    /// Its number among those of its rank.
    pub index: usize,
    /// The sectors that it is the sum of.
    pub sectors: Range<usize>,
}

/// The sums of the tree that cover a range of sectors, as large as they come.
pub(crate) fn nodes_of(sectors: Range<usize>) -> Vec<Range<usize>> {
    let mut nodes = Vec::new();
    let mut at = sectors.start;
    while at < sectors.end {
        // The whole, its halves, triples, the first two of a triple, a sector.
        let fits = |&(every, len): &(usize, usize)| at.is_multiple_of(every) && at + len <= sectors.end;
        let (_, len) = [(12, 12), (6, 6), (3, 3), (3, 2)].into_iter().find(fits).unwrap_or((1, 1));
        nodes.push(at..at + len);
        at += len;
    }
    nodes
}

/// The sectors of each rank (contract P1).
pub(crate) fn rank_sectors(ranks: usize) -> Vec<Range<usize>> {
    /// The fewest sums over the sectors from `start` on, and the lengths of the ranges, which compare as the contract says.
    fn best(start: usize, ranks: usize, most: usize) -> Option<(usize, Vec<usize>)> {
        let left = SECTORS - start;
        if ranks == 0 {
            return (left == 0).then(|| (0, Vec::new()));
        }
        let mut found: Option<(usize, Vec<usize>)> = None;
        for len in (1..=most.min(left)).rev() {
            let Some((sums, rest)) = best(start + len, ranks - 1, most) else { continue };
            let sums = sums + nodes_of(start..start + len).len();
            if found.as_ref().is_none_or(|(fewest, _)| sums < *fewest) {
                found = Some((sums, [vec![len], rest].concat()));
            }
        }
        found
    }
    let (_, lengths) = best(0, ranks, SECTORS.div_ceil(ranks)).expect("no more ranks than sectors");
    let mut start = 0;
    let next = |len: usize| {
        start += len;
        start - len..start
    };
    lengths.into_iter().map(next).collect()
}

/// The partial sums of all ranks, sectors ascending.
pub(crate) fn all_nodes(ranks: usize) -> Vec<Node> {
    let of = |(rank, sectors): (usize, Range<usize>)| {
        let nodes = nodes_of(sectors).into_iter().enumerate();
        nodes.map(move |(index, sectors)| Node { rank, index, sectors })
    };
    rank_sectors(ranks).into_iter().enumerate().flat_map(of).collect()
}

/// A step of the fold of partial sums: what happens with the sums of the tree that are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoldStep {
    /// The node becomes the sum at hand.
    Set { node: usize },
    /// The node is added to the sum at hand.
    Add { node: usize },
    /// The sum at hand is put aside.
    Aside,
    /// The sum put aside last, plus the sum at hand, is the sum at hand.
    AddAside,
}

/// How the partial sums of several ranks become the total (contract S2). At most two sums are aside at any time.
pub(crate) fn fold_steps(nodes: &[Node]) -> Vec<FoldStep> {
    let mut steps = Vec::new();
    let mut node = 0;
    for half in [0..6, 6..12] {
        let first = node;
        while nodes.get(node).is_some_and(|n| n.sectors.start < half.end) {
            let sectors = &nodes[node].sectors;
            if sectors.start.is_multiple_of(3) {
                if node > first {
                    steps.push(FoldStep::Aside);
                }
                steps.push(FoldStep::Set { node });
            } else {
                steps.push(FoldStep::Add { node });
            }
            node += 1;
        }
        if nodes[first].sectors.len() < 6 {
            steps.push(FoldStep::AddAside);
        }
        if half.start == 0 {
            steps.push(FoldStep::Aside);
        } else {
            steps.push(FoldStep::AddAside);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::super::symmetry::{SumPlace, Then, visit};
    use super::*;
    use proptest::prelude::*;
    use symlm_kernels::gemm::Fold;

    fn sums(ranks: usize) -> usize {
        all_nodes(ranks).len()
    }

    #[test]
    fn every_rank_has_sectors_and_none_has_more_than_its_share() {
        for ranks in 1..=SECTORS {
            let all = rank_sectors(ranks);
            assert_eq!((all.len(), all[0].start, all[ranks - 1].end), (ranks, 0, SECTORS));
            assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(all.iter().all(|range| !range.is_empty() && range.len() <= SECTORS.div_ceil(ranks)));
        }
    }

    #[test]
    fn as_few_sums_travel_as_the_tree_allows() {
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 8, 12].map(sums), [1, 2, 7, 4, 5, 10, 9, 8, 12]);
        assert_eq!(rank_sectors(5).iter().map(Range::len).collect::<Vec<_>>(), [3, 3, 3, 2, 1]);
        assert_eq!(nodes_of(2..8), [2..3, 3..6, 6..8]);
    }

    /// What a rank makes of its sectors: `visit`, counted from the first sector of the node.
    fn node_sum(x: &[f32; 12], node: &Range<usize>) -> f32 {
        let (mut total, mut triple, mut pair) = (f32::NAN, f32::NAN, f32::NAN);
        for sector in node.clone() {
            let v = visit(sector - node.start);
            let place = match v.place {
                SumPlace::Total => &mut total,
                SumPlace::Triple => &mut triple,
                SumPlace::Pair => &mut pair,
            };
            *place = if v.fold == Fold::Set { x[sector] } else { *place + x[sector] };
            match v.then {
                Then::Nothing => {}
                Then::AddTriple => total += triple,
                Then::AddPair => total += pair + triple,
            }
        }
        total
    }

    proptest! {
        #[test]
        fn any_number_of_ranks_folds_to_the_tree(x in proptest::array::uniform12(-1e3_f32..1e3), ranks in 2_usize..=12) {
            let t = |j: usize| (x[3 * j] + x[3 * j + 1]) + x[3 * j + 2];
            let expected = (t(0) + t(1)) + (t(2) + t(3));
            let nodes = all_nodes(ranks);
            let values: Vec<f32> = nodes.iter().map(|node| node_sum(&x, &node.sectors)).collect();
            let (mut at_hand, mut aside) = (f32::NAN, Vec::new());
            for step in fold_steps(&nodes) {
                match step {
                    FoldStep::Set { node } => at_hand = values[node],
                    FoldStep::Add { node } => at_hand += values[node],
                    FoldStep::Aside => aside.push(at_hand),
                    FoldStep::AddAside => at_hand += aside.pop().unwrap(),
                }
                prop_assert!(aside.len() <= 2);
            }
            prop_assert!(aside.is_empty());
            prop_assert_eq!(at_hand.to_bits(), expected.to_bits());
        }
    }
}
