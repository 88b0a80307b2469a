//! The memory of a pass: rows that its threads share, and what each thread has for itself.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::generate::cache::PAGE;
use crate::generate::model::Model;
use crate::generate::rows::{OwnedArena, Rows, SharedRows};
use std::marker::PhantomData;
use std::ops::Range;
use symlm_kernels::MatMut;
use symlm_kernels::attention::{row_len, strip_len};
use symlm_kernels::gemm::packed_len;
use symlm_kernels::gemm::q8::QuantisedMut;

/// Query rows whose scores are in memory at once.
pub(super) const STRIP: usize = 32;

/// What the threads share.
pub(super) struct Memory {
    pub residual: SharedRows,
    pub middle: SharedRows,
    pub qkv: SharedRows,
    pub attended: SharedRows,
    pub gate_up: SharedRows,
    pub hidden: SharedRows,
}

impl Memory {
    /// # Errors
    /// `Memory` if the system refuses.
    pub(super) fn new(c: &ModelConfig, rows: usize) -> Result<Self> {
        let (d, f) = (c.hidden_size, c.intermediate_size);
        Ok(Self {
            residual: SharedRows::new(rows, d)?,
            middle: SharedRows::new(rows, d)?,
            qkv: SharedRows::new(rows, d + 2 * c.kv_size())?,
            attended: SharedRows::new(rows, d)?,
            gate_up: SharedRows::new(rows, 2 * f)?,
            hidden: SharedRows::new(rows, f)?,
        })
    }

    /// Elements for so many rows.
    pub(super) fn elements(c: &ModelConfig, rows: usize) -> usize {
        rows * (3 * c.hidden_size + (c.hidden_size + 2 * c.kv_size()) + 3 * c.intermediate_size)
    }
}

/// What one thread needs for itself.
pub(super) struct Private {
    pub normed: Rows,
    pub integers: QuantisedMut,
    pub gate_up: OwnedArena,
    pub keys: OwnedArena,
    pub values: OwnedArena,
    pub scores: OwnedArena,
    pub rstd: Vec<f32>,
}

impl Private {
    /// # Errors
    /// `Memory` if the system refuses.
    pub(super) fn new(model: &Model, rows: usize, context: usize) -> Result<Self> {
        let c = model.config();
        let (context, d) = (context.next_multiple_of(PAGE), c.head_dim());
        Ok(Self {
            normed: Rows::new(rows, c.hidden_size)?,
            integers: model.room(rows),
            gate_up: OwnedArena::new(rows * 2 * c.intermediate_size)?,
            keys: OwnedArena::new(packed_len(d, context))?,
            values: OwnedArena::new(context * d)?,
            scores: OwnedArena::new(scores_len(c, context))?,
            rstd: vec![0.0; rows],
        })
    }

    /// Elements for so many rows of texts of at most `context` positions.
    pub(super) fn elements(c: &ModelConfig, rows: usize, context: usize) -> usize {
        let (context, d) = (context.next_multiple_of(PAGE), c.head_dim());
        rows * (c.hidden_size + 2 * c.intermediate_size) + packed_len(d, context) + context * d + scores_len(c, context)
    }
}

fn scores_len(c: &ModelConfig, context: usize) -> usize {
    strip_len(STRIP, context).max(row_len(c.num_heads, context))
}

/// Where the logits go: a row of the vocabulary for each that is wanted, borrowed for a pass.
pub(super) struct SharedLogits<'a> {
    ptr: *mut f32,
    outputs: usize,
    vocab: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: the memory is borrowed as long as the struct lives; who touches which part when is the contract of the unsafe accessors.
unsafe impl Sync for SharedLogits<'_> {}

impl<'a> SharedLogits<'a> {
    /// # Panics
    /// If `logits` is too short.
    pub(super) fn new(logits: &'a mut [f32], outputs: usize, vocab: usize) -> Self {
        assert!(logits.len() >= outputs * vocab, "room for {outputs} rows of logits");
        Self { ptr: logits.as_mut_ptr(), outputs, vocab, life: PhantomData }
    }

    /// Columns of a row.
    pub(super) fn vocab(&self) -> usize {
        self.vocab
    }

    /// # Safety
    /// Nobody else touches these columns while the view lives.
    pub(super) unsafe fn columns_mut(&self, columns: Range<usize>) -> MatMut<'_> {
        assert!(columns.end <= self.vocab, "columns {columns:?} of {}", self.vocab);
        // SAFETY: `outputs * vocab` elements were borrowed, and these columns are among them; no other access, by the caller's
        // guarantee.
        unsafe { MatMut::from_raw(self.ptr.add(columns.start), self.outputs, columns.len(), self.vocab) }
    }

    /// # Safety
    /// Nobody writes any more.
    pub(super) unsafe fn all(&self) -> &[f32] {
        // SAFETY: so many elements were borrowed, all initialised; no writer, by the caller's guarantee.
        unsafe { std::slice::from_raw_parts(self.ptr, self.outputs * self.vocab) }
    }
}
