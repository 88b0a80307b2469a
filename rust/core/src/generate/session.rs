//! One text under way: the keys and values of its context, and the forward pass that extends them.

use super::model::Model;
use super::rows::{OwnedArena, Rows};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::{Block, MlpRows, Operand};
use crate::system::float_env::ContractRounding;
use std::sync::Arc;
use symlm_kernels::gemm::{PANEL, Packed, packed_len};
use symlm_kernels::{Mat, MatMut, attention};

/// Positions that go through the layers together. More would read the weights less often, at the price of memory;
/// no bit depends on it.
const CHUNK: usize = 64;
/// Query rows whose scores are in memory at once.
const STRIP: usize = 32;

/// Keys and values of every layer and key/value head: a region of each per head. Keys lie in panels, as the product
/// with the queries reads them (element i of position p at `[p / 32][i][p % 32]`), values in rows.
struct Cache {
    keys: OwnedArena,
    values: OwnedArena,
    key_region: usize,
    value_region: usize,
    head_dim: usize,
    kv_heads: usize,
}

impl Cache {
    /// Elements of the keys and of the values of one key/value head.
    fn regions(c: &ModelConfig) -> [usize; 2] {
        // Whole cache lines, so that no region starts inside one.
        [packed_len(c.head_dim(), c.seq_len), (c.head_dim() * c.seq_len).next_multiple_of(16)]
    }

    fn new(model: &Model) -> Result<Self> {
        let c = model.config();
        let (head_dim, kv_heads) = (c.head_dim(), c.num_kv_heads);
        let [key_region, value_region] = Self::regions(c);
        let regions = c.num_layers * kv_heads;
        let (keys, values) = (OwnedArena::new(regions * key_region)?, OwnedArena::new(regions * value_region)?);
        Ok(Self { keys, values, key_region, value_region, head_dim, kv_heads })
    }

    /// Stores the keys and values of a layer for positions `start..`.
    fn store(&mut self, layer: usize, start: usize, keys: Mat<'_>, values: Mat<'_>) {
        let d = self.head_dim;
        for head in 0..self.kv_heads {
            let region = layer * self.kv_heads + head;
            let to_keys = &mut self.keys.get_mut()[region * self.key_region..][..self.key_region];
            let to_values = &mut self.values.get_mut()[region * self.value_region..][..self.value_region];
            for row in 0..keys.rows() {
                let position = start + row;
                let panel = &mut to_keys[position / PANEL * PANEL * d..][..PANEL * d];
                let key = &keys.row(row)[head * d..][..d];
                for (to, x) in panel[position % PANEL..].iter_mut().step_by(PANEL).zip(key) {
                    *to = *x;
                }
                to_values[position * d..][..d].copy_from_slice(&values.row(row)[head * d..][..d]);
            }
        }
    }

    /// Keys and values of a key/value head for positions `0..last`.
    fn head(&self, layer: usize, head: usize, last: usize) -> (Packed<'_>, Mat<'_>) {
        let region = layer * self.kv_heads + head;
        let keys = &self.keys.get()[region * self.key_region..][..self.key_region];
        let values = &self.values.get()[region * self.value_region..][..self.value_region];
        (Packed::new(keys, self.head_dim, last), Mat::new(values, last, self.head_dim, self.head_dim))
    }
}

/// A context and the memory to extend it. Nothing is allocated after it has been made.
///
/// A model has positions for `seq_len` tokens. When a token comes and they are taken, the context keeps its last
/// `seq_len / 2` tokens and these are recomputed from position 0. So the context, and with it every logit, is a
/// function of the tokens so far, whatever the pieces they came in.
pub struct Session {
    model: Arc<Model>,
    context: Vec<u32>,
    cache: Cache,
    residual: Rows,
    middle: Rows,
    normed: Rows,
    qkv: Rows,
    attended: Rows,
    gate_up: Rows,
    hidden: Rows,
    rstd: Vec<f32>,
    scores: OwnedArena,
    maximum: [f32; STRIP],
    inverse_sum: [f32; STRIP],
    logits: OwnedArena,
}

impl Session {
    /// A session with an empty context.
    ///
    /// # Errors
    /// `Memory` if the system refuses.
    pub fn new(model: &Arc<Model>) -> Result<Self> {
        let c = model.config();
        let (d, f) = (c.hidden_size, c.intermediate_size);
        let rows = CHUNK.min(c.seq_len);
        Ok(Self {
            model: Arc::clone(model),
            context: Vec::with_capacity(c.seq_len),
            cache: Cache::new(model)?,
            residual: Rows::new(rows, d)?,
            middle: Rows::new(rows, d)?,
            normed: Rows::new(rows, d)?,
            qkv: Rows::new(rows, d + 2 * c.kv_size())?,
            attended: Rows::new(rows, d)?,
            gate_up: Rows::new(rows, 2 * f)?,
            hidden: Rows::new(rows, f)?,
            rstd: vec![0.0; rows],
            scores: OwnedArena::new(attention::strip_len(STRIP.min(rows), c.seq_len))?,
            maximum: [0.0; STRIP],
            inverse_sum: [0.0; STRIP],
            logits: OwnedArena::new(c.vocab_size)?,
        })
    }

    /// Elements that a session of this shape holds, for a plan of the memory.
    pub fn elements(c: &ModelConfig) -> usize {
        let width = 4 * c.hidden_size + (c.hidden_size + 2 * c.kv_size()) + 3 * c.intermediate_size;
        let working = CHUNK.min(c.seq_len) * width + attention::strip_len(STRIP, c.seq_len) + c.vocab_size;
        Cache::regions(c).iter().sum::<usize>() * c.num_layers * c.num_kv_heads + working
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The tokens that the next one can see.
    pub fn context(&self) -> &[u32] {
        &self.context
    }

    /// Forgets the context.
    pub fn clear(&mut self) {
        self.context.clear();
    }

    /// Appends tokens to the context and returns the logits after the last of them.
    ///
    /// # Errors
    /// `Usage` if there are no tokens or one is not of the vocabulary; the context is then as before.
    pub fn append(&mut self, ids: &[u32]) -> Result<&[f32]> {
        check_ids(&self.model, ids)?;
        if ids.is_empty() {
            return Err(Error::usage("found no tokens to append, expected at least one"));
        }
        let _environment = ContractRounding::enter();
        let start = self.make_room(ids);
        let model = Arc::clone(&self.model);
        let mut rows = 0;
        for at in (start..self.context.len()).step_by(CHUNK) {
            rows = CHUNK.min(self.context.len() - at);
            self.layers(&model, at, rows);
        }
        self.final_norm(&model, rows);
        let vocab = model.config().vocab_size;
        let last = self.normed.first(rows).row_range(rows - 1..rows);
        let out = MatMut::new(self.logits.get_mut(), 1, vocab, vocab);
        model.network().logits(Operand::Floats(last), out);
        Ok(self.logits.get())
    }

    /// The logits after each of `ids` in a fresh context, `ids.len()` rows of the vocabulary. Afterwards `ids`
    /// are the context.
    ///
    /// # Errors
    /// `Usage` if there are more tokens than the model has positions, or one is not of the vocabulary.
    pub fn logits(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.last_logits(ids, ids.len())
    }

    /// As `logits`, only the `last` rows: the others take neither time nor memory for the vocabulary.
    ///
    /// # Errors
    /// As `logits`.
    pub fn last_logits(&mut self, ids: &[u32], last: usize) -> Result<Vec<f32>> {
        check_ids(&self.model, ids)?;
        let model = Arc::clone(&self.model);
        let (vocab, seq_len) = (model.config().vocab_size, model.config().seq_len);
        if ids.len() > seq_len {
            return Err(Error::usage(format!("found {} tokens, expected at most seq_len = {seq_len}", ids.len())));
        }
        let _environment = ContractRounding::enter();
        let first = ids.len() - last.min(ids.len());
        let mut wanted = vec![0.0; (ids.len() - first) * vocab];
        self.context.clear();
        self.context.extend_from_slice(ids);
        for at in (0..ids.len()).step_by(CHUNK) {
            let rows = CHUNK.min(ids.len() - at);
            self.layers(&model, at, rows);
            let skipped = first.saturating_sub(at).min(rows);
            if skipped < rows {
                self.final_norm(&model, rows);
                let normed = self.normed.first(rows).row_range(skipped..rows);
                let out = MatMut::new(&mut wanted[(at + skipped - first) * vocab..], rows - skipped, vocab, vocab);
                model.network().logits(Operand::Floats(normed), out);
            }
        }
        Ok(wanted)
    }

    /// Appends ids to the context and returns the first position whose keys and values are missing.
    fn make_room(&mut self, ids: &[u32]) -> usize {
        let seq_len = self.model.config().seq_len;
        let (old, total) = (self.context.len(), self.context.len() + ids.len());
        // Each time that the positions are taken, all but seq_len / 2 tokens go.
        let drop = total.saturating_sub(seq_len).div_ceil(seq_len - seq_len / 2) * (seq_len - seq_len / 2);
        self.context.drain(..drop.min(old));
        self.context.extend_from_slice(&ids[drop.saturating_sub(old)..]);
        if drop == 0 { old } else { 0 }
    }

    /// The layers for positions `start..start + rows` of the context; their residual stream is left in `residual`.
    fn layers(&mut self, model: &Model, start: usize, rows: usize) {
        let (c, network) = (model.config(), model.network());
        let (keys, values) = (c.hidden_size..c.hidden_size + c.kv_size(), c.hidden_size + c.kv_size()..self.qkv.cols());
        network.embed(&self.context[start..start + rows], self.residual.first_mut(rows));
        for l in 0..c.num_layers {
            let block = Block::new(network, l);
            let (normed, rstd) = (self.normed.first_mut(rows).into(), &mut self.rstd[..rows]);
            block.attention_in(self.residual.first(rows), start, normed, rstd, self.qkv.first_mut(rows));
            let qkv = self.qkv.first(rows);
            self.cache.store(l, start, qkv.col_range(keys.clone()), qkv.col_range(values.clone()));
            self.attention(model, l, start, rows);
            block.attention_out(
                self.residual.first(rows),
                self.attended.first(rows),
                None,
                self.middle.first_mut(rows),
            );
            let mlp = MlpRows {
                normed: self.normed.first_mut(rows).into(),
                rstd: &mut self.rstd[..rows],
                gate_up: self.gate_up.first_mut(rows),
                hidden: self.hidden.first_mut(rows).into(),
            };
            block.mlp(self.middle.first(rows), mlp, self.residual.first_mut(rows));
        }
    }

    fn attention(&mut self, model: &Model, layer: usize, start: usize, rows: usize) {
        let c = model.config();
        let d = c.head_dim();
        let q = self.qkv.first(rows);
        let mut out = self.attended.first_mut(rows);
        for head in 0..c.num_heads {
            let (keys, values) = self.cache.head(layer, head / c.group(), start + rows);
            let columns = head * d..(head + 1) * d;
            for first in (0..rows).step_by(STRIP) {
                let strip = first..rows.min(first + STRIP);
                attention::strip_forward(
                    model.isa,
                    q.col_range(columns.clone()).row_range(strip.clone()),
                    start + first,
                    keys,
                    values,
                    out.col_range(columns.clone()).row_range(strip),
                    &mut self.maximum,
                    &mut self.inverse_sum,
                    self.scores.get_mut(),
                );
            }
        }
    }

    fn final_norm(&mut self, model: &Model, rows: usize) {
        let (x, normed) = (self.residual.first(rows), self.normed.first_mut(rows).into());
        model.network().final_norm(x, normed, &mut self.rstd[..rows]);
    }
}

/// # Errors
/// `Usage` for an id beyond the vocabulary.
pub(super) fn check_ids(model: &Model, ids: &[u32]) -> Result<()> {
    let vocab = model.config().vocab_size;
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(Error::usage(format!("found token id {id}, expected less than the vocabulary size {vocab}"))),
        None => Ok(()),
    }
}
