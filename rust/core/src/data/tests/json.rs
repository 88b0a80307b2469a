//! JSON in the forms in which people have it.

use super::*;
use crate::system::interrupts::Interrupts;

fn read(name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<String>> {
    let files = folder(&[(name, bytes.as_ref())]);
    let path = files.path().join(name);
    let corpus = Corpus::open_interruptible(&[path], "text", DataFormat::Auto, Vec::new(), Interrupts::default())?;
    corpus.read(&mut |_, _, _| Ok(()))?;
    Ok(documents(&corpus))
}

fn message(name: &str, bytes: impl AsRef<[u8]>) -> (String, String) {
    let error = read(name, bytes).unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Data);
    (error.message, error.hint.unwrap_or_default())
}

const LINES: &str = "{\"text\": \"a\"}\n{\"n\": [{}, \"}{\"], \"text\": \"b \\\" {\"}\n{\"text\": \"c\"}\n";

#[test]
fn all_forms_hold_the_same_documents() {
    let objects: Vec<&str> = LINES.lines().collect();
    let pretty = objects.iter().map(|object| object.replace("\": ", "\":\n  ").replace(", \"text", "\n ,\n \"text"));
    let pretty: Vec<String> = pretty.map(|object| object.replacen('{', "{\n ", 1).replace("]\n", "]\r\n")).collect();
    let forms = [
        LINES.to_owned(),
        LINES.replace('\n', "\r\n\r\n"),
        objects.join(" "),
        objects.concat(),
        pretty.join("\n"),
        format!("[{}]", objects.join(",")),
        format!("[\n {}\n]\n", pretty.join(",\n")),
        format!("[{}]\n[]\n[{}]", objects[0], objects[1..].join(" , ")),
        format!("{}\n[{}]", objects[0], objects[1..].join(",")),
    ];
    for form in forms {
        for name in ["a.jsonl", "a.json", "a.ndjson", "A.JSON"] {
            for mark in ["", "\u{feff}"] {
                let text = format!("{mark}{form}");
                assert_eq!(read(name, &text).unwrap(), ["a", "b \" {", "c"], "{name}: {text}");
                assert_eq!(read(&format!("{name}.gz"), gzip(text.as_bytes())).unwrap().len(), 3);
            }
        }
    }
}

#[test]
fn examples_in_an_array_are_examples() {
    let array = "[\n {\"prompt\": \"a\",\n \"completion\": \"b\"},\n {\"prompt\": \"c\", \"completion\": \"d\"}\n]";
    assert_eq!(read("a.json", array).unwrap(), ["ab", "cd"]);
}

#[test]
fn errors_name_the_line_or_the_element() {
    for (text, expected) in [
        ("{\"text\": \"a\"\n{\"text\": \"b\"}\n", "line 1: found broken JSON (EOF while parsing an object"),
        (
            "{\"text\": \"a\"}\n{\"text\": \"b\n{\"text\": \"c\"}\n",
            "line 2: found broken JSON (EOF while parsing a string",
        ),
        (
            "{\"text\": \"a\"}\n{\n \"text\": \"b\"\n \"n\": 1\n}\n",
            "line 4: found broken JSON (expected `,` or `}`, column 2",
        ),
        ("{\"text\": \"a\"}\n{\n \"text\": \"b\",\n", "line 3: found broken JSON (EOF"),
        ("{\"text\": \"a\"} x\n", "line 1: found broken JSON (trailing characters"),
        ("{\"text\": \"a\",}\n", "line 1: found broken JSON (trailing comma"),
        (
            "[{\"text\": \"a\"}, {\"text\": \"b\"},]",
            "found a comma and ] after element 2 (line 1), expected another object",
        ),
        ("[{\"text\": \"a\"},\n{\"text\": \"b\"}", "found the end of the file after element 2 (line 2), expected ]"),
        ("[{\"text\": \"a\"},\n{\"text\": \"b", "element 2 (line 2): found broken JSON (EOF while parsing a string"),
        ("[{\"text\": \"a\"},\n", "found the end of the file after element 1"),
        ("[", "found the end of the file"),
        ("[{\"text\": \"a\"}\n{\"text\": \"b\"}]", "found no comma after element 1 (line 2)"),
        ("[{\"text\": \"a\"},\n 7]", "element 2 (line 2): found a number, expected an object"),
        ("[{\"text\": \"a\"},\n {\"body\": 7}]", "element 2 (line 2): found fields \"body\", expected"),
        ("[{\"text\": \"a\"},\n {\"text\":\n7 8}]", "element 2 (line 3): found broken JSON"),
        ("[1, 2]", "line 1: found a list, expected an object"),
        ("[\n [1]\n]", "element 1 (line 2): found a list, expected an object"),
        ("\"a\"", "line 1: found a string"),
        ("[{\"text\": \"a\"}] x", "line 1: found something that is not JSON"),
        ("[{\"text\": \"\0\"}]", "NUL"),
    ] {
        let (found, _) = message("a.json", text);
        assert!(found.contains(expected), "{text:?}: {found}");
    }
}

#[test]
fn halves_of_surrogate_pairs_are_replaced_and_counted() {
    let text =
        "{\"text\": \"a \\ud83d b\"}\n[{\"\\udc00\": 1, \"text\": \"\\ud83d\\ude00 \\ude00\\ud83d\"}]{\"text\": \"c\"}";
    let files =
        folder(&[("a.jsonl", text.as_bytes()), ("b.jsonl", b"{\"x\": \"\\ud800\", \"text\": \"d\", \"y\": NaN}")]);
    let corpus = open(files.path()).unwrap();
    assert_eq!(corpus.halves(), 0);
    for _ in 0..2 {
        assert_eq!(documents(&corpus), ["a \u{fffd} b", "\u{1f600} \u{fffd}\u{fffd}", "c", "d"]);
        assert_eq!(corpus.halves(), 3);
    }
    assert_eq!(read("a.jsonl", "{\"prompt\": \"half \\ud83d\", \"completion\": \" b\"}").unwrap(), ["half \u{fffd} b"]);
}

#[test]
fn other_fields_may_hold_anything() {
    let deep = format!("{{\"x\": {}{}, \"text\": \"a\"}}", "[".repeat(5000), "]".repeat(5000));
    for line in [
        deep.as_str(),
        "{\"x\": 1e999, \"text\": \"a\"}",
        "{\"x\": 123456789012345678901234567890123, \"text\": \"a\"}",
        "{\"x\": [NaN, -Infinity, Infinity], \"text\": \"a\"}",
        "{\"text\": \"b\", \"text\": \"a\"}",
        "{\"text\": 1, \"x\": \"NaN\", \"text\": \"a\"}",
    ] {
        assert_eq!(read("a.jsonl", line).unwrap(), ["a"], "{line}");
        assert_eq!(read("a.json", format!("[{line}]")).unwrap(), ["a"], "{line}");
    }
    assert!(message("a.jsonl", "{\"text\": NaN}").0.contains("found a number in field \"text\""));
}

#[test]
fn blanks_take_no_memory() {
    let blanks = " ".repeat(100_000);
    let text = format!("{blanks}[{blanks}{{\"text\": \"a\"}}{blanks},{blanks}{{\"text\": \"b\"}}{blanks}]{blanks}");
    assert_eq!(read("a.json", text).unwrap(), ["a", "b"]);
    let text = format!("{{\"text\": \"a\"}}{blanks}{{\"text\": \"b\"}}{blanks}\n[{blanks}1]");
    assert!(message("a.json", text).0.contains("element 1 (line 2): found a number, expected an object"));
}

#[test]
fn chat_data_that_is_taken_for_text_is_named_as_what_it_is() {
    for (line, expected) in [
        ("{\"messages\": [{\"role\": \"user\"}]}", "line 1: found chat turns in \"messages\" (a list), expected"),
        ("{\"id\": 1, \"conversations\": []}", "line 1: found chat turns in \"conversations\" (a list), expected"),
        (
            "{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"}",
            "line 1: found an instruction in \"instruction\" (a string) and \"output\" (a string), expected",
        ),
        (
            "{\"prompt\": [{}], \"completion\": [{}]}",
            "line 1: found chat turns in \"prompt\" (a list) and \"completion\" (a list), expected an object",
        ),
        (
            "{\"prompt\": \"a\", \"completion\": [{}]}",
            "line 1: found chat turns in \"prompt\" (a string) and \"completion\" (a list), expected",
        ),
    ] {
        for text in [line.to_owned(), format!("[\n{line}\n]")] {
            let files = folder(&[("a.json", text.as_bytes())]);
            let error = Corpus::open(&[files.path()], "text").unwrap_err();
            let (found, hint) = (error.message, error.hint.unwrap_or_default());
            let expected =
                if text == line { expected.to_owned() } else { expected.replace("line 1", "element 1 (line 2)") };
            assert!(found.contains(&expected), "{found}");
            assert!(hint.contains("--data-format names it"), "{hint}");
        }
    }
}

#[test]
fn a_folder_takes_json_that_begins_with_text() {
    let files = folder(&[
        ("a.txt", b"a"),
        ("b.json", b"[{\"text\": \"b1\"}, {\"text\": \"b2\"}]"),
        ("package.json", b"{\n \"name\": \"x\"\n}"),
        ("broken.json", b"{"),
        ("list.json", b"[1, 2]"),
        ("c.json.gz", &gzip(b"{\"text\": \"c\"}")),
    ]);
    assert_eq!(documents(&open(files.path()).unwrap()), ["a", "b1", "b2", "c"]);
    let only = folder(&[("package.json", b"{\"name\": \"x\"}")]);
    let error = open(only.path()).unwrap_err();
    assert!(
        error.message.contains("found no text files")
            && error.hint.unwrap().contains(".json, .csv, .tsv and .parquet are taken")
    );
}

#[test]
fn plain_text_that_begins_like_json_is_told() {
    let array: &[u8] = b"[{\"prompt\": \"a\", \"completion\": \"b\"}]";
    for name in ["a.txt", "a.data", "a"] {
        let files = folder(&[(name, array)]);
        let corpus = open(&files.path().join(name)).unwrap();
        assert_eq!(corpus.like_json().unwrap(), files.path().join(name));
        assert_eq!(documents(&corpus).len(), 1);
    }
    let files = folder(&[("a.txt", b"{\"name\": \"x\"}"), ("b.txt", b"[1] {"), ("c.jsonl", b"{\"text\": \"x\"}")]);
    assert_eq!(open(files.path()).unwrap().like_json(), None);
}

#[test]
#[cfg(target_os = "linux")]
fn a_pipe_is_read_by_its_content() {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    for (bytes, expected) in [
        (LINES.as_bytes().to_vec(), 3),
        (gzip(LINES.as_bytes()), 3),
        (b"[{\"prompt\": \"a\", \"completion\": \"b\"}]".to_vec(), 1),
        (b"{\"name\": 1}\n{\"name\": 2}".to_vec(), 1),
        (gzip(b"plain"), 1),
    ] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&bytes).unwrap();
        drop(writer);
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let corpus =
            Corpus::open_interruptible(&[path], "text", DataFormat::Auto, Vec::new(), Interrupts::default()).unwrap();
        assert_eq!(documents(&corpus).len(), expected);
    }
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"7z\xbc\xaf\x27\x1c\0\x04").unwrap();
    drop(writer);
    let error = open(Path::new(&format!("/proc/self/fd/{}", reader.as_raw_fd()))).unwrap_err();
    assert!(error.message.contains("found a 7z archive"), "{error}");
}

#[test]
fn objects_with_the_fields_asked_for() {
    let text = "{\"prompt\": \"a \\ud83d\", \"x\": [\"}\", {\"y\": \"\\ud83d\"}], \"answer\": NaN , \"\\u0063\":{\"d\": []}}\n[{\"x\": 1}]\n{\n[2]";
    let files = folder(&[("a.txt", text.as_bytes())]);
    let file = ObjectFile::open(
        &files.path().join("a.txt"),
        &["prompt", "answer", "c"].map(str::to_owned),
        Vec::new(),
        Interrupts::default(),
    )
    .unwrap();
    for _ in 0..2 {
        let mut objects = file.objects(1 << 20).unwrap();
        let mut found = Vec::new();
        while let Some(object) = objects.next_object().unwrap() {
            found.push((object.number, object.place, object.json));
        }
        let first = "{\"prompt\": \"a \\ufffd\", \"answer\": NaN, \"\\u0063\":{\"d\": []}}";
        assert_eq!(found[0], (1, "line 1".into(), first.into()));
        assert_eq!(found[1], (1, "element 1 (line 2)".into(), "{}".into()));
        assert_eq!((found[2].0, found.len(), objects.halves()), (3, 3, 1));
    }
    let mut objects = file.objects(20).unwrap();
    assert!(objects.next_object().unwrap_err().message.contains("line 1 is longer than"));
}
