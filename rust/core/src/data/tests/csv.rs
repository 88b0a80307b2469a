//! Rows of CSV as they are read, and files that are not CSV.

use crate::system::interrupts::Interrupts;
use proptest::prelude::*;

use super::*;

fn read_field(name: &str, bytes: impl AsRef<[u8]>, field: &str) -> Result<Vec<String>> {
    let files = folder(&[(name, bytes.as_ref())]);
    let path = files.path().join(name);
    let corpus = Corpus::open_interruptible(&[path], field, DataFormat::Auto, Vec::new(), Interrupts::default())?;
    corpus.read(&mut |_, _, _| Ok(()))?;
    Ok(documents(&corpus))
}

fn read(name: &str, bytes: impl AsRef<[u8]>) -> Result<Vec<String>> {
    read_field(name, bytes, "text")
}

fn message(bytes: impl AsRef<[u8]>) -> String {
    let error = read("a.csv", bytes).unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Data);
    assert!(error.message.contains("a.csv: ") && error.message.len() < 1000, "{error}");
    error.message
}

#[test]
fn rows_are_documents() {
    for (name, text) in [
        ("a.csv", "id,text\n1,a\n2,\"b, \"\"c\"\"\nd\"\n\n3,\n4,e"),
        ("a.csv", "\u{feff}id;text\r\n1;a\r\n2;\"b, \"\"c\"\"\nd\"\r\n3;\r\n4;e\r\n"),
        ("A.CSV", "id\ttext\r1\ta\r2\t\"b, \"\"c\"\"\nd\"\r3\t\r4\te"),
        ("a.tsv", "id,x\ttext\n1\ta\n2\t\"b, \"\"c\"\"\nd\"\n3\t\n4\te\n"),
        ("a.csv", "\"text\",\"x,y\"\na,1\n\"b, \"\"c\"\"\nd\",2\n\"\",\"\"\n\"e\",\"3\n\"\n"),
    ] {
        assert_eq!(read(name, text).unwrap(), ["a", "b, \"c\"\nd", "e"], "{text}");
        assert_eq!(read(&format!("{name}.gz"), gzip(text.as_bytes())).unwrap().len(), 3);
    }
    assert_eq!(read_field("a.csv", "meta.text,text\na,b\n", "meta.text").unwrap(), ["a"]);
    assert_eq!(read("a.csv", "n,prompt,completion\n1,a,b\n2,c,d\n").unwrap(), ["ab", "cd"]);
}

#[test]
fn what_is_wrong_is_said_with_the_line() {
    for (text, expected) in [
        ("id,body\n1,a\n", "row 1: found fields \"id\", \"body\", expected an object with a text field \"text\""),
        ("id,text\n1,a\n2\n", "row 2 (line 3): found 1 column(s), expected 2 as in the first row"),
        ("id,text\n1,a,b\n", "row 1 (line 2): found 3 column(s), expected 2"),
        ("id,text\n1,\"a\n", "the end of the file in a field whose quote opens in line 2"),
        ("id,text\n1,\"a\" b\n", "line 2: found text behind the quote that closes a field"),
    ] {
        assert!(message(text).contains(expected), "{text:?}: {}", message(text));
    }
    let late = |tail: &[u8]| message([b"id,text\n1,a\n".to_vec(), b"2,b\n".repeat(40_000), tail.to_vec()].concat());
    assert!(late(b"3,a\0b\n").contains("line 40003: found a NUL byte"), "{}", late(b"3,a\0b\n"));
    assert!(late(b"3,a\xffb\n").contains("not UTF-8 in the row of line 40003"), "{}", late(b"3,a\xffb\n"));
    assert!(message(b"id,text\n1,\0\n").contains("NUL byte"));
}

#[test]
fn a_table_of_instructions_holds_conversations() {
    let files = folder(&[("a.csv", b"instruction,output\na,\"b\nc\"\n")]);
    let paths = [files.path().join("a.csv")];
    let corpus =
        Corpus::open_interruptible(&paths, "text", DataFormat::Auto, Vec::new(), Interrupts::default()).unwrap();
    assert_eq!(corpus.data_format(), "alpaca");
    let mut found = corpus.conversations().unwrap();
    let object = found.next_conversation().unwrap().unwrap();
    assert_eq!(object.json, r#"{"instruction": "a", "output": "b\nc"}"#);
    assert!(object.place.ends_with("a.csv: row 1"), "{object:?}");
    assert_eq!(found.next_conversation().unwrap(), None);
}

#[test]
fn a_million_columns_and_endless_fields() {
    let wide = format!("{}text\n{}a\n", "c,".repeat(1_000_000), "1,".repeat(1_000_000));
    assert_eq!(read("a.csv", &wide).unwrap(), ["a"]);
    assert!(message(wide.replace("text", "body")).contains("found fields \"c\""));
    let long = [b"id,text\n1,\"".to_vec(), vec![b'x'; 65 << 20]].concat();
    assert!(message(&long).contains("is longer than 64 MiB"));
    // Also where the field is not asked for.
    let long = [b"text,id\na,\"".to_vec(), vec![b'x'; 65 << 20]].concat();
    assert!(message(&long).contains("is longer than 64 MiB"));
}

fn field() -> impl Strategy<Value = String> {
    "[a\",;\t\r\n\u{e4}\u{1}\\\\ ]{0,6}"
}

proptest! {
    #[test]
    fn what_was_written_comes_back(rows in prop::collection::vec((field(), field()), 1..8), quote: bool, crlf: bool) {
        let cell = |text: &str| {
            if quote || text.contains(['"', ',', ';', '\t', '\r', '\n']) || text.is_empty() {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text.to_owned()
            }
        };
        let end = if crlf { "\r\n" } else { "\n" };
        let mut csv = format!("text,id{end}");
        for (text, id) in &rows {
            csv += &format!("{},{}{end}", cell(text), cell(id));
        }
        let expected: Vec<String> = rows.iter().map(|row| row.0.clone()).filter(|text| !text.is_empty()).collect();
        if !expected.is_empty() {
            prop_assert_eq!(read("a.csv", &csv).unwrap(), expected);
        }
    }
}
