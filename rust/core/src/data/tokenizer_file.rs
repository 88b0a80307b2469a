//! Reading `tokenizer.json`: everything is checked before the model is built, because the file may come from anywhere.

use std::collections::HashMap;
use std::path::Path;

use ahash::AHashMap;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::BPE;

use super::tokenizer::{END_OF_TEXT, MAX_VOCAB, MIN_VOCAB, byte_chars};
use crate::error::{Error, Result};

/// A larger file is no tokenizer.
const MAX_FILE_BYTES: u64 = 256 << 20;
const HINT: &str = "symlm tokenizer train makes one that fits";

/// What a file holds.
pub(crate) struct Parsed {
    pub(crate) bpe: BPE,
    /// The bytes of every token.
    pub(crate) tokens: Vec<Vec<u8>>,
    pub(crate) eot_id: u32,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Value,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct BpeFile {
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// The bytes of a tokenizer file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: &std::io::Error| {
        let error = Error::cannot_read(path, error);
        error.hint("expected a tokenizer.json")
    };
    let metadata = std::fs::metadata(path).map_err(|e| failed(&e))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        let what = if metadata.is_dir() { "a folder".into() } else { format!("{} bytes", metadata.len()) };
        return Err(Error::data(format!("{}: found {what}, expected a tokenizer.json", path.display())));
    }
    std::fs::read(path).map_err(|e| failed(&e))
}

/// Checks the file and builds the model.
pub(crate) fn parse(json: &[u8], name: &str) -> Result<Parsed> {
    let bad = |what: String| Error::data(format!("{name}: {what}")).hint(HINT);
    let broken = |error: serde_json::Error| bad(format!("not a tokenizer.json: {error}"));
    let file: File = serde_json::from_slice(json).map_err(broken)?;
    check_parts(&file).map_err(bad)?;
    let model: BpeFile = serde_json::from_value(file.model).map_err(broken)?;
    check_model(&model).map_err(bad)?;
    let (tokens, eot_id) = tokens(&model.vocab).map_err(bad)?;
    for added in &file.added_tokens {
        if added.content != END_OF_TEXT || added.id != eot_id {
            let found = format!("found added token {:?} with id {}", added.content, added.id);
            return Err(bad(format!("{found}, expected {END_OF_TEXT:?} with id {eot_id} and no other")));
        }
    }
    if file.added_tokens.is_empty() {
        return Err(bad(format!("found no special token, expected {END_OF_TEXT:?}")));
    }
    let merges = merges(model.merges, &model.vocab).map_err(bad)?;
    let vocab: AHashMap<String, u32> = model.vocab.into_iter().collect();
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(model.ignore_merges)
        // Its memory is one per thread and never freed; `Encoder` has its own.
        .cache_capacity(0)
        .build()
        .map_err(|error| bad(format!("not a usable vocabulary: {error}")))?;
    Ok(Parsed { bpe, tokens, eot_id })
}

fn type_of(part: &Value) -> String {
    match part {
        Value::Null => "none".into(),
        part => part.get("type").and_then(Value::as_str).unwrap_or("one without a type").chars().take(40).collect(),
    }
}

/// The parts around the model.
fn check_parts(file: &File) -> std::result::Result<(), String> {
    if !file.normalizer.is_null() {
        return Err(format!("found normalizer {}, expected none", type_of(&file.normalizer)));
    }
    let pre = &file.pre_tokenizer;
    let flag = |name| pre.get(name).and_then(Value::as_bool).unwrap_or(true);
    if type_of(pre) != "ByteLevel" {
        return Err(format!("found pre-tokenizer {}, expected ByteLevel as GPT-2 has it", type_of(pre)));
    }
    if flag("add_prefix_space") || !flag("use_regex") {
        return Err(
            "found a ByteLevel pre-tokenizer with other settings, expected add_prefix_space false, use_regex true"
                .into(),
        );
    }
    if !file.decoder.is_null() && type_of(&file.decoder) != "ByteLevel" {
        return Err(format!("found decoder {}, expected ByteLevel", type_of(&file.decoder)));
    }
    // Old files have no type in the model; the fields are checked anyway.
    let kind = file.model.get("type").and_then(Value::as_str).unwrap_or("BPE");
    if kind != "BPE" {
        let kind: String = kind.chars().take(40).collect();
        return Err(format!("found a {kind} model, expected BPE"));
    }
    Ok(())
}

fn check_model(model: &BpeFile) -> std::result::Result<(), String> {
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err("found dropout, expected none: it makes the ids random".into());
    }
    for affix in [&model.continuing_subword_prefix, &model.end_of_word_suffix] {
        if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
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
        let shown: String = token.chars().take(40).collect();
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

/// The merges as pairs, each of known tokens that make a known token.
fn merges(merges: Vec<Merge>, vocab: &HashMap<String, u32>) -> std::result::Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::with_capacity(merges.len());
    for (number, merge) in merges.into_iter().enumerate() {
        let pair = match merge {
            Merge::Pair(a, b) => Some((a, b)),
            Merge::Line(line) => line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        };
        let known = |token: &str| vocab.contains_key(token);
        match pair {
            Some((a, b)) if known(&a) && known(&b) && known(&format!("{a}{b}")) => pairs.push((a, b)),
            _ => {
                return Err(format!("merge {number}: found tokens that are not in the vocabulary"));
            }
        }
    }
    Ok(pairs)
}
