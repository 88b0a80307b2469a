//! A kernel on buffers, checked and measured.

use crate::common::{Lcg, assert_same};
use crate::tables::{Cell, Row};
use crate::turns::{Turns, isas, timed};
use criterion::{BenchmarkId, Criterion};
use std::cell::LazyCell;
use std::time::Duration;
use symlm_kernels::Isa;

/// What a case counts.
#[derive(Clone, Copy)]
pub enum Work {
    /// Operations of products; of causal ones without those of masked keys.
    Operations(usize),
    Elements(usize),
}

/// Buffers of a case, as many as its kernel has.
pub type Buffers = Vec<Vec<f32>>;

type Run = dyn Fn(Isa, &mut Buffers);

/// A kernel on buffers: after a run they equal those after `spec`, but for scratch memory, which `spec` empties.
pub struct Case {
    pub work: Work,
    pub start: Buffers,
    /// Buffers that a run replaces and the next one needs.
    pub in_place: &'static [usize],
    pub run: Box<Run>,
    pub spec: Box<dyn Fn(&mut Buffers)>,
}

/// Takes buffers apart by name.
macro_rules! named {
    ($buffers:expr, $($name:ident)*) => {
        let [$($name),*] = &mut $buffers[..] else { unreachable!("as many buffers as names") };
    };
}
pub(crate) use named;

/// Draws so many numbers per buffer.
pub fn draw<const N: usize>(lengths: [usize; N]) -> Buffers {
    let rng = &mut Lcg(lengths[0] as u32);
    lengths.map(|n| rng.vec(n, false)).into()
}

impl Case {
    fn checked(self, name: &str) -> Self {
        let mut want = self.start.clone();
        (self.spec)(&mut want);
        for isa in isas() {
            let mut buffers = self.start.clone();
            (self.run)(isa, &mut buffers);
            for (got, want) in buffers.iter().zip(&want).filter(|(_, want)| !want.is_empty()) {
                assert_same(isa, name, got, want);
            }
        }
        self
    }

    fn turns(&self, isa: Isa) -> Turns<'_> {
        let mut buffers = self.start.clone();
        let mut once = move || {
            for i in self.in_place {
                buffers[*i].copy_from_slice(&self.start[*i]);
            }
            timed(|| (self.run)(isa, &mut buffers))
        };
        Turns::new(isa, Box::new(move |runs| (0..runs).map(|_| once()).sum::<Duration>()), Vec::new())
    }
}

/// Measures a case that `make` builds, if it is asked for. Its row goes to `rows`.
pub fn measure(
    criterion: &mut Criterion,
    rows: &mut Vec<Row>,
    kernel: &str,
    shape: &str,
    users: &str,
    make: impl FnOnce() -> Case,
) {
    let case = LazyCell::new(|| make().checked(kernel));
    let mut row = Row::new(format!("{kernel}: {users}"), shape.to_owned());
    let mut group = criterion.benchmark_group(kernel);
    for isa in isas() {
        let mut turns = None;
        // The throughput is not known before the case is built, which waits for the filter: criterion gets times only.
        group.bench_function(BenchmarkId::new(format!("{shape} {users}"), isa.name()), |bencher| {
            let turns = turns.get_or_insert_with(|| case.turns(isa));
            bencher.iter_custom(|runs| turns.take(runs));
        });
        let Some(times) = turns.as_ref().and_then(Turns::result) else { continue };
        row.cells.push(match case.work {
            Work::Operations(n) => Cell::operations(isa, times, n as f64),
            Work::Elements(n) => Cell::elements(isa, times, n as f64),
        });
    }
    if !row.cells.is_empty() {
        rows.push(row);
    }
}
