//! What is to be run: nodes, and which of them wait for which.

/// A fixed set of nodes and the order between them.
#[derive(Default, Debug, Clone)]
pub struct Graph {
    pub(super) dependencies: Vec<u32>,
    successors: Vec<Vec<u32>>,
    pub(super) urgent: Vec<bool>,
}

impl Graph {
    /// Adds a node that runs after the nodes of `after`.
    pub fn add(&mut self, urgent: bool, after: &[u32]) -> u32 {
        let node = self.dependencies.len() as u32;
        self.dependencies.push(after.len() as u32);
        self.successors.push(Vec::new());
        self.urgent.push(urgent);
        for &before in after {
            assert!(before < node, "a node comes after the nodes it depends on");
            self.successors[before as usize].push(node);
        }
        node
    }
    /// Makes a node wait for `times` completions from outside as well ([`super::Door`]).
    pub fn wait_outside(&mut self, node: u32, times: u32) {
        self.dependencies[node as usize] += times;
    }
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.dependencies.len()
    }
    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.dependencies.is_empty()
    }
    /// Number of dependencies of each node.
    pub fn dependencies(&self) -> &[u32] {
        &self.dependencies
    }
    /// Whether each node comes before those that can wait.
    pub fn urgent(&self) -> &[bool] {
        &self.urgent
    }
    /// The nodes that wait for a node.
    pub fn successors(&self, node: u32) -> &[u32] {
        &self.successors[node as usize]
    }
    /// The nodes that each node waits for.
    pub fn predecessors(&self) -> Vec<Vec<u32>> {
        let mut out: Vec<Vec<u32>> = self.dependencies.iter().map(|&d| Vec::with_capacity(d as usize)).collect();
        for (node, successors) in self.successors.iter().enumerate() {
            for &next in successors {
                out[next as usize].push(node as u32);
            }
        }
        out
    }
}
