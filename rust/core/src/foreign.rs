//! Files that are not what their place asks for, told by their first bytes.

/// So many bytes of a file suffice to tell.
pub(crate) const HEAD_BYTES: usize = 512;
/// What begins the file that Git LFS leaves in the place of another.
const LFS_BEGIN: &[u8] = b"version https://git-lfs.github.com/spec/";
const LFS_HASH: &[u8] = b"\noid ";

/// A file that Git LFS has left in the place of another.
#[derive(Debug, thiserror::Error)]
#[error("found a Git LFS pointer, expected the file that it stands for")]
pub(crate) struct LfsPointer;

impl LfsPointer {
    pub(crate) const HINT: &str = "git lfs pull fetches it";

    /// Whether a file that begins so is one.
    pub(crate) fn is(head: &[u8]) -> bool {
        head.starts_with(LFS_BEGIN) && head.windows(LFS_HASH.len()).any(|part| part == LFS_HASH)
    }
}

/// Beginnings of files that hold something else than text; what that is, and what to do about it.
const FOREIGN: [(&[u8], &str, &str); 9] = [
    (b"\x04\x22\x4d\x18", "lz4 data", "unpack it with lz4 -d, or pipe it in: lz4 -dc FILE | symlm .. -"),
    (b"\x1f\x9d", "data of compress", "unpack it with gzip -dk, or pipe it in: gzip -dc FILE | symlm .. -"),
    (b"PK\x03\x04", "a zip archive", "unpack it with unzip, and name the files in it"),
    (b"PK\x05\x06", "an empty zip archive", "leave it out"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with 7z x, and name the files in it"),
    (b"PAR1", "a Parquet table in compressed data", "unpack it: Parquet is compressed inside"),
    (b"%PDF-", "a PDF", PDF_HINT),
    (b"GGUF", "a GGUF model", "leave it out: it is a model, not a text"),
    (b"SQLite format 3\0", "a SQLite database", "write what you need of it as .jsonl"),
];
const PDF_HINT: &str = "take the text out of it, for example with pdftotext";
/// Of tar: the mark is in the middle of the first header.
const TAR: (usize, &[u8]) = (257, b"ustar");

/// What a file that begins so holds, if it is known and not text, and what to do about it. A text may begin with the
/// same letters.
pub(crate) fn foreign(head: &[u8]) -> Option<(&'static str, &'static str)> {
    if is_pdf(head) {
        return Some(("a PDF", PDF_HINT));
    }
    let is_text = std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true);
    if is_text && !head.contains(&0) {
        return None;
    }
    if head.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1)) {
        return Some(("a tar archive", "unpack it with tar -xf, and name the files in it"));
    }
    let found = FOREIGN.iter().find(|(begin, ..)| head.starts_with(begin));
    found.map(|&(_, what, hint)| (what, hint))
}

/// Whether a file begins like a PDF: a text about them hardly has a line that is only the version.
fn is_pdf(head: &[u8]) -> bool {
    let Some(rest) = head.strip_prefix(b"%PDF-") else { return false };
    matches!(rest, [b'1'..=b'2', b'.', b'0'..=b'9', b'\r' | b'\n', ..])
}

/// What a document of HTML begins with, in lower case.
const HTML: [&[u8]; 3] = [b"<!doctype html", b"<html>", b"<html "];

/// Whether a file begins like a document of HTML, perhaps behind a mark, blanks, or the first line of XML.
pub(crate) fn is_html(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let head = match head.strip_prefix(b"<?xml") {
        Some(rest) => {
            rest.iter().position(|&byte| byte == b'>').map_or(rest, |end| &rest[end + 1..]).trim_ascii_start()
        }
        None => head,
    };
    HTML.iter().any(|begin| head.len() >= begin.len() && head[..begin.len()].eq_ignore_ascii_case(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_files() {
        let tar = [&[b'x'; 257][..], b"ustar\x0000"].concat();
        for (head, expected) in [
            (&b"PK\x03\x04\x14\0"[..], Some("a zip archive")),
            (b"GGUF is a format of files", None),
            (b"GGUF\x03\0\0\0", Some("a GGUF model")),
            (&tar, Some("a tar archive")),
            (b"plain text", None),
            (b"", None),
        ] {
            assert_eq!(foreign(head).map(|(what, _)| what), expected);
        }
    }

    #[test]
    fn pointers_of_git_lfs() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        assert!(LfsPointer::is(pointer));
        assert!(!LfsPointer::is(b"version https://git-lfs.github.com/spec/v1 is the first line of a pointer"));
    }
}
