//! The inner loops of the compiled microkernels of NEON: no spills, and per step of k as many reads as operands.
//!
//! A tile of R rows has 4 R accumulators of four lanes. One step of k loads the four registers of a vector of B and R elements
//! of A, and does 4 R multiply-adds; with 24 accumulators, 4 registers of B and the elements on their way these fit 32
//! registers. See `assembly.rs` for x86-64.
#![cfg(target_arch = "aarch64")]

#[path = "common/assembly.rs"]
mod assembly;

use assembly::{Dialect, functions, release_assembly};
use std::collections::BTreeSet;

const DIALECT: Dialect = Dialect {
    comment: "//",
    jump: |name| name == "b" || name.starts_with("b.") || name.starts_with("cb") || name.starts_with("tb"),
    multiply_adds: &["fmla", "smlal"],
};

/// Of `gemm/tables.rs`: multiply-adds of floats, then of 16-bit integers.
const SYMBOLS: [&str; 2] = ["6tables3arm4neonNtNtB6_3ops5Fused", "6tables3arm4neonNtNtB6_3ops5Pairs"];

/// Rows of the tallest tile.
const ROWS: usize = 6;

/// Most instructions for each multiply-add of a tile of full height: 24 of them, 8 reads, 3 requests for lines, and pointers.
const MOST: f64 = 1.85;

/// What a whole tile's loop does.
#[derive(Debug, PartialEq)]
struct Loop {
    rows: usize,
    /// Instructions for each multiply-add.
    price: f64,
}

/// What a loop does; `None` where it is that of a tail, which reads lane by lane; or what is wrong with it.
fn examine(body: &[String]) -> Result<Option<Loop>, String> {
    const OTHERS: [&str; 13] =
        ["add", "sub", "subs", "cmp", "cb", "b", "prfm", "uzp1", "uzp2", "dup", "lsl", "mov", "nop"];
    let (mut fused, mut reads, mut accumulators) = (0, 0, BTreeSet::new());
    for instruction in body {
        let (name, operands) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
        if operands.contains("[sp") || name.starts_with("st") {
            return Err(format!("a spill: {instruction}"));
        }
        let vector = operands.starts_with(['v', 'q', 'd', 's', '{']);
        if DIALECT.multiply_adds.iter().any(|begin| name.starts_with(begin)) {
            fused += 1;
            accumulators.insert(operands.split('.').next().unwrap_or(""));
        } else if name.starts_with("ld") {
            if !vector {
                return Err(format!("a pointer that is read: {instruction}"));
            }
            if operands.contains("}[") || name == "ldr" && operands.starts_with('d') {
                return Ok(None);
            }
            // `ldp` and `ld2` fill two registers.
            reads += if ["ldp", "ld2"].contains(&name) { 2 } else { 1 };
        } else if !OTHERS.iter().any(|other| name.starts_with(other))
            || vector && !["uzp1", "uzp2", "dup"].contains(&name)
        {
            return Err(format!("does not belong here: {instruction}"));
        }
    }
    let rows = accumulators.len() / 4;
    // A pair of integers is two multiply-adds.
    let each = if body.iter().any(|instruction| instruction.starts_with("smlal")) { 8 } else { 4 };
    let steps = fused / (each * rows).max(1);
    if rows * steps * each != fused {
        return Err(format!("{fused} multiply-adds into {} accumulators", accumulators.len()));
    }
    if reads != (rows + 4) * steps {
        return Err(format!("{reads} reads for {steps} steps of {rows} rows"));
    }
    Ok(Some(Loop { rows, price: body.len() as f64 / fused as f64 }))
}

#[test]
fn the_tiles_stay_in_registers() {
    let assembly = release_assembly();
    for symbol in SYMBOLS {
        let mut rows = BTreeSet::new();
        for function in functions(&assembly, symbol, &DIALECT) {
            for body in function.loops(&DIALECT) {
                let found = examine(body).unwrap_or_else(|what| panic!("{symbol}: {what}, in\n{}", body.join("\n")));
                let Some(found) = found else { continue };
                println!("{symbol}: {found:?}");
                assert!(found.rows < ROWS || found.price <= MOST, "{symbol}: {found:?}, in\n{}", body.join("\n"));
                rows.insert(found.rows);
            }
        }
        assert_eq!(rows, (1..=ROWS).collect(), "{symbol}: rows of the tiles");
    }
}

#[test]
fn the_check_tells_good_loops_from_bad_ones() {
    let good = [
        "ldp\tq10, q8, [x10]",
        "ldp\tq11, q9, [x10, #32]",
        "ldr\ts12, [x8, x13, lsl #2]",
        "fmla\tv31.4s, v10.4s, v12.s[0]",
        "fmla\tv30.4s, v8.4s, v12.s[0]",
        "fmla\tv29.4s, v11.4s, v12.s[0]",
        "fmla\tv28.4s, v9.4s, v12.s[0]",
        "subs\tx5, x5, #1",
        "add\tx10, x10, x15",
        "b.ne\t.LBB38_7",
    ];
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert_eq!(examine(&lines(&good)), Ok(Some(Loop { rows: 1, price: 2.5 })));
    for bad in [
        "str\tq10, [sp]",
        "ldr\tq10, [sp, #32]",
        "ldr\tx3, [x0, #64]",
        "ldr\ts13, [x8]",
        "mov\tv8.16b, v9.16b",
        "fadd\tv8.4s, v9.4s, v10.4s",
        "fmla\tv27.4s, v9.4s, v12.s[0]",
    ] {
        let body: Vec<&str> = [bad].into_iter().chain(good).collect();
        assert!(examine(&lines(&body)).is_err(), "{bad}");
    }
}
