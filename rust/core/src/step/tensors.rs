//! Reading and overwriting the tensors of an idle engine.

use super::engine::Engine;
use super::state::State;
use crate::arena::Arena;
use crate::checkpoint::hash_tensors;
use crate::error::{Error, Result};
use crate::model::Param;

/// Name, shape and values.
pub type NamedTensor<'a> = (String, Vec<usize>, &'a [f32]);

/// Which tensors of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tensors {
    /// The weights that the model computes with.
    Weights,
    /// The gradient of the last batch, of what is trained: the weights, or the factors of adapters.
    Gradient,
    /// AdamW's first moment of what is trained.
    FirstMoment,
    /// AdamW's second moment.
    SecondMoment,
    /// The factors of the adapters; none where the weights are trained.
    Adapters,
    /// The weights that the adapters are added to, those without one included; none where the weights are trained.
    Base,
}

impl Tensors {
    /// What stands before a tensor's name in a file.
    pub fn prefix(self) -> &'static str {
        match self {
            Tensors::Weights | Tensors::Base => "",
            Tensors::Gradient => "gradient.",
            Tensors::FirstMoment => "first_moment.",
            Tensors::SecondMoment => "second_moment.",
            Tensors::Adapters => "base_model.model.",
        }
    }
}

impl State {
    /// The table of some tensors.
    pub(super) fn table(&self, which: Tensors) -> &[Param] {
        match which {
            Tensors::Weights => &self.weights.layout.params,
            Tensors::Gradient | Tensors::FirstMoment | Tensors::SecondMoment => self.trained(),
            Tensors::Adapters => self.adapters.as_ref().map_or(&[], |adapters| &adapters.table.params),
            Tensors::Base => self.adapters.as_ref().map_or(&[], |_| &self.weights.layout.params),
        }
    }

    /// Where a tensor of the table lies.
    pub(super) fn place(&self, which: Tensors, index: usize) -> (&Arena, usize) {
        let arena = match which {
            Tensors::Weights => &self.weights.values,
            Tensors::Gradient => self.trained_gradient(),
            Tensors::FirstMoment => &self.first_moment,
            Tensors::SecondMoment => &self.second_moment,
            Tensors::Adapters => self.trained_values(),
            Tensors::Base => {
                let adapters = self.adapters.as_ref();
                let adapted = adapters.and_then(|all| Some((&all.base, all.table.of_param(index)?.base)));
                return adapted.unwrap_or((&self.weights.values, self.weights.layout.params[index].offset));
            }
        };
        (arena, self.table(which)[index].offset)
    }
}

impl Engine {
    /// Names and shapes of some tensors, as they stand in a file.
    pub fn names(&self, which: &[Tensors]) -> Vec<(String, Vec<usize>)> {
        let names = |which: &Tensors| {
            let named = |p: &Param| (format!("{}{}", which.prefix(), p.name), p.shape.clone());
            self.state.table(*which).iter().map(named).collect::<Vec<_>>()
        };
        which.iter().flat_map(names).collect()
    }

    /// Calls `f` with name, shape and values of these tensors, in the order of their tables.
    ///
    /// # Errors
    /// `Internal` if the engine is closed or busy.
    pub fn tensors<R>(&self, which: &[Tensors], f: impl FnOnce(&[NamedTensor<'_>]) -> R) -> Result<R> {
        let idle = self.idle()?;
        let mut table = Vec::new();
        for &which in which {
            for (index, p) in self.state.table(which).iter().enumerate() {
                let (arena, offset) = self.state.place(which, index);
                // SAFETY: the control thread is idle as long as `idle` lives, and nobody else writes.
                let values = unsafe { arena.slice(offset, p.len()) };
                table.push((format!("{}{}", which.prefix(), p.name), p.shape.clone(), values));
            }
        }
        let result = f(&table);
        drop(idle);
        Ok(result)
    }

    /// Overwrites a tensor; [`Engine::set_step`] makes it count. Weights are what adapters are added to, where there are any.
    ///
    /// # Errors
    /// `Internal` if the engine is closed or busy, or the length differs.
    pub fn set_tensor(&self, which: Tensors, index: usize, values: &[f32]) -> Result<()> {
        let p = &self.state.table(which)[index];
        if values.len() != p.len() {
            return Err(Error::internal(format!("{} has {} values, expected {}", p.name, values.len(), p.len())));
        }
        let _idle = self.idle()?;
        let (arena, offset) = self.state.place(which, index);
        // SAFETY: the control thread is idle as long as `_idle` lives, and nobody else reads or writes.
        unsafe { arena.slice_mut(offset, p.len()) }.copy_from_slice(values);
        if let (Tensors::Weights, Some(adapters)) = (which, &self.state.adapters) {
            // SAFETY: as above.
            unsafe { adapters.set_base(index, 0, values) };
            *self.base_hash() = None;
        }
        Ok(())
    }

    /// SHA-256 of the file of the weights that adapters are added to; `None` where the weights are trained.
    ///
    /// # Errors
    /// `Internal` if the engine is closed or busy.
    pub fn base_sha256(&self) -> Result<Option<String>> {
        if self.state.adapters.is_none() {
            return Ok(None);
        }
        let mut known = self.base_hash();
        if known.is_none() {
            *known = Some(self.tensors(&[Tensors::Base], hash_tensors)??);
        }
        Ok(known.clone())
    }
}
