//! Which rank owns which part of the parameters, and in which pieces it works on it (contract P3, P4).

use super::limits::SQUARE_BLOCKS;
use super::optimizer::{Optimizer, Unit};
use crate::contract::SQUARE_BLOCK;
use crate::model::{Adapters, Layout, MatrixId, Param};
use std::ops::Range;

/// What travels as a whole: a range of the parameters, a part of it for each rank.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// The part of each rank in the arena of gradients.
    pub gradient: Vec<Range<usize>>,
    /// The part of each rank in the arena of what is trained.
    pub values: Vec<Range<usize>>,
    /// Matrices whose gradient is in it.
    pub matrices: Vec<usize>,
    /// Norms whose gradient is in it.
    pub norms: Vec<usize>,
    /// With a tied output head the embedding's gradient is folded apart (contract L6).
    pub tied: bool,
    /// The adapter whose factors follow from it.
    pub adapter: Option<usize>,
}

/// Some blocks of a trained tensor: what one task squares and updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The bucket that it is in.
    pub bucket: usize,
    /// The trained tensor.
    pub param: usize,
    /// First element in the tensor, the start of a block.
    pub start: usize,
    /// Elements.
    pub len: usize,
}

/// The buckets of a model, in table order.
pub(crate) fn buckets(layout: &Layout, adapters: Option<&Adapters>, optimizer: Optimizer, ranks: usize) -> Vec<Bucket> {
    match adapters {
        // Both factors of an adapter follow from one gradient, whatever the optimizer.
        Some(adapters) => adapter_buckets(layout, adapters, ranks),
        None => parameter_buckets(layout, optimizer.unit, ranks),
    }
}

fn parameter_buckets(layout: &Layout, unit: Unit, ranks: usize) -> Vec<Bucket> {
    let groups = layout.params.chunk_by(|a, b| group_name(&a.name) == group_name(&b.name));
    let bucket = |params: &[Param]| {
        let range = params[0].offset..params[params.len() - 1].offset + params[params.len() - 1].len();
        let parts = divide(&units_of(params, unit), ranks);
        let inside = |offset: usize| range.contains(&offset);
        let indices = |offsets: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
            offsets.enumerate().filter(|&(_, offset)| inside(offset)).map(|(index, _)| index).collect()
        };
        let matrices = indices(&mut layout.matrices.iter().map(|m| m.offset));
        let embedding = matrices.iter().any(|&m| layout.matrices[m].id == MatrixId::Embedding);
        Bucket {
            norms: indices(&mut layout.norms.iter().map(|norm| norm.offset)),
            tied: embedding && matrices.contains(&layout.lm_head()),
            gradient: parts.clone(),
            values: parts,
            matrices,
            adapter: None,
        }
    };
    groups.map(bucket).collect()
}

/// Tensors of a layer have the same name up to the number of the layer.
fn group_name(name: &str) -> &str {
    let layers = "model.layers.";
    let number = name.strip_prefix(layers).and_then(|rest| rest.find('.'));
    number.map_or(name, |end| &name[..layers.len() + end])
}

fn adapter_buckets(layout: &Layout, adapters: &Adapters, ranks: usize) -> Vec<Bucket> {
    let owners = owners(&adapters.list.iter().map(|a| a.rows * a.cols).collect::<Vec<_>>(), ranks);
    let bucket = |(index, owner): (usize, usize)| {
        let adapter = &adapters.list[index];
        let at = layout.params[adapter.param].offset;
        let alone = |range: Range<usize>| {
            let part = |rank| if rank == owner { range.clone() } else { range.start..range.start };
            (0..ranks).map(part).collect::<Vec<_>>()
        };
        Bucket {
            gradient: alone(at..at + adapter.rows * adapter.cols),
            values: alone(adapter.a..adapter.b + adapter.rows * adapters.rank),
            matrices: vec![adapter.matrix],
            norms: Vec::new(),
            tied: false,
            adapter: Some(index),
        }
    };
    owners.into_iter().enumerate().map(bucket).collect()
}

/// The owner of each of some units of these sizes, in order.
fn owners(sizes: &[usize], ranks: usize) -> Vec<usize> {
    let all: usize = sizes.iter().sum();
    let (mut before, mut rank) = (0, 0);
    let of = |&size: &usize| {
        while rank + 1 < ranks && before * ranks >= (rank + 1) * all {
            rank += 1;
        }
        before += size;
        rank
    };
    sizes.iter().map(of).collect()
}

/// The units of consecutive tensors.
fn units_of(params: &[Param], unit: Unit) -> Vec<Range<usize>> {
    let units = |p: &Param| {
        let (offset, len) = (p.offset, p.len());
        let size = match unit {
            Unit::Block => SQUARE_BLOCK,
            Unit::Tensor => len,
        };
        (0..len).step_by(size).map(move |start| offset + start..offset + (start + size).min(len))
    };
    params.iter().flat_map(units).collect()
}

/// The range of each rank, from its first unit to its last.
fn divide(units: &[Range<usize>], ranks: usize) -> Vec<Range<usize>> {
    let owners = owners(&units.iter().map(Range::len).collect::<Vec<_>>(), ranks);
    let part = |rank| {
        let mut own = units.iter().zip(&owners).filter(|(_, owner)| **owner == rank).map(|(unit, _)| unit);
        own.next().map_or(0..0, |first| first.start..own.next_back().unwrap_or(first).end)
    };
    (0..ranks).map(part).collect()
}

/// The pieces of a rank's parts of the trained tensors `params`, in table order.
pub(crate) fn pieces(buckets: &[Bucket], params: &[Param], rank: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (bucket, own) in buckets.iter().map(|bucket| &bucket.values[rank]).enumerate() {
        for (param, p) in params.iter().enumerate() {
            let (start, end) = (own.start.max(p.offset), own.end.min(p.offset + p.len()));
            for at in (start..end).step_by(SQUARE_BLOCK * SQUARE_BLOCKS) {
                let len = (end - at).min(SQUARE_BLOCK * SQUARE_BLOCKS);
                pieces.push(Piece { bucket, param, start: at - p.offset, len });
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ADAPTER_TARGETS, LoraConfig, ModelConfig};
    use crate::step::plan::optimizer::ADAMW;

    const WHOLE: Optimizer = Optimizer { unit: Unit::Tensor };

    fn layout(tied: bool) -> Layout {
        let model = format!(
            r#"{{"vocab_size": 300, "hidden_size": 96, "intermediate_size": 160, "num_layers": 3, "num_heads": 4,
            "num_kv_heads": 2, "seq_len": 8, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_embeddings": {tied}}}"#
        );
        Layout::new(&serde_json::from_str::<ModelConfig>(&model).unwrap())
    }

    /// How often each element of the trained tensors is in a piece of some rank.
    fn owned(buckets: &[Bucket], params: &[Param], ranks: usize) -> Vec<Vec<u8>> {
        let mut times: Vec<Vec<u8>> = params.iter().map(|p| vec![0; p.len()]).collect();
        for rank in 0..ranks {
            for piece in pieces(buckets, params, rank) {
                assert!(piece.start.is_multiple_of(SQUARE_BLOCK));
                let own = &mut times[piece.param][piece.start..piece.start + piece.len];
                own.iter_mut().for_each(|count| *count += 1);
            }
        }
        times
    }

    #[test]
    fn every_element_has_one_owner_whatever_is_trained() {
        for tied in [true, false] {
            let layout = layout(tied);
            let targets = ADAPTER_TARGETS.map(str::to_owned).to_vec();
            let adapters = Adapters::new(&layout, &LoraConfig { rank: 3, alpha: 6.0, targets });
            for ranks in 1..=12 {
                let all = buckets(&layout, None, ADAMW, ranks);
                assert_eq!(all.len(), 3 + 2 + usize::from(!tied));
                assert_eq!(all.iter().filter(|bucket| bucket.tied).count(), usize::from(tied));
                assert_eq!(all.iter().map(|b| b.matrices.len()).sum::<usize>(), layout.matrices.len());
                assert_eq!(all.iter().map(|b| b.norms.len()).sum::<usize>(), layout.norms.len());
                assert!(owned(&all, &layout.params, ranks).iter().flatten().all(|&times| times == 1));
                let all = buckets(&layout, Some(&adapters), ADAMW, ranks);
                assert!(owned(&all, &adapters.params, ranks).iter().flatten().all(|&times| times == 1));
            }
        }
    }

    #[test]
    fn parts_are_even_to_a_block() {
        let layout = layout(true);
        for ranks in 2..=12 {
            for bucket in buckets(&layout, None, ADAMW, ranks) {
                let all: usize = bucket.gradient.iter().map(Range::len).sum();
                assert!(bucket.gradient.iter().all(|part| part.len() <= all / ranks + 2 * SQUARE_BLOCK));
            }
        }
    }

    #[test]
    fn an_optimizer_of_whole_tensors_gets_whole_tensors() {
        for tied in [true, false] {
            let layout = layout(tied);
            for ranks in 2..=12 {
                let all = buckets(&layout, None, WHOLE, ranks);
                assert!(owned(&all, &layout.params, ranks).iter().flatten().all(|&times| times == 1));
                for p in &layout.params {
                    let tensor = p.offset..p.offset + p.len();
                    let holds = |part: &Range<usize>| part.start <= tensor.start && tensor.end <= part.end;
                    let holders = all.iter().flat_map(|bucket| &bucket.values).filter(|part| holds(part)).count();
                    assert_eq!(holders, 1, "{} on {ranks} ranks", p.name);
                }
            }
        }
    }
}
