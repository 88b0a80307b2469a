//! A window into the training step, for tests against other implementations.

use crate::args::{Given, Text};
use crate::errors::{detached, to_py};
use crate::settings::EngineSettings;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::sync::Arc;
use symlm_core::Error;
use symlm_core::generate;
use symlm_core::step::{Engine, Switches, Tensors};
use symlm_core::system::machine;

/// An engine that is fed batches by hand.
#[pyclass(module = "symlm._symlm")]
pub struct Probe(Engine);

/// The outcome of a forward and a backward pass.
#[pyclass(frozen, get_all, module = "symlm._symlm")]
pub struct Gradients {
    /// Mean over the targets, in nats.
    loss: f64,
    /// Little-endian f32 of each tensor that is trained, by its name.
    of: Py<PyDict>,
}

fn bytes<'py>(py: Python<'py>, values: &[f32]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

impl Probe {
    /// A weight, or a factor of an adapter.
    fn index(&self, name: &str) -> symlm_core::Result<(Tensors, usize)> {
        for which in [Tensors::Weights, Tensors::Adapters] {
            let names = self.0.names(&[which]);
            let of = |tensor: &str| tensor.trim_start_matches(which.prefix()) == name;
            if let Some(index) = names.iter().position(|(tensor, _)| of(tensor)) {
                return Ok((which, index));
            }
        }
        Err(Error::usage(format!("no tensor is called {name}")))
    }
}

#[pymethods]
impl Probe {
    #[new]
    fn new(py: Python<'_>, settings: &EngineSettings) -> PyResult<Self> {
        detached(py, || {
            let config = settings.0.clone();
            // The prefetch thread needs something to cut; its batches are never used.
            let source = Arc::new(vec![0_u32; 2 * config.model.seq_len + 2]);
            Engine::new(config, machine::active_isa()?, source, Switches::default())
        })
        .map(Self)
    }
    /// Panics, to show what becomes of it.
    #[staticmethod]
    fn panic(py: Python<'_>) -> PyResult<()> {
        detached(py, || panic!("as the test asked"))
    }
    /// Overwrites a weight or a factor of an adapter with little-endian f32.
    fn set_parameter(&self, py: Python<'_>, name: Text<'_>, values: &[u8]) -> PyResult<()> {
        detached(py, || {
            let (which, index) = self.index(&name)?;
            let (chunks, rest) = values.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(Error::usage(format!("{}: {} bytes are not whole f32 values", &*name, values.len())));
            }
            let values: Vec<f32> = chunks.iter().map(|c| f32::from_le_bytes(*c)).collect();
            self.0.set_tensor(which, index, &values)?;
            self.0.set_step(self.0.step())
        })
    }
    /// A tensor as little-endian f32.
    fn parameter<'py>(&self, py: Python<'py>, name: Text<'_>) -> PyResult<Bound<'py, PyBytes>> {
        let (which, index) = self.index(&name).map_err(|e| to_py(py, e))?;
        self.0.tensors(&[which], |t| bytes(py, t[index].2)).map_err(|e| to_py(py, e))
    }
    /// Mean loss, and the gradient before clipping of every tensor that is trained. Ids with the bit 2^31 are not targets.
    fn forward_backward(&self, py: Python<'_>, ids: Given<Vec<Vec<u32>>>) -> PyResult<Gradients> {
        let loss = detached(py, || self.0.gradients(&ids))?;
        let gradients = PyDict::new(py);
        let fill = |tensors: &[(String, Vec<usize>, &[f32])]| -> PyResult<()> {
            let prefix = Tensors::Gradient.prefix();
            tensors.iter().try_for_each(|t| gradients.set_item(t.0.trim_start_matches(prefix), bytes(py, t.2)))
        };
        self.0.tensors(&[Tensors::Gradient], fill).map_err(|e| to_py(py, e))??;
        Ok(Gradients { loss, of: gradients.unbind() })
    }
    /// Logits of a text, as the generator computes them.
    fn logits<'py>(&self, py: Python<'py>, ids: Given<Vec<u32>>) -> PyResult<Bound<'py, PyBytes>> {
        let logits = detached(py, || {
            let model = self.0.tensors(&[Tensors::Weights], |tensors| {
                let fill = &mut |index: usize, out: &mut [f32]| out.copy_from_slice(tensors[index].2);
                generate::Model::from_tensors(&self.0.config().model, self.0.isa(), fill)
            })??;
            generate::Session::new(&Arc::new(model))?.logits(&ids)
        })?;
        Ok(bytes(py, &logits))
    }
    /// One whole update; returns the loss before it.
    fn adamw_step(&self, py: Python<'_>, ids: Given<Vec<Vec<u32>>>) -> PyResult<f64> {
        detached(py, || self.0.update_with(&ids))
    }
    /// Ends all threads.
    fn close(&mut self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}
