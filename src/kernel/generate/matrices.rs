//! Kernels over matrices that exist nowhere: the parts of what templates compute.
//!
//! A part has the parameters of its nest and then matrices over its grid, row-major: (innermost
//! coordinate, outer one, group), each over some loop axes of a body. At each point it reads or writes its own
//! element of them; operands write a few that follow each other.

use std::collections::{BTreeMap, BTreeSet};

use super::loops::declare;
use crate::base::DType;
use crate::base::machine::Machine;
use crate::ir::scalar::ScalarFn;
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::{Emitter, Home};
use crate::kernel::ir::{Access, Addr, Buf, Op, Val};
use crate::kernel::nest::Nest;
use crate::kernel::product::Operand;
use crate::kernel::resolve::{Leaf, Resolved};

/// Elements that follow each other that are brought together.
const RUN: u16 = 4;

/// Loop axes of a grid: the innermost coordinate, the outer one, the group.
pub type Grid<'a> = [&'a [usize]; 3];

/// The loop axes that bodies are over.
pub struct Matrices<'a> {
    pub nest: &'a Nest,
    pub machine: &'a Machine,
    pub extents: &'a [i64],
}

/// A part that is being built.
pub struct Part<'a> {
    pub b: KernelBuilder,
    pub slots: Vec<Buf>,
    pub matrices: Vec<Buf>,
    /// Along all loop axes; 0 along others than those of the grid.
    coords: Vec<Val>,
    /// Of the grid point's first element in each matrix.
    place: Val,
    nest: &'a Nest,
    /// The axis along which a point has more than one element, and how many.
    along: (Option<usize>, u16),
}

impl<'a> Matrices<'a> {
    /// Points of these axes together.
    pub fn count(&self, axes: &[usize]) -> Option<u32> {
        let product = axes.iter().try_fold(1i64, |n, a| n.checked_mul(self.extents[*a]))?;
        u32::try_from(product).ok()
    }

    /// The kernel that would store an operand, of which a value in a body is an element.
    pub fn operand(&self, (body, leaf): (&Resolved, u32), [steps, other, groups]: Grid) -> Operand {
        let by_steps = stride(body, leaf, steps) < stride(body, leaf, other);
        let grid = if by_steps { [steps, other, groups] } else { [other, steps, groups] };
        let vector = grid[0].last().copied();
        let runs = |a: usize| self.extents[a] % RUN as i64 == 0 && in_a_row(body, leaf, a);
        let lanes = if vector.is_some_and(runs) { RUN } else { 1 };
        let mut part = self.part("operand", grid, lanes, &[("matrix", Access::Write)]);
        let value = part.emitter(body, &BTreeMap::new(), |e, b| e.value(b, leaf));
        // Nothing may depend on the innermost coordinate.
        let value = if part.b.ty(value).lanes() == 1 { part.b.splat(value, lanes) } else { value };
        part.write(0, value);
        let half = is_half(self.nest, body, leaf);
        Operand { kernel: part.b.finish(), by_steps, lanes, half }
    }

    /// A part with these matrices, whose grid points have so many elements along the innermost axis.
    pub fn part(
        &self,
        name: &str,
        grid: Grid,
        lanes: u16,
        matrices: &[(&str, Access)],
    ) -> Part<'a> {
        let mut b = KernelBuilder::new(name, self.machine.numerics());
        let slots = declare(self.nest, &mut b);
        let [inner, outer, group] = grid.map(|axes| self.count(axes).expect("counted before"));
        b.set_grid([inner / lanes as u32, outer, group]);
        let elements = [inner, outer, group].iter().map(|n| *n as u64).product();
        let declare =
            |(name, access): &(&str, Access)| b.param(name, DType::F32, elements, *access);
        let matrices = matrices.iter().map(declare).collect();
        let (coords, place) = self.point(&mut b, grid, lanes);
        let along = (grid[0].last().copied(), lanes);
        Part { b, slots, matrices, coords, place, nest: self.nest, along }
    }

    /// The coordinates and the place of a grid point.
    fn point(&self, b: &mut KernelBuilder, grid: Grid, lanes: u16) -> (Vec<Val>, Val) {
        let mut coords = vec![b.index(0); self.extents.len()];
        let (mut place, mut size) = (b.index(0), 1i64);
        for (g, axes) in grid.into_iter().enumerate() {
            // The innermost axis of all is counted in runs.
            let mut run = if g == 0 { lanes as i64 } else { 1 };
            let mut rest = b.grid(g as u8);
            let part = b.times(rest, size * run);
            place = b.add(place, part);
            for (k, &axis) in axes.iter().enumerate().rev() {
                let n = self.extents[axis];
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

impl Part<'_> {
    /// Emits at the grid point, with kept stages at hand.
    pub fn emitter<T>(
        &mut self,
        body: &Resolved,
        homes: &BTreeMap<u16, Home>,
        emit: impl FnOnce(&mut Emitter, &mut KernelBuilder) -> T,
    ) -> T {
        let (nowhere, coords) = (BTreeMap::new(), self.coords.clone());
        let mut e = Emitter::new(self.nest, body, &self.slots, homes, &nowhere, coords, self.along);
        emit(&mut e, &mut self.b)
    }

    /// The grid point's element of a matrix.
    pub fn read(&mut self, matrix: usize) -> Val {
        let at = Addr { buf: self.matrices[matrix], base: self.place, plus: 0 };
        self.b.load(at, 1)
    }

    pub fn write(&mut self, matrix: usize, v: Val) {
        let at = Addr { buf: self.matrices[matrix], base: self.place, plus: 0 };
        self.b.store(at, v);
    }
}

/// The leaves that a value is made of, each once.
pub fn leaves(body: &Resolved, root: u32) -> impl Iterator<Item = &Leaf> {
    let (mut open, mut seen) = (vec![root], BTreeSet::from([root]));
    std::iter::from_fn(move || {
        let leaf = &body.leaves[open.pop()? as usize];
        let parts = match leaf {
            Leaf::Fn(_, args) => args.clone(),
            Leaf::Guarded { then, els, .. } => vec![*then, *els],
            Leaf::Slot { .. } | Leaf::Stage { .. } | Leaf::Axis(_) | Leaf::Const(_) => vec![],
        };
        open.extend(parts.into_iter().filter(|p| seen.insert(*p)));
        Some(leaf)
    })
}

/// Whether a value depends on an axis.
pub fn mentions(body: &Resolved, root: u32, axis: usize) -> bool {
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
