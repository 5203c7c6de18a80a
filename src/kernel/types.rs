//! Whether a kernel is well formed: each register defined once and before its uses, in scope, and
//! every instruction with the types that it takes. Linear in the size of the kernel.
//!
//! Everything that walks a kernel (the interpreter, the passes, the emitters) may rely on this;
//! `verify` adds what needs ranges: accesses in bounds, tiles that do not overlap.

use std::fmt;

use super::ir::*;
use crate::base::DType;
use crate::ir::scalar::Combine;

/// Regions nest at most this deep, so that walks may recurse.
pub const MAX_DEPTH: usize = 64;

/// What is wrong with a kernel, and at which register.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Invalid {
    pub kernel: String,
    /// The register that the instruction defines, or stores.
    pub at: Option<Val>,
    pub what: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(v) => write!(f, "kernel `{}`, at %{}: {}", self.kernel, v.0, self.what),
            None => write!(f, "kernel `{}`: {}", self.kernel, self.what),
        }
    }
}

/// Checks scopes and types; the first fault found is the answer.
pub fn check_types(kernel: &Kernel) -> Result<(), Invalid> {
    let mut checker = Checker {
        kernel,
        state: vec![State::Undefined; kernel.types.len()],
        literals: vec![None; kernel.types.len()],
        at: None,
    };
    let result = checker.header().and_then(|()| checker.region(&kernel.body, &[], &[], 0));
    result.map_err(|what| Invalid { kernel: kernel.name.clone(), at: checker.at, what })
}

/// The element type and length of a buffer that exists.
pub fn buffer_of(kernel: &Kernel, buf: Buf) -> Option<(DType, u64)> {
    match buf {
        Buf::Param(i) => kernel.params.get(i as usize).map(|p| (p.elem, p.len)),
        Buf::Scratch(i) => kernel.scratch.get(i as usize).map(|s| (s.elem, s.len)),
    }
}

/// How many operands an operation takes.
pub fn arity(op: Op) -> usize {
    match op {
        Op::Neg
        | Op::Abs
        | Op::Sqrt
        | Op::Floor
        | Op::Ceil
        | Op::Trunc
        | Op::Round
        | Op::Not
        | Op::Exp
        | Op::Expm1
        | Op::Log
        | Op::Log1p
        | Op::Sin
        | Op::Cos
        | Op::Tanh
        | Op::Erf => 1,
        Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Div
        | Op::Rem
        | Op::Min
        | Op::Max
        | Op::And
        | Op::Or
        | Op::Xor
        | Op::Shl
        | Op::Shr
        | Op::Eq
        | Op::Ne
        | Op::Lt
        | Op::Le
        | Op::Gt
        | Op::Ge
        | Op::Pow
        | Op::Scale => 2,
        Op::Fma | Op::Select => 3,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Undefined,
    InScope,
    /// Defined in a region that has ended.
    Closed,
}

struct Checker<'k> {
    kernel: &'k Kernel,
    state: Vec<State>,
    literals: Vec<Option<Lit>>,
    at: Option<Val>,
}

type Check = Result<(), String>;

fn ensure(ok: bool, what: impl FnOnce() -> String) -> Check {
    if ok { Ok(()) } else { Err(what()) }
}

impl Checker<'_> {
    fn header(&self) -> Check {
        let k = self.kernel;
        ensure(k.params.len() <= 1 << 12 && k.scratch.len() <= 1 << 12, || {
            "more than 4096 buffers".into()
        })?;
        ensure(k.local.iter().all(|n| *n > 0), || {
            "a workgroup has at least one invocation along each axis".into()
        })?;
        let local = k.local.iter().try_fold(1u32, |n, d| n.checked_mul(*d));
        ensure(local.is_some_and(|n| n <= 1024), || "more than 1024 invocations".into())?;
        let points = k.grid.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64));
        ensure(points.is_some_and(|n| n < 1 << 62), || "the grid is too large".into())?;
        let lens = k.params.iter().map(|p| p.len).chain(k.scratch.iter().map(|s| s.len));
        ensure(lens.into_iter().all(|n| n < 1 << 59), || "a buffer is too long".into())?;
        for (out, input) in &k.inplace {
            let (o, i) = (k.params.get(*out as usize), k.params.get(*input as usize));
            let (Some(o), Some(i)) = (o, i) else {
                return Err("`inplace` names a parameter that does not exist".into());
            };
            let ok = out != input && o.access != Access::Read && o.elem.bytes() == i.elem.bytes();
            ensure(ok, || format!("`{}` cannot be in place of `{}`", o.name, i.name))?;
        }
        for ty in &k.types {
            let ok = match ty {
                Ty::Index => true,
                Ty::Scalar(d) => *d != DType::Bool,
                Ty::Vector(d, n) => *d != DType::Bool && *n > 1 && lanes_ok(*n),
                Ty::Mask(n) => lanes_ok(*n),
            };
            ensure(ok, || format!("{ty:?} is no register type"))?;
        }
        Ok(())
    }

    /// Checks a region whose parameters have the types `params` and whose yields `yields`.
    fn region(&mut self, region: &Region, params: &[Ty], yields: &[Ty], depth: usize) -> Check {
        ensure(depth < MAX_DEPTH, || format!("regions nest deeper than {MAX_DEPTH}"))?;
        ensure(region.params.len() == params.len(), || {
            format!("the region takes {} values, not {}", region.params.len(), params.len())
        })?;
        for (v, ty) in region.params.iter().zip(params) {
            self.define(*v, *ty)?;
        }
        for inst in &region.insts {
            self.at = inst.defs().first().copied();
            self.inst(inst, depth)?;
        }
        ensure(region.yields.len() == yields.len(), || {
            format!("the region yields {} values, not {}", region.yields.len(), yields.len())
        })?;
        for (v, ty) in region.yields.iter().zip(yields) {
            let found = self.used(*v)?;
            ensure(found == *ty, || format!("yields {found:?} where {ty:?} is due"))?;
        }
        for v in region.params.iter().chain(region.insts.iter().flat_map(|i| i.defs())) {
            self.state[v.0 as usize] = State::Closed;
        }
        Ok(())
    }

    fn define(&mut self, v: Val, ty: Ty) -> Check {
        let declared = self.kernel.types.get(v.0 as usize).copied();
        let declared = declared.ok_or_else(|| format!("%{} has no type", v.0))?;
        ensure(self.state[v.0 as usize] == State::Undefined, || {
            format!("%{} is defined twice", v.0)
        })?;
        ensure(declared == ty, || format!("%{} is {declared:?}, but holds {ty:?}", v.0))?;
        self.state[v.0 as usize] = State::InScope;
        Ok(())
    }

    /// The type of a register that is in scope.
    fn used(&self, v: Val) -> Result<Ty, String> {
        match self.state.get(v.0 as usize) {
            Some(State::InScope) => Ok(self.kernel.ty(v)),
            Some(State::Closed) => Err(format!("%{} is out of scope here", v.0)),
            Some(State::Undefined) | None => Err(format!("%{} is not defined yet", v.0)),
        }
    }

    fn index(&self, v: Val) -> Check {
        let ty = self.used(v)?;
        ensure(ty == Ty::Index, || format!("%{} is {ty:?}, not an index", v.0))
    }

    fn declared(&self, v: Val) -> Result<Ty, String> {
        self.kernel.types.get(v.0 as usize).copied().ok_or_else(|| format!("%{} has no type", v.0))
    }

    fn inst(&mut self, inst: &Inst, depth: usize) -> Check {
        match inst {
            Inst::Const { dst, value } => {
                let ty = self.declared(*dst)?;
                ensure(ty.dtype() == value.dtype, || {
                    format!("a literal of {} in {ty:?}", value.dtype)
                })?;
                let bits = 8 * value.dtype.bytes() as u32;
                let bits = if value.dtype == DType::Bool { 1 } else { bits };
                ensure(bits == 64 || value.bits >> bits == 0, || "stray literal bits".into())?;
                self.define(*dst, ty)?;
                self.literals[dst.0 as usize] = Some(*value);
                Ok(())
            }
            Inst::Grid { dst, axis } | Inst::Local { dst, axis } => {
                ensure(*axis < 3, || format!("axis {axis} of a grid"))?;
                self.define(*dst, Ty::Index)
            }
            Inst::Op { dst, op, args } => {
                let ty = self.op(*op, args)?;
                self.define(*dst, ty)
            }
            Inst::Fold { dst, combine, v } => {
                let ty = self.used(*v)?;
                let ok = match combine {
                    Combine::Sum | Combine::Prod | Combine::Max | Combine::Min => is_number(ty),
                    Combine::Any | Combine::All => matches!(ty, Ty::Mask(_)),
                    Combine::ArgMax | Combine::ArgMin => false,
                };
                ensure(ok && ty != Ty::Index, || format!("no fold {combine:?} of {ty:?}"))?;
                self.define(*dst, ty.with_lanes(1))
            }
            Inst::GroupFold { dst, combine, v } => {
                let ty = self.used(*v)?;
                let ok = match combine {
                    Combine::Sum | Combine::Prod | Combine::Max | Combine::Min => {
                        matches!(ty, Ty::Scalar(d) if d.bytes() >= 4)
                    }
                    Combine::Any | Combine::All => ty == Ty::Mask(1),
                    Combine::ArgMax | Combine::ArgMin => false,
                };
                ensure(ok, || format!("no fold {combine:?} of {ty:?} across a workgroup"))?;
                self.define(*dst, ty)
            }
            Inst::Lane { dst, op, args } => {
                let ty = self.declared(*dst)?;
                self.lane(op, ty, args)?;
                self.define(*dst, ty)
            }
            Inst::Load { dst, at, mode, valid, fill } => {
                let ty = self.declared(*dst)?;
                self.access(at, ty, *valid)?;
                if let Buf::Param(i) = at.buf {
                    let p = &self.kernel.params[i as usize];
                    ensure(p.access != Access::Write, || format!("`{}` is not read", p.name))?;
                }
                if let Some(fill) = fill {
                    ensure(fill.dtype == ty.dtype(), || "a fill of another dtype".into())?;
                }
                if let LoadMode::Gather(idx) = mode {
                    let want = Ty::of(DType::I64, ty.lanes());
                    let found = self.used(*idx)?;
                    ensure(found == want, || format!("gathers by {found:?}, not {want:?}"))?;
                }
                self.define(*dst, ty)
            }
            Inst::Store { at, v, valid } => {
                self.at = Some(*v);
                let ty = self.used(*v)?;
                if let Buf::Param(i) = at.buf
                    && let Some(p) = self.kernel.params.get(i as usize)
                {
                    ensure(p.access != Access::Read, || format!("`{}` is read only", p.name))?;
                }
                self.access(at, ty, *valid)
            }
            Inst::For { results, lo, hi, step, init, body, unroll: _ } => {
                self.index(*lo)?;
                self.index(*hi)?;
                ensure(*step > 0, || format!("a loop with step {step}"))?;
                let types = init.iter().map(|v| self.used(*v)).collect::<Result<Vec<_>, _>>()?;
                let params = [&[Ty::Index], &types[..]].concat();
                self.region(body, &params, &types, depth + 1)?;
                self.results(results, &types)
            }
            Inst::If { results, cond, then, els } => {
                let ty = self.used(*cond)?;
                ensure(ty == Ty::Mask(1), || format!("a condition of type {ty:?}"))?;
                let types =
                    results.iter().map(|v| self.declared(*v)).collect::<Result<Vec<_>, _>>()?;
                self.region(then, &[], &types, depth + 1)?;
                self.region(els, &[], &types, depth + 1)?;
                self.results(results, &types)
            }
            Inst::Prefetch { at } => self.index(at.base),
            Inst::Barrier => Ok(()),
        }
    }

    fn results(&mut self, results: &[Val], types: &[Ty]) -> Check {
        ensure(results.len() == types.len(), || {
            format!("{} results where {} are due", results.len(), types.len())
        })?;
        results.iter().zip(types).try_for_each(|(v, ty)| self.define(*v, *ty))
    }

    fn access(&self, at: &Addr, ty: Ty, valid: u16) -> Check {
        self.index(at.base)?;
        let Some((elem, _)) = buffer_of(self.kernel, at.buf) else {
            return Err(format!("{:?} does not exist", at.buf));
        };
        ensure(ty.dtype() == elem && ty != Ty::Index, || format!("{ty:?} in a buffer of {elem}"))?;
        ensure((1..=ty.lanes()).contains(&valid), || {
            format!("{valid} valid lanes of {}", ty.lanes())
        })
    }

    /// The type of an operation's result.
    fn op(&self, op: Op, args: &[Val]) -> Result<Ty, String> {
        ensure(args.len() == arity(op), || format!("{op:?} of {} operands", args.len()))?;
        let types = args.iter().map(|v| self.used(*v)).collect::<Result<Vec<_>, _>>()?;
        let first = types[0];
        if op == Op::Select {
            let ok = first == Ty::Mask(types[1].lanes()) && types[1] == types[2];
            ensure(ok, || format!("select of {types:?}"))?;
            return Ok(types[1]);
        }
        ensure(types.iter().all(|t| *t == first), || format!("{op:?} of {types:?}"))?;
        let float = matches!(first.dtype(), DType::F32 | DType::F64);
        let int = first.dtype().is_int() && first != Ty::Index;
        let mask = matches!(first, Ty::Mask(_));
        let ok = match op {
            Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Neg | Op::Abs | Op::Min | Op::Max => {
                is_number(first)
            }
            Op::Rem => first.dtype().is_int(),
            Op::And | Op::Or | Op::Xor | Op::Not => int || mask,
            Op::Shl | Op::Shr => int,
            Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge => is_number(first) || mask,
            Op::Select => true,
            Op::Sqrt
            | Op::Floor
            | Op::Ceil
            | Op::Trunc
            | Op::Round
            | Op::Fma
            | Op::Exp
            | Op::Expm1
            | Op::Log
            | Op::Log1p
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Erf
            | Op::Pow
            | Op::Scale => float,
        };
        ensure(ok, || format!("no {op:?} of {first:?}"))?;
        if first == Ty::Index && matches!(op, Op::Div | Op::Rem) {
            let positive = self.literals[args[1].0 as usize].is_some_and(|l| l.bits as i64 > 0);
            ensure(positive, || "an index is divided by what is no positive constant".into())?;
        }
        let compare = matches!(op, Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge);
        Ok(if compare { Ty::Mask(first.lanes()) } else { first })
    }

    fn lane(&self, op: &LaneOp, dst: Ty, args: &[Val]) -> Check {
        let types = args.iter().map(|v| self.used(*v)).collect::<Result<Vec<_>, _>>()?;
        let Some(&first) = types.first() else { return Err("no operands".into()) };
        let counts = match op {
            LaneOp::Insert(_) => types.len() == 2,
            LaneOp::Concat => true,
            LaneOp::Splat
            | LaneOp::Extract(_)
            | LaneOp::Slice(_)
            | LaneOp::Shuffle(_)
            | LaneOp::Bitcast
            | LaneOp::Convert => types.len() == 1,
        };
        ensure(counts, || format!("{op:?} of {} operands", types.len()))?;
        let (n, m) = (first.lanes(), dst.lanes());
        let same = |t: &Ty| t.dtype() == dst.dtype() && *t != Ty::Index && dst != Ty::Index;
        let ok = match op {
            LaneOp::Splat => same(&first) && n == 1,
            LaneOp::Extract(i) => same(&first) && m == 1 && *i < n,
            LaneOp::Insert(i) => first == dst && same(&types[1]) && types[1].lanes() == 1 && *i < n,
            LaneOp::Slice(from) => same(&first) && *from as u32 + m as u32 <= n as u32,
            LaneOp::Concat => {
                types.iter().all(same)
                    && types.iter().map(|t| t.lanes() as u64).sum::<u64>() == m as u64
            }
            LaneOp::Shuffle(ixs) => {
                same(&first) && ixs.len() == m as usize && ixs.iter().all(|i| *i < n)
            }
            LaneOp::Bitcast => {
                let plain = |t: Ty| t != Ty::Index && t.dtype() != DType::Bool;
                n == m && plain(first) && plain(dst) && first.dtype().bytes() == dst.dtype().bytes()
            }
            LaneOp::Convert => n == m,
        };
        ensure(ok, || format!("{op:?} of {types:?} to {dst:?}"))
    }
}

fn lanes_ok(n: u16) -> bool {
    n.is_power_of_two() && n <= 64
}

/// A type with arithmetic: f32, f64, integers and `Index`.
fn is_number(ty: Ty) -> bool {
    let d = ty.dtype();
    d.is_int() || matches!(d, DType::F32 | DType::F64)
}
