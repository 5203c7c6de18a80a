//! Nests and kernels: what one fusion group computes, and how.

pub mod build;
pub mod ir;
