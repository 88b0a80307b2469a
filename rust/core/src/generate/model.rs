//! A model that is only read.

use super::team::team_size;
use super::weights8::Weights8;
use crate::checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::{Layout, Weights};
use crate::system::machine::{available_cpus, available_memory};
use std::ops::Range;
use std::path::Path;
use symlm_kernels::gemm::q8;
use symlm_kernels::gemm::{Left, packed_len, product, product_add};
use symlm_kernels::rope::Table;
use symlm_kernels::{Integers, Isa, Mat, MatMut, embedding};

/// Weights that nobody changes any more; share them with `Arc`.
pub struct Model {
    pub(super) weights: Stored,
    pub(super) rope: Table,
    pub(super) isa: Isa,
}

/// How the weights are stored.
pub(super) enum Stored {
    /// As f32, with the panels of training.
    Floats(Weights),
    /// In 8 bits.
    Bytes(Weights8),
}

/// Rows to multiply with weights, as these are stored.
#[derive(Clone, Copy)]
pub(super) enum Factor<'a> {
    Floats(Mat<'a>),
    Bytes(q8::Quantised<'a>),
}

impl Model {
    /// Reads the weights of a checkpoint, or of a model from elsewhere: a `.safetensors` file or the index of several.
    ///
    /// # Errors
    /// `User` for an impossible shape, `Data` if the file is not of this shape, `Memory` if the system refuses.
    pub fn load(config: &ModelConfig, isa: Isa, safetensors: &Path) -> Result<Self> {
        check_memory(config)?;
        let mut weights = Self::empty(config)?;
        let layout = weights.layout.clone();
        checkpoint::read_model(safetensors, &layout, &mut |param, values| weights.set(param, values))?;
        Ok(Self::finish(weights, isa))
    }

    /// As [`Model::load`], the matrices in 8 bits (contract Q1).
    ///
    /// # Errors
    /// As there.
    pub fn load8(config: &ModelConfig, integers: Integers, safetensors: &Path) -> Result<Self> {
        config.check()?;
        check_available(Weights8::bytes(config) as f64)?;
        let mut weights = Weights8::new(config, integers)?;
        let (layout, mut failed) = (weights.layout.clone(), Ok(()));
        checkpoint::read_model(safetensors, &layout, &mut |param, values| {
            if failed.is_ok() {
                failed = weights.set_values(param, values);
            }
        })?;
        failed?;
        Self::of_bytes(weights)
    }

    /// A model with 8-bit weights.
    ///
    /// # Errors
    /// `Data` if a tensor was never set.
    pub fn of_bytes(weights: Weights8) -> Result<Self> {
        weights.check_whole()?;
        let isa = weights.integers.isa();
        Ok(Self { rope: rope(&weights.config), weights: Stored::Bytes(weights), isa })
    }

    /// Takes each tensor of the table from `fill(number in the table, elements)`: a snapshot of a trainer's weights.
    ///
    /// # Errors
    /// `User` for an impossible shape, `Memory` if the system refuses.
    pub fn from_tensors(config: &ModelConfig, isa: Isa, fill: &mut dyn FnMut(usize, &mut [f32])) -> Result<Self> {
        let weights = Self::empty(config)?;
        for (index, param) in weights.layout.params.iter().enumerate() {
            // SAFETY: these weights have just been made and nobody else knows them.
            fill(index, unsafe { weights.values.slice_mut(param.offset, param.len()) });
        }
        Ok(Self::finish(weights, isa))
    }

    fn empty(config: &ModelConfig) -> Result<Weights> {
        let mut weights = Weights::zeros(config)?;
        // The panels for gradients are never read here. Without a place they are not written either, and memory that
        // is not touched is not taken from the system: the others lie side by side, so that no huge page has both.
        let mut end = 0;
        for matrix in &mut weights.layout.matrices {
            matrix.backward = None;
            if let Some(forward) = &mut matrix.forward {
                *forward = end;
                end += packed_len(matrix.cols, matrix.rows);
            }
        }
        Ok(weights)
    }

    fn finish(mut weights: Weights, isa: Isa) -> Self {
        weights.pack_all(isa);
        Self { rope: rope(&weights.config), weights: Stored::Floats(weights), isa }
    }

    /// Shape of the model.
    pub fn config(&self) -> &ModelConfig {
        match &self.weights {
            Stored::Floats(weights) => &weights.config,
            Stored::Bytes(weights) => &weights.config,
        }
    }

    /// The instruction set it computes with.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of weights that are read for a token.
    pub fn token_bytes(&self) -> usize {
        let matrices = self.layout().matrices.iter().filter(|m| m.forward.is_some());
        let bytes = |k, n| match &self.weights {
            Stored::Floats(_) => packed_len(k, n) * size_of::<f32>(),
            Stored::Bytes(_) => q8::packed_bytes(k, n),
        };
        matrices.map(|m| bytes(m.cols, m.rows)).sum()
    }

    /// Threads that generate fastest on this machine.
    pub fn threads(&self) -> usize {
        let matrices = self.layout().matrices.iter().filter(|m| m.forward.is_some());
        team_size(matrices.map(|m| m.rows * m.cols).sum(), available_cpus().0)
    }

    /// The table of tensors.
    pub(super) fn layout(&self) -> &Layout {
        match &self.weights {
            Stored::Floats(weights) => &weights.layout,
            Stored::Bytes(weights) => &weights.layout,
        }
    }

    pub(super) fn eps(&self) -> f32 {
        self.config().rms_norm_eps as f32
    }

    /// A norm's weight; see [`Layout::norms`].
    pub(super) fn norm(&self, index: usize) -> &[f32] {
        match &self.weights {
            // SAFETY: nobody writes the weights of a finished model.
            Stored::Floats(weights) => unsafe { weights.norm(index) },
            Stored::Bytes(weights) => weights.norm(index),
        }
    }

    /// The residual stream at the first layer: a row of the embedding for each id.
    pub(super) fn embed(&self, ids: &[u32], x: MatMut<'_>) {
        match &self.weights {
            // SAFETY: as above.
            Stored::Floats(weights) => embedding::gather(unsafe { weights.embedding() }, ids, x),
            Stored::Bytes(weights) => weights.embed(ids, x),
        }
    }

    /// Room for the integers of so many rows; nothing where the weights are f32.
    pub(super) fn room(&self, rows: usize) -> q8::QuantisedMut {
        let c = self.config();
        match &self.weights {
            Stored::Floats(_) => q8::QuantisedMut::default(),
            Stored::Bytes(_) => q8::QuantisedMut::new(rows, c.hidden_size.max(c.intermediate_size)),
        }
    }

    /// Rows as they are multiplied with the weights.
    pub(super) fn factor<'a>(&self, x: Mat<'a>, room: &'a mut q8::QuantisedMut) -> Factor<'a> {
        match &self.weights {
            Stored::Floats(_) => Factor::Floats(x),
            Stored::Bytes(weights) => Factor::Bytes(q8::quantise_rows(weights.integers, x, room)),
        }
    }

    /// Columns `columns`, from a multiple of 32 on, of `y = x Wᵀ`, added to those of `residual` if there is one.
    pub(super) fn product(
        &self,
        x: Factor<'_>,
        matrix: usize,
        columns: Range<usize>,
        residual: Option<Mat<'_>>,
        y: MatMut<'_>,
    ) {
        match (x, &self.weights) {
            (Factor::Floats(x), Stored::Floats(weights)) => {
                // SAFETY: nobody writes the weights of a finished model.
                let (x, w) = (Left::Rows(x), unsafe { weights.forward(matrix) }.columns(columns));
                match residual {
                    None => product(self.isa, x, w, y),
                    Some(residual) => product_add(self.isa, x, w, residual, y),
                }
            }
            (Factor::Bytes(x), Stored::Bytes(weights)) => {
                q8::product(weights.integers, x, weights.panels(matrix).columns(columns), residual, y);
            }
            _ => unreachable!("a factor is made by the same model"),
        }
    }
}

fn rope(config: &ModelConfig) -> Table {
    // The caller's thread may round otherwise.
    let _environment = crate::system::float_env::ContractRounding::enter();
    config.rotary_table()
}

/// Checks that a model of this shape fits into the memory that is available now: a shape found in a file
/// does not justify taking all of it.
fn check_memory(config: &ModelConfig) -> Result<()> {
    config.check()?;
    let layout = Layout::new(config);
    let forward: f64 = layout.matrices.iter().map(|m| packed_len(m.cols, m.rows) as f64).sum();
    let rotary = config.seq_len as f64 * config.head_dim() as f64;
    check_available(size_of::<f32>() as f64 * (layout.len as f64 + forward + rotary))
}

fn check_available(needed: f64) -> Result<()> {
    match available_memory() {
        Some(available) if needed > available.bytes => {
            let (needed, available) = (needed / 1e9, available.bytes / 1e9);
            let what = format!("the model needs {needed:.1} GB of memory, {available:.1} GB are available");
            Err(Error::memory(what).hint("use a smaller model"))
        }
        _ => Ok(()),
    }
}
