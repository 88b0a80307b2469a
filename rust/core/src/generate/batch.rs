//! Many texts that are written together.
//!
//! Each step is one pass over the next token of every text, and over a piece of the prompts that are still to be read. Every text
//! gets the bits that it would get alone: its logits do not depend on the other rows of a pass (`pass`), and its tokens are drawn
//! by a [`Writer`] for itself.

use super::cache::{Cache, Pages};
use super::model::Model;
use super::pass::{Input, Pass};
use super::prefix::{Prefixes, common};
use super::rows::OwnedArena;
use super::session::{CHUNK, make_room};
use super::team::Member;
use super::writer::{End, Prompt, Writer};
use super::{SampleOptions, logprobs};
use crate::error::{Error, Result};
use crate::system::sync::{Mutex, lock};
use std::sync::Arc;

/// Common ids that are worth waiting for until another text has read them.
const WORTH_WAITING: usize = 8;

/// How a batch is set up.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions {
    /// Most texts at a time.
    pub slots: usize,
    /// Most tokens of a text, its prompt included; at most the positions of the model.
    pub context: usize,
    /// A text that has reached `context` continues from its last half, as a [`Session`](super::Session) does; else it ends. Only
    /// where `context` is all positions of the model.
    pub roll: bool,
    /// Bytes of keys and values that are kept of texts that have left.
    pub prefix_bytes: usize,
    /// Threads that compute, the caller's among them.
    pub threads: usize,
}

/// A token that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The text.
    pub slot: usize,
    /// None of a text that was to have no tokens, or that failed.
    pub token: Option<u32>,
    /// Why the text ends here, if it does.
    pub end: Option<End>,
    /// Why the text failed, which ends it too: `NotANumber` if its logits are none, `Memory` if the system refuses.
    pub error: Option<Error>,
    /// Logarithm of the token's probability before any of the sampler's settings, where it was asked for.
    pub logprob: Option<f64>,
    /// The most likely tokens with theirs, as many as were asked for.
    pub top: Vec<(u32, f64)>,
}

impl Drawn {
    /// The end of a text without another token.
    fn ended(slot: usize, how: Result<End>) -> Self {
        let (end, error) = match how {
            Ok(end) => (Some(end), None),
            Err(error) => (None, Some(error)),
        };
        Self { slot, token: None, end, error, logprob: None, top: vec![] }
    }

    /// Whether nothing follows it.
    pub fn is_last(&self) -> bool {
        self.end.is_some() || self.error.is_some()
    }
}

/// A text under way.
struct Slot {
    /// Rises with every text that joins.
    number: u64,
    writer: Writer,
    /// How many of the most likely tokens are wanted, if any logarithms are.
    logprobs: Option<usize>,
    context: Vec<u32>,
    /// Positions of the context whose keys and values are in the cache.
    read: usize,
    /// Positions that the pass at hand adds to them.
    reading: usize,
    cache: Cache,
    finished: bool,
    /// How it ended without a token, if that is still to be told.
    untold: Option<Result<End>>,
}

impl Slot {
    fn pending(&self) -> usize {
        if self.finished { 0 } else { self.context.len() - self.read }
    }

    /// Ends it. Nobody takes over what it has read.
    fn fail(&mut self) {
        self.finished = true;
        self.read = 0;
    }
}

/// Texts in slots, and the memory and threads to continue them together.
pub struct Batch {
    model: Arc<Model>,
    options: BatchOptions,
    slots: Vec<Option<Slot>>,
    joined: u64,
    reused: u64,
    pages: Pages,
    prefixes: Prefixes,
    pass: Pass,
    input: Input,
    logits: OwnedArena,
}

impl Batch {
    /// A batch without texts.
    ///
    /// # Errors
    /// `Usage` for options that no batch can have, `Memory` if the system refuses.
    pub fn new(model: &Arc<Model>, options: BatchOptions) -> Result<Self> {
        let c = model.config();
        let BatchOptions { slots, context, .. } = options;
        if slots == 0 {
            return Err(Error::usage("found 0 slots, expected at least one"));
        }
        if context == 0 || context > c.seq_len || (options.roll && context != c.seq_len) {
            let expected = if options.roll { "" } else { "1 to " };
            return Err(Error::usage(format!("found a context of {context}, expected {expected}{}", c.seq_len)));
        }
        Ok(Self {
            model: Arc::clone(model),
            options,
            slots: (0..slots).map(|_| None).collect(),
            joined: 0,
            reused: 0,
            pages: Pages::new(c),
            prefixes: Prefixes::new(options.prefix_bytes),
            pass: Pass::new(model, slots + CHUNK, context, options.threads)?,
            input: Input::default(),
            logits: OwnedArena::new(slots * c.vocab_size)?,
        })
    }

    /// How it is set up.
    pub fn options(&self) -> &BatchOptions {
        &self.options
    }

    /// Slots without a text.
    pub fn free(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_none()).count()
    }

    /// Ids of prompts that did not have to be read, since another text began alike.
    pub fn reused(&self) -> u64 {
        self.reused
    }

    /// Bytes of keys and values that are kept of texts that have left.
    pub fn prefix_bytes(&self) -> usize {
        self.prefixes.bytes(&self.pages)
    }

    /// Begins a text and returns its slot. The steps that follow read its prompt, a piece in each, beside the tokens of the others.
    /// With `logprobs` every token comes with the logarithm of its probability and so many of the most likely tokens.
    ///
    /// # Errors
    /// `Usage` for options out of range, an id beyond the vocabulary, a prompt longer than the context, or if no slot is free.
    pub fn join(&mut self, prompt: Prompt, options: SampleOptions, logprobs: Option<usize>) -> Result<usize> {
        let (writer, ids) = Writer::new(&self.model, prompt, options)?;
        let most = self.options.context;
        if ids.len() > most && !self.options.roll {
            return Err(Error::usage(format!("found a prompt of {} tokens, expected at most {most}", ids.len())));
        }
        let Some(slot) = self.slots.iter().position(Option::is_none) else {
            return Err(
                Error::usage(format!("all {} slots are taken", self.slots.len())).hint("let a text leave first")
            );
        };
        let mut context = Vec::with_capacity(most);
        make_room(&mut context, &ids, most);
        let full = writer.is_full();
        self.joined += 1;
        self.slots[slot] = Some(Slot {
            number: self.joined,
            writer,
            logprobs,
            context,
            read: 0,
            reading: 0,
            cache: Cache::default(),
            finished: full,
            untold: full.then_some(Ok(End::Length)),
        });
        Ok(slot)
    }

    /// Ends a text, finished or not, and frees its slot.
    ///
    /// # Errors
    /// `Usage` if there is no text.
    pub fn leave(&mut self, slot: usize) -> Result<()> {
        let Some(text) = self.slots.get_mut(slot).and_then(Option::take) else {
            return Err(Error::usage(format!("slot {slot} has no text")));
        };
        self.prefixes.keep(&text.context[..text.read], text.cache, &mut self.pages);
        Ok(())
    }

    /// One pass: the next token of every text that has read its prompt, in the order of the slots, and a piece of the other prompts.
    /// A text that has ended gets no more, and stays until it leaves. One that fails ends alone: [`Drawn::error`].
    pub fn step(&mut self) -> Vec<Drawn> {
        let outputs = self.choose();
        let mut drawn = self.untold();
        if self.input.rows() > 0 {
            drawn.extend(self.pass(&outputs));
        }
        drawn.sort_by_key(|drawn| drawn.slot);
        drawn
    }

    /// Texts that ended without a token.
    fn untold(&mut self) -> Vec<Drawn> {
        let slots = self.slots.iter_mut().enumerate().filter_map(|(place, slot)| Some((place, slot.as_mut()?)));
        slots.filter_map(|(place, slot)| Some(Drawn::ended(place, slot.untold.take()?))).collect()
    }

    /// Fills the input with the rows of the next pass; returns the slots whose logits it gives.
    fn choose(&mut self) -> Vec<usize> {
        self.input.clear();
        self.slots.iter_mut().flatten().for_each(|slot| slot.reading = 0);
        let mut order: Vec<usize> = (0..self.slots.len()).collect();
        let number = |slot: &usize| self.slots[*slot].as_ref().map(|slot| slot.number);
        order.retain(|slot| self.slots[*slot].as_ref().is_some_and(|slot| slot.pending() > 0));
        order.sort_by_key(number);
        let mut outputs = Vec::new();
        let mut left = CHUNK;
        for (i, place) in order.iter().enumerate() {
            if self.slots[*place].as_ref().is_some_and(|slot| slot.read == 0) && !self.begin(*place, &order[..i]) {
                continue;
            }
            let Some(slot) = &mut self.slots[*place] else { continue };
            let pending = slot.pending();
            let rows = if pending == 1 { 1 } else { pending.min(left) };
            if rows == 0 {
                continue;
            }
            left -= if pending == 1 { 0 } else { rows };
            let (start, end) = (slot.read, slot.read + rows);
            if let Err(error) = slot.cache.reserve(&mut self.pages, start, end) {
                slot.fail();
                slot.untold = Some(Err(error));
                continue;
            }
            self.input.push(&slot.context[start..end], start, &slot.cache, usize::from(rows == pending));
            slot.reading = rows;
            if rows == pending {
                outputs.push(*place);
            }
        }
        outputs
    }

    /// Takes over what others have read of a prompt; false if one of `before` will soon have read more of it.
    fn begin(&mut self, place: usize, before: &[usize]) -> bool {
        let Some(mut slot) = self.slots[place].take() else { return false };
        // The last token is computed in any case: its logits are not kept.
        let ids = &slot.context[..slot.context.len() - 1];
        let mut wait = false;
        let mut best: Option<(usize, &Cache)> = None;
        for other in self.slots.iter().enumerate().filter_map(|(i, other)| Some((i, other.as_ref()?))) {
            let (i, other) = other;
            let all = common(&other.context, ids);
            let read = all.min(other.read);
            wait |= all >= read + WORTH_WAITING && before.contains(&i) && !other.finished;
            if read > best.map_or(0, |best| best.0) {
                best = Some((read, &other.cache));
            }
        }
        if !wait {
            if let Some(kept) = self.prefixes.find(ids).filter(|kept| kept.0 > best.map_or(0, |best| best.0)) {
                best = Some(kept);
            }
            if let Some((length, cache)) = best {
                let length = cache.sound(self.model.config(), length);
                slot.cache.share(cache.first(length));
                slot.read = length;
                self.reused += length as u64;
            }
        }
        self.slots[place] = Some(slot);
        !wait
    }

    /// Computes the rows of the input and draws the tokens behind them.
    fn pass(&mut self, outputs: &[usize]) -> Vec<Drawn> {
        let vocab = self.model.config().vocab_size;
        let mut texts: Vec<Option<&mut Slot>> = self.slots.iter_mut().map(Option::as_mut).collect();
        for slot in texts.iter_mut().flatten() {
            // Until now nobody could take over what this pass is about to compute.
            slot.read += std::mem::take(&mut slot.reading);
        }
        let draws: Vec<Mutex<(&mut Slot, Result<Drawn>)>> = outputs
            .iter()
            .filter_map(|place| Some(Mutex::new((texts[*place].take()?, Err(Error::internal("no token was drawn"))))))
            .collect();
        let after = |member: &Member<'_>, logits: &[f32]| {
            for i in (member.index..draws.len()).step_by(member.threads) {
                let (slot, drawn) = &mut *lock(&draws[i]);
                *drawn = draw(slot, outputs[i], &logits[i * vocab..][..vocab]);
            }
        };
        self.pass.run(&self.input, self.logits.get_mut(), &after);
        let tell = |(place, draw): (&usize, Mutex<(&mut Slot, Result<Drawn>)>)| {
            let (slot, drawn) = draw.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            match drawn {
                Ok(drawn) => append(slot, drawn, &self.options, &mut self.pages),
                Err(error) => {
                    slot.fail();
                    Drawn::ended(*place, Err(error))
                }
            }
        };
        outputs.iter().zip(draws).map(tell).collect()
    }
}

/// The next token of a text.
fn draw(slot: &mut Slot, place: usize, logits: &[f32]) -> Result<Drawn> {
    let (token, end) = slot.writer.draw(logits)?;
    let (logprob, top) = match slot.logprobs {
        None => (None, vec![]),
        Some(count) => logprobs::of(logits, token, count),
    };
    Ok(Drawn { slot: place, token: Some(token), end, error: None, logprob, top })
}

/// Appends a token that was drawn to its text, if another one can follow.
fn append(slot: &mut Slot, mut drawn: Drawn, options: &BatchOptions, pages: &mut Pages) -> Drawn {
    if let (None, Some(token)) = (drawn.end, drawn.token) {
        if slot.context.len() < options.context {
            slot.context.push(token);
        } else if options.roll {
            slot.read = make_room(&mut slot.context, &[token], options.context);
            slot.cache.clear(pages);
        } else {
            drawn.end = Some(End::Context);
        }
    }
    slot.finished = drawn.end.is_some();
    drawn
}
