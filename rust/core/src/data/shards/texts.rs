//! Texts: pieces of documents, encoded and divided between training and validation.

use std::sync::Mutex;

use super::file::Shards;
use super::making::{Making, encode_all, has_room};
use super::split::{Divider, Planner};
use crate::data::corpus::{Corpus, Piece};
use crate::data::threads::Threads;
use crate::data::tokenizer::{END_BYTES, Encoder};
use crate::error::Result;

impl Corpus {
    /// Encodes the documents into shards of text.
    pub(super) fn build_texts(&self, making: &mut Making<'_, '_>) -> Result<(Shards, Option<Shards>)> {
        let tokenizer = making.tokenizer;
        let (eot, size) = (tokenizer.end_of_text()?, tokenizer.piece_size());
        let (mut train, mut val) = making.begin(None)?;
        let threads = Threads::new(making.threads)?;
        let mut planner = Planner::new(making.val_split);
        let mut documents = self.documents(size);
        while let Some(piece) = documents.next_piece()? {
            planner.add(&piece);
            making.meter.at(0)?;
        }
        if planner.bytes() == 0 {
            return Err(self.no_text());
        }
        let mut divider = Divider::new(planner.decide());

        let encoders: Vec<Mutex<Encoder>> = (0..threads.count()).map(|_| Mutex::default()).collect();
        let mut documents = self.documents(size);
        let mut batch: Vec<(Option<String>, Piece, bool)> = Vec::new();
        let mut end = String::new();
        // Whether the part already has the document under way: one that was cut in two has to begin in both.
        let mut begun = [false; 2];
        let mut more = true;
        while more {
            batch.clear();
            let mut in_batch = 0;
            while has_room(&threads, in_batch, batch.len(), size.target) {
                let Some(piece) = documents.next_piece()? else {
                    more = false;
                    break;
                };
                in_batch += piece.text.len();
                divider.divide(piece, |piece, held| {
                    let next = end_of(&piece.text);
                    let before = std::mem::replace(&mut end, next);
                    batch.push(((!piece.first).then_some(before), piece, held));
                });
            }
            let encoded = encode_all(&threads, &encoders, &batch, |encoder, (before, piece, _)| {
                let mut ids = Vec::with_capacity(piece.text.len() / 3);
                encoder.encode(tokenizer, before.as_deref(), &piece.text, &mut ids)?;
                Ok(ids)
            })?;
            for ((_, piece, held), ids) in batch.iter().zip(&encoded) {
                let part = if *held { &mut val } else { &mut train };
                let begun = &mut begun[usize::from(*held)];
                if piece.first || !*begun {
                    part.begin_document(eot, tokenizer.document_start())?;
                }
                *begun = !piece.last;
                part.push(ids)?;
                part.add_bytes(piece.text.len() as u64);
            }
            making.meter.at(documents.disk_bytes())?;
        }
        drop(threads);
        drop((batch, encoders));
        making.finish(documents.digests(), train, val)
    }
}

/// The end of a piece, which is all that the next one may depend on.
fn end_of(text: &str) -> String {
    let at = text.len().saturating_sub(END_BYTES);
    (at..=text.len()).find_map(|at| text.get(at..)).unwrap_or_default().to_owned()
}
