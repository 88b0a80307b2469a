//! 8-bit weights: the matrices of a model in panels of bytes, nothing of them in f32 (contract, "8-bit weights").

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::{Layout, MatrixId, Param};
use crate::system::arena::Arena;
use symlm_kernels::gemm::q8::{self, Panels};
use symlm_kernels::{Integers, MatMut};

/// Weights that are being loaded, then read.
pub struct Weights8 {
    pub(super) config: ModelConfig,
    pub(super) layout: Layout,
    pub(super) integers: Integers,
    /// Panels of all matrices, as they lie in bytes.
    panels: Arena,
    /// Where the panels of each matrix begin.
    starts: Vec<usize>,
    /// Norm weights, in the order of [`Layout::norms`].
    norms: Vec<f32>,
    /// Which tensors have been set.
    set: Vec<bool>,
}

/// Bytes of the panels of a matrix begin on a cache line.
const ALIGN: usize = 64;

impl Weights8 {
    /// Nothing set yet.
    ///
    /// # Errors
    /// `User` for an impossible shape, `Memory` if the system refuses.
    pub fn new(config: &ModelConfig, integers: Integers) -> Result<Self> {
        config.check()?;
        let layout = Layout::new(config);
        let mut end = 0;
        let starts = layout.matrices.iter().map(|m| {
            let start = end;
            end += q8::packed_bytes(m.cols, m.rows).next_multiple_of(ALIGN);
            start
        });
        let starts = starts.collect();
        let mut this = Self {
            config: config.clone(),
            integers,
            panels: Arena::new(end.div_ceil(size_of::<f32>()))?,
            starts,
            norms: vec![0.0; layout.norms.len() * config.hidden_size],
            set: vec![false; layout.params.len()],
            layout,
        };
        for matrix in 0..this.starts.len() {
            let bytes = q8::packed_bytes(this.layout.matrices[matrix].cols, this.layout.matrices[matrix].rows);
            q8::clear(this.bytes_mut(matrix, bytes));
        }
        Ok(this)
    }

    /// Bytes that a model of this shape takes.
    pub fn bytes(config: &ModelConfig) -> usize {
        Layout::new(config).matrices.iter().map(|m| q8::packed_bytes(m.cols, m.rows).next_multiple_of(ALIGN)).sum()
    }

    fn bytes_mut(&mut self, matrix: usize, bytes: usize) -> &mut [u8] {
        let start = self.starts[matrix];
        assert!(start + bytes <= self.panels.len() * size_of::<f32>(), "panels of matrix {matrix}");
        // SAFETY: in bounds of the arena, which `&mut self` keeps everybody else out of; any bytes are f32 and any f32 bytes.
        unsafe { std::slice::from_raw_parts_mut(self.panels.ptr(0).cast::<u8>().add(start), bytes) }
    }

    /// The panels of a matrix.
    pub(super) fn panels(&self, matrix: usize) -> Panels<'_> {
        let m = &self.layout.matrices[matrix];
        let bytes = q8::packed_bytes(m.cols, m.rows);
        assert!(self.starts[matrix] + bytes <= self.panels.len() * size_of::<f32>(), "panels of matrix {matrix}");
        // SAFETY: in bounds of the arena, and nobody writes while `&self` lives.
        let bytes =
            unsafe { std::slice::from_raw_parts(self.panels.ptr(0).cast::<u8>().add(self.starts[matrix]), bytes) };
        Panels::new(bytes, m.cols, m.rows)
    }

    /// A norm's weight; see [`Layout::norms`].
    pub(super) fn norm(&self, index: usize) -> &[f32] {
        &self.norms[index * self.config.hidden_size..][..self.config.hidden_size]
    }

    /// Rows of the embedding.
    pub(super) fn embed(&self, ids: &[u32], mut x: MatMut<'_>) {
        let embedding = self.panels(self.layout.matrix_index(MatrixId::Embedding));
        for (row, id) in ids.iter().enumerate() {
            q8::unpack_row(embedding, *id as usize, x.row(row));
        }
    }

    /// The number of a tensor in the table.
    ///
    /// # Errors
    /// `Data` if there is none of this name.
    pub fn number(&self, name: &str) -> Result<usize> {
        let place = self.layout.params.iter().position(|param| param.name == name);
        place.ok_or_else(|| Error::data(format!("the model has no tensor {name}")))
    }

    /// Sets a tensor from its values; a matrix is quantised (contract Q1).
    ///
    /// # Errors
    /// `Data` if there are not as many as the table says.
    pub fn set_values(&mut self, number: usize, values: &[f32]) -> Result<()> {
        let param = self.layout.params[number].clone();
        check_len(&param, values.len(), param.len(), "values")?;
        if let [rows, cols] = param.shape[..] {
            let mut blocks = Vec::with_capacity(rows * q8::groups(cols) * q8::BLOCK_BYTES);
            values.chunks(cols).for_each(|row| q8::quantise_blocks(row, &mut blocks));
            return self.set_blocks(number, &blocks);
        }
        let norm = self.layout.norms.iter().position(|norm| norm.offset == param.offset);
        if let Some(norm) = norm {
            self.norms[norm * self.config.hidden_size..][..values.len()].copy_from_slice(values);
        }
        self.set[number] = true;
        Ok(())
    }

    /// Sets a matrix from Q8_0 blocks, row by row.
    ///
    /// # Errors
    /// `Data` if these are not as many bytes as the table says, or the tensor is a vector.
    pub fn set_blocks(&mut self, number: usize, blocks: &[u8]) -> Result<()> {
        let param = self.layout.params[number].clone();
        let [rows, cols] = param.shape[..] else {
            return Err(Error::data(format!("{}: found 8-bit blocks, expected f32 values", param.name)));
        };
        check_len(&param, blocks.len(), rows * q8::groups(cols) * q8::BLOCK_BYTES, "bytes of 8-bit blocks")?;
        let holds = |m: &crate::model::Matrix| (m.offset..m.offset + m.rows * m.cols).contains(&param.offset);
        let matrix = self.layout.matrices.iter().position(holds).expect("every matrix of the table has a place");
        let (m, first) = (&self.layout.matrices[matrix], param.offset - self.layout.matrices[matrix].offset);
        let bytes = q8::packed_bytes(m.cols, m.rows);
        q8::pack_blocks(blocks, cols, first / cols, self.bytes_mut(matrix, bytes));
        self.set[number] = true;
        Ok(())
    }

    /// # Errors
    /// `Data` if a tensor was never set.
    pub(super) fn check_whole(&self) -> Result<()> {
        match self.set.iter().position(|set| !set) {
            Some(number) => Err(Error::data(format!("no tensor {} in the weights", self.layout.params[number].name))),
            None => Ok(()),
        }
    }
}

fn check_len(param: &Param, found: usize, expected: usize, what: &str) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::data(format!("{}: found {found} {what}, expected {expected}", param.name))),
    }
}
