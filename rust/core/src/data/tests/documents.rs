//! Where documents begin, in texts and among packed examples.

use super::*;
use crate::config::Attend;
use crate::data::{BEGIN, CONTEXT, Shards};
use crate::system::interrupts::Interrupts;

fn words(shards: &Shards, start: u64) -> Vec<u32> {
    let mut words = vec![0; (shards.tokens() - start) as usize];
    shards.copy_documents(start, &mut words).unwrap();
    words
}

fn plain(shards: &Shards) -> Vec<u32> {
    let mut words = vec![0; shards.tokens() as usize];
    shards.copy_words(0, &mut words).unwrap();
    words
}

fn prepare(corpus: &Corpus, tokenizer: &Tokenizer, cache: &Path, attend: Attend, seq_len: usize) -> Shards {
    corpus.prepare_for(attend, tokenizer, cache, 0.0, seq_len, 2, &mut quiet()).unwrap().0
}

#[test]
fn a_document_of_a_text_begins_with_the_token_before_it() {
    let (tokenizer, cache) = (tokenizer(), folder(&[]));
    let files = folder(&[("a.txt", b"the cat sat"), ("b.txt", b"bread"), ("c.txt", b"a garden")]);
    let corpus = open(files.path()).unwrap();
    let shards = prepare(&corpus, &tokenizer, cache.path(), Attend::Document, 2);
    let expected: Vec<u32> = ["the cat sat", "bread", "a garden"]
        .iter()
        .enumerate()
        .flat_map(|(i, text)| [BEGIN].into_iter().take(i).chain(tokenizer.encode(text).unwrap()))
        .collect();
    assert_eq!(words(&shards, 0), expected);
    // From anywhere: what lies before does not matter.
    for start in 0..expected.len() {
        assert_eq!(words(&shards, start as u64), expected[start..]);
    }
    // The ids are those of whole windows, and lie in the same file.
    let whole = prepare(&corpus, &tokenizer, cache.path(), Attend::Window, 2);
    assert_eq!((whole.sha256(), whole.path()), (shards.sha256(), shards.path()));
    assert_eq!(plain(&whole), expected.iter().map(|id| id & !BEGIN).collect::<Vec<_>>());
    // A file that is opened by its name does not say what encoded it.
    let bare = Shards::open(shards.path()).unwrap();
    assert!(bare.copy_documents(0, &mut [0]).unwrap_err().message.contains("not told apart"));
    assert_eq!(words(&bare.encoded_by(&tokenizer), 0), expected);
}

#[test]
fn every_packed_example_is_marked_and_what_fills_a_window_too() {
    let (tokenizer, cache) = (tokenizer(), folder(&[]));
    let line = |i: usize| {
        let prompt = text(i as u64, i % 7);
        format!("{{\"prompt\": \"{}\", \"completion\": \" garden {i}\"}}\n", prompt.replace("\r\n", " "))
    };
    let lines: Vec<String> = (0..40).map(line).collect();
    let files = folder(&[("a.jsonl", lines.concat().as_bytes())]);
    let paths = [files.path().display().to_string()];
    let corpus =
        Corpus::open_interruptible(&paths, "text", DataFormat::Auto, Vec::new(), Interrupts::default()).unwrap();
    let [marked, whole] =
        [Attend::Document, Attend::Window].map(|attend| prepare(&corpus, &tokenizer, cache.path(), attend, 40));
    assert_ne!(marked.path(), whole.path());
    assert_eq!(plain(&marked), plain(&whole));
    assert_eq!((marked.targets(), marked.documents(), marked.cut()), (whole.targets(), 40, whole.cut()));
    assert!(whole.copy_documents(0, &mut [0; 41]).unwrap_err().message.contains("not told apart"));
    let words = words(&marked, 0);
    for window in words.chunks(41) {
        assert_ne!(window[0] & BEGIN, 0);
        for (at, pair) in window.windows(2).enumerate() {
            // An example ends with the only tokens of it that count; what fills the window is one range.
            let ends = pair[0] & CONTEXT == 0 && pair[1] & CONTEXT != 0;
            assert_eq!(pair[1] & BEGIN != 0, ends, "{at}");
        }
    }
    // They are found again.
    assert_eq!(prepare(&corpus, &tokenizer, cache.path(), Attend::Document, 40).sha256(), marked.sha256());
}
