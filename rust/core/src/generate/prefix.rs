//! Texts that were read, kept so that others that begin alike need not read their beginning again.

use super::cache::{Cache, Pages};

/// Most texts that are kept: each is compared with every prompt.
const MOST_TEXTS: usize = 256;

/// A text and its keys and values.
struct Kept {
    ids: Vec<u32>,
    cache: Cache,
}

/// The texts that were used last, within a number of bytes. Pages that several of them share count for each.
pub(super) struct Prefixes {
    /// The one used last is the last.
    texts: Vec<Kept>,
    most_bytes: usize,
}

/// How many ids two texts have in common at their beginning.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Prefixes {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { texts: Vec::new(), most_bytes }
    }

    /// The text that has most of the beginning of `ids`: how many ids, and its keys and values.
    pub(super) fn find(&mut self, ids: &[u32]) -> Option<(usize, &Cache)> {
        let lengths = self.texts.iter().enumerate().map(|(place, kept)| (common(&kept.ids, ids), place));
        let (length, place) = lengths.max().filter(|(length, _)| *length > 0)?;
        let kept = self.texts.remove(place);
        self.texts.push(kept);
        self.texts.last().map(|kept| (length, &kept.cache))
    }

    /// Keeps a text, and lets go of those that are its beginning and of those that were not used for the longest time.
    pub(super) fn keep(&mut self, ids: &[u32], mut cache: Cache, pages: &mut Pages) {
        let bytes = cache.bytes(pages);
        if ids.is_empty() || bytes > self.most_bytes || self.texts.iter().any(|kept| kept.ids.starts_with(ids)) {
            return cache.clear(pages);
        }
        for mut kept in self.texts.extract_if(.., |kept| ids.starts_with(&kept.ids)) {
            kept.cache.clear(pages);
        }
        self.texts.push(Kept { ids: ids.to_vec(), cache });
        while self.texts.len() > MOST_TEXTS || self.bytes(pages) > self.most_bytes {
            self.texts.remove(0).cache.clear(pages);
        }
    }

    /// Bytes of all that are kept.
    pub(super) fn bytes(&self, pages: &Pages) -> usize {
        self.texts.iter().map(|kept| kept.cache.bytes(pages)).sum()
    }
}
