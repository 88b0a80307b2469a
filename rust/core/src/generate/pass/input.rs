//! What a pass computes: rows of texts, and where their keys and values lie.

use crate::generate::cache::Cache;
use std::ops::Range;

/// Neighbouring rows of a pass that are neighbouring positions of one text.
pub(super) struct Span {
    /// Of the first row.
    pub position: usize,
    /// Its rows of the pass.
    pub rows: Range<usize>,
    /// Its pages in [`Input::pages`].
    pages: Range<usize>,
}

/// The rows of a pass.
#[derive(Default)]
pub(in crate::generate) struct Input {
    pub(super) ids: Vec<u32>,
    pub(super) spans: Vec<Span>,
    pages: Vec<*const f32>,
    /// Rows whose logits are wanted, ascending.
    pub(super) outputs: Vec<usize>,
}

// SAFETY: the pointers lead to pages that the caches of the texts own; who reads and writes them is the matter of `Pass::run`.
unsafe impl Send for Input {}
// SAFETY: as above.
unsafe impl Sync for Input {}

impl Input {
    /// Forgets all rows.
    pub(in crate::generate) fn clear(&mut self) {
        self.ids.clear();
        self.spans.clear();
        self.pages.clear();
        self.outputs.clear();
    }

    /// Number of rows.
    pub(in crate::generate) fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Adds rows: `ids` at `position` of a text, whose cache has their pages for itself. The logits of the `wanted` last ones
    /// are computed.
    pub(in crate::generate) fn push(&mut self, ids: &[u32], position: usize, cache: &Cache, wanted: usize) {
        let rows = self.ids.len()..self.ids.len() + ids.len();
        let first = self.pages.len();
        self.pages.extend(cache.pointers(position + ids.len()).map(<*mut f32>::cast_const));
        self.outputs.extend(rows.end - wanted..rows.end);
        self.spans.push(Span { position, rows, pages: first..self.pages.len() });
        self.ids.extend_from_slice(ids);
    }

    /// The pages of a text, in the order of its positions.
    pub(super) fn pages(&self, span: &Span) -> &[*const f32] {
        &self.pages[span.pages.clone()]
    }
}
