//! Nests and kernels: what one fusion group computes, and how.

pub mod build;
pub mod eval;
pub mod ir;
pub mod types;
