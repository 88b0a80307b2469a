//! Facts about the machine: processors that this process may use, instruction set, FMA peak.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use symlm_kernels::{Isa, peak};

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

/// The instruction set with this name, if this machine can run it.
pub fn named_isa(name: &str) -> Option<Isa> {
    Isa::from_name(name).filter(|isa| isa.is_available())
}

/// The names of those that this machine can run, for messages.
pub fn isa_names() -> String {
    Isa::available().into_iter().map(Isa::name).collect::<Vec<_>>().join(", ")
}

/// Threads that `--threads auto` means, and the rule that decided.
pub fn available_cpus() -> (usize, String) {
    let allowed = affinity();
    let cores: BTreeSet<String> = allowed.iter().map(|cpu| siblings(*cpu)).collect();
    let physical = cores.len().max(1);
    match cgroup_quota() {
        Some(quota) if (quota.floor() as usize).max(1) < physical => {
            ((quota.floor() as usize).max(1), format!("cgroup quota of {quota} processors"))
        }
        _ => (physical, format!("{physical} physical cores in the affinity mask")),
    }
}

fn affinity() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is an empty set, and the call writes at most the size it is given.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
        }
        set
    };
    // SAFETY: the index is below the size of the set.
    (0..8 * size_of::<libc::cpu_set_t>()).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// The list of hardware threads of a processor's core: the same text for each of them.
fn siblings(cpu: usize) -> String {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    std::fs::read_to_string(path).map_or_else(|_| cpu.to_string(), |text| text.trim().to_owned())
}

/// Folders of this process's control groups for a controller, each group's parents too.
fn cgroup_folders(controller: &str) -> Vec<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let root = Path::new("/sys/fs/cgroup");
        let root = match controllers {
            "" => root.to_owned(),
            list if list.split(',').any(|c| c == controller) => root.join(controller),
            _ => continue,
        };
        folders.extend(Path::new(path.trim_start_matches('/')).ancestors().map(|group| root.join(group)));
    }
    folders
}

/// Processors' worth of time that the control group allows, the tightest on the way up.
fn cgroup_quota() -> Option<f64> {
    let quotas = cgroup_folders("cpu")
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

/// Bytes of memory that this process may still take: what the system has available, or what a control group leaves if
/// that is less. `None` where the system does not tell.
pub fn available_memory() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let mut least = line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? * 1024.0;
    for folder in cgroup_folders("memory") {
        let left = group_memory(&folder, "memory.max", "memory.current", "inactive_file ").or_else(|| {
            group_memory(&folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        });
        least = left.map_or(least, |left| left.min(least));
    }
    Some(least)
}

/// What a control group leaves; file pages that were not used lately give way, so they do not count.
fn group_memory(folder: &Path, limit: &str, usage: &str, cache: &str) -> Option<f64> {
    let number = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<f64>().ok();
    let (limit, usage) = (number(limit)?, number(usage)?);
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<f64>().ok()).unwrap_or(0.0);
    Some((limit - usage + cached).max(0.0))
}

/// GFLOP/s of a loop of fused multiply-adds on registers, on `threads` new threads that are joined before return.
/// With more threads than processors the loops share them.
///
/// # Errors
/// `User` if a thread cannot be started.
pub fn fma_peak(isa: Isa, threads: usize, seconds: f64) -> Result<f64> {
    const WAIT: u8 = 0;
    const GO: u8 = 1;
    const GIVE_UP: u8 = 2;
    let duration = Duration::try_from_secs_f64(seconds.clamp(0.001, 60.0)).unwrap_or(Duration::from_millis(100));
    let (signal, ready) = (AtomicU8::new(WAIT), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let spawn = |index: usize| {
            let (signal, ready) = (&signal, &ready);
            std::thread::Builder::new().name(format!("symlm-peak{index:02}")).spawn_scoped(scope, move || {
                peak::fma_loop(isa, 100_000);
                ready.fetch_add(1, Ordering::AcqRel);
                while signal.load(Ordering::Acquire) == WAIT {
                    std::thread::yield_now();
                }
                let (start, mut done) = (Instant::now(), 0_u64);
                while signal.load(Ordering::Acquire) == GO && start.elapsed() < duration {
                    done += std::hint::black_box(peak::fma_loop(isa, 20_000)).1;
                }
                done as f64 / start.elapsed().as_secs_f64()
            })
        };
        let mut workers = Vec::with_capacity(threads);
        for index in 0..threads {
            match spawn(index) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    // Those that have started must not wait for the others.
                    signal.store(GIVE_UP, Ordering::Release);
                    let reason = crate::error::io_reason(&error);
                    let error = Error::user(format!("cannot start thread {index} of {threads}: {reason}"));
                    return Err(error.hint("use fewer threads"));
                }
            }
        }
        while ready.load(Ordering::Acquire) < threads {
            std::thread::yield_now();
        }
        signal.store(GO, Ordering::Release);
        Ok(workers.into_iter().map(|w| w.join().unwrap_or(0.0)).sum::<f64>() / 1e9)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_at_least_one_processor_and_a_peak() {
        let (count, rule) = available_cpus();
        assert!(count >= 1 && !rule.is_empty());
        assert!(fma_peak(Isa::detect(), 2, 0.02).unwrap() > 0.1);
    }
}
