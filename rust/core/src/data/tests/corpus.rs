//! Finding, inspecting and reading files.

use super::*;
use crate::ErrorKind;

fn error(files: &[(&str, &[u8])], name: &str) -> crate::Error {
    let folder = folder(files);
    let error = open(&folder.path().join(name)).map(|corpus| documents_error(&corpus)).unwrap_or_else(Some);
    let error = error.expect("an error was expected");
    assert_eq!(error.kind, ErrorKind::Data, "{error}");
    error
}

fn documents_error(corpus: &Corpus) -> Option<crate::Error> {
    let mut stream = corpus.documents(PieceSize::default());
    loop {
        match stream.next_piece() {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

#[test]
fn folders_are_searched_in_the_order_of_bytes() {
    let folder = folder(&[
        ("b.txt", b"b"),
        ("a/z.md", b"z"),
        ("a/y.PY", b"y"),
        ("B.txt", b"B"),
        ("a.jsonl", b"{\"text\": \"j1\"}\n\n{\"n\": [1, {}], \"text\": \"j2\"}"),
        ("c.txt.gz", &gzip(b"gz")),
        ("image.png", b"\0"),
        (".hidden/x.txt", b"hidden"),
        ("tool.gz", &gzip(b"no extension")),
    ]);
    let corpus = open(folder.path()).unwrap();
    assert_eq!(documents(&corpus), ["B", "j1", "j2", "y", "z", "b", "gz"]);
    assert_eq!(corpus.files(), 6);
}

#[test]
fn globs_and_explicit_files_of_any_extension() {
    let folder = folder(&[("2.log", b"two"), ("1.log", b"one"), ("sub/x.txt", b"x")]);
    let corpus = open(&folder.path().join("*")).unwrap();
    assert_eq!(documents(&corpus), ["one", "two", "x"]);
    assert_eq!(documents(&open(&folder.path().join("2.log")).unwrap()), ["two"]);
    let none = open(&folder.path().join("*.rs")).unwrap_err();
    assert!(none.message.contains("found nothing that matches"), "{none}");
    for bracket in ["a[1].txt", "a[.txt"] {
        let error = open(&folder.path().join(bracket)).unwrap_err();
        assert!(error.hint.unwrap().contains("[[] stands for a bracket"), "{bracket}");
    }
}

#[test]
fn missing_and_empty() {
    assert!(error(&[], "gone.txt").message.contains("found no file or folder"));
    assert!(error(&[("empty.txt", b"")], "empty.txt").message.contains("the corpus is empty"));
    assert!(error(&[("a.rs", b"fn main() {}")], "").message.contains("found no text files"));
    let none: [&str; 0] = [];
    assert_eq!(Corpus::open(&none, "text").unwrap_err().kind, ErrorKind::Data);
}

#[test]
fn binary_and_other_encodings() {
    let found = error(&[("a.txt", b"abc\0def")], "a.txt");
    assert!(found.message.ends_with("a.txt: found a NUL byte at byte 3, expected text"), "{found}");
    let found = error(&[("a.txt", b"ab\xe9cd")], "a.txt");
    assert!(found.message.contains("not UTF-8 at byte 2"), "{found}");
    assert!(found.hint.unwrap().contains("iconv"));
    assert!(error(&[("a.txt", b"ab\xe2\x82")], "a.txt").message.contains("not UTF-8 at byte 2"));
    assert!(error(&[("a.txt", b"\xff\xfea\0")], "a.txt").message.contains("UTF-16"));
    // Beyond the part that is read on opening.
    let mut late = vec![b'x'; 300_000];
    late.push(0xff);
    assert!(open(folder(&[("a.txt", &late)]).path()).is_ok());
    assert!(error(&[("a.txt", &late)], "a.txt").message.contains("not UTF-8 at byte 300000"));
    late[299_999] = 0;
    assert!(error(&[("a.txt", &late)], "a.txt").message.contains("NUL byte at byte 299999"));
}

#[test]
fn bom_is_stripped_and_crlf_kept() {
    let folder = folder(&[
        ("a.txt", "\u{feff}one\r\ntwo\u{feff}\r\n".as_bytes()),
        ("b.jsonl", "\u{feff}{\"text\":\"three\\r\\n\"}\r\n".as_bytes()),
    ]);
    assert_eq!(documents(&open(folder.path()).unwrap()), ["one\r\ntwo\u{feff}\r\n", "three\r\n"]);
}

#[test]
fn gzip_of_several_members_and_damaged() {
    let mut two = gzip(b"one ");
    two.extend(gzip("zwei ä".as_bytes()));
    assert_eq!(documents(&open(folder(&[("a.txt.gz", &two)]).path()).unwrap()), ["one zwei ä"]);
    let whole = gzip(text(3, 50_000).as_bytes());
    let found = error(&[("a.txt.gz", &whole[..whole.len() - 9])], "a.txt.gz");
    assert!(found.message.contains("damaged or truncated gzip"), "{found}");
    assert!(error(&[("a.gz", b"plain text")], "a.gz").message.contains("gzip"));
    let found = error(&[("a.txt.gz", &gzip(b"ab\xff"))], "a.txt.gz");
    assert!(found.message.contains("at byte 2 of the decompressed text"), "{found}");
}

#[test]
fn json_lines_errors_name_file_line_and_what_was_found() {
    let good = "{\"text\": \"a\"}\n";
    for (line, expected) in [
        ("{\"body\": 1, \"id\": 2}", "line 2: found fields \"body\", \"id\", expected an object with a text field"),
        ("{\"text\": 17}", "line 2: found a number in field \"text\""),
        ("{\"text\": null}", "line 2: found null in field"),
        ("[1, 2]", "line 2: found a list"),
        ("hello", "line 2: found something that is not JSON"),
        ("{\"text\": \"a\"", "line 2: found broken JSON"),
        ("{} x", "line 2: found broken JSON"),
        ("{}", "line 2: found no fields"),
    ] {
        let found = error(&[("a.jsonl", format!("{good}{line}\n").as_bytes())], "a.jsonl");
        assert!(found.message.contains("a.jsonl: ") && found.message.contains(expected), "{found}");
    }
    let found = error(&[("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n")], "a.jsonl");
    assert!(found.message.contains("not UTF-8 at byte 24"), "{found}");
    let late = format!("{}{{\"text\": \"", good.repeat(10_000));
    let found = error(&[("a.jsonl", &[late.as_bytes(), b"\xff\"}"].concat())], "a.jsonl");
    assert!(found.message.contains("not UTF-8 at byte 10 of line 10001"), "{found}");
    // The first line is read when the corpus is opened.
    let hint = open(folder(&[("a.jsonl", b"{\"body\": \"x\"}\n")]).path()).unwrap_err().hint.unwrap_or_default();
    assert!(hint.contains("--text-field") && hint.contains("an example has \"prompt\" and \"completion\""), "{hint}");
    let corpus = folder(&[("a.jsonl", b"{\"body\": \"x\"}\n")]);
    let corpus = Corpus::open(&[corpus.path().display().to_string()], "body").unwrap().files();
    assert_eq!(corpus, 1);
}

#[test]
fn long_files_come_in_pieces_that_make_up_the_whole() {
    let long = text(5, 700_000);
    let folder = folder(&[("a.txt", long.as_bytes()), ("b.txt", b"tail")]);
    let corpus = open(folder.path()).unwrap();
    let mut stream = corpus.documents(PieceSize::default());
    let (mut together, mut pieces) = (String::new(), 0);
    while let Some(piece) = stream.next_piece().unwrap() {
        assert_eq!(piece.first, pieces == 0 || piece.text == "tail");
        assert!(piece.text.len() <= crate::data::pretoken::PIECE_BYTES);
        together += &piece.text;
        pieces += 1;
    }
    assert!(pieces > 5);
    assert_eq!(together, long + "tail");
    assert_eq!(stream.digests().len(), 2);
    assert_eq!(stream.disk_bytes(), corpus.bytes());
}

#[test]
fn text_without_blanks_is_cut_at_the_cap() {
    let folder = folder(&[("a.txt", "ä".repeat(1_500_000).as_bytes())]);
    let corpus = open(folder.path()).unwrap();
    let mut stream = corpus.documents(PieceSize::default());
    let mut sizes = Vec::new();
    while let Some(piece) = stream.next_piece().unwrap() {
        sizes.push(piece.text.len());
    }
    assert_eq!(sizes, [1 << 20, 1 << 20, 3_000_000 - (2 << 20)]);
}

#[test]
#[cfg(target_os = "linux")]
fn pipes_are_copied_and_can_be_read_twice() {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    let through_pipe = |bytes: &[u8]| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(bytes).unwrap();
        drop(writer);
        open(Path::new(&format!("/proc/self/fd/{}", reader.as_raw_fd())))
    };
    let corpus = through_pipe(b"from a pipe").unwrap();
    assert_eq!(documents(&corpus), ["from a pipe"]);
    assert_eq!(documents(&corpus), ["from a pipe"]);
    assert_eq!((corpus.files(), corpus.bytes()), (1, 11));
    assert!(through_pipe(b"").unwrap_err().message.contains("empty"));
    assert!(through_pipe(b"a\0").unwrap_err().message.contains("NUL byte at byte 1"));
}

#[test]
fn unreadable_files_and_loops_of_links() {
    let folder = folder(&[("a/a.txt", b"a"), ("b.txt", b"b")]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("a/loop")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("b.txt"), folder.path().join("a/link.txt")).unwrap();
    assert_eq!(documents(&open(folder.path()).unwrap()), ["a", "b", "b"]);
    std::os::unix::fs::symlink("nowhere", folder.path().join("broken.txt")).unwrap();
    assert_eq!(open(folder.path()).unwrap().files(), 3);
    assert!(open(&folder.path().join("broken.txt")).is_err());
}
