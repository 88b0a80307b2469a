//! Python bindings of symlm: conversion only. Every call that may take time gives up the GIL; errors of the core become
//! the exceptions of `symlm.errors`.

mod args;
mod data;
mod engine;
mod errors;
mod generate;
mod machine;
mod objects;
mod probe;
mod trace;

use pyo3::prelude::*;

const _: () = assert!(!symlm_kernels::ANY_ORDER, "the feature any-order is for measurements, not for wheels");

/// The compiled part of symlm.
#[pymodule]
mod _symlm {
    use pyo3::prelude::*;

    /// Version of the numeric contract.
    #[pymodule_export]
    const CONTRACT_VERSION: u64 = symlm_core::CONTRACT_VERSION;
    #[pymodule_export]
    use super::data::{Corpus, Shards, Tokenizer, own_output};
    #[pymodule_export]
    use super::engine::{Engine, EvalReport, Saving, StepReport, WorkerStats};
    #[pymodule_export]
    use super::generate::{Generator, TokenStream};
    #[pymodule_export]
    use super::machine::{
        available_cpus, available_isas, available_memory, check_memory, flops_per_token, fma_peak, isa, memory_plan,
        parameter_table,
    };
    #[pymodule_export]
    use super::objects::{ObjectFile, Objects};
    #[pymodule_export]
    use super::probe::Probe;
    #[pymodule_export]
    use super::trace::Trace;

    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::errors::quieten_panics();
        Ok(())
    }
}
