//! What a stage of some rows multiplies: rows in a slot, as floats or as integers, and a worker's own memory for the way
//! from one to the other.

use super::state::{State, WindowPlace};
use crate::model::{GradientRoom, Inputs, Operand};
use crate::pool::Scratch;
use crate::step::plan::{InputBuffer, RowScratch};
use crate::system::arena::row_stride;
use std::ops::Range;
use symlm_kernels::MatMut;
use symlm_kernels::gemm::int16::{Quantised, QuantisedMut};

/// A worker's memory for the rows at hand; empty with f32.
pub(super) struct RowMemory<'a> {
    /// Values of normalised rows.
    pub normed: &'a mut [f32],
    /// Values of the MLP's hidden rows.
    pub hidden: &'a mut [f32],
    /// For the integers of gradients.
    pub room: GradientRoom<'a>,
}

impl State {
    /// Memory for a stage of so many rows.
    pub(super) fn row_memory<'a>(&self, rows: usize, scratch: &'a mut Scratch) -> RowMemory<'a> {
        let RowScratch { values, room } = RowScratch::new(&self.config.model, self.config.train.precision, rows);
        let [floats, pairs, scales] = scratch.buffers([values.iter().sum(), room[0], room[1]]);
        let (normed, hidden) = floats.split_at_mut(values[0]);
        RowMemory { normed, hidden, room: GradientRoom { pairs, scales } }
    }

    /// Rows of a window to be written: values into the slot, or into `memory` with their integers in the slot.
    ///
    /// # Safety
    /// As [`State::write`].
    pub(super) unsafe fn inputs<'a>(
        &'a self,
        input: InputBuffer,
        place: WindowPlace,
        rows: &Range<usize>,
        memory: &'a mut [f32],
    ) -> Inputs<'a> {
        // SAFETY: passed on to the caller.
        let integers = unsafe { self.integers(input, place, rows) };
        let values = match integers {
            // SAFETY: as above.
            None => unsafe { self.write(input.buffer, place, rows) },
            Some(_) => MatMut::new(memory, rows.len(), input.cols, row_stride(input.cols)),
        };
        Inputs { values, integers }
    }

    /// Integers of rows of a window to be written, if there are any.
    ///
    /// # Safety
    /// As [`State::write`].
    pub(super) unsafe fn integers(
        &self,
        input: InputBuffer,
        place: WindowPlace,
        rows: &Range<usize>,
    ) -> Option<QuantisedMut<'_>> {
        let scales = input.scales?;
        // SAFETY: passed on to the caller.
        let (pairs, scales) = unsafe { (self.write(input.buffer, place, rows), self.row_values(scales, place, rows)) };
        Some(QuantisedMut::new(pairs, input.cols, scales))
    }

    /// Rows of a window as they are multiplied.
    ///
    /// # Safety
    /// As [`State::read`].
    pub(super) unsafe fn operand(&self, input: InputBuffer, place: WindowPlace, rows: &Range<usize>) -> Operand<'_> {
        // SAFETY: passed on to the caller.
        unsafe {
            let values = self.read(input.buffer, place, rows);
            match input.scales {
                None => Operand::Floats(values),
                Some(scales) => {
                    let scales = self.slots.slice(place.slot + scales + place.row + rows.start, rows.len());
                    Operand::Integers(Quantised::new(values, input.cols, scales))
                }
            }
        }
    }
}
