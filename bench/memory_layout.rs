//! Memory as the engine has it: what is large enough to matter starts on a cache line. Huge pages come from glibc, if it is
//! asked for them with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, as `make bench` does.

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes of a cache line.
const LINE: usize = 64;

struct OnCacheLines;

fn on_lines(layout: Layout) -> Layout {
    if layout.size() < LINE { layout } else { layout.align_to(LINE).unwrap_or(layout) }
}

// SAFETY: every request goes to the system's allocator, with an alignment that depends on the layout alone, so memory
// is given back with the layout that it was taken with.
unsafe impl GlobalAlloc for OnCacheLines {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(on_lines(layout)) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on to the caller.
        unsafe { System.alloc_zeroed(on_lines(layout)) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(memory, on_lines(layout)) }
    }
}

#[global_allocator]
static ALLOCATOR: OnCacheLines = OnCacheLines;
