//! Functions and loops of the crate's assembly, as for a release.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// How an assembler writes what is looked for here.
pub struct Dialect {
    /// What begins a comment.
    pub comment: &'static str,
    /// Whether an instruction is a jump.
    pub jump: fn(&str) -> bool,
    /// Multiply-adds begin so.
    pub multiply_adds: &'static [&'static str],
}

/// A function of the assembly: instructions, and where labels stand among them.
#[derive(Default)]
pub struct Function {
    pub instructions: Vec<String>,
    labels: BTreeMap<String, usize>,
}

/// The functions whose symbol contains `symbol`.
pub fn functions(assembly: &str, symbol: &str, dialect: &Dialect) -> Vec<Function> {
    let (mut found, mut current): (Vec<Function>, Option<Function>) = (Vec::new(), None);
    for line in assembly.lines() {
        let text = line.trim();
        if let Some(label) = text.strip_suffix(':') {
            if let Some(function) = current.as_mut().filter(|_| label.starts_with(".L")) {
                function.labels.insert(label.to_owned(), function.instructions.len());
            } else if label.contains(symbol) {
                current = Some(Function::default());
            }
        } else if text == ".cfi_endproc" {
            found.extend(current.take());
        } else if line.starts_with('\t') && !text.starts_with('.') && !text.starts_with(dialect.comment) {
            let instruction = text.split(dialect.comment).next().unwrap_or(text).trim().to_owned();
            current.iter_mut().for_each(|function| function.instructions.push(instruction.clone()));
        }
    }
    found
}

impl Function {
    /// The innermost loops with multiply-adds.
    pub fn loops(&self, dialect: &Dialect) -> Vec<&[String]> {
        let back = self.instructions.iter().enumerate().filter_map(|(end, instruction)| {
            let (jump, target) = instruction.split_once(char::is_whitespace)?;
            // A jump on a register names the register first.
            let target = target.rsplit(", ").next()?.trim();
            let start = *self.labels.get(target).filter(|start| (dialect.jump)(jump) && **start <= end)?;
            Some((start, end))
        });
        // A return on the way is not a loop, but a block that stands before one that jumps to it.
        let returns = |(a, b): (usize, usize)| self.instructions[a..=b].iter().any(|name| name.starts_with("ret"));
        let all: Vec<(usize, usize)> = back.filter(|body| !returns(*body)).collect();
        let inner = |(a, b): (usize, usize)| !all.iter().any(|&(c, d)| (c, d) != (a, b) && a <= c && d <= b);
        let bodies = all.iter().filter(|body| inner(**body)).map(|&(start, end)| &self.instructions[start..=end]);
        bodies
            .filter(|body| body.iter().any(|line| dialect.multiply_adds.iter().any(|name| line.starts_with(name))))
            .collect()
    }
}

/// Compiles the crate as for a release, in a separate folder, and returns its assembly.
pub fn release_assembly() -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("assembly");
    // Named, since under emulation the compiler is the host's.
    let system = if cfg!(all(target_os = "linux", target_env = "gnu")) { "unknown-linux-gnu" } else { "" };
    let target = format!("{}-{system}", std::env::consts::ARCH);
    let (target, deps) = if system.is_empty() {
        (Vec::new(), folder.join("release/deps"))
    } else {
        (vec!["--target", &target], folder.join(&target).join("release/deps"))
    };
    // The compiler names a file after each part of the crate and leaves those of former builds.
    let files = |deps: &Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(deps).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "s")).collect()
    };
    let newest = |path: &std::path::PathBuf| path.metadata().and_then(|data| data.modified()).expect("a time");
    let built = Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--offline", "--release", "--lib", "--package", "symlm-kernels", "--target-dir"])
        .arg(&folder)
        .args(target)
        .args(["--", "--emit", "asm", "-C", "debuginfo=0", "-C", "codegen-units=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the release build of the kernels failed");
    let newest =
        files(&deps).into_iter().filter(|path| path.to_string_lossy().contains("symlm_kernels")).max_by_key(newest);
    std::fs::read_to_string(newest.expect("an assembly file")).expect("readable")
}
