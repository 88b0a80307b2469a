//! Python bindings of symlm: conversion only. Every call that may take time gives up the GIL; errors of the core become
//! the exceptions of `symlm.errors`.

mod args;
mod batch;
mod data;
mod engine;
mod errors;
mod exchange;
mod generate;
mod machine;
mod objects;
mod probe;
mod records;
mod settings;
mod tokenizer;
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
    /// Sectors in flight if none are asked for.
    #[pymodule_export]
    const AUTO_SECTORS: usize = symlm_core::config::AUTO_SECTORS;
    /// Most rows of the embedding.
    #[pymodule_export]
    const MAX_VOCAB: usize = symlm_core::limits::MAX_VOCAB;
    /// Most columns of a matrix, and most heads.
    #[pymodule_export]
    const MAX_WIDTH: usize = symlm_core::limits::MAX_WIDTH;
    /// Most transformer blocks.
    #[pymodule_export]
    const MAX_LAYERS: usize = symlm_core::limits::MAX_LAYERS;
    /// Most positions of a window.
    #[pymodule_export]
    const MAX_POSITIONS: usize = symlm_core::limits::MAX_POSITIONS;
    #[pymodule_export]
    use super::batch::{Batch, Drawn};
    #[pymodule_export]
    use super::data::{Corpus, OwnNames, OwnOutput, Shards, SplitShards, own_output};
    #[pymodule_export]
    use super::engine::{
        Engine, EvalReport, QueueFill, Saving, StepReport, Task, TensorNumbers, WorkerStats, WrittenFile,
    };
    #[pymodule_export]
    use super::exchange::{Exchange, Memory, Outgoing, Transfer};
    #[pymodule_export]
    use super::generate::{Generator, TokenStream, Weights8, read_bandwidth};
    #[pymodule_export]
    use super::machine::{
        AvailableMemory, Cpus, MemoryPart, MemoryPlan, Parameter, available_cpus, available_isas, available_memory,
        check_memory, flops_per_token, fma_peak, integer_instructions, integer_peak, isa, memory_plan, parameter_table,
    };
    #[pymodule_export]
    use super::objects::{JsonObject, ObjectFile, Objects};
    #[pymodule_export]
    use super::probe::{Gradients, Probe};
    #[pymodule_export]
    use super::settings::{
        EngineSettings, EngineState, Limits, LoraSettings, ModelShape, RopeScaling, SampleSettings, TrainSettings,
        limits_of,
    };
    #[pymodule_export]
    use super::tokenizer::{EncodedPair, Tokenizer};
    #[pymodule_export]
    use super::trace::{Interval, Span, Trace, WorkerTimes};

    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::errors::quieten_panics();
        Ok(())
    }
}
