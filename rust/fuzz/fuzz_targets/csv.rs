//! Any bytes as a table of CSV: an error that names the file, or documents; and a table that is written here comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use symlm_core::data::{Corpus, DataFormat, Interrupts};

fn read(data: &[u8]) -> Option<Vec<String>> {
    let path = symlm_fuzz::file("a.csv", data);
    let mut documents: Vec<String> = Vec::new();
    let outcome = Corpus::open_interruptible(&[&path], "text", DataFormat::Auto, Vec::new(), Interrupts::default());
    let outcome = outcome.and_then(|corpus| {
        if corpus.chat().is_some() {
            return symlm_fuzz::conversations(&corpus);
        }
        corpus.read(&mut |text, first, _| {
            if first {
                documents.push(String::new());
            }
            documents.last_mut().expect("begun").push_str(text);
            Ok(())
        })
    });
    match outcome {
        Ok(()) => Some(documents),
        Err(error) => {
            symlm_fuzz::check(&error, &path);
            None
        }
    }
}

fuzz_target!(|data: &[u8]| {
    read(data);
    read(&[b"text,n\n", data].concat());
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.is_empty() || text.contains('\0') {
        return;
    }
    let quoted = text.replace('"', "\"\"");
    let table = format!("n,text\r\n\"{quoted}\",\"{quoted}\"\r\n1,a\r\n");
    assert_eq!(read(table.as_bytes()), Some(vec![text.to_owned(), "a".to_owned()]));
});
