//! Keys and values of texts, in pages of 32 positions that several texts may share.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::system::arena::Arena;
use std::sync::Arc;
use symlm_kernels::attention::page_len;
use symlm_kernels::gemm::PANEL;

/// Positions of a page: those of a panel, so that the keys of a page are one.
pub(super) const PAGE: usize = PANEL;

/// Keys and values of every layer and key/value head for [`PAGE`] positions: a region of each per head.
pub(super) struct Page(Arena);

/// Where a layer's first region begins in a page.
pub(super) fn layer_at(c: &ModelConfig, layer: usize) -> usize {
    layer * c.num_kv_heads * page_len(c.head_dim())
}

/// Pages that nobody uses, to be used again.
pub(super) struct Pages {
    len: usize,
    free: Vec<Arc<Page>>,
}

impl Pages {
    pub(super) fn new(c: &ModelConfig) -> Self {
        Self { len: Self::page_len(c), free: Vec::new() }
    }

    /// Elements of a page.
    pub(super) fn page_len(c: &ModelConfig) -> usize {
        layer_at(c, c.num_layers)
    }

    /// A page that nobody else has, with anything in it.
    fn take(&mut self) -> Result<Arc<Page>> {
        match self.free.pop() {
            Some(page) => Ok(page),
            None => Ok(Arc::new(Page(Arena::new(self.len)?))),
        }
    }

    /// Takes a page back if nobody else has it.
    pub(super) fn give(&mut self, page: Arc<Page>) {
        if Arc::strong_count(&page) == 1 {
            self.free.push(page);
        }
    }
}

/// The pages of one text, in the order of its positions.
#[derive(Default)]
pub(super) struct Cache {
    pages: Vec<Arc<Page>>,
}

impl Cache {
    /// The pages that hold the first `positions`, to be shared.
    pub(super) fn first(&self, positions: usize) -> &[Arc<Page>] {
        &self.pages[..positions.div_ceil(PAGE)]
    }

    /// How many of the first `positions` hold what their text would have computed without those behind them: as far as the
    /// keys and values of the last one are finite.
    ///
    /// Attention of many rows multiplies the values of a few positions behind a row by 0, which hides all but infinities and
    /// what is not a number. If one of these came to a row, it came to all rows from there to the position it came from.
    pub(super) fn sound(&self, c: &ModelConfig, positions: usize) -> usize {
        let d = c.head_dim();
        let finite = |position: &usize| {
            let (page, p) = (&self.pages[position / PAGE].0, position % PAGE);
            (0..c.num_layers * c.num_kv_heads).all(|head| {
                // SAFETY: only a pass and `reserve` write pages, and neither is under way while somebody has the cache.
                let region = unsafe { page.slice(head * page_len(d), page_len(d)) };
                let (keys, values) = region.split_at(PAGE * d);
                keys[p..].iter().step_by(PAGE).chain(&values[p * d..][..d]).all(|x| x.is_finite())
            })
        };
        (0..positions).rev().find(finite).map_or(0, |last| last + 1)
    }

    /// Takes over pages of another text whose first positions are the same.
    pub(super) fn share(&mut self, pages: &[Arc<Page>]) {
        debug_assert!(self.pages.is_empty());
        self.pages.extend(pages.iter().map(Arc::clone));
    }

    /// Bytes of its pages.
    pub(super) fn bytes(&self, pages: &Pages) -> usize {
        self.pages.len() * pages.len * size_of::<f32>()
    }

    /// Gives all pages back.
    pub(super) fn clear(&mut self, pages: &mut Pages) {
        self.pages.drain(..).for_each(|page| pages.give(page));
    }

    /// Makes the pages of positions `start..end` this text's own; what stands before `start` is kept.
    ///
    /// # Errors
    /// `Memory` if the system refuses.
    pub(super) fn reserve(&mut self, pages: &mut Pages, start: usize, end: usize) -> Result<()> {
        for index in start / PAGE..end.div_ceil(PAGE) {
            match self.pages.get(index) {
                None => self.pages.push(pages.take()?),
                Some(page) if Arc::strong_count(page) > 1 => {
                    let own = pages.take()?;
                    // SAFETY: nobody writes a page that is shared, and nobody else has the new one.
                    unsafe { own.0.slice_mut(0, pages.len).copy_from_slice(page.0.slice(0, pages.len)) };
                    pages.give(std::mem::replace(&mut self.pages[index], own));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Where the pages of the first `positions` lie.
    pub(super) fn pointers(&self, positions: usize) -> impl Iterator<Item = *mut f32> {
        self.first(positions).iter().map(|page| page.0.ptr(0))
    }
}
