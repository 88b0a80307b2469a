//! How a model is run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `model` in every interleaving with at most so many preemptions (`LOOM_MAX_PREEMPTIONS` says otherwise). A
/// deadlock, a data race or a failed assertion in any of them is a panic.
pub fn check(name: &str, preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 100_000;
    let bound = builder.preemption_bound;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let start = std::time::Instant::now();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let (count, seconds) = (count.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
    println!("{name}: {count} executions, at most {} preemptions, {seconds:.1} s", bound.unwrap_or_default());
}
