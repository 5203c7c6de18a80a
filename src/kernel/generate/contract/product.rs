//! Contractions as products of matrices, for targets with templates.
//!
//! Axes of the result that only one operand has are its rows or columns, those that both have are
//! groups. The reduced axes are the steps of a sum, in row-major order. So a convolution is the product
//! of its weights and a matrix of windows, which is never stored.

use std::collections::BTreeMap;

use super::super::loops::{declare, store};
use super::plan::kept_stages;
use super::space::{Bodies, Space, Stores};
use crate::base::DType;
use crate::base::machine::Machine;
use crate::ir::scalar::ScalarFn;
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::{Emitter, Home};
use crate::kernel::ir::{Access, Addr, Buf, Kernel, Op, Val};
use crate::kernel::nest::Nest;
use crate::kernel::product::{Operand, Product};
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
    let axes = Axes::of(&space, body, (left, right));
    let [groups, rows, columns, steps] =
        [&axes.groups, &axes.rows, &axes.columns, &axes.steps].map(|a| space.count(a));
    let make = Make { nest, machine, space: &space, stages: &stages, outs: &outs, axes: &axes };
    Some(Product {
        groups: groups?,
        rows: rows?,
        columns: columns?,
        steps: steps?,
        left: make.operand(left, Side::Left),
        right: make.operand(right, Side::Right),
        finish: make.finish(),
    })
}

/// Elements that follow each other that are brought together.
const RUN: u16 = 4;

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

impl Space {
    /// Points of these axes together.
    fn count(&self, axes: &[usize]) -> Option<u32> {
        let product = axes.iter().try_fold(1i64, |n, a| n.checked_mul(self.extents[*a]))?;
        u32::try_from(product).ok()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

struct Make<'a> {
    nest: &'a Nest,
    machine: &'a Machine,
    space: &'a Space,
    stages: &'a Bodies,
    outs: &'a Stores,
    axes: &'a Axes,
}

impl Make<'_> {
    /// The kernel that would store an operand.
    fn operand(&self, leaf: u32, side: Side) -> Operand {
        let (Axes { groups, rows, columns, steps }, body) = (self.axes, &self.stages[0].1);
        let other = if side == Side::Left { rows } else { columns };
        let by_steps = stride(body, leaf, steps) < stride(body, leaf, other);
        let grid = if by_steps { [steps, other, groups] } else { [other, steps, groups] };
        let vector = grid[0].last().copied();
        let runs = |a: usize| self.space.extents[a] % RUN as i64 == 0 && in_a_row(body, leaf, a);
        let lanes = if vector.is_some_and(runs) { RUN } else { 1 };
        let (mut b, slots, matrix) = self.open("operand", grid, (Access::Write, lanes));
        let (coords, place) = self.point(&mut b, grid, lanes);
        let (none, nowhere) = (BTreeMap::new(), BTreeMap::new());
        let along = (vector, lanes);
        let mut e = Emitter::new(self.nest, body, &slots, &none, &nowhere, coords, along);
        let value = e.value(&mut b, leaf);
        // Nothing may depend on the innermost coordinate.
        let value = if b.ty(value).lanes() == 1 { b.splat(value, lanes) } else { value };
        b.store(Addr { buf: matrix, base: place, plus: 0 }, value);
        Operand { kernel: b.finish(), by_steps, lanes, half: is_half(self.nest, body, leaf) }
    }

    /// The kernel that makes results of stored sums.
    fn finish(&self) -> Kernel {
        let Axes { groups, rows, columns, .. } = self.axes;
        let grid = [columns, rows, groups];
        let (mut b, slots, sums) = self.open("finish", grid, (Access::Read, 1));
        let (coords, place) = self.point(&mut b, grid, 1);
        let sum = b.load(Addr { buf: sums, base: place, plus: 0 }, 1);
        let (mut homes, nowhere) = (BTreeMap::new(), BTreeMap::new());
        for (i, (id, body)) in self.stages.iter().enumerate() {
            let at = coords.clone();
            let mut e = Emitter::new(self.nest, body, &slots, &homes, &nowhere, at, (None, 1));
            let v = if i == 0 { sum } else { e.value(&mut b, body.root) };
            for (_, slot, at) in self.outs.iter().filter(|o| o.0 == *id) {
                let base = b.index(0);
                store(&mut b, &mut e, slots[*slot as usize], base, at, v);
            }
            homes.insert(*id, Home::Here(v));
        }
        b.finish()
    }

    /// A kernel with the parameters of the nest and a matrix over these axes, whose grid points have so
    /// many elements along the innermost one.
    fn open(
        &self,
        name: &str,
        axes: [&Vec<usize>; 3],
        (access, lanes): (Access, u16),
    ) -> (KernelBuilder, Vec<Buf>, Buf) {
        let mut b = KernelBuilder::new(name, self.machine.numerics());
        let slots = declare(self.nest, &mut b);
        let [inner, outer, group] =
            axes.map(|axes| self.space.count(axes).expect("counted before"));
        b.set_grid([inner / lanes as u32, outer, group]);
        let elements = [inner, outer, group].iter().map(|n| *n as u64).product();
        let matrix = b.param("matrix", DType::F32, elements, access);
        (b, slots, matrix)
    }

    /// The coordinates along all loop axes (0 along others than those of the grid), and the place of the
    /// grid point's first element in the matrix.
    fn point(&self, b: &mut KernelBuilder, grid: [&Vec<usize>; 3], lanes: u16) -> (Vec<Val>, Val) {
        let mut coords = vec![b.index(0); self.space.extents.len()];
        let (mut place, mut size) = (b.index(0), 1i64);
        for (g, axes) in grid.into_iter().enumerate() {
            // The innermost axis of all is counted in runs.
            let mut run = if g == 0 { lanes as i64 } else { 1 };
            let mut rest = b.grid(g as u8);
            let part = b.times(rest, size * run);
            place = b.add(place, part);
            for (k, &axis) in axes.iter().enumerate().rev() {
                let n = self.space.extents[axis];
                size *= n;
                let extent = b.index(n / run);
                let at = if k == 0 { rest } else { b.op(Op::Rem, &[rest, extent]) };
                coords[axis] = b.times(at, run);
                rest = b.op(Op::Div, &[rest, extent]);
                run = 1;
            }
        }
        (coords, place)
    }
}

/// The leaves that a value is made of.
fn leaves(body: &Resolved, root: u32) -> impl Iterator<Item = &Leaf> {
    let mut open = vec![root];
    std::iter::from_fn(move || {
        let leaf = &body.leaves[open.pop()? as usize];
        match leaf {
            Leaf::Fn(_, args) => open.extend(args),
            Leaf::Guarded { then, els, .. } => open.extend([then, els]),
            Leaf::Slot { .. } | Leaf::Stage { .. } | Leaf::Axis(_) | Leaf::Const(_) => {}
        }
        Some(leaf)
    })
}

fn mentions(body: &Resolved, root: u32, axis: usize) -> bool {
    leaves(body, root).any(|leaf| match leaf {
        Leaf::Slot { at, .. } => at.mentions(axis),
        Leaf::Stage { at, .. } => at.iter().any(|e| e.mentions(axis)),
        Leaf::Axis(e) => e.mentions(axis),
        Leaf::Guarded { guards, .. } => guards.iter().any(|g| g.expr.mentions(axis)),
        Leaf::Const(_) | Leaf::Fn(..) => false,
    })
}

/// Elements from one to the next along the innermost of these axes, at most.
fn stride(body: &Resolved, root: u32, axes: &[usize]) -> i64 {
    let Some(&axis) = axes.last() else { return i64::MAX };
    let of = |leaf: &Leaf| match leaf {
        Leaf::Slot { at, .. } => Some(at.stride(axis).map_or(i64::MAX, i64::abs)),
        Leaf::Stage { .. }
        | Leaf::Axis(_)
        | Leaf::Const(_)
        | Leaf::Fn(..)
        | Leaf::Guarded { .. } => None,
    };
    leaves(body, root).filter_map(of).max().unwrap_or(i64::MAX)
}

/// Whether points along an axis read the same elements, or such as follow each other.
fn in_a_row(body: &Resolved, root: u32, axis: usize) -> bool {
    leaves(body, root).all(|leaf| match leaf {
        Leaf::Slot { at, .. } => matches!(at.stride(axis), Some(0 | 1)),
        Leaf::Axis(e) => !e.mentions(axis),
        Leaf::Guarded { guards, .. } => guards.iter().all(|g| !g.expr.mentions(axis)),
        Leaf::Stage { .. } => false,
        Leaf::Const(_) | Leaf::Fn(..) => true,
    })
}

/// Whether a value is one of f16, converted to f32 or not: an element, zero, or what was rounded to it.
fn is_half(nest: &Nest, body: &Resolved, root: u32) -> bool {
    match &body.leaves[root as usize] {
        Leaf::Slot { slot, .. } => nest.slots[*slot as usize].dtype == DType::F16,
        Leaf::Const(lit) => lit.bits == 0,
        Leaf::Guarded { then, els, .. } => [then, els].iter().all(|v| is_half(nest, body, **v)),
        Leaf::Fn(ScalarFn::Cast(DType::F16), _) => true,
        Leaf::Fn(ScalarFn::Cast(DType::F32), of) => is_half(nest, body, of[0]),
        Leaf::Stage { .. } | Leaf::Axis(_) | Leaf::Fn(..) => false,
    }
}
