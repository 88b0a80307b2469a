//! Starting and stopping engines leaves nothing behind. Alone in its process, whose threads and files it counts.
#![cfg(target_os = "linux")]

mod common;

use common::{config_of, engine, tokens, train};
use std::fs;
use symlm_core::step::Switches;

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn resident_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_thousand_starts_and_stops_leak_no_thread_no_file_and_no_memory() {
    let ids = tokens();
    let cycle = |turn: usize| {
        let switches = Switches { prefetch: turn.is_multiple_of(2), ..Switches::default() };
        let engine = engine(config_of(1 + turn % 4, 0, 5, 3), ids.clone(), switches).unwrap();
        match turn % 4 {
            // Dropped before, in the middle of and after an update.
            0 => {}
            1 => engine.run_until(2).unwrap(),
            _ => train(&engine, 1).unwrap(),
        }
    };
    (0..50).for_each(cycle);
    let count = || (entries("/proc/self/task"), entries("/proc/self/fd"));
    let (before, memory) = (count(), resident_kb());
    (0..1000).for_each(cycle);
    assert_eq!(count(), before);
    // Eight kilobytes per start would be seen; the allocator may keep some.
    let grown = resident_kb().saturating_sub(memory);
    assert!(grown < 8192, "{grown} kB more after 1,000 starts");
}
