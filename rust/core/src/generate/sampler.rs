//! From logits to a token: repetition penalty, top-k, top-p, min-p, temperature, draw, in this order.
//!
//! Candidates stand in one total order, the larger logit first and the lower id first among equals, and every filter
//! keeps a first part of that order. Weights are f64 of `libm`, summed in that order, so that the same logits and
//! options give the same token on every machine.

use crate::error::{Error, Result};
use crate::limits;
use crate::rng::{self, Stream};
use crate::system::float_env::ContractRounding;
use std::collections::VecDeque;

/// Tokens that the repetition penalty looks back.
pub const PENALTY_WINDOW: usize = 64;

/// How text is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Tokens after which the text ends.
    pub max_new_tokens: u64,
    /// Divides the logits before the draw; 0 = always the token with the largest logit, the lowest id among equals.
    pub temperature: f64,
    /// Keeps this many candidates; 0 = all.
    pub top_k: usize,
    /// Keeps the first candidates whose probabilities together reach this; 1 = all.
    pub top_p: f64,
    /// Keeps the candidates whose probability is at least this fraction of the best one's; 0 = all.
    pub min_p: f64,
    /// Divides the positive and multiplies the negative logits of the last 64 tokens, the prompt included; 1 = off.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Which of several texts with the same seed.
    pub sample_index: u32,
    /// Tokens that end the text; the one that is drawn is not part of it.
    pub stop_ids: Vec<u32>,
}

impl SampleOptions {
    /// Checks ranges.
    ///
    /// # Errors
    /// `Usage` with the field, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        let numbers = [
            (limits::TEMPERATURE, self.temperature),
            (limits::TOP_P, self.top_p),
            (limits::MIN_P, self.min_p),
            (limits::REPETITION_PENALTY, self.repetition_penalty),
        ];
        for (limits, number) in numbers {
            limits.check(number).map_err(|error| Error::usage(error.message))?;
        }
        Ok(())
    }
}

/// A candidate as a number, in the total order: the logit, turned so that larger ones come first, above the id.
fn key(logit: f32, id: u32) -> u64 {
    // The sum makes -0 equal to +0.
    let bits = (logit + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!ascending) << 32 | u64::from(id)
}

fn logit_of(key: u64) -> f32 {
    let ascending = !((key >> 32) as u32);
    f32::from_bits(if ascending >> 31 == 1 { ascending & !(1 << 31) } else { !ascending })
}

fn id_of(key: u64) -> u32 {
    key as u32
}

fn not_numbers() -> Error {
    Error::not_a_number("the logits are not finite numbers").hint("the weights of the model are damaged")
}

/// The first candidate, without the order of the others: nothing if a logit is NaN or infinite, or all are -infinity.
fn largest(logits: &[f32]) -> Option<u32> {
    const LANES: usize = 16;
    let (mut most, mut sound) = ([f32::NEG_INFINITY; LANES], [true; LANES]);
    for part in logits.chunks(LANES) {
        for ((most, sound), x) in most.iter_mut().zip(&mut sound).zip(part) {
            *most = if *x > *most { *x } else { *most };
            // Neither is at most the largest number.
            *sound &= *x <= f32::MAX;
        }
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if !most.is_finite() || sound.contains(&false) {
        return None;
    }
    logits.iter().zip(0..).find_map(|(x, id)| (*x == most).then_some(id))
}

/// Draws tokens. It remembers the last tokens for the repetition penalty; call [`Sampler::accept`] with each.
pub struct Sampler {
    options: SampleOptions,
    recent: VecDeque<u32>,
    keys: Vec<u64>,
    weights: Vec<f64>,
}

impl Sampler {
    /// A sampler that has seen no token.
    ///
    /// # Errors
    /// `Usage` for options out of range.
    pub fn new(options: SampleOptions) -> Result<Self> {
        options.check()?;
        Ok(Self { options, recent: VecDeque::with_capacity(PENALTY_WINDOW), keys: vec![], weights: vec![] })
    }

    /// The options.
    pub fn options(&self) -> &SampleOptions {
        &self.options
    }

    /// Takes note of a token of the text.
    pub fn accept(&mut self, id: u32) {
        if self.recent.len() == PENALTY_WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    /// The token number `token` (from 0) of the text. A token does not depend on those drawn before, but for the
    /// repetition penalty.
    ///
    /// # Errors
    /// `NotANumber` if the logits have no finite maximum.
    pub fn sample(&mut self, logits: &[f32], token: u64) -> Result<u32> {
        if self.options.temperature == 0.0 && self.options.repetition_penalty == 1.0 {
            let _environment = ContractRounding::enter();
            return largest(logits).ok_or_else(not_numbers);
        }
        self.sample_of(logits, token, |_| true)
    }

    /// As [`Sampler::sample`] of those tokens alone that are `allowed`.
    ///
    /// # Errors
    /// `NotANumber` if the logits of these have no finite maximum.
    pub fn sample_of(&mut self, logits: &[f32], token: u64, allowed: impl Fn(u32) -> bool) -> Result<u32> {
        let _environment = ContractRounding::enter();
        self.candidates(logits, allowed)?;
        if self.options.temperature == 0.0 {
            return Ok(id_of(self.keys[0]));
        }
        self.weigh(self.options.temperature);
        let [low, high, ..] = rng::draw(self.options.seed, Stream::Sample, token, self.options.sample_index);
        let target = rng::uniform(low, high) * self.weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let place = self.weights.iter().position(|w| {
            sum += w;
            sum > target
        });
        // The target can round up to the whole sum: then it is the last one that has any weight.
        let place = place.or_else(|| self.weights.iter().rposition(|w| *w > 0.0)).unwrap_or(0);
        Ok(id_of(self.keys[place]))
    }

    /// Leaves the candidates that pass the filters in `keys`, at least one, in order.
    fn candidates(&mut self, logits: &[f32], allowed: impl Fn(u32) -> bool) -> Result<()> {
        let o = &self.options;
        if logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
            return Err(not_numbers());
        }
        self.keys.clear();
        self.keys.extend(logits.iter().zip(0..).map(|(l, id)| key(*l, id)));
        if o.repetition_penalty != 1.0 {
            let penalty = o.repetition_penalty as f32;
            for id in &self.recent {
                // From the given logit: a token that occurs twice is not punished twice.
                if let Some(l) = logits.get(*id as usize) {
                    let l = if *l > 0.0 { *l / penalty } else { *l * penalty };
                    self.keys[*id as usize] = key(l, *id);
                }
            }
        }
        self.keys.retain(|key| allowed(id_of(*key)));
        let count = self.keys.len();
        let keep = match o.top_k {
            _ if o.temperature == 0.0 => 1,
            0 => count,
            k => k.min(count),
        };
        if keep < count {
            self.keys.select_nth_unstable(keep - 1);
            self.keys.truncate(keep);
        }
        self.keys.sort_unstable();
        if !self.keys.first().is_some_and(|k| logit_of(*k).is_finite()) {
            return Err(not_numbers());
        }
        if o.temperature == 0.0 || (o.top_p == 1.0 && o.min_p == 0.0) {
            return Ok(());
        }
        let (top_p, min_p) = (o.top_p, o.min_p);
        self.weigh(1.0);
        let mut keep = self.weights.len();
        if top_p < 1.0 {
            let target = top_p * self.weights.iter().sum::<f64>();
            let mut sum = 0.0;
            let reached = self.weights.iter().position(|w| {
                sum += w;
                sum >= target
            });
            keep = reached.map_or(keep, |place| place + 1);
        }
        // The best weight is 1.
        let kept = self.weights[..keep].partition_point(|w| *w >= min_p);
        self.keys.truncate(kept);
        Ok(())
    }

    /// Weights of the candidates relative to the best one, `exp((logit - best) / temperature)`.
    fn weigh(&mut self, temperature: f64) {
        let Some(best) = self.keys.first().map(|k| f64::from(logit_of(*k))) else { return };
        let weight = |k: &u64| libm::exp((f64::from(logit_of(*k)) - best) / temperature);
        self.weights.clear();
        self.weights.extend(self.keys.iter().map(weight));
    }
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
