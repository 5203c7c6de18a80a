//! Control flow: the function's frame, the loop over grid points, loops and branches.
//!
//! Loops test at their end; one whose bounds are not constants is guarded by a test before it.
//! Edges out of a branch lead to blocks of their own, which hold the moves and vanish if there are
//! none.

use super::{LoopScope, Scope, ScopeKind, Selector, Value};
use crate::base::FastMap;
use crate::kernel::ir::{self, Op, Region, Ty, Val};
use crate::target::cpu::x86::codes::Alu;
use crate::target::cpu::x86::frame::Abi;
use crate::target::cpu::x86::inst::{
    BlockId, Cc, Code, Inst, PReg, RegClass, Term, Test, VReg, View,
};
use crate::target::cpu::x86::linear::Linear;
use crate::target::cpu::x86::{Res, reject};

/// Regions nested deeper than this are refused, so that the recursion over them is bounded.
const MAX_DEPTH: usize = 200;

impl Selector<'_> {
    /// Arguments, then the loop over grid points around the body.
    pub(super) fn frame(&mut self, abi: &Abi) -> Res<()> {
        let [buffers, begin, end, scratch] = [(); 4].map(|()| self.vreg(RegClass::Int));
        let mut arrive = Inst::new(Code::INVALID);
        for (v, n) in [buffers, begin, end, scratch].into_iter().zip(abi.args) {
            arrive = arrive.implicit(v, PReg::new(n as usize, RegClass::Int), true);
        }
        self.push(arrive);
        (self.buffers, self.scratch) = (buffers, scratch);

        let entry = self.here;
        let long: Vec<usize> = (0..3).filter(|a| self.kernel.grid[*a] > 1).collect();
        let start = self.first_point(begin, &long);
        let enter = self.func.block();
        let header = self.func.block();
        let kind = match long[..] {
            // A single axis counts the points itself.
            [_] => Some(Linear::register(begin)),
            _ => None,
        };
        self.open(entry, ScopeKind::Loop(LoopScope { header, counter: None, pointers: vec![] }));
        let point = self.param(header, RegClass::Int);
        let mut coordinates = vec![];
        for axis in &long {
            let at = if kind.is_some() { point } else { self.param(header, RegClass::Int) };
            self.grid[*axis] = Linear::register(at);
            coordinates.push(at);
        }
        let counter = kind.map(|lo| (point, lo, 1));
        self.count(counter);
        self.here = header;
        self.region(&self.kernel.body)?;

        let next = self.alu_imm(Alu::Add, View::R64, point, 1);
        let mut again = vec![next];
        if coordinates.len() > 1 {
            again.extend(self.next_point(&long, &coordinates));
        }
        let mut first = vec![begin];
        if coordinates.len() > 1 {
            first.extend(start);
        }
        self.move_pointers(&mut first, &mut again);
        let more = self.cmp(next, end);
        let [back, exit, none, last] = [(); 4].map(|()| self.func.block());
        let latch = self.here;
        self.func.at(latch).term =
            Term::Branch { test: Test { inst: more, cc: Cc::Below }, then: back, els: exit };
        self.func.at(back).term = Term::Jump(header, again);
        self.func.at(enter).term = Term::Jump(header, first);
        let some = self.cmp(begin, end);
        self.func.at(entry).term =
            Term::Branch { test: Test { inst: some, cc: Cc::Below }, then: enter, els: none };
        for block in [exit, none] {
            self.func.at(block).term = Term::Jump(last, vec![]);
        }
        self.scopes.pop();
        Ok(())
    }

    /// The coordinates of the first grid point, along the axes that have more than one.
    fn first_point(&mut self, begin: VReg, long: &[usize]) -> Vec<VReg> {
        let mut rest = begin;
        let mut start = vec![];
        for (i, axis) in long.iter().enumerate() {
            if i + 1 == long.len() {
                start.push(rest);
                break;
            }
            let n = self.kernel.grid[*axis] as i64;
            let quotient = self.index_division(Op::Div, rest, n);
            let product = self.times(quotient, n);
            start.push(self.alu(Alu::Sub, View::R64, rest, product));
            rest = quotient;
        }
        start
    }

    /// The next point's coordinates: the first axis moves on, full axes wrap.
    fn next_point(&mut self, long: &[usize], at: &[VReg]) -> Vec<VReg> {
        let mut next: Vec<VReg> = vec![];
        let mut full: Option<VReg> = None;
        for (i, axis) in long.iter().enumerate() {
            let moved = match full {
                None => self.alu_imm(Alu::Add, View::R64, at[i], 1),
                Some(carry) => self.alu(Alu::Add, View::R64, at[i], carry),
            };
            if i + 1 == long.len() {
                next.push(moved);
                break;
            }
            let n = self.kernel.grid[*axis];
            let (zero, one) = (self.int_constant(0), self.int_constant(1));
            let wrapped = |s: &mut Self, no, yes| {
                let test = s.cmp_to(moved, n as i64);
                s.push(test);
                s.cmov(Cc::Eq, View::R64, no, yes)
            };
            next.push(wrapped(self, moved, zero));
            full = Some(wrapped(self, zero, one));
        }
        next
    }

    fn open(&mut self, before: BlockId, kind: ScopeKind) {
        self.scopes.push(Scope { before, memo: FastMap::default(), kind });
    }

    fn param(&mut self, block: BlockId, class: RegClass) -> VReg {
        let v = self.vreg(class);
        self.func.at(block).params.push(v);
        v
    }

    fn cmp(&self, a: VReg, b: VReg) -> Inst {
        Inst::new(Alu::Cmp.codes(View::R64)[0]).read(a, View::R64).read(b, View::R64)
    }

    fn cmp_to(&mut self, a: VReg, n: i64) -> Inst {
        match i32::try_from(n) {
            Ok(n) => self.cmp_imm(View::R64, a, n),
            Err(_) => {
                let n = self.int_constant(n);
                self.cmp(a, n)
            }
        }
    }

    /// Says what counts the innermost loop.
    fn count(&mut self, by: Option<(VReg, Linear, i64)>) {
        if let Some(Scope { kind: ScopeKind::Loop(l), .. }) = self.scopes.last_mut() {
            l.counter = by;
        }
    }

    /// The pointers that move along with the innermost loop become parameters of its head, with
    /// their first and next values.
    fn move_pointers(&mut self, first: &mut Vec<VReg>, again: &mut Vec<VReg>) {
        let Some(Scope { kind: ScopeKind::Loop(l), .. }) = self.scopes.last_mut() else { return };
        let (header, pointers) = (l.header, std::mem::take(&mut l.pointers));
        for (pointer, start, by) in pointers {
            self.func.at(header).params.push(pointer);
            first.push(start);
            again.push(self.alu_imm(Alu::Add, View::R64, pointer, by));
        }
    }

    pub(super) fn for_loop(
        &mut self,
        results: &[Val],
        (lo, hi, step): (Val, Val, i64),
        init: &[Val],
        body: &Region,
        unroll: u32,
    ) -> Res<()> {
        if self.scopes.len() > MAX_DEPTH {
            return reject("loops and branches nested too deep");
        }
        self.settle(true)?;
        let (lo, hi) = (self.linear(lo)?, self.linear(hi)?);
        let trips = match (lo.as_constant(), hi.as_constant()) {
            (Some(lo), Some(hi)) => Some(trip_count(lo, hi, step)),
            _ => None,
        };
        let copies = trips.map_or(1, |n| factor(n, unroll));
        let mark = (self.id, self.regions, self.region);
        let mut carried: Vec<Value> = vec![];
        for v in init {
            carried.push(self.vals[v.0 as usize].clone());
        }
        let mut next = lo.clone();
        if trips.is_none_or(|n| n > copies) {
            let main = trips.map(|n| n - n % copies);
            let end = match (main, lo.as_constant()) {
                (Some(n), Some(lo)) => Linear::constant(lo.wrapping_add(n.wrapping_mul(step))),
                _ => hi.clone(),
            };
            let types: Vec<Ty> = init.iter().map(|v| self.ty(*v)).collect();
            carried =
                self.run_loop((&lo, &end, step), carried, &types, body, copies, main, mark)?;
            next = end;
        }
        // Iterations that do not fill a round, one after the other.
        let rest = trips.map_or(0, |n| if n > copies { n % copies } else { n });
        for i in 0..rest {
            let counter = next.clone().offset(i.wrapping_mul(step));
            carried = self.iteration(counter, carried, body, mark)?;
        }
        if trips == Some(0) {
            // The numbers of the body's instructions are passed over all the same.
            return reject("a loop that never runs");
        }
        self.id += 1;
        self.region = mark.2;
        for (v, value) in results.iter().zip(carried) {
            self.set(*v, value);
        }
        Ok(())
    }

    /// One iteration: binds the parameters, walks the body, gives what it yields.
    fn iteration(
        &mut self,
        counter: Linear,
        carried: Vec<Value>,
        body: &Region,
        (id, regions, _): (u32, u32, u32),
    ) -> Res<Vec<Value>> {
        (self.id, self.regions, self.region) = (id, regions + 1, regions + 1);
        self.set(body.params[0], Value::Linear(counter));
        for (v, value) in body.params[1..].iter().zip(carried) {
            self.set(*v, value);
        }
        self.region(body)?;
        self.yields(body)
    }

    /// What a region yields; its loads happen at the latest now.
    fn yields(&mut self, region: &Region) -> Res<Vec<Value>> {
        let mut values = vec![];
        for v in &region.yields {
            if let Value::Load(_) = self.vals[v.0 as usize] {
                self.load_now(*v)?;
            }
            values.push(self.vals[v.0 as usize].clone());
        }
        self.pending.clear();
        Ok(values)
    }

    #[allow(clippy::too_many_arguments)]
    fn run_loop(
        &mut self,
        (lo, end, step): (&Linear, &Linear, i64),
        carried: Vec<Value>,
        types: &[Ty],
        body: &Region,
        copies: i64,
        trips: Option<i64>,
        mark: (u32, u32, u32),
    ) -> Res<Vec<Value>> {
        let by = step.checked_mul(copies).filter(|by| *by < i64::MAX / 2);
        let Some(by) = by else { return reject("a loop with a huge step") };
        let start = self.linear_reg(lo);
        let mut first = vec![start];
        for (value, ty) in carried.iter().zip(types) {
            first.push(self.fresh(value.clone(), *ty)?);
        }
        let skipped = first[1..].to_vec();
        let before = self.here;
        let guard = match trips {
            Some(_) => None,
            None => {
                let hi = self.linear_reg(end);
                Some(self.cmp(start, hi))
            }
        };
        let (enter, header) = (self.func.block(), self.func.block());
        self.open(before, ScopeKind::Loop(LoopScope { header, counter: None, pointers: vec![] }));
        let counter = self.param(header, RegClass::Int);
        self.count(Some((counter, lo.clone(), by)));
        let mut inner = vec![];
        for ty in types {
            let class = self.class(*ty)?;
            let v = self.param(header, class);
            inner.push(bound(v, *ty));
        }
        self.here = header;
        self.func.at(header).align = !body.insts.iter().any(|i| matches!(i, ir::Inst::For { .. }));
        for i in 0..copies {
            let at = Linear::register(counter).offset(i * step);
            inner = self.iteration(at, inner, body, mark)?;
        }
        let next = self.alu_imm(Alu::Add, View::R64, counter, by);
        let mut again = vec![next];
        for (value, ty) in inner.into_iter().zip(types) {
            again.push(self.value_reg(value, *ty)?);
        }
        let last = again[1..].to_vec();
        self.move_pointers(&mut first, &mut again);
        let test = match end.as_constant() {
            Some(end) => self.cmp_to(next, end),
            None => {
                let hi = self.linear_reg(end);
                self.cmp(next, hi)
            }
        };
        let latch = self.here;
        let [back, done] = [(); 2].map(|()| self.func.block());
        let skip = guard.as_ref().map(|_| self.func.block());
        let exit = self.func.block();
        let test = Test { inst: test, cc: Cc::Lt };
        self.func.at(latch).term = Term::Branch { test, then: back, els: done };
        self.func.at(back).term = Term::Jump(header, again);
        self.func.at(enter).term = Term::Jump(header, first);
        self.func.at(done).term = Term::Jump(exit, last);
        self.func.at(before).term = match (guard, skip) {
            (Some(inst), Some(skip)) => {
                self.func.at(skip).term = Term::Jump(exit, skipped);
                Term::Branch { test: Test { inst, cc: Cc::Lt }, then: enter, els: skip }
            }
            _ => Term::Jump(enter, vec![]),
        };
        self.scopes.pop();
        self.here = exit;
        self.exit_values(exit, types)
    }

    /// Parameters of the block where control meets again, for values of these types.
    fn exit_values(&mut self, exit: BlockId, types: &[Ty]) -> Res<Vec<Value>> {
        let mut values = vec![];
        for ty in types {
            let class = self.class(*ty)?;
            let v = self.param(exit, class);
            values.push(bound(v, *ty));
        }
        Ok(values)
    }

    /// The register of a value.
    fn value_reg(&mut self, value: Value, ty: Ty) -> Res<VReg> {
        match value {
            Value::Reg(v) => Ok(v),
            Value::Const(lit) => self.constant(ty, lit),
            Value::Linear(l) => Ok(self.linear_reg(&l)),
            Value::Compare(c) => Ok(self.bool_reg(&c)),
            Value::Load(_) | Value::Narrow(_) | Value::Undefined => {
                reject("a carried value without a register")
            }
        }
    }

    /// A register for a loop's first value; constants get one of their own, to be overwritten.
    fn fresh(&mut self, value: Value, ty: Ty) -> Res<VReg> {
        match value {
            Value::Const(lit) if matches!(self.class(ty)?, RegClass::Float) => match ty {
                Ty::Mask(_) => self.constant(ty, lit),
                _ => Ok(self.vector_constant(ty, lit)),
            },
            other => self.value_reg(other, ty),
        }
    }

    pub(super) fn branch(
        &mut self,
        results: &[Val],
        cond: Val,
        then: &Region,
        els: &Region,
    ) -> Res<()> {
        if self.scopes.len() > MAX_DEPTH {
            return reject("loops and branches nested too deep");
        }
        self.settle(true)?;
        let test = self.flags(cond)?;
        let types: Vec<Ty> = results.iter().map(|v| self.ty(*v)).collect();
        let (before, outer) = (self.here, self.region);
        let mut ends = vec![];
        let mut starts = vec![];
        for region in [then, els] {
            let block = self.func.block();
            starts.push(block);
            self.open(before, ScopeKind::Arm);
            self.here = block;
            self.regions += 1;
            self.region = self.regions;
            self.region(region)?;
            let values = self.yields(region)?;
            let mut regs = vec![];
            for (value, ty) in values.into_iter().zip(&types) {
                regs.push(self.value_reg(value, *ty)?);
            }
            ends.push((self.here, regs));
            self.scopes.pop();
        }
        self.region = outer;
        let exit = self.func.block();
        for (end, regs) in ends {
            self.func.at(end).term = Term::Jump(exit, regs);
        }
        self.func.at(before).term = Term::Branch { test, then: starts[0], els: starts[1] };
        self.here = exit;
        for (v, value) in results.iter().zip(self.exit_values(exit, &types)?) {
            self.set(*v, value);
        }
        Ok(())
    }
}

/// What stands for a register of the kernel.
fn bound(v: VReg, ty: Ty) -> Value {
    if ty == Ty::Index { Value::Linear(Linear::register(v)) } else { Value::Reg(v) }
}

fn trip_count(lo: i64, hi: i64, step: i64) -> i64 {
    if hi <= lo { 0 } else { (hi.wrapping_sub(lo) as u64).div_ceil(step as u64) as i64 }
}

/// How many iterations make one round.
fn factor(trips: i64, unroll: u32) -> i64 {
    (unroll.max(1) as i64).min(trips.max(1))
}
