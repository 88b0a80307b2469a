//! How a file is compressed, and reading it unpacked up to a measure.

use std::io::{BufReader, Error, ErrorKind, Read};

use bzip2::bufread::MultiBzDecoder;
use lzma_rust2::XzReader;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::counted::Counted;
use super::gzip::Members;

/// Bytes that any compressed file may unpack to.
const UNPACKED_BYTES: u64 = 64 << 20;
/// Beyond that, so many for each byte on disk. Text has 2 to 20; what has more is nothing to learn from, but may fill
/// a disk: gzip goes up to 1,032, the others far beyond.
const UNPACKED_RATIO: u64 = 200;
/// Memory that unpacking may take, as a power of two: what `zstd -d` and `xz -9` take by themselves.
const WINDOW_LOG: u32 = 27;

/// A file that takes more memory to unpack than is given to it.
#[derive(Debug, thiserror::Error)]
#[error("unpacking it takes more than {} MiB of memory", (1_u64 << WINDOW_LOG) >> 20)]
pub(crate) struct Memory;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

type Kind = (Packing, &'static str, &'static [&'static str], &'static [u8], &'static str);
/// What is known of each kind: its name, extensions, first bytes, and the command that checks a file.
const KINDS: [Kind; 4] = [
    (Packing::Gzip, "gzip", &["gz"], b"\x1f\x8b", "gzip -t"),
    (Packing::Zstd, "zstd", &["zst", "zstd"], b"\x28\xb5\x2f\xfd", "zstd -t"),
    (Packing::Xz, "xz", &["xz"], b"\xfd7zXZ\0", "xz -t"),
    (Packing::Bzip2, "bzip2", &["bz2"], b"BZh", "bzip2 -t"),
];
/// What zstd says of a frame that needs more.
const ZSTD_MEMORY: &str = "too much memory";
/// Behind the first bytes of bzip2 and a digit stands the mark of a block, or of the end.
const BZIP2_MARKS: [&[u8]; 2] = [b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"];
/// Behind which so many bytes tell bzip2 from a text.
const BZIP2_HEAD: usize = 11;
/// A frame of zstd that is passed over, as `pzstd` begins its files: the first byte is 0x50 to 0x5f.
const ZSTD_SKIPPED: &[u8] = b"\x2a\x4d\x18";

impl Packing {
    /// By an extension in lower case.
    pub(super) fn of_extension(extension: &str) -> Self {
        let found = KINDS.iter().find(|(_, _, extensions, ..)| extensions.contains(&extension));
        found.map_or(Self::None, |(packing, ..)| *packing)
    }

    /// By the first bytes of a file. A text may begin like bzip2 data.
    pub(crate) fn of_head(head: &[u8]) -> Self {
        if head.first().is_some_and(|byte| (0x50..0x60).contains(byte))
            && head.get(1..).is_some_and(|rest| rest.starts_with(ZSTD_SKIPPED))
        {
            return Self::Zstd;
        }
        let found = KINDS.iter().find(|(_, _, _, magic, _)| head.starts_with(magic));
        match found.map(|(packing, ..)| *packing) {
            Some(Self::Bzip2) => {
                let marked = has_mark(head);
                let text = std::str::from_utf8(&head[..head.len().min(64)]);
                let binary = text.is_err_and(|e| e.error_len().is_some()) || head.contains(&0);
                if marked && binary { Self::Bzip2 } else { Self::None }
            }
            other => other.unwrap_or(Self::None),
        }
    }

    /// Whether a file that is cut off after `head` may have been packed so: it ends within what tells.
    pub(crate) fn may_begin(self, head: &[u8]) -> bool {
        let magic = KINDS.iter().find(|(packing, ..)| *packing == self).map_or(&b""[..], |(_, _, _, magic, _)| magic);
        let cut = head.len() < magic.len() && magic.starts_with(head);
        cut || self == Self::Bzip2 && head.starts_with(magic) && (head.len() < BZIP2_HEAD || has_mark(head))
    }

    pub(crate) fn is_packed(self) -> bool {
        self != Self::None
    }

    /// The byte of the compression in the key of the cache.
    pub(crate) fn key(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Zstd => 2,
            Self::Xz => 3,
            Self::Bzip2 => 4,
        }
    }

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        KINDS.iter().find(|(packing, ..)| *packing == self).map_or("no", |(_, name, ..)| name)
    }

    /// The command that finds what is wrong with a file.
    pub(crate) fn check(self) -> &'static str {
        KINDS.iter().find(|(packing, ..)| *packing == self).map_or("file", |(.., check)| check)
    }
}

/// Whether a file that begins like bzip2 data has the mark of a block, or of the end.
fn has_mark(head: &[u8]) -> bool {
    BZIP2_MARKS.iter().any(|mark| head.get(4..).is_some_and(|rest| rest.starts_with(mark)))
}

/// Whether a byte begins compressed data of some kind.
pub(crate) fn may_be_packed(first: Option<&u8>) -> bool {
    KINDS.iter().any(|(_, _, _, magic, _)| magic.first() == first)
        || first.is_some_and(|byte| (0x50..0x60).contains(byte))
}

/// Unpacks a file up to a measure.
pub(crate) struct Unpacked {
    decoder: Decoder,
    kind: Packing,
    bytes: u64,
}

impl std::fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacked").field("kind", &self.kind).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

enum Decoder {
    Gzip(Members),
    Zstd(ZstdDecoder<'static, BufReader<Counted>>),
    Xz(Box<XzReader<BufReader<Counted>>>),
    Bzip2(MultiBzDecoder<BufReader<Counted>>),
}

impl Unpacked {
    /// Of a file that is packed in some way.
    pub(crate) fn new(kind: Packing, packed: BufReader<Counted>) -> std::io::Result<Self> {
        let decoder = match kind {
            Packing::None => return Err(Error::new(ErrorKind::InvalidInput, "found a file that is not packed")),
            Packing::Gzip => Decoder::Gzip(Members::new(packed)),
            Packing::Zstd => {
                let mut decoder = ZstdDecoder::with_buffer(packed)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Decoder::Zstd(decoder)
            }
            Packing::Xz => Decoder::Xz(Box::new(XzReader::new_mem_limit(packed, true, 1 << (WINDOW_LOG - 10)))),
            Packing::Bzip2 => Decoder::Bzip2(MultiBzDecoder::new(packed)),
        };
        Ok(Self { decoder, kind, bytes: 0 })
    }

    /// The reader of the bytes on disk.
    pub(crate) fn packed(&self) -> &Counted {
        match &self.decoder {
            Decoder::Gzip(members) => members.packed(),
            Decoder::Zstd(decoder) => decoder.get_ref(),
            Decoder::Xz(reader) => reader.inner(),
            Decoder::Bzip2(decoder) => decoder.get_ref(),
        }
        .get_ref()
    }

    pub(crate) fn into_packed(self) -> Counted {
        match self.decoder {
            Decoder::Gzip(members) => members.into_packed(),
            Decoder::Zstd(decoder) => decoder.finish(),
            Decoder::Xz(reader) => reader.into_inner(),
            Decoder::Bzip2(decoder) => decoder.into_inner(),
        }
        .into_inner()
    }
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = match &mut self.decoder {
            Decoder::Gzip(members) => members.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
            Decoder::Xz(reader) => reader.read(buffer),
            Decoder::Bzip2(decoder) => decoder.read(buffer),
        };
        let n = read.map_err(|error| {
            let much = error.kind() == ErrorKind::OutOfMemory || error.to_string().contains(ZSTD_MEMORY);
            if much { Error::new(ErrorKind::OutOfMemory, Memory) } else { error }
        })?;
        if n == 0 && !buffer.is_empty() && self.bytes == 0 && self.packed().bytes() == 0 {
            // An empty file has no frame, which zstd does not mind.
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.bytes += n as u64;
        if self.bytes <= UNPACKED_BYTES || n == 0 {
            return Ok(n);
        }
        let packed = self.packed().bytes();
        if self.bytes / UNPACKED_RATIO > packed {
            let what = format!(
                "found {} data that unpacks to more than {UNPACKED_RATIO} times its size ({} MiB of {packed} bytes), \
                 expected text",
                self.kind.name(),
                self.bytes >> 20
            );
            return Err(Error::new(ErrorKind::FileTooLarge, what));
        }
        Ok(n)
    }
}
