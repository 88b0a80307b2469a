//! Any bytes as a shard. The hashes in it keep chance out, so the input is also taken as numbers and ids of a shard
//! whose hashes are right: then it opens exactly when the numbers fit the ids.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use symlm_core::data::Shards;

const HEADER: usize = 256;
const NUMBERS: usize = 48;

fn open(data: &[u8]) -> Option<Shards> {
    let path = symlm_fuzz::file("a.ids", data);
    match Shards::open(&path) {
        Ok(shards) => {
            let mut ids = vec![0; shards.tokens() as usize];
            shards.copy_ids(0, &mut ids).expect("all ids");
            assert!(ids.iter().all(|&id| (id as usize) < shards.vocab_size()));
            assert!(shards.copy_ids(1, &mut ids).is_err() || ids.is_empty());
            shards.copy_ids(u64::MAX, &mut [0]).expect_err("beyond the end");
            Some(shards)
        }
        Err(error) => {
            symlm_fuzz::check(&error, &path);
            None
        }
    }
}

fuzz_target!(|data: &[u8]| {
    open(data);
    if data.len() < NUMBERS {
        return;
    }
    let (numbers, ids) = data.split_at(NUMBERS);
    let mut file = numbers.to_vec();
    file.resize(80, 0);
    file.extend_from_slice(&Sha256::digest(ids));
    file.resize(HEADER - 32, 0);
    let seal = Sha256::digest(&file);
    file.extend_from_slice(&seal);
    file.extend_from_slice(ids);
    let opened = open(&file);

    let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().expect("eight bytes"));
    let (tokens, vocab) = (number(16), number(40));
    let width: usize = if vocab <= 1 << 16 { 2 } else { 4 };
    let fits = numbers[..8] == *b"symlmids"
        && numbers[8..12] == 1_u32.to_le_bytes()
        && numbers[12..16] == (width as u32).to_le_bytes()
        && vocab <= u64::from(u32::MAX)
        && u128::from(tokens) * width as u128 == ids.len() as u128
        && ids.chunks(width).all(|id| id.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)) < vocab);
    assert_eq!(opened.is_some(), fits);
});
