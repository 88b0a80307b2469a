//! What the name of a file says.

use std::ffi::OsStr;
use std::path::Path;

/// Extensions that are taken from folders; each also with `.gz` behind it.
const EXTENSIONS: [&str; 4] = ["txt", "md", "py", "jsonl"];
/// This one too, where what the file holds is text: most such files are settings.
pub(super) const JSON: &str = "json";
/// Extensions of files that hold JSON.
const JSON_EXTENSIONS: [&str; 3] = ["jsonl", JSON, "ndjson"];

/// The extension in lower case, and whether `.gz` stood behind it.
pub(super) fn extension(path: &Path) -> (String, bool) {
    let lower = |part: Option<&OsStr>| part.map_or_else(String::new, |e| e.to_string_lossy().to_lowercase());
    let outer = lower(path.extension());
    if outer == "gz" {
        let inner = path.file_stem().map(Path::new).and_then(Path::extension);
        (lower(inner), true)
    } else {
        (outer, false)
    }
}

/// Of what a file holds, so many bytes are read to tell whether symlm wrote it: the metadata of a GGUF file begin
/// within them.
pub(super) const LOOK_BYTES: usize = 64 * 1024;

/// Whether a folder is searched for files of this name.
pub(super) fn is_text_name(path: &Path) -> bool {
    EXTENSIONS.contains(&extension(path).0.as_str())
}

/// Whether a file is called like JSON of texts.
pub(super) fn is_json(extension: &str) -> bool {
    JSON_EXTENSIONS.contains(&extension)
}

/// Whether a search passes a name over.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}
