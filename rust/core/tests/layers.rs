//! The packages of this crate import one way, files import each other in no circle, and one package calls the system.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// From the ground up: a package imports itself and those before it.
const LAYERS: [&str; 23] = [
    "contract",
    "foreign",
    "error",
    "rng",
    "limits",
    "config",
    "system",
    "pool",
    "trace",
    "model",
    "data::progress",
    "data::threads",
    "data::pretoken",
    "data::tokenizer",
    "data::corpus",
    "data::train_tokenizer",
    "data::shards",
    "checkpoint",
    "generate",
    "step::plan",
    "step::feed",
    "step::work",
    "step::engine",
];
/// Names at the root of the crate, and where they come from.
const ROOT: [(&str, &str); 4] =
    [("CONTRACT_VERSION", "contract"), ("Error", "error"), ("ErrorKind", "error"), ("Result", "error")];
/// Two that do not know of each other.
const APART: [&str; 2] = ["data::tokenizer", "data::corpus"];
/// Modules that only hand on what the layers inside of them have.
const FACES: [&str; 3] = ["lib", "data", "step"];
/// What only `system` may name.
const OF_THE_SYSTEM: [&str; 6] = ["libc::", "std::env::", "std::fs::", "std::os::", "std::process::", "tempfile::"];

/// Text of every module by its path (`step::plan::graph`), tests left out.
type Modules = BTreeMap<String, String>;

fn collect(folder: &Path, module: &str, out: &mut Modules) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        let inner = if module.is_empty() { name.clone() } else { format!("{module}::{name}") };
        if path.is_dir() {
            collect(&path, &inner, out);
        } else {
            let own = if name == "mod" { module.to_owned() } else { inner };
            out.insert(own, code(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// A file without comments and unit tests.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") || line.trim_start().starts_with("#[cfg(all(test") {
            // A file of tests is left out by its name; a block of tests ends its file.
            match lines.next() {
                Some(next) if next.ends_with(';') => continue,
                _ => break,
            }
        }
        let end = line.find("//").unwrap_or(line.len());
        out.push_str(&line[..end]);
        out.push('\n');
    }
    out
}

/// The paths of a tree such as `a::{b, c::d}` at the start of `text`, and the length of the tree.
fn tree(text: &str) -> (Vec<Vec<String>>, usize) {
    let mut path = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if text[at..].starts_with('{') {
            at += 1;
            let mut all = Vec::new();
            while !text[at..].trim_start().starts_with('}') {
                let (inner, length) = tree(&text[at..]);
                all.extend(inner.into_iter().map(|rest| path.iter().cloned().chain(rest).collect()));
                at += length;
                at += text[at..].find([',', '}']).unwrap();
                at += usize::from(text[at..].starts_with(','));
            }
            at += text[at..].find('}').unwrap() + 1;
            return (all, at);
        }
        let length = text[at..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len() - at);
        path.push(text[at..at + length].to_owned());
        at += length;
        if !text[at..].starts_with("::") {
            return (vec![path], at);
        }
        at += 2;
    }
}

/// Everything that a module names of this crate, as paths from the root.
fn names(module: &str, text: &str, is_folder: bool) -> Vec<Vec<String>> {
    let own: Vec<String> = module.split("::").map(str::to_owned).collect();
    let mut out = Vec::new();
    for start in ["crate", "super"] {
        for (at, _) in text.match_indices(&format!("{start}::")) {
            let before = text[..at].chars().next_back();
            // Inside a longer word, or after another `super`.
            if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                continue;
            }
            let (paths, _) = tree(&text[at..]);
            for path in paths {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let base = if start == "crate" { 0 } else { own.len() + usize::from(is_folder) - 1 };
                let kept = if start == "crate" { 0 } else { (base + 1).saturating_sub(ups).min(own.len()) };
                let rest = path.into_iter().filter(|part| part != "crate" && part != "super");
                let full: Vec<String> = own[..kept].iter().cloned().chain(rest).collect();
                out.push(rooted(full));
            }
        }
    }
    out
}

/// With names at the root replaced by those that they stand for.
fn rooted(path: Vec<String>) -> Vec<String> {
    match ROOT.iter().find(|(name, _)| path.first().is_some_and(|first| first == name)) {
        Some((_, target)) => target.split("::").map(str::to_owned).chain(path.into_iter().skip(1)).collect(),
        None => path,
    }
}

/// The layer of a path; a path into `data` or `step` itself counts as its top.
fn layer(path: &str) -> Option<usize> {
    let inside = |layer: &str| path == layer || path.starts_with(&format!("{layer}::"));
    let face = path.split("::").next().filter(|face| FACES.contains(face));
    let top = || face.and_then(|face| LAYERS.iter().rposition(|layer| layer.starts_with(&format!("{face}::"))));
    LAYERS.iter().position(|layer| inside(layer)).or_else(top)
}

/// The module in which a path is defined: the longest that is one, followed through what folders hand on.
fn home(path: &[String], modules: &Modules) -> Option<String> {
    let (length, module) =
        (1..=path.len()).rev().map(|n| (n, path[..n].join("::"))).find(|(_, module)| modules.contains_key(module))?;
    let handed_on = path.get(length).and_then(|name| {
        let text = &modules[&module];
        let uses = text.match_indices("use ").flat_map(|(at, _)| tree(&text[at + 4..]).0);
        let mut found = uses.filter(|used| used.last() == Some(name) && used.len() > 1);
        let target = format!("{module}::{}", found.next()?[0]);
        modules.contains_key(&target).then_some(target)
    });
    Some(handed_on.unwrap_or(module))
}

fn is_folder(module: &str, modules: &Modules) -> bool {
    modules.keys().any(|other| other.starts_with(&format!("{module}::")))
}

/// Everything that is wrong, a line each.
fn faults(modules: &Modules) -> Vec<String> {
    let mut faults = Vec::new();
    let mut arrows: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (module, text) in modules.iter().filter(|(module, _)| !FACES.contains(&module.as_str())) {
        let Some(own) = layer(module) else {
            faults.push(format!("{module} is in no layer"));
            continue;
        };
        if LAYERS[own] != "system" {
            let calls = OF_THE_SYSTEM.iter().filter(|call| text.contains(*call));
            faults.extend(calls.map(|call| format!("{module} calls {call}")));
        }
        for path in names(module, text, is_folder(module, modules)) {
            let name = path.join("::");
            match layer(&name) {
                None => faults.push(format!("{module} names {name}, which is in no layer")),
                Some(other) if other > own => faults.push(format!("{module} names {name}, which is above it")),
                Some(other) if other < own && [own, other].iter().all(|layer| APART.contains(&LAYERS[*layer])) => {
                    faults.push(format!("{module} names {name}, which is beside it"));
                }
                Some(_) => {}
            }
            if let Some(home) = home(&path, modules).filter(|home| home != module) {
                arrows.entry(module).or_default().insert(home);
            }
        }
    }
    faults.extend(circle(&arrows).map(|circle| format!("a circle: {}", circle.join(" -> "))));
    faults
}

/// A circle of arrows, if there is one.
fn circle(arrows: &BTreeMap<&str, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut left: BTreeMap<&str, BTreeSet<&str>> = arrows
        .iter()
        .map(|(from, to)| (*from, to.iter().map(String::as_str).filter(|to| arrows.contains_key(to)).collect()))
        .collect();
    // Those that lead nowhere any more are in none.
    while let Some(end) = left.iter().find(|(_, to)| to.is_empty()).map(|(from, _)| *from) {
        left.remove(end);
        left.values_mut().for_each(|to| {
            to.remove(end);
        });
    }
    let mut at = *left.keys().next()?;
    let mut way: Vec<String> = Vec::new();
    while !way.iter().any(|seen| seen == at) {
        way.push(at.to_owned());
        at = left[at].iter().next()?;
    }
    way.push(at.to_owned());
    let start = way.iter().position(|seen| seen == at)?;
    Some(way.split_off(start))
}

#[test]
fn packages_import_one_way_and_files_in_no_circle() {
    let mut modules = Modules::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut modules);
    assert!(modules.len() > 50, "found {} modules", modules.len());
    let faults = faults(&modules);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_kind_of_fault_is_found() {
    let found = |added: &[(&str, &str)]| {
        let sound = [
            ("step", "mod plan; pub use plan::Plan;"),
            ("step::plan", "mod graph; mod tiles; pub(crate) use graph::{Plan, Other};"),
            ("step::plan::graph", "use super::tiles::Tile;\nuse crate::model::Layout;"),
            ("step::plan::tiles", "use crate::error::{Error, Result};"),
            ("step::work::state", "use crate::step::plan::{Plan, limits::{A, B}};"),
            ("model", ""),
            ("error", ""),
        ];
        let all = sound.iter().chain(added).map(|(module, text)| ((*module).to_owned(), code(text)));
        faults(&all.collect()).join("\n")
    };
    assert_eq!(found(&[]), "");
    let upwards = "step::plan::tiles names step::work::State, which is above it";
    assert_eq!(found(&[("step::plan::tiles", "use crate::{error::Error, step::work::State};")]), upwards);
    assert_eq!(found(&[("step::plan::tiles", "fn f(x: super::super::work::State) {}")]), upwards);
    let circle = "a circle: step::plan::graph -> step::plan::tiles -> step::plan::graph";
    assert_eq!(found(&[("step::plan::tiles", "use super::graph::Plan;")]), circle);
    assert_eq!(found(&[("step::plan::tiles", "use crate::step::plan::Other;")]), circle);
    let beside = "data::corpus::open names data::tokenizer::Tokenizer, which is beside it";
    assert_eq!(found(&[("data::corpus::open", "use crate::data::tokenizer::Tokenizer;")]), beside);
    // What a face hands on may come from its top.
    let top = "data::corpus::open names data::Shards, which is above it";
    assert_eq!(found(&[("data::corpus::open", "use crate::data::Shards;")]), top);
    assert_eq!(found(&[("checkpoint", "use crate::data::Shards;")]), "");
    assert_eq!(found(&[("trace", "fn f() { std::fs::read(\"x\") }")]), "trace calls std::fs::");
    assert_eq!(found(&[("elsewhere", "")]), "elsewhere is in no layer");
    assert_eq!(found(&[("trace", "use crate::elsewhere::X;")]), "trace names elsewhere::X, which is in no layer");
    // Neither comments nor tests count.
    assert_eq!(
        found(&[("model", "// crate::step::Engine\n#[cfg(test)]\nmod tests {\n use crate::step::Engine;\n}")]),
        ""
    );
}
