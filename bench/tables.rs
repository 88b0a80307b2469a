//! The summary at the end of a run.

use crate::turns::{Times, isas};
use symlm_kernels::Isa;

/// A kernel of one shape.
pub struct Row {
    name: String,
    shape: String,
    pub cells: Vec<Cell>,
    /// Of the fastest instruction set.
    pub ratio: Option<Ratio>,
}

impl Row {
    pub fn new(name: String, shape: String) -> Self {
        Self { name, shape, cells: Vec::new(), ratio: None }
    }
}

/// One instruction set.
pub struct Cell {
    isa: Isa,
    text: String,
    peak: f64,
}

impl Cell {
    /// GFLOP/s and share of the peak.
    pub fn operations(isa: Isa, times: &Times, operations: f64) -> Self {
        let (speed, share) = (operations / times.seconds() / 1e9, 100.0 * times.share(operations));
        Self { isa, text: format!("{speed:.1} {share:>4.0} %"), peak: times.peak() }
    }
    /// Microseconds and 10^9 elements a second.
    pub fn elements(isa: Isa, times: &Times, elements: f64) -> Self {
        let seconds = times.seconds();
        Self { isa, text: format!("{:.1} {:>5.2} G", 1e6 * seconds, elements / seconds / 1e9), peak: times.peak() }
    }
}

/// The peer, and our speed over its speed.
pub struct Ratio {
    /// GFLOP/s of a call.
    pub speed: f64,
    /// Share of its packing in its time.
    pub packing: f64,
    /// Over the whole call.
    pub call: f64,
    /// Over the call without its packing.
    pub bare: f64,
}

/// Names longer than this are continued on separate lines.
const NAME: usize = 44;

fn wrapped(name: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in name.split_inclusive(", ") {
        if lines.last().is_some_and(|line| !line.is_empty() && line.len() + part.trim_end().len() > NAME) {
            lines.push(String::new());
        }
        lines.last_mut().expect("never empty").push_str(part);
    }
    lines
}

fn table(rows: &[Row], with_peer: bool) {
    print!("{:<NAME$} {:<19}", "", "");
    isas().iter().for_each(|isa| print!(" {:>16}", isa.name()));
    println!("{}", if with_peer { "   gemm crate packing  ratio  bare" } else { "" });
    for row in rows {
        let mut lines = wrapped(&row.name).into_iter();
        print!("{:<NAME$} {:<19}", lines.next().unwrap_or_default().trim_end(), row.shape);
        for isa in isas() {
            let text = row.cells.iter().find(|cell| cell.isa == isa).map_or("", |cell| &cell.text);
            print!(" {text:>16}");
        }
        if let Some(Ratio { speed, packing, call, bare }) = &row.ratio {
            print!(" {speed:>12.1} {:>5.0} % {call:>6.2} {bare:>5.2}", 100.0 * packing);
        }
        println!();
        lines.for_each(|line| println!("  {}", line.trim_end()));
    }
}

fn summary(rows: &[Row], what: &str, of: fn(&Ratio) -> f64) {
    let mut ratios: Vec<(f64, &Row)> = rows.iter().filter_map(|row| Some((of(row.ratio.as_ref()?), row))).collect();
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let Some((least, row)) = ratios.first() else { return };
    let mean = (ratios.iter().map(|(ratio, _)| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
    let below = |limit: f64| ratios.iter().filter(|(ratio, _)| *ratio < limit).count();
    let (one, gate, all) = (below(1.0), below(0.95), ratios.len());
    println!(
        "Speed over that of the gemm crate {what}: geometric mean {mean:.2}, least {least:.2} ({} {}),",
        row.name, row.shape
    );
    println!("  below 1.00 at {one} and below 0.95 at {gate} of {all} shapes.");
}

/// Prints everything that was measured.
pub fn print(products: &[Row], others: &[Row]) {
    if !products.is_empty() {
        println!(
            "\nMatrix products m x n x k: GFLOP/s (median) and share of the FMA peak of the instruction set (median of turns"
        );
        println!(
            "with the FMA loop). The peer is the gemm crate on its fastest instruction set: GFLOP/s of its whole call, the"
        );
        println!(
            "share of its packing in that, and our speed on our fastest instruction set over its: whole call, and without"
        );
        println!("its packing. Our weights are packed before, once per update of the optimizer.\n");
        table(products, true);
        println!();
        summary(products, "with its packing", |ratio| ratio.call);
        summary(products, "without its packing", |ratio| ratio.bare);
    }
    if !others.is_empty() {
        println!(
            "\nOther kernels: GFLOP/s (median) and share of the FMA peak; or microseconds and 10^9 elements a second.\n"
        );
        table(others, false);
    }
    let peaks = isas().into_iter().filter_map(|isa| {
        let cells = products.iter().chain(others).flat_map(|row| &row.cells);
        let peak = cells.filter(|cell| cell.isa == isa).map(|cell| cell.peak).max_by(f64::total_cmp)?;
        Some(format!("{} {peak:.0}", isa.name()))
    });
    let peaks: Vec<String> = peaks.collect();
    if !peaks.is_empty() {
        println!("\nHighest FMA peak, GFLOP/s: {}. All answers equal the specification.", peaks.join(", "));
    }
}
