//! Facts about the machine and the model table.

use crate::args::{Given, Text};
use crate::errors::{detached, to_py};
use crate::records::records;
use crate::settings::{EngineSettings, ModelShape};
use pyo3::prelude::*;
use symlm_core::system::{machine, peak};
use symlm_core::{Error, model, step};
use symlm_kernels::{Integers, Isa};

records! {
    /// Processors that this process may use.
    Cpus {
        /// How many.
        count: usize,
        /// The rule that decided.
        rule: String,
    }
    /// Memory that is available now.
    AvailableMemory {
        /// How much.
        bytes: u64,
        /// The rule that decided.
        rule: &'static str,
    }
    /// A part of a plan of memory.
    MemoryPart {
        /// What it is for.
        name: &'static str,
        /// How much it takes.
        bytes: f64,
    }
    /// What a run takes in memory.
    MemoryPlan {
        /// Parts of the engine.
        engine: Vec<MemoryPart>,
        /// Copies that are held beside it for a while.
        beside: Vec<MemoryPart>,
    }
    /// A tensor of a model.
    Parameter {
        /// Its name in a safetensors file.
        name: String,
        /// Rows and columns, or elements.
        shape: Vec<usize>,
    }
}

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

/// The instructions that multiply 16-bit integers beside the instruction set in use; `SYMLM_INT16` overrides the choice.
#[pyfunction]
pub fn integer_instructions(py: Python<'_>) -> PyResult<&'static str> {
    let found = machine::active_isa().and_then(machine::active_integers);
    found.map(Integers::name).map_err(|e| to_py(py, e))
}

/// The number of threads that `--threads auto` means, and the rule that decided.
#[pyfunction]
pub fn available_cpus() -> Cpus {
    let (count, rule) = machine::available_cpus();
    Cpus { count, rule }
}

/// GFLOP/s of a register-only loop of fused multiply-adds on `threads` threads, which are joined before return; of the
/// instruction set in use unless `isa` names another.
#[pyfunction]
#[pyo3(signature = (threads, seconds, isa = None))]
pub fn fma_peak(py: Python<'_>, threads: Given<usize>, seconds: Given<f64>, isa: Option<Text<'_>>) -> PyResult<f64> {
    detached(py, || peak::fma_peak(chosen_isa(isa.as_deref())?, *threads, *seconds))
}

/// As `fma_peak`, of products of 16-bit integers: billions of multiplications and additions a second of the instructions
/// that multiply integers beside the instruction set. None where that is the specification, which has none.
#[pyfunction]
#[pyo3(signature = (threads, seconds, isa = None))]
pub fn integer_peak(
    py: Python<'_>,
    threads: Given<usize>,
    seconds: Given<f64>,
    isa: Option<Text<'_>>,
) -> PyResult<Option<f64>> {
    detached(py, || {
        let integers = machine::active_integers(chosen_isa(isa.as_deref())?)?;
        peak::integer_peak(integers, *threads, *seconds)
    })
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
pub fn check_memory(py: Python<'_>, settings: &EngineSettings) -> PyResult<()> {
    detached(py, || step::check_memory(&settings.0))
}

/// What a run with these settings takes in memory.
#[pyfunction]
pub fn memory_plan(py: Python<'_>, settings: &EngineSettings) -> PyResult<MemoryPlan> {
    let plan = detached(py, || Ok(step::MemoryPlan::new(&settings.0)))?;
    let parts =
        |parts: Vec<(&'static str, f64)>| parts.into_iter().map(|(name, bytes)| MemoryPart { name, bytes }).collect();
    Ok(MemoryPlan { engine: parts(plan.engine), beside: parts(plan.beside) })
}

/// Memory that is available now; None if the system does not tell.
#[pyfunction]
pub fn available_memory() -> Option<AvailableMemory> {
    machine::available_memory().map(|found| AvailableMemory { bytes: found.bytes as u64, rule: found.rule })
}

/// Floating-point operations per trained token of a model.
#[pyfunction]
pub fn flops_per_token(shape: &ModelShape) -> f64 {
    shape.0.flops_per_token()
}

/// The tensors of a model, in storage order.
#[pyfunction]
pub fn parameter_table(shape: &ModelShape) -> Vec<Parameter> {
    let params = model::Layout::new(&shape.0).params.into_iter();
    params.map(|p| Parameter { name: p.name, shape: p.shape }).collect()
}
