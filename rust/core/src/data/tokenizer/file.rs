//! Reading `tokenizer.json`: everything is checked before the model is built, because the file may come from anywhere.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use ahash::AHashMap;
use serde::Deserialize;
use tokenizers::models::bpe::BPE;

use super::parts::{AtMost, Merge, Vocab};
use super::vocab::{END_OF_TEXT, MAX_VOCAB, MIN_VOCAB, byte_chars};
use crate::error::{Error, Result, brief};
use crate::system::files::open_regular;

/// A larger file cannot be a tokenizer.
const MAX_FILE_BYTES: u64 = 256 << 20;
const HINT: &str = "symlm tokenizer train makes one that fits";

/// What a file holds.
pub(crate) struct Parsed {
    pub(crate) bpe: BPE,
    /// The bytes of every token.
    pub(crate) tokens: Vec<Vec<u8>>,
    pub(crate) eot_id: u32,
    /// Further special tokens, behind all others.
    pub(crate) special: Vec<(String, u32)>,
    /// Whether the file may add tokens to a text. That is never done here, but it says whose file it is.
    pub(crate) adds_tokens: bool,
}

/// Everything but the vocabulary and the merges. What is not named here is skipped without being stored.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct File {
    #[serde(default)]
    normalizer: Option<Part>,
    #[serde(default)]
    pre_tokenizer: Option<Part>,
    #[serde(default)]
    decoder: Option<Part>,
    #[serde(default)]
    post_processor: Option<Part>,
    #[serde(default)]
    added_tokens: AtMost<Added>,
    model: Part,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Part {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    add_prefix_space: Option<bool>,
    #[serde(default)]
    use_regex: Option<bool>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

impl Added {
    /// Whether the token is found wherever it stands, and stands for itself alone.
    fn is_plain(&self) -> bool {
        self.special && !(self.single_word || self.lstrip || self.rstrip || self.normalized)
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct ModelOf {
    model: BpeFile,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct BpeFile {
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Vocab,
    merges: AtMost<Merge>,
}

/// The bytes of a tokenizer file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: &std::io::Error| {
        let error = Error::cannot_read(path, error);
        if error.hint.is_some() { error } else { error.hint("expected a tokenizer.json") }
    };
    let (file, size) = open_regular(path).map_err(|e| failed(&e))?;
    let mut json = Vec::new();
    if size <= MAX_FILE_BYTES {
        // The file may grow while it is read.
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut json).map_err(|e| failed(&e))?;
    }
    if size.max(json.len() as u64) > MAX_FILE_BYTES {
        let path = path.display();
        return Err(Error::data(format!(
            "{path}: found {size} bytes, expected a tokenizer.json of at most {} MiB",
            MAX_FILE_BYTES >> 20
        )));
    }
    Ok(json)
}

/// Checks the file and builds the model.
pub(crate) fn parse(json: &[u8], name: &str) -> Result<Parsed> {
    let bad = |what: String| Error::data(format!("{name}: {what}")).hint(HINT);
    let broken = |error: serde_json::Error| bad(format!("not a tokenizer.json: {}", brief(&error)));
    // Twice over the text, so that a model of another kind is called by its name and not by a missing field.
    let file: File = serde_json::from_slice(json).map_err(broken)?;
    check_parts(&file).map_err(bad)?;
    let ModelOf { model } = serde_json::from_slice(json).map_err(broken)?;
    check_model(&model).map_err(bad)?;
    let Vocab(vocab) = model.vocab;
    let (mut tokens, eot_id) = tokens(&vocab).map_err(bad)?;
    let special = special(&file.added_tokens.0, &vocab, eot_id).map_err(bad)?;
    tokens.extend(special.iter().map(|(token, _)| token.as_bytes().to_vec()));
    let merges = merges(model.merges.0, &vocab).map_err(bad)?;
    let vocab: AHashMap<String, u32> = vocab.into_iter().collect();
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(model.ignore_merges)
        // Its memory is one per thread and never freed; `Encoder` has its own.
        .cache_capacity(0)
        .build()
        .map_err(|error| bad(format!("not a usable vocabulary: {}", brief(&error))))?;
    let adds_tokens = file.post_processor.is_some_and(|part| part.kind.as_deref() != Some("ByteLevel"));
    Ok(Parsed { bpe, tokens, eot_id, special, adds_tokens })
}

/// So much of a text from the file is shown.
fn beginning(text: &str) -> String {
    text.chars().take(40).collect()
}

fn type_of(part: Option<&Part>) -> String {
    match part.map(|part| part.kind.as_deref()) {
        None => "none".into(),
        Some(kind) => beginning(kind.unwrap_or("one without a type")),
    }
}

/// The parts around the model.
fn check_parts(file: &File) -> std::result::Result<(), String> {
    let kind = |part: &Option<Part>| type_of(part.as_ref());
    if file.normalizer.is_some() {
        return Err(format!("found normalizer {}, expected none", kind(&file.normalizer)));
    }
    let pre = file.pre_tokenizer.as_ref().filter(|pre| type_of(Some(pre)) == "ByteLevel");
    let Some(pre) = pre else {
        let found = kind(&file.pre_tokenizer);
        return Err(format!("found pre-tokenizer {found}, expected ByteLevel as GPT-2 has it"));
    };
    if pre.add_prefix_space.unwrap_or(true) || !pre.use_regex.unwrap_or(true) {
        return Err(
            "found a ByteLevel pre-tokenizer with other settings, expected add_prefix_space false, use_regex true"
                .into(),
        );
    }
    if file.decoder.is_some() && kind(&file.decoder) != "ByteLevel" {
        return Err(format!("found decoder {}, expected ByteLevel", kind(&file.decoder)));
    }
    // Old files have no type in the model; the fields are checked anyway.
    let kind = file.model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        return Err(format!("found a {} model, expected BPE", beginning(kind)));
    }
    Ok(())
}

fn check_model(model: &BpeFile) -> std::result::Result<(), String> {
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err("found dropout, expected none: it makes the ids random".into());
    }
    for affix in [&model.continuing_subword_prefix, &model.end_of_word_suffix] {
        if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
            let affix = beginning(affix);
            return Err(format!("found subword affix {affix:?}, expected a byte-level model without"));
        }
    }
    if model.byte_fallback {
        return Err("found byte_fallback, expected a byte-level model, which has all bytes".into());
    }
    Ok(())
}

/// The bytes of every token in the order of the ids, and the id of the token between documents.
fn tokens(vocab: &HashMap<String, u32>) -> std::result::Result<(Vec<Vec<u8>>, u32), String> {
    let size = vocab.len();
    if !(MIN_VOCAB..=MAX_VOCAB).contains(&size) {
        return Err(format!("found a vocabulary of {size} tokens, expected {MIN_VOCAB} to {MAX_VOCAB}"));
    }
    let byte_chars = byte_chars();
    let byte_of: HashMap<char, u8> = (0..=255).map(|byte: u8| (byte_chars[byte as usize], byte)).collect();
    for (byte, c) in byte_chars.iter().enumerate() {
        if !vocab.contains_key(c.encode_utf8(&mut [0; 4])) {
            return Err(format!("found no token for the byte {byte:#04x}, expected all 256"));
        }
    }
    match vocab.get(END_OF_TEXT) {
        Some(0) => {}
        Some(id) => return Err(format!("found {END_OF_TEXT:?} with id {id}, expected id 0")),
        None => {
            return Err(format!("found no token {END_OF_TEXT:?}, expected it with id 0"));
        }
    }
    let mut tokens: Vec<Option<Vec<u8>>> = vec![None; size];
    for (token, &id) in vocab {
        let bytes = if token == END_OF_TEXT {
            Some(token.as_bytes().to_vec())
        } else {
            token.chars().map(|c| byte_of.get(&c).copied()).collect()
        };
        let shown = beginning(token);
        let bytes = bytes.ok_or_else(|| format!("found token {shown:?}, which is not byte-level"))?;
        let place = tokens.get_mut(id as usize);
        let place = place.ok_or_else(|| format!("found id {id}, expected ids below the vocabulary size {size}"))?;
        if bytes.is_empty() || place.replace(bytes).is_some() {
            return Err(format!("found id {id} twice or with no text, expected every id once"));
        }
    }
    // As many different ids below the size as there are tokens leave no gap.
    Ok((tokens.into_iter().flatten().collect(), 0))
}

/// The special tokens beside the one between documents, in the order of their ids, which follow those of all others.
fn special(
    added: &[Added],
    vocab: &HashMap<String, u32>,
    eot_id: u32,
) -> std::result::Result<Vec<(String, u32)>, String> {
    let mut special = Vec::new();
    let mut ended = false;
    for token in added {
        let (found, next) = (beginning(&token.content), vocab.len() + special.len());
        if token.content == END_OF_TEXT && token.id == eot_id {
            ended = true;
            continue;
        }
        let found = format!("found added token {found:?} with id {}", token.id);
        if token.id as usize != next || !token.is_plain() {
            let expected = format!("expected {END_OF_TEXT:?} with id {eot_id}, or a special token with id {next}");
            return Err(format!("{found}, {expected}"));
        }
        let known = vocab.contains_key(&token.content) || special.iter().any(|(other, _)| *other == token.content);
        if token.content.is_empty() || known || next >= MAX_VOCAB {
            return Err(format!("{found}, expected a text that no other token has, and at most {MAX_VOCAB} tokens"));
        }
        special.push((token.content.clone(), token.id));
    }
    if ended { Ok(special) } else { Err(format!("found no special token {END_OF_TEXT:?}, expected it")) }
}

/// The merges as pairs, each of known tokens that make a known token.
fn merges(merges: Vec<Merge>, vocab: &HashMap<String, u32>) -> std::result::Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::with_capacity(merges.len());
    for (number, Merge(a, b)) in merges.into_iter().enumerate() {
        let made = format!("{a}{b}");
        if !(vocab.contains_key(&a) && vocab.contains_key(&b) && vocab.contains_key(&made)) {
            return Err(format!("merge {number}: found tokens that are not in the vocabulary"));
        }
        // Its text is plain text wherever it stands.
        if made == END_OF_TEXT || a == END_OF_TEXT || b == END_OF_TEXT {
            return Err(format!("merge {number}: found {END_OF_TEXT:?}, expected no merge that makes or takes it"));
        }
        pairs.push((a, b));
    }
    Ok(pairs)
}
