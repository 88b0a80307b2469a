//! Settings that Python sends, each as the core has it. A constructor names the field that is wrong; what has been made
//! is within the limits of the core.

use crate::args::{Text, shown_value};
use crate::errors::to_py;
use crate::records::{records, shown};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyTuple};
use symlm_core::config::{
    self, Attend, EngineConfig, InitialWeights, LoraConfig, ModelConfig, Precision, Schedule, TrainConfig,
};
use symlm_core::generate::SampleOptions;
use symlm_core::{Error, Result, limits};

/// A value of a setting, on both sides.
trait Value: Sized {
    /// What a message says of it.
    const EXPECTED: &'static str;
    /// The value in an object of Python.
    fn taken(object: &Bound<'_, PyAny>) -> Option<Self>;
    /// The object of Python.
    fn given<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>>;
}

/// The value of a field or an argument; `UsageError` with its name where it is of another kind.
fn field<T: Value>(name: &str, object: &Bound<'_, PyAny>) -> PyResult<T> {
    T::taken(object).ok_or_else(|| {
        let found = shown_value(object);
        to_py(object.py(), Error::usage(format!("{name}: found {found}, expected {}", T::EXPECTED)))
    })
}

/// Kinds of values for which PyO3 knows what to do, except that `True` does not count as a number.
macro_rules! plain_values {
    ($($type:ty: $expected:literal),+ $(,)?) => {$(
        impl Value for $type {
            const EXPECTED: &'static str = $expected;
            fn taken(object: &Bound<'_, PyAny>) -> Option<Self> {
                object.extract().ok().filter(|_| !object.is_instance_of::<PyBool>())
            }
            fn given<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                self.clone().into_pyobject(py).map(Bound::into_any).map_err(Into::into)
            }
        }
    )+};
}

plain_values! {
    usize: "a whole number from 0 to 18446744073709551615",
    u64: "a whole number from 0 to 18446744073709551615",
    u32: "a whole number from 0 to 4294967295",
    f64: "a number",
    String: "a text",
    Vec<String>: "a list of texts",
    Vec<u32>: "a list of token ids",
}

impl Value for bool {
    const EXPECTED: &'static str = "True or False";
    fn taken(object: &Bound<'_, PyAny>) -> Option<Self> {
        object.extract().ok()
    }
    fn given<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyBool::new(py, *self).to_owned().into_any())
    }
}

impl<T: Value> Value for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn taken(object: &Bound<'_, PyAny>) -> Option<Self> {
        if object.is_none() { Some(None) } else { T::taken(object).map(Some) }
    }
    fn given<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.as_ref().map_or_else(|| Ok(py.None().into_bound(py)), |value| value.given(py))
    }
}

/// Kinds of values that have names.
macro_rules! named_values {
    ($($type:ident: $expected:literal { $($name:literal: $value:ident),+ })+) => {$(
        impl Value for $type {
            const EXPECTED: &'static str = $expected;
            fn taken(object: &Bound<'_, PyAny>) -> Option<Self> {
                match object.extract::<String>().ok()?.as_str() {
                    $($name => Some(Self::$value),)+
                    _ => None,
                }
            }
            fn given<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                let name = match self { $(Self::$value => $name),+ };
                Ok(name.into_pyobject(py)?.into_any())
            }
        }
    )+};
}

named_values! {
    Schedule: "wsd, cosine, linear or constant" {
        "wsd": Wsd, "cosine": Cosine, "linear": Linear, "constant": Constant
    }
    Precision: "f32 or int16" { "f32": F32, "int16": Int16 }
    Attend: "window or document" { "window": Window, "document": Document }
    InitialWeights: "gpt2 or width" { "gpt2": Gpt2, "width": Width }
}

/// Classes of settings: constructors of keywords alone, all of which are needed, over structures of the core.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident is $core:ident, $expected:literal { $($field:ident: $type:ty),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[pyclass(frozen, eq, module = "symlm._symlm")]
        #[derive(Clone, PartialEq)]
        pub struct $name(pub $core);

        #[pymethods]
        impl $name {
            #[new]
            #[pyo3(signature = (*, $($field),+))]
            #[allow(clippy::too_many_arguments)]
            fn new(py: Python<'_>, $($field: &Bound<'_, PyAny>),+) -> PyResult<Self> {
                let core = $core { $($field: field(stringify!($field), $field)?),+ };
                core.check().map_err(|error| to_py(py, error))?;
                Ok(Self(core))
            }
            $(
                #[getter]
                fn $field<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                    self.0.$field.given(py)
                }
            )+
            /// Names of the fields, in their order.
            #[classattr]
            #[allow(non_snake_case)]
            fn FIELDS(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
                PyTuple::new(py, [$(stringify!($field)),+])
            }
            fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
                shown(this.as_any(), &[$(stringify!($field)),+])
            }
        }

        impl Value for $core {
            const EXPECTED: &'static str = $expected;
            fn taken(object: &Bound<'_, PyAny>) -> Option<Self> {
                object.cast::<$name>().ok().map(|settings| settings.get().0.clone())
            }
            fn given<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                Ok(Bound::new(py, $name(self.clone()))?.into_any())
            }
        }
    )+};
}

type CoreRopeScaling = config::RopeScaling;

settings! {
    /// Rotary frequencies stretched for longer contexts, the type "llama3" (contract E6a). Positions count tokens.
    RopeScaling is CoreRopeScaling, "a RopeScaling" {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    }
    /// Shape of a model. Sizes count floats, heads or tokens; `seq_len` is the positions of a window.
    ModelShape is ModelConfig, "a ModelShape" {
        vocab_size: usize,
        hidden_size: usize,
        intermediate_size: usize,
        num_layers: usize,
        num_heads: usize,
        num_kv_heads: usize,
        seq_len: usize,
        rope_theta: f64,
        rms_norm_eps: f64,
        tie_embeddings: bool,
        rope_scaling: Option<CoreRopeScaling>,
    }
    /// Low-rank adapters: columns of B and rows of A, the factor of their product times the rank, projections.
    LoraSettings is LoraConfig, "LoraSettings" {
        rank: usize,
        alpha: f64,
        targets: Vec<String>,
    }
    /// What a run computes, with every limit as a number of updates; `batch_size` counts windows.
    TrainSettings is TrainConfig, "TrainSettings" {
        batch_size: usize,
        max_steps: u64,
        learning_rate: f64,
        warmup_steps: u64,
        decay_start: u64,
        schedule: Schedule,
        min_lr_ratio: f64,
        embedding_lr_ratio: f64,
        initial_weights: InitialWeights,
        weight_decay: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        grad_clip: f64,
        seed: u64,
        precision: Precision,
        attend: Attend,
        lora: Option<LoraConfig>,
    }
    /// Everything that an engine is made from. `sectors_in_flight` 0 is automatic, `plan_threads` 0 as many as `threads`.
    /// Of `ranks` processes that compute the run together this is number `rank`; 0 counts as 1.
    EngineSettings is EngineConfig, "EngineSettings" {
        model: ModelConfig,
        train: TrainConfig,
        threads: usize,
        sectors_in_flight: usize,
        plan_threads: usize,
        ranks: usize,
        rank: usize,
    }
    /// How text is drawn; `stop_ids` are the tokens that end it.
    SampleSettings is SampleOptions, "SampleSettings" {
        max_new_tokens: u64,
        temperature: f64,
        top_k: usize,
        top_p: f64,
        min_p: f64,
        repetition_penalty: f64,
        seed: u64,
        sample_index: u32,
        stop_ids: Vec<u32>,
    }
    /// What a checkpoint holds beside the tensors: the contract it was computed by, the updates done, and the SHA-256 of
    /// the weights that adapters were added to.
    EngineState is State, "an EngineState" {
        contract: u64,
        step: u64,
        base_sha256: Option<String>,
    }
}

/// What a token sees of its window, as an argument.
pub struct Attention(pub Attend);

impl<'a, 'py> FromPyObject<'a, 'py> for Attention {
    type Error = PyErr;
    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        field("attend", &object).map(Self)
    }
}

records! {
    /// The numbers that a setting may have, `low` and `high` included.
    Limits {
        /// The smallest number.
        low: f64,
        /// The largest number.
        high: f64,
        /// Whether `low` itself is left out.
        above: bool,
    }
}

/// The limits of a setting; InternalError for one that the core does not limit.
#[pyfunction(name = "limits")]
pub fn limits_of(py: Python<'_>, setting: Text<'_>) -> PyResult<Limits> {
    let found = limits::of(&setting).map_err(|error| to_py(py, error))?;
    Ok(Limits { low: found.low, high: found.high, above: found.above })
}

/// What [`EngineState`] holds.
#[derive(Clone, PartialEq)]
pub struct State {
    pub contract: u64,
    pub step: u64,
    pub base_sha256: Option<String>,
}

impl State {
    /// Any will do: whether it fits is checked where it is loaded.
    #[allow(clippy::unnecessary_wraps, clippy::unused_self)]
    fn check(&self) -> Result<()> {
        Ok(())
    }
}
