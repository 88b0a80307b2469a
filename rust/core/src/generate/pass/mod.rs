//! The forward pass of some rows: of one text under way, or of many, each with its cache and its position.
//!
//! ```text
//! for each layer, on each thread:                                      its share is
//!     normed = norm(x)                          every thread, for itself
//!     qkv = normed Wqkvᵀ                        columns                         | wait
//!     q, k = rotated(q, k);  store k, v;  attended = attention    heads         | wait
//!     middle = x + attended Woutᵀ               columns                         | wait
//!     normed = norm(middle)                     every thread, for itself
//!     hidden = swiglu(normed Wguᵀ)              columns of gate and up          | wait
//!     x = middle + hidden Wdownᵀ                columns                         | wait
//! logits = norm(x) Wheadᵀ                       columns                         | wait
//! ```
//!
//! Every element is a separate chain (contract G1 to G4, A1 to A3, E3, E7, E9), so that neither the threads nor the other rows
//! of the pass can move a bit of a row. Each matrix is read once a pass, by columns, each thread its own.

use super::cache::{Cache, PAGE, layer_at};
use super::model::Model;
use super::rows::{OwnedArena, Rows, SharedRows};
use super::team::{Member, Team};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::model::LayerMatrices;
use crate::system::sync::{Mutex, lock};
use std::ops::Range;
use std::sync::Arc;
use symlm_kernels::attention::{Paged, page_len, row_forward, row_len, strip_forward, strip_len};
use symlm_kernels::gemm::q8::QuantisedMut;
use symlm_kernels::gemm::{PANEL, Packed, packed_len};
use symlm_kernels::{Mat, MatMut, mlp, norm, rope};

/// Query rows whose scores are in memory at once.
const STRIP: usize = 32;

/// Neighbouring rows of a pass that are neighbouring positions of one text.
struct Span {
    /// Of the first row.
    position: usize,
    rows: Range<usize>,
    /// Its pages in [`Input::pages`].
    pages: Range<usize>,
}

/// The rows of a pass.
#[derive(Default)]
pub(super) struct Input {
    ids: Vec<u32>,
    spans: Vec<Span>,
    pages: Vec<*const f32>,
    /// Rows whose logits are wanted, ascending.
    outputs: Vec<usize>,
}

// SAFETY: the pointers lead to pages that the caches of the texts own; who reads and writes them is the matter of `Pass::run`.
unsafe impl Send for Input {}
// SAFETY: as above.
unsafe impl Sync for Input {}

impl Input {
    /// Forgets all rows.
    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.spans.clear();
        self.pages.clear();
        self.outputs.clear();
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Adds rows: `ids` at `position` of a text, whose cache has their pages for itself. The logits of the `wanted` last ones
    /// are computed.
    pub(super) fn push(&mut self, ids: &[u32], position: usize, cache: &Cache, wanted: usize) {
        let rows = self.ids.len()..self.ids.len() + ids.len();
        let first = self.pages.len();
        self.pages.extend(cache.pointers(position + ids.len()).map(<*mut f32>::cast_const));
        self.outputs.extend(rows.end - wanted..rows.end);
        self.spans.push(Span { position, rows, pages: first..self.pages.len() });
        self.ids.extend_from_slice(ids);
    }
}

/// What one thread needs for itself.
struct Private {
    normed: Rows,
    integers: QuantisedMut,
    gate_up: OwnedArena,
    keys: OwnedArena,
    values: OwnedArena,
    scores: OwnedArena,
    rstd: Vec<f32>,
}

impl Private {
    fn new(model: &Model, rows: usize, context: usize) -> Result<Self> {
        let c = model.config();
        let (context, d) = (context.next_multiple_of(PAGE), c.head_dim());
        Ok(Self {
            normed: Rows::new(rows, c.hidden_size)?,
            integers: model.room(rows),
            gate_up: OwnedArena::new(rows * 2 * c.intermediate_size)?,
            keys: OwnedArena::new(packed_len(d, context))?,
            values: OwnedArena::new(context * d)?,
            scores: OwnedArena::new(strip_len(STRIP, context).max(row_len(c.num_heads, context)))?,
            rstd: vec![0.0; rows],
        })
    }
}

/// The memory of passes and the threads that compute them.
pub(super) struct Pass {
    model: Arc<Model>,
    team: Team,
    most_rows: usize,
    memory: Memory,
    private: Vec<Mutex<Private>>,
}

/// What the threads share.
struct Memory {
    residual: SharedRows,
    middle: SharedRows,
    qkv: SharedRows,
    attended: SharedRows,
    gate_up: SharedRows,
    hidden: SharedRows,
}

impl Pass {
    /// For at most so many rows of texts of at most `context` positions.
    ///
    /// # Errors
    /// `Memory` if the system refuses.
    pub(super) fn new(model: &Arc<Model>, rows: usize, context: usize, threads: usize) -> Result<Self> {
        let c = model.config();
        let (d, f) = (c.hidden_size, c.intermediate_size);
        let memory = Memory {
            residual: SharedRows::new(rows, d)?,
            middle: SharedRows::new(rows, d)?,
            qkv: SharedRows::new(rows, d + 2 * c.kv_size())?,
            attended: SharedRows::new(rows, d)?,
            gate_up: SharedRows::new(rows, 2 * f)?,
            hidden: SharedRows::new(rows, f)?,
        };
        let private = (0..threads.max(1)).map(|_| Ok(Mutex::new(Private::new(model, rows, context)?)));
        let private = private.collect::<Result<_>>()?;
        Ok(Self { model: Arc::clone(model), team: Team::new(threads)?, most_rows: rows, memory, private })
    }

    /// Elements that a pass of such sizes holds.
    pub(super) fn elements(c: &ModelConfig, rows: usize, context: usize, threads: usize) -> usize {
        let (d, f, context) = (c.hidden_size, c.intermediate_size, context.next_multiple_of(PAGE));
        let scores = strip_len(STRIP, context).max(row_len(c.num_heads, context));
        let private = rows * (d + 2 * f) + packed_len(c.head_dim(), context) + context * c.head_dim() + scores;
        rows * (3 * d + (d + 2 * c.kv_size()) + 3 * f) + threads * private
    }

    /// Computes the rows of `input`: stores their keys and values in their caches and writes the logits that are wanted, a row for
    /// each, to `logits`. Then calls `after` on every thread.
    ///
    /// # Panics
    /// If there are too many rows, or `logits` is too short.
    pub(super) fn run(&mut self, input: &Input, logits: &mut [f32], after: &(dyn Fn(&Member<'_>, &[f32]) + Sync)) {
        let vocab = self.model.config().vocab_size;
        let (rows, outputs) = (input.rows(), input.outputs.len());
        assert!(rows <= self.most_rows, "{rows} rows, room for {}", self.most_rows);
        assert!(logits.len() >= outputs * vocab, "room for {outputs} rows of logits");
        // SAFETY: no thread is at work yet.
        let x = unsafe { self.memory.residual.columns_mut(0..rows, 0..self.model.config().hidden_size) };
        self.model.embed(&input.ids, x);
        let logits = SharedLogits { ptr: logits.as_mut_ptr(), outputs, vocab };
        let (model, memory, private) = (&self.model, &self.memory, &self.private);
        self.team.run(rows, &|member: &Member<'_>| {
            let private = &mut *lock(&private[member.index]);
            let mut share = Share { model, memory, private, input, member };
            for layer in 0..model.config().num_layers {
                share.layer(layer);
            }
            share.logits(&logits);
            member.wait();
            // SAFETY: all threads have written their columns, and nobody writes them any more.
            after(member, unsafe { logits.all() });
        });
    }
}

/// Where the logits go.
struct SharedLogits {
    ptr: *mut f32,
    outputs: usize,
    vocab: usize,
}

// SAFETY: threads write columns that are theirs alone, and read behind a barrier.
unsafe impl Sync for SharedLogits {}

impl SharedLogits {
    /// # Safety
    /// Nobody else touches these columns while the view lives.
    unsafe fn columns_mut(&self, columns: Range<usize>) -> MatMut<'_> {
        // SAFETY: outputs * vocab elements were borrowed for the pass.
        unsafe { MatMut::from_raw(self.ptr.add(columns.start), self.outputs, columns.len(), self.vocab) }
    }

    /// # Safety
    /// Nobody writes any more.
    unsafe fn all(&self) -> &[f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.ptr, self.outputs * self.vocab) }
    }
}

/// One thread's part of a pass.
///
/// Safety of the views of [`Memory`]: between two barriers a thread writes only columns of its share, and reads only what
/// was written before the first of the two, or by itself.
struct Share<'a> {
    model: &'a Model,
    memory: &'a Memory,
    private: &'a mut Private,
    input: &'a Input,
    member: &'a Member<'a>,
}

#[allow(clippy::undocumented_unsafe_blocks)] // see the struct
impl Share<'_> {
    fn rows(&self) -> Range<usize> {
        0..self.input.rows()
    }

    fn layer(&mut self, layer: usize) {
        let model = self.model;
        let LayerMatrices { qkv, out, gate_up, down } = model.layout().layers[layer];
        let Memory { residual, middle, qkv: qkv_rows, attended, hidden, .. } = self.memory;
        self.norm(residual, 2 * layer);
        self.product(None, qkv, None, qkv_rows);
        self.member.wait();
        self.attention(layer);
        self.member.wait();
        self.product(Some(attended), out, Some(residual), middle);
        self.member.wait();
        self.norm(middle, 2 * layer + 1);
        self.hidden(gate_up);
        self.member.wait();
        self.product(Some(hidden), down, Some(middle), residual);
        self.member.wait();
    }

    /// `private.normed` = the norm of all rows.
    fn norm(&mut self, x: &SharedRows, number: usize) {
        let rows = self.input.rows();
        let Private { normed, rstd, .. } = &mut *self.private;
        let (x, weight) = (unsafe { x.all(0..rows) }, self.model.norm(number));
        norm::forward(self.model.isa, x, weight, self.model.eps(), normed.first_mut(rows), &mut rstd[..rows]);
    }

    /// This thread's columns of `y = x Wᵀ`, added to `residual` if there is one; x are the normed rows if none are given.
    fn product(&mut self, x: Option<&SharedRows>, matrix: usize, residual: Option<&SharedRows>, y: &SharedRows) {
        let (rows, columns) = (self.rows(), self.member.share(y.cols(), PANEL));
        let residual = residual.map(|of| unsafe { of.all(rows.clone()) }.col_range(columns.clone()));
        let y = unsafe { y.columns_mut(rows.clone(), columns.clone()) };
        let Private { normed, integers, .. } = &mut *self.private;
        let x = x.map_or_else(|| normed.first(rows.len()), |x| unsafe { x.all(rows.clone()) });
        self.model.product(self.model.factor(x, integers), matrix, columns, residual, y);
    }

    /// This thread's columns of the MLP's hidden rows.
    fn hidden(&mut self, gate_up: usize) {
        let (f, rows) = (self.model.config().intermediate_size, self.input.rows());
        let Memory { gate_up: shared, hidden, .. } = self.memory;
        if !f.is_multiple_of(PANEL) {
            // Gate and up of a column do not begin at the same place of a panel.
            self.product(None, gate_up, None, shared);
            self.member.wait();
            let rows = self.member.share(rows, 1);
            let (from, to) = unsafe { (shared.all(rows.clone()), hidden.columns_mut(rows, 0..f)) };
            return mlp::forward(self.model.isa, from, to);
        }
        let columns = self.member.share(f, PANEL);
        let width = columns.len();
        let Private { normed, integers, gate_up: own, .. } = &mut *self.private;
        let normed = self.model.factor(normed.first(rows), integers);
        let mut own = MatMut::new(own.get_mut(), rows, 2 * width, 2 * width);
        let up = columns.start + f..columns.end + f;
        self.model.product(normed, gate_up, columns.clone(), None, own.col_range(0..width));
        self.model.product(normed, gate_up, up, None, own.col_range(width..2 * width));
        mlp::forward(self.model.isa, own.as_mat(), unsafe { hidden.columns_mut(0..rows, columns) });
    }

    /// Attention of this thread's heads, of every text some.
    fn attention(&mut self, layer: usize) {
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
        let (c, isa, table) = (self.model.config(), self.model.isa, &self.model.rope);
        let (d, hidden, group) = (c.head_dim(), c.hidden_size, c.group());
        let q = heads.start * group * d..heads.end * group * d;
        let k = hidden + heads.start * d..hidden + heads.end * d;
        let v = k.start + c.kv_size()..k.end + c.kv_size();
        let Memory { qkv, attended, .. } = self.memory;
        rope::forward(isa, unsafe { qkv.columns_mut(span.rows.clone(), q.clone()) }, d, table, span.position);
        rope::forward(isa, unsafe { qkv.columns_mut(span.rows.clone(), k.clone()) }, d, table, span.position);
        let (keys, values) = unsafe { (qkv.columns(span.rows.clone(), k), qkv.columns(span.rows.clone(), v)) };
        self.store(layer, span, heads.start, keys, values);
        let rows = unsafe { qkv.columns(span.rows.clone(), q.clone()) };
        let mut out = unsafe { attended.columns_mut(span.rows.clone(), q) };
        let (at, last) = (layer_at(c, layer) + heads.start * page_len(d), span.position + span.rows.len());
        // SAFETY: the regions of these heads are written by this thread alone.
        let cache = unsafe { Paged::new(&self.input.pages[span.pages.clone()], at, heads.len(), d, last) };
        let Private { keys, values, scores, .. } = &mut *self.private;
        if span.rows.len() == 1 {
            return row_forward(isa, rows.row(0), group, cache, out.row(0), scores.get_mut());
        }
        let (mut maximum, mut inverse_sum) = ([0.0; STRIP], [0.0; STRIP]);
        for head in 0..heads.len() {
            cache.gather(head, keys.get_mut(), values.get_mut());
            let (keys, values) = (Packed::new(keys.get(), d, last), Mat::new(values.get(), last, d, d));
            for head in head * group..(head + 1) * group {
                let columns = head * d..(head + 1) * d;
                for first in (0..rows.rows()).step_by(STRIP) {
                    let strip = first..rows.rows().min(first + STRIP);
                    strip_forward(
                        isa,
                        rows.col_range(columns.clone()).row_range(strip.clone()),
                        span.position + first,
                        keys,
                        values,
                        out.col_range(columns.clone()).row_range(strip),
                        &mut maximum,
                        &mut inverse_sum,
                        scores.get_mut(),
                    );
                }
            }
        }
    }

    /// Stores keys and values of heads from `first` on in the pages of a text.
    fn store(&self, layer: usize, span: &Span, first: usize, keys: Mat<'_>, values: Mat<'_>) {
        let c = self.model.config();
        let d = c.head_dim();
        let pages = &self.input.pages[span.pages.clone()];
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

    /// This thread's columns of the logits that are wanted.
    fn logits(&mut self, logits: &SharedLogits) {
        let outputs = &self.input.outputs;
        if outputs.is_empty() {
            return;
        }
        let (model, residual) = (self.model, &self.memory.residual);
        let Private { normed, integers, rstd, .. } = &mut *self.private;
        let mut done = 0;
        // Rows that follow each other go together.
        for run in outputs.chunk_by(|a, b| a + 1 == *b) {
            let (x, rows) = (unsafe { residual.all(run[0]..run[0] + run.len()) }, done..done + run.len());
            let mut to = normed.first_mut(rows.end);
            let weight = model.norm(2 * model.config().num_layers);
            norm::forward(model.isa, x, weight, model.eps(), to.row_range(rows.clone()), &mut rstd[rows]);
            done += run.len();
        }
        let columns = self.member.share(logits.vocab, PANEL);
        let to = unsafe { logits.columns_mut(columns.clone()) };
        model.product(model.factor(normed.first(done), integers), model.layout().lm_head(), columns, None, to);
    }
}
