//! The generators: from nests to kernels, specialized to the shape.
//!
//! A generator is a row of [`TABLE`]; the first row that matches a nest builds it. The generic
//! loop generator is the last row and takes every nest. *Numeric choices* (the order of sums, the
//! number of partial results) depend on the nest alone; *machine choices* (lanes, tiles) may look
//! at the machine and never change a bit.

pub mod contract;
pub mod loops;
mod ordered;
mod pointwise;
pub mod reduce;
mod row_blocks;
pub mod scatter;
pub mod sort;
mod sweep;

use super::ir::Kernel;
use super::nest::Nest;
use crate::base::machine::Machine;

pub struct GenRow {
    pub name: &'static str,
    pub doc: &'static str,
    pub matches: fn(&Nest, &Machine) -> bool,
    pub build: fn(&Nest, &Machine) -> Kernel,
}

/// All generators, the most special first.
pub static TABLE: &[GenRow] = &[
    GenRow {
        name: "contract",
        doc: "Sums of products (matmuls, convolutions): register tiles of rows × columns.",
        matches: contract::matches,
        build: contract::build,
    },
    GenRow {
        name: "row_blocks",
        doc: "Rows with products of matrices (attention): blocks of rows, tiles for the products.",
        matches: row_blocks::matches,
        build: row_blocks::build,
    },
    GenRow {
        name: "loops",
        doc: "Any nest: loops over rows, in them one for each stage; lanes along the last axis.",
        matches: |_, _| true,
        build: loops::build,
    },
];

/// Composites that one fusion group computes whole, by rows that share their outer axes; they
/// are not expanded before fusion.
pub const CLAIMED: &[&str] = &["attention"];

/// The generator for a nest.
pub fn choose(nest: &Nest, machine: &Machine) -> &'static GenRow {
    TABLE
        .iter()
        .find(|row| (row.matches)(nest, machine))
        .expect("the loop generator takes every nest")
}
