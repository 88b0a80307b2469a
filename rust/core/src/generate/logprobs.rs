//! Probabilities of tokens, before the sampler's settings change them.

/// Logarithm of the probability of `token`, and the `count` most likely tokens with theirs, the lower id first among equals.
///
/// In f64, with the functions of `libm` and sums in the order of the ids.
pub fn of(logits: &[f32], token: u32, count: usize) -> (Option<f64>, Vec<(u32, f64)>) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for l in logits {
        sum += libm::exp(f64::from(*l) - f64::from(most));
    }
    let all = f64::from(most) + libm::log(sum);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let before = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if (1..order.len()).contains(&count) {
        order.select_nth_unstable_by(count - 1, before);
    }
    order.truncate(count);
    order.sort_unstable_by(before);
    let logprob = |id: u32| f64::from(logits[id as usize]) - all;
    (Some(logprob(token)), order.into_iter().map(|id| (id, logprob(id))).collect())
}
