//! What the targets share: files in memory, and what an error may look like.

use std::path::PathBuf;
use std::sync::OnceLock;

use symlm_core::data::Corpus;
use symlm_core::{Error, ErrorKind};

/// A file on the memory file system, its own for each process and name, with the bytes given.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let base = PathBuf::from("/dev/shm");
        let base = if base.is_dir() { base } else { std::env::temp_dir() };
        let folder = base.join(format!("symlm-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the files");
        folder
    });
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file for the target");
    path
}

/// The text of a file of this name and these bytes; `None` if it is refused, by an error as it should be.
pub fn read(name: &str, bytes: &[u8]) -> Option<String> {
    let path = file(name, bytes);
    let mut text = String::new();
    let outcome = Corpus::open(&[&path], "text").and_then(|corpus| {
        corpus.read(&mut |piece, _, _| {
            text.push_str(piece);
            Ok(())
        })
    });
    match outcome {
        Ok(()) => Some(text),
        Err(error) => {
            check(&error, &path);
            None
        }
    }
}

/// An error about a file is of the kind `Data`, on one line, short, and names the file. What begins like a table is not
/// the fault of the file: the core alone reads none.
pub fn check(error: &Error, path: &std::path::Path) {
    let table = error.kind == ErrorKind::User && error.message.contains("only symlm in Python reads");
    assert!(table || error.kind == ErrorKind::Data, "{error}");
    assert!(error.message.len() < 2000 && !error.message.contains('\n'), "{error}");
    assert!(error.message.contains(path.to_str().expect("an ASCII name")), "{error}");
}

/// Reads all conversations of a corpus of these.
///
/// # Errors
/// What is wrong with one of them.
pub fn conversations(corpus: &Corpus) -> symlm_core::Result<()> {
    let mut conversations = corpus.conversations()?;
    while conversations.next_conversation()?.is_some() {}
    Ok(())
}
