//! Byte-level BPE with the GPT-2 pre-tokenizer.
//!
//! Merging is done by the `tokenizers` crate (its version is pinned: ids depend on it), built with Oniguruma as the
//! Python package of the same name is, so that both give the same ids for the same `tokenizer.json`. The one
//! difference: `<|endoftext|>` in a text is plain text here, never the special token, because text goes to the
//! pre-tokenizer and the model directly and no added token is ever looked for. And a document is cut at the latest
//! after 1 MiB without white space, which no natural text reaches.

use std::io::Write;
use std::path::Path;

use ahash::AHashMap;
use sha2::{Digest, Sha256};
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use super::pretoken::{PIECE_BYTES, PIECE_CAP_BYTES, piece_len, pretokens};
use super::tokenizer_file;
use crate::error::{Error, Result};

/// The token between documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// The smallest vocabulary: every byte, and the token between documents.
pub const MIN_VOCAB: usize = 257;
/// The largest vocabulary that is taken for real.
pub const MAX_VOCAB: usize = 1 << 20;

/// Pre-tokens up to this length are remembered with their ids.
const REMEMBERED_BYTES: usize = 64;
/// So many pre-tokens are remembered at most, per thread.
const REMEMBERED: usize = 1 << 16;

/// Turns text into token ids and back.
pub struct Tokenizer {
    bpe: BPE,
    /// The file, byte for byte.
    json: Vec<u8>,
    sha256: String,
    /// The bytes of all tokens one after the other, and where each begins (and the last ends).
    bytes: Vec<u8>,
    starts: Vec<usize>,
    eot_id: u32,
    byte_chars: [char; 256],
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
        let json = tokenizer_file::read(path)?;
        Self::from_json(json, &path.display().to_string())
    }

    /// The same from the bytes of the file; `name` is what messages call it.
    pub fn from_json(json: Vec<u8>, name: &str) -> Result<Self> {
        let parsed = tokenizer_file::parse(&json, name)?;
        let mut starts = vec![0];
        let mut bytes = Vec::new();
        for token in &parsed.tokens {
            bytes.extend_from_slice(token);
            starts.push(bytes.len());
        }
        Ok(Self {
            bpe: parsed.bpe,
            sha256: hex(&Sha256::digest(&json)),
            json,
            bytes,
            starts,
            eot_id: parsed.eot_id,
            byte_chars: byte_chars(),
        })
    }

    /// Writes the file, at once or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |error: &std::io::Error| Error::cannot_write(path, error);
        let mut file = tempfile::Builder::new()
            .prefix(".tokenizer-")
            .permissions(default_permissions())
            .tempfile_in(folder)
            .map_err(|e| failed(&e))?;
        file.write_all(&self.json).and_then(|()| file.as_file().sync_all()).map_err(|e| failed(&e))?;
        file.persist(path).map_err(|e| failed(&e.error))?;
        Ok(())
    }

    /// The ids of a text. `<|endoftext|>` is never added, and is plain text where it is in the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        Encoder::default().encode_text(self, text, &mut ids)?;
        Ok(ids)
    }

    /// The text of ids; what is not UTF-8 becomes U+FFFD. `<|endoftext|>` is written out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let bytes = self.decode_bytes(ids)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// The bytes of ids. A single token need not be UTF-8.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            let token = self.token(id).ok_or_else(|| {
                Error::data(format!(
                    "found token id {id}, expected an id below the vocabulary size {}",
                    self.vocab_size()
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

    /// Number of tokens, `<|endoftext|>` included.
    pub fn vocab_size(&self) -> usize {
        self.starts.len() - 1
    }

    /// The id of `<|endoftext|>`.
    pub fn eot_id(&self) -> u32 {
        self.eot_id
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
        let mut rest = text;
        while !rest.is_empty() {
            // The same pieces as when a file is read, so that both have the same ids even of absurd texts.
            let len = piece_len(rest, true, PIECE_BYTES, PIECE_CAP_BYTES).unwrap_or(rest.len());
            let (piece, tail) = rest.split_at(len);
            self.encode(tokenizer, piece, ids)?;
            rest = tail;
        }
        Ok(())
    }

    /// Appends the ids of a piece of text.
    pub(crate) fn encode(&mut self, tokenizer: &Tokenizer, piece: &str, ids: &mut Vec<u32>) -> Result<()> {
        for word in pretokens(piece) {
            if let Some(&(start, len)) = self.known.get(word) {
                let start = start as usize;
                ids.extend_from_slice(&self.known_ids[start..start + len as usize]);
                continue;
            }
            self.mapped.clear();
            self.mapped.extend(word.bytes().map(|byte| tokenizer.byte_chars[byte as usize]));
            let tokens = tokenizer.bpe.tokenize(&self.mapped);
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

/// GPT-2's printable stand-in for every byte: itself where it is printable, else the next unused one from U+0100.
pub(crate) fn byte_chars() -> [char; 256] {
    let mut unused = (0x100..).filter_map(char::from_u32);
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        _ => unused.next().unwrap_or('\u{fffd}'),
    })
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a new file gets, where a temporary file would be for its owner alone.
pub(crate) fn default_permissions() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o666)
}
