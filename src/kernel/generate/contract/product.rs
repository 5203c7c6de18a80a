//! Contractions as products of matrices, for targets with templates.
//!
//! Axes of the result that only one operand has are its rows or columns, those that both have are
//! groups. The reduced axes are the steps of a sum, in row-major order. So a convolution is the product
//! of its weights and a matrix of windows, which is never stored.

use std::collections::BTreeMap;

use super::super::loops::store;
use super::super::matrices::{Matrices, mentions};
use super::plan::kept_stages;
use super::space::{Bodies, Space, Stores};
use crate::base::DType;
use crate::base::machine::Machine;
use crate::ir::scalar::ScalarFn;
use crate::kernel::emit::Home;
use crate::kernel::ir::{Access, Kernel};
use crate::kernel::nest::Nest;
use crate::kernel::product::Product;
use crate::kernel::resolve::{Leaf, Resolved};

/// The product that a nest computes. `None` where its reduction is no sum of products in f32, or does not
/// run over whole axes.
pub fn product(nest: &Nest, machine: &Machine) -> Option<Product> {
    let kept = kept_stages(nest)?;
    let space = Space::of(nest, &kept, 0)?;
    let (stages, outs) = space.resolved(nest, &kept);
    let of_f32 = nest.stages[kept[0] as usize].dtype.compute() == DType::F32;
    let body = &stages[0].1;
    let Leaf::Fn(ScalarFn::Mul, args) = &body.leaves[body.root as usize] else { return None };
    if !of_f32 || !space.clips().is_empty() {
        return None;
    }
    // Results follow each other along the columns, so that the right operand has them.
    let along =
        outs.first().and_then(|(_, _, at)| (0..space.rank).find(|a| at.stride(*a) == Some(1)));
    let flipped = along.is_some_and(|a| mentions(body, args[0], a) && !mentions(body, args[1], a));
    let (left, right) = if flipped { (args[1], args[0]) } else { (args[0], args[1]) };
    let Axes { groups, rows, columns, steps } = &Axes::of(&space, body, (left, right));
    let matrices = Matrices { nest, machine, extents: &space.extents };
    Some(Product {
        groups: matrices.count(groups)?,
        rows: matrices.count(rows)?,
        columns: matrices.count(columns)?,
        steps: matrices.count(steps)?,
        left: matrices.operand((body, left), [steps, rows, groups]),
        right: matrices.operand((body, right), [steps, columns, groups]),
        finish: finish(&matrices, [columns, rows, groups], &stages, &outs),
    })
}

/// The loop axes of a contraction by what they are in a product.
struct Axes {
    groups: Vec<usize>,
    rows: Vec<usize>,
    columns: Vec<usize>,
    steps: Vec<usize>,
}

impl Axes {
    fn of(space: &Space, body: &Resolved, (left, right): (u32, u32)) -> Axes {
        let (mut groups, mut rows, mut columns) = (vec![], vec![], vec![]);
        for axis in 0..space.rank {
            match (mentions(body, left, axis), mentions(body, right, axis)) {
                (true, false) => rows.push(axis),
                (false, true) => columns.push(axis),
                (true, true) | (false, false) => groups.push(axis),
            }
        }
        Axes { groups, rows, columns, steps: (space.rank..space.extents.len()).collect() }
    }
}

/// The kernel that makes results of stored sums.
fn finish(matrices: &Matrices, grid: [&[usize]; 3], stages: &Bodies, outs: &Stores) -> Kernel {
    let mut part = matrices.part("finish", grid, 1, &[("sums", Access::Read)]);
    let (sum, slots) = (part.read(0), part.slots.clone());
    let mut homes = BTreeMap::new();
    for (i, (id, body)) in stages.iter().enumerate() {
        let v = part.emitter(body, &homes, |e, b| {
            let v = if i == 0 { sum } else { e.value(b, body.root) };
            for (_, slot, at) in outs.iter().filter(|o| o.0 == *id) {
                let base = b.index(0);
                store(b, e, slots[*slot as usize], base, at, v);
            }
            v
        });
        homes.insert(*id, Home::Here(v));
    }
    part.b.finish()
}
