//! What every level shares: dtypes, dimensions, shapes, tensors, the machine, sources, diagnostics.
//!
//! Nothing here knows what a graph is.

pub mod atomic_file;
pub mod codes;
pub mod diag;
pub mod dim;
pub mod dtype;
pub mod hash;
pub mod machine;
pub mod shape;
pub mod source;
pub mod tensor;
pub mod text;

pub use dim::{Bindings, Dim, Symbol};
pub use dtype::DType;
pub use hash::FastMap;
pub use shape::{Shape, TensorType};
pub use tensor::Tensor;
