//! The kinds of compression beside gzip: what was packed comes back, and damage is an error.

use std::io::Write;

use super::*;

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As `xz -0` packs "some text, some text, some text".
const XZ: &[u8] = &[
    0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x0c, 0x00, 0x00,
    0x00, 0x8f, 0x98, 0x41, 0x9c, 0xe0, 0x00, 0x1e, 0x00, 0x12, 0x5d, 0x00, 0x39, 0x9b, 0xc9, 0xf2, 0xe7, 0x50, 0xb8,
    0xc5, 0xe2, 0x5c, 0xc2, 0xe0, 0x63, 0x65, 0x7a, 0x45, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0xd4, 0x1a, 0x6a, 0x4f,
    0xe4, 0xc7, 0x7c, 0x00, 0x01, 0x2e, 0x1f, 0xf2, 0xb1, 0x89, 0xa6, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00,
    0x00, 0x04, 0x59, 0x5a,
];
const XZ_TEXT: &[u8] = b"some text, some text, some text";

fn read(name: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let files = folder(&[(name, bytes)]);
    let corpus = open(&files.path().join(name))?;
    corpus.read(&mut |_, _, _| Ok(()))?;
    Ok(documents(&corpus))
}

#[test]
fn streams_one_behind_the_other_and_by_content() {
    let kinds: [(&str, Vec<u8>); 3] = [("zst", zstd(XZ_TEXT)), ("xz", XZ.to_vec()), ("bz2", bzip2(XZ_TEXT))];
    let text = String::from_utf8(XZ_TEXT.to_vec()).unwrap();
    for (extension, packed) in &kinds {
        for name in [format!("a.txt.{extension}"), "a.txt".into(), "a.txt.gz".into(), "a".into()] {
            assert_eq!(read(&name, packed).unwrap().concat(), text, "{name}");
        }
        let twice = [&packed[..], packed].concat();
        assert_eq!(read(&format!("a.txt.{extension}"), &twice).unwrap(), [text.repeat(2)]);
        let error = read(&format!("a.txt.{extension}"), b"plain text").unwrap_err();
        assert!(error.message.contains("which the name promises") && error.hint.unwrap().contains(extension));
    }
    let skipped = [&b"\x50\x2a\x4d\x18\x04\0\0\0\x01\x02\x03\x04"[..], &kinds[0].1].concat();
    assert_eq!(read("a.txt.zst", &skipped).unwrap(), [text]);
}

#[test]
fn anything_short_or_behind_is_an_error() {
    for (extension, packed) in [("zst", zstd(XZ_TEXT)), ("xz", XZ.to_vec()), ("bz2", bzip2(XZ_TEXT))] {
        let name = format!("a.txt.{extension}");
        for cut in 0..packed.len() {
            let error = read(&name, &packed[..cut]).unwrap_err();
            assert!(error.message.contains("damaged or truncated"), "{extension} {cut}: {error}");
        }
        for tail in [&b"garbage"[..], &packed[..packed.len() - 1]] {
            let error = read(&name, &[&packed[..], tail].concat()).unwrap_err();
            assert!(error.message.contains("damaged or truncated"), "{extension}: {error}");
        }
        let mut wrong = packed.clone();
        let at = wrong.len() / 2;
        wrong[at] ^= 0x55;
        // Zstandard packs without a sum unless it is asked for one.
        if extension != "zst" {
            assert!(read(&name, &wrong).is_err(), "{extension}");
        }
    }
}

#[test]
fn bombs_stop_early() {
    let block = vec![b'x'; 1 << 20];
    for (extension, packed) in [("zst", zstd(&block)), ("bz2", bzip2(&block))] {
        let error = read(&format!("a.txt.{extension}"), &packed.repeat(70)).unwrap_err();
        assert!(error.message.contains("unpacks to more than 200 times its size"), "{error}");
    }
}

#[test]
fn what_takes_too_much_memory_is_refused_before() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.write_all(text(1, 100_000).as_bytes()).unwrap();
    let error = read("a.txt.zst", &encoder.finish().unwrap()).unwrap_err();
    assert!(error.message.contains("takes more than 128 MiB of memory"), "{error}");
    assert!(error.hint.unwrap().contains("zstd -d --long=31"));
}

#[test]
fn html_is_refused_and_a_text_about_it_is_not() {
    for (name, bytes) in [
        ("a.txt", &b"\xef\xbb\xbf \n<!DOCTYPE html>\n<p>"[..]),
        ("a.md", b"<html lang=\"en\">"),
        ("a.txt", b"<?xml version=\"1.0\"?>\n<html>"),
        ("a.html", b"<p>a part of a page</p>"),
        ("a.txt.gz", &gzip(b"<!doctype HTML><title>x")),
    ] {
        let error = read(name, bytes).unwrap_err();
        assert!(error.message.contains("found HTML, expected plain text"), "{error}");
        assert!(error.hint.unwrap().contains("pandoc"));
    }
    assert_eq!(read("a.txt", b"<htmlx> is none").unwrap().len(), 1);
    assert_eq!(read("a.jsonl", b"{\"text\": \"<html>\"}").unwrap(), ["<html>"]);
    assert_eq!(read("a.txt", b"%PDF-1.7 begins a PDF").unwrap().len(), 1);
}

#[test]
fn fields_inside_of_others() {
    let read = |text: &str, field: &str| {
        let files = folder(&[("a.jsonl", text.as_bytes())]);
        let corpus = Corpus::open(&[files.path().join("a.jsonl")], field)?;
        corpus.read(&mut |_, _, _| Ok(()))?;
        Ok::<_, crate::Error>(documents(&corpus))
    };
    let text = "{\"a\": {\"x\": 1, \"b\": {\"c\": \"1\"}}}\n{\"a\": {\"b.c\": \"2\"}}\n{\"a.b\": {\"c\": \"3\"}}\n\
                {\"a\": {\"b\": {\"c\": \"0\"}}, \"a.b.c\": \"4\"}\n{\"a.b.c\": \"5\", \"a\": {\"b\": {\"c\": \"0\"}}}";
    assert_eq!(read(text, "a.b.c").unwrap(), ["1", "2", "3", "4", "5"]);
    for line in ["{\"a\": [1]}", "{\"a\": {\"b\": 1}}", "{\"a\": null, \"x\": 1}"] {
        let error = read(line, "a.b.c").unwrap_err();
        assert!(error.message.contains("found fields \"a\""), "{error}");
    }
    assert!(read("{\"a\": {\"b\": 7}}", "a.b").unwrap_err().message.contains("found a number in field \"a.b\""));
    // One half in the field, another that is not read.
    let files = folder(&[("a.jsonl", b"{\"a\": {\"b\": \"\\ud800\"}, \"c\": \"\\ud800\"}")]);
    let corpus = Corpus::open(&[files.path().join("a.jsonl")], "a.b").unwrap();
    assert_eq!((documents(&corpus), corpus.halves()), (vec!["\u{fffd}".to_owned()], 1));
}

#[test]
fn documents_without_text_are_counted() {
    let files = folder(&[
        ("a.txt", b""),
        ("b.jsonl", b"{\"text\": \"\"}\n{\"text\": \"x\"}\n{\"text\": \"\"}"),
        ("c.csv", b"text\n\"\"\ny\n"),
    ]);
    let corpus = open(files.path()).unwrap();
    assert_eq!(documents(&corpus), ["x", "y"]);
    assert_eq!(corpus.empty(), 4);
}

#[test]
fn a_folder_takes_tables_of_text_and_tells_of_others() {
    let files = folder(&[
        ("a.csv", b"text\na\n"),
        ("b.csv", b"x,y\n1,2\n"),
        ("c.tsv", b"text\tn\nc\t1\n"),
        ("d.txt.zst", &zstd(b"d")),
    ]);
    let corpus = open(files.path()).unwrap();
    assert_eq!(documents(&corpus), ["a", "c", "d"]);
    let note = corpus.note().unwrap();
    assert!(note.contains("left out 1 table without text or examples: ") && note.ends_with("b.csv"), "{note}");
}
