//! How fast this machine reads memory: what bounds the generation of text.

use super::rows::OwnedArena;
use super::team::Team;
use crate::error::Result;
use std::time::Instant;
use symlm_kernels::{Isa, peak};

/// Passes over the block; others on the machine disturb some of them.
const PASSES: usize = 40;

/// Bytes a second that so many threads read of a block of memory, each its part again and again, the best of some passes.
///
/// # Errors
/// `Memory` if the system refuses.
pub fn read_bandwidth(isa: Isa, threads: usize, block: usize) -> Result<f64> {
    let mut memory = OwnedArena::new((block / size_of::<f32>()).max(1))?;
    // Pages that nobody has written are all the same one.
    memory.get_mut().fill(1.0);
    let (mut team, mut best) = (Team::new(threads)?, f64::INFINITY);
    for _ in 0..PASSES {
        let start = Instant::now();
        team.run(1, &|member| {
            let part = member.share(memory.get().len(), 16);
            std::hint::black_box(peak::largest(isa, &memory.get()[part]));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(memory.get().len() as f64 * size_of::<f32>() as f64 / best)
}
