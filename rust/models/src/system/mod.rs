//! What the models need of the system.

#[path = "../../../core/src/system/float_env.rs"]
pub mod float_env;
pub mod sync;
