//! The generic generator: takes every nest.
//!
//! Pointwise nests (nothing reduced) go to `pointwise`, and those whose stages all live at the same
//! points to `anchored`, rows of a few elements to `short_rows`. In all others a grid point is one point of the shared axes; each stage that is kept has its own loops, in stage order, over its own axes.
//! The last own axis lies in lanes; a reduction along contiguous elements lies in lanes itself.

use std::collections::BTreeMap;

use super::anchored::Anchored;
use super::ordered::ordered;
use super::reduce::Reduction;
use super::short_rows::ShortRows;
use super::{pointwise, sweep};
use crate::base::machine::Machine;
use crate::ir::index::{Expr, Guard, IndexMap};
use crate::ir::scalar::ScalarFn;
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::{Emitter, Home};
use crate::kernel::ir::{Access, Addr, Buf, Kernel, LaneOp, Ty, Val};
use crate::kernel::nest::{Keep, Nest};
use crate::kernel::resolve::{Leaf, Resolved, resolve};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Lanes from which a vector asks for what the next row reads.
const FETCHED: u16 = 16;

pub fn build(nest: &Nest, machine: &Machine) -> Kernel {
    let mut b = KernelBuilder::new(&nest.name, machine.numerics());
    let slots = declare(nest, &mut b);
    let reduced = nest.stages.iter().any(|s| !s.reduce.is_empty() || s.keep == Keep::Row);
    let same = nest
        .outs
        .windows(2)
        .all(|w| nest.stages[w[0].stage as usize].axes == nest.stages[w[1].stage as usize].axes);
    if !reduced && same {
        pointwise::build(nest, machine, &mut b, &slots);
    } else {
        rows(nest, machine, &mut b, &slots);
    }
    b.finish()
}

/// One parameter for each slot.
pub fn declare(nest: &Nest, b: &mut KernelBuilder) -> Vec<Buf> {
    let param = |(i, slot): (usize, &crate::kernel::nest::Slot)| match i < nest.operands {
        true => b.param(&format!("x{i}"), slot.dtype, slot.numel(), Access::Read),
        false => {
            let name = format!("y{}", i - nest.operands);
            b.param(&name, slot.dtype, slot.numel(), Access::Write)
        }
    };
    let slots: Vec<Buf> = nest.slots.iter().enumerate().map(param).collect();
    for (out, operand) in &nest.inplace {
        b.inplace(slots[*out as usize], slots[*operand as usize]);
    }
    slots
}

fn rows(nest: &Nest, machine: &Machine, b: &mut KernelBuilder, slots: &[Buf]) {
    let kept: Vec<u16> = (0..nest.stages.len() as u16)
        .filter(|i| nest.stages[*i as usize].keep != Keep::Inline)
        .collect();
    let axes = &nest.stages[kept[0] as usize].axes;
    let one_space = kept.iter().all(|s| nest.stages[*s as usize].axes == *axes);
    if one_space && (kept.len() == 1 || nest.shared == axes.len()) {
        return match ordered(nest) {
            Some(nest) => anchored(&nest, machine, b, slots, &kept),
            None => anchored(nest, machine, b, slots, &kept),
        };
    }
    let shared = nest.shared;
    let row = axes[..shared].to_vec();
    let point = grid_point(b, &row);
    if let Some(short) = ShortRows::of(nest, machine, &kept) {
        return short.emit(b, slots, &point);
    }
    let mut homes: BTreeMap<u16, Home> = BTreeMap::new();
    for id in kept {
        let mut row = Row { nest, machine, slots, shared, point: &point, homes: &mut homes };
        row.stage(b, id);
    }
}

/// A kernel for stages that all live at the same points.
fn anchored(nest: &Nest, machine: &Machine, b: &mut KernelBuilder, slots: &[Buf], kept: &[u16]) {
    let anchored = Anchored::of(nest, machine, slots, kept);
    let point = grid_point(b, anchored.grid());
    anchored.emit(b, &point);
}

/// The same nests within a larger kernel: loops at one point of the first axes of the nest.
pub fn within(b: &mut KernelBuilder, nest: &Nest, machine: &Machine, slots: &[Buf], point: &[Val]) {
    let kept: Vec<u16> = (0..nest.stages.len() as u16)
        .filter(|i| nest.stages[*i as usize].keep != Keep::Inline)
        .collect();
    Anchored::of(nest, machine, slots, &kept).emit(b, point);
}

/// What emission needs beside the point.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub nest: &'a Nest,
    pub slots: &'a [Buf],
    pub homes: &'a BTreeMap<u16, Home>,
    pub decided: &'a BTreeMap<Guard, bool>,
    /// Lanes that are stored.
    pub valid: u16,
}

impl Place<'_> {
    /// The value of a stage at a point: of its reduction, if it is one.
    pub fn value(
        &self,
        b: &mut KernelBuilder,
        id: u16,
        resolved: &Resolved,
        coords: Vec<Val>,
        lanes: (Option<usize>, u16),
    ) -> Val {
        let Place { nest, slots, homes, decided, .. } = *self;
        match Reduction::of(nest, id, resolved, coords.len()) {
            Some(r) => r.emit(b, slots, homes, decided, coords, lanes),
            None => Emitter::new(nest, resolved, slots, homes, decided, coords, lanes)
                .value(b, resolved.root),
        }
    }

    pub fn store_outs(
        &self,
        b: &mut KernelBuilder,
        id: u16,
        v: Val,
        at: &[Val],
        vector: Option<usize>,
    ) {
        for out in self.nest.outs.iter().filter(|o| o.stage == id) {
            let base = b.index(0);
            self.store(b, (self.slots[out.slot as usize], base), &out.at, v, at, vector);
        }
    }

    fn store(
        &self,
        b: &mut KernelBuilder,
        (buf, base): (Buf, Val),
        at: &Expr,
        v: Val,
        coords: &[Val],
        vector: Option<usize>,
    ) {
        let (resolved, none) = (Resolved::default(), BTreeMap::new());
        let lanes = (vector, b.ty(v).lanes());
        let coords = coords.to_vec();
        let mut e =
            Emitter::new(self.nest, &resolved, self.slots, self.homes, &none, coords, lanes);
        e.valid = self.valid.min(lanes.1);
        store(b, &mut e, buf, base, at, v);
    }
}

/// Makes the grid cover these axes and takes the grid point apart.
pub fn grid_point(b: &mut KernelBuilder, axes: &[i64]) -> Vec<Val> {
    // The last axes go to grid axis 0 as long as its extent fits.
    let (mut grid, mut groups, mut g) = ([1u32; 3], vec![vec![]; 3], 0usize);
    for (i, &n) in axes.iter().enumerate().rev() {
        let n = n.max(0) as u64;
        if grid[g] as u64 * n > (1 << 31) && g < 2 {
            g += 1;
        }
        grid[g] = (grid[g] as u64 * n).min(u32::MAX as u64) as u32;
        groups[g].push(i);
    }
    b.set_grid(grid);
    let mut point: Vec<Option<Val>> = vec![None; axes.len()];
    for (g, group) in groups.iter().enumerate() {
        let mut rest = b.grid(g as u8);
        for (k, &i) in group.iter().enumerate() {
            let n = b.index(axes[i].max(1));
            let last = k + 1 == group.len();
            point[i] = Some(if last { rest } else { b.op(crate::kernel::ir::Op::Rem, &[rest, n]) });
            if !last {
                rest = b.op(crate::kernel::ir::Op::Div, &[rest, n]);
            }
        }
    }
    point.into_iter().map(|v| v.expect("every axis belongs to a group")).collect()
}

/// The body of a stage over its own loop axes (`axes ++ reduce`).
pub fn resolved_stage(nest: &Nest, id: u16) -> Resolved {
    let stage = &nest.stages[id as usize];
    let extents = stage.extents();
    let point: Vec<Expr> = (0..extents.len()).map(Expr::axis).collect();
    let mut resolved = Resolved::default();
    let root = resolve(nest, id, &point, &extents, &mut resolved);
    resolved.root = root;
    resolved
}

struct Row<'a> {
    nest: &'a Nest,
    machine: &'a Machine,
    slots: &'a [Buf],
    shared: usize,
    point: &'a [Val],
    homes: &'a mut BTreeMap<u16, Home>,
}

impl Row<'_> {
    fn place<'b>(&'b self, decided: &'b BTreeMap<Guard, bool>) -> Place<'b> {
        let (nest, slots, valid) = (self.nest, self.slots, u16::MAX);
        Place { nest, slots, homes: self.homes, decided, valid }
    }

    /// Computes one kept stage for this row, and notes where it is.
    fn stage(&mut self, b: &mut KernelBuilder, id: u16) {
        let stage = &self.nest.stages[id as usize];
        let resolved = resolved_stage(self.nest, id);
        let own: Vec<i64> = stage.axes[self.shared..].to_vec();
        let size: i64 = own.iter().product();
        if size == 1 {
            let mut coords = self.point.to_vec();
            coords.extend(own.iter().map(|_| b.index(0)));
            let none = BTreeMap::new();
            let v = self.place(&none).value(b, id, &resolved, coords.clone(), (None, 1));
            self.place(&none).store_outs(b, id, v, &coords, None);
            self.homes.insert(id, Home::Register(v));
            return;
        }
        let read_later = self.nest.stages.iter().skip(id as usize + 1).any(|s| reads(s, id));
        let memory = read_later.then(|| {
            let buf = b.scratch(stage.dtype.compute(), size.max(0) as u64);
            let extents: Vec<usize> = own.iter().map(|&d| d as usize).collect();
            Home::Memory { buf, base: b.index(0), extents }
        });
        self.sweep(b, id, &resolved, &own, memory.as_ref());
        if let Some(home) = memory {
            self.homes.insert(id, home);
        }
    }

    /// Loops over the stage's own axes, the last one in vectors.
    fn sweep(
        &mut self,
        b: &mut KernelBuilder,
        id: u16,
        resolved: &Resolved,
        own: &[i64],
        memory: Option<&Home>,
    ) {
        let rank = self.shared + own.len();
        let (vector, extent) = (rank - 1, own[own.len() - 1]);
        let plain = Reduction::of(self.nest, id, resolved, rank)
            .is_some_and(|r| r.lanes_along_reduction() || r.scalar_only());
        let cuts = sweep::segments([resolved], vector, extent, sweep::IN_LANES);
        let lanes = match (&cuts, plain) {
            (Some(_), false) => lanes(self.nest, resolved, vector, self.machine),
            _ => 1,
        };
        let cuts = cuts.unwrap_or_else(|| sweep::Segment::whole(extent));
        let mut coords = self.point.to_vec();
        sweep::nested(b, &own[..own.len() - 1], &mut coords, &mut |b, coords| {
            for cut in &cuts {
                let place = self.place(&cut.decided);
                sweep::vectors(b, (cut.lo, cut.hi), lanes, &mut |b, i, lanes| {
                    let at = [coords, &[i]].concat();
                    self.fetch_next_row(b, id, resolved, &at, lanes);
                    let v = place.value(b, id, resolved, at.clone(), (Some(vector), lanes));
                    place.store_outs(b, id, v, &at, Some(vector));
                    if let Some(Home::Memory { buf, base, extents }) = memory {
                        let own: Vec<Expr> = (self.shared..rank).map(Expr::axis).collect();
                        let flat = IndexMap(own).flatten(extents);
                        place.store(b, (*buf, *base), &flat, v, &at, Some(vector));
                    }
                });
            }
        });
    }
}

impl Row<'_> {
    /// Asks for what the next row reads here, while this row, which the first stage has brought
    /// close, is computed with.
    fn fetch_next_row(
        &self,
        b: &mut KernelBuilder,
        id: u16,
        resolved: &Resolved,
        at: &[Val],
        lanes: u16,
    ) {
        let stage = &self.nest.stages[id as usize];
        let (vector, Some(row)) = (stage.axes.len() - 1, self.shared.checked_sub(1)) else {
            return;
        };
        let first = self.nest.stages.iter().position(|s| s.keep != Keep::Inline);
        if first == Some(id as usize) || stage.combine.is_some() || lanes < FETCHED {
            return;
        }
        for leaf in &resolved.leaves {
            let Leaf::Slot { slot, at: offset } = leaf else { continue };
            let (Some(1), Some(next @ 1..)) = (offset.stride(vector), offset.stride(row)) else {
                continue;
            };
            let none = BTreeMap::new();
            let (empty, zero) = (Resolved::default(), b.index(0));
            let buf = self.slots[*slot as usize];
            let of = (Some(vector), lanes);
            let mut e =
                Emitter::new(self.nest, &empty, self.slots, self.homes, &none, at.to_vec(), of);
            let addr = e.addr(b, buf, zero, offset, 0);
            let line = (LINE / b.elem(buf).bytes()) as i64;
            for i in 0..(lanes as i64 + line - 1) / line {
                b.prefetch(Addr { plus: addr.plus + next + i * line, ..addr });
            }
        }
    }
}

/// Stores a register at an offset over the emitter's axes, rounding to the buffer's element type.
pub fn store(b: &mut KernelBuilder, e: &mut Emitter, buf: Buf, base: Val, at: &Expr, v: Val) {
    let v = b.convert(v, b.elem(buf));
    let lanes = b.ty(v).lanes();
    let stride = e.vector.map_or(Some(0), |axis| at.stride(axis));
    if lanes == 1 || stride == Some(1) {
        let addr = e.addr(b, buf, base, at, 0);
        b.store_valid(addr, v, e.valid.min(lanes));
        return;
    }
    for i in 0..lanes.min(e.valid) {
        let addr = match stride {
            Some(s) => {
                let first = e.addr(b, buf, base, at, 0);
                Addr { plus: first.plus + i as i64 * s, ..first }
            }
            None => e.addr(b, buf, base, at, i as i64),
        };
        let ty: Ty = b.ty(v).with_lanes(1);
        let lane = b.lane(LaneOp::Extract(i), ty, &[v]);
        b.store(addr, lane);
    }
}

/// Whether a stage reads another one.
pub fn reads(stage: &crate::kernel::nest::Stage, id: u16) -> bool {
    use crate::kernel::nest::{From, Scalar};
    stage.body.0.iter().any(|s| matches!(s, Scalar::Load { from: From::Stage(i), .. } if *i == id))
}

/// How many lanes a body is worth along an axis: several registers' worth where all accesses are
/// contiguous, fewer where functions are long or lanes are loaded one by one.
pub fn lanes(nest: &Nest, resolved: &Resolved, axis: usize, machine: &Machine) -> u16 {
    let (mut widest, mut heavy, mut scattered) = (1usize, 0u64, false);
    for leaf in &resolved.leaves {
        match leaf {
            Leaf::Slot { slot, at } => {
                widest = widest.max(nest.slots[*slot as usize].dtype.compute().bytes());
                scattered |= !matches!(at.stride(axis), Some(0 | 1));
            }
            Leaf::Stage { stage, .. } => {
                widest = widest.max(nest.stages[*stage as usize].dtype.compute().bytes());
            }
            Leaf::Fn(f, _) => {
                heavy = heavy.max(f.flops());
                if let ScalarFn::Cast(to) = f {
                    widest = widest.max(to.bytes());
                }
            }
            Leaf::Axis(_) => (widest, scattered) = (8, true),
            Leaf::Const(_) | Leaf::Guarded { .. } => {}
        }
    }
    let one = (machine.vector_bytes as usize / widest.max(4)).max(1);
    let registers = if scattered {
        1
    } else if heavy >= 20 {
        2
    } else {
        4
    };
    (one * registers).min(64) as u16
}
