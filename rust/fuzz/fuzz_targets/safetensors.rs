//! Any bytes as a safetensors file: an error that names it, or exactly the tensors asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use symlm_core::checkpoint::read_tensors;

fuzz_target!(|data: &[u8]| {
    // The seeds hold these tensors.
    let expected = [("ab".to_owned(), vec![2, 2]), ("cd".to_owned(), vec![3]), ("e".to_owned(), vec![1, 0])];
    for expected in [&expected[..], &expected[..2]] {
        let path = symlm_fuzz::file("model.safetensors", data);
        let mut found = Vec::new();
        match read_tensors(&path, expected, &mut |index, values| found.push((index, values.len()))) {
            Ok(()) => {
                let lengths = expected.iter().map(|(_, shape)| shape.iter().product::<usize>());
                assert_eq!(found, lengths.enumerate().collect::<Vec<_>>());
            }
            Err(error) => {
                symlm_fuzz::check(&error, &path);
                // Checked before anything is handed on.
                assert!(found.is_empty());
            }
        }
    }
});
