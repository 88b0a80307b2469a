//! Cores that this process may use.
//!
//! Machines have fast cores and slow ones. An update waits for its last task, so a thread on a slow core delays all others:
//! only fast ones count. Which thread runs where is left to the system, which keeps those that always compute on fast cores.

#[cfg(target_os = "linux")]
pub(super) use linux::cores;

#[cfg(any(target_os = "linux", test))]
mod linux {
    use std::collections::BTreeMap;

    /// As much of the fastest core's capacity as a fast one has, in parts of 3. Cores that differ only in their clock lie
    /// above 0.8, and slow ones below 0.55 of the fastest.
    const FAST: u64 = 2;

    /// Cores for the threads of `--threads auto`, and the rule that decided.
    #[cfg(target_os = "linux")]
    pub(crate) fn cores() -> (usize, String) {
        let read = |cpu: usize, name: &str| {
            std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/{name}"))
                .ok()
                .map(|text| text.trim().to_owned())
        };
        let found = affinity().into_iter().map(|cpu| {
            // The list of hardware threads of a core is the same text for each of them.
            let core = read(cpu, "topology/thread_siblings_list").unwrap_or_else(|| cpu.to_string());
            (core, read(cpu, "cpu_capacity").and_then(|text| text.parse().ok()))
        });
        count(found)
    }

    /// Of processors by their core and its capacity, which is unknown where all cores are alike.
    pub(super) fn count(processors: impl Iterator<Item = (String, Option<u64>)>) -> (usize, String) {
        let cores: BTreeMap<String, Option<u64>> = processors.collect();
        let most = cores.values().flatten().max().copied().unwrap_or(0);
        let fast = cores.values().filter(|capacity| capacity.is_none_or(|one| 3 * one >= FAST * most)).count().max(1);
        let all = cores.len().max(1);
        let rule = if fast < all {
            format!("{fast} fast cores of {all} in the affinity mask")
        } else {
            format!("{all} physical cores in the affinity mask")
        };
        (fast, rule)
    }

    #[cfg(target_os = "linux")]
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
}

/// Cores for the threads of `--threads auto`, and the rule that decided.
#[cfg(target_vendor = "apple")]
pub(super) fn cores() -> (usize, String) {
    let known = |name, what: &str| number(name).map(|n| (n as usize, format!("{n} {what}")));
    known(c"hw.perflevel0.physicalcpu", "performance cores")
        .or_else(|| known(c"hw.physicalcpu", "physical cores"))
        .unwrap_or((1, "the system does not tell its cores".into()))
}

/// A number that the system has under this name.
#[cfg(target_vendor = "apple")]
pub(super) fn number(name: &std::ffi::CStr) -> Option<u64> {
    let (mut value, mut size) = (0_u64, size_of::<u64>());
    // SAFETY: the call writes at most `size` bytes, of a number of 32 or 64 bits in little-endian order.
    let failed =
        unsafe { libc::sysctlbyname(name.as_ptr(), (&raw mut value).cast(), &raw mut size, std::ptr::null_mut(), 0) };
    (failed == 0 && value > 0).then_some(value)
}

/// Cores for the threads of `--threads auto`, and the rule that decided.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(super) fn cores() -> (usize, String) {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (count, format!("{count} processors of this machine"))
}

#[cfg(test)]
mod tests {
    use super::linux::count;

    fn counted(processors: &[(&str, Option<u64>)]) -> (usize, String) {
        count(processors.iter().map(|(core, capacity)| ((*core).to_owned(), *capacity)))
    }

    #[test]
    fn hardware_threads_share_a_core() {
        let alike = [("0,2", None), ("1,3", None), ("0,2", None), ("1,3", None)];
        assert_eq!(counted(&alike), (2, "2 physical cores in the affinity mask".into()));
    }

    #[test]
    fn slow_cores_do_not_count() {
        let board = [("0", Some(530)), ("1", Some(530)), ("2", Some(1024)), ("3", Some(1024)), ("4", Some(870))];
        assert_eq!(counted(&board), (3, "3 fast cores of 5 in the affinity mask".into()));
        // Where only slow ones are allowed, they are the fastest.
        assert_eq!(counted(&board[..2]).0, 2);
        assert_eq!(counted(&[]).0, 1);
    }
}
