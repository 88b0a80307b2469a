//! The first 256 bytes of a shard.

use sha2::{Digest, Sha256};

use crate::data::corpus::SHARD;

/// Version of a shard of text.
const TEXT: u32 = 1;
/// Version of a shard that is cut into windows.
const WINDOWS: u32 = 2;
pub(crate) const HEADER_BYTES: usize = 256;
/// Where the hash of the header lies: behind everything it covers.
const SEAL_AT: usize = HEADER_BYTES - 32;
const LARGEST_U16_VOCAB: u32 = 1 << 16;

/// What a shard of windows says about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Ids of a window.
    pub(crate) window: u64,
    /// Ids that count as targets.
    pub(crate) targets: u64,
    /// Examples of which a part was left out.
    pub(crate) cut: u64,
    /// Ids that are marked as the first of a document; 0 where none are.
    pub(crate) begins: u64,
}

/// What a shard says about its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) tokens: u64,
    /// Of the text, or of the completions.
    pub(crate) bytes: u64,
    /// Or examples.
    pub(crate) documents: u64,
    pub(crate) vocab_size: u32,
    /// Of the text, the split and the tokenizer: what the shard was made from.
    pub(crate) key: [u8; 32],
    /// Of the ids as they lie in the file.
    pub(crate) ids: [u8; 32],
    /// Of a shard that is cut into windows.
    pub(crate) windows: Option<Windows>,
}

impl Header {
    pub(crate) fn id_bytes(&self) -> u32 {
        if self.vocab_size <= LARGEST_U16_VOCAB && self.windows.is_none() { 2 } else { 4 }
    }

    pub(crate) fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&SHARD);
        out.extend_from_slice(&if self.windows.is_some() { WINDOWS } else { TEXT }.to_le_bytes());
        out.extend_from_slice(&self.id_bytes().to_le_bytes());
        for number in [self.tokens, self.bytes, self.documents, u64::from(self.vocab_size)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.ids);
        if let Some(windows) = &self.windows {
            for number in [windows.window, windows.targets, windows.cut, windows.begins] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out.resize(SEAL_AT, 0);
        let seal = Sha256::digest(&out);
        let mut bytes = [0; HEADER_BYTES];
        bytes[..SEAL_AT].copy_from_slice(&out);
        bytes[SEAL_AT..].copy_from_slice(&seal);
        bytes
    }

    /// Reads a header; says what is wrong with it otherwise.
    pub(crate) fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err(format!("found {} bytes, expected a header of {HEADER_BYTES}", bytes.len()));
        };
        if bytes[..8] != SHARD {
            return Err("found other bytes at the start, expected a symlm shard".into());
        }
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let hash_at = |at: usize| -> [u8; 32] { std::array::from_fn(|i| bytes[at + i]) };
        let version = u32_at(8);
        if ![TEXT, WINDOWS].contains(&version) {
            return Err(format!("found shard version {version}, expected {TEXT} or {WINDOWS}"));
        }
        if Sha256::digest(&bytes[..SEAL_AT])[..] != bytes[SEAL_AT..] {
            return Err("the header is damaged".into());
        }
        let vocab = u64_at(40);
        let windows = Windows { window: u64_at(112), targets: u64_at(120), cut: u64_at(128), begins: u64_at(136) };
        let header = Self {
            tokens: u64_at(16),
            bytes: u64_at(24),
            documents: u64_at(32),
            vocab_size: u32::try_from(vocab).map_err(|_| format!("found vocabulary size {vocab}"))?,
            key: hash_at(48),
            ids: hash_at(80),
            windows: (version == WINDOWS).then_some(windows),
        };
        if u32_at(12) != header.id_bytes() {
            return Err(format!("found ids of {} bytes, expected {}", u32_at(12), header.id_bytes()));
        }
        if header.windows.is_some() && windows.window < 2 {
            return Err(format!("found windows of {} ids, expected at least 2", windows.window));
        }
        Ok(header)
    }
}
