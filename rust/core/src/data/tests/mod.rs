//! Tests of the modules together.

mod corpus;
mod csv;
mod documents;
mod examples;
mod gzip;
mod hostile;
mod json;
mod library;
mod own;
mod packing;
mod pair;
mod shards;
mod threads;
mod tokenizer;

use std::path::{Path, PathBuf};

use super::pretoken::PieceSize;
use super::*;
use crate::error::Result;

/// A folder with the files given.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
}

fn open(path: &Path) -> Result<Corpus> {
    Corpus::open(&[path.display().to_string()], "text")
}

fn quiet() -> impl FnMut(u64, u64) -> Result<()> {
    |_, _| Ok(())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// All documents of a corpus.
fn documents(corpus: &Corpus) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut take = |text: &str, first, _| {
        if first {
            all.push(text.to_owned());
        } else {
            all.last_mut().unwrap().push_str(text);
        }
        Ok(())
    };
    corpus.read(&mut take).unwrap();
    all
}

/// Some English-looking text, other for every seed.
fn text(seed: u64, words: usize) -> String {
    let stock = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "looked",
        "at",
        "rainy",
        "windows",
        "don't",
        "42",
        "it's",
        "quickly",
        "yesterday",
        "nobody",
        "question",
        "garden",
        "1984",
        "Émile",
        "bread",
    ];
    let mut state = seed;
    let mut out = String::new();
    for i in 0..words {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.push_str(stock[(state >> 33) as usize % stock.len()]);
        out.push_str(if i % 11 == 10 { ".\r\n" } else { " " });
    }
    out
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A small tokenizer.
fn tokenizer() -> Tokenizer {
    let files = folder(&[("a.txt", text(1, 4000).as_bytes())]);
    open(files.path()).unwrap().train_tokenizer(300, 2, &mut quiet()).unwrap()
}
