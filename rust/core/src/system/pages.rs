//! Whole pages of zeros from the system.

use std::ptr::NonNull;

/// Blocks below this size stay in ordinary pages.
#[cfg(target_os = "linux")]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// `bytes` zeros at the start of a page, in huge pages where the system grants them; memory is taken when it is first
/// touched. `None` if the system refuses.
#[cfg(unix)]
pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: an anonymous private mapping touches no existing memory; a size of 0 is refused.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    let pages = NonNull::new(at.cast::<u8>()).filter(|_| at != libc::MAP_FAILED)?;
    #[cfg(target_os = "linux")]
    if bytes >= HUGE_PAGE_BYTES {
        // Advice only: a refusal costs speed, nothing else.
        // SAFETY: the mapping was just made and is ours.
        unsafe { libc::madvise(at, bytes, libc::MADV_HUGEPAGE) };
    }
    Some(pages)
}

/// # Safety
/// The pages are from [`map`] with the same size, and nobody uses them any more.
#[cfg(unix)]
pub(super) unsafe fn unmap(pages: NonNull<u8>, bytes: usize) {
    // SAFETY: passed on to the caller.
    unsafe { libc::munmap(pages.as_ptr().cast(), bytes) };
}

/// Where there is no `mmap`, from the heap of the process, which takes so much at once from the system.
#[cfg(not(unix))]
fn layout(bytes: usize) -> Option<std::alloc::Layout> {
    std::alloc::Layout::from_size_align(bytes, 4096).ok().filter(|layout| layout.size() > 0)
}

/// `bytes` zeros at the start of a page. `None` if the system refuses.
#[cfg(not(unix))]
pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: the size is not 0.
    layout(bytes).and_then(|layout| NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }))
}

/// # Safety
/// The pages are from [`map`] with the same size, and nobody uses them any more.
#[cfg(not(unix))]
pub(super) unsafe fn unmap(pages: NonNull<u8>, bytes: usize) {
    if let Some(layout) = layout(bytes) {
        // SAFETY: passed on to the caller.
        unsafe { std::alloc::dealloc(pages.as_ptr(), layout) };
    }
}
