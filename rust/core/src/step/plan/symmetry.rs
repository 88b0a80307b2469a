//! Twelve-fold symmetry: the fixed parts of a batch and the fixed tree that folds them (contract S1-S3).

pub use crate::contract::SECTORS;
use std::ops::Range;
use symlm_kernels::gemm::Fold;

/// Windows of sector `sector` in a batch of `batch` windows.
pub fn sector_windows(batch: usize, sector: usize) -> Range<usize> {
    (sector * batch).div_ceil(SECTORS)..((sector + 1) * batch).div_ceil(SECTORS)
}

/// Where a partial sum of the tree is kept: `total` ends as the result, `pair` holds the third triple while the
/// fourth is summed, `triple` the second and the fourth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SumPlace {
    /// The result.
    Total,
    /// The sum of the triple at hand.
    Triple,
    /// The third triple.
    Pair,
}

/// What is done with the sum of a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visit {
    /// Where it is added or set.
    pub place: SumPlace,
    /// Set for the first of a triple.
    pub fold: Fold,
    /// What follows once the sector is in place.
    pub then: Then,
}

/// A step of the tree above the triples.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// `total = total + triple`.
    AddTriple,
    /// `total = total + (pair + triple)`.
    AddPair,
}

/// The tree, visited sector by sector in ascending order: `(t0 + t1) + (t2 + t3)` with `tj = (s3j + s3j+1) + s3j+2`.
pub fn visit(sector: usize) -> Visit {
    if symlm_kernels::ANY_ORDER {
        // One sum over all sectors.
        let fold = if sector == 0 { Fold::Set } else { Fold::Add };
        return Visit { place: SumPlace::Total, fold, then: Then::Nothing };
    }
    let (triple, member) = (sector / 3, sector % 3);
    let place = match triple {
        0 => SumPlace::Total,
        2 => SumPlace::Pair,
        _ => SumPlace::Triple,
    };
    let fold = if member == 0 { Fold::Set } else { Fold::Add };
    let then = match (triple, member) {
        (1, 2) => Then::AddTriple,
        (3, 2) => Then::AddPair,
        _ => Then::Nothing,
    };
    Visit { place, fold, then }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_batch_of_32_is_split_3_3_2() {
        let sizes: Vec<usize> = (0..SECTORS).map(|s| sector_windows(32, s).len()).collect();
        assert_eq!(sizes, [3, 3, 2, 3, 3, 2, 3, 3, 2, 3, 3, 2]);
    }

    proptest! {
        #[test]
        fn sectors_cover_the_batch_once_in_order(batch in 0_usize..500) {
            let mut next = 0;
            for s in 0..SECTORS {
                let range = sector_windows(batch, s);
                prop_assert_eq!(range.start, next);
                next = range.end;
                prop_assert!(range.len() == batch / SECTORS || range.len() == batch.div_ceil(SECTORS));
            }
            prop_assert_eq!(next, batch);
        }

        #[test]
        fn visiting_in_order_is_the_tree(x in proptest::array::uniform12(-1e3_f32..1e3)) {
            let t = |j: usize| (x[3 * j] + x[3 * j + 1]) + x[3 * j + 2];
            let expected = (t(0) + t(1)) + (t(2) + t(3));
            let (mut total, mut triple, mut pair) = (f32::NAN, f32::NAN, f32::NAN);
            for (s, value) in x.into_iter().enumerate() {
                let v = visit(s);
                let place = match v.place { SumPlace::Total => &mut total, SumPlace::Triple => &mut triple, SumPlace::Pair => &mut pair };
                *place = if v.fold == Fold::Set { value } else { *place + value };
                match v.then {
                    Then::Nothing => {}
                    Then::AddTriple => total += triple,
                    Then::AddPair => total += pair + triple,
                }
            }
            prop_assert_eq!(total.to_bits(), expected.to_bits());
        }
    }
}
