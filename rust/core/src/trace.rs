//! A recording of updates: which worker ran which node when, how each worker spent its time, and the file for a viewer.

use crate::error::{Error, Result};
use crate::pool::record::Span;
use crate::system::files;
use serde::{Serialize, Serializer};
use std::io::Write;
use std::path::Path;

/// A node of the training graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskNode {
    /// What sort of work it is.
    pub kind: &'static str,
    /// Which part of it.
    pub detail: String,
    /// The nodes it waits for.
    pub after: Vec<u32>,
    /// Whether it comes before those that can wait.
    pub urgent: bool,
}

/// Start and end in nanoseconds.
pub type Interval = (u64, u64);

/// How a worker spent the recorded updates. The four times add up to those of the updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerTime {
    /// Inside nodes.
    pub busy_ns: u64,
    /// Handing on and looking for work, up to the first look that found none.
    pub steal_ns: u64,
    /// Without work.
    pub idle_ns: u64,
    /// Without work because the batch was not there yet.
    pub prefetch_wait_ns: u64,
    /// Nodes.
    pub tasks: u64,
    /// Nodes taken from another worker's deque.
    pub steals: u64,
}

/// Spans of whole updates. All times are nanoseconds from one origin.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Workers.
    pub threads: usize,
    /// The graph that the nodes of the spans belong to.
    pub graph: Vec<TaskNode>,
    /// By start.
    pub spans: Vec<Span>,
    /// The updates, one after the other.
    pub updates: Vec<Interval>,
    /// Waits of the control thread for a batch, inside the updates.
    pub prefetch_waits: Vec<Interval>,
    /// The origin by the clock of the machine that only goes forward, which all its processes have.
    pub origin: u64,
}

/// Length of what two lists of disjoint ascending intervals have in common.
fn common(a: &[Interval], b: &[Interval]) -> u64 {
    let (mut i, mut j, mut sum) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        let (start, end) = (a[i].0.max(b[j].0), a[i].1.min(b[j].1));
        sum += end.saturating_sub(start);
        if a[i].1 < b[j].1 { i += 1 } else { j += 1 }
    }
    sum
}

impl Trace {
    /// How each worker spent the updates.
    pub fn workers(&self) -> Vec<WorkerTime> {
        let wall = common(&self.updates, &self.updates);
        let waits = common(&self.prefetch_waits, &self.updates);
        let worker = |index: usize| {
            let own: Vec<&Span> = self.spans.iter().filter(|span| span.worker as usize == index).collect();
            let busy: Vec<Interval> = own.iter().map(|span| (span.start, span.end)).collect();
            let steal: Vec<Interval> = own.iter().map(|span| (span.free, span.idle)).collect();
            let (busy_ns, steal_ns) = (common(&busy, &self.updates), common(&steal, &self.updates));
            let at_work = common(&busy, &self.prefetch_waits) + common(&steal, &self.prefetch_waits);
            let prefetch_wait_ns = waits - at_work;
            let idle_ns = wall - busy_ns - steal_ns - prefetch_wait_ns;
            let (tasks, steals) = (own.len() as u64, own.iter().filter(|span| span.stolen).count() as u64);
            WorkerTime { busy_ns, steal_ns, idle_ns, prefetch_wait_ns, tasks, steals }
        };
        (0..self.threads).map(worker).collect()
    }

    /// Writes the file that Perfetto and chrome://tracing open: a row per worker, one for the control thread. At once or
    /// not at all.
    ///
    /// # Errors
    /// `User` if the file cannot be written.
    pub fn write_chrome(&self, path: &Path) -> Result<()> {
        let content = |out: &mut std::io::BufWriter<_>| {
            serde_json::to_writer(&mut *out, &File { events: Events(self), unit: "ms" })?;
            out.write_all(b"\n")
        };
        files::write_whole(path, ".trace-", content).map_err(|e| Error::cannot_write(path, &e))
    }
}

#[derive(Serialize)]
struct File<'a> {
    #[serde(rename = "traceEvents")]
    events: Events<'a>,
    #[serde(rename = "displayTimeUnit")]
    unit: &'static str,
}

struct Events<'a>(&'a Trace);

/// An event of the format; the fields have the names that it prescribes.
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'static str>,
    ph: &'static str,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u32,
    tid: u32,
    args: Arguments<'a>,
}

#[derive(Default, Serialize)]
struct Arguments<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stolen: Option<bool>,
}

const PROCESS: u32 = 1;
const CONTROL: u32 = 0;

fn label(name: &'static str, tid: u32, text: String) -> Event<'static> {
    let args = Arguments { name: Some(text), ..Arguments::default() };
    Event { name, cat: None, ph: "M", ts: None, dur: None, pid: PROCESS, tid, args }
}

fn complete<'a>(name: &'a str, cat: &'static str, tid: u32, (start, end): Interval, args: Arguments<'a>) -> Event<'a> {
    let (ts, dur) = (Some(start as f64 / 1e3), Some((end - start) as f64 / 1e3));
    Event { name, cat: Some(cat), ph: "X", ts, dur, pid: PROCESS, tid, args }
}

impl Serialize for Events<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let trace = self.0;
        let workers = (0..trace.threads as u32).map(|w| label("thread_name", w + 1, format!("symlm-w{w:02}")));
        let names = [label("process_name", CONTROL, "symlm".into()), label("thread_name", CONTROL, "symlm-ctl".into())];
        let control = |name: &'static str, cat: &'static str| {
            move |&interval: &Interval| complete(name, cat, CONTROL, interval, Arguments::default())
        };
        let spans = trace.spans.iter().map(|span| {
            let node = &trace.graph[span.node as usize];
            let args =
                Arguments { name: None, node: Some(span.node), detail: Some(&node.detail), stolen: Some(span.stolen) };
            complete(node.kind, "task", span.worker + 1, (span.start, span.end), args)
        });
        let events = names
            .into_iter()
            .chain(workers)
            .chain(trace.updates.iter().map(control("step", "step")))
            .chain(trace.prefetch_waits.iter().map(control("prefetch wait", "prefetch")))
            .chain(spans);
        serializer.collect_seq(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(worker: u32, node: u32, times: [u64; 4]) -> Span {
        let [free, idle, start, end] = times;
        Span { worker, node, stolen: node == 1, free, idle, start, end }
    }

    /// Two updates, 100..200 and 200..300, with a batch awaited at the start of the second.
    fn example() -> Trace {
        let node = |kind, detail: &str, after| TaskNode { kind, detail: detail.into(), after, urgent: true };
        Trace {
            threads: 3,
            graph: vec![node("forward", "window \"0\"", vec![]), node("join", "", vec![0])],
            spans: vec![
                span(0, 0, [40, 50, 110, 150]),
                span(1, 1, [100, 100, 150, 180]),
                span(0, 0, [150, 220, 230, 260]),
                span(0, 1, [260, 265, 265, 290]),
            ],
            updates: vec![(100, 200), (200, 300)],
            prefetch_waits: vec![(100, 100), (200, 225)],
            origin: 0,
        }
    }

    #[test]
    fn the_times_of_a_worker_add_up() {
        let trace = example();
        let workers = trace.workers();
        // Worker 0 looks for work until 220, so that only five of the wait are idle.
        let first = WorkerTime { busy_ns: 95, steal_ns: 75, idle_ns: 25, prefetch_wait_ns: 5, tasks: 3, steals: 1 };
        assert_eq!(workers[0], first);
        assert_eq!((workers[1].busy_ns, workers[1].prefetch_wait_ns, workers[1].idle_ns), (30, 25, 145));
        assert_eq!((workers[2].busy_ns, workers[2].idle_ns), (0, 175));
        for w in workers {
            assert_eq!(w.busy_ns + w.steal_ns + w.idle_ns + w.prefetch_wait_ns, 200);
        }
    }

    #[test]
    fn the_file_has_a_row_per_worker_and_microseconds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        std::fs::write(&path, "old").unwrap();
        example().write_chrome(&path).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let events = file["traceEvents"].as_array().unwrap();
        let of = |phase: &str| events.iter().filter(|e| e["ph"] == phase).collect::<Vec<_>>();
        let names: Vec<_> = of("M").iter().map(|e| e["args"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["symlm", "symlm-ctl", "symlm-w00", "symlm-w01", "symlm-w02"]);
        assert_eq!(of("X").len(), 4 + 2 + 2);
        let first = of("X").into_iter().find(|e| e["cat"] == "task").unwrap();
        let expected = serde_json::json!({
            "name": "forward", "cat": "task", "ph": "X", "ts": 0.11, "dur": 0.04, "pid": 1, "tid": 1,
            "args": {"node": 0, "detail": "window \"0\"", "stolen": false}
        });
        assert_eq!(*first, expected);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = example().write_chrome(&folder.path().join("none/trace.json")).unwrap_err();
        assert_eq!(error.kind, crate::ErrorKind::User);
        assert!(error.message.contains("none/trace.json"), "{}", error.message);
    }
}
