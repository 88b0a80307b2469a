//! The floating-point environment of the contract: round to nearest, gradual underflow, no traps.

/// All exceptions masked, round to nearest, neither flush-to-zero nor denormals-are-zero: the state in which a
/// process starts.
#[cfg(target_arch = "x86_64")]
const CONTRACT: u32 = 0x1F80;
/// Round to nearest without flushing.
#[cfg(target_arch = "aarch64")]
const CONTRACT: u64 = 0;

/// The control register of the calling thread. (The intrinsics for it are deprecated in favour of inline assembly.)
#[cfg(target_arch = "x86_64")]
fn read() -> u32 {
    let mut mxcsr: u32 = 0;
    // SAFETY: stmxcsr writes four writable bytes.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack)) };
    mxcsr
}

/// # Safety
/// `mxcsr` is the value Rust assumes everywhere, or what the thread had before it called into this program.
#[cfg(target_arch = "x86_64")]
unsafe fn write(mxcsr: u32) {
    // SAFETY: ldmxcsr reads four readable bytes; the value is sound by the caller's guarantee.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack)) };
}

#[cfg(target_arch = "aarch64")]
fn read() -> u64 {
    let fpcr: u64;
    // SAFETY: reading the control register changes nothing.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) fpcr, options(nostack)) };
    fpcr
}

/// # Safety
/// `fpcr` is the value Rust assumes everywhere, or what the thread had before it called into this program.
#[cfg(target_arch = "aarch64")]
unsafe fn write(fpcr: u64) {
    // SAFETY: the value is sound by the caller's guarantee.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) fpcr, options(nostack)) };
}

/// Sets the environment of the calling thread. A library loaded into the process may have switched on flush-to-zero,
/// which new threads inherit.
pub fn set_contract_rounding() {
    // SAFETY: the value that Rust assumes everywhere.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    unsafe {
        write(CONTRACT);
    }
}

/// The environment of the contract for as long as the guard lives; then the thread gets its own back. For threads
/// that belong to somebody else.
#[must_use = "the environment is restored when the guard is dropped"]
pub struct ContractRounding {
    #[cfg(target_arch = "x86_64")]
    saved: u32,
    #[cfg(target_arch = "aarch64")]
    saved: u64,
    /// The register belongs to the thread, so the guard stays on it.
    here: std::marker::PhantomData<*const ()>,
}

impl ContractRounding {
    /// Saves the environment of the calling thread and sets that of the contract.
    pub fn enter() -> Self {
        let guard = Self {
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            saved: read(),
            here: std::marker::PhantomData,
        };
        set_contract_rounding();
        guard
    }
}

impl Drop for ContractRounding {
    fn drop(&mut self) {
        // SAFETY: what the thread had before.
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        unsafe {
            write(self.saved);
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_guard_restores_what_it_found() {
        let flush_to_zero = CONTRACT | 1 << 15;
        // The sticky flags in the low six bits depend on what was computed meanwhile.
        let control = || read() & !0x3F;
        let before = control();
        // SAFETY: nothing is computed in this environment, and it is undone below.
        unsafe { write(flush_to_zero) };
        let guard = ContractRounding::enter();
        let inside = control();
        drop(guard);
        let after = control();
        // SAFETY: what the thread had.
        unsafe { write(before) };
        assert_eq!((inside, after), (CONTRACT, flush_to_zero));
    }
}
