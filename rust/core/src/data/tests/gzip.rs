//! Compressed files as tools make them, and files that are something else than their names say.

use super::*;

fn one(name: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let files = folder(&[(name, bytes)]);
    let corpus = open(&files.path().join(name))?;
    corpus.read(&mut |_, _, _| Ok(()))?;
    Ok(documents(&corpus))
}

#[test]
fn zeros_behind_the_last_member_are_padding() {
    let whole = gzip(b"some text");
    for padding in [1, 10, 511, 512, 10_240, 1_000_000] {
        assert_eq!(one("a.txt.gz", &[&whole[..], &vec![0; padding]].concat()).unwrap(), ["some text"]);
    }
}

#[test]
fn members_without_text_and_with_extra_fields_as_of_bgzip() {
    let block = |bytes: &[u8]| {
        let mut encoder =
            flate2::GzBuilder::new().extra(*b"BC\x02\0\x1b\0").write(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let packed = [block(b"{\"text\": \"one\"}\n{\"te"), block(b"xt\": \"two\"}\n"), block(b"")].concat();
    assert_eq!(one("a.jsonl.gz", &packed).unwrap(), ["one", "two"]);
    assert_eq!(one("a.txt.gz", &[gzip(b""), gzip(b"x"), gzip(b"")].concat()).unwrap(), ["x"]);
}

#[test]
fn what_stands_behind_the_members_is_an_error_and_no_check_is_named_that_passes() {
    let error = one("a.txt.gz", &[&gzip(b"text")[..], b"garbage"].concat()).unwrap_err();
    assert!(error.message.contains("not gzip data behind the last member"), "{error}");
    assert!(!error.hint.unwrap().contains("gzip -t"));
    let whole = gzip(text(3, 5000).as_bytes());
    let error = one("a.txt.gz", &whole[..whole.len() / 2]).unwrap_err();
    assert!(error.hint.unwrap().contains("gzip -t"));
}

#[test]
fn the_content_says_what_is_compressed() {
    assert_eq!(one("a.txt", &gzip(b"text")).unwrap(), ["text"]);
    assert_eq!(one("a.jsonl", &gzip(b"{\"text\": \"text\"}")).unwrap(), ["text"]);
    let error = one("a.txt.gz", b"plain text").unwrap_err();
    assert!(error.message.contains("found no gzip data, which the name promises"), "{error}");
    assert!(error.hint.unwrap().contains("rename it"));
}

#[test]
fn other_formats_are_named_with_the_way_to_unpack_them() {
    for (name, bytes, what, how) in [
        ("a.zip", &b"PK\x03\x04\x14\0"[..], "a zip archive", "unzip"),
        ("a.txt.gz", &gzip(&gzip(b"text")), "gzip data within gzip data", "gzip -dc FILE > NEW"),
        ("a.txt.gz", &gzip(b"PAR1\xff\0"), "a Parquet table in compressed data", "compressed inside"),
        ("a.txt", b"%PDF-1.7\nplain", "a PDF", "pdftotext"),
        ("a.gz", &gzip(&[&[b'x'; 257][..], b"ustar\x0000", &[0; 300]].concat()), "a tar archive", "tar -xf"),
    ] {
        let error = one(name, bytes).unwrap_err();
        assert!(error.message.contains(&format!("{name}: found {what}, expected text")), "{error}");
        assert!(error.hint.unwrap().contains(how));
    }
}

#[test]
fn pointers_of_git_lfs_are_named() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    for name in ["a.txt", "a.jsonl", "a.json", "a.txt.gz"] {
        let error = one(name, pointer).unwrap_err();
        assert!(error.message.contains("found a Git LFS pointer"), "{error}");
        assert!(error.hint.unwrap().contains("git lfs pull"));
    }
    let files = folder(&[("tokenizer.json", pointer)]);
    let error = Tokenizer::from_file(&files.path().join("tokenizer.json")).unwrap_err();
    assert!(error.message.contains("found a Git LFS pointer") && error.hint.unwrap().contains("git lfs pull"));
}
