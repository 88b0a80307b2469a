//! Low-rank adapters: the same bits however they are computed, the right gradients, and a state that can be resumed.

mod common;

use common::{config, hash, tokens, train};
use std::path::Path;
use symlm_core::ErrorKind;
use symlm_core::config::{ADAPTER_TARGETS, EngineConfig, LoraConfig};
use symlm_core::pool::chaos::Chaos;
use symlm_core::rng::{Stream, draw};
use symlm_core::step::{Engine, Switches, Tensors};
use symlm_core::system::machine;
use symlm_kernels::Isa;

const UPDATES: u64 = 4;

/// Attention and MLP, one of them alone, and a part of a matrix whose rows end at no multiple of anything.
const CHOICES: [&[&str]; 4] =
    [&ADAPTER_TARGETS, &["up_proj", "down_proj"], &["k_proj"], &["q_proj", "v_proj", "o_proj"]];

fn with_adapters(mut config: EngineConfig, targets: &[&str]) -> EngineConfig {
    let targets = targets.iter().map(|&name| name.to_owned()).collect();
    config.train.lora = Some(LoraConfig { rank: 3, alpha: 6.0, targets });
    config
}

fn engine(config: EngineConfig, isa: Isa, switches: Switches) -> Engine {
    Engine::new(config, isa, tokens(), switches).unwrap()
}

fn usual(config: EngineConfig) -> Engine {
    engine(config, machine::active_isa().unwrap(), Switches::default())
}

fn values(engine: &Engine, which: Tensors) -> Vec<(String, Vec<f32>)> {
    engine.tensors(&[which], |all| all.iter().map(|(name, _, v)| (name.clone(), v.to_vec())).collect()).unwrap()
}

/// Adapters are trained, so that B is no longer zero.
fn trained(targets: &[&str]) -> Engine {
    let engine = usual(with_adapters(config(2, 0), targets));
    train(&engine, UPDATES).unwrap();
    engine
}

#[test]
fn threads_sectors_schedules_and_instruction_sets_give_one_hash() {
    for targets in CHOICES {
        let expected = hash(&trained(targets));
        let mut seed = 0;
        for isa in [Isa::Portable, machine::active_isa().unwrap()] {
            for (threads, sectors) in [(1, 12), (2, 1), (3, 0), (5, 4), (12, 0)] {
                seed += 1;
                let chaos = Some(Chaos { seed, panic_at: None });
                let switches = Switches { prefetch: true, barriers: seed.is_multiple_of(3), chaos };
                let engine = engine(with_adapters(config(threads, sectors), targets), isa, switches);
                train(&engine, UPDATES).unwrap();
                assert_eq!(hash(&engine), expected, "{targets:?}, {threads} threads, {sectors} sectors, {isa:?}");
            }
        }
    }
}

#[test]
fn weights_are_base_and_adapters_and_nothing_else_has_changed() {
    let engine = trained(&["v_proj", "gate_proj"]);
    let (base, weights, factors) =
        (values(&engine, Tensors::Base), values(&engine, Tensors::Weights), values(&engine, Tensors::Adapters));
    let first = usual(config(1, 0));
    assert_eq!(values(&first, Tensors::Weights), base);
    for ((name, w0), (_, w)) in base.iter().zip(&weights) {
        let own = name.trim_end_matches(".weight");
        let factor = |which: &str| {
            let found = factors.iter().find(|(factor, _)| *factor == format!("base_model.model.{own}.{which}.weight"));
            found.map(|(_, values)| values)
        };
        let (Some(a), Some(b)) = (factor("lora_A"), factor("lora_B")) else {
            assert_eq!(w0, w, "{name}");
            continue;
        };
        assert_ne!(w0, w, "{name}");
        let cols = a.len() / 3;
        for (at, (w0, w)) in w0.iter().zip(w).enumerate() {
            let (o, i) = (at / cols, at % cols);
            let product = (0..3).fold(0.0_f32, |c, k| b[o * 3 + k].mul_add(a[k * cols + i], c));
            assert_eq!(2.0_f32.mul_add(product, *w0).to_bits(), w.to_bits(), "{name} {o} {i}");
        }
    }
}

/// The gradients of the factors against the chain rule in f64 on the weight gradient of a run without adapters, and
/// of that against differences of the loss.
#[test]
fn gradients_of_the_factors_are_those_of_the_loss() {
    let (engine, whole) = (trained(&ADAPTER_TARGETS), usual(config(1, 0)));
    // Large factors have gradients that differences of f32 losses show.
    for (index, (_, values)) in values(&engine, Tensors::Adapters).iter().enumerate() {
        let random = |i: usize| draw(index as u64, Stream::Sample, i as u64, 0)[0] as f32 / u32::MAX as f32 - 0.5;
        engine.set_tensor(Tensors::Adapters, index, &(0..values.len()).map(random).collect::<Vec<_>>()).unwrap();
    }
    engine.set_step(UPDATES).unwrap();
    for (index, (_, w)) in values(&engine, Tensors::Weights).iter().enumerate() {
        whole.set_tensor(Tensors::Weights, index, w).unwrap();
    }
    whole.set_step(0).unwrap();
    let windows: Vec<Vec<u32>> =
        (0..13).map(|w| (0..131).map(|i| ((i * i + 7 * w * i + 3 * w) % 97) as u32).collect()).collect();
    let loss = engine.gradients(&windows).unwrap();
    assert_eq!(whole.gradients(&windows).unwrap().to_bits(), loss.to_bits());
    let of_weights = values(&whole, Tensors::Gradient);
    let (factors, found) = (values(&engine, Tensors::Adapters), values(&engine, Tensors::Gradient));
    for (pair, gradients) in factors.chunks(2).zip(found.chunks(2)) {
        let tensor = pair[0].0.replace("base_model.model.", "gradient.").replace(".lora_A", "");
        let dw = &of_weights.iter().find(|(name, _)| *name == tensor).unwrap().1;
        let (a, b) = (&pair[0].1, &pair[1].1);
        let (rows, cols) = (b.len() / 3, a.len() / 3);
        let sum = |n: usize, term: &dyn Fn(usize) -> (f32, f32)| {
            2.0 * (0..n).map(|i| f64::from(term(i).0) * f64::from(term(i).1)).sum::<f64>()
        };
        let da = (0..3 * cols).map(|at| sum(rows, &|o| (b[o * 3 + at / cols], dw[o * cols + at % cols])));
        let db = (0..3 * rows).map(|at| sum(cols, &|i| (dw[at / 3 * cols + i], a[at % 3 * cols + i])));
        close(&gradients[0].1, &da.collect::<Vec<_>>(), &pair[0].0);
        close(&gradients[1].1, &db.collect::<Vec<_>>(), &pair[1].0);
    }
    // A step along the gradient of a factor changes the loss by its squared norm.
    // (Those of the attention bend too much for it, as it adds to a residual stream that is small at the start.)
    for index in [12, 13, 24, 25, 26, 27] {
        let gradient = &found[index].1;
        let square = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        let h = (0.01 / square.sqrt()) as f32;
        let shifted = |h: f32| {
            let moved: Vec<f32> = factors[index].1.iter().zip(gradient).map(|(x, g)| x + h * g).collect();
            engine.set_tensor(Tensors::Adapters, index, &moved).unwrap();
            engine.set_step(UPDATES).unwrap();
            engine.gradients(&windows).unwrap()
        };
        let slope = (shifted(h) - shifted(-h)) / f64::from(2.0 * h);
        shifted(0.0);
        assert!((slope / square - 1.0).abs() < 1e-2, "{}: {slope} {square}", factors[index].0);
    }
}

fn close(found: &[f32], expected: &[f64], what: &str) {
    let largest = expected.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    let error = found.iter().zip(expected).fold(0.0_f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
    assert!(largest > 0.0 && error <= 1e-5 * largest, "{what}: {error} of {largest}");
}

fn bytes(folder: &Path) -> Vec<Vec<u8>> {
    let files = ["model.safetensors", "optimizer.safetensors", "adapter/adapter_model.safetensors"];
    files.iter().map(|name| std::fs::read(folder.join(name)).unwrap()).collect()
}

#[test]
fn a_training_that_goes_on_from_files_gives_the_same_files() {
    let [start, half, whole, resumed] = [0, 1, 2, 3].map(|_| tempfile::tempdir().unwrap());
    let config = with_adapters(config(3, 0), &["q_proj", "v_proj", "down_proj"]);
    let engine = usual(config.clone());
    let base = start.path().join("base.safetensors");
    engine.save_base(&base).unwrap();
    train(&engine, 2).unwrap();
    engine.save_begin(half.path()).unwrap().finish().unwrap();
    train(&engine, UPDATES).unwrap();
    let sizes = engine.save(whole.path()).unwrap().iter().map(|(name, file)| (*name, file.bytes)).collect::<Vec<_>>();
    // The moments are those of the factors alone.
    assert!(sizes[1].1 < sizes[0].1 / 2, "{sizes:?}");

    // Another seed: base and factors must come from the files.
    let mut other = config;
    other.train.seed += 1;
    let again = usual(other.clone());
    again.load_weights(&base).unwrap();
    assert_eq!(again.base_sha256().unwrap(), engine.base_sha256().unwrap());
    again.load(half.path(), 2).unwrap();
    assert_eq!(again.step(), 2);
    again.save(resumed.path()).unwrap();
    assert_eq!(bytes(resumed.path()), bytes(half.path()));
    let batch = |update: u64| (0..13).map(|i| engine.window(update, i).unwrap()).collect::<Vec<_>>();
    for update in 3..=UPDATES {
        again.update_with(&batch(update)).unwrap();
    }
    again.save(resumed.path()).unwrap();
    assert_eq!(bytes(resumed.path()), bytes(whole.path()));

    // With weights from another seed the files do not fit together.
    let error = usual(other).load(half.path(), 2).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.message.contains("is not what the base weights and the adapters beside it give"), "{error}");
}

#[test]
fn a_restart_begins_the_adapters_again_and_keeps_the_base() {
    let engine = trained(&["o_proj"]);
    engine.set_tensor(Tensors::Weights, 0, &vec![0.5; 97 * 16]).unwrap();
    let first = usual(with_adapters(config(1, 0), &["o_proj"]));
    engine.restart().unwrap();
    assert_eq!(engine.step(), 0);
    assert_eq!(values(&engine, Tensors::Adapters), values(&first, Tensors::Adapters));
    assert!(values(&engine, Tensors::FirstMoment).iter().all(|(_, m)| m.iter().all(|x| *x == 0.0)));
    let (found, expected) = (values(&engine, Tensors::Weights), values(&first, Tensors::Weights));
    assert_eq!(found[1..], expected[1..]);
    assert_eq!(found[0].1[3], 0.5);
}

#[test]
fn numbers_that_are_not_finite_are_found_in_factors_and_products() {
    let engine = trained(&["o_proj"]);
    let bad = |index: usize| engine.tensor_numbers().unwrap()[index].bad_weights;
    assert_eq!((engine.tensor_numbers().unwrap().len(), bad(0), bad(1)), (4, 0, 0));
    engine.set_tensor(Tensors::Adapters, 0, &[f32::MAX; 3 * 16]).unwrap();
    engine.set_tensor(Tensors::Adapters, 1, &[2.0; 3 * 16]).unwrap();
    engine.set_step(UPDATES).unwrap();
    // The factors are finite, their product is not.
    assert_eq!([bad(0), bad(1), bad(2)], [256, 256, 0]);
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let json = |lora: &str| {
        let mut value = serde_json::to_value(config(1, 0)).unwrap();
        value["train"]["lora"] = serde_json::from_str(lora).unwrap();
        serde_json::from_value::<EngineConfig>(value).unwrap().check().map_err(|e| e.message)
    };
    assert!(json(r#"{"rank": 2, "alpha": 1, "targets": ["q_proj"]}"#).is_ok());
    let refused = |lora: &str| json(lora).unwrap_err();
    assert!(refused(r#"{"rank": 0, "alpha": 1, "targets": ["q_proj"]}"#).contains("lora_rank is 0"));
    assert!(refused(r#"{"rank": 2, "alpha": 0, "targets": ["q_proj"]}"#).contains("lora_alpha is 0, expected "));
    assert!(refused(r#"{"rank": 2, "alpha": 1, "targets": ["lm_head"]}"#).contains("found a target \"lm_head\""));
    assert!(refused(r#"{"rank": 2, "alpha": 1, "targets": []}"#).contains("no target"));
}

#[test]
fn less_memory_is_planned_and_fewer_operations() {
    let plan = |c: &EngineConfig| symlm_core::step::MemoryPlan::new(c);
    let (whole, adapters) = (config(1, 0), with_adapters(config(1, 0), &ADAPTER_TARGETS));
    let part = |c: &EngineConfig, name: &str| plan(c).engine.iter().find(|p| p.0 == name).map(|p| p.1);
    assert!(part(&adapters, "optimizer") < part(&whole, "optimizer"));
    assert!(part(&adapters, "gradient") < part(&whole, "gradient"));
    assert_eq!(part(&whole, "adapters"), None);
    assert!(plan(&adapters).beside[0].1 < plan(&whole).beside[0].1);
    let flops = |c: &EngineConfig| c.flops_per_token();
    // The head, and nothing else that a token meets, has no gradient.
    assert_eq!(flops(&whole) - flops(&adapters), 2.0 * 97.0 * 16.0);
    assert_eq!(flops(&whole), whole.model.flops_per_token());
}
