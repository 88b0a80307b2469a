//! Memory shared between tasks.
//!
//! One [`Arena`] is a block of f32 that many tasks read and write in parts. Rust's borrow rules cannot see that the
//! task graph keeps writers and readers of an element apart in time, so the accessors are unsafe. The tasks in `step::work`
//! rely on one rule: **two tasks that touch the same element, one of them writing, are ordered by a chain of dependencies
//! of the graph**, and the executor makes the writes of a task visible to its successors (`pool`). The other users have
//! an arena to themselves: `step::engine` while no task runs, the copy of a checkpoint, a finished model and a session
//! of `generate`. `model::Weights` passes the duty on to its callers.

use super::pages;
use std::ptr::NonNull;
use symlm_kernels::{Mat, MatMut};

/// A block of zero-initialised f32, aligned to a page, in huge pages where the system grants them.
pub struct Arena {
    ptr: NonNull<f32>,
    len: usize,
    bytes: usize,
}

// SAFETY: the arena is plain memory; who touches which element when is the contract of the unsafe accessors.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena of `len` zeros.
    ///
    /// # Errors
    /// `Memory` if the system refuses.
    pub fn new(len: usize) -> crate::Result<Self> {
        let refused = |bytes: usize| {
            crate::Error::memory(format!("cannot allocate {} MB", bytes >> 20)).hint("use a smaller model or batch")
        };
        let bytes = len.max(1).checked_mul(size_of::<f32>()).and_then(|bytes| bytes.checked_next_multiple_of(4096));
        let bytes = bytes.ok_or_else(|| refused(usize::MAX))?;
        let ptr = pages::map(bytes).ok_or_else(|| refused(bytes))?;
        Ok(Self { ptr: ptr.cast(), len, bytes })
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pointer to element `offset`.
    pub fn ptr(&self, offset: usize) -> *mut f32 {
        assert!(offset <= self.len, "element {offset} of {}", self.len);
        // SAFETY: inside the mapping (one past the end at most).
        unsafe { self.ptr.as_ptr().add(offset) }
    }

    /// Elements `offset..offset + len` for reading.
    ///
    /// # Safety
    /// Nobody writes them while the slice lives.
    pub unsafe fn slice(&self, offset: usize, len: usize) -> &[f32] {
        assert!(offset <= self.len && len <= self.len - offset, "elements {offset}+{len} of {}", self.len);
        // SAFETY: in bounds and initialised (new pages are zeros); no writer, by the caller's guarantee.
        unsafe { std::slice::from_raw_parts(self.ptr(offset), len) }
    }

    /// Elements `offset..offset + len` for writing.
    ///
    /// # Safety
    /// Nobody else touches them while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice_mut(&self, offset: usize, len: usize) -> &mut [f32] {
        assert!(offset <= self.len && len <= self.len - offset, "elements {offset}+{len} of {}", self.len);
        // SAFETY: in bounds and initialised; no other access, by the caller's guarantee.
        unsafe { std::slice::from_raw_parts_mut(self.ptr(offset), len) }
    }

    /// A readable matrix.
    ///
    /// # Safety
    /// Nobody writes its elements while the view lives.
    pub unsafe fn mat(&self, offset: usize, rows: usize, cols: usize, stride: usize) -> Mat<'_> {
        self.check(offset, rows, cols, stride);
        // SAFETY: in bounds; no writer, by the caller's guarantee.
        unsafe { Mat::from_raw(self.ptr(offset), rows, cols, stride) }
    }

    /// A writable matrix.
    ///
    /// # Safety
    /// Nobody else touches its elements while the view lives.
    pub unsafe fn mat_mut(&self, offset: usize, rows: usize, cols: usize, stride: usize) -> MatMut<'_> {
        self.check(offset, rows, cols, stride);
        // SAFETY: in bounds; no other access, by the caller's guarantee.
        unsafe { MatMut::from_raw(self.ptr(offset), rows, cols, stride) }
    }

    fn check(&self, offset: usize, rows: usize, cols: usize, stride: usize) {
        let end = offset.saturating_add(symlm_kernels::mat::extent(rows, cols, stride));
        assert!(
            end <= self.len && (cols <= stride || rows <= 1),
            "{rows} x {cols} (stride {stride}) at {offset} of {}",
            self.len
        );
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the pages are ours and no view outlives the arena (their lifetimes).
        unsafe { pages::unmap(self.ptr.cast(), self.bytes) };
    }
}

/// Distance between rows for `cols` columns: an odd number of cache lines, so that a column of rows spreads over the
/// cache sets instead of falling on a few.
pub fn row_stride(cols: usize) -> usize {
    let lines = cols.div_ceil(16);
    (lines + 1 - lines % 2) * 16
}

/// Gives back to the system the memory that the heap of the process holds and nobody uses.
///
/// Preparing a text takes and frees more than training needs beside its arenas, on threads whose heaps would keep it
/// to the end.
pub fn release_free_memory() {
    // SAFETY: touches nothing that is in use, and may be called from any thread.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0)
    };
}
