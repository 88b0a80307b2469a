//! SHA-256 of every kernel's results on fixed inputs, on every instruction set, and the same table in docs/contract.md.
//!
//! A module of `known/` lists the answers of some kernels. Inputs are drawn from the generator of [`common::Lcg`] with
//! the seed of the answer, in the order that the `run` function shows; results are hashed as little-endian bits,
//! matrices row by row without padding. To add an answer, write its row with an empty hash: the failing test prints
//! the hash, which goes here and into the contract.

mod common;
mod known {
    pub mod attention;
    pub mod elementwise;
    pub mod gemm;
    pub mod int16;
    pub mod q8;
}

use common::{Lcg, isas};
use sha2::{Digest, Sha256};
use symlm_kernels::Isa;

const TABLES: [&[Answer]; 6] = [
    known::elementwise::ANSWERS,
    known::gemm::ANSWERS,
    known::attention::ANSWERS,
    known::gemm::ADAPTERS,
    known::int16::ANSWERS,
    known::q8::ANSWERS,
];

const CONTRACT: &str = include_str!("../../../docs/contract.md");

/// The results of one kernel on inputs drawn from `seed`.
pub struct Answer {
    /// The name in the contract's table.
    pub name: &'static str,
    /// Start of the generator.
    pub seed: u32,
    /// Draws the inputs, runs the kernel, hashes the results.
    pub run: fn(Isa, &mut Lcg, &mut Bits),
    /// Hexadecimal.
    pub sha256: &'static str,
}

/// Hash of the bits of results.
#[derive(Default)]
pub struct Bits(Sha256);

impl Bits {
    /// Adds f32 results.
    pub fn f32(&mut self, values: &[f32]) {
        for v in values {
            self.0.update(v.to_le_bytes());
        }
    }
    /// Adds f64 results.
    pub fn f64(&mut self, values: &[f64]) {
        for v in values {
            self.0.update(v.to_le_bytes());
        }
    }
}

fn answers() -> impl Iterator<Item = &'static Answer> {
    TABLES.into_iter().flatten()
}

fn hash(isa: Isa, answer: &Answer) -> String {
    let mut bits = Bits::default();
    (answer.run)(isa, &mut Lcg(answer.seed), &mut bits);
    bits.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn every_kernel_gives_its_known_answer() {
    let mut wrong = Vec::new();
    for answer in answers() {
        for isa in isas() {
            let got = hash(isa, answer);
            if got != answer.sha256 {
                wrong.push(format!("{} on {}: {got}", answer.name, isa.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "other bits than known:\n{}", wrong.join("\n"));
}

#[test]
fn the_contract_lists_the_same_answers() {
    let section = CONTRACT.split("## Known answers").nth(1).expect("a section of known answers");
    let listed: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let known: Vec<String> = answers().map(|a| format!("| `{}` | {} | `{}` |", a.name, a.seed, a.sha256)).collect();
    assert_eq!(listed, known);
}
