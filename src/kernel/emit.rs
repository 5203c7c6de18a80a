//! From resolved bodies to kernel instructions.
//!
//! An [`Emitter`] stands at one point of the loop axes (an `Index` register for each axis; along
//! one of them, `vector`, it covers `lanes` points that follow each other) and emits the value of
//! a leaf there. How a load is done follows from the stride of its offset along the vector axis:
//! 1 is a vector load, 0 a broadcast, 2 and 4 are vector loads and shuffles, anything else a load
//! for each lane.

use std::collections::BTreeMap;
use std::ops::Range;

use super::build::KernelBuilder;
use super::ir::{Addr, Buf, LaneOp, Lit, LoadMode, Op, Ty, Val};
use super::nest::Nest;
use super::resolve::{Leaf, Resolved};
use super::scalar_fn::{choose, emit_fn, gather_lanes};
use crate::base::{DType, FastMap};
use crate::ir::index::{Expr, Guard, Term};

/// Where a kept stage's values are while a kernel runs.
#[derive(Clone, Debug)]
pub enum Home {
    /// One value for the whole row: a scalar register.
    Register(Val),
    /// Row-major over the stage's own axes, of these extents, from `base` on.
    Memory { buf: Buf, base: Val, extents: Vec<usize> },
    /// The register that a generator has at hand for the current point (an accumulator).
    Here(Val),
}

pub struct Emitter<'a> {
    pub nest: &'a Nest,
    pub resolved: &'a Resolved,
    /// The parameter of each slot.
    pub slots: &'a [Buf],
    pub homes: &'a BTreeMap<u16, Home>,
    /// One `Index` for each loop axis.
    pub coords: Vec<Val>,
    /// The axis along which lanes lie, if there is more than one.
    pub vector: Option<usize>,
    pub lanes: u16,
    /// Only so many lanes are read from memory, from `shift` on; the coordinates are those of the
    /// first of them. The others hold `fill` where they are loaded, or anything.
    pub valid: u16,
    pub shift: u16,
    fill: Option<Lit>,
    /// Guards that are decided by the range that the caller loops over.
    pub decided: &'a BTreeMap<Guard, bool>,
    memo: Vec<FastMap<u32, Val>>,
}

impl<'a> Emitter<'a> {
    pub fn new(
        nest: &'a Nest,
        resolved: &'a Resolved,
        slots: &'a [Buf],
        homes: &'a BTreeMap<u16, Home>,
        decided: &'a BTreeMap<Guard, bool>,
        coords: Vec<Val>,
        (vector, lanes): (Option<usize>, u16),
    ) -> Emitter<'a> {
        let memo = vec![FastMap::default()];
        let valid = lanes;
        Emitter {
            nest,
            resolved,
            slots,
            homes,
            coords,
            vector,
            lanes,
            valid,
            shift: 0,
            fill: None,
            decided,
            memo,
        }
    }

    /// The register of a leaf: narrow floats as f32, bools as masks.
    pub fn value(&mut self, b: &mut KernelBuilder, leaf: u32) -> Val {
        if let Some(v) = self.memo.iter().rev().find_map(|m| m.get(&leaf)) {
            return *v;
        }
        let v = match &self.resolved.leaves[leaf as usize] {
            Leaf::Slot { slot, at } => {
                let base = b.index(0);
                self.load(b, self.slots[*slot as usize], base, at)
            }
            Leaf::Stage { stage, at } => match &self.homes[stage] {
                Home::Register(v) => b.splat(*v, self.lanes),
                // A stage without lanes is the same in each of them.
                Home::Here(v) if b.ty(*v).lanes() == 1 => b.splat(*v, self.lanes),
                Home::Here(v) => *v,
                Home::Memory { buf, base, extents } => {
                    let offset = crate::ir::index::IndexMap(at.clone()).flatten(extents);
                    self.load(b, *buf, *base, &offset)
                }
            },
            Leaf::Axis(e) => {
                let lanes: Vec<Val> = (0..self.lanes as i64)
                    .map(|i| {
                        let index = self.index(b, e, i);
                        b.convert(index, DType::I64)
                    })
                    .collect();
                gather_lanes(b, &lanes)
            }
            Leaf::Const(lit) => {
                // What floats of 16 bits hold, the wider type holds as well.
                let lit = match lit.dtype.is_float() {
                    true => Lit::new(lit.dtype.compute(), lit.as_f64()),
                    false => *lit,
                };
                let scalar = b.constant(Ty::of(lit.dtype, 1), lit);
                let wide = b.convert(scalar, lit.dtype.compute());
                b.splat(wide, self.lanes)
            }
            Leaf::Fn(f, args) => {
                let of = args[if *f == crate::ir::scalar::ScalarFn::Where { 1 } else { 0 }];
                let dtype = self.dtype(of);
                let args: Vec<Val> = args.iter().map(|a| self.value(b, *a)).collect();
                emit_fn(b, *f, dtype, &args)
            }
            Leaf::Guarded { guards, then, els } => self.guarded(b, guards, *then, *els),
        };
        self.memo.last_mut().expect("a scope is open").insert(leaf, v);
        v
    }

    /// The graph's dtype of a leaf.
    pub fn dtype(&self, leaf: u32) -> DType {
        match &self.resolved.leaves[leaf as usize] {
            Leaf::Slot { slot, .. } => self.nest.slots[*slot as usize].dtype,
            Leaf::Stage { stage, .. } => self.nest.stages[*stage as usize].dtype,
            Leaf::Axis(_) => DType::I64,
            Leaf::Const(l) => l.dtype,
            Leaf::Fn(f, args) => {
                let of = args[if *f == crate::ir::scalar::ScalarFn::Where { 1 } else { 0 }];
                f.result(self.dtype(of))
            }
            Leaf::Guarded { then, .. } => self.dtype(*then),
        }
    }

    fn load(&mut self, b: &mut KernelBuilder, buf: Buf, base: Val, at: &Expr) -> Val {
        let stride = match self.vector {
            Some(axis) if self.lanes > 1 => at.stride(axis),
            _ => Some(0),
        };
        let v = match stride {
            Some(0) => {
                let addr = self.addr(b, buf, base, at, 0);
                b.load_splat(addr, self.lanes)
            }
            Some(1) => {
                let addr = self.addr(b, buf, base, at, 0);
                self.contiguous(b, addr)
            }
            Some(s @ (2 | 4)) if self.lanes as i64 >= 2 * s && is_word(b.elem(buf)) => {
                let addr = self.addr(b, buf, base, at, 0);
                self.strided(b, addr, s as u16)
            }
            Some(s) => {
                let first = self.addr(b, buf, base, at, 0);
                self.each(b, |_, b, i| b.load(Addr { plus: first.plus + i * s, ..first }, 1))
            }
            None => self.each(b, |e, b, i| {
                let addr = e.addr(b, buf, base, at, i);
                b.load(addr, 1)
            }),
        };
        let dtype = b.ty(v).dtype();
        b.convert(v, dtype.compute())
    }

    /// Lanes that are loaded one by one.
    fn each(
        &mut self,
        b: &mut KernelBuilder,
        load: impl Fn(&mut Self, &mut KernelBuilder, i64) -> Val,
    ) -> Val {
        let read: Vec<Val> = (0..self.valid as i64).map(|i| load(self, b, i)).collect();
        if self.valid == self.lanes {
            return gather_lanes(b, &read);
        }
        let ty = b.ty(read[0]);
        let rest = b.constant(ty, self.filling(ty.dtype()));
        let mut lanes = vec![rest; self.lanes as usize];
        lanes[self.shift as usize..][..read.len()].copy_from_slice(&read);
        gather_lanes(b, &lanes)
    }

    /// Elements that follow each other.
    fn contiguous(&self, b: &mut KernelBuilder, at: Addr) -> Val {
        if self.valid == self.lanes {
            return b.load(at, self.lanes);
        }
        let fill = self.filling(b.elem(at.buf));
        let v = b.load_as(at, self.lanes, LoadMode::Contig, self.valid, Some(fill));
        if self.shift == 0 {
            return v;
        }
        // The lanes before come from one behind, which was filled.
        let from = |lane: u16| lane.checked_sub(self.shift).unwrap_or(self.valid);
        let from = (0..self.lanes).map(from).collect();
        b.lane(LaneOp::Shuffle(from), b.ty(v), &[v])
    }

    /// Elements `s` apart: from each of `s` vectors the lanes that then lie side by side. A vector
    /// ends with the last element that is taken, so that nothing beyond is read.
    fn strided(&self, b: &mut KernelBuilder, first: Addr, s: u16) -> Val {
        let (n, each) = (self.lanes, self.lanes / s);
        let ty = Ty::of(b.elem(first.buf), n);
        let fill = self.filling(ty.dtype());
        let part = |b: &mut KernelBuilder, part: u16| {
            let lanes = part * each..(part + 1) * each;
            let lo = lanes.start.max(self.shift);
            let hi = lanes.end.min(self.shift + self.valid);
            if lo >= hi {
                return b.constant(ty.with_lanes(each), fill);
            }
            let at = Addr { plus: first.plus + ((lo - self.shift) * s) as i64, ..first };
            let count = (hi - lo - 1) * s + 1;
            let v = b.load_as(at, n, LoadMode::Contig, count, Some(fill));
            // The lanes behind the last element were filled.
            let from = |lane: u16| if (lo..hi).contains(&lane) { (lane - lo) * s } else { count };
            let from = (0..n).map(|l| from(lanes.start + l % each)).collect();
            let v = b.lane(LaneOp::Shuffle(from), ty, &[v]);
            b.lane(LaneOp::Slice(0), ty.with_lanes(each), &[v])
        };
        let parts: Vec<Val> = (0..s).map(|p| part(b, p)).collect();
        b.lane(LaneOp::Concat, ty, &parts)
    }

    /// What lanes hold that are not read.
    fn filling(&self, dtype: DType) -> Lit {
        self.fill.unwrap_or(Lit::int(dtype, 0))
    }

    /// The address of `base + at` for one lane; the constant goes into the offset.
    pub fn addr(
        &mut self,
        b: &mut KernelBuilder,
        buf: Buf,
        base: Val,
        at: &Expr,
        lane: i64,
    ) -> Addr {
        let variable = Expr { constant: 0, terms: at.terms.clone() };
        let index = self.index(b, &variable, lane);
        Addr { buf, base: b.add(base, index), plus: at.constant }
    }

    /// An expression as an `Index`, for one lane.
    pub fn index(&mut self, b: &mut KernelBuilder, e: &Expr, lane: i64) -> Val {
        let mut sum: Option<Val> = None;
        for (term, c) in &e.terms {
            let v = match term {
                Term::Axis(i) => {
                    let on_vector = self.vector == Some(*i as usize);
                    b.offset(self.coords[*i as usize], if on_vector { lane } else { 0 })
                }
                Term::FloorDiv(e, d) => {
                    let (e, d) = (self.index(b, e, lane), b.index(*d));
                    b.op(Op::Div, &[e, d])
                }
                Term::Mod(e, d) => {
                    let (e, d) = (self.index(b, e, lane), b.index(*d));
                    b.op(Op::Rem, &[e, d])
                }
                Term::Dyn { slot, at, limit } => self.dynamic(b, *slot, at, *limit, lane),
            };
            let scaled = b.times(v, *c);
            sum = Some(match sum {
                Some(s) => b.add(s, scaled),
                None => scaled,
            });
        }
        match sum {
            Some(s) => b.offset(s, e.constant),
            None => b.index(e.constant),
        }
    }

    /// An index that a slot holds, clamped into `0..=limit`.
    fn dynamic(
        &mut self,
        b: &mut KernelBuilder,
        slot: u16,
        at: &[Expr],
        limit: i64,
        lane: i64,
    ) -> Val {
        let shape = &self.nest.slots[slot as usize].shape;
        let offset = crate::ir::index::IndexMap(at.to_vec()).flatten(shape);
        let zero = b.index(0);
        let addr = self.addr(b, self.slots[slot as usize], zero, &offset, lane);
        let loaded = b.load(addr, 1);
        let index = b.to_index(loaded);
        let top = b.index(limit);
        let low = b.op(Op::Max, &[index, zero]);
        b.op(Op::Min, &[low, top])
    }

    /// A branch where the guards hold for all lanes or none; a choice lane by lane otherwise.
    fn guarded(&mut self, b: &mut KernelBuilder, guards: &[Guard], then: u32, els: u32) -> Val {
        let mut open = vec![];
        for g in guards {
            match self.decided.get(g) {
                Some(true) => {}
                Some(false) => return self.value(b, els),
                None => open.push(g.clone()),
            }
        }
        if open.is_empty() {
            return self.value(b, then);
        }
        let axis = self.vector.filter(|_| self.lanes > 1);
        let (of_lanes, of_all): (Vec<Guard>, Vec<Guard>) =
            open.into_iter().partition(|g| axis.is_some_and(|axis| g.expr.mentions(axis)));
        if of_all.is_empty() {
            return self.divergent(b, &of_lanes, then, els);
        }
        let cond = self.condition(b, &of_all, 0);
        if of_lanes.is_empty() {
            return self.branch(b, cond, then, els);
        }
        let inside = |e: &mut Self, b: &mut KernelBuilder| e.divergent(b, &of_lanes, then, els);
        self.either(b, cond, &inside, &|e, b| e.value(b, els))
    }

    /// Each lane on its own, unless it is known now which ones are inside.
    fn divergent(&mut self, b: &mut KernelBuilder, guards: &[Guard], then: u32, els: u32) -> Val {
        let axis = self.vector.expect("lanes lie along an axis");
        if let Some(inside) = self.inside(b, guards, axis).filter(|_| self.movable(els)) {
            return self.run(b, &inside, then, els);
        }
        let lanes: Vec<Val> = (0..self.lanes as i64)
            .map(|i| {
                let i = i.min(self.valid as i64 - 1);
                let mut coords = self.coords.clone();
                coords[axis] = b.offset(coords[axis], i);
                let mut one = Emitter::new(
                    self.nest,
                    self.resolved,
                    self.slots,
                    self.homes,
                    self.decided,
                    coords,
                    (None, 1),
                );
                let cond = one.condition(b, guards, 0);
                one.branch(b, cond, then, els)
            })
            .collect();
        gather_lanes(b, &lanes)
    }

    /// The valid lanes for which guards, all of the axis of lanes, hold, if they are known now and
    /// follow each other.
    fn inside(&self, b: &KernelBuilder, guards: &[Guard], axis: usize) -> Option<Range<u16>> {
        let first = b.literal(self.coords[axis])?.as_int()?;
        let (mut lo, mut hi) = (0i64, self.valid as i64);
        for g in guards {
            let stride = g.expr.stride(axis)?;
            let [(Term::Axis(_), _)] = g.expr.terms[..] else { return None };
            let holds = |lane: &i64| {
                let v = g.expr.constant + stride * (first + lane);
                v >= g.lo && v < g.hi
            };
            // A linear expression is between two bounds in one run.
            let run: Vec<i64> = (0..self.valid as i64).filter(holds).collect();
            (lo, hi) = match run[..] {
                [] => (0, 0),
                [from, ..] => (lo.max(from), hi.min(from + run.len() as i64)),
            };
        }
        Some(lo.min(hi) as u16..hi as u16)
    }

    /// Whether a value can be computed for some lanes, and moved to their places: it is made of elements and
    /// constants.
    fn movable(&self, leaf: u32) -> bool {
        match &self.resolved.leaves[leaf as usize] {
            Leaf::Slot { .. } | Leaf::Const(_) => true,
            Leaf::Fn(_, args) => args.iter().all(|arg| self.movable(*arg)),
            Leaf::Stage { .. } | Leaf::Axis(_) | Leaf::Guarded { .. } => false,
        }
    }

    /// A value in a run of the valid lanes: it is read from its first lane on, then moved to its place.
    fn part(&self, b: &mut KernelBuilder, run: &Range<u16>, leaf: u32, fill: Option<Lit>) -> Val {
        let axis = self.vector.expect("lanes lie along an axis");
        let mut coords = self.coords.clone();
        coords[axis] = b.offset(coords[axis], run.start as i64);
        let (nest, resolved, slots) = (self.nest, self.resolved, self.slots);
        let vector = (self.vector, self.lanes);
        let mut part =
            Emitter::new(nest, resolved, slots, self.homes, self.decided, coords, vector);
        (part.valid, part.shift, part.fill) = (run.len() as u16, self.shift + run.start, fill);
        part.value(b, leaf)
    }

    /// One of two values for each lane, of which the first is that of a run.
    fn run(&mut self, b: &mut KernelBuilder, inside: &Range<u16>, then: u32, els: u32) -> Val {
        let axis = self.vector.expect("lanes lie along an axis");
        if inside.is_empty() {
            return self.value(b, els);
        }
        if inside.len() as u16 == self.valid {
            return self.value(b, then);
        }
        // Loads may bring what the other lanes hold.
        let fill = match (&self.resolved.leaves[then as usize], &self.resolved.leaves[els as usize])
        {
            (Leaf::Slot { slot, at }, Leaf::Const(fill)) => {
                let plain =
                    self.nest.slots[*slot as usize].dtype == fill.dtype && is_word(fill.dtype);
                (plain && at.stride(axis) != Some(0)).then_some(*fill)
            }
            _ => None,
        };
        let v = self.part(b, inside, then, fill);
        if fill.is_some() {
            return v;
        }
        let outside = self.outside(b, inside, els);
        let mask = self.mask(b, inside);
        choose(b, mask, v, outside)
    }

    /// A value in the valid lanes that are not in a run. In that run there may be nothing to read.
    fn outside(&mut self, b: &mut KernelBuilder, run: &Range<u16>, leaf: u32) -> Val {
        if matches!(self.resolved.leaves[leaf as usize], Leaf::Const(_)) {
            return self.value(b, leaf);
        }
        let (before, after) = (0..run.start, run.end..self.valid);
        if before.is_empty() {
            return self.part(b, &after, leaf, None);
        }
        if after.is_empty() {
            return self.part(b, &before, leaf, None);
        }
        let (first, last) = (self.part(b, &before, leaf, None), self.part(b, &after, leaf, None));
        let mask = self.mask(b, &before);
        choose(b, mask, first, last)
    }

    /// Whether each lane is in a run of the valid ones.
    fn mask(&self, b: &mut KernelBuilder, run: &Range<u16>) -> Val {
        let run = run.start + self.shift..run.end + self.shift;
        let mask: Vec<Val> = (0..self.lanes).map(|lane| b.condition(run.contains(&lane))).collect();
        gather_lanes(b, &mask)
    }

    fn branch(&mut self, b: &mut KernelBuilder, cond: Val, then: u32, els: u32) -> Val {
        if let Some(lit) = b.literal(cond) {
            return self.value(b, if lit.bits != 0 { then } else { els });
        }
        // Constants on both sides need no branch.
        let is_const = |l: u32| matches!(self.resolved.leaves[l as usize], Leaf::Const(_));
        if is_const(then) && is_const(els) {
            let (t, e) = (self.value(b, then), self.value(b, els));
            let mask = b.splat(cond, self.lanes);
            return choose(b, mask, t, e);
        }
        self.either(b, cond, &|e, b| e.value(b, then), &|e, b| e.value(b, els))
    }

    /// One of two values, of which only that one is computed.
    fn either(
        &mut self,
        b: &mut KernelBuilder,
        cond: Val,
        then: &dyn Fn(&mut Self, &mut KernelBuilder) -> Val,
        els: &dyn Fn(&mut Self, &mut KernelBuilder) -> Val,
    ) -> Val {
        if let Some(lit) = b.literal(cond) {
            return if lit.bits != 0 { then(self, b) } else { els(self, b) };
        }
        let this = std::cell::RefCell::new(self);
        let scoped = |b: &mut KernelBuilder, f: &dyn Fn(&mut Self, &mut KernelBuilder) -> Val| {
            let mut me = this.borrow_mut();
            me.memo.push(FastMap::default());
            let v = f(&mut me, b);
            me.memo.pop();
            vec![v]
        };
        b.if_else(cond, |b| scoped(b, then), |b| scoped(b, els))[0]
    }

    /// All guards hold, for one lane.
    fn condition(&mut self, b: &mut KernelBuilder, guards: &[Guard], lane: i64) -> Val {
        let mut all: Option<Val> = None;
        for g in guards {
            let e = self.index(b, &g.expr, lane);
            for (op, bound) in [(Op::Ge, g.lo), (Op::Lt, g.hi)] {
                let bound = b.index(bound);
                let c = b.op(op, &[e, bound]);
                match b.literal(c) {
                    Some(known) if known.bits != 0 => continue,
                    Some(_) => return c,
                    None => {}
                }
                all = Some(match all {
                    Some(a) => b.op(Op::And, &[a, c]),
                    None => c,
                });
            }
        }
        match all {
            Some(c) => c,
            None => b.condition(true),
        }
    }
}

/// Whether whole vectors of the type can be shuffled.
fn is_word(dtype: DType) -> bool {
    dtype.bytes() >= 4
}
