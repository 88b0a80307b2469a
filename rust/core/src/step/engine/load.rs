//! Continuing from files: those of a save, and the weights that a training run starts from.

use super::handle::Engine;
use crate::checkpoint::{read_model, read_tensors};
use crate::error::{Error, Result};
use crate::step::work::Tensors;
use std::path::Path;

impl Engine {
    /// Restores what [`Engine::save`] wrote, and continues after `step` updates. With adapters, the weights that they
    /// are added to must be there already: by [`Engine::load_weights`].
    ///
    /// # Errors
    /// `Data` with the file if one is damaged or belongs to another model; then nothing is overwritten, except where
    /// weights are not what base and adapters give.
    pub fn load(&self, folder: &Path, step: u64) -> Result<()> {
        let merged = self.config().train.lora.is_some();
        // All files are read through before anything is overwritten, so a damaged one changes nothing.
        for keep in [false, true] {
            for (file, which) in self.files() {
                // Merged weights follow from base and adapters.
                self.read(&folder.join(file), which, keep && !(merged && which == [Tensors::Weights]))?;
            }
        }
        self.set_step(step)?;
        if merged { self.check_merged(&folder.join(super::save::WEIGHTS)) } else { Ok(()) }
    }

    /// Takes the weights of a model from elsewhere: a `.safetensors` file or the index of several. Moments stay as they are.
    /// With adapters they are what these are added to.
    ///
    /// # Errors
    /// `Data` with the file if it is damaged or belongs to another model.
    pub fn load_weights(&self, path: &Path) -> Result<()> {
        let mut outcome = Ok(());
        read_model(path, self.layout(), &mut |index, values| {
            if outcome.is_ok() {
                outcome = self.set_tensor(Tensors::Weights, index, values);
            }
        })?;
        outcome?;
        self.set_step(self.step())
    }

    fn read(&self, path: &Path, which: &[Tensors], keep: bool) -> Result<()> {
        let places: Vec<_> =
            which.iter().flat_map(|&which| (0..self.state.table(which).len()).map(move |at| (which, at))).collect();
        let mut outcome = Ok(());
        read_tensors(path, &self.names(which), &mut |index, values| {
            if keep && outcome.is_ok() {
                let (which, at) = places[index];
                outcome = self.set_tensor(which, at, values);
            }
        })?;
        outcome
    }

    /// Compares the weights with those of a file, bit by bit.
    fn check_merged(&self, path: &Path) -> Result<()> {
        let mut wrong = None;
        self.tensors(&[Tensors::Weights], |weights| {
            read_tensors(path, &self.names(&[Tensors::Weights]), &mut |index, values| {
                let (name, _, found) = &weights[index];
                let same = values.iter().zip(*found).all(|(a, b)| a.to_bits() == b.to_bits());
                if !same && wrong.is_none() {
                    wrong = Some(name.clone());
                }
            })
        })??;
        let Some(name) = wrong else { return Ok(()) };
        let what =
            format!("{}: tensor {name} is not what the base weights and the adapters beside it give", path.display());
        Err(Error::data(what).hint("the checkpoint or the base folder of the run is damaged"))
    }
}
