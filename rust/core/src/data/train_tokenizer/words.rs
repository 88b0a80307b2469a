//! Counting different words in little memory.

use ahash::RandomState;
use hashbrown::HashTable;
use rayon::prelude::*;

/// Tables that the words are spread over: growing one of them, or moving it, takes little beside the others.
const TABLES: usize = 16;

/// Different words and how often each was added; at most 4 GiB of text.
///
/// A word costs its bytes and some 20 more, without a separate allocation: a text of which every word is another
/// one has millions.
pub(crate) struct Words {
    hasher: RandomState,
    /// All words one after the other.
    text: Vec<u8>,
    tables: [HashTable<Word>; TABLES],
}

#[derive(Clone, Copy)]
struct Word {
    start: u32,
    count: u32,
    len: u16,
}

impl Word {
    fn bytes(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..][..usize::from(self.len)]
    }
}

impl Words {
    /// None yet. Counts that are to be added up have one `hasher`.
    pub(crate) fn new(hasher: RandomState) -> Self {
        Self { hasher, text: Vec::new(), tables: std::array::from_fn(|_| HashTable::new()) }
    }

    /// Adds `count` of a word of at most 65,535 bytes.
    pub(crate) fn add(&mut self, word: &[u8], count: u32) {
        let Self { hasher, text, tables } = self;
        let hash = hasher.hash_one(word);
        // The tables themselves use the lowest and the highest bits.
        let table = &mut tables[(hash >> 32) as usize % TABLES];
        if let Some(known) = table.find_mut(hash, |known| known.bytes(text) == word) {
            known.count += count;
            return;
        }
        let start = u32::try_from(text.len()).expect("the sample is bounded");
        text.extend_from_slice(word);
        let len = u16::try_from(word.len()).expect("words are counted in short parts");
        table.insert_unique(hash, Word { start, count, len }, |known| hasher.hash_one(known.bytes(text)));
    }

    /// Adds all of `other`.
    pub(crate) fn absorb(&mut self, other: Self) {
        let Self { text, tables, .. } = other;
        for table in tables {
            for word in table {
                self.add(word.bytes(&text), word.count);
            }
        }
    }

    /// The words by falling count, equal ones by their bytes, until those before and this one have more than `limit` bytes.
    /// Sorts in the rayon pool of the caller.
    pub(crate) fn most_frequent(self, limit: usize) -> Vec<(Vec<u8>, u64)> {
        let Self { text, tables, .. } = self;
        let mut words: Vec<Word> = Vec::with_capacity(tables.iter().map(HashTable::len).sum());
        for table in tables {
            words.extend(table);
        }
        words.par_sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.bytes(&text).cmp(b.bytes(&text))));
        let mut bytes = 0;
        let kept = words.iter().take_while(|word| {
            bytes += usize::from(word.len);
            bytes <= limit
        });
        kept.map(|word| (word.bytes(&text).to_vec(), u64::from(word.count))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_are_those_of_a_map(
            parts in prop::collection::vec(prop::collection::vec("[ab]{1,4}|[a-z]{1,300}", 0..40), 1..4),
            limit in 0usize..2000,
        ) {
            let hasher = RandomState::new();
            let mut all = Words::new(hasher.clone());
            let mut expected: HashMap<&[u8], u64> = HashMap::new();
            for part in &parts {
                let mut words = Words::new(hasher.clone());
                for word in part {
                    words.add(word.as_bytes(), 1);
                    *expected.entry(word.as_bytes()).or_default() += 1;
                }
                all.absorb(words);
            }
            let mut expected: Vec<(Vec<u8>, u64)> = expected.into_iter().map(|(word, n)| (word.to_vec(), n)).collect();
            expected.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            let mut bytes = 0;
            let kept = expected.iter().position(|(word, _)| { bytes += word.len(); bytes > limit });
            expected.truncate(kept.unwrap_or(expected.len()));
            prop_assert_eq!(all.most_frequent(limit), expected);
        }
    }
}
