//! Bounds of a vocabulary, and how its tokens are written down.

pub use crate::limits::{MAX_VOCAB, MIN_VOCAB};

/// The token between documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// GPT-2's printable stand-in for every byte: itself where it is printable, else the next unused one from U+0100.
pub(crate) fn byte_chars() -> [char; 256] {
    let mut unused = (0x100..).filter_map(char::from_u32);
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        _ => unused.next().unwrap_or('\u{fffd}'),
    })
}
