//! From a bound graph to a Program: placement, fusion, layout, order, memory.

#[cfg(test)]
mod attention_tests;
pub mod build;
pub mod check;
mod check_memory;
pub mod consts;
#[cfg(test)]
mod contract_tests;
pub mod fusion;
pub mod kernels;
pub mod layout;
mod liveness;
pub mod lower;
pub mod memory;
mod memory_place;
mod memory_search;
pub mod order;
pub mod place;
pub mod program;
pub mod proof;
mod rules;
pub mod trace;
