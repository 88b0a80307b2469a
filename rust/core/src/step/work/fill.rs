//! Programs that fill the weights and their panels: at the start, and after tensors were overwritten.

use super::state::State;
use super::tensors::Tensors;
use crate::model::{Param, Random};
use crate::pool::{Graph, Program, Run, Scratch};
use crate::step::plan::limits::ROW_BLOCK;
use std::sync::Arc;

/// Elements that one node initialises.
const INITIALISE_ELEMENTS: usize = 1 << 16;

/// Fills the weights, and the factors of adapters; a node has a part of a tensor.
pub(crate) struct Initialise {
    state: Arc<State>,
    /// Tensor and first element.
    parts: Vec<(Filled, usize)>,
}

/// A tensor, by its position in its table.
#[derive(Clone, Copy)]
enum Filled {
    Weights(usize),
    Factor(usize),
}

impl Initialise {
    /// Everything; where adapters are trained and `weights` is false, only these.
    pub fn new(state: Arc<State>, weights: bool) -> Self {
        let starts = |len: usize| (0..len).step_by(INITIALISE_ELEMENTS);
        let of = |params: &[Param], filled: fn(usize) -> Filled| {
            let parts = params.iter().enumerate().flat_map(|(i, p)| starts(p.len()).map(move |at| (filled(i), at)));
            parts.collect::<Vec<_>>()
        };
        let mut parts = of(state.table(Tensors::Adapters), Filled::Factor);
        if weights || state.adapters.is_none() {
            parts.extend(of(state.table(Tensors::Weights), Filled::Weights));
        }
        Self { state, parts }
    }

    pub fn run(self) -> Arc<Run> {
        let graph = independent(self.parts.len());
        Run::new(Arc::new(self), graph)
    }
}

impl Program for Initialise {
    fn run(&self, node: u32, _: &mut Scratch) {
        let ((filled, start), s) = (self.parts[node as usize], &*self.state);
        let (which, index) = match filled {
            Filled::Weights(index) => (Tensors::Weights, index),
            Filled::Factor(index) => (Tensors::Adapters, index),
        };
        let p = &s.table(which)[index];
        let number = match (&s.adapters, filled) {
            (Some(adapters), Filled::Factor(factor)) => adapters.table.param_of(factor),
            _ => index,
        };
        let len = (p.len() - start).min(INITIALISE_ELEMENTS);
        let (arena, offset) = s.location(which, index);
        // SAFETY: each node fills its own elements, and nothing else runs.
        let values = unsafe { arena.slice_mut(offset + start, len) };
        let train = &s.config.train;
        p.initial.fill(&Random::new(&s.config.model, train.initial_weights, train.seed), number, start, values);
        if let (Some(adapters), Filled::Weights(param)) = (&s.adapters, filled) {
            // SAFETY: as above.
            unsafe { adapters.set_base(param, start, values) };
        }
    }
}

/// Packs the matrices, merged with their adapters; a node has some rows of one.
pub(crate) struct PackAll {
    state: Arc<State>,
    /// Matrix and first row.
    parts: Vec<(usize, usize)>,
}

impl PackAll {
    /// A run without nodes: it ends when everything before it has.
    pub fn nothing(state: Arc<State>) -> Arc<Run> {
        Self { state, parts: Vec::new() }.run()
    }

    pub fn new(state: Arc<State>) -> Self {
        let matrices = state.weights.layout.matrices.iter().enumerate();
        let starts = |rows: usize| (0..rows).step_by(ROW_BLOCK);
        let parts = matrices.flat_map(|(matrix, m)| starts(m.rows).map(move |start| (matrix, start))).collect();
        Self { state, parts }
    }

    pub fn run(self) -> Arc<Run> {
        let graph = independent(self.parts.len());
        Run::new(Arc::new(self), graph)
    }
}

impl Program for PackAll {
    fn run(&self, node: u32, scratch: &mut Scratch) {
        let (matrix, start) = self.parts[node as usize];
        let rows = start..(start + ROW_BLOCK).min(self.state.weights.layout.matrices[matrix].rows);
        // SAFETY: each node packs its own rows, and nothing writes weights meanwhile.
        unsafe { self.state.merge_rows(matrix, rows, scratch) };
    }
}

fn independent(nodes: usize) -> Arc<Graph> {
    let mut graph = Graph::default();
    for _ in 0..nodes {
        graph.add(false, &[]);
    }
    Arc::new(graph)
}
