//! Byte-level BPE with the GPT-2 pre-tokenizer; and, for models from elsewhere, whatever their `tokenizer.json` says.
//!
//! Merging is done by the `tokenizers` crate (its version is pinned: ids depend on it), built with Oniguruma as the
//! Python package of the same name is, so that both give the same ids for the same `tokenizer.json`. The one
//! difference: `<|endoftext|>` in a text is plain text here, never the special token, because text goes to the
//! pre-tokenizer and the model directly and no added token is ever looked for. And a document is cut at the latest
//! after 1 MiB without white space, which no natural text reaches.
//!
//! A tokenizer of another kind ([`Tokenizer::of_model`]) is the crate's own, special tokens in a text included.

use std::io::Write;
use std::path::Path;

use ahash::AHashMap;
use sha2::{Digest, Sha256};
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use super::file::{self, Parsed};
use super::library::Library;
use super::special::Special;
use super::vocab::{MAX_VOCAB, byte_chars};
use crate::data::pretoken::{PIECE_BYTES, PIECE_CAP_BYTES, PieceSize, piece_len, pretokens};
use crate::error::{Error, Result};
use crate::system::files::write_whole;
use crate::system::hex;

/// Pre-tokens up to this length are remembered with their ids.
const REMEMBERED_BYTES: usize = 64;
/// So many pre-tokens are remembered at most, per thread.
const REMEMBERED: usize = 1 << 16;

/// Documents up to this length go to a tokenizer of another kind as a whole: where it cuts them itself is not known, and
/// it may put something before every text. The crate takes some 200 bytes of memory for each of them.
const WHOLE_BYTES: usize = 1 << 20;

pub(super) enum Kind {
    /// Byte-level BPE as it is trained here, and the special tokens that a chat template has beside it.
    Own { bpe: Box<BPE>, byte_chars: Box<[char; 256]>, special: Special },
    /// Anything else.
    Library(Library),
}

/// Turns text into token ids and back.
pub struct Tokenizer {
    pub(super) kind: Kind,
    /// The file, byte for byte.
    json: Vec<u8>,
    sha256: String,
    /// The bytes of all tokens one after the other, and where each begins (and the last ends).
    bytes: Vec<u8>,
    starts: Vec<usize>,
    vocab_size: usize,
    pub(super) eot_id: Option<u32>,
    /// The token that the model begins a text with, whether or not the file puts it there.
    bos_id: Option<u32>,
    /// Tokens that are never part of a text, ascending.
    pub(super) special: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sha256, .. } = self;
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("sha256", sha256)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, which must be a byte-level BPE with the GPT-2 pre-tokenizer and
    /// `<|endoftext|>` as id 0.
    pub fn from_file(path: &Path) -> Result<Self> {
        let json = file::read(path)?;
        Self::from_json(json, &path.display().to_string())
    }

    /// The same from the bytes of the file; `name` is what messages call it.
    pub fn from_json(json: Vec<u8>, name: &str) -> Result<Self> {
        let parsed = file::parse(&json, name)?;
        Ok(Self::own(parsed, json))
    }

    /// Reads the `tokenizer.json` of a model, which may be of any kind that the crate knows. `eos_id` is the token that the
    /// model ends a text with, `embedded` the number of tokens that it has an embedding for, where they are known.
    ///
    /// # Errors
    /// `Data` if it is not a tokenizer, or not one for this model.
    pub fn of_model(path: &Path, eos_id: Option<u32>, embedded: Option<usize>) -> Result<Self> {
        if let Some(rows) = embedded.filter(|&rows| rows > MAX_VOCAB) {
            return Err(Error::usage(format!("found an embedding of {rows} tokens, expected at most {MAX_VOCAB}")));
        }
        let (json, name) = (file::read(path)?, path.display().to_string());
        let mut tokenizer = match file::parse(&json, &name) {
            Ok(parsed) if !parsed.adds_tokens && eos_id.is_none_or(|id| id == parsed.eot_id) => Self::own(parsed, json),
            _ => {
                let library = Library::new(&json, &name)?;
                let tokens = library.tokens(&json, &name)?;
                let vocab_size = library.vocab_size;
                let special = library.special();
                Self::new(Kind::Library(library), json, &tokens, vocab_size, eos_id, special)
            }
        };
        let (found, embedded) = (tokenizer.vocab_size, embedded.unwrap_or(tokenizer.vocab_size));
        if found > embedded {
            return Err(Error::data(format!(
                "{name}: found {found} tokens, the model has an embedding for {embedded}"
            ))
            .hint("the tokenizer belongs to another model"));
        }
        // An embedding may have rows to spare; a token without text stands for each.
        let end = tokenizer.bytes.len();
        tokenizer.starts.resize(embedded + 1, end);
        Ok(tokenizer)
    }

    fn own(parsed: Parsed, json: Vec<u8>) -> Self {
        let special = [parsed.eot_id].into_iter().chain(parsed.special.iter().map(|(_, id)| *id)).collect();
        let looked_for = Special::new(parsed.special);
        let kind = Kind::Own { bpe: Box::new(parsed.bpe), byte_chars: Box::new(byte_chars()), special: looked_for };
        Self::new(kind, json, &parsed.tokens, parsed.tokens.len(), Some(parsed.eot_id), special)
    }

    /// Says which token the model begins a text with, where that is known.
    #[must_use]
    pub fn with_bos(mut self, bos_id: Option<u32>) -> Self {
        self.bos_id = bos_id;
        self
    }

    fn new(
        kind: Kind,
        json: Vec<u8>,
        tokens: &[Vec<u8>],
        vocab_size: usize,
        eot_id: Option<u32>,
        special: Vec<u32>,
    ) -> Self {
        let mut starts = vec![0];
        let mut bytes = Vec::new();
        for token in tokens {
            bytes.extend_from_slice(token);
            starts.push(bytes.len());
        }
        let sha256 = hex(&Sha256::digest(&json));
        Self { kind, json, sha256, bytes, starts, vocab_size, eot_id, bos_id: None, special }
    }

    /// Writes the file, at once or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_whole(path, ".tokenizer-", |out| out.write_all(&self.json)).map_err(|e| Error::cannot_write(path, &e))
    }

    /// The ids of a text. No token is ever added; `<|endoftext|>` in the text is plain text, while a tokenizer from
    /// elsewhere takes its special tokens for what they are.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        Encoder::default().encode_text(self, text, &mut ids)?;
        Ok(ids)
    }

    /// The ids of a text that a model is to continue: those that begin every text, and its own. An empty text has those of
    /// [`Self::opening`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.document_start().to_vec();
        Encoder::default().encode_text(self, text, &mut ids)?;
        Ok(if ids.is_empty() { self.opening() } else { ids })
    }

    /// What begins every document in front of its text.
    pub fn document_start(&self) -> &[u32] {
        match &self.kind {
            Kind::Own { .. } => &[],
            Kind::Library(library) => &library.start,
        }
    }

    /// What stands for an empty text, at least one id: what begins every document, else the token that begins a text of the
    /// model, else the one that ends one.
    pub fn opening(&self) -> Vec<u32> {
        match self.document_start() {
            [] => vec![self.bos_id.or(self.eot_id).unwrap_or(0)],
            start => start.to_vec(),
        }
    }

    /// Whether the beginning of a text is encoded otherwise than the same characters within one.
    pub fn marks_beginning(&self) -> bool {
        matches!(&self.kind, Kind::Library(library) if library.marks_beginning)
    }

    /// Whether a token is never part of a text.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.binary_search(&id).is_ok()
    }

    /// The pieces that a document is encoded in.
    pub(crate) fn piece_size(&self) -> PieceSize {
        match &self.kind {
            Kind::Own { .. } => PieceSize { target: PIECE_BYTES, cap: PIECE_CAP_BYTES },
            Kind::Library(_) => PieceSize { target: WHOLE_BYTES, cap: 2 * WHOLE_BYTES },
        }
    }

    /// The text of ids; what is not UTF-8 becomes U+FFFD. `<|endoftext|>` is written out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let bytes = self.decode_bytes(ids)?;
        if let Kind::Library(library) = &self.kind {
            return library.decode(ids);
        }
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// The bytes of ids. A single token need not be UTF-8.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            let token = self.token(id).ok_or_else(|| {
                Error::data(format!(
                    "found token id {id}, expected an id below the vocabulary size {}",
                    self.decodable()
                ))
            })?;
            bytes.extend_from_slice(token);
        }
        Ok(bytes)
    }

    /// The bytes of one token.
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        let id = usize::try_from(id).ok()?;
        self.bytes.get(*self.starts.get(id)?..*self.starts.get(id + 1)?)
    }

    /// Number of ids that have a text, if only an empty one: some may belong to rows of an embedding without a token.
    pub fn decodable(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of tokens, `<|endoftext|>` included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token between documents: `<|endoftext|>`, or what the model of the tokenizer ends a text with.
    pub fn eot_id(&self) -> Option<u32> {
        self.eot_id
    }

    /// As [`Self::eot_id`], where one is needed.
    ///
    /// # Errors
    /// `Data` if the model has none.
    pub(crate) fn end_of_text(&self) -> Result<u32> {
        let missing = "found a model without a token that ends a text, expected one to stand between documents";
        self.eot_id.ok_or_else(|| Error::data(missing).hint("give it an \"eos_token_id\" in config.json"))
    }

    /// SHA-256 of the file as [`Self::save`] writes it, in hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The file as [`Self::save`] writes it.
    pub fn json(&self) -> &[u8] {
        &self.json
    }
}

/// Encodes pieces one after the other and remembers the ids of the words it has met. One per thread.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    known: AHashMap<Box<str>, (u32, u32)>,
    known_ids: Vec<u32>,
    mapped: String,
}

impl Encoder {
    /// Appends the ids of a whole text.
    pub(crate) fn encode_text(&mut self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        self.encode_pieces(tokenizer, None, text, ids)
    }

    /// Appends the ids of the rest of a text that continues after `before`: nothing is put in front of it.
    pub(crate) fn encode_rest(
        &mut self,
        tokenizer: &Tokenizer,
        before: &str,
        rest: &str,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        self.encode_pieces(tokenizer, Some(before), rest, ids)
    }

    fn encode_pieces<'a>(
        &mut self,
        tokenizer: &Tokenizer,
        mut before: Option<&'a str>,
        mut rest: &'a str,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        while !rest.is_empty() {
            // The same pieces as when a file is read, so that both have the same ids even of absurd texts.
            let PieceSize { target, cap } = tokenizer.piece_size();
            let len = piece_len(rest, true, target, cap).unwrap_or(rest.len());
            let (piece, tail) = rest.split_at(len);
            self.encode(tokenizer, before, piece, ids)?;
            (before, rest) = (Some(piece), tail);
        }
        Ok(())
    }

    /// Appends the ids of a piece of text; `before` is the end of what stands before it, `None` if a text begins with it.
    pub(crate) fn encode(
        &mut self,
        tokenizer: &Tokenizer,
        before: Option<&str>,
        piece: &str,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let special = match &tokenizer.kind {
            Kind::Own { special, .. } => special,
            Kind::Library(library) => {
                ids.extend(match before {
                    None => library.encode(piece, false),
                    Some(before) => library.encode_rest(before, piece),
                }?);
                return Ok(());
            }
        };
        if special.is_empty() {
            return self.encode_words(tokenizer, piece, ids);
        }
        for (part, id) in special.parts(piece) {
            match id {
                Some(id) => ids.push(id),
                None => self.encode_words(tokenizer, part, ids)?,
            }
        }
        Ok(())
    }

    /// Appends the ids of a text without special tokens.
    fn encode_words(&mut self, tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let Kind::Own { bpe, byte_chars, .. } = &tokenizer.kind else { return Ok(()) };
        for word in pretokens(text) {
            if let Some(&(start, len)) = self.known.get(word) {
                let start = start as usize;
                ids.extend_from_slice(&self.known_ids[start..start + len as usize]);
                continue;
            }
            self.mapped.clear();
            self.mapped.extend(word.bytes().map(|byte| byte_chars[byte as usize]));
            let tokens = bpe.tokenize(&self.mapped);
            let tokens = tokens.map_err(|error| Error::internal(format!("the tokenizer failed: {error}")))?;
            let from = ids.len();
            ids.extend(tokens.iter().map(|token| token.id));
            if word.len() <= REMEMBERED_BYTES && self.known.len() < REMEMBERED {
                // Both numbers are small: at most REMEMBERED times REMEMBERED_BYTES ids.
                let place = (self.known_ids.len() as u32, (ids.len() - from) as u32);
                self.known_ids.extend_from_slice(&ids[from..]);
                self.known.insert(word.into(), place);
            }
        }
        Ok(())
    }
}
