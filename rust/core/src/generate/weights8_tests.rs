//! Models with 8-bit weights: equal bits whatever computes them, near those in f32.

use super::tests::{awkward, some_ids};
use super::*;
use crate::config::ModelConfig;
use crate::model::Layout;
use crate::rng;
use std::sync::Arc;
use symlm_kernels::{Integers, Isa};

/// Values of a tensor, and whether it is a norm.
fn values(index: usize, len: usize, norm: bool) -> Vec<f32> {
    let normal = |i: usize| rng::normal(5, rng::Stream::Init, i as u64, index as u32) as f32 * 0.2;
    (0..len).map(|i| if norm { 1.0 + normal(i) } else { normal(i) }).collect()
}

fn model8(config: &ModelConfig, integers: Integers) -> Arc<Model> {
    let mut weights = Weights8::new(config, integers).unwrap();
    for (index, param) in Layout::new(config).params.iter().enumerate() {
        assert_eq!(weights.number(&param.name).unwrap(), index);
        weights.set_values(index, &values(index, param.len(), param.shape.len() == 1)).unwrap();
    }
    Arc::new(Model::of_bytes(weights).unwrap())
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn logits_have_the_same_bits_whatever_computes_them() {
    for tied in [true, false] {
        let config = awkward(tied);
        let ids = some_ids(70, config.vocab_size);
        let mut first = None;
        for integers in Integers::available().into_iter().filter(|kind| *kind != Integers::PortableSoft) {
            let model = model8(&config, integers);
            let logits = Session::new(&model).unwrap().logits(&ids).unwrap();
            let expected = first.get_or_insert_with(|| bits(&logits));
            assert!(*expected == bits(&logits), "{}", integers.name());
            for (threads, size) in [(1, 1), (2, 33), (5, 7)] {
                let mut session = Session::on(&model, threads).unwrap();
                for (i, chunk) in ids.chunks(size).enumerate() {
                    let at = (i * size + chunk.len() - 1) * config.vocab_size;
                    let found = bits(session.append(chunk).unwrap());
                    assert!(found == expected[at..at + config.vocab_size], "{}, {threads}, {size}", integers.name());
                }
            }
        }
    }
}

#[test]
fn logits_are_near_those_in_f32() {
    let config = awkward(true);
    let ids = some_ids(50, config.vocab_size);
    let norms: Vec<bool> = Layout::new(&config).params.iter().map(|p| p.shape.len() == 1).collect();
    let mut fill = |index: usize, out: &mut [f32]| out.copy_from_slice(&values(index, out.len(), norms[index]));
    let plain = Arc::new(Model::from_tensors(&config, Isa::detect(), &mut fill).unwrap());
    let small = model8(&config, Integers::of(Isa::detect()));
    assert!(4 * small.token_bytes() < 2 * plain.token_bytes());
    let logits = |model| Session::new(model).unwrap().logits(&ids).unwrap();
    let (a, b) = (logits(&plain), logits(&small));
    let square = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    assert!(square(&difference) < 0.01 * square(&a), "{} of {}", square(&difference), square(&a));
    assert!(square(&difference) > 0.0);
}
