//! Examples of a prompt and a completion: lines, windows, held-out part, cache.

use super::*;
use crate::ErrorKind;
use crate::data::{CONTEXT, Shards};
use crate::system::interrupts::Interrupts;

const LINES: &[u8] = b"{\"prompt\": \"the cat\", \"completion\": \" sat on a mat\"}\n\n\
    {\"completion\": \" bread\", \"id\": 7, \"prompt\": \"garden and\"}\n{\"prompt\": \"\", \"completion\": \"nobody\"}\n";

fn open_as(path: &Path, format: DataFormat) -> Result<Corpus> {
    Corpus::open_interruptible(&[path.display().to_string()], "text", format, Vec::new(), Interrupts::default())
}

fn examples(bytes: &[u8]) -> (tempfile::TempDir, Corpus) {
    let files = folder(&[("a.jsonl", bytes)]);
    let corpus = open_as(files.path(), DataFormat::Auto).unwrap();
    (files, corpus)
}

fn words(shards: &Shards) -> Vec<u32> {
    let mut words = vec![0; shards.tokens() as usize];
    shards.copy_words(0, &mut words).unwrap();
    words
}

/// The words of an example that fits.
fn example(tokenizer: &Tokenizer, prompt: &str, completion: &str) -> Vec<u32> {
    let mut ids: Vec<u32> = tokenizer.encode(prompt).unwrap().iter().map(|id| id | CONTEXT).collect();
    if ids.is_empty() {
        ids.push(CONTEXT);
    }
    ids.extend(tokenizer.encode(completion).unwrap());
    ids.push(0);
    ids
}

#[test]
fn whole_examples_lie_in_windows_of_their_own() {
    let (tokenizer, cache) = (tokenizer(), folder(&[]));
    let (_files, corpus) = examples(LINES);
    assert!(corpus.has_examples());
    assert_eq!(documents(&corpus), ["the cat sat on a mat", "garden and bread", "nobody"]);
    let parts = [("the cat", " sat on a mat"), ("garden and", " bread"), ("", "nobody")];
    let parts = parts.map(|(prompt, completion)| example(&tokenizer, prompt, completion));
    // Room for the first two, not for the third.
    let window = parts[0].len() + parts[1].len() + 1;
    let (train, val) = corpus.prepare(&tokenizer, cache.path(), 0.0, window - 1, 2, &mut quiet()).unwrap();
    let mut expected = [&parts[0][..], &parts[1]].concat();
    expected.push(CONTEXT);
    expected.extend(&parts[2]);
    expected.resize(2 * window, CONTEXT);
    assert!(val.is_none());
    assert_eq!(words(&train), expected);
    assert_eq!((train.window(), train.documents(), train.cut()), (Some(window as u64), 3, 0));
    assert_eq!(train.bytes(), 13 + 6 + 6);
    assert_eq!(train.targets(), expected.iter().filter(|&word| word & CONTEXT == 0).count() as u64);
    let mut ids = vec![0; expected.len()];
    train.copy_ids(0, &mut ids).unwrap();
    assert!(ids.iter().zip(&expected).all(|(id, word)| *id == word & !CONTEXT));
}

#[test]
fn bytes_are_those_of_what_is_left_of_a_completion() {
    let (tokenizer, cache) = (tokenizer(), folder(&[]));
    let (_files, corpus) = examples(LINES);
    let (train, _) = corpus.prepare(&tokenizer, cache.path(), 0.0, 2, 1, &mut quiet()).unwrap();
    // A word before the completion and two of it, which is all there is room for; the last line fits with its end.
    assert_eq!((train.tokens(), train.targets(), train.cut()), (9, 6, 2));
    let completions: Vec<u32> = words(&train).into_iter().filter(|word| word & CONTEXT == 0 && *word != 0).collect();
    let bytes = tokenizer.decode_bytes(&completions).unwrap().len();
    assert_eq!(train.bytes(), bytes as u64);
}

#[test]
fn the_last_examples_are_held_out_and_the_cache_knows_the_window() {
    let (tokenizer, cache) = (tokenizer(), folder(&[]));
    let line = |i: usize| format!("{{\"prompt\": \"{}\", \"completion\": \" garden {i}\"}}\n", text(i as u64, i % 7));
    let all: Vec<String> = (0..200).map(line).collect();
    let (_files, corpus) = examples(all.concat().as_bytes());
    let prepare = |corpus: &Corpus, split, seq_len, threads| {
        corpus.prepare(&tokenizer, cache.path(), split, seq_len, threads, &mut quiet()).unwrap()
    };
    let (train, val) = prepare(&corpus, 0.05, 64, 1);
    let val = val.unwrap();
    assert_eq!((train.documents(), val.documents()), (190, 10));
    let (_f, first) = examples(all[..190].concat().as_bytes());
    let (_f, last) = examples(all[190..].concat().as_bytes());
    assert_eq!(words(&train), words(&prepare(&first, 0.0, 64, 3).0));
    assert_eq!(words(&val), words(&prepare(&last, 0.0, 64, 2).0));
    // Another window, other shards; the same, the same file.
    let (other, _) = prepare(&corpus, 0.05, 32, 1);
    assert_eq!(other.window(), Some(33));
    assert_ne!(other.path(), train.path());
    let made = std::fs::metadata(train.path()).unwrap().modified().unwrap();
    assert_eq!(prepare(&corpus, 0.05, 64, 1).0.sha256(), train.sha256());
    assert_eq!(std::fs::metadata(train.path()).unwrap().modified().unwrap(), made);
}

#[test]
fn bad_lines_say_what_they_are() {
    let (tokenizer, cache) = (tokenizer(), folder(&[]));
    let good = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    for (line, expected, hint) in [
        (
            "{\"prompt\": \"a\", \"answer\": \"b\"}",
            "line 2: found fields \"prompt\", \"answer\", expected",
            "needs both",
        ),
        (
            "{\"completion\": \"a\"}",
            "line 2: found fields \"completion\", expected an object with text fields",
            "needs both",
        ),
        (
            "{}",
            "line 2: found no fields, expected an object with text fields \"prompt\" and \"completion\"",
            "needs both",
        ),
        ("{\"prompt\": \"a\", \"completion\": \"\"}", "line 2: found an empty completion", "leave the example out"),
        ("{\"prompt\": 1, \"completion\": \"b\"}", "line 2: found a number in field \"prompt\"", ""),
        ("{\"prompt\": \"a\", \"completion\": [\"b\"]}", "line 2: found a list in field \"completion\"", ""),
        ("[1]", "line 2: found a list, expected an object", ""),
        ("{\"prompt\": \"a\", ", "line 2: found broken JSON", ""),
    ] {
        let (_files, corpus) = examples(format!("{good}{line}\n").as_bytes());
        let error = corpus.prepare(&tokenizer, cache.path(), 0.0, 8, 1, &mut quiet()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Data);
        assert!(error.message.contains("a.jsonl: ") && error.message.contains(expected), "{error}");
        assert!(error.hint.unwrap_or_default().contains(hint), "{}", error.message);
    }
    let files = folder(&[("a.jsonl", b"{\"prompt\": \"a\"}\n")]);
    let error = open_as(files.path(), DataFormat::Completion).unwrap_err();
    assert!(error.message.contains("line 1: found fields \"prompt\", expected an object with text fields"), "{error}");
    let (_files, corpus) = examples(good.as_bytes());
    let error = corpus.prepare(&tokenizer, cache.path(), 0.5, 8, 1, &mut quiet()).unwrap_err();
    assert!(error.message.contains("found 1 example"), "{error}");
}

#[test]
fn the_format_follows_the_first_lines_or_is_asked_for() {
    let line: &[u8] = b"{\"prompt\": \"a\", \"completion\": \"b\"}\n";
    let both: &[u8] = b"\xef\xbb\xbf\n{\"text\": \"t\", \"prompt\": \"a\", \"completion\": \"b\"}\n";
    let plain: &[u8] = b"{\"text\": \"t\"}\n";
    let opened = |files: &[(&str, &[u8])], format| {
        let files = folder(files);
        open_as(files.path(), format).map(|corpus| corpus.has_examples())
    };
    assert!(opened(&[("a.jsonl", line), ("b.jsonl.gz", &gzip(line))], DataFormat::Auto).unwrap());
    // A text counts more, as ever.
    assert!(!opened(&[("a.jsonl", both)], DataFormat::Auto).unwrap());
    assert!(opened(&[("a.jsonl", both)], DataFormat::Completion).unwrap());
    assert!(!opened(&[("a.jsonl", plain), ("b.txt", b"x")], DataFormat::Auto).unwrap());
    let error = opened(&[("a.jsonl", line)], DataFormat::Text).unwrap_err();
    assert!(error.message.contains("expected an object with a text field \"text\""), "{error}");
    for mixed in [("b.jsonl", plain), ("b.txt", b"x")] {
        let error = opened(&[("a.jsonl", line), mixed], DataFormat::Auto).unwrap_err();
        assert!(error.message.contains(mixed.0) && error.message.contains("expected"), "{error}");
        assert!(error.hint.is_some());
    }
    assert_eq!(DataFormat::from_name("chat").unwrap_err().kind, ErrorKind::Usage);
}

#[test]
fn conversations_are_recognised_by_their_fields() {
    let formats = [
        ("{\"messages\": [{}]}", "messages"),
        ("{\"id\": 1, \"conversations\": []}", "conversations"),
        ("{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"}", "alpaca"),
        ("{\"prompt\": [{}], \"completion\": [{}]}", "turns"),
        ("{\"prompt\": \"a\", \"completion\": [{}]}", "turns"),
        ("{\"prompt\": \"a\", \"completion\": \"b\"}", "completion"),
        ("{\"messages\": [], \"text\": \"a\"}", "text"),
    ];
    for (line, format) in formats {
        let files = folder(&[("a.jsonl", line.as_bytes())]);
        let corpus = open_as(files.path(), DataFormat::Auto).unwrap();
        assert_eq!(corpus.data_format(), format, "{line}");
        assert!(DataFormat::from_name(format).is_ok());
        let Some(form) = corpus.chat() else { continue };
        assert_eq!(form.name(), format);
        let mut found = corpus.conversations().unwrap();
        let object = found.next_conversation().unwrap().unwrap();
        assert!(object.json == line && object.place.ends_with("a.jsonl: line 1"), "{object:?}");
        assert_eq!((found.next_conversation().unwrap(), found.bytes()), (None, line.len() as u64));
    }
}

#[test]
fn conversations_are_read_through_all_files() {
    let line = |text: &str| format!("{{\"messages\": \"{text}\"}}\n");
    let both = format!("{}{}", line("\\ud800"), line("b"));
    let files = folder(&[("a.jsonl", both.as_bytes()), ("b.jsonl.gz", &gzip(line("c").as_bytes()))]);
    let mut found = open_as(files.path(), DataFormat::Auto).unwrap().conversations().unwrap();
    let mut texts = Vec::new();
    while let Some(object) = found.next_conversation().unwrap() {
        texts.push(object.json);
    }
    assert_eq!(texts, [line("\\ufffd").trim(), line("b").trim(), line("c").trim()]);
    assert_eq!(found.halves(), 1);
    let files = folder(&[("a.jsonl", format!("{}{{\"text\": 1}}", line("a")).as_bytes())]);
    let mut found = open_as(files.path(), DataFormat::Auto).unwrap().conversations().unwrap();
    found.next_conversation().unwrap();
    let error = found.next_conversation().unwrap_err();
    assert!(error.message.contains("line 2: found fields \"text\", expected an object with \"messages\""), "{error}");
}
