//! Machine code for processors: kernels become functions that share one calling convention.

#[cfg(feature = "cpu")]
pub mod clif;

/// A compiled kernel: runs the grid points `begin .. end`, counted with axis 0 fastest.
///
/// `buffers` points at one pointer for each parameter; `scratch` at the worker's own scratch, in
/// which the kernel's buffers follow each other, each rounded up to 64 bytes.
pub type KernelFn =
    unsafe extern "C" fn(buffers: *const *mut u8, begin: u64, end: u64, scratch: *mut u8);
