//! The inner loops of the compiled microkernels: no spills, and per step of k as many reads as operands.
//!
//! A tile of R rows and V vectors has R * V accumulators. One step of k loads V vectors of B, broadcasts R elements of A
//! and does R * V fused multiply-adds; with the accumulators, these fit the registers (28 + 2 + 1 of 32, 12 + 2 + 1 of
//! 16). A compiler that runs out of them, or that reads an element of A once per vector, costs a third of the speed
//! and no bit, so no other test would notice.
#![cfg(target_arch = "x86_64")]

#[path = "common/assembly.rs"]
mod assembly;

use assembly::{Dialect, functions, release_assembly};
use std::collections::{BTreeMap, BTreeSet};

const DIALECT: Dialect = Dialect { comment: "#", jump: |name| name.starts_with('j'), multiply_adds: &["vfmadd"] };

/// Tiles of an instruction set, as `gemm/tables.rs` names and sizes them.
struct Tiles {
    /// In the symbol of each tile.
    symbol: &'static str,
    rows: usize,
    /// Registers across a whole tile and across a tail.
    vectors: usize,
    tail_vectors: usize,
}

const AVX512: Tiles = Tiles { symbol: "6tables3x866avx512", rows: 14, vectors: 2, tail_vectors: 1 };
const AVX2: Tiles = Tiles { symbol: "6tables3x864avx2", rows: 6, vectors: 2, tail_vectors: 2 };

/// What may stand beside the vector instructions: pointers (that are moved in registers alone), the counter, prefetches.
const OTHERS: [&str; 12] = ["add", "sub", "inc", "dec", "lea", "cmp", "test", "j", "prefetch", "nop", "xchg", "mov"];

/// A tile by its loop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Shape {
    rows: usize,
    tail: bool,
}

/// Which tile a loop computes, or what is wrong with it.
fn examine(body: &[String], tiles: &Tiles) -> Result<Shape, String> {
    let (mut fused, mut reads, mut from_stack, mut moves) = (0, 0, 0, Vec::new());
    let mut accumulators = BTreeSet::new();
    for instruction in body {
        let (name, operands) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
        // The operand that is written comes last.
        let target = operands.rsplit(", ").next().unwrap_or("");
        let memory = operands.contains('(');
        // Nothing is read by asking; %rbp may be any pointer there, and wherever an index goes with it.
        let asks = name.starts_with("prefetch");
        let stack = !asks && (operands.contains("(%rsp") || operands.contains("(%rbp)"));
        if stack && (!memory || target.contains('(')) {
            return Err(format!("a spill: {instruction}"));
        }
        if name.starts_with("vfmadd") {
            fused += 1;
            accumulators.insert(target);
        } else if name.starts_with("vmov") || name.starts_with("vmaskmov") || name.starts_with("vbroadcast") {
            if target.contains("(%") {
                return Err(format!("neither a read nor a multiply-add: {instruction}"));
            }
            if !memory {
                moves.push(instruction);
            }
        } else if !OTHERS.iter().any(|other| name.starts_with(other)) || stack || name.starts_with("mov") && memory {
            return Err(format!("does not belong here: {instruction}"));
        }
        if memory && name.starts_with('v') {
            reads += usize::from(!stack);
            from_stack += usize::from(stack);
        }
    }
    let tail = body.iter().any(|instruction| instruction.contains("{%k") || instruction.starts_with("vmaskmov"));
    let vectors = if tail { tiles.tail_vectors } else { tiles.vectors };
    let (rows, steps) = (accumulators.len() / vectors, fused / accumulators.len().max(1));
    if rows * vectors * steps != fused {
        return Err(format!("{fused} multiply-adds into {} accumulators", accumulators.len()));
    }
    if reads != (rows + vectors) * steps {
        return Err(format!("{reads} reads for {steps} steps of {rows} rows and {vectors} vectors"));
    }
    // With two masks a tail of full height needs more registers than AVX2 has: these it may read from the stack or move.
    let masks = if tail && tiles.tail_vectors == 2 && rows == tiles.rows { 2 * steps } else { 0 };
    if from_stack > masks {
        return Err(format!("{from_stack} reads from the stack"));
    }
    if moves.len() > masks {
        return Err(format!("neither reads nor multiply-adds: {moves:?}"));
    }
    Ok(Shape { rows, tail })
}

/// Examines every loop of every tile; each height must be there by rows and by columns of A, whole and as a tail.
fn check(assembly: &str, tiles: &Tiles) -> Result<(), String> {
    let mut count: BTreeMap<Shape, usize> = BTreeMap::new();
    for function in functions(assembly, tiles.symbol, &DIALECT) {
        let mut shapes = BTreeSet::new();
        for body in function.loops(&DIALECT) {
            let wrong = |what| format!("{}: {what}, in the loop\n{}", tiles.symbol, body.join("\n"));
            let shape = examine(body, tiles).map_err(wrong)?;
            if shape == (Shape { rows: tiles.rows, tail: false }) {
                let fused = body.iter().filter(|instruction| instruction.starts_with("vfmadd")).count();
                println!(
                    "{}: {:.2} instructions for each multiply-add",
                    tiles.symbol,
                    body.len() as f64 / fused as f64
                );
            }
            shapes.insert(shape);
        }
        shapes.into_iter().for_each(|shape| *count.entry(shape).or_default() += 1);
    }
    let expected = (1..=tiles.rows).flat_map(|rows| [false, true].map(|tail| (Shape { rows, tail }, 2))).collect();
    if count == expected { Ok(()) } else { Err(format!("{}: found tiles {count:?}", tiles.symbol)) }
}

#[test]
fn the_tiles_stay_in_registers() {
    let assembly = release_assembly();
    for tiles in [AVX512, AVX2] {
        check(&assembly, &tiles).unwrap_or_else(|what| panic!("{what}"));
    }
}

/// A tile of one row and two vectors, with the given instructions in its loop.
fn examined(instructions: &[&str]) -> Result<Shape, String> {
    let body: Vec<String> = instructions.iter().map(|instruction| (*instruction).to_owned()).collect();
    examine(&body, &AVX512)
}

#[test]
fn the_check_tells_good_loops_from_bad_ones() {
    let load = "vmovups\t(%rax), %zmm2";
    let (other, element) = ("vmovups\t64(%rax), %zmm3", "vbroadcastss\t(%rcx), %zmm4");
    let (first, second) = ("vfmadd231ps\t%zmm4, %zmm2, %zmm0", "vfmadd231ps\t%zmm4, %zmm3, %zmm1");
    let good = [load, other, element, first, second, "prefetcht0\t512(%rax)", "decq\t%rdx", "jne\t.LBB0_1"];
    assert_eq!(examined(&good), Ok(Shape { rows: 1, tail: false }));
    for bad in [
        "vmovups\t%zmm0, 64(%rsp)",
        "vmovups\t64(%rsp), %zmm0",
        "vmovaps\t%zmm0, %zmm5",
        "movq\t8(%rsp), %rax",
        "movq\t-8(%rbp), %rax",
        "movq\t104(%rdi), %rax",
        "vmovups\t-64(%rbp), %zmm0",
        "vaddps\t%zmm0, %zmm1, %zmm0",
        "vbroadcastss\t4(%rcx), %zmm5",
    ] {
        let body: Vec<&str> = [bad].into_iter().chain(good).collect();
        assert!(examined(&body).is_err(), "{bad}");
    }
    // A pointer may change its register.
    let moved: Vec<&str> = ["movq\t%r9, %rbp"].into_iter().chain(good).collect();
    assert_eq!(examined(&moved), Ok(Shape { rows: 1, tail: false }));
    // A jump back over a return closes no loop.
    for (end, loops) in [("addq\t$4, %rcx", 1), ("retq", 0)] {
        let text = format!("tile:\n.LBB0_1:\n\t{}\n\t{end}\n\tjne\t.LBB0_1\n.cfi_endproc\n", good[..5].join("\n\t"));
        assert_eq!(functions(&text, "tile", &DIALECT)[0].loops(&DIALECT).len(), loops, "{text}");
    }
    // An element read once per vector instead of once.
    let twice = [load, other, "vfmadd231ps\t(%rcx){1to16}, %zmm2, %zmm0", "vfmadd231ps\t(%rcx){1to16}, %zmm3, %zmm1"];
    assert!(examined(&twice).is_err());
}
