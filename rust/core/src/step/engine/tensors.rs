//! Reading and overwriting the tensors of an idle engine.

use super::handle::Engine;
use crate::checkpoint::hash_tensors;
use crate::error::{Error, Result};
use crate::model::Param;
use crate::step::work::Tensors;

/// Name, shape and values.
pub type NamedTensor<'a> = (String, Vec<usize>, &'a [f32]);

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
                let (arena, offset) = self.state.location(which, index);
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
        let (arena, offset) = self.state.location(which, index);
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
