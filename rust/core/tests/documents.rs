//! `Attend::Document`: a document that is packed with others has the bits of the document alone.

mod common;

use common::{config_of, hash, report, train};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use symlm_core::config::{Attend, EngineConfig, LoraConfig, Precision};
use symlm_core::data::{BEGIN, CONTEXT};
use symlm_core::pool::chaos::Chaos;
use symlm_core::rng::{Permutation, Stream, draw};
use symlm_core::step::{Engine, Switches, Tensors, TokenSource};
use symlm_core::{ErrorKind, Result};
use symlm_kernels::Isa;

const SEQ_LEN: usize = 130;
const BATCH: usize = 5;
/// More than a batch has tokens: where no id stands twice, a row of the embedding's gradient is that of one token.
const VOCAB: usize = 800;

fn config(seq_len: usize, batch: usize, precision: Precision) -> EngineConfig {
    let mut config = config_of(2, 0, seq_len, batch);
    config.model.vocab_size = VOCAB;
    config.train.precision = precision;
    config
}

/// An engine that is fed by hand.
fn engine(config: EngineConfig, isa: Isa) -> Engine {
    let source = Arc::new(vec![0; 2 * config.model.seq_len + 2]);
    Engine::new(config, isa, source, Switches::default()).unwrap()
}

/// Every instruction set with floats, and the first with integers.
fn cases() -> Vec<(Isa, Precision)> {
    let all = Isa::available();
    let integers = [(all[0], Precision::Int16)];
    all.into_iter().filter(|&isa| isa != Isa::PortableSoft).map(|isa| (isa, Precision::F32)).chain(integers).collect()
}

/// Losses of the windows and the gradient at every embedded id, by bits.
#[derive(PartialEq)]
struct Outcome {
    losses: Vec<u64>,
    gradient: Vec<u32>,
}

impl Outcome {
    fn of(engine: &Engine, windows: &[Vec<u32>]) -> Self {
        engine.gradients(windows).unwrap();
        let losses = engine.window_losses().unwrap().into_iter().map(f64::to_bits).collect();
        let bits = |all: &[(String, Vec<usize>, &[f32])]| all[0].2.iter().map(|x| x.to_bits()).collect();
        Self { losses, gradient: engine.tensors(&[Tensors::Gradient], bits).unwrap() }
    }

    fn at(&self, word: u32) -> &[u32] {
        let width = self.gradient.len() / VOCAB;
        let id = (word & !(BEGIN | CONTEXT)) as usize;
        &self.gradient[id * width..][..width]
    }
}

/// Different ids for each position of a batch.
fn ids(seed: u64) -> Vec<Vec<u32>> {
    let order = Permutation::new(seed, 0, VOCAB as u64);
    let id = |at: usize| order.at(at as u64) as u32;
    (0..BATCH).map(|w| (0..=SEQ_LEN).map(|i| id(w * (SEQ_LEN + 1) + i)).collect()).collect()
}

/// The documents of a window that is cut at some positions.
fn documents(cuts: &BTreeSet<usize>) -> Vec<Range<usize>> {
    let begins: Vec<usize> = [0].into_iter().chain(cuts.iter().copied()).collect();
    let ends = begins[1..].iter().copied().chain([SEQ_LEN]);
    begins.iter().copied().zip(ends).map(|(begin, end)| begin..end).collect()
}

fn cuts() -> impl Strategy<Value = Vec<BTreeSet<usize>>> {
    prop::collection::vec(prop::collection::btree_set(1..SEQ_LEN, 0..14), BATCH)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// One document of each window counts; the same documents then begin windows without any mark.
    #[test]
    fn a_document_packed_anywhere_is_the_document_alone(
        seed: u64, cuts in cuts(), chosen in prop::collection::vec(any::<prop::sample::Index>(), BATCH), first: bool,
    ) {
        let ids = ids(seed);
        let chosen: Vec<Range<usize>> =
            cuts.iter().zip(chosen).map(|(cuts, index)| index.get(&documents(cuts)).clone()).collect();
        let (mut packed, mut alone) = (ids.clone(), ids.clone());
        for (w, document) in chosen.iter().enumerate() {
            let counts = document.start + 1..document.end + 1;
            for (at, word) in packed[w].iter_mut().enumerate() {
                // The mark of the very first id says nothing new.
                let begins = cuts[w].contains(&at) || at == 0 && first;
                *word |= if begins { BEGIN } else { 0 } | if counts.contains(&at) { 0 } else { CONTEXT };
            }
            alone[w].rotate_left(document.start);
            alone[w].iter_mut().skip(document.len() + 1).for_each(|word| *word |= CONTEXT);
        }
        for (isa, precision) in cases() {
            let engine = engine(config(SEQ_LEN, BATCH, precision), isa);
            let (together, apart) = (Outcome::of(&engine, &packed), Outcome::of(&engine, &alone));
            prop_assert_eq!(&together.losses, &apart.losses, "{:?} {:?}", isa, precision);
            for (w, document) in chosen.iter().enumerate() {
                for (at, &word) in packed[w].iter().enumerate().take(SEQ_LEN) {
                    let gradient = together.at(word);
                    if document.contains(&at) {
                        prop_assert_eq!(gradient, apart.at(word), "{:?} {:?} {} {}", isa, precision, w, at);
                    } else {
                        prop_assert!(gradient.iter().all(|&bits| bits << 1 == 0), "a gradient leaks to {w} {at}");
                    }
                }
            }
        }
    }

    /// All documents count, in two packings: turned round in their windows, which change places.
    #[test]
    fn every_packing_of_the_same_documents_has_the_same_gradients(seed: u64, cuts in cuts()) {
        let marked: Vec<Vec<Vec<u32>>> = ids(seed).iter().zip(&cuts).map(|(ids, cuts)| {
            let mark = |part: Range<usize>| {
                let mut words = ids[part].to_vec();
                words[0] |= BEGIN | CONTEXT;
                words
            };
            documents(cuts).into_iter().map(mark).collect()
        }).collect();
        let window = |parts: Vec<Vec<u32>>| {
            let mut words = parts.concat();
            words.push((VOCAB as u32 - 1) | CONTEXT);
            words
        };
        let first: Vec<_> = marked.iter().map(|parts| window(parts.clone())).collect();
        let second: Vec<_> = marked.iter().rev().map(|parts| window(parts.iter().rev().cloned().collect())).collect();
        for (isa, precision) in cases() {
            let engine = engine(config(SEQ_LEN, BATCH, precision), isa);
            let (one, other) = (Outcome::of(&engine, &first), Outcome::of(&engine, &second));
            prop_assert!(one.gradient == other.gradient, "{:?} {:?}", isa, precision);
            // In floats of twice the length these sums are exact.
            prop_assert_eq!(one.losses, other.losses.into_iter().rev().collect::<Vec<_>>());
        }
    }
}

#[test]
fn an_engine_of_short_windows_gives_the_loss_of_a_document_in_long_ones() {
    let words = &ids(3)[0];
    for (isa, precision) in cases() {
        let long = engine(config(SEQ_LEN, 1, precision), isa);
        for document in [0..1, 1..2, 40..83, 65..SEQ_LEN] {
            let mut packed = words.clone();
            packed[document.start] |= BEGIN;
            packed[document.end] |= BEGIN;
            for (at, word) in packed.iter_mut().enumerate() {
                *word |= if (document.start + 1..=document.end).contains(&at) { 0 } else { CONTEXT };
            }
            let short = engine(config(document.len(), 1, precision), isa);
            let alone = short.gradients(&[words[document.start..=document.end].to_vec()]).unwrap();
            assert_eq!(long.gradients(&[packed]).unwrap().to_bits(), alone.to_bits(), "{document:?} {isa:?}");
        }
    }
}

/// A text in which a document begins with each 0.
struct Text(Vec<u32>);

impl TokenSource for Text {
    fn tokens(&self) -> u64 {
        self.0.tokens()
    }
    fn copy_ids(&self, start: u64, out: &mut [u32]) -> Result<()> {
        self.0.copy_ids(start, out)
    }
    fn copy_documents(&self, start: u64, out: &mut [u32]) -> Result<()> {
        self.0.copy_ids(start, out)?;
        out.iter_mut().for_each(|id| *id |= if *id == 0 { BEGIN } else { 0 });
        Ok(())
    }
}

fn text() -> Arc<Text> {
    let id = |i| {
        let [at, id, ..] = draw(0, Stream::Sample, i, 0);
        if at.is_multiple_of(25) { 0 } else { id % 97 }
    };
    Arc::new(Text((0..5000).map(id).collect()))
}

fn of_documents(threads: usize, sectors: usize, precision: Precision, lora: bool) -> EngineConfig {
    let mut config = config_of(threads, sectors, SEQ_LEN, 13);
    (config.train.attend, config.train.precision) = (Attend::Document, precision);
    let targets = ["q_proj", "v_proj", "down_proj"].map(str::to_owned).to_vec();
    config.train.lora = lora.then_some(LoraConfig { rank: 3, alpha: 6.0, targets });
    config
}

#[test]
fn threads_sectors_schedules_and_instruction_sets_give_one_hash() {
    for (precision, lora) in [(Precision::F32, false), (Precision::Int16, false), (Precision::F32, true)] {
        let trained = |config: EngineConfig, isa, switches| {
            let engine = Engine::new(config, isa, text(), switches).unwrap();
            train(&engine, 3).unwrap();
            hash(&engine)
        };
        let calm = Switches::default();
        let expected = trained(of_documents(1, 12, precision, lora), Isa::Portable, calm);
        let windows = EngineConfig {
            train: symlm_core::config::TrainConfig {
                attend: Attend::Window,
                ..of_documents(1, 12, precision, lora).train
            },
            ..of_documents(1, 12, precision, lora)
        };
        assert_ne!(trained(windows, Isa::Portable, calm), expected);
        for (seed, isa) in Isa::available().into_iter().filter(|&isa| isa != Isa::PortableSoft).enumerate() {
            for (threads, sectors) in [(2, 1), (3, 0), (5, 4), (12, 0)] {
                let chaos = Some(Chaos { seed: (seed * 12 + threads) as u64, panic_at: None });
                let switches = Switches { prefetch: threads != 3, barriers: threads == 5, chaos };
                let found = trained(of_documents(threads, sectors, precision, lora), isa, switches);
                assert_eq!(found, expected, "{threads} threads, {sectors} sectors, {isa:?}, {precision:?}, {lora}");
            }
        }
    }
}

#[test]
fn an_evaluation_tells_documents_apart_too() {
    let all = Text(text().0[..2 * SEQ_LEN * 13 + 1].to_vec());
    let config = of_documents(3, 0, Precision::F32, false);
    let engine = Engine::new(config, Isa::detect(), text(), Switches::default()).unwrap();
    let batch = |first: usize| {
        let window = |i: usize| {
            let mut words = vec![0; SEQ_LEN + 1];
            all.copy_documents(((first + i) * SEQ_LEN) as u64, &mut words).unwrap();
            words
        };
        engine.gradients(&(0..13).map(window).collect::<Vec<_>>()).unwrap()
    };
    let count = (13 * SEQ_LEN) as f64;
    let sum = batch(0) * count + batch(13) * count;
    let found = engine.evaluate(Arc::new(Text(all.0.clone())), 0, |_, _| Ok(())).unwrap();
    assert_eq!(found.loss.to_bits(), (sum / (2.0 * count)).to_bits());
    let plain = engine.evaluate(Arc::new(all.0.clone()), 0, |_, _| Ok(())).unwrap_err();
    assert_eq!(plain.kind, ErrorKind::Internal);
}

#[test]
fn without_documents_marks_are_not_asked_for_and_with_them_they_must_be_there() {
    let trained = |source: Arc<dyn TokenSource>| {
        let engine = common::engine(config_of(2, 0, SEQ_LEN, 13), source, Switches::default()).unwrap();
        train(&engine, 2).unwrap();
        hash(&engine)
    };
    assert_eq!(trained(text()), trained(Arc::new(text().0.clone())));
    let config = of_documents(2, 0, Precision::F32, false);
    let engine = common::engine(config, Arc::new(text().0.clone()), Switches::default()).unwrap();
    engine.run_until(1).unwrap();
    let error = report(&engine).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal);
    assert!(error.message.contains("does not tell them apart"), "{error}");
}
