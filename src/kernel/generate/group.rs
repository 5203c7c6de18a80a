//! Rows across a workgroup, on machines whose invocations run side by side.
//!
//! In: a nest with reductions. Out: a kernel whose grid points are rows, each computed by all invocations of
//! a workgroup together: reductions are partial results of the invocations, folded across the
//! workgroup; what a row keeps for its later stages lies in memory that the workgroup shares.
//!
//! - *Rows*: reductions along elements that follow each other. The invocations take them in turns, so that
//!   neighbours read neighbours.
//! - *Columns*: reductions across them. Invocations lie along the last axis of the result too, 8 to 32 side
//!   by side, and the others take turns along the reduction.
//!
//! Numeric rule: element `i` of a reduction is in partial result `i mod n`; the number of partial results
//! follows from the nest alone. They are folded by a halving tree.

use std::collections::BTreeMap;

use super::contract;
use super::loops::{Place, declare, grid_point, reads, resolved_stage};
use super::ordered::ordered;
use super::reduce::Reduction;
use crate::base::DType;
use crate::base::machine::Machine;
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::Home;
use crate::kernel::ir::{Addr, Buf, Kernel, Op, Val};
use crate::kernel::nest::{Keep, Nest, Stage};
use crate::kernel::resolve::{Leaf, Resolved};

/// Steps of a reduction, or elements of a row, that are worth a workgroup.
const LEAST: i64 = 32;
/// Invocations along a row.
const ALONG: (i64, i64) = (32, 256);
/// Elements of a row for each invocation, where there are enough.
const EACH: i64 = 4;
/// Invocations side by side where rows are columns: as many neighbours are read together. The fewer are
/// taken, the more workgroups there are.
const ACROSS: (i64, i64) = (8, 32);
const GROUPS: i64 = 512;
/// Invocations along a column, at least.
const DOWN: i64 = 8;
/// Results from which one invocation for each keeps a device busy.
const BUSY: i64 = 1 << 16;
/// Bytes of shared memory for what a row keeps: every adapter has 16 KiB, and folds need some of it.
const ROOM: i64 = 12 << 10;
/// Rows and columns from which a product of matrices is computed in tiles.
const TILES: u32 = 8;

/// `None` where single invocations do as well.
pub fn build(nest: &Nest, machine: &Machine) -> Option<Kernel> {
    if !machine.in_step() || in_tiles(nest, machine) {
        return None;
    }
    let kept = kept(nest);
    let axes = &nest.stages[*kept.first()? as usize].axes;
    let same = kept.iter().all(|s| nest.stages[*s as usize].axes == *axes);
    if same && (kept.len() == 1 || nest.shared == axes.len()) {
        let nest = ordered(nest).unwrap_or_else(|| nest.clone());
        let shared = nest.stages[kept[0] as usize].axes.len();
        return Group::of(&nest, shared)?.kernel(&nest, machine);
    }
    let nest = fitting(nest)?;
    Group::of(&nest, nest.shared)?.kernel(&nest, machine)
}

fn kept(nest: &Nest) -> Vec<u16> {
    let kept = |s: &u16| nest.stages[*s as usize].keep != Keep::Inline;
    (0..nest.stages.len() as u16).filter(kept).collect()
}

/// Elements of a stage at a point of the shared axes.
fn own(nest: &Nest, id: u16) -> i64 {
    nest.stages[id as usize].axes[nest.shared..].iter().product()
}

/// Whether a row keeps what a stage computes in memory.
fn in_memory(nest: &Nest, id: u16) -> bool {
    own(nest, id) > 1 && nest.stages[id as usize + 1..].iter().any(|s| reads(s, id))
}

/// The nest with no more in memory than there is room for: what a long row would keep is computed where it is
/// read instead. `None` where that is a reduction or a result.
fn fitting(nest: &Nest) -> Option<Nest> {
    let mut nest = nest.clone();
    loop {
        let kept = kept(&nest).into_iter().filter(|s| in_memory(&nest, *s));
        let bytes = |s: u16| own(&nest, s) * nest.stages[s as usize].dtype.compute().bytes() as i64;
        let sizes: Vec<(i64, u16)> = kept.map(|s| (bytes(s), s)).collect();
        if sizes.iter().map(|(bytes, _)| bytes).sum::<i64>() <= ROOM {
            return Some(nest);
        }
        let (_, largest) = *sizes.iter().max()?;
        let stage = &mut nest.stages[largest as usize];
        if stage.keep != Keep::Row || stage.combine.is_some() {
            return None;
        }
        stage.keep = Keep::Inline;
    }
}

/// Whether a template does better: a product of matrices that are not just a few rows.
fn in_tiles(nest: &Nest, machine: &Machine) -> bool {
    let product = || contract::product(nest, machine);
    contract::is_contraction(nest)
        && product().is_none_or(|p| p.rows.min(p.columns) >= TILES || p.groups as i64 >= BUSY)
}

/// How a nest is shared out.
struct Group {
    kept: Vec<u16>,
    /// Axes that the stages have in common.
    shared: usize,
    /// Invocations side by side along the last of them, and those that share a row.
    local: (i64, i64),
}

impl Group {
    fn of(nest: &Nest, shared: usize) -> Option<Group> {
        let kept = kept(nest);
        let stages = || kept.iter().map(|s| &nest.stages[*s as usize]);
        let own = |s: &Stage| s.axes[shared..].iter().product::<i64>();
        let steps = |s: &Stage| s.reduce.iter().product::<i64>();
        let sizes = stages().all(|s| s.extents().iter().all(|n| *n > 0) && s.tile.is_none());
        let folds = || stages().filter(|s| own(s) == 1 && s.combine.is_some());
        // Masks are folded as such, but compared as bytes.
        let element = |s: &Stage| nest.dtype(&s.body, s.body.0.len() as u16 - 1).compute();
        let held = |s: &Stage| {
            element(s).bytes() >= 4 || (s.dtype == DType::Bool && element(s) == DType::Bool)
        };
        let bodies: Vec<(u16, Resolved)> =
            kept.iter().map(|s| (*s, resolved_stage(nest, *s))).collect();
        if !sizes || !folds().all(held) || bodies.iter().any(|(s, body)| padded(nest, *s, body)) {
            return None;
        }
        let work = stages().map(|s| if own(s) == 1 { steps(s) } else { own(s) }).max()?;
        let alone = stages().all(|s| s.combine.is_none());
        if work < LEAST || alone {
            return None;
        }
        let axes = &stages().next()?.axes[..shared];
        let along = (work as u64 / EACH as u64).next_power_of_two() as i64;
        let columns = stages().all(|s| s.axes.len() == shared)
            && bodies.iter().all(|(s, body)| !follows(nest, *s, body, shared));
        let points = axes.iter().product::<i64>();
        let local = match columns {
            true if points >= BUSY => return None,
            true => {
                let fits = |n: &i64| *n == 1 || points / n >= GROUPS || *n <= ACROSS.0;
                let most = axes.last().map_or(1, |n| 1 << n.min(&ACROSS.1).ilog2());
                let across = (0..6).map(|k| most >> k).find(fits).unwrap_or(1);
                (across, along.clamp(DOWN, ALONG.1 / across))
            }
            false => (1, along.clamp(ALONG.0, ALONG.1)),
        };
        Some(Group { kept, shared, local })
    }

    fn kernel(self, nest: &Nest, machine: &Machine) -> Option<Kernel> {
        let mut b = KernelBuilder::new(&nest.name, machine.numerics());
        let slots = declare(nest, &mut b);
        let mut axes = nest.stages[*self.kept.first()? as usize].axes[..self.shared].to_vec();
        let (across, along) = self.local;
        b.set_local([across as u32, along as u32, 1]);
        let extent = axes.last().copied().unwrap_or(1);
        if let Some(last) = axes.last_mut() {
            *last = (*last + across - 1) / across;
        }
        let mut point = grid_point(&mut b, &axes);
        let turn = b.local(1);
        let zero = b.index(0);
        // Whether an invocation stores what all of its row have; those beyond the last column do not.
        let mut stores = b.op(Op::Eq, &[turn, zero]);
        if let Some(last) = point.last_mut().filter(|_| across > 1) {
            let (first, x) = (b.times(*last, across), b.local(0));
            let (at, end) = (b.add(first, x), b.index(extent - 1));
            if extent % across != 0 {
                let inside = b.op(Op::Le, &[at, end]);
                stores = b.op(Op::And, &[stores, inside]);
            }
            *last = b.op(Op::Min, &[at, end]);
        }
        let mut row =
            Row { group: &self, nest, slots, point, turn, stores, homes: BTreeMap::new() };
        for id in &self.kept {
            row.stage(&mut b, *id);
        }
        Some(b.finish())
    }
}

/// Whether a stage reduces windows with padding along several axes: their guards hold for nested loops, not for
/// turns over all steps.
fn padded(nest: &Nest, id: u16, body: &Resolved) -> bool {
    let stage = &nest.stages[id as usize];
    let reduced = stage.axes.len()..stage.extents().len();
    let mentioned = |leaf: &Leaf| match leaf {
        Leaf::Guarded { guards, .. } => {
            guards.iter().any(|g| reduced.clone().any(|axis| g.expr.mentions(axis)))
        }
        Leaf::Slot { .. } | Leaf::Stage { .. } | Leaf::Axis(_) | Leaf::Const(_) | Leaf::Fn(..) => {
            false
        }
    };
    stage.reduce.len() > 1 && body.leaves.iter().any(mentioned)
}

/// Whether a stage reduces elements that follow each other in memory, or none that lie side by side: as the
/// largest of its operands has it.
fn follows(nest: &Nest, id: u16, body: &Resolved, rank: usize) -> bool {
    let stage = &nest.stages[id as usize];
    let Some(step) = stage.reduce.iter().rposition(|n| *n > 1) else { return false };
    let operand = |leaf: &Leaf| match leaf {
        Leaf::Slot { slot, at } => {
            let strides = (at.stride(rank + step), rank.checked_sub(1).and_then(|a| at.stride(a)));
            Some((nest.slots[*slot as usize].numel(), strides))
        }
        Leaf::Stage { .. }
        | Leaf::Axis(_)
        | Leaf::Const(_)
        | Leaf::Fn(..)
        | Leaf::Guarded { .. } => None,
    };
    let largest = body.leaves.iter().filter_map(operand).max_by_key(|(size, _)| *size);
    largest.is_none_or(|(_, (step, side))| step == Some(1) || side != Some(1))
}

/// The stages at a row.
struct Row<'a> {
    group: &'a Group,
    nest: &'a Nest,
    slots: Vec<Buf>,
    point: Vec<Val>,
    /// The invocation's place among those that share the row.
    turn: Val,
    stores: Val,
    homes: BTreeMap<u16, Home>,
}

impl Row<'_> {
    fn stage(&mut self, b: &mut KernelBuilder, id: u16) {
        let stage = &self.nest.stages[id as usize];
        let own = &stage.axes[self.group.shared..];
        match own.iter().product() {
            1 => self.single(b, id, own.len()),
            size => self.spread(b, id, own, size),
        }
    }

    /// One value, which all invocations of the row get.
    fn single(&mut self, b: &mut KernelBuilder, id: u16, own: usize) {
        let resolved = resolved_stage(self.nest, id);
        let mut coords = self.point.clone();
        coords.resize(coords.len() + own, b.index(0));
        let none = BTreeMap::new();
        let (slots, nest, homes) = (&self.slots, self.nest, &self.homes);
        let place = Place { nest, slots, homes, decided: &none, valid: u16::MAX };
        let reduction = Reduction::of(nest, id, &resolved, coords.len());
        let v = match reduction {
            Some(r) => r.in_turns(b, slots, homes, coords.clone(), (self.turn, self.group.local.1)),
            None => place.value(b, id, &resolved, coords.clone(), (None, 1)),
        };
        if nest.outs.iter().any(|o| o.stage == id) {
            let store = |b: &mut KernelBuilder| {
                place.store_outs(b, id, v, &coords, None);
                vec![]
            };
            if !nest.inplace.is_empty() {
                // All of them may have read what is now written over.
                b.barrier();
            }
            b.if_else(self.stores, store, |_| vec![]);
        }
        self.homes.insert(id, Home::Register(v));
    }

    /// A value for each point of its own axes: the invocations take turns.
    fn spread(&mut self, b: &mut KernelBuilder, id: u16, own: &[i64], size: i64) {
        let resolved = resolved_stage(self.nest, id);
        let dtype = self.nest.stages[id as usize].dtype.compute();
        let memory = in_memory(self.nest, id).then(|| b.shared(dtype, size as u64));
        let none = BTreeMap::new();
        let (slots, nest, homes) = (&self.slots, self.nest, &self.homes);
        let place = Place { nest, slots, homes, decided: &none, valid: u16::MAX };
        let end = b.index(size);
        b.for_loop((self.turn, end, self.group.local.1), &[], |b, i, _| {
            let coords = [&self.point[..], &unflatten(b, i, own)].concat();
            let v = place.value(b, id, &resolved, coords.clone(), (None, 1));
            place.store_outs(b, id, v, &coords, None);
            if let Some(buf) = memory {
                b.store(Addr { buf, base: i, plus: 0 }, v);
            }
            vec![]
        });
        // Also where the next stage reads what this one's results may lie in.
        b.barrier();
        if let Some(buf) = memory {
            let extents = own.iter().map(|n| *n as usize).collect();
            let base = b.index(0);
            self.homes.insert(id, Home::Memory { buf, base, extents });
        }
    }
}

/// The coordinates of a place in row-major order.
pub fn unflatten(b: &mut KernelBuilder, at: Val, extents: &[i64]) -> Vec<Val> {
    let mut coords = vec![at; extents.len()];
    let mut rest = at;
    for (k, n) in extents.iter().enumerate().skip(1).rev() {
        let n = b.index(*n);
        coords[k] = b.op(Op::Rem, &[rest, n]);
        rest = b.op(Op::Div, &[rest, n]);
    }
    if let Some(first) = coords.first_mut() {
        *first = rest;
    }
    coords
}
