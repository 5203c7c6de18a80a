//! Nests and kernels: what one fusion group computes, and how.

pub mod attention;
pub mod build;
pub mod emit;
pub mod eval;
pub mod generate;
pub mod ir;
pub mod legalize;
pub mod math;
pub mod nest;
pub mod parse;
pub mod pattern;
pub mod print;
pub mod product;
pub mod random;
pub mod range;
mod rebuild;
pub mod resolve;
pub mod scalar_fn;
pub mod simplify;
pub mod types;
pub mod verify;
