//! What symlm writes is not taken for text.

use super::*;

const RUN: [(&str, &[u8]); 5] = [
    ("runs/a/config.toml", b"# symlm training configuration; use it again\n"),
    ("runs/a/environment.json", b"{}"),
    ("runs/a/metrics.jsonl", b"{\"event\": \"train\"}\n"),
    ("runs/a/samples.jsonl", b"{\"text\": \"sample\"}\n"),
    ("runs/a/checkpoints/step-00000005/config.json", b"{}"),
];

fn with_run(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    folder(&[files, &RUN].concat())
}

#[test]
fn runs_and_exports_inside_of_a_folder_are_left_out() {
    let files = with_run(&[
        ("a.txt", b"a"),
        ("sub/b.txt", b"b"),
        ("model/symlm.json", b"{}"),
        ("model/config.json", b"{}"),
        ("model/README.md", b"a model"),
        ("copy/MANIFEST.json", b"{}"),
        ("copy/trainer_state.json", b"{\n \"engine\": {}}"),
        ("edited/config.toml", b"seed = 7\n"),
        ("edited/environment.json", b"{\"threads\": 1, \"threads_rule\": \"asked for\"}"),
        ("edited/samples.jsonl", b"{\"text\": \"sample\"}\n"),
        ("part/environment.json", b"{\"threads\": 1, \"threads_rule\": \"asked for\"}"),
        ("part/checkpoints/a.txt", b"{}"),
        ("begun/.lock", b""),
        ("begun/tokenizer.json", b"{}"),
        // Those of a user.
        ("settings/config.toml", b"x"),
        ("settings/c.txt", b"c"),
        ("locked/.lock", b"x"),
        ("locked/d.txt", b"d"),
        ("project/config.toml", b"[server]\nport = 1\n"),
        ("project/environment.json", b"{}"),
        ("project/checkpoints/e.txt", b"e"),
        ("trainer/MANIFEST.json", b"{}"),
        ("trainer/trainer_state.json", b"{\"epoch\": 1.0}"),
        ("trainer/f.txt", b"f"),
        ("served/Modelfile", b"FROM ./model.gguf"),
        ("served/model.gguf", b"GGUF\x03\0\0\0general.name"),
        ("served/g.txt", b"g"),
    ]);
    let corpus = open(files.path()).unwrap();
    assert_eq!(documents(&corpus), ["a", "d", "e", "g", "c", "b", "f"]);
    let note = corpus.note().unwrap();
    assert!(note.starts_with("left out 4 folders that symlm wrote: "), "{note}");
    assert!(note.contains("/edited") && note.contains("/model") && note.contains("/part"), "{note}");
    for pattern in ["**/*.txt", "**/[a-g].*", "*"] {
        let corpus = open(&files.path().join(pattern)).unwrap();
        let found = documents(&corpus);
        assert!(found.len() >= 4 && found.iter().all(|text| text.len() == 1), "{pattern}: {found:?}");
    }
    // Named, it is taken.
    assert_eq!(documents(&open(&files.path().join("runs/a/samples.jsonl")).unwrap()), ["sample"]);
    assert_eq!(open(&files.path().join("a.txt")).unwrap().note(), None);
}

#[test]
fn nothing_but_own_output_is_an_error_that_says_so() {
    let files = with_run(&[]);
    for name in ["", "runs", "runs/a", "runs/*", "**/*.jsonl", "runs/a/*.jsonl"] {
        let error = open(&files.path().join(name)).unwrap_err();
        assert!(error.message.contains("but what symlm wrote") && error.message.contains("/runs/a"), "{name}: {error}");
        assert!(error.hint.unwrap().contains("a file that is named is taken"));
    }
    let begun = folder(&[("a.txt", b"a"), ("run/.lock", b"")]);
    assert_eq!(open(begun.path()).unwrap().note(), None);
}

#[test]
fn own_files_are_told_by_their_first_bytes_or_fields() {
    let own: [(&str, &[u8]); 7] = [
        ("events.out.tfevents.1.host.2", b"\x18\0\0\0"),
        ("0a-train.ids", b"symlmids\x01\0\0\0"),
        ("model.gguf", b"GGUF\x03\0\0\0....symlm.step"),
        (
            "documents.jsonl",
            b"{\"document\": 0, \"text\": \"x\", \"tokens\": 1, \"text_bytes\": 1, \"loss\": 1.0, \"bits_per_byte\": 2}",
        ),
        (
            "answers.jsonl",
            b"{\"line\": 1, \"answer\": 0, \"log_likelihoods\": [], \"tokens\": [], \"picks\": {}, \"cut\": 0}",
        ),
        ("trace.json", b"{\"traceEvents\":[],\"displayTimeUnit\":\"ms\"}"),
        ("tokenizer.json", tokenizer_json()),
    ];
    let texts: [(&str, &[u8]); 2] = [("a.txt", b"a"), ("b.jsonl", b"{\"document\": 0, \"text\": \"b\"}")];
    let files = folder(&[&own[..], &texts].concat());
    for name in ["", "*", "**/*"] {
        let corpus = open(&files.path().join(name)).unwrap();
        assert_eq!(documents(&corpus), ["a", "b"], "{name}");
        assert!(corpus.note().unwrap().contains("that symlm wrote"));
    }
    assert_eq!(documents(&open(&files.path().join("documents.jsonl")).unwrap()), ["x"]);
}

#[test]
fn what_is_left_out_is_named_in_order() {
    let names: Vec<String> = ["z", "m", "a", "k", "b"]
        .iter()
        .flat_map(|model| ["symlm.json", "config.json", "README.md"].map(|file| format!("{model}/{file}")))
        .collect();
    let exports = names.iter().map(|name| (name.as_str(), &b"{}"[..]));
    let files = folder(&exports.chain([("text.txt", &b"text"[..])]).collect::<Vec<_>>());
    let at = files.path().display();
    let expected = format!("left out 5 folders that symlm wrote: {at}/a, {at}/b, {at}/k and 2 more");
    assert_eq!(open(files.path()).unwrap().note().unwrap(), expected);
}

fn tokenizer_json() -> &'static [u8] {
    Box::leak(tokenizer().json().to_vec().into_boxed_slice())
}
