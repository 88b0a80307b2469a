//! Programs that fill the weights and their panels: at the start, and after tensors were overwritten.

use super::plan::ROW_BLOCK;
use super::state::State;
use crate::pool::{Graph, Program, Run, Scratch};
use std::sync::Arc;

/// Elements that one node initialises.
const INITIALISE_ELEMENTS: usize = 1 << 16;

/// Fills the weights; a node has a part of a tensor.
pub(super) struct Initialise {
    state: Arc<State>,
    /// Tensor and first element.
    parts: Vec<(usize, usize)>,
}

impl Initialise {
    pub fn new(state: Arc<State>) -> Self {
        let params = state.weights.layout.params.iter().enumerate();
        let starts = |len: usize| (0..len).step_by(INITIALISE_ELEMENTS);
        let parts = params.flat_map(|(param, p)| starts(p.len()).map(move |start| (param, start))).collect();
        Self { state, parts }
    }

    pub fn run(self) -> Arc<Run> {
        let graph = independent(self.parts.len());
        Run::new(Arc::new(self), graph)
    }
}

impl Program for Initialise {
    fn run(&self, node: u32, _: &mut Scratch) {
        let ((param, start), s) = (self.parts[node as usize], &*self.state);
        let p = &s.weights.layout.params[param];
        let len = (p.len() - start).min(INITIALISE_ELEMENTS);
        // SAFETY: each node fills its own elements, and nothing else runs.
        let values = unsafe { s.weights.values.slice_mut(p.offset + start, len) };
        s.weights.initial_values(param, s.config.train.seed, start, values);
    }
}

/// Packs the matrices; a node has some rows of one.
pub(super) struct PackAll {
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
    fn run(&self, node: u32, _: &mut Scratch) {
        let (matrix, start) = self.parts[node as usize];
        let rows = start..(start + ROW_BLOCK).min(self.state.weights.layout.matrices[matrix].rows);
        // SAFETY: each node packs its own rows, and nothing writes weights meanwhile.
        unsafe { self.state.weights.pack_rows(self.state.isa, matrix, rows) };
    }
}

fn independent(nodes: usize) -> Arc<Graph> {
    let mut graph = Graph::default();
    for _ in 0..nodes {
        graph.add(false, &[]);
    }
    Arc::new(graph)
}
