//! From a bound graph to a Program: fusion, layout, order, memory.

pub mod check;
mod check_memory;
pub mod lower;
pub mod memory;
mod memory_place;
pub mod program;
