//! Tokenizers of models from elsewhere, by the `tokenizers` crate as it is.
//!
//! The crate was not made for files that may hold anything: a panic of its own becomes an error here, and the size of the
//! file, of the vocabulary and of every token is bounded. It starts no threads: texts are encoded one at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::tokenizer::Tokenizer as Crate;

use super::special::Placed;
use super::vocab::{MAX_VOCAB, byte_chars};
use crate::data::pretoken::begins_with_space;
use crate::error::{Error, Result, brief};

/// A larger file is refused: in memory it is a multiple of itself.
pub(super) const MAX_FILE_BYTES: usize = 64 << 20;
/// The longest text that takes the place of a piece of a token.
const MAX_REPLACEMENT_BYTES: usize = 64;
/// Bytes before a text that are searched for the token that they end with.
pub(crate) const END_BYTES: usize = 256;
/// Parts of a decoder.
const MAX_STEPS: usize = 64;
/// A word that every tokenizer has something for.
const PROBE: &str = "a";
/// The same and a line end: what a text that begins within a word is put behind.
const PROBE_LINE: &str = "a\n";

/// A tokenizer of any kind.
pub(super) struct Library {
    inner: Box<Crate>,
    /// Number of the largest id, and one.
    pub(super) vocab_size: usize,
    /// What comes before the ids of every text: mostly nothing, or the token that begins one.
    pub(super) start: Vec<u32>,
    /// Whether the beginning of a text is encoded otherwise than the same characters within one: mostly a blank is put
    /// in front of it.
    pub(super) marks_beginning: bool,
    /// Ids of the words that a text is put behind so that it does not begin one.
    word: Vec<u32>,
    line: Vec<u32>,
    /// Tokens that are looked for in a text, and their ids. What stands behind one may be treated like its beginning.
    added: Vec<(String, u32)>,
}

/// Parts of the file that decide whether the ids of a text are always the same.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    dropout: Option<f64>,
}

/// One step from the text of a token to its bytes.
enum Step {
    /// Characters stand for bytes, by GPT-2's table.
    ByteLevel,
    /// A text stands for another.
    Replace(String, String),
    /// A token `<0x0A>` stands for a byte.
    Bytes,
}

impl Library {
    /// Reads the file; messages begin with `name`.
    pub(super) fn new(json: &[u8], name: &str) -> Result<Self> {
        let bad = |what: String| Error::data(format!("{name}: {what}"));
        if json.len() > MAX_FILE_BYTES {
            let most = MAX_FILE_BYTES >> 20;
            return Err(bad(format!("found {} bytes, expected a tokenizer.json of at most {most} MiB", json.len())));
        }
        let broken = |error: &dyn std::fmt::Display| bad(format!("not a tokenizer.json: {}", brief(error)));
        let file: File = serde_json::from_slice(json).map_err(|error| broken(&error))?;
        if file.model.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err(bad("found dropout, expected none: it makes the ids random".into()));
        }
        let read = caught(|| Crate::from_bytes(json).map_err(|error| brief(&error)));
        let mut inner = read.map_err(|error| broken(&error))?;
        // As transformers has it: a text is neither cut nor filled up.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| broken(&error))?;
        let largest = inner.get_vocab(true).values().copied().max();
        let vocab_size = largest.map_or(0, |id| id as usize + 1);
        if vocab_size == 0 || vocab_size > MAX_VOCAB {
            return Err(bad(format!("found ids up to {vocab_size}, expected 1 to {MAX_VOCAB} tokens")));
        }
        let mut library = Self {
            inner: Box::new(inner),
            vocab_size,
            start: Vec::new(),
            marks_beginning: true,
            word: Vec::new(),
            line: Vec::new(),
            added: Vec::new(),
        };
        let added = library.inner.get_added_tokens_decoder();
        let added = added.iter().filter(|(_, token)| (1..=END_BYTES).contains(&token.content.len()));
        library.added = added.map(|(id, token)| (token.content.clone(), *id)).collect();
        // The library looks for the longest first, and the order of its table is another one each time.
        library.added.sort_unstable_by_key(|(content, id)| (std::cmp::Reverse(content.len()), *id));
        let failed = |error: Error| bad(error.message);
        let (bare, whole) =
            (library.encode(PROBE, false).map_err(failed)?, library.encode(PROBE, true).map_err(failed)?);
        let place = whole.windows(bare.len().max(1)).position(|ids| ids == bare);
        library.start = whole[..place.unwrap_or(0)].to_vec();
        library.word = bare;
        library.line = library.encode(PROBE_LINE, false).map_err(failed)?;
        library.marks_beginning = library.is_beginning_marked().map_err(failed)?;
        Ok(library)
    }

    /// Whether words have other ids by themselves than behind another.
    fn is_beginning_marked(&self) -> Result<bool> {
        for text in [" a", "\na"] {
            if self.encode_rest(PROBE, text)? != self.encode(text, false)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The bytes of every token in the order of the ids; of an id that no token has, none.
    pub(super) fn tokens(&self, json: &[u8], name: &str) -> Result<Vec<Vec<u8>>> {
        let bad = |what: String| Error::data(format!("{name}: {what}"));
        let file: File =
            serde_json::from_slice(json).map_err(|e| bad(format!("not a tokenizer.json: {}", brief(&e))))?;
        let mut steps = Vec::new();
        collect_steps(&file.decoder, &mut steps).map_err(bad)?;
        let mut inverse = std::collections::HashMap::new();
        for (byte, c) in byte_chars().into_iter().enumerate() {
            inverse.insert(c, byte as u8);
        }
        let added = self.inner.get_added_tokens_decoder();
        let token = |id: u32| match (added.get(&id), self.inner.id_to_token(id)) {
            // Added tokens are matched in the text as they are.
            (Some(token), _) => token.content.clone().into_bytes(),
            (None, Some(token)) => bytes_of(token, &steps, &inverse),
            (None, None) => Vec::new(),
        };
        Ok((0..self.vocab_size as u32).map(token).collect())
    }

    /// The ids of a text. With `special`, those that the file adds to every text are there too.
    pub(super) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoded = caught(|| self.inner.encode_fast(text, special).map_err(|error| brief(&error)));
        match encoded {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(Error::data(format!("the tokenizer cannot encode the text: {error}"))
                .hint("tokenizer.json is damaged, or of a kind that needs other text")),
        }
    }

    /// The tokens of a text and the bytes of it that each stands for.
    ///
    /// The library leaves white space out of the place of a token, so each begins where the one before it ends.
    pub(super) fn encode_placed(&self, text: &str) -> Result<Vec<Placed>> {
        let encoded = caught(|| self.inner.encode(text, false).map_err(|error| brief(&error)));
        let encoding = encoded.map_err(|error| {
            let error = Error::data(format!("the tokenizer cannot encode the text: {error}"));
            error.hint("tokenizer.json is damaged, or of a kind that needs other text")
        })?;
        let mut before = 0;
        let place = |(&id, &(start, end)): (&u32, &(usize, usize))| {
            let placed = Placed { id, start: start.min(before), end: end.max(start.min(before)) };
            before = before.max(end);
            placed
        };
        Ok(encoding.get_ids().iter().zip(encoding.get_offsets()).map(place).collect())
    }

    /// The ids of the rest of a text that continues after `before`: what is put in front of a text is not there.
    ///
    /// A word is put before it and its ids are taken away, so that the file need not be understood: normalizers,
    /// pre-tokenizers and special tokens further on do what they do within a text.
    pub(super) fn encode_rest(&self, before: &str, text: &str) -> Result<Vec<u32>> {
        if self.marks_beginning && !text.is_empty() {
            let token = self.added.iter().find(|(content, _)| before.ends_with(content));
            let (word, known) = match token {
                Some((content, id)) => (content.as_str(), std::slice::from_ref(id)),
                None if begins_with_space(text) => (PROBE, self.word.as_slice()),
                None => (PROBE_LINE, self.line.as_slice()),
            };
            let mut ids = self.encode(&format!("{word}{text}"), false)?;
            if ids.starts_with(known) {
                ids.drain(..known.len());
                return Ok(ids);
            }
        }
        self.encode(text, false)
    }

    /// The tokens that are never part of a text, ascending.
    pub(super) fn special(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let mut ids: Vec<u32> = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// The text of ids, special tokens written out.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        caught(|| self.inner.decode(ids, false).map_err(|error| brief(&error)))
            .map_err(|error| Error::data(format!("the tokenizer cannot decode the ids: {error}")))
    }
}

/// Runs code of the crate; its panics become errors. Nothing that it was changing is used after one.
fn caught<T>(f: impl FnOnce() -> std::result::Result<T, String>) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| Err("the tokenizers library failed".into()))
}

/// The steps of a decoder, in order. Those that only look at the beginning or the joints of a whole text are nothing here.
fn collect_steps(decoder: &Value, steps: &mut Vec<Step>) -> std::result::Result<(), String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = text(&decoder["type"]).unwrap_or_else(|| if decoder.is_null() { "none" } else { "unknown" }.into());
    let wrong =
        |what: &str| format!("found decoder {}{what}, expected ByteLevel, Metaspace, or replacements", brief(&kind));
    if steps.len() == MAX_STEPS {
        return Err(wrong(" of too many parts"));
    }
    let mut replace = |from: Option<String>, to: Option<String>| match (from, to) {
        (Some(from), Some(to)) if !from.is_empty() && to.len() <= MAX_REPLACEMENT_BYTES => {
            steps.push(Step::Replace(from, to));
            Ok(())
        }
        _ => Err(wrong(" with other replacements")),
    };
    match kind.as_str() {
        "Sequence" => {
            let parts = decoder["decoders"].as_array().ok_or_else(|| wrong(" without parts"))?;
            parts.iter().take(MAX_STEPS).try_for_each(|part| collect_steps(part, steps))
        }
        "Metaspace" => replace(text(&decoder["replacement"]), Some(" ".into())),
        "Replace" => replace(text(&decoder["pattern"]["String"]), text(&decoder["content"])),
        "ByteLevel" => {
            steps.push(Step::ByteLevel);
            Ok(())
        }
        "ByteFallback" => {
            steps.push(Step::Bytes);
            Ok(())
        }
        "Fuse" | "Strip" => Ok(()),
        _ => Err(wrong("")),
    }
}

fn bytes_of(mut token: String, steps: &[Step], inverse: &std::collections::HashMap<char, u8>) -> Vec<u8> {
    for step in steps {
        match step {
            Step::Replace(from, to) => token = token.replace(from, to),
            Step::ByteLevel => {
                // As the crate does it: a token with a character that stands for no byte is taken as it is.
                let bytes: Option<Vec<u8>> = token.chars().map(|c| inverse.get(&c).copied()).collect();
                return bytes.unwrap_or_else(|| token.into_bytes());
            }
            Step::Bytes => {
                let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                let byte = digits.filter(|digits| digits.len() == 2).and_then(|d| u8::from_str_radix(d, 16).ok());
                if let Some(byte) = byte {
                    return vec![byte];
                }
            }
        }
    }
    token.into_bytes()
}
