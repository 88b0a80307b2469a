//! Any bytes as a text and as a file of JSON, of texts or of examples: an error that names the file, or the documents in
//! pieces that follow each other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use symlm_core::data::{Corpus, DataFormat, Interrupts};

/// What begins like one of these may be something else than a text.
const OTHERS: [&[u8]; 5] = [b"version https://git-lfs.github.com/spec/", b"%PDF-", b"<", b"PAR1", b"ARROW1"];

fn read(name: &str, data: &[u8], format: DataFormat) -> Option<Vec<String>> {
    let path = symlm_fuzz::file(name, data);
    let corpus = match Corpus::open_interruptible(&[&path], "text", format, Vec::new(), Interrupts::default()) {
        Ok(corpus) => corpus,
        Err(error) => {
            symlm_fuzz::check(&error, &path);
            return None;
        }
    };
    if corpus.chat().is_some() {
        if let Err(error) = symlm_fuzz::conversations(&corpus) {
            symlm_fuzz::check(&error, &path);
        }
        return None;
    }
    let mut documents: Vec<String> = Vec::new();
    let mut open = false;
    let outcome = corpus.read(&mut |text, first, last| {
        assert_eq!(first, !open);
        assert!(!text.is_empty());
        open = !last;
        if first {
            documents.push(String::new());
        }
        documents.last_mut().expect("begun").push_str(text);
        Ok(())
    });
    match outcome {
        Ok(()) => {
            assert!(!open);
            Some(documents)
        }
        Err(error) => {
            symlm_fuzz::check(&error, &path);
            None
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let expected = std::str::from_utf8(data).ok().filter(|text| !text.contains('\0'));
    let expected = expected.map(|text| text.strip_prefix('\u{feff}').unwrap_or(text)).filter(|_| !data.is_empty());
    let found = read("a.txt", data, DataFormat::Text).map(|documents| documents.concat());
    // A pointer of Git LFS, a PDF, a page and a table of some bytes begin like text, and are refused.
    let first = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(data).trim_ascii_start();
    let refused = found.is_none() && OTHERS.iter().any(|begin| first.starts_with(begin));
    assert!(refused || found.as_deref() == expected, "found {found:?}, expected {expected:?}");
    // Objects do not influence each other.
    for format in [DataFormat::Text, DataFormat::Completion] {
        if let Some(objects) = read("b.jsonl", data, format) {
            let twice = [data, b"\n", data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(data)].concat();
            assert_eq!(read("c.jsonl", &twice, format), Some([&objects[..], &objects[..]].concat()));
        }
    }
    // What a file is taken for is never a panic.
    let _ = read("d.jsonl", data, DataFormat::Auto);
});
