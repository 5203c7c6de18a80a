//! Building kernels: instructions are appended to the innermost open region.
//!
//! Equal pure instructions that are in scope become one (hash-consing), and constants fold where
//! that is exact: arithmetic on `Index`, and operations whose result is one of their operands.

use super::ir::*;
use crate::base::machine::Numerics;
use crate::base::{DType, FastMap};
use crate::ir::scalar::Combine;

/// What makes two pure instructions the same.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Const(Ty, Lit),
    Grid(u8),
    Local(u8),
    /// Filled up with [`NONE`].
    Op(Op, [Val; 3]),
    Lane(LaneOp, Ty, Args),
    Fold(Combine, Val),
}

/// No register.
const NONE: Val = Val(u32::MAX);

/// A region that is being filled.
struct Open {
    insts: Vec<Inst>,
    /// Tells the regions apart that were open at the same depth.
    serial: u32,
}

/// The result of a pure instruction, and the region that holds it.
struct Known {
    val: Val,
    depth: u32,
    serial: u32,
}

pub struct KernelBuilder {
    kernel: Kernel,
    open: Vec<Open>,
    /// How many regions were opened.
    opened: u32,
    /// Pure instructions of all regions, also of those that ended.
    known: FastMap<Key, Known>,
    /// The literal of every register that is a constant, by `Val`.
    literals: Vec<Option<Lit>>,
}

impl KernelBuilder {
    pub fn new(name: &str, numerics: Numerics) -> KernelBuilder {
        let kernel = Kernel {
            name: name.into(),
            numerics,
            grid: [1; 3],
            local: [1; 3],
            params: vec![],
            inplace: vec![],
            scratch: vec![],
            types: vec![],
            body: Region::default(),
            pattern: None,
        };
        let mut b = KernelBuilder {
            kernel,
            open: vec![],
            opened: 0,
            known: FastMap::default(),
            literals: vec![],
        };
        b.enter();
        b
    }

    /// An empty kernel with the name, grid, parameters and scratch of another.
    pub(super) fn like(kernel: &Kernel) -> KernelBuilder {
        let mut b = KernelBuilder::new(&kernel.name, kernel.numerics);
        b.kernel.grid = kernel.grid;
        b.kernel.local = kernel.local;
        b.kernel.params = kernel.params.clone();
        b.kernel.inplace = kernel.inplace.clone();
        b.kernel.scratch = kernel.scratch.clone();
        b
    }

    pub fn numerics(&self) -> Numerics {
        self.kernel.numerics
    }

    /// The kernel's buffers, for passes that change how their elements are seen.
    pub(super) fn buffers_mut(&mut self) -> (&mut [Param], &mut [Scratch]) {
        (&mut self.kernel.params, &mut self.kernel.scratch)
    }

    /// Opens a region; what follows goes there until `leave`.
    pub(super) fn enter(&mut self) {
        self.open.push(Open { insts: vec![], serial: self.opened });
        self.opened += 1;
    }

    /// The instructions of the innermost region, which ends.
    pub(super) fn leave(&mut self) -> Vec<Inst> {
        self.open.pop().expect("the region is open").insts
    }

    pub fn set_grid(&mut self, grid: [u32; 3]) {
        self.kernel.grid = grid;
    }

    /// Invocations of a workgroup.
    pub fn set_local(&mut self, local: [u32; 3]) {
        self.kernel.local = local;
    }

    pub fn param(&mut self, name: &str, elem: DType, len: u64, access: Access) -> Buf {
        self.kernel.params.push(Param { name: name.into(), elem, len, access });
        Buf::Param(self.kernel.params.len() as u16 - 1)
    }

    /// Declares that a written parameter may be the same buffer as a read one.
    pub fn inplace(&mut self, out: Buf, input: Buf) {
        if let (Buf::Param(o), Buf::Param(i)) = (out, input) {
            self.kernel.inplace.push((o, i));
        }
    }

    pub fn scratch(&mut self, elem: DType, len: u64) -> Buf {
        self.kernel.scratch.push(Scratch { elem, len, scope: Scope::Worker });
        Buf::Scratch(self.kernel.scratch.len() as u16 - 1)
    }

    /// Memory of a workgroup.
    pub fn shared(&mut self, elem: DType, len: u64) -> Buf {
        self.kernel.scratch.push(Scratch { elem, len, scope: Scope::Shared });
        Buf::Scratch(self.kernel.scratch.len() as u16 - 1)
    }

    pub fn ty(&self, v: Val) -> Ty {
        self.kernel.ty(v)
    }

    /// The element type of a buffer.
    pub fn elem(&self, buf: Buf) -> DType {
        match buf {
            Buf::Param(i) => self.kernel.params[i as usize].elem,
            Buf::Scratch(i) => self.kernel.scratch[i as usize].elem,
        }
    }

    pub(super) fn fresh(&mut self, ty: Ty) -> Val {
        self.kernel.types.push(ty);
        self.literals.push(None);
        Val(self.kernel.types.len() as u32 - 1)
    }

    pub(super) fn push(&mut self, inst: Inst) {
        self.open.last_mut().expect("a region is open").insts.push(inst);
    }

    /// The register of a pure instruction, made once for each scope that can see it.
    fn pure(&mut self, key: Key, ty: Ty, inst: impl FnOnce(Val) -> Inst) -> Val {
        let in_scope =
            |k: &Known| self.open.get(k.depth as usize).is_some_and(|open| open.serial == k.serial);
        match self.known.get(&key) {
            Some(k) if in_scope(k) => return k.val,
            Some(_) | None => {}
        }
        let dst = self.fresh(ty);
        self.push(inst(dst));
        let depth = self.open.len() as u32 - 1;
        let serial = self.open.last().expect("a region is open").serial;
        self.known.insert(key, Known { val: dst, depth, serial });
        dst
    }

    pub fn constant(&mut self, ty: Ty, value: Lit) -> Val {
        let v = self.pure(Key::Const(ty, value), ty, |dst| Inst::Const { dst, value });
        self.literals[v.0 as usize] = Some(value);
        v
    }

    /// An `Index` constant.
    pub fn index(&mut self, v: i64) -> Val {
        self.constant(Ty::Index, Lit::index(v))
    }

    /// A float or integer constant in every lane.
    pub fn number(&mut self, dtype: DType, lanes: u16, v: f64) -> Val {
        self.constant(Ty::of(dtype, lanes), Lit::new(dtype, v))
    }

    /// The literal of a register that is a constant (in every lane).
    pub fn literal(&self, v: Val) -> Option<Lit> {
        self.literals[v.0 as usize]
    }

    pub fn grid(&mut self, axis: u8) -> Val {
        if self.kernel.grid[axis as usize] == 1 {
            return self.index(0);
        }
        self.pure(Key::Grid(axis), Ty::Index, |dst| Inst::Grid { dst, axis })
    }

    pub fn local(&mut self, axis: u8) -> Val {
        if self.kernel.local[axis as usize] == 1 {
            return self.index(0);
        }
        self.pure(Key::Local(axis), Ty::Index, |dst| Inst::Local { dst, axis })
    }

    /// A lanewise operation; all operands have the same lanes.
    pub fn op(&mut self, op: Op, args: &[Val]) -> Val {
        if let Some(v) = self.fold_op(op, args) {
            return v;
        }
        let first = self.ty(args[0]);
        let ty = match op {
            Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge => Ty::Mask(first.lanes()),
            Op::Select => self.ty(args[1]),
            Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::Rem
            | Op::Neg
            | Op::Abs
            | Op::Sqrt
            | Op::Floor
            | Op::Ceil
            | Op::Trunc
            | Op::Round
            | Op::Fma
            | Op::Min
            | Op::Max
            | Op::And
            | Op::Or
            | Op::Xor
            | Op::Not
            | Op::Shl
            | Op::Shr
            | Op::Exp
            | Op::Expm1
            | Op::Log
            | Op::Log1p
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Erf
            | Op::Pow
            | Op::Scale => first,
        };
        let mut key = [NONE; 3];
        key[..args.len()].copy_from_slice(args);
        self.pure(Key::Op(op, key), ty, |dst| Inst::Op { dst, op, args: args.into() })
    }

    /// Exact folding: `Index` arithmetic, and operations that give back an operand.
    fn fold_op(&mut self, op: Op, args: &[Val]) -> Option<Val> {
        if op == Op::Select {
            let same = args[1] == args[2];
            let known = self.literal(args[0]).map(|c| c.bits != 0);
            return match known {
                Some(c) => Some(if c { args[1] } else { args[2] }),
                None => same.then_some(args[1]),
            };
        }
        if self.ty(args[0]) != Ty::Index || args.len() != 2 {
            return None;
        }
        let value = |b: &Self, v| b.literal(v).map(|l| l.bits as i64);
        let (a, b) = (value(self, args[0]), value(self, args[1]));
        if let (Some(a), Some(b)) = (a, b) {
            let c = match op {
                Op::Add => a.wrapping_add(b),
                Op::Sub => a.wrapping_sub(b),
                Op::Mul => a.wrapping_mul(b),
                Op::Div if b > 0 => a.div_euclid(b),
                Op::Rem if b > 0 => a.rem_euclid(b),
                Op::Min => a.min(b),
                Op::Max => a.max(b),
                Op::Lt => return Some(self.condition(a < b)),
                Op::Le => return Some(self.condition(a <= b)),
                Op::Gt => return Some(self.condition(a > b)),
                Op::Ge => return Some(self.condition(a >= b)),
                Op::Eq => return Some(self.condition(a == b)),
                Op::Ne => return Some(self.condition(a != b)),
                _ => return None,
            };
            return Some(self.index(c));
        }
        match (op, a, b) {
            (Op::Add | Op::Sub, _, Some(0)) | (Op::Mul | Op::Div, _, Some(1)) => Some(args[0]),
            (Op::Add, Some(0), _) | (Op::Mul, Some(1), _) => Some(args[1]),
            (Op::Mul, _, Some(0)) | (Op::Mul, Some(0), _) | (Op::Rem, _, Some(1)) => {
                Some(self.index(0))
            }
            _ => None,
        }
    }

    /// A constant condition.
    pub fn condition(&mut self, c: bool) -> Val {
        self.constant(Ty::Mask(1), Lit { dtype: DType::Bool, bits: c as u64 })
    }

    pub fn add(&mut self, a: Val, b: Val) -> Val {
        self.op(Op::Add, &[a, b])
    }

    pub fn mul(&mut self, a: Val, b: Val) -> Val {
        self.op(Op::Mul, &[a, b])
    }

    /// `v + c` on an `Index`.
    pub fn offset(&mut self, v: Val, c: i64) -> Val {
        let c = self.index(c);
        self.op(Op::Add, &[v, c])
    }

    /// `v · c` on an `Index`.
    pub fn times(&mut self, v: Val, c: i64) -> Val {
        let c = self.index(c);
        self.op(Op::Mul, &[v, c])
    }

    /// `a · b + c` in the kernel's numeric class.
    pub fn mul_add(&mut self, a: Val, b: Val, c: Val) -> Val {
        match self.numerics() {
            Numerics::Fused => self.op(Op::Fma, &[a, b, c]),
            Numerics::Separate => {
                let p = self.op(Op::Mul, &[a, b]);
                self.op(Op::Add, &[p, c])
            }
        }
    }

    pub fn lane(&mut self, op: LaneOp, ty: Ty, args: &[Val]) -> Val {
        let key = Key::Lane(op.clone(), ty, args.into());
        self.pure(key, ty, |dst| Inst::Lane { dst, op, args: args.into() })
    }

    /// A scalar in every lane; itself for one lane.
    pub fn splat(&mut self, v: Val, lanes: u16) -> Val {
        let ty = self.ty(v);
        if lanes == 1 {
            return v;
        }
        if let Some(lit) = self.literal(v) {
            return self.constant(ty.with_lanes(lanes), lit);
        }
        self.lane(LaneOp::Splat, ty.with_lanes(lanes), &[v])
    }

    pub fn convert(&mut self, v: Val, to: DType) -> Val {
        let ty = self.ty(v);
        if ty.dtype() == to && ty != Ty::Index {
            return v;
        }
        self.lane(LaneOp::Convert, Ty::of(to, ty.lanes()), &[v])
    }

    /// An integer element as an `Index`.
    pub fn to_index(&mut self, v: Val) -> Val {
        self.lane(LaneOp::Convert, Ty::Index, &[v])
    }

    pub fn bitcast(&mut self, v: Val, to: DType) -> Val {
        let ty = Ty::of(to, self.ty(v).lanes());
        self.lane(LaneOp::Bitcast, ty, &[v])
    }

    pub fn fold(&mut self, combine: Combine, v: Val) -> Val {
        let ty = self.ty(v).with_lanes(1);
        self.pure(Key::Fold(combine, v), ty, |dst| Inst::Fold { dst, combine, v })
    }

    /// A scalar of all invocations, combined along local axis 1.
    pub fn group_fold(&mut self, combine: Combine, v: Val) -> Val {
        let dst = self.fresh(self.ty(v));
        self.push(Inst::GroupFold { dst, combine, v });
        dst
    }

    /// No invocation of a workgroup goes on before all of them are here.
    pub fn barrier(&mut self) {
        self.push(Inst::Barrier);
    }

    /// Loads `lanes` elements that follow each other.
    pub fn load(&mut self, at: Addr, lanes: u16) -> Val {
        self.load_as(at, lanes, LoadMode::Contig, lanes, None)
    }

    /// Loads one element into every lane.
    pub fn load_splat(&mut self, at: Addr, lanes: u16) -> Val {
        let mode = if lanes == 1 { LoadMode::Contig } else { LoadMode::Splat };
        self.load_as(at, lanes, mode, lanes, None)
    }

    pub fn load_as(
        &mut self,
        at: Addr,
        lanes: u16,
        mode: LoadMode,
        valid: u16,
        fill: Option<Lit>,
    ) -> Val {
        let dst = self.fresh(Ty::of(self.elem(at.buf), lanes));
        self.push(Inst::Load { dst, at, mode, valid, fill });
        dst
    }

    /// Asks for a cache line before it is needed.
    pub fn prefetch(&mut self, at: Addr) {
        self.push(Inst::Prefetch { at });
    }

    pub fn store(&mut self, at: Addr, v: Val) {
        let valid = self.ty(v).lanes();
        self.push(Inst::Store { at, v, valid });
    }

    /// Stores only the first `valid` lanes.
    pub fn store_valid(&mut self, at: Addr, v: Val, valid: u16) {
        self.push(Inst::Store { at, v, valid });
    }

    /// `for i in (lo..hi).step_by(step)`; the closure gets the counter and the carried values and
    /// returns the next ones.
    pub fn for_loop(
        &mut self,
        (lo, hi, step): (Val, Val, i64),
        init: &[Val],
        body: impl FnOnce(&mut Self, Val, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        let counter = self.fresh(Ty::Index);
        let carried: Vec<Val> = init.iter().map(|v| self.fresh(self.ty(*v))).collect();
        self.enter();
        let yields = body(self, counter, &carried);
        let insts = self.leave();
        let params = [&[counter], &carried[..]].concat();
        let results: Vec<Val> = init.iter().map(|v| self.fresh(self.ty(*v))).collect();
        self.push(Inst::For {
            results: results.clone(),
            lo,
            hi,
            step,
            init: init.to_vec(),
            body: Region { params, insts, yields },
            unroll: 1,
        });
        results
    }

    /// The instruction that was appended last to the innermost region.
    #[cfg(test)]
    pub fn last_mut(&mut self) -> Option<&mut Inst> {
        self.open.last_mut()?.insts.last_mut()
    }

    pub fn if_else(
        &mut self,
        cond: Val,
        then: impl FnOnce(&mut Self) -> Vec<Val>,
        els: impl FnOnce(&mut Self) -> Vec<Val>,
    ) -> Vec<Val> {
        self.enter();
        let yields = then(self);
        let insts = self.leave();
        let types: Vec<Ty> = yields.iter().map(|v| self.ty(*v)).collect();
        let then = Region { params: vec![], insts, yields };
        self.enter();
        let yields = els(self);
        let insts = self.leave();
        let els = Region { params: vec![], insts, yields };
        let results: Vec<Val> = types.into_iter().map(|ty| self.fresh(ty)).collect();
        self.push(Inst::If { results: results.clone(), cond, then, els });
        results
    }

    pub fn finish(mut self) -> Kernel {
        let top = self.open.pop().expect("the body is open");
        assert!(self.open.is_empty(), "every region was closed");
        self.kernel.body.insts = top.insts;
        self.kernel
    }
}
