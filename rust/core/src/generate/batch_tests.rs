//! A batch gives every text what it would get alone.

use super::tests::{awkward, model, options, some_ids, text};
use super::*;
use crate::config::ModelConfig;
use crate::rng;
use std::sync::Arc;
use symlm_kernels::Isa;

pub(super) fn setup(slots: usize, threads: usize, prefix_bytes: usize) -> BatchOptions {
    BatchOptions { slots, context: 83, roll: true, prefix_bytes, threads }
}

/// Prompts of different lengths, some longer than a piece, of which some begin alike.
fn prompts(count: usize, vocab: usize) -> Vec<Vec<u32>> {
    let whole = some_ids(400, vocab);
    (0..count)
        .map(|i| {
            let mut ids = whole[..[3, 75, 40, 64, 33][i % 5]].to_vec();
            if i.is_multiple_of(3) {
                ids.extend_from_slice(&whole[100 + i..100 + i + i % 7]);
            }
            ids
        })
        .collect()
}

pub(super) fn settings(i: usize) -> SampleOptions {
    let temperature = if i.is_multiple_of(4) { 0.0 } else { 0.9 };
    SampleOptions { max_new_tokens: 20 + i as u64 % 9, sample_index: i as u32, temperature, ..options(temperature) }
}

/// Runs the texts through a batch in which they join and leave at random; the tokens of each.
fn together(model: &Arc<Model>, options: BatchOptions, prompts: &[Vec<u32>], seed: u64) -> Vec<Vec<Drawn>> {
    let mut batch = Batch::new(model, options).unwrap();
    let mut found = vec![vec![]; prompts.len()];
    let (mut waiting, mut owners) = ((0..prompts.len()).rev().collect::<Vec<_>>(), vec![None; options.slots]);
    for step in 0.. {
        let [a, b, c, _] = rng::draw(seed, rng::Stream::Sample, step, 7);
        if a % 3 != 0
            && batch.free() > 0
            && let Some(text) = waiting.pop()
        {
            let slot = batch.join(Prompt::of_ids(&prompts[text]), settings(text), Some(2)).unwrap();
            owners[slot] = Some(text);
        }
        let somebody = b as usize % options.slots;
        if c.is_multiple_of(25) {
            // Whoever leaves too early starts afresh.
            if let Some(text) = owners[somebody].take() {
                batch.leave(somebody).unwrap();
                found[text].clear();
                waiting.push(text);
            }
        }
        for drawn in batch.step() {
            let text = owners[drawn.slot].unwrap();
            let (slot, ended) = (drawn.slot, drawn.is_last());
            found[text].push(Drawn { slot: 0, ..drawn });
            if ended {
                owners[slot] = None;
                batch.leave(slot).unwrap();
            }
        }
        if waiting.is_empty() && owners.iter().all(Option::is_none) {
            break;
        }
    }
    found
}

pub(super) fn alone(model: &Arc<Model>, prompt: &[u32], i: usize) -> Vec<Drawn> {
    let mut batch = Batch::new(model, setup(1, 1, 0)).unwrap();
    batch.join(Prompt::of_ids(prompt), settings(i), Some(2)).unwrap();
    let mut found = vec![];
    while found.last().is_none_or(|drawn: &Drawn| !drawn.is_last()) {
        found.extend(batch.step());
    }
    found
}

#[test]
fn a_text_gets_the_same_bits_whatever_else_is_in_the_batch() {
    let config = awkward(true);
    let prompts = prompts(14, config.vocab_size);
    let mut first = None;
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::PortableSoft) {
        let model = model(&config, isa);
        let expected: Vec<_> = prompts.iter().enumerate().map(|(i, ids)| alone(&model, ids, i)).collect();
        for (i, (ids, drawn)) in prompts.iter().zip(&expected).enumerate() {
            let tokens: Vec<u32> = drawn.iter().filter_map(|drawn| drawn.token).collect();
            assert_eq!(tokens, text(&model, ids, &settings(i)));
        }
        assert!(*first.get_or_insert_with(|| expected.clone()) == expected, "{isa:?}");
        for (threads, slots, prefix_bytes) in [(1, 5, 0), (2, 3, 1 << 20), (5, 9, 1 << 16)] {
            let found = together(&model, setup(slots, threads, prefix_bytes), &prompts, u64::from(threads as u32));
            assert!(found == expected, "{isa:?}, {threads} threads, {slots} slots");
        }
    }
}

#[test]
fn texts_of_one_prompt_share_what_one_has_read() {
    let config = awkward(true);
    let model = model(&config, Isa::detect());
    let prompt = some_ids(60, config.vocab_size);
    let mut batch = Batch::new(&model, setup(4, 2, 1 << 20)).unwrap();
    let join = |batch: &mut Batch, i| batch.join(Prompt::of_ids(&prompt), settings(i), None).unwrap();
    for i in 0..3 {
        join(&mut batch, i);
    }
    let steps: Vec<usize> = (0..3).map(|_| batch.step().len()).collect();
    assert_eq!(steps, [1, 3, 3]);
    assert_eq!(batch.reused(), 2 * 59);
    for slot in 0..3 {
        batch.leave(slot).unwrap();
    }
    assert!(batch.prefix_bytes() > 0);
    // What has left is remembered.
    join(&mut batch, 3);
    assert_eq!(batch.step().len(), 1);
    assert_eq!(batch.reused(), 3 * 59);
}

#[test]
fn what_is_kept_of_texts_is_bounded() {
    let config = awkward(true);
    let model = model(&config, Isa::detect());
    let bytes = 100_000;
    let mut batch = Batch::new(&model, setup(2, 1, bytes)).unwrap();
    for i in 0..40 {
        let mut ids = some_ids(60, config.vocab_size);
        ids[0] = i;
        let slot = batch.join(Prompt::of_ids(&ids), settings(1), None).unwrap();
        batch.step();
        batch.leave(slot).unwrap();
        assert!(batch.prefix_bytes() <= bytes);
    }
    assert!(batch.prefix_bytes() > bytes / 2);
    assert_eq!(batch.reused(), 0);
}

#[test]
fn a_text_ends_where_the_context_does_unless_it_rolls() {
    let config = ModelConfig { seq_len: 12, ..awkward(true) };
    let model = model(&config, Isa::detect());
    let options = BatchOptions { slots: 1, context: 10, roll: false, prefix_bytes: 0, threads: 1 };
    let mut batch = Batch::new(&model, options).unwrap();
    batch.join(Prompt::of_ids(&[1, 2, 3, 4, 5, 6, 7]), settings(1), None).unwrap();
    let drawn: Vec<Option<End>> = (0..5).flat_map(|_| batch.step()).map(|drawn| drawn.end).collect();
    assert_eq!(drawn, [None, None, None, Some(End::Context)]);
    batch.leave(0).unwrap();
    let long = batch.join(Prompt::of_ids(&[1; 11]), settings(1), None).unwrap_err();
    assert_eq!(long.message, "found a prompt of 11 tokens, expected at most 10");
}

#[test]
fn a_batch_refuses_what_it_cannot_do() {
    let config = awkward(true);
    let model = model(&config, Isa::detect());
    for (options, expected) in [
        (BatchOptions { slots: 0, ..setup(1, 1, 0) }, "found 0 slots, expected at least one"),
        (BatchOptions { context: 84, roll: false, ..setup(1, 1, 0) }, "found a context of 84, expected 1 to 83"),
        (BatchOptions { context: 82, ..setup(1, 1, 0) }, "found a context of 82, expected 83"),
    ] {
        assert_eq!(Batch::new(&model, options).err().unwrap().message, expected);
    }
    let mut batch = Batch::new(&model, setup(1, 1, 0)).unwrap();
    assert!(batch.leave(0).is_err() && batch.leave(1).is_err());
    assert!(batch.join(Prompt::of_ids(&[301]), settings(1), None).is_err());
    let none = SampleOptions { max_new_tokens: 0, ..settings(1) };
    batch.join(Prompt::of_ids(&[1]), none, None).unwrap();
    assert_eq!(batch.join(Prompt::of_ids(&[1]), settings(1), None).unwrap_err().message, "all 1 slots are taken");
    let drawn = batch.step();
    assert_eq!((drawn.len(), drawn[0].token, drawn[0].end), (1, None, Some(End::Length)));
    assert!(batch.step().is_empty());
}
