//! Cores that this process may use.
//!
//! Machines have fast cores and slow ones. An update waits for its last task, so a thread on a slow core delays all others:
//! only fast ones count. Which thread runs where is left to the system, which keeps those that always compute on fast cores.

#[cfg(target_os = "linux")]
pub(super) use linux::cores;
#[cfg(windows)]
pub(super) use windows::cores;

/// The cores to use, and the rule that decided.
#[cfg(any(target_os = "linux", windows, test))]
fn told(fast: usize, all: usize) -> (usize, String) {
    let (fast, all) = (fast.max(1), all.max(1));
    let rule = if fast < all {
        format!("{fast} fast cores of {all} in the affinity mask")
    } else {
        format!("{all} physical cores in the affinity mask")
    };
    (fast, rule)
}

#[cfg(any(target_os = "linux", test))]
mod linux {
    use std::collections::BTreeMap;

    /// The fastest core has at most so many times the capacity of a fast one.
    ///
    /// `cpu_capacity` is 1024 for the fastest; others have their share of its Dhrystone score for each MHz, times that of
    /// its clock (the kernel's `Documentation/devicetree/bindings/cpu/cpu-capacity.txt`). Scores in the kernel's device
    /// trees: slow cores 326 (`qcom/sm8550.dtsi`), 485 and 530 (`rockchip/rk3399-base.dtsi`, `rk3588-base.dtsi`), and their
    /// clock is below the fastest's too; the middle ones of `sm8550.dtsi` 693, four beside a single fastest core.
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
        let fast = cores.values().filter(|capacity| capacity.is_none_or(|one| FAST * one >= most)).count();
        super::told(fast, cores.len())
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

#[cfg(any(windows, test))]
mod windows {
    /// Where a SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX of a core has its size, its efficiency class and its processors.
    const SIZE: usize = 4;
    const CLASS: usize = 9;
    const MASK: usize = 32;

    /// Fast cores and all of them, of those that have a processor in `allowed`. The fast ones are of the highest class: "a
    /// core with a higher value has intrinsically greater performance" (Microsoft, PROCESSOR_RELATIONSHIP); where all are
    /// alike it is 0.
    pub(super) fn count(mut records: &[u8], allowed: u64) -> (usize, usize) {
        let mut classes = Vec::new();
        while let Some(size) = records.get(SIZE..).and_then(|from| from.first_chunk()) {
            let Some((record, rest)) = records.split_at_checked(u32::from_le_bytes(*size) as usize) else { break };
            let Some(mask) = record.get(MASK..).and_then(|from| from.first_chunk()) else { break };
            if u64::from_le_bytes(*mask) & allowed != 0 {
                classes.push(record[CLASS]);
            }
            records = rest;
        }
        let most = classes.iter().max().copied().unwrap_or(0);
        (classes.iter().filter(|class| **class == most).count(), classes.len())
    }

    /// Cores for the threads of `--threads auto`, and the rule that decided.
    #[cfg(windows)]
    pub(crate) fn cores() -> (usize, String) {
        match count(&records(), allowed()) {
            (0, _) => {
                let count = std::thread::available_parallelism().map_or(1, usize::from);
                (count, format!("{count} processors of this machine"))
            }
            (fast, all) => super::told(fast, all),
        }
    }

    #[cfg(windows)]
    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn GetCurrentProcess() -> *mut std::ffi::c_void;
        fn GetLogicalProcessorInformationEx(relationship: i32, records: *mut u8, bytes: *mut u32) -> i32;
        fn GetProcessAffinityMask(
            process: *mut std::ffi::c_void,
            process_mask: *mut usize,
            system_mask: *mut usize,
        ) -> i32;
    }

    /// What the system says about its cores; nothing if it does not tell.
    #[cfg(windows)]
    fn records() -> Vec<u8> {
        const RELATION_PROCESSOR_CORE: i32 = 0;
        let mut bytes = 0;
        // SAFETY: without room the call only says how much it needs.
        unsafe { GetLogicalProcessorInformationEx(RELATION_PROCESSOR_CORE, std::ptr::null_mut(), &raw mut bytes) };
        // In words, for their alignment.
        let mut found = vec![0_u64; (bytes as usize).div_ceil(8)];
        let at = found.as_mut_ptr().cast::<u8>();
        // SAFETY: the call writes at most `bytes`.
        if unsafe { GetLogicalProcessorInformationEx(RELATION_PROCESSOR_CORE, at, &raw mut bytes) } == 0 {
            return Vec::new();
        }
        found.iter().flat_map(|word| word.to_le_bytes()).take(bytes as usize).collect()
    }

    /// The processors that this process may use, of each group of 64.
    #[cfg(windows)]
    fn allowed() -> u64 {
        let (mut process, mut system) = (0_usize, 0_usize);
        // SAFETY: the handle stands for this process, and the call fills the two numbers.
        let told = unsafe { GetProcessAffinityMask(GetCurrentProcess(), &raw mut process, &raw mut system) } != 0;
        // A process in several groups gets 0.
        if told && process != 0 { process as u64 } else { u64::MAX }
    }
}

/// Cores for the threads of `--threads auto`, and the rule that decided: of the level that Apple numbers 0, which is the fastest
/// ("Determining system capabilities"; Macs without levels do not know the name).
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
#[cfg(not(any(target_os = "linux", target_vendor = "apple", windows)))]
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
        let board = [("0", Some(397)), ("1", Some(397)), ("2", Some(1024)), ("3", Some(1024)), ("4", Some(870))];
        assert_eq!(counted(&board), (3, "3 fast cores of 5 in the affinity mask".into()));
        // Where only slow ones are allowed, they are the fastest.
        assert_eq!(counted(&board[..2]).0, 2);
        assert_eq!(counted(&[]).0, 1);
    }

    #[test]
    fn middle_cores_count_beside_a_single_fastest_one() {
        let phone = [(0, 204), (1, 204), (2, 204), (3, 608), (4, 608), (5, 608), (6, 608), (7, 1024)];
        let names = phone.map(|(core, capacity)| (core.to_string(), Some(capacity)));
        assert_eq!(count(names.into_iter()).0, 5);
    }

    /// A core as Windows describes it.
    fn record(class: u8, mask: u64) -> Vec<u8> {
        let mut record = vec![0; 48];
        record[4..8].copy_from_slice(&48_u32.to_le_bytes());
        record[9] = class;
        record[30] = 1;
        record[32..40].copy_from_slice(&mask.to_le_bytes());
        record
    }

    #[test]
    fn windows_has_classes_of_cores() {
        let cores = [(1, 0b11), (1, 0b1100), (0, 0b1_0000), (0, 0b10_0000), (0, 0b100_0000)];
        let records: Vec<u8> = cores.iter().flat_map(|&(class, mask)| record(class, mask)).collect();
        assert_eq!(super::windows::count(&records, u64::MAX), (2, 5));
        assert_eq!(super::windows::count(&records, 0b11_0100), (1, 3));
        assert_eq!(super::windows::count(&records, 0b110_0000), (2, 2));
        // What is cut off or damaged does not count.
        assert_eq!(super::windows::count(&records[..70], u64::MAX), (1, 1));
        assert_eq!(super::windows::count(&[0; 64], u64::MAX), (0, 0));
        assert_eq!(super::told(0, 0).0, 1);
    }
}
