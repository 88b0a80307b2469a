//! Workers: dependency counters, sleeping and waking, completion, shutdown, panics, rounds, recordings, the tree.

mod common;

use common::check;
use loom::cell::UnsafeCell;
use std::sync::Arc;
use symlm_kernels::gemm::Fold;
use symlm_models::ErrorKind;
use symlm_models::pool::rounds::Round;
use symlm_models::pool::{Graph, Pool, Program, Run, Scratch};
use symlm_models::step::plan::symmetry::{SECTORS, SumPlace, Then, visit};
use symlm_models::system::sync::deque::STALE;

/// Each node writes its own cell and reads those of the nodes before it. loom fails a run in which two accesses to a
/// cell are not ordered.
struct Cells {
    before: Vec<Vec<u32>>,
    runs: Vec<UnsafeCell<u32>>,
    /// The node that panics.
    fails: Option<u32>,
}

// SAFETY: loom watches the accesses, which is the purpose.
unsafe impl Sync for Cells {}
// SAFETY: as above.
unsafe impl Send for Cells {}

impl Program for Cells {
    fn run(&self, node: u32, _: &mut Scratch) {
        if self.fails == Some(node) {
            // Does not call the panic hook: there are thousands of executions.
            std::panic::resume_unwind(Box::new("told to fail"));
        }
        // SAFETY: loom watches the accesses.
        let turn = self.runs[node as usize].with_mut(|runs| unsafe {
            *runs += 1;
            *runs
        });
        for &before in &self.before[node as usize] {
            // SAFETY: as above.
            let seen = self.runs[before as usize].with(|runs| unsafe { *runs });
            assert_eq!(seen, turn, "node {node} does not see what {before} wrote");
        }
    }
}

impl Cells {
    fn new(graph: &Graph, fails: Option<u32>) -> Arc<Self> {
        let runs = (0..graph.len()).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { before: graph.predecessors(), runs, fails })
    }

    /// What the publisher sees: every node has run so often.
    fn assert_runs(&self, times: u32) {
        for cell in &self.runs {
            // SAFETY: loom watches the accesses.
            assert_eq!(cell.with(|runs| unsafe { *runs }), times);
        }
    }
}

/// 0, then 1 and 2, then 3.
fn diamond(urgent: [bool; 4]) -> Arc<Graph> {
    let mut graph = Graph::default();
    let first = graph.add(urgent[0], &[]);
    let sides = [graph.add(urgent[1], &[first]), graph.add(urgent[2], &[first])];
    graph.add(urgent[3], &sides);
    Arc::new(graph)
}

#[test]
fn a_node_runs_once_and_sees_what_its_predecessors_wrote() {
    for urgent in [[true; 4], [true, true, false, false]] {
        check("dependency counters", 2, move || {
            let graph = diamond(urgent);
            let cells = Cells::new(&graph, None);
            let pool = Pool::new(2).unwrap();
            pool.execute(&Run::new(cells.clone(), graph)).unwrap();
            cells.assert_runs(1);
        });
    }
}

#[test]
fn publications_follow_each_other_without_a_lost_wake_up() {
    STALE.set(true);
    check("wake-ups", 2, || {
        let mut graph = Graph::default();
        graph.add(true, &[]);
        let graph = Arc::new(graph);
        let cells = Cells::new(&graph, None);
        let run = Run::new(cells.clone(), graph);
        let pool = Pool::new(1).unwrap();
        for times in 1..=3 {
            pool.execute(&run).unwrap();
            cells.assert_runs(times);
        }
    });
    STALE.set(false);
    check("wake-ups of two workers", 1, || {
        let mut graph = Graph::default();
        graph.add(true, &[]);
        graph.add(false, &[]);
        let graph = Arc::new(graph);
        let cells = Cells::new(&graph, None);
        let run = Run::new(cells.clone(), graph);
        let pool = Pool::new(2).unwrap();
        for times in 1..=2 {
            pool.execute(&run).unwrap();
            cells.assert_runs(times);
        }
    });
}

#[test]
fn workers_end_whatever_they_are_doing() {
    check("shutdown", 3, || drop(Pool::new(2).unwrap()));
}

#[test]
fn a_panic_ends_the_run_with_an_error_and_harms_no_other() {
    for fails in 0..4 {
        check("panic", 1, move || {
            let graph = diamond([true; 4]);
            let failing = Cells::new(&graph, Some(fails));
            let pool = Pool::new(2).unwrap();
            let error = pool.execute(&Run::new(failing, graph)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Internal);
            assert!(error.message.contains("told to fail"), "{}", error.message);
            let mut single = Graph::default();
            single.add(true, &[]);
            let cells = Cells::new(&single, None);
            pool.execute(&Run::new(cells.clone(), Arc::new(single))).unwrap();
            cells.assert_runs(1);
        });
    }
}

#[test]
fn rounds_keep_the_order_too() {
    check("rounds", 2, || {
        let graph = diamond([true; 4]);
        let cells = Cells::new(&graph, None);
        let rounds = vec![Round { serial: vec![0], shared: vec![1, 2] }, Round { serial: vec![3], shared: vec![] }];
        let run = Run::in_rounds(cells.clone(), graph, rounds);
        let pool = Pool::new(2).unwrap();
        pool.execute(&run).unwrap();
        cells.assert_runs(1);
    });
}

#[test]
fn a_recording_is_complete_when_the_run_has_ended() {
    check("recordings", 2, || {
        let mut graph = Graph::default();
        let first = graph.add(true, &[]);
        graph.add(true, &[first]);
        graph.add(true, &[first]);
        let graph = Arc::new(graph);
        let cells = Cells::new(&graph, None);
        let pool = Pool::new(2).unwrap();
        let spans = pool.record(&Run::new(cells, graph)).unwrap();
        assert_eq!(spans.len(), 3);
        for span in spans {
            // An entry that nobody has written holds zeros.
            assert!(span.worker < 2 && 0 < span.end && span.start <= span.end, "{span:?}");
        }
    });
}

/// Sums as text: the order in which they were made can be read off.
struct Tree {
    slots: Vec<UnsafeCell<String>>,
    total: UnsafeCell<String>,
    pair: UnsafeCell<String>,
    triple: UnsafeCell<String>,
    group: usize,
}

// SAFETY: loom watches the accesses, which is the purpose.
unsafe impl Sync for Tree {}
// SAFETY: as above.
unsafe impl Send for Tree {}

fn get(cell: &UnsafeCell<String>) -> String {
    // SAFETY: loom watches the accesses.
    cell.with(|text| unsafe { (*text).clone() })
}

fn set(cell: &UnsafeCell<String>, text: String) {
    // SAFETY: loom watches the accesses.
    cell.with_mut(|old| unsafe { *old = text });
}

impl Program for Tree {
    /// Nodes 0 to 11 compute a sector, those after it fold a group of them.
    fn run(&self, node: u32, _: &mut Scratch) {
        let node = node as usize;
        if node < SECTORS {
            return set(&self.slots[node % self.slots.len()], format!("s{node}"));
        }
        let first = (node - SECTORS) * self.group;
        for sector in first..first + self.group {
            let step = visit(sector);
            let place = match step.place {
                SumPlace::Total => &self.total,
                SumPlace::Triple => &self.triple,
                SumPlace::Pair => &self.pair,
            };
            let term = get(&self.slots[sector % self.slots.len()]);
            set(place, if step.fold == Fold::Set { term } else { format!("({}+{term})", get(place)) });
            match step.then {
                Then::Nothing => {}
                Then::AddTriple => set(&self.total, format!("({}+{})", get(&self.total), get(&self.triple))),
                Then::AddPair => {
                    let pair = format!("({}+{})", get(&self.pair), get(&self.triple));
                    set(&self.total, format!("({}+{pair})", get(&self.total)));
                }
            }
        }
    }
}

#[test]
fn sectors_are_folded_in_the_tree_of_the_contract_whoever_comes_first() {
    let triple = |j: usize| format!("((s{}+s{})+s{})", 3 * j, 3 * j + 1, 3 * j + 2);
    let expected = format!("(({}+{})+({}+{}))", triple(0), triple(1), triple(2), triple(3));
    for (slots, group) in [(6, 3), (2, 1)] {
        let expected = expected.clone();
        check("tree", 1, move || {
            // As `plan`: a group is folded after its sectors and the group before; its slots are then free for others.
            // The numbers of nodes say who they are, so the folds are added last and the order is given by hand.
            let mut graph = Graph::default();
            let mut order: Vec<(usize, Vec<usize>)> = Vec::new();
            for sector in 0..SECTORS {
                let waits = sector.checked_sub(slots).map(|s| SECTORS + s / group);
                order.push((sector, waits.into_iter().collect()));
                if (sector + 1) % group == 0 {
                    let fold = sector / group;
                    let mut after: Vec<usize> = (fold * group..=sector).collect();
                    after.extend(fold.checked_sub(1).map(|before| SECTORS + before));
                    order.push((SECTORS + fold, after));
                }
            }
            let mut number = vec![0; SECTORS + SECTORS / group];
            for (who, after) in &order {
                let after: Vec<u32> = after.iter().map(|&a| number[a]).collect();
                number[*who] = graph.add(*who < SECTORS, &after);
            }
            let who = order.iter().map(|(who, _)| *who as u32).collect();
            let cell = || UnsafeCell::new(String::new());
            let tree = Arc::new(Tree {
                slots: (0..slots).map(|_| cell()).collect(),
                total: cell(),
                pair: cell(),
                triple: cell(),
                group,
            });
            let pool = Pool::new(2).unwrap();
            pool.execute(&Run::new(Arc::new(Renamed { program: tree.clone(), who }), Arc::new(graph))).unwrap();
            assert_eq!(get(&tree.total), expected);
        });
    }
}

/// A program whose nodes have other numbers.
struct Renamed {
    program: Arc<Tree>,
    who: Vec<u32>,
}

impl Program for Renamed {
    fn run(&self, node: u32, scratch: &mut Scratch) {
        self.program.run(self.who[node as usize], scratch);
    }
}
