//! A text that fails ends alone: the others of its batch, and those that begin like it, get the bits that they would get alone.

use super::batch_tests::{alone, settings, setup};
use super::tests::{awkward, changed_model, some_ids};
use super::*;
use crate::error::ErrorKind;
use std::sync::Arc;
use symlm_kernels::Isa;

/// A token whose row of the embedding is damaged.
const BAD: u32 = 77;

fn damaged(isa: Isa, with: f32) -> Arc<Model> {
    let config = awkward(false);
    let d = config.hidden_size;
    changed_model(&config, isa, &|name, values| {
        if name == "model.embed_tokens.weight" {
            values[BAD as usize * d..][..d].fill(with);
        }
    })
}

/// Ids without the damaged one.
fn sound_ids(count: usize) -> Vec<u32> {
    some_ids(count, 301).into_iter().map(|id| if id == BAD { BAD + 1 } else { id }).collect()
}

/// Steps a batch until all of its texts have ended; what each drew.
fn to_the_end(batch: &mut Batch, slots: usize) -> Vec<Vec<Drawn>> {
    let mut found = vec![vec![]; slots];
    loop {
        let drawn = batch.step();
        if drawn.is_empty() {
            return found;
        }
        drawn.into_iter().for_each(|one| found[one.slot].push(Drawn { slot: 0, ..one }));
    }
}

fn check_failed(drawn: &[Drawn]) {
    let last = drawn.last().expect("an end");
    assert_eq!((last.token, last.end), (None, None));
    assert_eq!(last.error.as_ref().map(|error| error.kind), Some(ErrorKind::NotANumber));
    assert!(drawn[..drawn.len() - 1].iter().all(|one| !one.is_last()));
}

#[test]
fn a_text_that_fails_ends_alone() {
    let whole = sound_ids(83);
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::PortableSoft) {
        for (with, threads) in [(f32::NAN, 1), (f32::INFINITY, 3)] {
            let model = damaged(isa, with);
            let good: Vec<Vec<u32>> = vec![whole[..40].to_vec(), whole[5..8].to_vec(), whole[20..].to_vec()];
            let mut batch = Batch::new(&model, setup(5, threads, 1 << 20)).unwrap();
            let mut bad = whole[..9].to_vec();
            bad.push(BAD);
            let join =
                |batch: &mut Batch, ids: &[u32], i| batch.join(Prompt::of_ids(ids), settings(i), Some(2)).unwrap();
            let places = [join(&mut batch, &good[0], 0), join(&mut batch, &bad, 1), join(&mut batch, &good[1], 2)];
            let more = [join(&mut batch, &[BAD], 3), join(&mut batch, &good[2], 4)];
            let found = to_the_end(&mut batch, 5);
            check_failed(&found[places[1]]);
            check_failed(&found[more[0]]);
            assert_eq!((found[places[1]].len(), found[more[0]].len()), (1, 1));
            for (place, ids, i) in [(places[0], &good[0], 0), (places[2], &good[1], 2), (more[1], &good[2], 4)] {
                assert!(found[place] == alone(&model, ids, i), "{isa:?}, {threads} threads");
            }
            // What those that failed have left behind in memory reaches nobody.
            (0..5).for_each(|slot| batch.leave(slot).unwrap());
            for i in 0..5 {
                join(&mut batch, &bad[..5 + i], i);
            }
            let found = to_the_end(&mut batch, 5);
            for (i, found) in found.iter().enumerate() {
                assert!(*found == alone(&model, &bad[..5 + i], i), "{isa:?}, {threads} threads, text {i}");
            }
        }
    }
}

#[test]
fn a_text_that_begins_like_one_that_will_fail_does_not_fail_with_it() {
    let whole = sound_ids(83);
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::PortableSoft) {
        let model = damaged(isa, f32::NAN);
        for at in [48, 51, 55] {
            let mut bad = whole.clone();
            bad[at] = BAD;
            let mut batch = Batch::new(&model, setup(2, 1, 1 << 20)).unwrap();
            batch.join(Prompt::of_ids(&bad), settings(0), Some(2)).unwrap();
            // The first piece of the prompt, the damaged token in it, but not yet the end, at which the text fails.
            assert!(batch.step().is_empty());
            let mut good = whole[..at].to_vec();
            good.extend([BAD + 1, BAD + 2]);
            let slot = batch.join(Prompt::of_ids(&good), settings(1), Some(2)).unwrap();
            let found = to_the_end(&mut batch, 2);
            check_failed(&found[1 - slot]);
            assert!(found[slot] == alone(&model, &good, 1), "{isa:?} at {at}");
            // It takes over most of what the other has read.
            assert!(batch.reused() as usize > at - 9, "{} of {at}", batch.reused());
        }
    }
}
