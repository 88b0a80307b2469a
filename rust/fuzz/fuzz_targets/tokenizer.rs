//! Any bytes as a tokenizer.json, and any text through one that is accepted: decoding gives the text back.
//!
//! A vocabulary has at least 257 tokens, which chance does not find: where the input begins with `+`, the rest of its
//! first line goes into a file that has them, after the last token, and what follows the line is the text.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use symlm_core::data::Tokenizer;

/// GPT-2's names of the bytes.
fn vocabulary() -> &'static str {
    static VOCABULARY: OnceLock<String> = OnceLock::new();
    VOCABULARY.get_or_init(|| {
        let mut unused = (0x100..).filter_map(char::from_u32);
        let mut text = String::from("\"<|endoftext|>\":0");
        for byte in 0..=255_u8 {
            let c = match byte {
                b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
                _ => unused.next().expect("enough characters"),
            };
            let escape = if c == '"' || c == '\\' { "\\" } else { "" };
            text.push_str(&format!(",\"{escape}{c}\":{}", u32::from(byte) + 1));
        }
        text
    })
}

fn round_trip(tokenizer: &Tokenizer, text: &str) {
    let ids = tokenizer.encode(text).expect("any text has ids");
    assert!(ids.iter().all(|&id| Some(id) != tokenizer.eot_id() && (id as usize) < tokenizer.vocab_size()));
    assert_eq!(tokenizer.decode(&ids).expect("its own ids"), text);
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let Some(rest) = text.strip_prefix('+') else {
        let path = symlm_fuzz::file("tokenizer.json", data);
        match Tokenizer::from_file(&path) {
            Ok(tokenizer) => round_trip(&tokenizer, &text),
            Err(error) => symlm_fuzz::check(&error, &path),
        }
        return;
    };
    let (line, text) = rest.split_once('\n').unwrap_or((rest, rest));
    // The line continues after the vocabulary, as in `,"ab":257},"merges":["a b"]`.
    let json = format!(
        "{{\"pre_tokenizer\":{{\"type\":\"ByteLevel\",\"add_prefix_space\":false}},\
         \"added_tokens\":[{{\"id\":0,\"content\":\"<|endoftext|>\"}}],\"model\":{{\"vocab\":{{{}{line}}}}}",
        vocabulary()
    );
    match Tokenizer::from_json(json.into_bytes(), "NAME") {
        Ok(tokenizer) => {
            round_trip(&tokenizer, text);
            round_trip(&tokenizer, &format!("{text}<|endoftext|>{text}"));
        }
        Err(error) => symlm_fuzz::check(&error, "NAME".as_ref()),
    }
});
