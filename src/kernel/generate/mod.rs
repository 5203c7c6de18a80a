//! The generators: from nests to kernels, specialized to the shape.
//!
//! A generator is a row of [`TABLE`]; the first row that has a kernel for a nest builds it. The generic
//! loop generator is the last row and takes every nest. *Numeric choices* (the order of sums, the
//! number of partial results) depend on the nest alone; *machine choices* (lanes, tiles) may look
//! at the machine and never change a bit.

mod anchored;
pub mod attention;
pub mod contract;
mod group;
pub mod loops;
mod matrices;
mod ordered;
mod pointwise;
pub mod reduce;
mod row_blocks;
pub mod scatter;
mod short_rows;
pub mod sort;
mod sweep;
pub mod winograd;

use super::ir::Kernel;
use super::nest::Nest;
use super::pattern::Pattern;
use crate::base::machine::Machine;

pub struct GenRow {
    pub name: &'static str,
    pub doc: &'static str,
    /// `None` where the nest is not of its kind.
    pub build: fn(&Nest, &Machine) -> Option<Kernel>,
}

/// All generators, the most special first.
pub static TABLE: &[GenRow] = &[
    GenRow {
        name: "group",
        doc: "Reductions and rows by a workgroup each, where invocations run side by side.",
        build: group::build,
    },
    GenRow {
        name: "contract",
        doc: "Sums of products (matmuls, convolutions): register tiles of rows × columns.",
        build: contract::build,
    },
    GenRow {
        name: "winograd",
        doc: "Convolutions of 3 × 3 in tiles of results, by Winograd's algorithm.",
        build: winograd::build,
    },
    GenRow {
        name: "row_blocks",
        doc: "Rows with products of matrices (attention): blocks of rows, tiles for the products.",
        build: row_blocks::build,
    },
    GenRow {
        name: "loops",
        doc: "Any nest: loops over rows, in them one for each stage; lanes along the last axis.",
        build: |nest, machine| Some(loops::build(nest, machine)),
    },
];

/// Composites that one fusion group computes whole, by rows that share their outer axes; they
/// are not expanded before fusion.
pub const CLAIMED: &[&str] = &["attention"];

/// The kernel of a nest, and the name of the generator that made it.
pub fn build(nest: &Nest, machine: &Machine) -> (Kernel, &'static str) {
    let (mut kernel, name) = TABLE
        .iter()
        .find_map(|row| Some(((row.build)(nest, machine)?, row.name)))
        .expect("the loop generator takes every nest");
    if machine.in_step() {
        kernel.pattern = pattern(nest, machine);
    }
    (kernel, name)
}

/// What a nest computes as a whole, where there may be a template for it.
fn pattern(nest: &Nest, machine: &Machine) -> Option<Pattern> {
    let product = || contract::product(nest, machine).map(|p| Pattern::Product(Box::new(p)));
    let attention = || attention::attention(nest, machine);
    product().or_else(|| attention().map(|a| Pattern::Attention(Box::new(a))))
}
