//! Everything the nodes of the graphs read and write.

use super::hyper::Hypers;
use super::shared::Shared;
use crate::config::{EngineConfig, Precision};
use crate::contract::{NORM_BLOCK, SQUARE_BLOCK};
use crate::error::Result;
use crate::model::{Adapters, MatrixId, Network, Param, Weights};
use crate::step::feed::{Batch, TokenSource};
use crate::step::plan::{
    ADAMW, Buffer, Division, Optimizer, Partition, Piece, Plan, Sizes, SlotLayout, Tile, gradient_tiles, pieces,
    rank_sectors, sector_windows,
};
use crate::system::arena::Arena;
use crate::system::float_env::ContractRounding;
use crate::system::machine;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use symlm_kernels::{Isa, Mat, MatMut, rope};

/// Loss and gradient norm of an update.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepResult {
    pub loss: f64,
    pub grad_norm: f64,
    pub learning_rate: f64,
}

/// An evaluation under way.
#[derive(Default)]
pub(crate) struct EvalState {
    pub source: Option<Arc<dyn TokenSource>>,
    /// First window of the batch.
    pub first: u64,
    /// Ids from one window to the next.
    pub stride: u64,
    /// Windows of the whole evaluation.
    pub windows: u64,
    /// Sum of the row losses so far.
    pub loss_sum: f64,
    /// Targets in the sum.
    pub tokens: u64,
    /// What went wrong, if anything.
    pub error: Option<crate::Error>,
}

/// The factors with their gradients, and the weights that they are added to.
pub(crate) struct AdapterState {
    pub table: Adapters,
    pub values: Arena,
    pub gradient: Arena,
    /// The adapted tensors as they were at the start.
    pub base: Arena,
}

impl AdapterState {
    pub fn new(table: Adapters) -> Result<Self> {
        let [values, gradient, base] = [table.len, table.len, table.base_len].map(Arena::new);
        Ok(Self { table, values: values?, gradient: gradient?, base: base? })
    }

    /// Writes a tensor of the model that the adapters start from, if it is an adapted one.
    ///
    /// # Safety
    /// Nobody else touches the base weights of the tensor.
    pub unsafe fn set_base(&self, param: usize, start: usize, values: &[f32]) {
        if let Some(adapter) = self.table.of_param(param) {
            // SAFETY: passed on to the caller.
            unsafe { self.base.slice_mut(adapter.base + start, values.len()) }.copy_from_slice(values);
        }
    }
}

/// Where a window's rows lie.
#[derive(Clone, Copy)]
pub(crate) struct WindowPlace {
    /// Start of its slot in the slot arena.
    pub slot: usize,
    /// Start of its sector's logits.
    pub logits: usize,
    /// First row in the slot.
    pub row: usize,
}

/// Model, optimizer and activations.
pub(crate) struct State {
    pub isa: Isa,
    pub config: EngineConfig,
    pub partition: Partition,
    pub weights: Weights,
    /// Weight-gradient tiles of every matrix.
    pub tiles: Vec<Vec<Tile>>,
    pub lm_head: usize,
    pub embedding: usize,
    pub rope: rope::Table,
    pub slot_layout: SlotLayout,
    pub places: Vec<WindowPlace>,
    pub slots: Arena,
    /// Embedded windows of the whole batch; then the gradient there.
    pub embedded: Arena,
    pub logits: Arena,
    /// Partial norm-weight gradients: `[norm][window][block][hidden]`.
    pub norm_blocks: Arena,
    /// Row losses of the batch.
    pub losses: Arena,
    pub gradient: Arena,
    pub pair: Arena,
    /// Second and fourth triple where a triple spans several tasks.
    pub triple: Option<Arena>,
    /// The same for the output head, which is always folded sector by sector.
    pub lm_head_triple: Arena,
    pub first_moment: Arena,
    pub second_moment: Arena,
    /// What is trained in place of the weights, if anything.
    pub adapters: Option<AdapterState>,
    /// Sums of squares as bits of f64, tensor after tensor.
    pub squares: Vec<AtomicU64>,
    pub square_start: Vec<usize>,
    pub batch: RwLock<Arc<Batch>>,
    pub hyper: RwLock<Hypers>,
    pub result: Mutex<StepResult>,
    /// Targets that count in each window of the update that was computed last.
    pub counted: Mutex<Vec<usize>>,
    /// Set when the loss or the gradient norm is NaN or infinite: the update is then skipped.
    pub failed: AtomicBool,
    pub evaluation: Mutex<EvalState>,
    /// What there is because of other ranks.
    pub shared: Option<Shared>,
}

fn window_places(partition: &Partition, sizes: &Sizes, seq_len: usize) -> Vec<WindowPlace> {
    let place = |window| {
        let sector = partition.sector_of(window);
        WindowPlace {
            slot: sector % partition.slots * sizes.slot.len,
            logits: sector % partition.logit_slots * sizes.logit_rows,
            row: (window - sector_windows(partition.batch, sector).start) * seq_len,
        }
    };
    (0..partition.batch).map(place).collect()
}

/// The first sum of squares of each tensor, and the number of all.
fn square_starts(params: &[Param]) -> Vec<usize> {
    let mut starts = vec![0];
    for p in params {
        starts.push(starts[starts.len() - 1] + p.len().div_ceil(SQUARE_BLOCK));
    }
    starts
}

impl State {
    pub fn new(isa: Isa, config: EngineConfig) -> Result<Self> {
        Self::trained_by(ADAMW, isa, config)
    }

    /// The same, divided among ranks as this optimizer needs it.
    pub(super) fn trained_by(optimizer: Optimizer, isa: Isa, config: EngineConfig) -> Result<Self> {
        // The rotary tables are computed here, on the caller's thread.
        let _environment = ContractRounding::enter();
        let (m, partition) = (&config.model, Partition::new(&config));
        let integers = match config.train.precision {
            Precision::F32 => None,
            Precision::Int16 => Some(machine::active_integers(isa)?),
        };
        let weights = Weights::new(m, integers)?;
        let table = config.train.lora.as_ref().map(|lora| Adapters::new(&weights.layout, lora));
        let tiles = gradient_tiles(&weights.layout, table.as_ref(), partition.threads);
        let sizes = Sizes::new(m, config.train.precision, &partition, &weights.layout, table.as_ref());
        let places = window_places(&partition, &sizes, m.seq_len);
        let square_start = square_starts(table.as_ref().map_or(&weights.layout.params, |table| &table.params));
        let squares = (0..square_start[square_start.len() - 1]).map(|_| AtomicU64::new(0)).collect();
        let (lm_head, len) = (weights.layout.lm_head(), sizes.parameters);
        let train = &config.train;
        let mut state = Self {
            isa,
            tiles,
            lm_head,
            embedding: weights.layout.matrix_index(MatrixId::Embedding),
            rope: m.rotary_table(),
            places,
            slots: Arena::new(sizes.slots)?,
            embedded: Arena::new(sizes.embedded)?,
            logits: Arena::new(sizes.logits)?,
            norm_blocks: Arena::new(sizes.norm_blocks)?,
            losses: Arena::new(sizes.losses)?,
            gradient: Arena::new(len)?,
            pair: Arena::new(len)?,
            triple: if sizes.triple { Some(Arena::new(len)?) } else { None },
            lm_head_triple: Arena::new(sizes.lm_head_triple)?,
            first_moment: Arena::new(sizes.trained)?,
            second_moment: Arena::new(sizes.trained)?,
            adapters: table.map(AdapterState::new).transpose()?,
            squares,
            square_start,
            batch: RwLock::new(Arc::new(Batch::default())),
            hyper: RwLock::new(Hypers::new(train, 0.0, 1.0, 1)),
            result: Mutex::new(StepResult::default()),
            counted: Mutex::new(vec![m.seq_len; partition.batch]),
            failed: AtomicBool::new(false),
            evaluation: Mutex::new(EvalState::default()),
            shared: None,
            slot_layout: sizes.slot,
            partition,
            weights,
            config,
        };
        if let Some(division) = state.division(optimizer) {
            let plan = state.shared_plan(&division);
            let mut shared = state.new_shared(division)?;
            shared.connect(&state.gradient, state.trained_values(), &plan);
            state.shared = Some(shared);
        }
        Ok(state)
    }

    /// What this engine computes and owns, where it is one of several ranks.
    fn division(&self, optimizer: Optimizer) -> Option<Division> {
        let (ranks, rank) = (self.config.ranks, self.config.rank);
        let adapters = self.adapters.as_ref().map(|adapters| &adapters.table);
        (ranks > 1).then(|| Division::new(&self.weights.layout, adapters, optimizer, ranks, rank))
    }

    fn new_shared(&self, division: Division) -> Result<Shared> {
        let blocks_of = |piece: Piece| {
            let first = self.square_start[piece.param] + piece.start / SQUARE_BLOCK;
            first..first + piece.len.div_ceil(SQUARE_BLOCK)
        };
        let blocks =
            |rank| pieces(&division.buckets, self.trained(), rank).into_iter().flat_map(blocks_of).collect::<Vec<_>>();
        let rows = |sectors: Range<usize>| {
            let windows = self.partition.windows_of(&sectors);
            windows.start * self.seq_len()..windows.end * self.seq_len()
        };
        let blocks = (0..division.ranks).map(blocks).collect();
        let rows = rank_sectors(division.ranks).into_iter().map(rows).collect();
        let embedding = &self.weights.layout.matrices[self.embedding];
        let end = embedding.offset + embedding.rows * embedding.cols;
        Shared::new(division, blocks, rows, self.gradient.len(), end)
    }

    fn shared_plan(&self, division: &Division) -> Plan {
        let adapters = self.adapters.as_ref().map(|adapters| &adapters.table);
        Plan::shared(&self.partition, &self.weights.layout, adapters, division)
    }

    pub fn seq_len(&self) -> usize {
        self.partition.seq_len
    }

    /// The graph of an update; without `update` it ends with the gradients.
    pub fn plan(&self, update: bool) -> Plan {
        if let Some(shared) = self.shared.as_ref().filter(|_| update) {
            return self.shared_plan(&shared.division);
        }
        let adapters = self.adapters.as_ref().map(|adapters| &adapters.table);
        Plan::training(&self.partition, &self.weights.layout, adapters, update)
    }

    /// The tensors that the optimizer works on, in the order of the norm.
    pub fn trained(&self) -> &[Param] {
        self.adapters.as_ref().map_or(&self.weights.layout.params, |adapters| &adapters.table.params)
    }
    /// Their values.
    pub fn trained_values(&self) -> &Arena {
        self.adapters.as_ref().map_or(&self.weights.values, |adapters| &adapters.values)
    }
    /// Their gradients.
    pub fn trained_gradient(&self) -> &Arena {
        self.adapters.as_ref().map_or(&self.gradient, |adapters| &adapters.gradient)
    }

    pub fn batch(&self) -> Arc<Batch> {
        self.batch.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The weights to compute with.
    ///
    /// # Safety
    /// No node that may run while it lives writes weights.
    pub unsafe fn network(&self) -> Network<'_> {
        // SAFETY: passed on to the caller.
        unsafe { Network::new(self.isa, &self.weights, &self.rope) }
    }

    /// Rows of a window in a buffer of its slot.
    ///
    /// # Safety
    /// No node that may run now writes these rows.
    pub unsafe fn read(&self, buffer: Buffer, place: WindowPlace, rows: &Range<usize>) -> Mat<'_> {
        let at = place.slot + buffer.offset + (place.row + rows.start) * buffer.stride;
        // SAFETY: passed on to the caller.
        unsafe { self.slots.mat(at, rows.len(), buffer.cols, buffer.stride) }
    }

    /// As [`State::read`], for writing.
    ///
    /// # Safety
    /// No other node that may run now touches these rows (of the columns that are used).
    pub unsafe fn write(&self, buffer: Buffer, place: WindowPlace, rows: &Range<usize>) -> MatMut<'_> {
        let at = place.slot + buffer.offset + (place.row + rows.start) * buffer.stride;
        // SAFETY: passed on to the caller.
        unsafe { self.slots.mat_mut(at, rows.len(), buffer.cols, buffer.stride) }
    }

    /// A value per row of a window.
    ///
    /// # Safety
    /// No other node that may run now touches these values.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn row_values(&self, offset: usize, place: WindowPlace, rows: &Range<usize>) -> &mut [f32] {
        // SAFETY: passed on to the caller.
        unsafe { self.slots.slice_mut(place.slot + offset + place.row + rows.start, rows.len()) }
    }

    /// The residual stream at the input of layer `l`, or after the last one.
    ///
    /// # Safety
    /// As [`State::write`].
    pub unsafe fn residual(&self, l: usize, window: usize, rows: &Range<usize>) -> MatMut<'_> {
        let place = self.places[window];
        if l == 0 {
            let Buffer { cols, stride, .. } = self.slot_layout.layers[0].x;
            let at = (window * self.seq_len() + rows.start) * stride;
            // SAFETY: passed on to the caller.
            return unsafe { self.embedded.mat_mut(at, rows.len(), cols, stride) };
        }
        let buffer = if l == self.partition.layers { self.slot_layout.last } else { self.slot_layout.layers[l].x };
        // SAFETY: passed on to the caller.
        unsafe { self.write(buffer, place, rows) }
    }

    /// Blocks of the norm-weight gradient that the rows belong to.
    ///
    /// # Safety
    /// As [`State::write`].
    pub unsafe fn norm_block_rows(&self, norm: usize, window: usize, rows: &Range<usize>) -> MatMut<'_> {
        let (d, blocks) = (self.config.model.hidden_size, self.seq_len().div_ceil(NORM_BLOCK));
        let first = (norm * self.partition.batch + window) * blocks + rows.start / NORM_BLOCK;
        // SAFETY: passed on to the caller.
        unsafe { self.norm_blocks.mat_mut(first * d, rows.len().div_ceil(NORM_BLOCK), d, d) }
    }
}
