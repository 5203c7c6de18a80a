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

use cranelift_codegen::ir::types::{self, Type};
use cranelift_codegen::ir::{AbiParam, Endianness, Function, InstBuilder, MemFlagsData, Value};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use super::isa::Features;
use crate::base::DType;
use crate::kernel::ir::{Access, Buf, Inst, Kernel, LaneOp, Lit, Region, Ty, Val};

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
    /// How many instructions read each register.
    pub uses: Vec<u32>,
    /// Whether each open region surely runs once its parent does, outermost first.
    pub certain: Vec<bool>,
    pub params: Vec<Value>,
    pub scratch: Vec<Value>,
    pub grid: [Value; 3],
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
        uses: uses(kernel),
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
    /// The instructions of a region; its parameters were set before.
    pub(super) fn region(&mut self, region: &Region) -> Res<Vec<Value>> {
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
            // A workgroup has one invocation.
            Inst::GroupFold { dst, v, .. } => {
                let value = self.get(*v)?;
                self.facts[dst.0 as usize].depth = depth;
                self.set(*dst, value);
            }
            Inst::Lane { dst, op, args } => {
                let v = self.lane(op, args, self.kernel.ty(*dst))?;
                let splat_of = (*op == LaneOp::Splat).then_some(args[0]);
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
            // Cranelift has no such instruction.
            Inst::Prefetch { .. } | Inst::Barrier => {}
        }
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
                let read = self.kernel.params[i as usize].access == Access::Read;
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

    pub(super) fn set(&mut self, v: Val, value: Value) {
        self.regs[v.0 as usize] = Some(value);
    }

    pub(super) fn define(&mut self, vals: &[Val], values: &[Value], depth: usize) {
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

/// How many instructions read each register.
fn uses(kernel: &Kernel) -> Vec<u32> {
    let mut uses = vec![0; kernel.types.len()];
    let mut open = vec![&kernel.body];
    while let Some(region) = open.pop() {
        for inst in &region.insts {
            match inst {
                Inst::For { body, .. } => open.push(body),
                Inst::If { then, els, .. } => open.extend([then, els]),
                Inst::Const { .. }
                | Inst::Grid { .. }
                | Inst::Local { .. }
                | Inst::Op { .. }
                | Inst::Fold { .. }
                | Inst::GroupFold { .. }
                | Inst::Lane { .. }
                | Inst::Load { .. }
                | Inst::Store { .. }
                | Inst::Prefetch { .. }
                | Inst::Barrier => {}
            }
            inst.for_each_arg(|v| uses[v.0 as usize] += 1);
        }
    }
    uses
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
