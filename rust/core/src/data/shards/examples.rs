//! Examples, a prompt and a completion or a conversation, in windows of whole examples (contract T8 to T11, T13 to T15).

use std::sync::Mutex;

use super::file::{ShardWriter, Shards};
use super::making::{Making, encode_all, has_room};
use super::marks::{BEGIN, CONTEXT};
use super::turns::Encoded;
use crate::config::Attend;
use crate::data::corpus::{Corpus, Example, Parts};
use crate::data::pretoken::{PIECE_BYTES, PieceSize};
use crate::data::progress::{Meter, Progress};
use crate::data::threads::Threads;
use crate::data::tokenizer::{Encoder, Pair, Tokenizer};
use crate::error::{Error, Result};

impl Corpus {
    /// Encodes the examples into shards of windows of `making.seq_len + 1` ids.
    pub(super) fn build_examples(&self, making: &mut Making<'_, '_>) -> Result<(Shards, Option<Shards>)> {
        let (tokenizer, window) = (making.tokenizer, making.seq_len + 1);
        let eot = tokenizer.end_of_text()?;
        let (train, val) = making.begin(Some(window as u64))?;
        let mut shards = [train, val];
        let threads = Threads::new(making.threads)?;
        let mut documents = self.documents(PieceSize::default());
        let mut count = 0_u64;
        while documents.next_example()?.is_some() {
            count += 1;
            making.meter.at(0)?;
        }
        if count == 0 {
            return Err(self.no_text());
        }
        let trained = count - held_out(count, making.val_split)?;

        let begin = if making.attend == Attend::Document { BEGIN } else { 0 };
        let mut packers = [Packer::new(window, eot, begin), Packer::new(window, eot, begin)];
        let mut done = 0;
        let digests = self.encode_examples(tokenizer, window, &threads, making.meter, |words| {
            let part = usize::from(done >= trained);
            done += 1;
            packers[part].add(&words, &mut shards[part])
        })?;
        drop(threads);
        let [mut train, mut val] = shards;
        packers[0].fill(&mut train)?;
        packers[1].fill(&mut val)?;
        making.finish(&digests, train, val)
    }

    /// The ids that each example takes of a window of `seq_len + 1`, in order. Nothing is written.
    ///
    /// # Errors
    /// `Data` if an example cannot be read or encoded.
    pub fn example_lengths(
        &self,
        tokenizer: &Tokenizer,
        seq_len: usize,
        threads: usize,
        progress: Progress<'_>,
    ) -> Result<Vec<u32>> {
        let mut lengths = Vec::new();
        let mut meter = Meter::new(progress, self.bytes());
        self.encode_examples(tokenizer, seq_len + 1, &Threads::new(threads)?, &mut meter, |words| {
            // A window that long fits into no memory.
            lengths.push(u32::try_from(words.words.len()).unwrap_or(u32::MAX));
            Ok(())
        })?;
        meter.finish()?;
        Ok(lengths)
    }

    /// Encodes the examples and gives each to `take`, in order. Gives the hashes of the files that were read.
    fn encode_examples(
        &self,
        tokenizer: &Tokenizer,
        window: usize,
        threads: &Threads,
        meter: &mut Meter<'_>,
        mut take: impl FnMut(Words) -> Result<()>,
    ) -> Result<Vec<[u8; 32]>> {
        let encoders: Vec<Mutex<Encoder>> = (0..threads.count()).map(|_| Mutex::default()).collect();
        let mut documents = self.documents(PieceSize::default());
        let mut batch = Vec::new();
        loop {
            batch.clear();
            let mut bytes = 0;
            while has_room(threads, bytes, batch.len(), PIECE_BYTES)
                && let Some(example) = documents.next_example()?
            {
                bytes += example.text.len();
                batch.push(example);
            }
            if batch.is_empty() {
                return Ok(documents.digests().to_vec());
            }
            let encode = |encoder: &mut Encoder, example: &Example| Words::new(tokenizer, encoder, example, window);
            for words in encode_all(threads, &encoders, &batch, encode)? {
                take(words)?;
            }
            meter.at(documents.disk_bytes())?;
        }
    }
}

/// How many of the examples, the last ones, are held out (contract T11).
fn held_out(count: u64, share: f64) -> Result<u64> {
    if share == 0.0 {
        return Ok(0);
    }
    if count < 2 {
        let error = Error::data("found 1 example, expected at least 2: one of them is held out for validation");
        return Err(error.hint("add examples, or hold out none (--val-split 0)"));
    }
    Ok(((count as f64 * share + 0.5) as u64).clamp(1, count - 1))
}

/// An encoded example, at most as long as a window.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    /// Ids; those before the completion have the bit [`CONTEXT`].
    words: Vec<u32>,
    /// Of the completion and the white space before it, as far as they are here.
    bytes: u64,
    /// Whether a part of the example was left out.
    cut: bool,
}

impl Words {
    fn new(tokenizer: &Tokenizer, encoder: &mut Encoder, example: &Example, window: usize) -> Result<Self> {
        let prompt = match &example.parts {
            Parts::Prompt(bytes) => *bytes,
            Parts::Turns(turns) => {
                let Encoded { words, bytes, cut } = Encoded::new(tokenizer, encoder, &example.text, turns, window)?;
                return Ok(Self { words, bytes, cut });
            }
        };
        let pair = Pair::new(tokenizer, encoder, &example.text, prompt)?;
        let mut this = fit(&pair, tokenizer.end_of_text()?, window);
        let kept = this.words.iter().filter(|&word| word & CONTEXT == 0).count();
        let bytes = if kept > pair.completion.len() {
            pair.bytes
        } else {
            // A token may hold more than the text, such as a blank that was put in front of it.
            tokenizer.decode_bytes(&pair.completion[..kept])?.len().min(pair.bytes)
        };
        this.bytes = bytes as u64;
        Ok(this)
    }
}

/// Puts an example together, cut to the window: first the beginning of the prompt goes, then the end of the completion
/// (contract T8, T9). The bytes are not counted yet.
fn fit(pair: &Pair, end: u32, window: usize) -> Words {
    let Pair { start, prompt, completion, .. } = pair;
    let start = &start[..start.len().min(window - 1)];
    let room = window.saturating_sub(start.len() + completion.len() + 1);
    let kept = prompt.len().min(room.max(usize::from(start.is_empty())));
    let context = start.iter().chain(&prompt[prompt.len() - kept..]).map(|id| id | CONTEXT);
    let words: Vec<u32> = context.chain(completion.iter().copied()).chain([end]).take(window).collect();
    let cut = words.len() < start.len() + prompt.len() + completion.len() + 1;
    Words { words, bytes: 0, cut }
}

/// Puts examples into windows, whole and in order (contract T10).
#[derive(Debug)]
struct Packer {
    window: usize,
    /// Fills what is left of a window.
    end: u32,
    /// What the first id of an example, and of what fills a window, has beside its own bits.
    begin: u32,
    /// Ids in the window at hand.
    used: usize,
}

impl Packer {
    fn new(window: usize, end: u32, begin: u32) -> Self {
        Self { window, end, begin, used: 0 }
    }

    fn add(&mut self, words: &Words, shard: &mut ShardWriter) -> Result<()> {
        if self.used + words.words.len() > self.window {
            self.fill(shard)?;
        }
        self.push(&words.words, shard)?;
        shard.add_bytes(words.bytes);
        shard.count_example(words.cut);
        self.used = (self.used + words.words.len()) % self.window;
        Ok(())
    }

    /// Completes the window at hand.
    fn fill(&mut self, shard: &mut ShardWriter) -> Result<()> {
        if self.used > 0 {
            self.push(&vec![self.end | CONTEXT; self.window - self.used], shard)?;
        }
        self.used = 0;
        Ok(())
    }

    fn push(&self, words: &[u32], shard: &mut ShardWriter) -> Result<()> {
        let Some((first, rest)) = words.split_first() else { return Ok(()) };
        shard.push(&[first | self.begin])?;
        shard.push(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(words: &[u32]) -> Vec<i64> {
        words.iter().map(|w| if w & CONTEXT == 0 { i64::from(*w) } else { -i64::from(w & !CONTEXT) }).collect()
    }

    fn pair(start: &[u32], prompt: &[u32], completion: &[u32]) -> Pair {
        Pair { start: start.to_vec(), prompt: prompt.to_vec(), completion: completion.to_vec(), bytes: 0 }
    }

    #[test]
    fn the_beginning_of_the_prompt_goes_first() {
        let fitted =
            |begin: Option<u32>, window| ids(&fit(&pair(begin.as_slice(), &[1, 2, 3], &[4, 5]), 9, window).words);
        assert_eq!(fitted(None, 8), [-1, -2, -3, 4, 5, 9]);
        assert_eq!(fitted(None, 6), [-1, -2, -3, 4, 5, 9]);
        assert_eq!(fitted(None, 5), [-2, -3, 4, 5, 9]);
        assert_eq!(fitted(None, 4), [-3, 4, 5, 9]);
        assert_eq!(fitted(None, 3), [-3, 4, 5]);
        assert_eq!(fitted(None, 2), [-3, 4]);
        assert_eq!(fitted(Some(7), 7), [-7, -1, -2, -3, 4, 5, 9]);
        assert_eq!(fitted(Some(7), 6), [-7, -2, -3, 4, 5, 9]);
        assert_eq!(fitted(Some(7), 4), [-7, 4, 5, 9]);
        assert_eq!(fitted(Some(7), 2), [-7, 4]);
    }

    #[test]
    fn at_least_one_example_is_held_out_and_one_is_not() {
        let held = |count, share| held_out(count, share).unwrap();
        assert_eq!((held(100, 0.05), held(100, 0.0), held(3, 0.01), held(2, 0.99)), (5, 0, 1, 1));
        assert_eq!((held(1, 0.0), held(50, 0.05)), (0, 3));
        assert!(held_out(1, 0.1).unwrap_err().hint.unwrap().contains("--val-split 0"));
    }

    proptest! {
        #[test]
        fn what_fits_is_whole(
            bos: bool, prompt in prop::collection::vec(1_u32..9, 0..12), completion in prop::collection::vec(1_u32..9, 1..12),
            window in 2_usize..30,
        ) {
            let start = if bos { vec![7] } else if prompt.is_empty() { vec![9] } else { vec![] };
            let fitted = fit(&pair(&start, &prompt, &completion), 9, window);
            prop_assert!(fitted.words.len() <= window && fitted.words[0] & CONTEXT != 0);
            let targets: Vec<u32> = fitted.words.iter().copied().filter(|w| w & CONTEXT == 0).collect();
            let whole: Vec<u32> = completion.iter().copied().chain([9]).collect();
            prop_assert_eq!(&targets[..], &whole[..targets.len()]);
            // The completion is cut only where one id before it is all there is room for.
            prop_assert!(targets.len() == whole.len() || fitted.words.len() == window && targets.len() == window - 1);
            let longest = start.len() + prompt.len() + whole.len();
            prop_assert_eq!(fitted.cut, longest > window);
        }
    }
}
