//! Files that were made to do harm.

use super::*;
use crate::ErrorKind;

/// The error of opening or reading one file.
fn error(name: &str, bytes: &[u8]) -> crate::Error {
    let folder = folder(&[(name, bytes)]);
    let path = folder.path().join(name);
    let error = open(&path).and_then(|corpus| corpus.read(&mut |_, _, _| Ok(()))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.message.contains(&path.display().to_string()), "{error}");
    assert!(!error.message.contains('\n') && error.message.len() < 1000, "{error}");
    error
}

fn tokenizer_error(json: &str) -> String {
    let error = Tokenizer::from_json(json.into(), "NAME").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.message.starts_with("NAME: ") && error.message.len() < 1000, "{error}");
    error.message
}

/// Compressed as fast as possible.
fn packed(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_gzip_bomb_stops_early() {
    // As members that are compressed once.
    let bomb = packed(&vec![b'x'; 1 << 20]).repeat(65);
    let found = error("a.txt.gz", &bomb);
    assert!(found.message.contains("unpacks to more than 200 times its size"), "{found}");
    let files = folder(&[("a.txt.gz", &packed(&vec![b'x'; 1 << 20]).repeat(3))]);
    assert_eq!(documents(&open(files.path()).unwrap())[0].len(), 3 << 20);
}

#[test]
fn gzip_data_with_an_end_that_is_none() {
    let whole = gzip(b"some text, some text, some text");
    for cut in 1..whole.len() {
        let found = error("a.gz", &whole[..cut]);
        assert!(found.message.contains("damaged or truncated gzip data"), "{cut}: {found}");
    }
    for tail in [&b"garbage"[..], b"\0\0garbage", &whole[..7]] {
        assert!(error("a.gz", &[&whole[..], tail].concat()).message.contains("damaged or truncated gzip data"));
    }
    let mut wrong = whole.clone();
    let at = wrong.len() - 6;
    wrong[at] ^= 1;
    assert!(error("a.gz", &wrong).message.contains("damaged or truncated gzip data"));
    assert!(error("a.gz", b"").message.contains("damaged or truncated gzip data"));
    // A header whose name never ends.
    let endless = [&b"\x1f\x8b\x08\x08\0\0\0\0\0\0"[..], &vec![b'n'; 1 << 20]].concat();
    assert!(error("a.gz", &endless).message.contains("damaged or truncated gzip data"));
}

#[test]
fn a_line_of_json_has_a_length() {
    let long = |bytes: usize| format!("{{\"text\": \"{}\"}}", "x".repeat(bytes));
    let files = folder(&[("a.jsonl", long(2 << 20).as_bytes())]);
    assert_eq!(documents(&open(files.path()).unwrap())[0].len(), 2 << 20);
    let found = error("a.jsonl", long(64 << 20).as_bytes());
    assert!(found.message.contains("line 1 is longer than 64 MiB"), "{found}");
    assert!(found.hint.unwrap().contains("one document on each line"));
    let found = error("a.json", format!("[{{\"text\": \"\"}}, {}]", long(64 << 20)).as_bytes());
    assert!(found.message.contains("element 2 (line 1) is longer than 64 MiB"), "{found}");
}

#[test]
fn fields_of_other_kinds_are_skipped_without_being_stored() {
    let deep = format!("{{\"x\": {}{}, \"text\": \"a\"}}", "[".repeat(5000), "]".repeat(5000));
    let files = folder(&[("a.jsonl", deep.as_bytes())]);
    assert_eq!(documents(&open(files.path()).unwrap()), ["a"]);
    let list = format!("{{\"text\": [{}0]}}", "[],".repeat(1 << 20));
    assert!(error("a.jsonl", list.as_bytes()).message.contains("found a list in field \"text\""));
    let object = "{\"text\": {\"a\": {\"b\": 1e999}, \"c\": [{}]}}";
    assert!(error("a.jsonl", object.as_bytes()).message.contains("found an object in field"));
}

#[test]
fn a_tokenizer_has_a_size_and_a_depth() {
    assert!(tokenizer_error(&"[".repeat(1000)).contains("not a tokenizer.json"));
    assert!(tokenizer_error(&format!("{{\"model\": {}", "{\"model\":".repeat(1000))).contains("not a tokenizer.json"));
    let with = |model: &str| {
        format!(
            "{{\"pre_tokenizer\": {{\"type\": \"ByteLevel\", \"add_prefix_space\": false}}, \"model\": {{{model}}}}}"
        )
    };
    let many = format!("\"vocab\": {{}}, \"merges\": [{}\"a b\"]", "\"a b\",".repeat(MAX_VOCAB));
    assert!(tokenizer_error(&with(&many)).contains("a list of more than 1048576 elements"));
    let tokens: String = (0..MAX_VOCAB).map(|i| format!("\"{i}\":0,")).collect();
    let many = format!("\"vocab\": {{{tokens}\"x\":0}}, \"merges\": []");
    assert!(tokenizer_error(&with(&many)).contains("a vocabulary of more than 1048576 tokens"));
    for merges in ["[1]", "[[\"a\"]]", "[[\"a\", \"b\", \"c\"]]", "{}", "[[[]]]", "null"] {
        let found = tokenizer_error(&with(&format!("\"vocab\": {{}}, \"merges\": {merges}")));
        assert!(found.contains("not a tokenizer.json"), "{found}");
    }
    // A message does not repeat what may be megabytes.
    tokenizer_error(&with(&format!("\"type\": \"{}\"", "x".repeat(1 << 20))));
    tokenizer_error(&with(&format!("\"vocab\": {{\"a\": \"{}\"}}, \"merges\": []", "x".repeat(1 << 20))));
}

#[test]
fn no_merge_makes_the_token_between_documents() {
    let mut json: serde_json::Value = serde_json::from_slice(tokenizer().json()).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    for token in ["<|", "endoftext|>"] {
        let id = vocab.len();
        vocab.insert(token.into(), id.into());
    }
    json["model"]["merges"] = serde_json::json!([]);
    let text = "a <|endoftext|> b";
    let fine = Tokenizer::from_json(json.to_string().into(), "NAME").unwrap();
    assert_eq!(fine.decode(&fine.encode(text).unwrap()).unwrap(), text);
    json["model"]["merges"] = serde_json::json!([["<|", "endoftext|>"]]);
    assert!(tokenizer_error(&json.to_string()).contains("expected no merge that makes or takes it"));
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
    let folder = folder(&[]);
    let path = folder.path().join("pipe");
    let name = std::ffi::CString::new(path.display().to_string()).unwrap();
    // SAFETY: the name ends with a zero and lives through the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    for error in [Tokenizer::from_file(&path).unwrap_err(), Shards::open(&path).unwrap_err()] {
        assert!(error.message.contains("found a pipe or a device, expected a file"), "{error}");
    }
}

#[test]
fn a_tokenizer_file_has_a_size() {
    let folder = folder(&[]);
    let path = folder.path().join("tokenizer.json");
    // Takes no place on the disk.
    std::fs::File::create(&path).unwrap().set_len(5 << 30).unwrap();
    let error = Tokenizer::from_file(&path).unwrap_err();
    assert!(error.message.contains("found 5368709120 bytes, expected a tokenizer.json of at most 256 MiB"), "{error}");
}

#[test]
fn bytes_that_only_begin_like_a_stream_of_arrow_are_not_a_table() {
    for length in [-1_i32, 0, 12] {
        let bytes = [&[0xff; 4], &length.to_le_bytes()[..], b"{\"text\": \"a\"}\n"].concat();
        let found = error("a.jsonl", &bytes);
        assert!(!found.message.contains("Arrow"), "{found}");
    }
}
