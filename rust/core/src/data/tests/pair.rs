//! Prompts and completions as one text, and texts that begin within another.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::library::{byte_level, llama2, llama3, load, reference};
use super::*;
use crate::data::pretoken::{PieceSize, piece_len};
use crate::data::tokenizer::Encoder;

/// A byte-level tokenizer that puts a blank before every text, as RoBERTa has it.
fn prefix_space() -> Value {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    byte_level(bytes, Value::Null, &["<|begin|>", "</s>"])
}

/// As newer files of Llama 2 have it: no normalizer, blanks are put in by the pre-tokenizer.
fn metaspace(scheme: &str, split: bool) -> Value {
    let mut file = llama2();
    file["normalizer"] = Value::Null;
    file["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split});
    file
}

/// Every kind, and whether it does something to the beginning of a text.
fn kinds() -> Vec<(Value, bool)> {
    vec![
        (llama2(), true),
        (prefix_space(), true),
        (metaspace("first", false), true),
        (metaspace("always", false), true),
        (metaspace("first", true), true),
        (metaspace("always", true), true),
        (metaspace("never", false), false),
        (llama3(), false),
    ]
}

/// The ids of a text in pieces of this size, each by itself.
fn in_pieces(tokenizer: &Tokenizer, text: &str, size: PieceSize) -> Vec<u32> {
    let (mut ids, mut rest, mut before) = (Vec::new(), text, None);
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(piece_len(rest, true, size.target, size.cap).unwrap());
        Encoder::default().encode(tokenizer, before, piece, &mut ids).unwrap();
        (rest, before) = (tail, Some(piece));
    }
    ids
}

#[test]
fn it_is_known_which_tokenizers_change_the_beginning() {
    for (file, expected) in kinds() {
        assert_eq!(load(&file, 2, 300).unwrap().marks_beginning(), expected, "{}", file["pre_tokenizer"]);
    }
    assert!(!tokenizer().marks_beginning());
}

#[test]
fn a_piece_that_begins_within_a_word_gets_no_blank() {
    for (file, _) in kinds() {
        let tokenizer = load(&file, 2, 300).unwrap();
        let ids = in_pieces(&tokenizer, "thecathecat", PieceSize { target: 3, cap: 3 });
        let text = tokenizer.decode(&ids).unwrap();
        assert_eq!(text.trim_start(), "thecathecat", "{}", file["pre_tokenizer"]);
    }
}

#[test]
fn a_held_out_end_of_a_text_begins_within_it() {
    let text = "the cat ".repeat(40);
    for (file, marked) in kinds() {
        let tokenizer = load(&file, 2, 300).unwrap();
        let (files, cache) = (folder(&[("a.txt", text.as_bytes())]), folder(&[]));
        let corpus = open(files.path()).unwrap();
        let (train, val) = corpus.prepare(&tokenizer, cache.path(), 0.3, 4, 2, &mut quiet()).unwrap();
        let read = |shards: &crate::data::Shards| {
            let mut ids = vec![0; shards.tokens() as usize];
            shards.copy_ids(0, &mut ids).unwrap();
            ids
        };
        let start = tokenizer.document_start().len();
        let ids = [read(&train), read(&val.unwrap()).split_off(start)].concat();
        let whole = [tokenizer.document_start(), &tokenizer.encode(&text).unwrap()].concat();
        assert_eq!(ids, whole, "{marked} {}", file["pre_tokenizer"]);
    }
}

#[test]
fn white_space_between_goes_to_the_completion() {
    let tokenizer = load(&llama2(), 2, 300).unwrap().with_bos(Some(1));
    let pair = |prompt: &str, completion: &str| {
        let (mut ids, count) = tokenizer.encode_pair(prompt, completion).unwrap();
        let answer = ids.split_off(ids.len() - count);
        let text = |ids: &[u32]| String::from_utf8(tokenizer.decode_bytes(ids).unwrap()).unwrap();
        (text(&ids), text(&answer))
    };
    for (prompt, completion, expected) in [
        ("the", " cat", (" the", " cat")),
        ("the ", "cat", (" the", " cat")),
        ("the \n ", "cat", (" the", " \n cat")),
        ("the\u{3000}", "cat", (" the", "\u{3000}cat")),
        // Not a blank between them.
        ("ca", "t", (" ca", "t")),
        // One token of both: apart it is.
        ("th", "e", (" th", "e")),
        ("c", "a", (" c", "a")),
        // What stands for an empty prompt, and all of the text.
        ("", "cat", ("<s>", " cat")),
        (" \n", "cat", ("<s>", "  \ncat")),
        ("the", "", (" the", "")),
    ] {
        assert_eq!(
            pair(prompt, completion),
            (expected.0.to_owned(), expected.1.to_owned()),
            "{prompt:?} {completion:?}"
        );
    }
}

#[test]
fn an_empty_prompt_is_what_begins_a_text_else_what_ends_one() {
    let opening = |file: &Value, bos| load(file, 2, 300).unwrap().with_bos(bos).opening();
    assert_eq!(opening(&llama3(), Some(5)), [261]);
    assert_eq!((opening(&llama2(), Some(1)), opening(&llama2(), None)), (vec![1], vec![2]));
    let tokenizer = load(&llama2(), 2, 300).unwrap();
    assert_eq!(tokenizer.encode_prompt("").unwrap(), [2]);
    assert_eq!(super::tokenizer().encode_prompt("").unwrap(), [0]);
}

#[test]
fn what_a_file_puts_behind_a_text_is_not_in_a_prompt() {
    let mut file = llama3();
    let end = json!({"SpecialToken": {"id": "<|end|>", "type_id": 0}});
    file["post_processor"]["single"].as_array_mut().unwrap().push(end);
    file["post_processor"]["special_tokens"]["<|end|>"] = json!({"id": "<|end|>", "ids": [262], "tokens": ["<|end|>"]});
    let tokenizer = load(&file, 262, 300).unwrap();
    assert_eq!(tokenizer.encode_prompt("the").unwrap(), [261, 257]);
    assert_eq!(tokenizer.encode_pair("the", " the").unwrap(), (vec![261, 257, 258], 1));
}

#[test]
fn a_prompt_that_stays_open_begins_with_what_is_before_its_white_space() {
    let own = tokenizer();
    assert_eq!(own.encode_open("the cat \n").unwrap(), (own.encode("the cat").unwrap(), b" \n".to_vec()));
    assert_eq!(own.encode_open("the").unwrap(), (own.encode("the").unwrap(), vec![]));
    assert_eq!(own.encode_open(" ").unwrap(), (vec![0], b" ".to_vec()));
    assert_eq!(own.encode_open("").unwrap(), (vec![0], vec![]));
    // At the beginning of a text stands what the tokenizer puts there.
    for (file, held) in [(llama2(), "   "), (metaspace("first", false), "  "), (prefix_space(), "  ")] {
        let tokenizer = load(&file, 2, 300).unwrap();
        assert_eq!(tokenizer.encode_open("  ").unwrap(), (vec![2], held.as_bytes().to_vec()));
        assert_eq!(tokenizer.encode_open("\n").unwrap(), (vec![2], b" \n".to_vec()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn pieces_have_the_ids_of_the_whole(
        text in "(the|ca|12|3|  ?|\n|\t|<\\|end\\|>|</s>|\u{4f60}|c|a){0,40}", target in 1_usize..24,
    ) {
        for (file, _) in kinds() {
            let (tokenizer, reference) = (load(&file, 2, 300).unwrap(), reference(&file));
            // No cap in reach: every cut is between words.
            let ids = in_pieces(&tokenizer, &text, PieceSize { target, cap: 1 << 20 });
            let whole = reference.encode(text.as_str(), false).unwrap();
            prop_assert_eq!(&ids, whole.get_ids(), "{}", file["pre_tokenizer"]);
        }
    }

    #[test]
    fn pairs_are_divided_texts(
        prompt in "(the|ca| |\n|\u{3000}|c|a|t){0,12}", completion in "(the|ca| |\n|\u{4f60}|c|a|t){1,12}",
    ) {
        for (file, _) in kinds() {
            let (tokenizer, reference) = (load(&file, 2, 300).unwrap(), reference(&file));
            let ids = |text: &str| reference.encode(text, false).unwrap().get_ids().to_vec();
            let (head, text) = (ids(prompt.trim_end()), format!("{prompt}{completion}"));
            let (found, count) = tokenizer.encode_pair(&prompt, &completion).unwrap();
            let start = if head.is_empty() { tokenizer.opening() } else { tokenizer.document_start().to_vec() };
            let whole = ids(&text);
            if whole.len() > head.len() {
                prop_assert_eq!(count, whole.len() - head.len());
                prop_assert_eq!(found, [start, whole].concat());
            } else {
                prop_assert_eq!(&found[..found.len() - count], [start, head].concat());
                let bytes = tokenizer.decode_bytes(&found[found.len() - count..]).unwrap();
                prop_assert_eq!(bytes, &text.as_bytes()[prompt.trim_end().len()..]);
            }
        }
    }
}
