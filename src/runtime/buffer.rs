//! Memory that machine code reads and writes: zeroed, aligned to a cache line, at a fixed address.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::RunError;

/// Alignment of every buffer, in bytes.
pub const ALIGN: usize = 64;

/// Owned bytes behind a raw pointer, so that code may write through the same pointer before and
/// after Rust looked at them.
pub(super) struct RawBytes {
    pointer: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes belong to this value alone, and plain bytes may be used from any thread.
unsafe impl Send for RawBytes {}
// SAFETY: through a shared reference the bytes are only read.
unsafe impl Sync for RawBytes {}

impl RawBytes {
    /// `len` zeros; an error where the system has no such amount of memory.
    pub fn zeroed(len: u64, what: &str) -> Result<RawBytes, RunError> {
        let error = || RunError::Memory { what: what.into(), bytes: len };
        let size = usize::try_from(len).map_err(|_| error())?;
        let layout = Layout::from_size_align(size, ALIGN).map_err(|_| error())?;
        if size == 0 {
            // Nothing is read or written at a dangling pointer of the right alignment.
            let pointer = NonNull::without_provenance(
                std::num::NonZeroUsize::new(ALIGN).expect("an alignment is not zero"),
            );
            return Ok(RawBytes { pointer, len: 0 });
        }
        // SAFETY: the size is not zero.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(error)?;
        Ok(RawBytes { pointer, len: size })
    }

    pub fn pointer(&self) -> *mut u8 {
        self.pointer.as_ptr()
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialized bytes lie at the pointer; who holds machine code that writes
        // them holds this value by `&mut` while it runs.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

impl Drop for RawBytes {
    fn drop(&mut self) {
        if self.len > 0 {
            let layout = Layout::from_size_align(self.len, ALIGN).expect("it was allocated so");
            // SAFETY: allocated in `zeroed` with this layout, and freed once.
            unsafe { dealloc(self.pointer.as_ptr(), layout) };
        }
    }
}
