//! A kernel as a product of matrices, for targets that have a template for these.
//!
//! `finish(Σ_k left[g, m, k] · right[g, k, n])` for every group `g`, row `m` and column `n`. What is read as an
//! operand and what is made of the sums is said by its parts (`pattern`), as if all three matrices were
//! stored: a template calls them in the place of those loads and stores.
//!
//! Invariant: the kernels' last parameter is a matrix over their grid (innermost coordinate, outer one,
//! group), row-major; operands store each of its elements once, a few that follow each other at each point, and
//! `finish` reads the one at its point. The other parameters are those of the kernel, in its order.

use super::ir::Kernel;

#[derive(Clone, PartialEq, Debug)]
pub struct Product {
    pub groups: u32,
    pub rows: u32,
    pub columns: u32,
    /// Of each sum.
    pub steps: u32,
    pub left: Operand,
    pub right: Operand,
    /// Grid: (column, row, group).
    pub finish: Kernel,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Operand {
    pub kernel: Kernel,
    /// Whether neighbours along the steps lie closer to each other in memory than those along rows or
    /// columns. The grid is (step, row or column, group) then, else (row or column, step, group).
    pub by_steps: bool,
    /// Elements of a point of the grid, along its innermost coordinate.
    pub lanes: u16,
    /// Whether it consists of numbers of f16: elements, zeros, or what was rounded to it.
    pub half: bool,
}
