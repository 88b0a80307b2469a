use super::*;
use proptest::prelude::*;

fn greedy() -> SampleOptions {
    SampleOptions {
        max_new_tokens: 10,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 1,
        sample_index: 0,
        stop_ids: vec![],
    }
}

fn drawing() -> SampleOptions {
    SampleOptions { temperature: 1.0, ..greedy() }
}

/// Ids that pass the filters, in order.
fn support(options: &SampleOptions, logits: &[f32], recent: &[u32]) -> Vec<u32> {
    let mut sampler = Sampler::new(options.clone()).unwrap();
    recent.iter().for_each(|id| sampler.accept(*id));
    sampler.candidates(logits, |_| true).unwrap();
    sampler.keys.iter().map(|k| id_of(*k)).collect()
}

fn sample(options: &SampleOptions, logits: &[f32], token: u64) -> u32 {
    Sampler::new(options.clone()).unwrap().sample(logits, token).unwrap()
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|l| (f64::from(*l) - f64::from(best)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// Few different values, so that ties are common, and some that stretch the range.
fn some_logits() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        4 => (-8_i32..8).prop_map(|x| x as f32 * 0.5),
        4 => -20_f32..20.0,
        1 => prop_oneof![Just(-0.0_f32), Just(-3e36), Just(3e36), Just(f32::NEG_INFINITY), Just(1e-45)],
    ];
    prop::collection::vec(value, 1..80).prop_filter("one is finite", |v| v.iter().any(|x| x.is_finite()))
}

fn some_options() -> impl Strategy<Value = SampleOptions> {
    let fraction = |least: f64| prop_oneof![Just(least), Just(1.0), least..1.0];
    let temperature = prop_oneof![Just(0.0), Just(1.0), 0.01..5.0, Just(1e-310), Just(1000.0)];
    let penalty = prop_oneof![Just(1.0), 0.1..10.0];
    (temperature, 0_usize..90, fraction(1e-310), fraction(0.0), penalty, any::<u64>(), any::<u32>()).prop_map(
        |(temperature, top_k, top_p, min_p, repetition_penalty, seed, sample_index)| SampleOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            seed,
            sample_index,
            ..greedy()
        },
    )
}

proptest! {
    #[test]
    fn keys_order_and_hold_logits(a: f32, b: f32, i: u32, j: u32) {
        prop_assume!(!a.is_nan() && !b.is_nan());
        prop_assert_eq!(logit_of(key(a, i)), a);
        prop_assert_eq!(id_of(key(a, i)), i);
        let order = b.partial_cmp(&a).unwrap().then(i.cmp(&j));
        prop_assert_eq!(key(a, i).cmp(&key(b, j)), order);
    }

    #[test]
    fn something_always_passes_and_what_is_drawn_has_passed(
        options in some_options(),
        logits in some_logits(),
        recent in prop::collection::vec(0_u32..90, 0..70),
        token: u64,
    ) {
        let passed = support(&options, &logits, &recent);
        prop_assert!(!passed.is_empty());
        prop_assert!(options.top_k == 0 || passed.len() <= options.top_k);
        let mut sampler = Sampler::new(options.clone()).unwrap();
        recent.iter().for_each(|id| sampler.accept(*id));
        let id = sampler.sample(&logits, token).unwrap();
        prop_assert!(passed.contains(&id));
        prop_assert!(logits[id as usize] > f32::NEG_INFINITY);
        // Again, from the same state and from a new one: the same token.
        prop_assert_eq!(sampler.sample(&logits, token).unwrap(), id);
    }

    #[test]
    fn temperature_zero_is_the_first_largest(logits in some_logits(), options in some_options()) {
        let options = SampleOptions { temperature: 0.0, repetition_penalty: 1.0, ..options };
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = logits.iter().position(|l| *l == best).unwrap();
        prop_assert_eq!(sample(&options, &logits, 3), first as u32);
    }

    #[test]
    fn top_k_keeps_the_best(logits in some_logits(), k in 1_usize..90) {
        let passed = support(&SampleOptions { top_k: k, ..drawing() }, &logits, &[]);
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].partial_cmp(&logits[*a as usize]).unwrap().then(a.cmp(b)));
        order.truncate(k);
        prop_assert_eq!(passed, order);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it(logits in some_logits(), top_p in 1e-310..1.0) {
        let passed = support(&SampleOptions { top_p, ..drawing() }, &logits, &[]);
        let probabilities = softmax(&logits);
        let sum = |ids: &[u32]| ids.iter().map(|id| probabilities[*id as usize]).sum::<f64>();
        prop_assert!(sum(&passed) >= top_p - 1e-12);
        prop_assert!(sum(&passed[..passed.len() - 1]) < top_p + 1e-12);
    }

    #[test]
    fn min_p_is_relative_to_the_best(logits in some_logits(), min_p in 0.0..1.0) {
        let passed = support(&SampleOptions { min_p, ..drawing() }, &logits, &[]);
        let probabilities = softmax(&logits);
        let best = probabilities.iter().copied().fold(0.0, f64::max);
        for (id, p) in probabilities.iter().enumerate() {
            let clear = (p / best - min_p).abs() > 1e-12;
            prop_assert!(!clear || passed.contains(&(id as u32)) == (p / best > min_p));
        }
    }

    #[test]
    fn a_repetition_penalty_lowers(logits in some_logits(), at: prop::sample::Index, penalty in 1.001..10.0) {
        let id = at.index(logits.len()) as u32;
        let options = SampleOptions { repetition_penalty: penalty, ..drawing() };
        let place = |recent: &[u32]| support(&options, &logits, recent).iter().position(|x| *x == id).unwrap();
        prop_assert!(place(&[id]) >= place(&[]));
        // Once or twice, and another token of no concern: the same.
        prop_assert_eq!(place(&[id, id, 1000]), place(&[id]));
        let mut sampler = Sampler::new(options.clone()).unwrap();
        sampler.accept(id);
        sampler.candidates(&logits, |_| true).unwrap();
        let now = sampler.keys.iter().find(|k| id_of(**k) == id).map(|k| logit_of(*k)).unwrap();
        let before = logits[id as usize];
        let unchanged = before == 0.0 || before.is_infinite() || before.abs() < f32::MIN_POSITIVE;
        prop_assert!(now < before || unchanged && now <= before);
    }
}

#[test]
fn the_penalty_forgets_after_64_tokens() {
    let options = SampleOptions { repetition_penalty: 2.0, ..greedy() };
    let mut sampler = Sampler::new(options).unwrap();
    let logits = [0.0, 3.0, 2.0];
    sampler.accept(1);
    for _ in 0..63 {
        assert_eq!(sampler.sample(&logits, 0).unwrap(), 2);
        sampler.accept(0);
    }
    assert_eq!(sampler.sample(&logits, 0).unwrap(), 2);
    sampler.accept(0);
    assert_eq!(sampler.sample(&logits, 0).unwrap(), 1);
}

#[test]
fn draws_follow_the_probabilities() {
    let options = SampleOptions { temperature: 0.5, ..drawing() };
    let logits = [0.1, 0.9, -0.3, 0.5];
    let expected = softmax(&logits.map(|l| l * 2.0));
    let draws = 40_000;
    let mut count = [0.0; 4];
    for token in 0..draws {
        count[sample(&options, &logits, token) as usize] += 1.0 / draws as f64;
    }
    for (found, expected) in count.iter().zip(expected) {
        assert!((found - expected).abs() < 0.01, "{count:?}");
    }
}

#[test]
fn samples_and_tokens_have_draws_of_their_own() {
    let logits = [0.0; 50];
    let text = |seed, sample_index| {
        let options = SampleOptions { seed, sample_index, ..drawing() };
        (0..20).map(|token| sample(&options, &logits, token)).collect::<Vec<_>>()
    };
    assert_eq!(text(1, 0), text(1, 0));
    assert_ne!(text(1, 0), text(1, 1));
    assert_ne!(text(1, 0), text(2, 0));
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let behind = |bad: f32| [vec![1.0; 40], vec![bad, 2.0]].concat();
    let few = [vec![], vec![1.0, f32::NAN], vec![1.0, f32::INFINITY], vec![f32::NEG_INFINITY; 3]];
    for bad in few.into_iter().chain([behind(f32::NAN), behind(-f32::NAN), behind(f32::INFINITY)]) {
        for options in [greedy(), drawing()] {
            let error = Sampler::new(options).unwrap().sample(&bad, 0).unwrap_err();
            assert_eq!(error.kind, crate::ErrorKind::NotANumber);
        }
    }
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let bad = [
        ("temperature", SampleOptions { temperature: -1.0, ..greedy() }),
        ("temperature", SampleOptions { temperature: f64::NAN, ..greedy() }),
        ("temperature", SampleOptions { temperature: 1001.0, ..greedy() }),
        ("top_p", SampleOptions { top_p: 0.0, ..greedy() }),
        ("top_p", SampleOptions { top_p: 1.5, ..greedy() }),
        ("min_p", SampleOptions { min_p: f64::NAN, ..greedy() }),
        ("repetition_penalty", SampleOptions { repetition_penalty: 0.0, ..greedy() }),
    ];
    for (name, options) in bad {
        let error = Sampler::new(options).err().unwrap();
        assert_eq!(error.kind, crate::ErrorKind::Usage);
        assert!(error.message.starts_with(name), "{}", error.message);
    }
}
