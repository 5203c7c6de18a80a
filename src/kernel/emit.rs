//! From resolved bodies to kernel instructions.
//!
//! An [`Emitter`] stands at one point of the loop axes (an `Index` register for each axis; along
//! one of them, `vector`, it covers `lanes` points that follow each other) and emits the value of
//! a leaf there. How a load is done follows from the stride of its offset along the vector axis:
//! 1 is a vector load, 0 a broadcast, anything else a load for each lane.

use std::collections::BTreeMap;

use super::build::KernelBuilder;
use super::ir::{Addr, Buf, Op, Ty, Val};
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
        Emitter { nest, resolved, slots, homes, coords, vector, lanes, decided, memo }
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
                let scalar = b.constant(Ty::of(lit.dtype, 1), *lit);
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
            Some(s @ (0 | 1)) => {
                let addr = self.addr(b, buf, base, at, 0);
                if s == 1 { b.load(addr, self.lanes) } else { b.load_splat(addr, self.lanes) }
            }
            Some(s) => {
                let first = self.addr(b, buf, base, at, 0);
                let lane = |i: i64| Addr { plus: first.plus + i * s, ..first };
                let lanes: Vec<Val> = (0..self.lanes as i64).map(|i| b.load(lane(i), 1)).collect();
                gather_lanes(b, &lanes)
            }
            None => {
                let lanes: Vec<Val> = (0..self.lanes as i64)
                    .map(|i| {
                        let addr = self.addr(b, buf, base, at, i);
                        b.load(addr, 1)
                    })
                    .collect();
                gather_lanes(b, &lanes)
            }
        };
        let dtype = b.ty(v).dtype();
        b.convert(v, dtype.compute())
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
        let divergent =
            self.lanes > 1 && self.vector.is_some_and(|v| open.iter().any(|g| g.expr.mentions(v)));
        if divergent {
            return self.divergent(b, &open, then, els);
        }
        let cond = self.condition(b, &open, 0);
        self.branch(b, cond, then, els)
    }

    /// Each lane on its own.
    fn divergent(&mut self, b: &mut KernelBuilder, guards: &[Guard], then: u32, els: u32) -> Val {
        let axis = self.vector.expect("lanes lie along an axis");
        let lanes: Vec<Val> = (0..self.lanes as i64)
            .map(|i| {
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
        let this = std::cell::RefCell::new(self);
        let scoped = |b: &mut KernelBuilder, leaf: u32| {
            let mut me = this.borrow_mut();
            me.memo.push(FastMap::default());
            let v = me.value(b, leaf);
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
