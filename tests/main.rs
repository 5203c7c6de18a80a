//! The integration tests: one binary, so that they link once.

mod allocations;
#[cfg(all(feature = "cli", feature = "cpu"))]
mod assembly;
mod carry;
#[cfg(feature = "cli")]
mod cli;
mod contractions;
mod examples;
mod fuzz;
mod golden;
#[cfg(feature = "gpu")]
mod gpu;
mod kernel_proofs;
mod layering;
mod maps;
mod memory_plan;
mod open_dims;
mod ops;
mod ops_reference;
mod place;
mod precision;
mod random;
#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
mod random_shapes;
#[cfg(feature = "cpu")]
mod sealed;
#[cfg(feature = "cpu")]
mod session;
#[cfg(feature = "gpu")]
mod shaders;
mod shapes;
mod targets;
#[cfg(feature = "cpu")]
mod tune;
