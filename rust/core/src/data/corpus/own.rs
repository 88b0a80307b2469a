//! What symlm writes itself, which is never taken for text where a folder or a pattern is searched.
//!
//! Names and fields are those of the Python modules that write the files; `tests/text/test_own_output.py` compares them.

use std::ffi::OsStr;
use std::path::Path;

use super::names::LOOK_BYTES;
use crate::system::files::{entries, exists, head, is_file};

const CONFIG_MARK: &str = "# symlm training configuration";
const ENVIRONMENT_MARK: &str = "\"threads_rule\"";
/// Folders: one is symlm's if it has all the names of a line, and the mark is near the beginning of the first. Other
/// programs give their files the same names.
pub const OWN_FOLDERS: [(&str, &[&str], &str); 7] = [
    // Either file may have been edited.
    ("run", &["config.toml", "environment.json"], CONFIG_MARK),
    ("run", &["config.toml", "checkpoints"], CONFIG_MARK),
    ("run", &["environment.json", "config.toml"], ENVIRONMENT_MARK),
    ("run", &["environment.json", "checkpoints"], ENVIRONMENT_MARK),
    ("checkpoint", &["trainer_state.json", "MANIFEST.json"], "\"engine\""),
    ("export", &["symlm.json", "config.json"], ""),
    ("ollama", &["model.gguf", "Modelfile"], "symlm."),
];
/// Of a run folder that is locked, but not a run yet.
pub const LOCK: &str = ".lock";
/// What such a folder may hold besides.
pub const BEGUN: [&str; 10] = [
    "tokenizer.json",
    "environment.json",
    "checkpoints",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "generation_config.json",
];
/// Names that begin so are of files that were not finished.
pub const UNFINISHED: [&str; 2] = [".tmp-", ".tokenizer-"];
/// Names that begin so are of files for TensorBoard.
pub const EVENTS: &str = "events.out.tfevents.";
/// What a file of token ids begins with.
pub(crate) const SHARD: [u8; 8] = *b"symlmids";
/// Files of JSON: one is symlm's if the names of its first object's fields are those of a line, in this order.
pub const OWN_FIELDS: [(&str, &[&str]); 5] = [
    ("eval --per-document --out", &["document", "text", "tokens", "text_bytes", "loss", "bits_per_byte"]),
    ("eval --choices --out", &["line", "answer", "log_likelihoods", "tokens", "picks", "cut"]),
    ("train --trace", &["traceEvents", "displayTimeUnit"]),
    (
        "tokenizer train",
        &[
            "version",
            "truncation",
            "padding",
            "added_tokens",
            "normalizer",
            "pre_tokenizer",
            "post_processor",
            "decoder",
            "model",
        ],
    ),
    (
        "bench",
        &[
            "started",
            "command",
            "commit",
            "machine",
            "complete",
            "model",
            "parameters",
            "batch_size",
            "threads",
            "threads_rule",
            "rounds",
        ],
    ),
];

/// Whether a folder is a run (begun or whole), a checkpoint or an export.
pub(crate) fn is_own_folder(folder: &Path) -> bool {
    let has = |name: &&str| exists(&folder.join(name));
    OWN_FOLDERS.iter().any(|(_, names, mark)| names.iter().all(has) && is_marked(&folder.join(names[0]), mark))
        || (has(&LOCK) && is_begun(folder))
}

/// Whether the first bytes of a file hold a mark.
fn is_marked(path: &Path, mark: &str) -> bool {
    // A pipe would be waited for.
    let found = |head: Vec<u8>| memchr::memmem::find(&head, mark.as_bytes()).is_some();
    mark.is_empty() || (is_file(path) && head(path, LOOK_BYTES).is_ok_and(found))
}

/// Whether a folder with a lock holds only what a run begins with.
fn is_begun(folder: &Path) -> bool {
    let known = |name: &OsStr| {
        let unfinished = |begin: &&str| name.as_encoded_bytes().starts_with(begin.as_bytes());
        name == LOCK || BEGUN.iter().any(|begun| name == *begun) || UNFINISHED.iter().any(unfinished)
    };
    entries(folder).is_ok_and(|mut entries| entries.all(|e| e.is_ok_and(|e| known(&e.file_name()))))
}

/// Whether a file is symlm's, by its name or its first bytes.
pub(crate) fn is_own_file(path: &Path, head: &[u8]) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let own_model = head.starts_with(b"GGUF") && memchr::memmem::find(head, b"symlm.").is_some();
    name.starts_with(EVENTS.as_bytes()) || head.starts_with(&SHARD) || own_model
}

/// Whether a file of JSON is symlm's, by the names of the first fields of its first object.
pub(crate) fn has_own_fields(names: &[(String, &str)]) -> bool {
    let same = |fields: &[&str]| {
        let begins = names.len() >= fields.len() && names.iter().zip(fields).all(|((name, _), field)| name == field);
        // The figures of a benchmark continue with what was measured.
        begins && (names.len() == fields.len() || fields[0] == "started")
    };
    OWN_FIELDS.iter().any(|(_, fields)| same(fields))
}
