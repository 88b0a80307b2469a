use super::*;
use crate::data::Tokenizer;
use proptest::prelude::*;
use serde_json::json;

/// A byte-level tokenizer of the bytes, the merges, special tokens and added ones that are text.
fn byte_level(merges: &[&str], special: &[&str], added: &[&str]) -> Arc<Tokenizer> {
    let chars = crate::data::byte_chars();
    let spell = |text: &str| text.bytes().map(|byte| chars[usize::from(byte)]).collect::<String>();
    let mut vocab: Vec<String> = chars.iter().map(char::to_string).collect();
    let mut pairs = Vec::new();
    for merge in merges {
        let (a, b) = merge.split_once('+').unwrap();
        pairs.push([spell(a), spell(b)]);
        vocab.push(spell(a) + &spell(b));
    }
    let tokens: Vec<_> = special.iter().map(|t| (t, true)).chain(added.iter().map(|t| (t, false))).collect();
    let added = tokens.iter().enumerate().map(|(i, (text, special))| {
        json!({"id": vocab.len() + i, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": special})
    });
    let added: Vec<_> = added.collect();
    let vocab: serde_json::Map<_, _> = vocab.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let file = json!({
        "version": "1.0", "added_tokens": added, "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": pairs}
    });
    load(&file)
}

/// A tokenizer of whole words, without tokens for all bytes.
fn words(tokens: &[&str]) -> Arc<Tokenizer> {
    let vocab: serde_json::Map<_, _> = tokens.iter().enumerate().map(|(id, t)| ((*t).to_owned(), id.into())).collect();
    load(&json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": tokens[0]}
    }))
}

fn load(file: &serde_json::Value) -> Arc<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    Arc::new(Tokenizer::of_model(&path, None, None).unwrap())
}

/// The tokens that may come next.
fn allowed(held: &Held, tokenizer: &Tokenizer) -> Vec<String> {
    let ids = (0..tokenizer.vocab_size() as u32).filter(|id| held.allows(*id));
    ids.map(|id| String::from_utf8(tokenizer.token(id).unwrap().to_vec()).unwrap()).collect()
}

fn id_of(tokenizer: &Tokenizer, text: &str) -> u32 {
    let mut ids = 0..tokenizer.vocab_size() as u32;
    ids.rfind(|id| tokenizer.token(*id) == Some(text.as_bytes())).unwrap()
}

fn hold(tokenizer: &Arc<Tokenizer>, text: &str, stop_ids: &[u32]) -> Option<Held> {
    Held::new(tokenizer, text.as_bytes().to_vec(), stop_ids, tokenizer.vocab_size())
}

#[test]
fn tokens_repeat_a_part_or_all_and_more() {
    let tokenizer = byte_level(&["s+e", "l+f", "se+lf", " +self", " + ", "\n+\n", "  +  "], &["<s>"], &[]);
    let mut held = hold(&tokenizer, "\n\n  ", &[]).unwrap();
    assert_eq!((held.len(), allowed(&held, &tokenizer)), (4, vec!["\n".to_owned(), "\n\n".into()]));
    assert!(!held.accept(id_of(&tokenizer, "\n\n")) && !held.is_done());
    // All of them: a blank, both, and both with two more.
    assert_eq!(allowed(&held, &tokenizer), [" ", "  ", "    "]);
    assert!(!held.accept(id_of(&tokenizer, " ")));
    assert_eq!(allowed(&held, &tokenizer), [" ", " self", "  ", "    "]);
    assert!(held.accept(id_of(&tokenizer, " self")) && held.is_done());
}

#[test]
fn what_is_no_text_repeats_nothing() {
    // A special token, one that ends a text and one that does not, all made of white space.
    let tokenizer = byte_level(&[" + "], &["  \n"], &["\n "]);
    let held = hold(&tokenizer, "\n ", &[]).unwrap();
    assert_eq!(allowed(&held, &tokenizer), ["\n", "\n "]);
    let held = hold(&tokenizer, "\n ", &[id_of(&tokenizer, "\n")]).unwrap();
    assert_eq!(allowed(&held, &tokenizer), ["\n "]);
    let held = hold(&tokenizer, "  ", &[]).unwrap();
    assert_eq!(allowed(&held, &tokenizer), [" ", "  "]);
    // With neither there is no way to begin.
    assert!(hold(&tokenizer, "\n ", &[id_of(&tokenizer, "\n"), id_of(&tokenizer, "\n ")]).is_none());
    assert!(hold(&tokenizer, "", &[]).is_none());
    assert!(hold(&tokenizer, &" ".repeat(256), &[]).is_some() && hold(&tokenizer, &" ".repeat(257), &[]).is_none());
}

#[test]
fn a_token_that_leads_nowhere_is_not_drawn() {
    // One blank can be repeated, but not the line end behind it, unless with a word.
    let tokenizer = words(&["?", " ", "  ", " \nx", "\t"]);
    let held = hold(&tokenizer, "  \n", &[]).unwrap();
    assert_eq!(allowed(&held, &tokenizer), [" "]);
    assert!(hold(&tokenizer, "\n", &[]).is_none() && hold(&tokenizer, "\t\n", &[]).is_none());
}

#[test]
fn characters_of_several_bytes_are_repeated_byte_by_byte() {
    let tokenizer = byte_level(&[], &[], &["\u{3000}x"]);
    let mut held = hold(&tokenizer, "\u{3000}", &[]).unwrap();
    let ids: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|id| held.allows(*id)).collect();
    let bytes: Vec<&[u8]> = ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect();
    assert_eq!(bytes, [&b"\xe3"[..], "\u{3000}x".as_bytes()]);
    assert!(!held.accept(ids[0]));
    assert_eq!(
        (0..256).filter(|id| held.allows(*id)).map(|id| tokenizer.token(id).unwrap()[0]).collect::<Vec<_>>(),
        [0x80]
    );
}

proptest! {
    /// Whatever is drawn, the tokens spell the text, and there is always one to draw.
    #[test]
    fn what_is_drawn_spells_the_text(text in "[ \n\t\u{3000}]{1,12}", choices in prop::collection::vec(any::<prop::sample::Index>(), 64)) {
        let tokenizer = byte_level(&[" + ", "\n+\n", "  +  ", " +x", "\n+ ", "\n + "], &["\n"], &["\t \n"]);
        let mut held = hold(&tokenizer, &text, &[]).unwrap();
        let mut spelt = Vec::new();
        for choice in choices {
            let ids: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|id| held.allows(*id)).collect();
            prop_assert!(!ids.is_empty());
            let id = ids[choice.index(ids.len())];
            spelt.extend_from_slice(tokenizer.token(id).unwrap());
            let new = held.accept(id);
            prop_assert_eq!(new, spelt.len() > text.len());
            if held.is_done() {
                break;
            }
        }
        prop_assert!(held.is_done() && spelt.starts_with(text.as_bytes()));
    }
}
