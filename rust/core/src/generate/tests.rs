//! Decoding against the training form of the forward pass, which computes whole windows.

use super::model::Stored;
use super::*;
use crate::checkpoint;
use crate::config::ModelConfig;
use crate::model::Layout;
use crate::rng;
use proptest::prelude::*;
use std::sync::Arc;
use symlm_kernels::gemm::{self, Left};
use symlm_kernels::{Isa, Mat, MatMut, attention, embedding, mlp, norm, rope};

/// Sizes that are not multiples of anything, and three query heads to a key/value head.
pub(super) fn awkward(tie_embeddings: bool) -> ModelConfig {
    ModelConfig {
        vocab_size: 301,
        hidden_size: 72,
        intermediate_size: 100,
        num_layers: 2,
        num_heads: 6,
        num_kv_heads: 2,
        seq_len: 83,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-5,
        tie_embeddings,
        rope_scaling: None,
    }
}

fn value(index: usize, i: usize, norm: bool) -> f32 {
    let x = rng::normal(5, rng::Stream::Init, i as u64, index as u32) as f32 * 0.2;
    if norm { 1.0 + x } else { x }
}

pub(super) fn model(config: &ModelConfig, isa: Isa) -> Arc<Model> {
    changed_model(config, isa, &|_, _| ())
}

/// As [`model`], with tensors that `change` has seen with their names.
pub(super) fn changed_model(config: &ModelConfig, isa: Isa, change: &dyn Fn(&str, &mut [f32])) -> Arc<Model> {
    let params = Layout::new(config).params;
    let mut fill = |index: usize, out: &mut [f32]| {
        let norm = params[index].shape.len() == 1;
        out.iter_mut().enumerate().for_each(|(i, x)| *x = value(index, i, norm));
        change(&params[index].name, out);
    };
    Arc::new(Model::from_tensors(config, isa, &mut fill).unwrap())
}

pub(super) fn some_ids(count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|i| rng::draw(3, rng::Stream::Sample, i as u64, 0)[0] % vocab as u32).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The forward pass rewritten from the kernels: all positions of the window together, attention as one call per key/value head.
fn whole_window(model: &Model, ids: &[u32]) -> Vec<f32> {
    let (c, isa, t) = (model.config(), model.isa, ids.len());
    let (d, f, kv, hs) = (c.hidden_size, c.intermediate_size, c.kv_size(), c.head_dim());
    let eps = c.rms_norm_eps as f32;
    let w = d + 2 * kv;
    let mut buffers = [d, d, d, w, d, 2 * f, f].map(|cols| vec![0.0; t * cols]);
    let [x, y, n, qkv, attended, gate_up, h] = &mut buffers;
    let (mut rstd, mut stats) = (vec![0.0; t], [vec![0.0; t * c.group()], vec![0.0; t * c.group()]]);
    let mut scratch = vec![0.0; attention::scratch_len(t, hs)];
    let Stored::Floats(weights) = &model.weights else { panic!("a model in f32") };
    // SAFETY: nobody writes the weights of a finished model.
    let (right, weight) = (|matrix| unsafe { weights.forward(matrix) }, |norm| unsafe { weights.norm(norm) });
    // SAFETY: as above.
    embedding::gather(unsafe { weights.embedding() }, ids, MatMut::new(x, t, d, d));
    for (l, layer) in weights.layout.layers.iter().enumerate() {
        norm::forward(isa, Mat::new(x, t, d, d), weight(2 * l), eps, MatMut::new(n, t, d, d), &mut rstd);
        gemm::product(isa, Left::Rows(Mat::new(n, t, d, d)), right(layer.qkv), MatMut::new(qkv, t, w, w));
        rope::forward(isa, MatMut::new(qkv, t, d, w), hs, &model.rope, 0);
        rope::forward(isa, MatMut::new(&mut qkv[d..], t, kv, w), hs, &model.rope, 0);
        for head in 0..c.num_kv_heads {
            let group = head * c.group() * hs..(head + 1) * c.group() * hs;
            let q = Mat::new(qkv, t, d, w).col_range(group.clone());
            let k = Mat::new(&qkv[d + head * hs..], t, hs, w);
            let v = Mat::new(&qkv[d + kv + head * hs..], t, hs, w);
            let mut out = MatMut::new(attended, t, d, d);
            let heads = attention::Heads { head_dim: hs, group: c.group() };
            let [maximum, inverse_sum] = &mut stats;
            attention::forward(isa, heads, q, k, v, out.col_range(group), maximum, inverse_sum, &mut scratch);
        }
        let a = Left::Rows(Mat::new(attended, t, d, d));
        gemm::product_add(isa, a, right(layer.out), Mat::new(x, t, d, d), MatMut::new(y, t, d, d));
        norm::forward(isa, Mat::new(y, t, d, d), weight(2 * l + 1), eps, MatMut::new(n, t, d, d), &mut rstd);
        let out = MatMut::new(gate_up, t, 2 * f, 2 * f);
        gemm::product(isa, Left::Rows(Mat::new(n, t, d, d)), right(layer.gate_up), out);
        mlp::forward(isa, Mat::new(gate_up, t, 2 * f, 2 * f), MatMut::new(h, t, f, f));
        let a = Left::Rows(Mat::new(h, t, f, f));
        gemm::product_add(isa, a, right(layer.down), Mat::new(y, t, d, d), MatMut::new(x, t, d, d));
    }
    let last = weight(2 * c.num_layers);
    norm::forward(isa, Mat::new(x, t, d, d), last, eps, MatMut::new(n, t, d, d), &mut rstd);
    let mut logits = vec![0.0; t * c.vocab_size];
    let out = MatMut::new(&mut logits, t, c.vocab_size, c.vocab_size);
    gemm::product(isa, Left::Rows(Mat::new(n, t, d, d)), right(weights.layout.lm_head()), out);
    logits
}

#[test]
fn decoding_gives_the_logits_of_training_on_every_instruction_set() {
    for tied in [true, false] {
        let config = awkward(tied);
        let (vocab, count) = (config.vocab_size, config.seq_len);
        let ids = some_ids(count, vocab);
        let mut first = None;
        for isa in Isa::available() {
            let model = model(&config, isa);
            let mut session = Session::new(&model).unwrap();
            let expected = bits(&whole_window(&model, &ids));
            assert!(*first.get_or_insert_with(|| expected.clone()) == expected, "{isa:?}");
            assert!(bits(&session.logits(&ids).unwrap()) == expected, "{isa:?}");
            let ends: &[usize] =
                if isa == Isa::PortableSoft { &[3] } else { &[0, 1, 63, 64, 65, count - 1, count + 1] };
            for last in ends {
                let found = bits(&session.last_logits(&ids, *last).unwrap());
                assert!(found[..] == expected[(count - count.min(*last)) * vocab..], "{isa:?} {last}");
            }
            // Emulated FMA is slow; one pass over it is enough.
            let sizes: &[usize] = if isa == Isa::PortableSoft { &[13] } else { &[1, 2, 7, 31, 32, 33, 64, 65, count] };
            for size in sizes {
                session.clear();
                for (i, chunk) in ids.chunks(*size).enumerate() {
                    let position = (i * size + chunk.len() - 1) * vocab;
                    let found = bits(session.append(chunk).unwrap());
                    assert!(found == expected[position..position + vocab], "{isa:?}, tied {tied}, chunks of {size}");
                }
            }
        }
    }
}

#[test]
fn threads_do_not_matter() {
    // Widths that are whole panels, and such that are none; fewer heads than threads.
    let even = ModelConfig { hidden_size: 64, intermediate_size: 96, num_heads: 4, ..awkward(true) };
    for config in [awkward(false), even] {
        let model = model(&config, Isa::detect());
        let ids = some_ids(config.seq_len, config.vocab_size);
        let expected = bits(&whole_window(&model, &ids));
        for threads in [1, 2, 5] {
            for size in [1, 33] {
                let mut session = Session::on(&model, threads).unwrap();
                for (i, chunk) in ids.chunks(size).enumerate() {
                    let at = (i * size + chunk.len() - 1) * config.vocab_size;
                    let found = bits(session.append(chunk).unwrap());
                    assert!(found == expected[at..at + config.vocab_size], "{threads} threads, chunks of {size}");
                }
            }
        }
    }
}

#[test]
fn a_full_context_goes_on_with_its_last_half() {
    let config = ModelConfig { seq_len: 9, ..awkward(true) };
    let model = model(&config, Isa::detect());
    let ids = some_ids(40, config.vocab_size);
    let mut session = Session::new(&model).unwrap();
    let mut fresh = Session::new(&model).unwrap();
    // The tenth token finds nine and leaves four of them.
    let lengths = [1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6];
    for (i, length) in lengths.iter().enumerate() {
        let found = bits(session.append(&ids[i..=i]).unwrap());
        let context = &ids[i + 1 - length..=i];
        assert_eq!(session.context(), context);
        fresh.clear();
        assert!(bits(fresh.append(context).unwrap()) == found);
    }
}

#[test]
fn one_position_is_enough() {
    let config = ModelConfig { seq_len: 1, ..awkward(false) };
    let model = model(&config, Isa::detect());
    let mut session = Session::new(&model).unwrap();
    let first = bits(session.append(&[7]).unwrap());
    session.append(&[8, 9]).unwrap();
    assert_eq!(bits(session.append(&[3, 7]).unwrap()), first);
}

proptest! {
    /// Context and logits are a function of the tokens, whatever the pieces and however often room was made.
    #[test]
    fn pieces_do_not_matter(cuts in prop::collection::vec(1_usize..30, 1..8), seq_len in 1_usize..20) {
        let config = ModelConfig { seq_len, num_layers: 1, ..awkward(true) };
        let model = model(&config, Isa::detect());
        let ids = some_ids(cuts.iter().sum(), config.vocab_size);
        let (mut pieces, mut single, mut whole) =
            (Session::new(&model).unwrap(), Session::new(&model).unwrap(), Session::new(&model).unwrap());
        let mut at = 0;
        for cut in cuts {
            let found = bits(pieces.append(&ids[at..at + cut]).unwrap());
            for id in &ids[at..at + cut - 1] {
                single.append(&[*id]).unwrap();
            }
            at += cut;
            prop_assert_eq!(&bits(single.append(&ids[at - 1..at]).unwrap()), &found);
            prop_assert_eq!(single.context(), pieces.context());
            whole.clear();
            prop_assert_eq!(&bits(whole.append(&ids[..at]).unwrap()), &found);
        }
    }
}

pub(super) fn options(temperature: f64) -> SampleOptions {
    SampleOptions {
        max_new_tokens: 120,
        temperature,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        repetition_penalty: 1.1,
        seed: 9,
        sample_index: 0,
        stop_ids: vec![],
    }
}

pub(super) fn text(model: &Arc<Model>, prompt: &[u32], options: &SampleOptions) -> Vec<u32> {
    TokenStream::new(model, prompt, options.clone()).unwrap().map(|id| id.unwrap()).collect()
}

#[test]
fn a_stream_is_a_function_of_model_prompt_and_options() {
    let config = awkward(true);
    for temperature in [0.0, 0.8] {
        let options = options(temperature);
        let mut texts = Isa::available().into_iter().map(|isa| {
            let model = model(&config, isa);
            assert_eq!(text(&model, &[], &options), text(&model, &[END_OF_TEXT], &options));
            text(&model, &[1, 2, 3], &options)
        });
        let first = texts.next().unwrap();
        assert_eq!(first.len(), 120);
        assert!(texts.all(|t| t == first));
    }
}

#[test]
fn a_stream_ends_at_its_limit_and_at_the_end_of_text() {
    // Zero weights: all logits are equal, greedy takes the end-of-text token.
    let config = awkward(true);
    let model = Arc::new(Model::from_tensors(&config, Isa::detect(), &mut |_, _| ()).unwrap());
    let mut options = SampleOptions { max_new_tokens: 3, repetition_penalty: 1.0, ..options(0.0) };
    assert_eq!(text(&model, &[5], &options), [0, 0, 0]);
    options.stop_ids = vec![7, 300];
    assert_eq!(text(&model, &[5], &options), [0, 0, 0]);
    options.stop_ids.push(END_OF_TEXT);
    assert!(text(&model, &[5], &options).is_empty());
    options.max_new_tokens = 0;
    assert!(text(&model, &[5], &options).is_empty());
}

#[test]
fn a_model_of_nan_is_an_error_and_then_the_end() {
    let config = awkward(true);
    let model = Model::from_tensors(&config, Isa::detect(), &mut |_, x| x.fill(f32::NAN)).unwrap();
    let mut stream = TokenStream::new(&Arc::new(model), &[1], options(0.8)).unwrap();
    assert_eq!(stream.next().unwrap().unwrap_err().kind, crate::ErrorKind::NotANumber);
    assert!(stream.next().is_none());
}

#[test]
fn ids_and_lengths_are_checked() {
    let config = ModelConfig { seq_len: 4, ..awkward(true) };
    let model = model(&config, Isa::detect());
    let mut session = Session::new(&model).unwrap();
    session.append(&[1]).unwrap();
    for (error, expected) in [
        (session.append(&[301]).err(), "found token id 301, expected less than the vocabulary size 301"),
        (session.append(&[]).err(), "found no tokens to append, expected at least one"),
        (session.logits(&[1; 5]).err(), "found 5 tokens, expected at most seq_len = 4"),
    ] {
        let error = error.unwrap();
        assert_eq!((error.kind, error.message.as_str()), (crate::ErrorKind::Usage, expected));
    }
    assert_eq!(session.context(), [1]);
    assert!(session.logits(&[]).unwrap().is_empty());
    assert!(TokenStream::new(&model, &[400], options(0.8)).is_err());
}

#[test]
fn a_written_model_is_loaded_with_the_same_bits() {
    let config = awkward(false);
    let path = std::env::temp_dir().join(format!("symlm-generate-{}.safetensors", std::process::id()));
    let model = model(&config, Isa::detect());
    let Stored::Floats(w) = &model.weights else { panic!("a model in f32") };
    let tensors: Vec<_> = w
        .layout
        .params
        .iter()
        .enumerate()
        // SAFETY: nobody writes the weights of a finished model.
        .map(|(i, p)| (p.name.clone(), p.shape.clone(), unsafe { w.tensor(i) }))
        .collect();
    checkpoint::write_tensors(&path, &tensors).unwrap();
    let loaded = Arc::new(Model::load(&config, Isa::detect(), &path).unwrap());
    let other = Model::load(&ModelConfig { hidden_size: 84, ..config.clone() }, Isa::detect(), &path);
    std::fs::remove_file(&path).unwrap();
    let logits = |model: &Arc<Model>| bits(&Session::new(model).unwrap().logits(&[5, 6, 7]).unwrap());
    assert!(logits(&loaded) == logits(&model));
    assert!(other.err().unwrap().message.contains("found shape [301, 72], expected [301, 84]"));
}

#[test]
fn models_and_streams_move_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Arc<Model>>();
    check::<TokenStream>();
}
