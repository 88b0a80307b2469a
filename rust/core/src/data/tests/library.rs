//! Tokenizers of models from elsewhere.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::ErrorKind;

/// A byte-level vocabulary of the bytes, the merges, and what is added.
pub(super) fn byte_level(pre: Value, post: Value, added: &[&str]) -> Value {
    let mut vocab: Vec<String> = crate::data::byte_chars().iter().map(char::to_string).collect();
    let mut merges = Vec::new();
    for (a, b) in [("t", "h"), ("th", "e"), ("\u{120}", "the"), ("1", "2"), ("\u{10a}", "\u{10a}")] {
        merges.push([a, b]);
        vocab.push(format!("{a}{b}"));
    }
    let start = vocab.len();
    let vocab: serde_json::Map<_, _> = vocab.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let added: Vec<_> = added
        .iter()
        .enumerate()
        .map(|(i, text)| {
            json!({"id": start + i, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": added, "normalizer": null, "pre_tokenizer": pre, "post_processor": post,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
                  "vocab": vocab, "merges": merges}
    })
}

/// As Llama 3 has it: another regular expression, then bytes; a token before every text.
pub(super) fn llama3() -> Value {
    let pattern = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let pre = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
    let begin = json!({"SpecialToken": {"id": "<|begin|>", "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let post = json!({
        "type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [261], "tokens": ["<|begin|>"]}}
    });
    byte_level(pre, post, &["<|begin|>", "<|end|>"])
}

/// As Llama 2 has it: blanks as \u{2581}, one before every text, bytes as separate tokens.
pub(super) fn llama2() -> Value {
    let mut vocab = serde_json::Map::new();
    for token in ["<unk>", "<s>", "</s>"] {
        vocab.insert(token.into(), vocab.len().into());
    }
    for byte in 0..256 {
        vocab.insert(format!("<0x{byte:02X}>"), vocab.len().into());
    }
    for token in ["\u{2581}", "t", "h", "e", "c", "a", "th", "the", "\u{2581}the", "ca", "\u{2581}ca"] {
        vocab.insert(token.into(), vocab.len().into());
    }
    let added = |id: u32, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": [["t", "h"], ["th", "e"], ["\u{2581}", "the"], ["c", "a"], ["\u{2581}", "ca"]]}
    })
}

/// The tokenizer of a model whose texts end with `eos`.
pub(super) fn load(file: &Value, eos: u32, embedded: usize) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    Tokenizer::of_model(&path, Some(eos), Some(embedded))
}

/// The crate, without the cut and the filling that a file may ask for.
pub(super) fn reference(file: &Value) -> tokenizers::Tokenizer {
    let mut crate_s = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
    crate_s.with_truncation(None).unwrap();
    crate_s
}

proptest! {
    #[test]
    fn ids_are_those_of_the_library(text in "(the| |12|3|\n|<\\|end\\|>|</s>|\\PC|c|a){0,20}") {
        for (file, eos) in [(llama3(), 262), (llama2(), 2)] {
            let (tokenizer, reference) = (load(&file, eos, 300).unwrap(), reference(&file));
            let ids = |special| reference.encode(text.as_str(), special).unwrap().get_ids().to_vec();
            prop_assert_eq!(tokenizer.encode(&text).unwrap(), ids(false));
            let whole = ids(true);
            let prompt = if whole.is_empty() { tokenizer.opening() } else { whole };
            prop_assert_eq!(tokenizer.encode_prompt(&text).unwrap(), prompt);
            let ids = ids(false);
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), reference.decode(&ids, false).unwrap());
            // Token by token it is the text, but for the blank that a tokenizer puts in front of it and of what comes
            // after a special token.
            if eos == 2 && text.contains("</s>") {
                continue;
            }
            let mut bytes = Vec::new();
            for id in &ids {
                bytes.extend(tokenizer.decode_bytes(&[*id]).unwrap());
            }
            let whole = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(whole.strip_prefix(if eos == 2 { " " } else { "" }).unwrap_or(&whole), text.as_str());
        }
    }
}

#[test]
fn a_document_has_what_the_file_puts_before_every_text() {
    let files = folder(&[("a.txt", b"the cat 12 the"), ("b.txt", b"the the")]);
    for (file, eos, start) in [(llama3(), 262, vec![261]), (llama2(), 2, vec![]), (llama3(), 261, vec![261])] {
        let tokenizer = load(&file, eos, 300).unwrap();
        assert_eq!((tokenizer.document_start(), tokenizer.eot_id()), (start.as_slice(), Some(eos)));
        let cache = folder(&[]);
        let corpus = open(files.path()).unwrap();
        let (train, _) = corpus.prepare(&tokenizer, cache.path(), 0.0, 4, 2, &mut quiet()).unwrap();
        let mut ids = vec![0; train.tokens() as usize];
        train.copy_ids(0, &mut ids).unwrap();
        let mut expected = start.clone();
        expected.extend(tokenizer.encode("the cat 12 the").unwrap());
        // Once, where it both ends and begins a text.
        expected.extend((start.first() != Some(&eos)).then_some(eos));
        expected.extend(&start);
        expected.extend(tokenizer.encode("the the").unwrap());
        assert_eq!(ids, expected);
    }
}

#[test]
fn long_documents_are_encoded_as_a_whole() {
    let tokenizer = load(&llama2(), 2, 300).unwrap();
    let long = "the cat ".repeat(60_000);
    let files = folder(&[("a.txt", long.as_bytes())]);
    let cache = folder(&[]);
    let (train, _) = open(files.path()).unwrap().prepare(&tokenizer, cache.path(), 0.0, 4, 2, &mut quiet()).unwrap();
    let mut ids = vec![0; train.tokens() as usize];
    train.copy_ids(0, &mut ids).unwrap();
    assert_eq!(ids, reference(&llama2()).encode(long.as_str(), false).unwrap().get_ids());
}

#[test]
fn an_embedding_may_have_rows_to_spare_but_none_too_few() {
    let tokenizer = load(&llama3(), 262, 300).unwrap();
    assert_eq!(tokenizer.vocab_size(), 263);
    assert_eq!(tokenizer.decode_bytes(&[299, 262]).unwrap(), b"<|end|>");
    assert!(tokenizer.decode_bytes(&[300]).is_err());
    let error = load(&llama3(), 262, 262).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.message.ends_with("found 263 tokens, the model has an embedding for 262"), "{error}");
}

#[test]
fn a_tokenizer_trained_here_stays_what_it_is() {
    let own = tokenizer();
    let file: Value = serde_json::from_slice(own.json()).unwrap();
    let text = "the cat <|endoftext|> sat";
    let same = load(&file, 0, own.vocab_size()).unwrap();
    assert_eq!(same.encode_prompt(text).unwrap(), own.encode(text).unwrap());
    // A model that ends texts with another token does not take it as symlm does.
    let other = load(&file, 5, own.vocab_size()).unwrap();
    assert!(other.encode(text).unwrap().contains(&0) && !own.encode(text).unwrap().contains(&0));
}

#[test]
fn what_cannot_be_used_is_an_error() {
    let change = |path: &str, value: Value| {
        let mut file = llama2();
        *file.pointer_mut(path).unwrap() = value;
        load(&file, 2, 300).map(drop).unwrap_err()
    };
    for (path, value, expected) in [
        ("/decoder", json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), "found decoder WordPiece"),
        ("/decoder", Value::Null, "found decoder none"),
        ("/model/dropout", json!(0.1), "found dropout"),
        ("/model/vocab/the", json!(4_000_000_000_u32), "expected 1 to 1048576 tokens"),
        ("/model/merges", json!([["no", "token"]]), "not a tokenizer.json"),
        ("/model", json!(5), "not a tokenizer.json"),
        ("/normalizer", json!({"type": "Nothing"}), "not a tokenizer.json"),
    ] {
        let error = change(path, value);
        assert_eq!(error.kind, ErrorKind::Data);
        assert!(error.message.contains(expected) && !error.message.contains('\n'), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Flipped bits and cuts give a tokenizer or an error, and no panic.
    #[test]
    fn damaged_files_do_no_harm(flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..7), 1..5), new in any::<bool>()) {
        let mut bytes = (if new { llama3() } else { llama2() }).to_string().into_bytes();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let files = folder(&[("tokenizer.json", &bytes)]);
        match Tokenizer::of_model(&files.path().join("tokenizer.json"), Some(2), None) {
            Ok(tokenizer) => {
                let _ = tokenizer.encode_prompt("the cat 12\n");
                let _ = tokenizer.decode(&[5, 6]);
            }
            Err(error) => prop_assert!(error.message.len() < 2000 && !error.message.contains('\n')),
        }
    }
}
