//! Facts about the machine and the model table.

use crate::args::Text;
use crate::errors::{detached, to_py};
use pyo3::prelude::*;
use symlm_core::config::{EngineConfig, ModelConfig};
use symlm_core::system::machine;
use symlm_core::{Error, model, step};
use symlm_kernels::Isa;

/// A part of a plan: its name and its bytes.
type Part = (&'static str, f64);

/// The instruction set in use; `SYMLM_ISA` overrides the choice.
#[pyfunction]
pub fn isa(py: Python<'_>) -> PyResult<&'static str> {
    machine::active_isa().map(Isa::name).map_err(|e| to_py(py, e))
}

/// The instruction sets that this machine can run, fastest first.
#[pyfunction]
pub fn available_isas() -> Vec<&'static str> {
    Isa::available().into_iter().map(Isa::name).collect()
}

/// The number of threads that `--threads auto` means, and the rule that decided.
#[pyfunction]
pub fn available_cpus() -> (usize, String) {
    machine::available_cpus()
}

/// GFLOP/s of a register-only loop of fused multiply-adds on `threads` threads, which are joined before return; of the
/// instruction set in use unless `isa` names another.
#[pyfunction]
#[pyo3(signature = (threads, seconds, isa = None))]
pub fn fma_peak(py: Python<'_>, threads: usize, seconds: f64, isa: Option<Text<'_>>) -> PyResult<f64> {
    detached(py, || machine::fma_peak(chosen_isa(isa.as_deref())?, threads, seconds))
}

/// The instruction set with this name, without one the one in use.
pub(crate) fn chosen_isa(name: Option<&str>) -> symlm_core::Result<Isa> {
    let Some(name) = name else { return machine::active_isa() };
    machine::named_isa(name).ok_or_else(|| {
        let expected = machine::isa_names();
        Error::usage(format!("instruction set {name:?}, symlm has {expected} on this machine"))
    })
}

/// Raises MemoryPlanError if an engine of this configuration would not fit into the memory available now.
#[pyfunction]
pub fn check_memory(py: Python<'_>, config_json: Text<'_>) -> PyResult<()> {
    detached(py, || step::check_memory(&EngineConfig::from_json(&config_json)?))
}

/// What a training of this configuration takes in memory: parts of the engine, and copies that are held beside it for a
/// while, each as (name, bytes).
#[pyfunction]
pub fn memory_plan(py: Python<'_>, config_json: Text<'_>) -> PyResult<(Vec<Part>, Vec<Part>)> {
    let plan = detached(py, || Ok(step::MemoryPlan::new(&EngineConfig::from_json(&config_json)?)))?;
    Ok((plan.engine, plan.beside))
}

/// Bytes of memory that are available now, and the rule that decided; None if the system does not tell.
#[pyfunction]
pub fn available_memory() -> Option<(u64, &'static str)> {
    machine::available_memory().map(|available| (available.bytes as u64, available.rule))
}

/// Floating-point operations per trained token of a model.
#[pyfunction]
pub fn flops_per_token(py: Python<'_>, model_json: Text<'_>) -> PyResult<f64> {
    ModelConfig::from_json(&model_json).map(|config| config.flops_per_token()).map_err(|e| to_py(py, e))
}

/// Names and shapes of the tensors of a model, in storage order.
#[pyfunction]
pub fn parameter_table(py: Python<'_>, model_json: Text<'_>) -> PyResult<Vec<(String, Vec<usize>)>> {
    let config = ModelConfig::from_json(&model_json).map_err(|e| to_py(py, e))?;
    Ok(model::Layout::new(&config).params.into_iter().map(|p| (p.name, p.shape)).collect())
}
