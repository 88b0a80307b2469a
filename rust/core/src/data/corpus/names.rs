//! What the name of a file says.

use std::ffi::OsStr;
use std::path::Path;

use super::format::Format;
use super::packing::Packing;

/// Extensions that are taken from folders; each also with that of a compression behind it.
const EXTENSIONS: [&str; 4] = ["txt", "md", "py", "jsonl"];
/// These too, where what the file holds is text: most files of JSON are settings, and many tables are figures.
const PERHAPS: [&str; 4] = ["json", "csv", "tsv", "parquet"];
/// Extensions of what is not text although it is written in characters.
const MARKUP: [&str; 3] = ["html", "htm", "xhtml"];

/// The extension in lower case, and the compression whose extension stood behind it.
pub(super) fn extension(path: &Path) -> (String, Packing) {
    let lower = |part: Option<&OsStr>| part.map_or_else(String::new, |e| e.to_string_lossy().to_lowercase());
    let outer = lower(path.extension());
    let packing = Packing::of_extension(&outer);
    if packing.is_packed() {
        let inner = path.file_stem().map(Path::new).and_then(Path::extension);
        (lower(inner), packing)
    } else {
        (outer, packing)
    }
}

/// How a file with this extension is divided.
pub(super) fn format(extension: &str) -> Format {
    match extension {
        "jsonl" | "json" | "ndjson" => Format::Json,
        "csv" => Format::Csv,
        "tsv" => Format::Tsv,
        "parquet" | "arrow" => Format::Table,
        _ => Format::Text,
    }
}

/// Of what a file holds, so many bytes are read to tell whether symlm wrote it: the metadata of a GGUF file begin
/// within them.
pub(super) const LOOK_BYTES: usize = 64 * 1024;

/// Whether a folder is searched for files of this name.
pub(super) fn is_text_name(path: &Path) -> bool {
    EXTENSIONS.contains(&extension(path).0.as_str())
}

/// Whether a folder is searched for files of this name, which are taken if they hold text.
pub(super) fn is_perhaps_text(path: &Path) -> bool {
    PERHAPS.contains(&extension(path).0.as_str())
}

/// Whether a file is called like one of HTML.
pub(super) fn is_markup(extension: &str) -> bool {
    MARKUP.contains(&extension)
}

/// Whether a search passes a name over.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}
