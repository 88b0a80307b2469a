use super::rounds::Rounds;
use super::*;
use crate::system::sync::atomic::AtomicU32;

struct Count(Vec<AtomicU32>, AtomicU32);
impl Program for Count {
    fn run(&self, node: u32, _: &mut Scratch) {
        self.0[node as usize].fetch_add(1, Ordering::Relaxed);
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

fn layered(width: u32, depth: u32) -> Graph {
    let mut graph = Graph::default();
    let mut before: Vec<u32> = Vec::new();
    for layer in 0..depth {
        before = (0..width).map(|i| graph.add((i + layer) % 3 != 0, &before)).collect();
    }
    graph
}

#[test]
fn every_node_runs_once_per_publication_on_any_number_of_workers() {
    for threads in [1, 2, 3, 5, 12, 63] {
        let pool = Pool::new(threads).unwrap();
        let graph = Arc::new(layered(17, 20));
        let program = Arc::new(Count((0..graph.len()).map(|_| AtomicU32::new(0)).collect(), AtomicU32::new(0)));
        let run = Run::new(program.clone(), graph.clone());
        for round in 1..=20 {
            pool.execute(&run).unwrap();
            assert!(program.0.iter().all(|c| c.load(Ordering::Relaxed) == round));
        }
        assert_eq!(pool.stats().iter().map(|s| s.tasks).sum::<u64>(), 20 * graph.len() as u64);
    }
}

/// Rounds of a layered graph: the first node of a layer alone and before the others of its layer.
fn layers(width: u32, depth: u32) -> Vec<Round> {
    let layer = |l: u32| Round { serial: vec![l * width], shared: (l * width + 1..(l + 1) * width).collect() };
    (0..depth).map(layer).collect()
}

/// Fails if a node starts before one it depends on has ended.
struct Ordered {
    before: Vec<Vec<u32>>,
    ended: Vec<AtomicU32>,
    round: AtomicU32,
}
impl Program for Ordered {
    fn run(&self, node: u32, _: &mut Scratch) {
        let round = self.round.load(Ordering::Relaxed);
        for &b in &self.before[node as usize] {
            assert_eq!(self.ended[b as usize].load(Ordering::Relaxed), round + 1, "node {node} before {b}");
        }
        self.ended[node as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn rounds_run_every_node_once_and_in_order_on_any_number_of_workers() {
    let graph = Arc::new(layered(17, 20));
    for threads in [1, 2, 3, 5, 12, 63] {
        let pool = Pool::new(threads).unwrap();
        let ended = (0..graph.len()).map(|_| AtomicU32::new(0)).collect();
        let program = Arc::new(Ordered { before: graph.predecessors(), ended, round: AtomicU32::new(0) });
        let run = Run::in_rounds(program.clone(), graph.clone(), layers(17, 20));
        let between = Run::new(Arc::new(Count(vec![AtomicU32::new(0)], AtomicU32::new(0))), Arc::new(layered(1, 1)));
        for round in 1..=20 {
            pool.execute(&run).unwrap();
            pool.execute(&between).unwrap();
            assert!(program.ended.iter().all(|e| e.load(Ordering::Relaxed) == round));
            program.round.store(round, Ordering::Relaxed);
        }
    }
}

#[test]
#[should_panic(expected = "out of order")]
fn rounds_against_the_order_are_refused() {
    let mut rounds = layers(17, 20);
    rounds.swap(3, 4);
    Rounds::new(&layered(17, 20), rounds);
}

#[test]
fn a_recording_has_every_node_once_and_nothing_of_other_runs() {
    let graph = Arc::new(layered(17, 20));
    let before = graph.predecessors();
    for threads in [1, 3, 12] {
        let pool = Pool::new(threads).unwrap();
        for barriers in [false, true] {
            let program = Arc::new(Count((0..graph.len()).map(|_| AtomicU32::new(0)).collect(), AtomicU32::new(0)));
            let run = if barriers {
                Run::in_rounds(program, graph.clone(), layers(17, 20))
            } else {
                Run::new(program, graph.clone())
            };
            let mut ends = vec![0; threads];
            for _ in 0..5 {
                pool.execute(&run).unwrap();
                let spans = pool.record(&run).unwrap();
                assert_eq!(spans.len(), graph.len());
                for (node, span) in spans.iter().enumerate() {
                    assert_eq!(span.node as usize, node);
                    assert!(span.free <= span.idle && span.idle <= span.start && span.start <= span.end);
                    assert!(before[node].iter().all(|&b| spans[b as usize].end <= span.start));
                }
                let mut by_time = spans;
                by_time.sort_by_key(|span| (span.start, span.end));
                for span in by_time {
                    let end = &mut ends[span.worker as usize];
                    assert!(*end <= span.free, "spans of a worker overlap");
                    *end = span.end;
                }
            }
        }
    }
}

struct Failing;
impl Program for Failing {
    fn run(&self, node: u32, _: &mut Scratch) {
        assert_ne!(node, 7, "node seven");
    }
}

#[test]
fn a_panic_in_a_node_is_an_error_and_the_pool_goes_on() {
    let pool = Pool::new(2).unwrap();
    let graph = Arc::new(layered(4, 4));
    let runs =
        [Run::new(Arc::new(Failing), graph.clone()), Run::in_rounds(Arc::new(Failing), graph.clone(), layers(4, 4))];
    for run in runs.iter().cycle().take(6) {
        let error = pool.record(run).unwrap_err();
        assert!(error.message.contains("node seven") && !error.message.contains('\n'), "{}", error.message);
    }
}

#[test]
fn a_node_waits_for_its_completions_from_outside_and_a_failure_ends_the_run() {
    struct Ask(std::sync::mpsc::Sender<u32>);
    impl Program for Ask {
        fn run(&self, node: u32, _: &mut Scratch) {
            self.0.send(node).unwrap();
        }
    }
    for threads in [1, 3] {
        let pool = Pool::new(threads).unwrap();
        let mut graph = Graph::default();
        let first = graph.add(true, &[]);
        let waits = graph.add(true, &[first]);
        graph.wait_outside(waits, 2);
        let last = graph.add(false, &[waits]);
        let (send, mut asked) = std::sync::mpsc::channel();
        let run = Run::new(Arc::new(Ask(send)), Arc::new(graph));
        let door = pool.door(&run);
        for fails in [false, false, true, false] {
            let outcome = std::thread::scope(|scope| {
                let (door, asked) = (&door, &mut asked);
                scope.spawn(move || {
                    assert_eq!(asked.recv().unwrap(), first);
                    door.complete(waits);
                    assert!(asked.recv_timeout(std::time::Duration::from_millis(5)).is_err());
                    if fails {
                        door.fail("gone");
                    }
                    door.complete(waits);
                });
                pool.execute(&run)
            });
            let rest: Vec<u32> = asked.try_iter().collect();
            if fails {
                assert_eq!(outcome.unwrap_err().message, "a worker failed: gone");
                assert!(rest.is_empty());
            } else {
                outcome.unwrap();
                assert_eq!(rest, [waits, last]);
            }
        }
    }
}
