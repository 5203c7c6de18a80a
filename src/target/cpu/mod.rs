//! Machine code for processors: kernels become functions that share one calling convention.
//!
//! In: kernels of the CPU. Out: [`Code`], functions ready to be called, which unmaps itself when
//! dropped; or text. Two emitters make it: [`x86`] where the machine has AVX2 or AVX-512, else
//! [`clif`], which also takes what the other one cannot. Each kernel is checked, legalized and
//! compiled by itself, in parallel; placed in their order, they give the same code for every number
//! of threads.

#[cfg(feature = "cpu")]
pub mod clif;
#[cfg(feature = "cpu")]
mod compile;
#[cfg(feature = "cpu")]
mod jit;
#[cfg(all(test, feature = "cpu"))]
mod testing;
#[cfg(feature = "cpu")]
pub mod x86;

#[cfg(feature = "cpu")]
pub use compile::{CodegenError, Effort, Options, compile, place, print_assembly, print_clif};
#[cfg(feature = "cpu")]
pub use jit::Code;

/// A compiled kernel: runs the grid points `begin .. end`, counted with axis 0 fastest.
///
/// `buffers` points at one pointer for each parameter; `scratch` at the worker's own scratch, in
/// which the kernel's buffers follow each other, each rounded up to 64 bytes.
pub type KernelFn =
    unsafe extern "C" fn(buffers: *const *mut u8, begin: u64, end: u64, scratch: *mut u8);
