//! What is needed when an update goes wrong: look at it, leave it out, begin again.

use super::control::Command;
use super::handle::Engine;
use crate::error::{Error, Result};
use crate::step::work::{Initialise, Tensors};
use crate::system::sync::lock;
use std::sync::atomic::Ordering;

/// What is known about one tensor that is trained after an update that was computed.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorNumbers {
    /// Its name.
    pub name: String,
    /// Norm of its part of the gradient (contract O1).
    pub grad_norm: f64,
    /// Elements of the gradient that are not finite.
    pub bad_gradients: u64,
    /// Weights that are not finite.
    pub bad_weights: u64,
    /// Elements of both moments that are not finite.
    pub bad_moments: u64,
}

fn not_finite(values: &[f32]) -> u64 {
    values.iter().filter(|x| !x.is_finite()).count() as u64
}

impl Engine {
    /// Counts the next update as done without computing it: weights and moments stay as they are, and the data continue
    /// after its windows (contract O2).
    ///
    /// # Errors
    /// `Internal` if the engine is closed or busy.
    pub fn pass_over(&self) -> Result<()> {
        let idle = self.idle()?;
        let step = self.step() + 1;
        self.step.store(step, Ordering::Release);
        idle.send(Command::Seek { step })
    }

    /// Goes back to the initial weights, with no update done; where adapters are trained, to their initial values.
    ///
    /// # Errors
    /// `Internal` if the engine is closed or busy.
    pub fn restart(&self) -> Result<()> {
        let idle = self.idle()?;
        idle.execute(Initialise::new(self.state.clone(), false).run())?;
        for arena in [&self.state.first_moment, &self.state.second_moment] {
            // SAFETY: the control thread is idle as long as `idle` lives, and nobody else reads or writes.
            unsafe { arena.slice_mut(0, arena.len()) }.fill(0.0);
        }
        drop(idle);
        self.set_step(0)
    }

    /// The ids of a window of the update after which `step` updates are done: `seq_len` inputs and, one further, as
    /// many targets.
    ///
    /// # Errors
    /// `Usage` if there is no such update or window; those of the source.
    pub fn window(&self, step: u64, index: usize) -> Result<Vec<u32>> {
        let (batch, seq_len) = (self.state.partition.batch, self.state.partition.seq_len);
        let Some(update) = step.checked_sub(1).filter(|_| index < batch) else {
            return Err(Error::usage(format!("window {index} of step {step}, expected one of {batch} from step 1 on")));
        };
        let number = update.checked_mul(batch as u64).and_then(|first| first.checked_add(index as u64));
        let number = number.ok_or_else(|| Error::usage(format!("step {step} is beyond all data")))?;
        let mut ids = vec![0; seq_len + 1];
        self.source.copy_ids(self.order.start(number), &mut ids)?;
        Ok(ids)
    }

    /// Mean loss of the targets that count in each window of the last update that was computed.
    ///
    /// # Errors
    /// `Internal` if the engine is closed or busy.
    pub fn window_losses(&self) -> Result<Vec<f64>> {
        let (batch, seq_len) = (self.state.partition.batch, self.state.partition.seq_len);
        let _idle = self.idle()?;
        // SAFETY: the control thread is idle as long as `_idle` lives.
        let losses = unsafe { self.state.losses.slice(0, batch * seq_len) };
        let sum = |window: &[f32]| window.iter().map(|&x| f64::from(x)).sum::<f64>();
        let counted = lock(&self.state.counted);
        Ok(losses.chunks_exact(seq_len).zip(&*counted).map(|(w, &n)| sum(w) / n.max(1) as f64).collect())
    }

    /// Norms and elements that are not finite, tensor by tensor, after the last update that was computed.
    ///
    /// # Errors
    /// `Internal` if the engine is closed or busy.
    pub fn tensor_numbers(&self) -> Result<Vec<TensorNumbers>> {
        let state = &*self.state;
        let idle = self.idle()?;
        let bad = |which: Tensors, index: usize| {
            let (arena, offset) = state.location(which, index);
            // SAFETY: the control thread is idle as long as `idle` lives.
            not_finite(unsafe { arena.slice(offset, state.table(which)[index].len()) })
        };
        // Factors that are finite may have a product that is not: it counts for both.
        let weights = |index: usize| match &state.adapters {
            None => bad(Tensors::Weights, index),
            Some(all) => bad(Tensors::Adapters, index) + bad(Tensors::Weights, all.table.param_of(index)),
        };
        let numbers = state.trained().iter().enumerate().map(|(index, p)| {
            let squares = &state.squares[state.square_start[index]..state.square_start[index + 1]];
            let sum = squares.iter().fold(0.0, |sum, x| sum + f64::from_bits(x.load(Ordering::Relaxed)));
            TensorNumbers {
                name: p.name.clone(),
                grad_norm: libm::sqrt(sum),
                bad_gradients: bad(Tensors::Gradient, index),
                bad_weights: weights(index),
                bad_moments: bad(Tensors::FirstMoment, index) + bad(Tensors::SecondMoment, index),
            }
        });
        let numbers = numbers.collect();
        drop(idle);
        Ok(numbers)
    }
}
