//! A legalized Kernel → a Cranelift function: the frame, the grid loop, regions.
//!
//! In: a kernel whose vectors have 16 bytes at most, without math functions, with f16 and bf16 only
//! in loads, stores and bit patterns. Out: a leaf function with the signature of `KernelFn`, free of
//! calls and relocations.
//!
//! How registers are held:
//! - an index is `i64`; a scalar is its own type (f16 and bf16: their bits as `i16`);
//! - a vector fills one 128-bit register from lane 0 on; lanes beyond its own hold anything;
//! - `Mask(1)` is an `i8`, 0 or 1; `Mask(n)` is a vector of n integers of 128/n bits, 0 or -1.
//!
//! Loads from buffers that nobody writes are marked `readonly + can_move`, so that Cranelift places
//! them at their use and folds them into instructions. A load that can move may run earlier than
//! its guard, so the mark is only set where no guard stands between the load and the loop levels
//! that its address depends on (`Emitter::speculation_safe`).

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{self, Type};
use cranelift_codegen::ir::{
    AbiParam, Block, BlockArg, Endianness, Function, InstBuilder, MemFlagsData, Value,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use super::isa::Features;
use crate::base::DType;
use crate::kernel::ir::{Buf, Inst, Kernel, Lit, Region, Scope, Ty, Val};

/// Why a kernel cannot be emitted: what it holds that this target has no code for.
#[derive(Debug)]
pub(super) struct Reject(pub String);

pub(super) type Res<T> = Result<T, Reject>;

pub(super) fn reject<T>(what: impl Into<String>) -> Res<T> {
    Err(Reject(what.into()))
}

/// Regions nested deeper than this are refused, so that the recursion over them is bounded.
const MAX_DEPTH: usize = 200;

pub(super) struct Emitter<'a> {
    pub kernel: &'a Kernel,
    pub b: FunctionBuilder<'a>,
    pub features: Features,
    /// The Cranelift value of each register that is in scope.
    regs: Vec<Option<Value>>,
    /// What is known of each register beside its value.
    pub facts: Vec<Fact>,
    /// Whether each open region surely runs once its parent does, outermost first.
    certain: Vec<bool>,
    params: Vec<Value>,
    scratch: Vec<Value>,
    grid: [Value; 3],
}

#[derive(Clone, Copy, Default)]
pub(super) struct Fact {
    /// The constant in every lane.
    pub literal: Option<Lit>,
    /// The scalar in every lane.
    pub splat_of: Option<Val>,
    /// An index or integer that is surely at least 0.
    pub nonnegative: bool,
    /// How many open regions the value depends on: it could be computed at that depth.
    pub depth: usize,
}

/// Fills `func` with the kernel's code.
pub(super) fn emit(
    kernel: &Kernel,
    isa: &dyn TargetIsa,
    features: Features,
    func: &mut Function,
    context: &mut FunctionBuilderContext,
) -> Res<()> {
    if kernel.local != [1; 3] {
        return reject("workgroups of more than one invocation");
    }
    func.signature.call_conv = isa.default_call_conv();
    func.signature.params = vec![AbiParam::new(types::I64); 4];
    let mut b = FunctionBuilder::new(func, context);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let abi = b.block_params(entry).to_vec();
    let zero = b.ins().iconst(types::I64, 0);
    let mut emitter = Emitter {
        kernel,
        b,
        features,
        regs: vec![None; kernel.types.len()],
        facts: vec![Fact::default(); kernel.types.len()],
        certain: vec![],
        params: vec![],
        scratch: vec![],
        grid: [zero; 3],
    };
    emitter.frame(&abi)?;
    emitter.b.seal_all_blocks();
    emitter.b.finalize(isa.frontend_config());
    Ok(())
}

impl Emitter<'_> {
    /// Buffer pointers, then the loop over grid points around the body.
    fn frame(&mut self, abi: &[Value]) -> Res<()> {
        let &[buffers, begin, end, scratch] = abi else { unreachable!("the ABI has 4 parameters") };
        let flags = MemFlagsData::trusted().with_readonly().with_can_move();
        for i in 0..self.kernel.params.len() {
            let pointer = self.b.ins().load(types::I64, flags, buffers, 8 * i as i32);
            self.params.push(pointer);
        }
        let mut offset = 0u64;
        for s in &self.kernel.scratch {
            if s.scope != Scope::Worker {
                return reject("memory shared by a workgroup");
            }
            let at = self.b.ins().iadd_imm_s(scratch, offset as i64);
            self.scratch.push(at);
            let bytes = s.len.checked_mul(s.elem.bytes() as u64);
            let next = bytes.and_then(|n| n.checked_next_multiple_of(64)?.checked_add(offset));
            match next.filter(|n| *n < 1 << 48) {
                Some(next) => offset = next,
                None => return reject("scratch beyond 2^48 bytes"),
            }
        }
        let exit = self.b.create_block();
        let body = self.b.create_block();
        let some = self.b.ins().icmp(IntCC::UnsignedLessThan, begin, end);
        let start = self.first_point(begin);
        let point = self.b.append_block_param(body, types::I64);
        let mut args = vec![BlockArg::Value(begin)];
        for (axis, coordinate) in start.into_iter().enumerate() {
            if let Some(coordinate) = coordinate {
                args.push(BlockArg::Value(coordinate));
                self.grid[axis] = self.b.append_block_param(body, types::I64);
            }
        }
        self.b.ins().brif(some, body, &args, exit, &[]);
        self.b.switch_to_block(body);
        self.region(&self.kernel.body)?;
        let next = self.b.ins().iadd_imm_s(point, 1);
        let mut args = vec![BlockArg::Value(next)];
        args.extend(self.next_point().into_iter().map(BlockArg::Value));
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, end);
        self.b.ins().brif(more, body, &args, exit, &[]);
        self.b.switch_to_block(exit);
        self.b.ins().return_(&[]);
        Ok(())
    }

    /// The coordinates of a grid point, along the axes that have more than one.
    fn first_point(&mut self, point: Value) -> [Option<Value>; 3] {
        let [n0, n1, n2] = self.kernel.grid.map(|n| n.max(1) as i64);
        let long = [n0 > 1, n1 > 1, n2 > 1];
        let mut rest = point;
        let mut coordinates = [None; 3];
        for (axis, n) in [n0, n1, n2].into_iter().enumerate() {
            if long[axis] {
                let last = !long[axis + 1..].contains(&true);
                coordinates[axis] =
                    Some(if last { rest } else { self.b.ins().urem_imm_u(rest, n) });
                if !last {
                    rest = self.b.ins().udiv_imm_u(rest, n);
                }
            }
        }
        coordinates
    }

    /// The next point's coordinates along the long axes: axis 0 moves on, full axes wrap.
    fn next_point(&mut self) -> Vec<Value> {
        let long: Vec<usize> = (0..3).filter(|a| self.kernel.grid[*a] > 1).collect();
        let mut next = vec![];
        let mut carry = None;
        for (i, &axis) in long.iter().enumerate() {
            let at = self.grid[axis];
            let stepped = match carry {
                None => self.b.ins().iadd_imm_s(at, 1),
                Some(carry) => self.b.ins().iadd(at, carry),
            };
            if i + 1 == long.len() {
                next.push(stepped);
            } else {
                let n = self.kernel.grid[axis] as i64;
                let full = self.b.ins().icmp_imm_u(IntCC::Equal, stepped, n);
                let zero = self.b.ins().iconst(types::I64, 0);
                next.push(self.b.ins().select(full, zero, stepped));
                carry = Some(self.b.ins().uextend(types::I64, full));
            }
        }
        next
    }

    /// The instructions of a region; its parameters were set before.
    fn region(&mut self, region: &Region) -> Res<Vec<Value>> {
        if self.certain.len() > MAX_DEPTH {
            return reject("loops and branches nested too deep");
        }
        for inst in &region.insts {
            self.inst(inst)?;
        }
        region.yields.iter().map(|v| self.get(*v)).collect()
    }

    fn inst(&mut self, inst: &Inst) -> Res<()> {
        let depth = inst.args().iter().map(|v| self.facts[v.0 as usize].depth).max().unwrap_or(0);
        match inst {
            Inst::Const { dst, value } => {
                let v = self.constant(self.kernel.ty(*dst), *value)?;
                let nonnegative = value.as_int().is_some_and(|n| n >= 0);
                self.facts[dst.0 as usize] =
                    Fact { literal: Some(*value), nonnegative, ..Fact::default() };
                self.set(*dst, v);
            }
            Inst::Grid { dst, axis } => {
                let v = self.grid[*axis as usize];
                self.facts[dst.0 as usize] = Fact { nonnegative: true, ..Fact::default() };
                self.set(*dst, v);
            }
            Inst::Local { dst, .. } => {
                let v = self.b.ins().iconst(types::I64, 0);
                self.facts[dst.0 as usize] = Fact { nonnegative: true, ..Fact::default() };
                self.set(*dst, v);
            }
            Inst::Op { dst, op, args } => {
                let v = self.op(*op, args, self.kernel.ty(*dst))?;
                let nonnegative = self.op_is_nonnegative(*op, args, *dst);
                self.facts[dst.0 as usize] = Fact { nonnegative, depth, ..Fact::default() };
                self.set(*dst, v);
            }
            Inst::Fold { dst, combine, v } => {
                let value = self.fold(*combine, *v)?;
                self.facts[dst.0 as usize].depth = depth;
                self.set(*dst, value);
            }
            Inst::Lane { dst, op, args } => {
                let v = self.lane(op, args, self.kernel.ty(*dst))?;
                let splat_of = match op {
                    crate::kernel::ir::LaneOp::Splat => Some(args[0]),
                    _ => None,
                };
                self.facts[dst.0 as usize] = Fact { splat_of, depth, ..Fact::default() };
                self.set(*dst, v);
            }
            Inst::Load { dst, at, mode, valid, fill } => {
                let movable = self.never_written(at.buf) && self.speculation_safe(depth);
                let v = self.load(self.kernel.ty(*dst), at, mode, *valid, *fill, movable)?;
                self.facts[dst.0 as usize].depth = match movable {
                    true => depth,
                    false => self.certain.len(),
                };
                self.set(*dst, v);
            }
            Inst::Store { at, v, valid } => self.store(at, *v, *valid)?,
            Inst::For { results, lo, hi, step, init, body, .. } => {
                self.for_loop(results, (*lo, *hi, *step), init, body)?;
            }
            Inst::If { results, cond, then, els } => self.branch(results, *cond, then, els)?,
            Inst::Barrier => {}
        }
        Ok(())
    }

    /// A loop with its test at the top, whose block holds the counter and the carried values.
    ///
    /// A test at the end would pass each yield to two blocks, and Cranelift folds no load into what
    /// leads to a value with two uses.
    fn for_loop(
        &mut self,
        results: &[Val],
        (lo, hi, step): (Val, Val, i64),
        init: &[Val],
        body: &Region,
    ) -> Res<()> {
        let literal = |e: &Self, v: Val| e.facts[v.0 as usize].literal.and_then(Lit::as_int);
        let surely = matches!((literal(self, lo), literal(self, hi)), (Some(a), Some(b)) if a < b);
        let (first, limit) = (self.get(lo)?, self.get(hi)?);
        let start = [&[BlockArg::Value(first)], &self.args(init)?[..]].concat();
        let [top, inside, exit] = [(); 3].map(|()| self.b.create_block());
        let counter = self.b.append_block_param(top, types::I64);
        let carried = self.block_params(top, &body.params[1..])?;
        self.b.ins().jump(top, &start);
        self.b.switch_to_block(top);
        let more = self.b.ins().icmp(IntCC::SignedLessThan, counter, limit);
        self.b.ins().brif(more, inside, &[], exit, &[]);
        self.b.switch_to_block(inside);
        self.certain.push(surely);
        let depth = self.certain.len();
        let nonnegative = self.facts[lo.0 as usize].nonnegative;
        self.facts[body.params[0].0 as usize] = Fact { nonnegative, depth, ..Fact::default() };
        self.set(body.params[0], counter);
        self.define(&body.params[1..], &carried, depth);
        let yields = self.region(body)?;
        let next = self.b.ins().iadd_imm_s(counter, step);
        let again: Vec<BlockArg> =
            std::iter::once(next).chain(yields).map(BlockArg::Value).collect();
        self.b.ins().jump(top, &again);
        self.certain.pop();
        self.b.switch_to_block(exit);
        self.define(results, &carried, self.certain.len());
        Ok(())
    }

    fn branch(&mut self, results: &[Val], cond: Val, then: &Region, els: &Region) -> Res<()> {
        let cond = self.get(cond)?;
        let [yes, no, exit] = [(); 3].map(|()| self.b.create_block());
        let out = self.block_params(exit, results)?;
        self.b.ins().brif(cond, yes, &[], no, &[]);
        for (block, region) in [(yes, then), (no, els)] {
            self.b.switch_to_block(block);
            self.certain.push(false);
            let yields = self.region(region)?;
            self.certain.pop();
            let yields: Vec<BlockArg> = yields.into_iter().map(BlockArg::Value).collect();
            self.b.ins().jump(exit, &yields);
        }
        self.b.switch_to_block(exit);
        self.define(results, &out, self.certain.len());
        Ok(())
    }

    /// Whether a load at this place may run as early as at `depth` open regions: every region in
    /// between must surely run, or an address that its guard excludes could be touched.
    fn speculation_safe(&self, depth: usize) -> bool {
        self.certain[depth.min(self.certain.len())..].iter().all(|certain| *certain)
    }

    /// Whether nothing writes the buffer while the kernel runs.
    fn never_written(&self, buf: Buf) -> bool {
        match buf {
            Buf::Scratch(_) => false,
            Buf::Param(i) => {
                let read = self.kernel.params[i as usize].access == crate::kernel::ir::Access::Read;
                read && !self.kernel.inplace.iter().any(|(out, input)| *out == i || *input == i)
            }
        }
    }

    pub(super) fn get(&self, v: Val) -> Res<Value> {
        match self.regs.get(v.0 as usize) {
            Some(Some(value)) => Ok(*value),
            _ => reject(format!("register %{} is used before its definition", v.0)),
        }
    }

    fn set(&mut self, v: Val, value: Value) {
        self.regs[v.0 as usize] = Some(value);
    }

    fn args(&self, vals: &[Val]) -> Res<Vec<BlockArg>> {
        vals.iter().map(|v| Ok(BlockArg::Value(self.get(*v)?))).collect()
    }

    fn block_params(&mut self, block: Block, vals: &[Val]) -> Res<Vec<Value>> {
        let one = |v: &Val| Ok(self.b.append_block_param(block, clif_type(self.kernel.ty(*v))?));
        vals.iter().map(one).collect()
    }

    fn define(&mut self, vals: &[Val], values: &[Value], depth: usize) {
        for (v, value) in vals.iter().zip(values) {
            self.facts[v.0 as usize] = Fact { depth, ..Fact::default() };
            self.set(*v, *value);
        }
    }

    pub(super) fn pointer(&self, buf: Buf) -> (Value, DType) {
        match buf {
            Buf::Param(i) => (self.params[i as usize], self.kernel.params[i as usize].elem),
            Buf::Scratch(i) => (self.scratch[i as usize], self.kernel.scratch[i as usize].elem),
        }
    }

    /// The same bits as another type of the same size.
    pub(super) fn bits_as(&mut self, ty: Type, v: Value) -> Value {
        if self.b.func.dfg.value_type(v) == ty {
            return v;
        }
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.b.ins().bitcast(ty, flags, v)
    }

    pub(super) fn type_of(&self, v: Value) -> Type {
        self.b.func.dfg.value_type(v)
    }
}

/// The Cranelift type of one element.
pub(super) fn elem_type(dtype: DType) -> Type {
    match dtype {
        DType::F32 => types::F32,
        DType::F64 => types::F64,
        DType::I8 | DType::U8 | DType::Bool => types::I8,
        DType::F16 | DType::BF16 | DType::I16 | DType::U16 => types::I16,
        DType::I32 | DType::U32 => types::I32,
        DType::I64 | DType::U64 => types::I64,
    }
}

/// 128 bits of these elements.
pub(super) fn full_vector(dtype: DType) -> Type {
    elem_type(dtype).by(16 / dtype.bytes() as u32).expect("128 bits are a vector of Cranelift")
}

/// The Cranelift type that holds a register.
pub(super) fn clif_type(ty: Ty) -> Res<Type> {
    Ok(match ty {
        Ty::Index => types::I64,
        Ty::Scalar(dtype) => elem_type(dtype),
        Ty::Vector(dtype, lanes) if lanes as usize * dtype.bytes() <= 16 => full_vector(dtype),
        Ty::Vector(dtype, lanes) => {
            return reject(format!("a vector of {lanes} {dtype} is wider than 16 bytes"));
        }
        Ty::Mask(1) => types::I8,
        Ty::Mask(2) => types::I64X2,
        Ty::Mask(4) => types::I32X4,
        Ty::Mask(8) => types::I16X8,
        Ty::Mask(16) => types::I8X16,
        Ty::Mask(n) => return reject(format!("a mask of {n} lanes")),
    })
}
