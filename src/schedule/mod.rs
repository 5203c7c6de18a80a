//! From a bound graph to a Program: fusion, layout, order, memory.

pub mod program;
