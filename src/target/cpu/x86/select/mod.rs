//! A legalized kernel → machine instructions in SSA form.
//!
//! One walk over the kernel. Values are made where they are needed: index arithmetic stays a linear
//! form until a register or an address asks for it, a load stays in place until its first reader
//! (which then may read memory itself), constants are made at their readers unless a register is
//! free for them all the time.
//!
//! Code that depends only on outer loops is placed before the inner ones: [`Selector::at_depth`].
//! Depth 0 is the entry, 1 the loop over grid points, then each loop and each arm of a branch.

mod address;
mod compare;
mod control;
mod convert;
mod float;
mod integer;
mod lanes;
mod memory;
mod vector;

use super::codes::{Fp, Shape, Width};
use super::frame::Abi;
use super::info::{ConstKey, Info, analyze};
use super::inst::{Arg, BlockId, Code, Func, Inst, Mem, RegClass, Src, VReg, View};
use super::linear::Linear;
use super::{Level, Res, reject};
use crate::base::FastMap;
use crate::kernel::ir::{self, Kernel, LaneOp, Lit, Op, Region, Ty, Val};
use compare::Compare;
use memory::Load;

/// What stands for a register of the kernel.
#[derive(Clone, Debug)]
enum Value {
    Undefined,
    Reg(VReg),
    Const(Lit),
    /// Index arithmetic.
    Linear(Linear),
    /// A load that has not happened yet.
    Load(Load),
    /// A comparison of scalars, made again at each reader.
    Compare(Compare),
    /// A vector of narrow integers, still as the 32-bit integers that it is made of.
    Narrow(VReg),
}

/// What is known to be in a register, so that it is made once.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Memo {
    Linear(Linear),
    /// A pointer that moves along with the loop.
    Pointer(Linear),
    Const(ConstKey),
    /// The mask register with this many low bits set.
    LowMask(u16),
    Param(u16),
    /// A comparison as 0 or 1.
    Bool(Compare),
    /// Floor division by a constant.
    Quotient(VReg, i64),
}

/// A loop, or an arm of a branch, that is being filled.
struct Scope {
    /// The block before it, where what does not depend on it is placed.
    before: BlockId,
    memo: FastMap<Memo, VReg>,
    kind: ScopeKind,
}

enum ScopeKind {
    Entry,
    Arm,
    Loop(LoopScope),
}

struct LoopScope {
    header: BlockId,
    /// What counts the iterations, its first value, and its step; none if several axes do.
    counter: Option<(VReg, Linear, i64)>,
    /// Pointers that move along: the register in the loop, its start, its step in bytes.
    pointers: Vec<(VReg, VReg, i64)>,
}

struct Selector<'k> {
    kernel: &'k Kernel,
    level: Level,
    func: Func,
    info: Info,
    vals: Vec<Value>,
    /// The depth at which each virtual register is defined.
    depths: Vec<u8>,
    scopes: Vec<Scope>,
    /// The block of the innermost scope that is being filled.
    here: BlockId,
    /// Where instructions go instead, if not there.
    depth: Option<usize>,
    /// Loads that have not happened yet.
    pending: Vec<Val>,
    /// The number of the current instruction and of its region, as in [`Info`].
    id: u32,
    region: u32,
    regions: u32,
    buffers: VReg,
    scratch: VReg,
    grid: [Linear; 3],
}

/// The kernel's function before register allocation.
pub fn select(kernel: &Kernel, level: Level, abi: &Abi) -> Res<Func> {
    if kernel.local != [1; 3] {
        return reject("workgroups of more than one invocation");
    }
    let mut func = Func::default();
    let here = func.block();
    let none = VReg::invalid();
    let entry = Scope { before: here, memo: FastMap::default(), kind: ScopeKind::Entry };
    let mut selector = Selector {
        kernel,
        level,
        func,
        info: analyze(kernel, level),
        vals: vec![Value::Undefined; kernel.types.len()],
        depths: vec![],
        scopes: vec![entry],
        here,
        depth: None,
        pending: vec![],
        id: 0,
        region: 0,
        regions: 0,
        buffers: none,
        scratch: none,
        grid: [(); 3].map(|()| Linear::default()),
    };
    selector.frame(abi)?;
    Ok(selector.func)
}

// Where code goes, and registers.
impl Selector<'_> {
    /// The depth at which instructions are placed now.
    fn depth(&self) -> usize {
        self.depth.unwrap_or(self.scopes.len() - 1)
    }

    fn block(&self) -> BlockId {
        match self.depth {
            Some(d) if d + 1 < self.scopes.len() => self.scopes[d + 1].before,
            Some(_) | None => self.here,
        }
    }

    /// Places what `f` makes where everything of this depth is known, and nothing deeper.
    fn at_depth<T>(&mut self, depth: usize, f: impl FnOnce(&mut Self) -> T) -> T {
        let depth = depth.min(self.depth());
        let before = self.depth.replace(depth);
        let result = f(self);
        self.depth = before;
        result
    }

    fn push(&mut self, inst: Inst) {
        let block = self.block();
        self.func.at(block).insts.push(inst);
    }

    fn vreg(&mut self, class: RegClass) -> VReg {
        self.depths.push(self.depth() as u8);
        self.func.vreg(class)
    }

    fn known(&self, memo: &Memo, depth: usize) -> Option<VReg> {
        self.scopes[depth].memo.get(memo).copied()
    }

    fn remember(&mut self, memo: Memo, depth: usize, v: VReg) {
        self.scopes[depth].memo.insert(memo, v);
    }

    /// `code dst, a`.
    fn unary(&mut self, code: Code, view: View, from: View, a: Src) -> VReg {
        let dst = self.vreg(view.class());
        self.push(Inst::new(code).def(dst, view).src(a, from));
        dst
    }

    /// `code dst, a, b`.
    fn binary(&mut self, code: Code, view: View, a: VReg, b: Src) -> VReg {
        let dst = self.vreg(view.class());
        self.push(Inst::new(code).def(dst, view).read(a, view).src(b, view));
        dst
    }

    /// `code dst, a, imm`.
    fn with_imm(&mut self, code: Code, view: View, from: View, a: Src, imm: u8) -> VReg {
        let dst = self.vreg(view.class());
        self.push(Inst::new(code).def(dst, view).src(a, from).imm8(imm));
        dst
    }

    /// A float or vector register full of zeros.
    fn zero(&mut self) -> VReg {
        let dst = self.vreg(RegClass::Float);
        let (code, view) = match self.level {
            Level::V3 => (Code::VEX_Vxorps_xmm_xmm_xmmm128, View::X),
            Level::V4 => (Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32, View::Z),
        };
        let inst = Inst::new(code).def(dst, view);
        self.push(inst.arg(Arg::Same(view)).arg(Arg::Same(view)));
        dst
    }
}

// Values of the kernel.
impl Selector<'_> {
    fn ty(&self, v: Val) -> Ty {
        self.kernel.ty(v)
    }

    fn set(&mut self, v: Val, value: Value) {
        self.vals[v.0 as usize] = value;
    }

    fn set_reg(&mut self, v: Val, reg: VReg) {
        self.set(v, Value::Reg(reg));
    }

    fn shape(&self, ty: Ty) -> Shape {
        let (level, dtype) = (self.level, ty.dtype());
        let width = match ty {
            Ty::Vector(d, n) => Width::of(n as usize * d.bytes().max(4)).unwrap_or(Width::One),
            Ty::Index | Ty::Scalar(_) | Ty::Mask(_) => Width::One,
        };
        Shape { level, dtype, width }
    }

    /// The class of the registers that hold a type.
    fn class(&self, ty: Ty) -> Res<RegClass> {
        Ok(match ty {
            Ty::Index | Ty::Mask(1) => RegClass::Int,
            Ty::Scalar(d) if d.is_float() && d.bytes() >= 4 => RegClass::Float,
            Ty::Scalar(d) if d.is_int() => RegClass::Int,
            Ty::Vector(d, n)
                if (d.bytes() >= 4 || d.is_int()) && self.fits(n, d.bytes().max(4)) =>
            {
                RegClass::Float
            }
            Ty::Mask(n) if self.fits(n, 4) || self.fits(n, 8) => match self.level {
                Level::V4 => RegClass::Vector,
                Level::V3 => RegClass::Float,
            },
            Ty::Scalar(_) | Ty::Vector(..) | Ty::Mask(_) => {
                return reject(format!("a register of type {ty:?}"));
            }
        })
    }

    /// Whether so many lanes of so many bytes are a vector of the machine.
    fn fits(&self, lanes: u16, bytes: usize) -> bool {
        let size = lanes as usize * bytes;
        Width::of(size).is_some() && size <= self.level.bytes()
    }

    /// Whether this instruction reads the register for the last time, in the region that made it.
    fn dies(&self, v: Val) -> bool {
        let i = v.0 as usize;
        self.info.last[i] == self.id && self.info.region[i] == self.region
    }

    fn literal(&self, v: Val) -> Option<Lit> {
        match &self.vals[v.0 as usize] {
            Value::Const(lit) => Some(*lit),
            Value::Linear(l) => l.as_constant().map(Lit::index),
            Value::Undefined
            | Value::Reg(_)
            | Value::Load(_)
            | Value::Compare(_)
            | Value::Narrow(_) => None,
        }
    }

    /// How deep a value must be placed.
    fn value_depth(&self, v: Val) -> usize {
        let of = |r: VReg| self.depths[r.vreg()] as usize;
        match &self.vals[v.0 as usize] {
            Value::Const(_) => 0,
            Value::Reg(r) | Value::Narrow(r) => of(*r),
            Value::Linear(l) => l.terms.iter().map(|(r, _)| of(*r)).max().unwrap_or(0),
            Value::Compare(c) => c.registers().map(of).max().unwrap_or(0),
            Value::Undefined | Value::Load(_) => self.scopes.len() - 1,
        }
    }

    /// The depth for a pure instruction: outside the loops that its operands do not depend on, but
    /// inside the branch that it stands in.
    fn pure_depth(&self, args: &[Val]) -> usize {
        let arm = self.scopes.iter().rposition(|s| matches!(s.kind, ScopeKind::Arm));
        let args = args.iter().map(|v| self.value_depth(*v)).max().unwrap_or(0);
        args.max(arm.unwrap_or(0)).max(1).min(self.scopes.len() - 1)
    }

    /// The register of a value.
    fn reg(&mut self, v: Val) -> Res<VReg> {
        match &self.vals[v.0 as usize] {
            Value::Reg(r) => Ok(*r),
            Value::Const(lit) => {
                let lit = *lit;
                self.constant(self.ty(v), lit)
            }
            Value::Linear(l) => {
                let l = l.clone();
                Ok(self.linear_reg(&l))
            }
            Value::Load(_) => self.load_now(v),
            Value::Compare(c) => {
                let c = c.clone();
                Ok(self.bool_reg(&c))
            }
            Value::Narrow(_) => reject("a vector of narrow integers that is not stored"),
            Value::Undefined => reject(format!("%{} is used before its definition", v.0)),
        }
    }

    /// A value that an instruction on vectors or floats reads, from memory where that is possible.
    fn src(&mut self, v: Val) -> Res<Src> {
        match &self.vals[v.0 as usize] {
            Value::Const(lit) => {
                let lit = *lit;
                self.constant_src(self.ty(v), lit)
            }
            Value::Load(load) if self.info.in_place(v) => match load.foldable(self.level) {
                Some(src) => Ok(src),
                None => Ok(Src::Reg(self.reg(v)?)),
            },
            Value::Undefined
            | Value::Reg(_)
            | Value::Linear(_)
            | Value::Load(_)
            | Value::Compare(_)
            | Value::Narrow(_) => Ok(Src::Reg(self.reg(v)?)),
        }
    }

    /// Whether `src` would read memory.
    fn is_memory(&self, v: Val) -> bool {
        match &self.vals[v.0 as usize] {
            Value::Const(lit) => !self.is_kept(self.ty(v), *lit) && lit.bits != 0,
            Value::Load(load) => self.info.in_place(v) && load.foldable(self.level).is_some(),
            Value::Undefined
            | Value::Reg(_)
            | Value::Linear(_)
            | Value::Compare(_)
            | Value::Narrow(_) => false,
        }
    }

    fn is_kept(&self, ty: Ty, lit: Lit) -> bool {
        self.info.kept.contains(&ConstKey::new(ty, lit))
    }

    fn constant_src(&mut self, ty: Ty, lit: Lit) -> Res<Src> {
        let in_vector = self.class(ty)? == RegClass::Float && !matches!(ty, Ty::Mask(_));
        if !in_vector || lit.bits == 0 || self.is_kept(ty, lit) {
            return Ok(Src::Reg(self.constant(ty, lit)?));
        }
        let element = &lit.bits.to_le_bytes()[..lit.dtype.bytes()];
        Ok(match (ty, self.level) {
            (Ty::Vector(..), Level::V3) => {
                Src::Mem(self.pooled(element.repeat(32 / element.len())))
            }
            (Ty::Vector(..), Level::V4) => Src::Broadcast(self.pooled(element.to_vec())),
            _ => Src::Mem(self.pooled(element.to_vec())),
        })
    }

    fn pooled(&mut self, bytes: Vec<u8>) -> Mem {
        Mem::pool(self.func.pool.entry(bytes))
    }

    /// A constant in a register.
    fn constant(&mut self, ty: Ty, lit: Lit) -> Res<VReg> {
        match (ty, self.class(ty)?) {
            (Ty::Mask(n @ 2..), _) => return Ok(self.mask_constant(n, lit.bits != 0)),
            (_, RegClass::Int) => {
                return Ok(self.int_constant(lit.as_int().unwrap_or(lit.bits as i64)));
            }
            (_, RegClass::Float | RegClass::Vector) => {}
        }
        if lit.dtype.bytes() < 4 {
            return reject(format!("a constant vector of {}", lit.dtype));
        }
        if !self.is_kept(ty, lit) {
            return Ok(self.vector_constant(ty, lit));
        }
        let memo = Memo::Const(ConstKey::new(ty, lit));
        if let Some(v) = self.known(&memo, 0) {
            return Ok(v);
        }
        let v = self.at_depth(0, |s| s.vector_constant(ty, lit));
        self.remember(memo, 0, v);
        Ok(v)
    }

    fn vector_constant(&mut self, ty: Ty, lit: Lit) -> VReg {
        if lit.bits == 0 {
            return self.zero();
        }
        // In the whole register, for vectors of all widths.
        let (op, shape) = match ty {
            Ty::Vector(d, _) => (Fp::Broadcast, Shape::full(self.level, d)),
            Ty::Index | Ty::Scalar(_) | Ty::Mask(_) => (Fp::Load, self.shape(ty)),
        };
        let mem = self.pooled(lit.bits.to_le_bytes()[..lit.dtype.bytes()].to_vec());
        self.unary(op.code(shape), shape.view(), View::X, Src::Mem(mem))
    }

    /// An integer of up to 64 bits; the upper half is right for both widths.
    fn int_constant(&mut self, v: i64) -> VReg {
        let dst = self.vreg(RegClass::Int);
        self.push(match (u32::try_from(v), i32::try_from(v)) {
            (Ok(v), _) => {
                Inst::new(Code::Mov_r32_imm32).def(dst, View::R32).arg(Arg::Imm32(v as i32))
            }
            (_, Ok(v)) => {
                Inst::new(Code::Mov_rm64_imm32).def(dst, View::R64).arg(Arg::Imm32Signed(v))
            }
            _ => Inst::new(Code::Mov_r64_imm64).def(dst, View::R64).arg(Arg::Imm64(v)),
        });
        dst
    }
}

// The walk.
impl Selector<'_> {
    /// The instructions of a region, whose parameters were set before.
    fn region(&mut self, region: &Region) -> Res<()> {
        for inst in &region.insts {
            self.id += 1;
            self.inst(inst)?;
        }
        self.id += 1;
        Ok(())
    }

    fn inst(&mut self, inst: &ir::Inst) -> Res<()> {
        match inst {
            ir::Inst::Const { dst, value } => {
                let value = match self.ty(*dst) {
                    Ty::Index => Value::Linear(Linear::constant(value.bits as i64)),
                    Ty::Scalar(_) | Ty::Vector(..) | Ty::Mask(_) => Value::Const(*value),
                };
                self.set(*dst, value);
            }
            ir::Inst::Grid { dst, axis } => {
                let l = self.grid[*axis as usize].clone();
                self.set(*dst, Value::Linear(l));
            }
            ir::Inst::Local { dst, .. } => self.set(*dst, Value::Linear(Linear::constant(0))),
            ir::Inst::Op { dst, op, args } => self.op(*dst, *op, args)?,
            ir::Inst::Fold { .. } => return reject("a fold, which is expanded before"),
            ir::Inst::GroupFold { .. } => return reject("a workgroup, which is for GPUs"),
            ir::Inst::Lane { dst, op, args } => self.lane(*dst, op, args)?,
            ir::Inst::Load { dst, at, mode, valid, fill } => {
                self.load(*dst, at, *mode, *valid, *fill)?;
            }
            ir::Inst::Store { at, v, valid } => self.store(at, *v, *valid)?,
            ir::Inst::For { results, lo, hi, step, init, body, unroll } => {
                self.for_loop(results, (*lo, *hi, *step), init, body, *unroll)?;
            }
            ir::Inst::If { results, cond, then, els } => self.branch(results, *cond, then, els)?,
            ir::Inst::Prefetch { at } => {
                let mem = self.address(at)?;
                self.push(Inst::new(Code::Prefetcht1_m8).mem(mem));
            }
            ir::Inst::Barrier => {}
        }
        Ok(())
    }

    fn op(&mut self, dst: Val, op: Op, args: &[Val]) -> Res<()> {
        let ty = self.ty(args[if op == Op::Select { 1 } else { 0 }]);
        let depth = self.pure_depth(args);
        self.at_depth(depth, |s| {
            if let Some(order) = op.order() {
                return s.compare(dst, order, args[0], args[1]);
            }
            if op == Op::Select {
                let chosen = s.select_op(args[0], args[1], args[2])?;
                s.set_reg(dst, chosen);
                return Ok(());
            }
            match ty {
                Ty::Index => s.index_op(dst, op, args),
                Ty::Mask(n) => s.mask_op(dst, op, args, n),
                Ty::Scalar(d) | Ty::Vector(d, _) if d.is_float() => s.float_op(dst, op, args, ty),
                Ty::Scalar(_) => s.int_op(dst, op, args, ty),
                Ty::Vector(..) => s.vector_op(dst, op, args, ty),
            }
        })
    }

    fn lane(&mut self, dst: Val, op: &LaneOp, args: &[Val]) -> Res<()> {
        let depth = self.pure_depth(args);
        self.at_depth(depth, |s| match op {
            LaneOp::Convert => s.convert(dst, args[0]),
            _ => s.lane_op(dst, op, args),
        })
    }
}
