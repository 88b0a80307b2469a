//! One thread's part of attention: heads of every text, with their keys and values.

use super::input::Span;
use super::memory::{Memory, Private, STRIP};
use super::share::Share;
use crate::generate::cache::{PAGE, layer_at};
use std::ops::Range;
use symlm_kernels::attention::{Paged, page_len, row_forward, strip_forward};
use symlm_kernels::gemm::Packed;
use symlm_kernels::{Mat, MatMut, rope};

impl Share<'_> {
    /// Attention of this thread's heads, of every text some.
    ///
    /// In this phase a thread touches, of the rows of a text, only the columns of its heads, and of the pages only the regions
    /// of its heads.
    pub(super) fn attention(&mut self, layer: usize) {
        let (heads, threads) = (self.model.config().num_kv_heads, self.member.threads);
        for (number, span) in self.input.spans.iter().enumerate() {
            // Where there are fewer heads than threads, each text begins with another thread.
            let owner = |head: usize| (head * threads / heads + number) % threads;
            let mut head = 0;
            while head < heads {
                let end = (head..heads).find(|h| owner(*h) != owner(head)).unwrap_or(heads);
                if owner(head) == self.member.index {
                    self.heads(layer, span, head..end);
                }
                head = end;
            }
        }
    }

    /// Attention of some key/value heads of a text, with the query heads that belong to them.
    fn heads(&mut self, layer: usize, span: &Span, heads: Range<usize>) {
        let (c, isa) = (self.model.config(), self.model.isa);
        let (d, group) = (c.head_dim(), c.group());
        let q = heads.start * group * d..heads.end * group * d;
        let k = c.hidden_size + heads.start * d..c.hidden_size + heads.end * d;
        let v = k.start + c.kv_size()..k.end + c.kv_size();
        let Memory { qkv, attended, .. } = self.memory;
        for columns in [q.clone(), k.clone()] {
            // SAFETY: columns of this thread's heads, which no other thread touches in this phase; one view at a time.
            let rows = unsafe { qkv.columns_mut(span.rows.clone(), columns) };
            rope::forward(isa, rows, d, &self.model.rope, span.position);
        }
        // SAFETY: as above; from here on nobody writes these columns in this phase, not even this thread.
        let [rows, keys, values] = [q.clone(), k, v].map(|columns| unsafe { qkv.columns(span.rows.clone(), columns) });
        self.store(layer, span, heads.start, keys, values);
        // SAFETY: columns of this thread's heads, which no other thread touches in this phase.
        let mut out = unsafe { attended.columns_mut(span.rows.clone(), q) };
        let (at, last) = (layer_at(c, layer) + heads.start * page_len(d), span.position + span.rows.len());
        // SAFETY: the pages hold `last` positions. In pages of this text alone only this thread writes these regions, and it has
        // done so; pages that it shares with others nobody writes.
        let cache = unsafe { Paged::new(self.input.pages(span), at, heads.len(), d, last) };
        if span.rows.len() == 1 {
            return row_forward(isa, rows.row(0), group, cache, out.row(0), self.private.scores.get_mut());
        }
        for head in 0..heads.len() {
            let columns = head * group * d..(head + 1) * group * d;
            self.strips(span.position, rows.col_range(columns.clone()), cache, head, out.col_range(columns));
        }
    }

    /// Attention of the query heads that belong to one key/value head, for many rows of a text, the first at `position`.
    fn strips(&mut self, position: usize, rows: Mat<'_>, cache: Paged<'_>, head: usize, mut out: MatMut<'_>) {
        let (isa, d, last) = (self.model.isa, self.model.config().head_dim(), position + rows.rows());
        let Private { keys, values, scores, .. } = &mut *self.private;
        cache.gather(head, keys.get_mut(), values.get_mut());
        let (keys, values) = (Packed::new(keys.get(), d, last), Mat::new(values.get(), last, d, d));
        let (mut maximum, mut inverse_sum) = ([0.0; STRIP], [0.0; STRIP]);
        for column in (0..rows.cols()).step_by(d) {
            let (from, mut to) = (rows.col_range(column..column + d), out.col_range(column..column + d));
            for first in (0..rows.rows()).step_by(STRIP) {
                let strip = first..rows.rows().min(first + STRIP);
                strip_forward(
                    isa,
                    from.row_range(strip.clone()),
                    position + first,
                    keys,
                    values,
                    to.row_range(strip),
                    &mut maximum,
                    &mut inverse_sum,
                    scores.get_mut(),
                );
            }
        }
    }

    /// Stores keys and values of heads from `first` on in the pages of a text.
    fn store(&self, layer: usize, span: &Span, first: usize, keys: Mat<'_>, values: Mat<'_>) {
        let c = self.model.config();
        let d = c.head_dim();
        let pages = self.input.pages(span);
        for row in 0..keys.rows() {
            let position = span.position + row;
            let (page, p) = (pages[position / PAGE].cast_mut(), position % PAGE);
            for head in 0..keys.cols() / d {
                let at = layer_at(c, layer) + (first + head) * page_len(d);
                // SAFETY: the region of a head of this thread, in a page that the text has for itself (`Input::push`).
                let region = unsafe { std::slice::from_raw_parts_mut(page.add(at), page_len(d)) };
                let (to_keys, to_values) = region.split_at_mut(PAGE * d);
                let columns = head * d..(head + 1) * d;
                for (to, x) in to_keys[p..].iter_mut().step_by(PAGE).zip(&keys.row(row)[columns.clone()]) {
                    *to = *x;
                }
                to_values[p * d..][..d].copy_from_slice(&values.row(row)[columns]);
            }
        }
    }
}
