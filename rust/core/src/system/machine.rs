//! Facts about the machine: processors that this process may use, instruction sets, memory.

use super::processors;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use symlm_kernels::{Integers, Isa};

/// The instruction set to use: the one that `SYMLM_ISA` names, else the fastest.
///
/// # Errors
/// `Usage` if the name is unknown or the CPU lacks it.
pub fn active_isa() -> Result<Isa> {
    let Some(name) = std::env::var_os("SYMLM_ISA").filter(|name| !name.is_empty()) else {
        return Ok(Isa::detect());
    };
    let name = name.to_string_lossy();
    named_isa(&name).ok_or_else(|| {
        Error::usage(format!("SYMLM_ISA is {name:?}, symlm has {} on this machine", isa_names()))
            .hint("unset SYMLM_ISA to use the fastest")
    })
}

/// The instructions that multiply 16-bit integers beside an instruction set: those that `SYMLM_INT16` names, else the
/// fastest. The name has to belong to the set in use. Beside another one, which only a comparison asks for, the fastest
/// takes its place.
///
/// # Errors
/// `Usage` if the name is unknown, the CPU lacks them, or they belong to another instruction set than the one in use.
pub fn active_integers(isa: Isa) -> Result<Integers> {
    let Some(name) = std::env::var_os("SYMLM_INT16").filter(|name| !name.is_empty()) else {
        return Ok(Integers::of(isa));
    };
    let found = named_integers(&name.to_string_lossy(), active_isa()?)?;
    Ok(if found.goes_with(isa) { found } else { Integers::of(isa) })
}

/// The instructions with this name, beside the instruction set in use.
fn named_integers(name: &str, in_use: Isa) -> Result<Integers> {
    let found = Integers::from_name(name).filter(|integers| integers.is_available());
    let found = found.ok_or_else(|| {
        let names: Vec<_> = Integers::available().into_iter().map(Integers::name).collect();
        Error::usage(format!("SYMLM_INT16 is {name:?}, symlm has {} on this machine", names.join(", ")))
            .hint("unset SYMLM_INT16 to use the fastest")
    })?;
    if found.goes_with(in_use) {
        return Ok(found);
    }
    let (needed, in_use) = (found.isa().name(), in_use.name());
    Err(Error::usage(format!("SYMLM_INT16 is {name:?}, which needs SYMLM_ISA={needed}, but {in_use} is in use"))
        .hint(format!("set SYMLM_ISA={needed} too, or unset SYMLM_INT16 to use the fastest")))
}

/// The instruction set with this name, if this machine can run it.
pub fn named_isa(name: &str) -> Option<Isa> {
    Isa::from_name(name).filter(|isa| isa.is_available())
}

/// The names of those that this machine can run, for messages.
pub fn isa_names() -> String {
    Isa::available().into_iter().map(Isa::name).collect::<Vec<_>>().join(", ")
}

/// Nanoseconds of the clock that only goes forward and that all processes of the machine share; 0 where there is none.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the result.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0;
    if failed { 0 } else { now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64 }
}

/// Threads that `--threads auto` means, and the rule that decided.
pub fn available_cpus() -> (usize, String) {
    let (cores, rule) = processors::cores();
    match cgroup_quota() {
        Some(quota) if (quota.floor() as usize).max(1) < cores => {
            ((quota.floor() as usize).max(1), format!("cgroup quota of {quota} processors"))
        }
        _ => (cores, rule),
    }
}

/// What the kernel shows of this process's limits.
struct Shown {
    /// `/proc/meminfo`.
    memory: String,
    /// `/proc/self/cgroup`.
    groups: String,
    /// Where the control groups are mounted.
    root: PathBuf,
}

impl Shown {
    fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self { memory: read("/proc/meminfo"), groups: read("/proc/self/cgroup"), root: "/sys/fs/cgroup".into() }
    }

    /// Folders of the process's control groups for a controller, each group's parents too.
    fn folders(&self, controller: &str) -> Vec<PathBuf> {
        let mut folders = Vec::new();
        for line in self.groups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let root = match controllers {
                "" => self.root.clone(),
                list if list.split(',').any(|c| c == controller) => self.root.join(controller),
                _ => continue,
            };
            folders.extend(Path::new(path.trim_start_matches('/')).ancestors().map(|group| root.join(group)));
        }
        folders
    }

    /// See [`available_memory`].
    fn available_memory(&self) -> Option<Available> {
        let line = self.memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let bytes = line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? * 1024.0;
        let mut least = Available { bytes, rule: "what the system has left" };
        for folder in self.folders("memory") {
            let left = group_memory(&folder, "memory.max", "memory.current", "inactive_file ").or_else(|| {
                group_memory(&folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
            });
            if let Some(bytes) = left.filter(|left| *left < least.bytes) {
                least = Available { bytes, rule: "what the control group has left" };
            }
        }
        Some(least)
    }
}

/// Processors' worth of time that the control group allows, the tightest on the way up.
fn cgroup_quota() -> Option<f64> {
    let quotas = Shown::here()
        .folders("cpu")
        .into_iter()
        .filter_map(|folder| read_v2(&folder.join("cpu.max")).or_else(|| read_v1(&folder)));
    quotas.filter(|quota| *quota > 0.0).reduce(f64::min)
}

fn read_v2(path: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(path).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

fn read_v1(folder: &Path) -> Option<f64> {
    let number = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<f64>().ok();
    Some(number("cpu.cfs_quota_us")? / number("cpu.cfs_period_us")?).filter(|q| *q > 0.0)
}

/// Memory that a process may still take, and the rule that decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Available {
    /// Bytes.
    pub bytes: f64,
    /// What it is, for messages.
    pub rule: &'static str,
}

/// Memory that this process may still take: what the system has available, or what a control group or `ulimit -v` leaves
/// if that is less; on macOS, which has no such number, all memory. `None` where the system does not tell.
pub fn available_memory() -> Option<Available> {
    if cfg!(not(target_os = "linux")) {
        return elsewhere::available_memory();
    }
    let least = Shown::here().available_memory()?;
    Some(match address_space_left() {
        Some(bytes) if bytes < least.bytes => Available { bytes, rule: "what ulimit -v leaves" },
        _ => least,
    })
}

/// What the limit on the address space leaves, if there is one.
#[cfg(target_os = "linux")]
fn address_space_left() -> Option<f64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills the structure that it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } != 0 || limit.rlim_cur == libc::RLIM_INFINITY {
        return None;
    }
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages = text.split(' ').next()?.parse::<f64>().ok()?;
    // SAFETY: reads a number of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as f64;
    Some((limit.rlim_cur as f64 - pages * page).max(0.0))
}

#[cfg(not(target_os = "linux"))]
fn address_space_left() -> Option<f64> {
    None
}

/// Systems without `/proc`.
mod elsewhere {
    use super::Available;

    #[cfg(target_vendor = "apple")]
    pub(super) fn available_memory() -> Option<Available> {
        let bytes = super::processors::number(c"hw.memsize")?;
        Some(Available { bytes: bytes as f64, rule: "what the machine has" })
    }

    #[cfg(windows)]
    pub(super) fn available_memory() -> Option<Available> {
        /// MEMORYSTATUSEX: sizes in bytes.
        #[repr(C)]
        #[derive(Default)]
        struct Status {
            length: u32,
            load: u32,
            physical: [u64; 2],
            page_file: [u64; 2],
            address_space: [u64; 3],
        }
        #[link(name = "kernel32")]
        unsafe extern "system" {
            fn GlobalMemoryStatusEx(status: *mut Status) -> i32;
        }
        let mut status = Status { length: size_of::<Status>() as u32, ..Status::default() };
        // SAFETY: the call fills the structure, whose size it checks.
        let told = unsafe { GlobalMemoryStatusEx(&raw mut status) } != 0;
        // Memory counts from when it is asked for, so what the page file still takes matters too.
        let bytes = status.physical[1].min(status.page_file[1]);
        told.then_some(Available { bytes: bytes as f64, rule: "what the system has left" })
    }

    #[cfg(not(any(target_vendor = "apple", windows)))]
    pub(super) fn available_memory() -> Option<Available> {
        None
    }
}

/// What a control group leaves; file pages that were not used lately can be evicted, so they do not count.
fn group_memory(folder: &Path, limit: &str, usage: &str, cache: &str) -> Option<f64> {
    let number = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<f64>().ok();
    let (limit, usage) = (number(limit)?, number(usage)?);
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<f64>().ok()).unwrap_or(0.0);
    Some((limit - usage + cached).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: f64 = 1024.0;

    /// A machine with 8 GiB to spare and these files of control groups.
    fn shown(groups: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Shown) {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let memory = "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n".to_owned();
        let shown = Shown { memory, groups: groups.to_owned(), root: root.path().to_owned() };
        (root, shown)
    }

    #[test]
    fn without_a_limit_the_system_decides() {
        for files in [&[][..], &[("a/memory.max", "max\n"), ("a/memory.current", "5\n")][..]] {
            let (_root, shown) = shown("0::/a\n", files);
            assert_eq!(shown.available_memory().unwrap().bytes, 8388608.0 * KIB);
        }
    }

    #[test]
    fn the_tightest_group_on_the_way_up_decides() {
        let files = [
            ("a/memory.max", "3000\n"),
            ("a/memory.current", "1000\n"),
            ("a/memory.stat", "anon 500\nfile 400\ninactive_file 300\n"),
            ("a/b/memory.max", "10000\n"),
            ("a/b/memory.current", "900\n"),
        ];
        let (_root, second) = shown("0::/a/b\n", &files);
        let left = second.available_memory().unwrap();
        assert_eq!((left.bytes, left.rule), (2300.0, "what the control group has left"));
        // A container sees its own group as the root.
        let files = [("memory.max", "5000"), ("memory.current", "6000")];
        let (_root, container) = shown("0::/not/visible\n", &files);
        assert_eq!(container.available_memory().unwrap().bytes, 0.0);
    }

    #[test]
    fn the_first_version_has_a_folder_for_each_controller() {
        let files = [
            ("memory/x/memory.limit_in_bytes", "4096000\n"),
            ("memory/x/memory.usage_in_bytes", "96000\n"),
            ("memory/x/memory.stat", "inactive_file 7\ntotal_inactive_file 1000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/memory.usage_in_bytes", "1\n"),
            ("cpu/memory.limit_in_bytes", "1\n"),
            ("cpu/memory.usage_in_bytes", "1\n"),
        ];
        let (_root, first) = shown("9:cpu,cpuacct:/\n4:memory:/x\n0::/\n", &files);
        assert_eq!(first.available_memory().unwrap().bytes, 4001000.0);
    }

    #[test]
    fn damaged_files_of_the_kernel_count_as_no_limit() {
        let (_root, mut odd) = shown("nonsense\n4:memory\n:::\n", &[("memory.max", ""), ("memory.current", "x")]);
        assert_eq!(odd.available_memory().unwrap().bytes, 8388608.0 * KIB);
        odd.memory = "MemAvailable: many kB\n".into();
        assert_eq!(odd.available_memory(), None);
    }

    #[test]
    fn integers_have_to_belong_to_the_instruction_set_in_use() {
        for integers in Integers::available() {
            assert_eq!(named_integers(integers.name(), integers.isa()).unwrap(), integers);
            for isa in Isa::available() {
                let found = named_integers(integers.name(), isa);
                if integers.isa() == isa || Integers::of(isa) == integers {
                    assert_eq!(found.unwrap(), integers);
                } else {
                    let needed = format!("needs SYMLM_ISA={}, but {} is in use", integers.isa().name(), isa.name());
                    assert!(found.unwrap_err().to_string().contains(&needed), "{needed}");
                }
            }
        }
    }

    #[test]
    fn there_is_at_least_one_processor() {
        let (count, rule) = available_cpus();
        assert!(count >= 1 && !rule.is_empty());
    }
}
