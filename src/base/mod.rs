//! What every level shares: dtypes, dimensions, shapes, tensors, the machine, sources and diagnostics.
//!
//! Nothing here knows what a graph is.

pub mod diag;
pub mod dtype;
pub mod source;
