//! Rows that fit in one vector: softmax over a few classes, normalization of a few features.
//!
//! In: a nest whose kept stages are pointwise along a row of a few elements, or reductions of such a
//! row. Out: at each grid point one row, each stage in one register, of which some lanes are valid.
//! Orders of sums are those of `reduce`, so the generic loops give the same bits.

use std::collections::BTreeMap;

use super::loops::{Place, resolved_stage};
use super::reduce::Reduction;
use crate::base::DType;
use crate::base::machine::Machine;
use crate::ir::index::Expr;
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::{Emitter, Home};
use crate::kernel::ir::{Buf, Val};
use crate::kernel::nest::Nest;
use crate::kernel::resolve::{Leaf, Resolved};

/// Lanes of the narrowest vector.
const NARROWEST: u16 = 4;

pub struct ShortRows<'a> {
    nest: &'a Nest,
    kept: Vec<(u16, Resolved)>,
    /// Elements of a row.
    extent: u16,
    lanes: u16,
}

impl<'a> ShortRows<'a> {
    /// `None` where the nest is something else, or the machine has no loads of some lanes.
    pub fn of(nest: &'a Nest, machine: &Machine, kept: &[u16]) -> Option<ShortRows<'a>> {
        if machine.vector_bytes <= 16 {
            return None;
        }
        let stages = kept.iter().map(|id| &nest.stages[*id as usize]);
        let long = stages.flat_map(|s| s.axes[nest.shared..].iter().chain(&s.reduce)).max()?;
        let most = machine.vector_bytes as i64 / DType::F32.bytes() as i64;
        let extent = u16::try_from(*long).ok().filter(|n| (2..=most).contains(&(*n as i64)))?;
        let lanes = extent.next_power_of_two().max(NARROWEST);
        let kept: Vec<(u16, Resolved)> =
            kept.iter().map(|id| (*id, resolved_stage(nest, *id))).collect();
        let rows = ShortRows { nest, kept, extent, lanes };
        rows.kept.iter().all(|(id, body)| rows.takes(*id, body)).then_some(rows)
    }

    /// Whether a stage is pointwise along the row, or a reduction of it.
    fn takes(&self, id: u16, body: &Resolved) -> bool {
        let stage = &self.nest.stages[id as usize];
        let own = &stage.axes[self.nest.shared..];
        let fits = match Reduction::of(self.nest, id, body, stage.axes.len()) {
            Some(r) => {
                own.iter().all(|n| *n == 1)
                    && stage.reduce == [self.extent as i64]
                    && r.lanes_along_reduction()
                    && !r.sums_products()
            }
            None => own == [self.extent as i64],
        };
        let axis = self.axis(id);
        let leaf = |l: &Leaf| match l {
            Leaf::Stage { stage, at } => {
                let row = self.nest.stages[*stage as usize].combine.is_none();
                !row || *at == [Expr::axis(axis)]
            }
            Leaf::Guarded { guards, .. } => guards.iter().all(|g| !g.expr.mentions(axis)),
            Leaf::Slot { .. } | Leaf::Axis(_) | Leaf::Const(_) | Leaf::Fn(..) => true,
        };
        fits && stage.dtype.compute() == DType::F32 && body.leaves.iter().all(leaf)
    }

    /// The axis of a stage's body along which the row lies: the last one.
    fn axis(&self, id: u16) -> usize {
        self.nest.stages[id as usize].extents().len() - 1
    }

    /// All stages of the row at a point of the shared axes.
    pub fn emit(&self, b: &mut KernelBuilder, slots: &[Buf], point: &[Val]) {
        let none = BTreeMap::new();
        let mut homes: BTreeMap<u16, Home> = BTreeMap::new();
        for (id, body) in &self.kept {
            let stage = &self.nest.stages[*id as usize];
            let mut coords = point.to_vec();
            coords.resize(self.axis(*id) + 1, b.index(0));
            let vector = (Some(self.axis(*id)), self.lanes);
            let mut e = Emitter::new(self.nest, body, slots, &homes, &none, coords.clone(), vector);
            e.valid = self.extent;
            let mut v = e.value(b, body.root);
            let valid = self.extent;
            let place = Place { nest: self.nest, slots, homes: &homes, decided: &none, valid };
            let home = match Reduction::of(self.nest, *id, body, stage.axes.len()) {
                Some(r) => {
                    v = r.in_vector(b, v, self.extent);
                    coords.truncate(stage.axes.len());
                    place.store_outs(b, *id, v, &coords, None);
                    Home::Register(v)
                }
                None => {
                    place.store_outs(b, *id, v, &coords, vector.0);
                    Home::Here(v)
                }
            };
            homes.insert(*id, home);
        }
    }
}
