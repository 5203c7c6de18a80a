//! The loop axes of a contraction, made of the axes of its nest.
//!
//! Axes of one element are dropped, neighbours that every access walks through in step are merged,
//! and axes that an access sees in groups are cut in two.

use std::ops::Range;

use super::plan::Clip;
use crate::ir::index::{Expr, Term};
use crate::kernel::nest::Nest;
use crate::kernel::resolve::{Leaf, Resolved, resolve};

/// Stages with their bodies.
pub type Bodies = Vec<(u16, Resolved)>;
/// Stages, the slots they are stored to, and where.
pub type Stores = Vec<(u16, u16, Expr)>;

/// Loop axes, and each axis of the reduction's stage as an expression over them.
pub struct Space {
    pub extents: Vec<i64>,
    /// Axes before this one are left alone.
    pub fixed: usize,
    pub rank: usize,
    point: Vec<Expr>,
    /// Reduced axes that were cut in blocks, the last of which is not full: (the axis of blocks,
    /// elements in all).
    ragged: Vec<(usize, i64)>,
}

impl Space {
    pub fn of(nest: &Nest, kept: &[u16], fixed: usize) -> Option<Space> {
        let stage = &nest.stages[kept[0] as usize];
        let all = stage.extents();
        let (mut extents, mut point, mut rank) = (vec![], vec![], 0);
        for (i, &n) in all.iter().enumerate() {
            if n == 1 && i >= fixed {
                point.push(Expr::constant(0));
                continue;
            }
            point.push(Expr::axis(extents.len()));
            extents.push(n);
            rank += (i < stage.axes.len()) as usize;
        }
        let mut space = Space { extents, fixed, rank, point, ragged: vec![] };
        let mut i = fixed;
        while i + 1 < space.extents.len() {
            if i + 1 != space.rank && space.in_step(nest, kept, i) {
                space = space.merged(i);
            } else {
                i += 1;
            }
        }
        while let Some((axis, d)) = space.grouped(nest, kept) {
            space = space.cut(axis, d);
        }
        (space.rank > fixed).then_some(space)
    }

    pub fn resolved(&self, nest: &Nest, kept: &[u16]) -> (Bodies, Stores) {
        let stage = |id: &u16| {
            let own = nest.stages[*id as usize].extents().len();
            let mut into = Resolved::default();
            into.root = resolve(nest, *id, &self.point[..own], &self.extents, &mut into);
            (*id, into)
        };
        let out = |o: &crate::kernel::nest::Out| {
            (o.stage, o.slot, o.at.substitute(&self.point, &self.extents))
        };
        (kept.iter().map(stage).collect(), nest.outs.iter().map(out).collect())
    }

    /// Whether every access walks through axes `i` and `i + 1` as through one.
    fn in_step(&self, nest: &Nest, kept: &[u16], i: usize) -> bool {
        let inner = self.extents[i + 1];
        let (stages, outs) = self.resolved(nest, kept);
        let step = |e: &Expr| match (e.stride(i), e.stride(i + 1)) {
            (Some(a), Some(b)) => a == b * inner,
            _ => !e.mentions(i) && !e.mentions(i + 1),
        };
        let leaf = |l: &Leaf| match l {
            Leaf::Slot { at, .. } => step(at),
            Leaf::Stage { at, .. } => at.iter().all(step),
            Leaf::Axis(e) => step(e),
            Leaf::Guarded { guards, .. } => guards.iter().all(|g| step(&g.expr)),
            Leaf::Const(_) | Leaf::Fn(..) => true,
        };
        outs.iter().all(|(_, _, at)| step(at))
            && stages.iter().all(|(_, r)| r.leaves.iter().all(leaf))
    }

    pub fn merged(&self, i: usize) -> Space {
        let mut extents = self.extents.clone();
        let inner = extents[i + 1];
        extents.splice(i..i + 2, [self.extents[i] * inner]);
        let by: Vec<Expr> = (0..self.extents.len())
            .map(|k| match k {
                k if k < i => Expr::axis(k),
                k if k == i => Expr::axis(i).floor_div(inner, &extents),
                k if k == i + 1 => Expr::axis(i).modulo(inner, &extents),
                k => Expr::axis(k - 1),
            })
            .collect();
        let rank = self.rank - (i + 1 < self.rank) as usize;
        let point = self.point.iter().map(|e| e.substitute(&by, &extents)).collect();
        let moved = |&(axis, n): &(usize, i64)| (axis - (axis > i) as usize, n);
        let ragged = self.ragged.iter().map(moved).collect();
        Space { extents, fixed: self.fixed, rank, point, ragged }
    }

    /// An axis that an access sees in groups of `d` (grouped convolutions, channels in blocks), but
    /// not the columns: tiles of those are cut at blocks anyway.
    fn grouped(&self, nest: &Nest, kept: &[u16]) -> Option<(usize, i64)> {
        let (stages, outs) = self.resolved(nest, kept);
        let columns = columns(&outs, &stages[0].1, self.fixed..self.rank);
        let ats = stages[0].1.leaves.iter().filter_map(|l| match l {
            Leaf::Slot { at, .. } => Some(at),
            Leaf::Stage { .. }
            | Leaf::Axis(_)
            | Leaf::Const(_)
            | Leaf::Fn(..)
            | Leaf::Guarded { .. } => None,
        });
        ats.flat_map(|at| &at.terms).find_map(|(term, _)| {
            let (Term::FloorDiv(inner, d) | Term::Mod(inner, d)) = term else { return None };
            let axis = (self.fixed..self.extents.len())
                .find(|a| Some(*a) != columns && **inner == Expr::axis(*a))
                .filter(|a| self.ragged.iter().all(|(blocks, _)| blocks != a))?;
            let n = self.extents[axis];
            (n % d == 0 || axis >= self.rank && n > *d).then_some((axis, *d))
        })
    }

    /// Axis `i` as two: groups, and `d` elements of each.
    fn cut(&self, i: usize, d: i64) -> Space {
        let mut extents = self.extents.clone();
        let n = self.extents[i];
        extents.splice(i..i + 1, [(n as u64).div_ceil(d as u64) as i64, d]);
        let by: Vec<Expr> = (0..self.extents.len())
            .map(|k| match k {
                k if k < i => Expr::axis(k),
                k if k == i => Expr::axis(i).scale(d).add(&Expr::axis(i + 1)),
                k => Expr::axis(k + 1),
            })
            .collect();
        let point = self.point.iter().map(|e| e.substitute(&by, &extents)).collect();
        let moved = |&(axis, n): &(usize, i64)| (axis + (axis > i) as usize, n);
        let mut ragged: Vec<(usize, i64)> = self.ragged.iter().map(moved).collect();
        if n % d != 0 {
            ragged.push((i, n));
        }
        let rank = self.rank + (i < self.rank) as usize;
        Space { extents, fixed: self.fixed, rank, point, ragged }
    }

    /// The loops over the elements of blocks, where the last block is not full.
    pub fn clips(&self) -> Vec<Clip> {
        let clip = |&(axis, n): &(usize, i64)| Clip {
            axis: axis + 1 - self.rank,
            scale: 1,
            rest: Expr::axis(axis).scale(self.extents[axis + 1]),
            lo: 0,
            hi: n,
        };
        self.ragged.iter().map(clip).collect()
    }
}

/// The axis that is to lie in lanes: along it elements of the result and of an operand follow each
/// other, if only within blocks; else the last one.
pub fn columns(outs: &Stores, body: &Resolved, axes: Range<usize>) -> Option<usize> {
    let at = &outs.first()?.2;
    let last = axes.clone().last()?;
    let read = |axis: usize| {
        body.leaves.iter().any(|l| match l {
            Leaf::Slot { at, .. } => at.mentions(axis) && in_lanes(at, axis),
            Leaf::Stage { .. }
            | Leaf::Axis(_)
            | Leaf::Const(_)
            | Leaf::Fn(..)
            | Leaf::Guarded { .. } => false,
        })
    };
    let fits = |a: &usize| at.mentions(*a) && in_lanes(at, *a) && read(*a);
    Some(axes.rev().find(fits).unwrap_or(last))
}

/// Whether points along an axis have one offset, or offsets that follow each other, if only within
/// blocks.
pub fn in_lanes(at: &Expr, axis: usize) -> bool {
    let inner = |t: &Term| match t {
        Term::Mod(e, _) => **e == Expr::axis(axis),
        Term::Axis(_) | Term::FloorDiv(..) | Term::Dyn { .. } => false,
    };
    matches!(at.stride(axis), Some(0 | 1)) || at.terms.iter().any(|(t, c)| *c == 1 && inner(t))
}
