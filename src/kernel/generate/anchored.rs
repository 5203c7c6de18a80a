//! Stages that all live at the same points: reductions and what is made of them on the spot.
//!
//! In: a nest whose kept stages have the same axes. Out: loops over these axes, or the inner ones of
//! them, where the caller stands at a point of the outer ones. Lanes lie along the last axis, or
//! along a reduction over contiguous elements. Short reductions (the windows of pools) are written
//! out. Axes are cut where guards change, so that within a piece every guard is decided; a short
//! row is a few vectors at known places instead, whose lanes outside are masked.

use std::collections::BTreeMap;

use super::loops::{Place, lanes, resolved_stage};
use super::ordered::{cut, ragged};
use super::reduce::Reduction;
use super::sweep::{self, Decided, Pieces, Segment};
use crate::base::DType;
use crate::base::machine::Machine;
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::{Emitter, Home};
use crate::kernel::ir::{Buf, Val};
use crate::kernel::nest::{Nest, Slot};
use crate::kernel::resolve::{Leaf, Resolved};

/// Steps of reductions at one grid point, about.
const WORK: i64 = 1 << 14;
/// Vectors of a short row, at most.
const SHORT: i64 = 4;

pub struct Anchored<'a> {
    nest: &'a Nest,
    machine: &'a Machine,
    slots: &'a [Buf],
    kept: &'a [u16],
    stages: Vec<Stage>,
    axes: &'a [i64],
    /// The axis that lies in lanes.
    vector: Option<usize>,
}

/// One stage: its body, and its reduction's steps where they are written out.
struct Stage {
    body: Resolved,
    steps: Vec<Resolved>,
}

impl<'a> Anchored<'a> {
    pub fn of(nest: &'a Nest, machine: &'a Machine, slots: &'a [Buf], kept: &'a [u16]) -> Self {
        let axes = &nest.stages[kept[0] as usize].axes[..];
        let mut across = false;
        let stage = |s: &u16| {
            let body = resolved_stage(nest, *s);
            let reduction = Reduction::of(nest, *s, &body, axes.len());
            across |=
                reduction.as_ref().is_some_and(|r| r.lanes_along_reduction() || r.scalar_only());
            let steps = reduction.map_or(vec![], |r| r.steps());
            Stage { body, steps }
        };
        let stages = kept.iter().map(stage).collect();
        let vector = axes.len().checked_sub(1).filter(|_| !across && !machine.in_step());
        Anchored { nest, machine, slots, kept, stages, axes, vector }
    }

    /// All bodies that are emitted.
    fn bodies(&self) -> impl Iterator<Item = &Resolved> {
        self.stages.iter().flat_map(|s| match s.steps.is_empty() {
            true => std::slice::from_ref(&s.body),
            false => &s.steps[..],
        })
    }

    /// The axes around the lanes.
    fn around(&self) -> &'a [i64] {
        &self.axes[..self.vector.unwrap_or(self.axes.len())]
    }

    /// The axes that the grid should cover: the others are few steps, or none.
    pub fn grid(&self) -> &'a [i64] {
        let around = self.around();
        let reduced = |s: &u16| self.nest.stages[*s as usize].reduce.iter().product::<i64>();
        let steps = self.kept.iter().map(reduced).max().unwrap_or(1).max(1);
        let work = |g: usize| {
            self.axes[g..].iter().fold(steps, |work, n| work.saturating_mul((*n).max(1)))
        };
        let most = if self.machine.in_step() { 1 } else { WORK };
        let g = (0..around.len()).find(|g| work(*g) <= most).unwrap_or(around.len());
        &around[..g]
    }

    /// Everything at a point of the first axes.
    pub fn emit(&self, b: &mut KernelBuilder, point: &[Val]) {
        let bodies: Vec<&Resolved> = self.bodies().collect();
        Pieces::of(&bodies, self.around())
            .walk(b, point, &mut |b, point, decided| self.place(b, point, decided));
    }

    /// At a point of all axes around the lanes.
    fn place(&self, b: &mut KernelBuilder, point: &[Val], decided: &Decided) {
        let Some(last) = self.vector else {
            return self.at(b, point.to_vec(), (None, 1, u16::MAX), decided);
        };
        let Some(block) = ragged(self.nest, last) else { return self.along(b, point, decided) };
        let (full, rest) = cut(self.nest, last, block);
        let (lo, hi) = (b.index(0), b.index(self.axes[last] / block));
        b.for_loop((lo, hi, 1), &[], |b, i, _| {
            self.over(&full).along(b, &[point, &[i]].concat(), decided);
            vec![]
        });
        self.over(&rest).along(b, point, decided);
    }

    /// The same over a nest with other axes.
    fn over<'n>(&self, nest: &'n Nest) -> Anchored<'n>
    where
        'a: 'n,
    {
        Anchored::of(nest, self.machine, self.slots, self.kept)
    }

    /// All places along the axis that lies in lanes.
    fn along(&self, b: &mut KernelBuilder, point: &[Val], decided: &Decided) {
        let (last, extent) = (point.len(), self.axes[point.len()]);
        let cuts = sweep::segments(self.bodies(), last, extent, sweep::IN_LANES);
        if let Some(lanes) = self.masked(last, extent) {
            for first in (0..extent).step_by(lanes as usize) {
                let valid = (extent - first).min(lanes as i64) as u16;
                let at = [point, &[b.index(first)]].concat();
                self.at(b, at, (Some(last), valid.next_power_of_two(), valid), decided);
            }
            return;
        }
        let wide = self.stages.iter().map(|s| lanes(self.nest, &s.body, last, self.machine)).min();
        let wide = if cuts.is_some() { wide.unwrap_or(1) } else { 1 };
        for cut in cuts.unwrap_or_else(|| Segment::whole(extent)) {
            let mut all = decided.clone();
            all.extend(cut.decided);
            sweep::vectors(b, (cut.lo, cut.hi), wide, &mut |b, i, lanes| {
                self.at(b, [point, &[i]].concat(), (Some(last), lanes, lanes), &all);
            });
        }
    }

    /// Lanes of a vector, where windows slide along a short row of whole words.
    fn masked(&self, last: usize, extent: i64) -> Option<u16> {
        let lanes = self.machine.vector_bytes as i64 / DType::F32.bytes() as i64;
        let float = |slot: &Slot| slot.dtype == DType::F32;
        let written = self.stages.iter().any(|s| !s.steps.is_empty());
        let slides = self.bodies().flat_map(|b| &b.leaves).any(|leaf| match leaf {
            Leaf::Guarded { guards, .. } => guards.iter().any(|g| g.expr.mentions(last)),
            Leaf::Slot { .. }
            | Leaf::Stage { .. }
            | Leaf::Axis(_)
            | Leaf::Const(_)
            | Leaf::Fn(..) => false,
        });
        let fits = extent <= SHORT * lanes && (slides || extent % lanes != 0);
        // Vectors narrower than these are not masked, but put together lane by lane.
        let masks = self.machine.vector_bytes > 16;
        (masks && written && fits && extent > 1 && self.nest.slots.iter().all(float))
            .then_some(lanes as u16)
    }

    /// All stages at one place, each stored where it belongs; `valid` of its lanes are.
    fn at(
        &self,
        b: &mut KernelBuilder,
        coords: Vec<Val>,
        (vector, lanes, valid): (Option<usize>, u16, u16),
        decided: &Decided,
    ) {
        let (nest, slots, wide) = (self.nest, self.slots, (vector, lanes));
        let mut homes: BTreeMap<u16, Home> = BTreeMap::new();
        for (id, Stage { body, steps }) in self.kept.iter().zip(&self.stages) {
            let site = Place { nest, slots, homes: &homes, decided, valid };
            let at = coords.clone();
            let v = match Reduction::of(nest, *id, body, coords.len()) {
                Some(r) => r.written(steps, valid).emit(b, slots, &homes, decided, at, wide),
                None => {
                    let mut e = Emitter::new(nest, body, slots, &homes, decided, at, wide);
                    e.valid = valid.min(lanes);
                    e.value(b, body.root)
                }
            };
            site.store_outs(b, *id, v, &coords, vector);
            homes.insert(*id, Home::Here(v));
        }
    }
}
