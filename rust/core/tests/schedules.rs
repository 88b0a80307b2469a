//! Any schedule gives the same bits: random victims, orders, yields and sleeps on any number of workers.
//!
//! `SYMLM_SCHEDULES` is the number of schedules (`make schedules` takes 500), `SYMLM_SCHEDULES_FROM` the first seed.

mod common;

use common::{config, engine, hash, tokens, train};
use std::collections::BTreeMap;
use symlm_core::pool::chaos::Chaos;
use symlm_core::rng::{Stream, draw};
use symlm_core::step::Switches;

const UPDATES: u64 = 3;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn every_schedule_gives_one_hash() {
    let calm = engine(config(1, 12), tokens(), Switches::default()).unwrap();
    train(&calm, UPDATES).unwrap();
    let expected = hash(&calm);
    drop(calm);
    let (first, count) = (number("SYMLM_SCHEDULES_FROM", 0), number("SYMLM_SCHEDULES", 24));
    let (mut hashes, mut steals) = (BTreeMap::from([(expected.clone(), 0)]), 0);
    for seed in first..first + count {
        let [a, b, c, d] = draw(seed, Stream::Sample, 0, 0);
        // Both ends come early.
        let threads = match seed - first {
            0 => 63,
            1 => 1,
            _ => 1 + a as usize % 63,
        };
        let (sectors, prefetch, barriers) = (b as usize % 13, c % 4 != 0, d.is_multiple_of(8));
        let chaos = Some(Chaos { seed, panic_at: None });
        let engine = engine(config(threads, sectors), tokens(), Switches { prefetch, barriers, chaos }).unwrap();
        train(&engine, UPDATES).unwrap();
        let found = hash(&engine);
        steals += engine.workers().unwrap().iter().map(|w| w.steals).sum::<u64>();
        assert_eq!(found, expected, "seed {seed}: {threads} threads, {sectors} sectors, {prefetch}, {barriers}");
        *hashes.entry(found).or_default() += 1;
    }
    // Without these the schedules were not disturbed at all.
    assert!(steals > count, "only {steals} nodes were stolen");
    println!("{count} schedules from seed {first}, 1 to 63 threads, {UPDATES} updates each, {steals} nodes stolen");
    for (hash, times) in &hashes {
        println!("{times} x {hash}");
    }
    assert_eq!(hashes.len(), 1);
}
