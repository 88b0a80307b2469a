//! Training, encoding, decoding, files.

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::data::pretoken::piece_len;
use crate::data::tokenizer::Encoder;

fn reference(tokenizer: &Tokenizer) -> tokenizers::Tokenizer {
    let mut reference = tokenizers::Tokenizer::from_bytes(tokenizer.json()).unwrap();
    reference.set_encode_special_tokens(true);
    reference
}

#[test]
fn end_of_text_is_id_zero_and_its_literal_is_text() {
    let tokenizer = tokenizer();
    assert_eq!((tokenizer.eot_id(), tokenizer.vocab_size()), (Some(0), 300));
    assert_eq!(tokenizer.token(0), Some(END_OF_TEXT.as_bytes()));
    let ids = tokenizer.encode("a <|endoftext|> b<|endoftext|>").unwrap();
    assert!(!ids.contains(&0));
    assert_eq!(tokenizer.decode(&ids).unwrap(), "a <|endoftext|> b<|endoftext|>");
    assert_eq!(tokenizer.decode(&[0]).unwrap(), END_OF_TEXT);
    assert!(tokenizer.encode("").unwrap().is_empty());
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let files: Vec<(String, String)> = (0..9).map(|i| (format!("{i}.txt"), text(i, 3000))).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    let folder = folder(&files);
    let corpus = open(folder.path()).unwrap();
    for sample in [u64::MAX, 20_000] {
        let one = corpus.train_on_sample(300, 1, &[], sample, &mut quiet()).unwrap();
        for threads in [2, 5] {
            let other = corpus.train_on_sample(300, threads, &[], sample, &mut quiet()).unwrap();
            assert!(one.json() == other.json());
        }
    }
}

#[test]
fn a_vocabulary_beyond_the_text_is_an_error() {
    let folder = folder(&[("a.txt", b"low lower lowest")]);
    let corpus = open(folder.path()).unwrap();
    let error = corpus.train_tokenizer(1000, 1, &mut quiet()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.message.contains("supports a vocabulary of 261 tokens, expected 1000"), "{error}");
    assert!(error.hint.unwrap().contains("at most 261"));
    assert_eq!(corpus.train_tokenizer(261, 1, &mut quiet()).unwrap().vocab_size(), 261);
    assert_eq!(corpus.train_tokenizer(257, 1, &mut quiet()).unwrap().vocab_size(), 257);
    for size in [0, 256, usize::MAX] {
        assert_eq!(corpus.train_tokenizer(size, 1, &mut quiet()).unwrap_err().kind, ErrorKind::Usage);
    }
}

#[test]
fn an_error_of_the_progress_stops_the_training() {
    let folder = folder(&[("a.txt", text(1, 4000).as_bytes())]);
    let corpus = open(folder.path()).unwrap();
    let error = corpus.train_tokenizer(300, 2, &mut |_, _| Err(crate::Error::user("stop"))).unwrap_err();
    assert_eq!(error.message, "stop");
}

#[test]
fn files_round_trip_byte_for_byte() {
    let tokenizer = tokenizer();
    let folder = folder(&[]);
    let path = folder.path().join("tokenizer.json");
    tokenizer.save(&path).unwrap();
    let again = Tokenizer::from_file(&path).unwrap();
    assert_eq!(again.sha256(), tokenizer.sha256());
    assert_eq!(std::fs::read(&path).unwrap(), tokenizer.json());
    assert_eq!(again.encode("the cat").unwrap(), tokenizer.encode("the cat").unwrap());
    let error = tokenizer.save(&folder.path().join("gone/tokenizer.json")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::User);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn other_tokenizer_files_are_refused_with_a_reason() {
    let good: serde_json::Value = serde_json::from_slice(tokenizer().json()).unwrap();
    let changed = |path: &str, value: serde_json::Value| {
        let mut file = good.clone();
        *file.pointer_mut(path).unwrap() = value;
        Tokenizer::from_json(serde_json::to_vec(&file).unwrap(), "t.json").map(|_| ()).unwrap_err().message
    };
    use serde_json::json;
    for (path, value, expected) in [
        ("/model/type", json!("WordPiece"), "found a WordPiece model, expected BPE"),
        ("/pre_tokenizer", json!(null), "found pre-tokenizer none"),
        ("/pre_tokenizer/add_prefix_space", json!(true), "other settings"),
        ("/pre_tokenizer/use_regex", json!(false), "other settings"),
        ("/normalizer", json!({"type": "NFC"}), "found normalizer NFC"),
        ("/decoder", json!({"type": "Metaspace"}), "found decoder Metaspace"),
        ("/added_tokens", json!([]), "found no special token"),
        ("/added_tokens/0/content", json!("<pad>"), "found added token \"<pad>\""),
        ("/model/dropout", json!(0.1), "found dropout"),
        ("/model/byte_fallback", json!(true), "found byte_fallback"),
        ("/model/end_of_word_suffix", json!("</w>"), "found subword affix"),
        ("/model/vocab", json!({"a": 0}), "found a vocabulary of 1 tokens"),
        ("/model/vocab/a", json!(999_999), "found id 999999"),
        ("/model/vocab/a", json!(66), "twice"),
        ("/model/vocab/<|endoftext|>", json!(5), "with id 5"),
        ("/model/merges/0", json!(["a", "nowhere"]), "merge 0"),
        ("/model/merges/0", json!(["Ġthe", "Ġthe"]), "merge 0"),
        ("/model/merges/0", json!("justone"), "merge 0"),
        ("/model", json!(3), "not a tokenizer.json"),
    ] {
        let message = changed(path, value);
        assert!(message.starts_with("t.json: ") && message.contains(expected), "{path}: {message}");
    }
    for bytes in [&b""[..], b"{}", b"\xff", b"[1]", b"{\"model\": {\"vocab\": {}, \"merges\": []}}"] {
        let error = Tokenizer::from_json(bytes.to_vec(), "t.json").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Data);
    }
    assert!(Tokenizer::from_file(Path::new("/nonexistent")).is_err());
    assert!(Tokenizer::from_file(Path::new("/tmp")).unwrap_err().message.contains("found a folder"));
}

#[test]
fn unknown_ids_are_errors() {
    let error = tokenizer().decode(&[1, 300]).unwrap_err();
    assert!(error.message.contains("found token id 300"), "{error}");
}

#[test]
fn arbitrary_text_round_trips_and_equals_the_crate() {
    let tokenizer = tokenizer();
    let reference = reference(&tokenizer);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(500));
    let words = prop::sample::select(vec![
        "the ",
        " cat",
        "don't",
        "\r\n",
        "  ",
        "<|endoftext|>",
        "looked",
        "\u{3000}",
        "ß",
        "漢字",
        "1234",
        "'ll",
        "\t",
    ]);
    let mixed = prop::collection::vec(words, 0..30).prop_map(|words| words.concat());
    let any_text = prop_oneof![any::<String>(), mixed];
    runner
        .run(&(any_text, 1usize..20), |(text, target)| {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids).unwrap(), &text);
            prop_assert_eq!(tokenizer.decode_bytes(&ids).unwrap(), text.as_bytes());
            let whole = reference.encode(text.as_str(), false).unwrap();
            prop_assert_eq!(&ids[..], whole.get_ids());
            // The same in tiny pieces, with the memory of one encoder.
            let (mut encoder, mut apart, mut rest) = (Encoder::default(), Vec::new(), text.as_str());
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at(piece_len(rest, true, target, 1 << 20).unwrap());
                encoder.encode(&tokenizer, None, piece, &mut apart).unwrap();
                rest = tail;
            }
            prop_assert_eq!(apart, ids);
            Ok(())
        })
        .unwrap();
}
