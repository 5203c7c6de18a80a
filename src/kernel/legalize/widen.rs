//! Step 2 of legalizing: narrow elements live in memory only.
//!
//! In: any kernel. Out: registers are Index, f32, f64, 32- and 64-bit integers and masks; an i8,
//! i16, u8 or u16 register is defined by a load or a `Convert` from i32, and used by a store or a
//! `Convert` to i32. Buffers of f16 and bf16 are seen as u16, buffers of bool as u8.
//!
//! - A narrow integer is an i32 that holds its value; what may leave the range is wrapped back.
//! - An f16 or bf16 is an i32 that holds its 16 bits; its value is computed by operations on bits,
//!   rounded to nearest even. Where the machine has f16 it is what loads give, stores take, and `Convert`
//!   makes of f32 or consumes.
//! - Masks have no comparisons and selects left, only and, or, xor, not.
//! - Vectors convert only between f32 and i32, between narrow integers and i32, or by way of other
//!   operations; other pairs remain as they are.

use std::borrow::Cow;

use crate::base::DType;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::*;
use crate::kernel::rebuild::{Map, Outcome, Rule, rebuild};

/// Narrow types to 32 bits; `half`: but for f16.
pub fn widen(kernel: &Kernel, half: bool) -> Cow<'_, Kernel> {
    let mut literals = vec![None; kernel.types.len()];
    if !is_narrow_anywhere(kernel) && is_plain(kernel, &kernel.body, &mut literals) {
        return Cow::Borrowed(kernel);
    }
    let mut b = KernelBuilder::like(kernel);
    let (params, scratch) = b.buffers_mut();
    let mut rule = Widen { half };
    params.iter_mut().for_each(|p| p.elem = rule.in_memory(p.elem));
    scratch.iter_mut().for_each(|s| s.elem = rule.in_memory(s.elem));
    Cow::Owned(rebuild(kernel, b, &mut rule))
}

fn is_narrow_anywhere(kernel: &Kernel) -> bool {
    let params = kernel.params.iter().map(|p| p.elem);
    let elems = params.chain(kernel.scratch.iter().map(|s| s.elem));
    let mut registers = kernel.types.iter().map(|t| t.dtype());
    elems.into_iter().any(|d| d.bytes() < 4) || registers.any(is_narrow)
}

/// Whether [`Widen`] and [`rebuild`] leave a region as it is, where nothing is narrow.
fn is_plain(kernel: &Kernel, region: &Region, literals: &mut [Option<Lit>]) -> bool {
    region.insts.iter().all(|inst| match inst {
        Inst::Const { dst, value } => {
            literals[dst.0 as usize] = Some(*value);
            true
        }
        Inst::Op { op, args, .. } => {
            kernel.ty(args[if *op == Op::Select { 1 } else { 0 }]).dtype() != DType::Bool
        }
        Inst::Lane { op, .. } => *op != LaneOp::Convert,
        Inst::For { lo, hi, step, body, .. } => {
            let bounds = [lo, hi].map(|v| literals[v.0 as usize].map(|l| l.bits as i64));
            let short = matches!(bounds, [Some(lo), Some(hi)] if hi.saturating_sub(lo) <= *step);
            !short && is_plain(kernel, body, literals)
        }
        Inst::If { cond, then, els, .. } => {
            literals[cond.0 as usize].is_none()
                && is_plain(kernel, then, literals)
                && is_plain(kernel, els, literals)
        }
        Inst::Grid { .. }
        | Inst::Local { .. }
        | Inst::Fold { .. }
        | Inst::GroupFold { .. }
        | Inst::Load { .. }
        | Inst::Store { .. }
        | Inst::Prefetch { .. }
        | Inst::Barrier => true,
    })
}

struct Widen {
    /// The machine has f16.
    half: bool,
}

impl Widen {
    /// How the bits of an element are seen in memory.
    fn in_memory(&self, elem: DType) -> DType {
        match elem {
            DType::F16 if self.half => DType::F16,
            DType::F16 | DType::BF16 => DType::U16,
            DType::Bool => DType::U8,
            d => d,
        }
    }

    fn is_narrow(&self, d: DType) -> bool {
        is_narrow(d) && !(self.half && d == DType::F16)
    }

    /// `Convert` to or from an f16 that the machine has, by way of f32.
    fn by_half(&self, b: &mut KernelBuilder, v: Val, from: Ty, to: Ty) -> Val {
        let wide = Ty::of(DType::F32, from.lanes());
        let of_f32 = match from.dtype() == DType::F16 {
            true => b.convert(v, DType::F32),
            false if from.dtype() == DType::F32 => v,
            false => convert(b, v, from, wide),
        };
        match to.dtype() {
            DType::F16 => b.convert(of_f32, DType::F16),
            DType::F32 => of_f32,
            _ => convert(b, of_f32, wide, to),
        }
    }
}

fn is_narrow(d: DType) -> bool {
    d.bytes() < 4 && d != DType::Bool
}

impl Rule for Widen {
    fn ty(&self, ty: Ty) -> Ty {
        if self.is_narrow(ty.dtype()) { Ty::of(DType::I32, ty.lanes()) } else { ty }
    }

    fn inst(&mut self, b: &mut KernelBuilder, inst: &Inst, map: &Map) -> Outcome {
        let dtype = |v: Val| map.old.ty(v).dtype();
        match inst {
            Inst::Const { dst, value } if self.is_narrow(value.dtype) => {
                let held = value.as_int().unwrap_or(value.bits as i64);
                let ty = self.ty(map.old.ty(*dst));
                Outcome::Value(b.constant(ty, Lit::int(DType::I32, held)))
            }
            Inst::Op { op, args, .. } => {
                let d = dtype(args[if *op == Op::Select { 1 } else { 0 }]);
                let args = map.args(args);
                match d {
                    DType::Bool => on_masks(b, *op, &args),
                    d if d.is_int() && is_narrow(d) => on_narrow(b, *op, d, &args),
                    _ => Outcome::Copy,
                }
            }
            Inst::Fold { combine, v, .. } if is_narrow(dtype(*v)) => {
                let folded = b.fold(*combine, map.get(*v));
                Outcome::Value(wrap(b, folded, dtype(*v)))
            }
            Inst::Lane { dst, op: LaneOp::Bitcast, args } => {
                let to = dtype(*dst);
                let v = map.get(args[0]);
                Outcome::Value(match is_narrow(to) {
                    true => wrap(b, v, to),
                    false => b.bitcast(v, to),
                })
            }
            Inst::Lane { dst, op: LaneOp::Convert, args } => {
                let (v, from, to) = (map.get(args[0]), map.old.ty(args[0]), map.old.ty(*dst));
                let of_half = self.half && [from, to].iter().any(|t| t.dtype() == DType::F16);
                Outcome::Value(match of_half {
                    true => self.by_half(b, v, from, to),
                    false => convert(b, v, from, to),
                })
            }
            Inst::Load { dst, at, mode, valid, fill } => {
                let elem = dtype(*dst);
                let seen = self.in_memory(elem);
                if elem == seen && !self.is_narrow(elem) {
                    return Outcome::Copy;
                }
                let fill = fill.map(|l| Lit { dtype: seen, bits: l.bits });
                let lanes = map.old.ty(*dst).lanes();
                let raw = b.load_as(map.at(at), lanes, map.mode(*mode), *valid, fill);
                let wide = b.convert(raw, DType::I32);
                if elem != DType::Bool {
                    return Outcome::Value(wide);
                }
                let zero = b.constant(b.ty(wide), Lit::int(DType::I32, 0));
                Outcome::Value(b.op(Op::Ne, &[wide, zero]))
            }
            Inst::Store { at, v, valid } => {
                let elem = dtype(*v);
                let seen = self.in_memory(elem);
                if elem == seen && !self.is_narrow(elem) {
                    return Outcome::Copy;
                }
                let mut held = map.get(*v);
                if elem == DType::Bool {
                    held = as_number(b, held, DType::I32);
                }
                let raw = b.convert(held, seen);
                b.store_valid(map.at(at), raw, *valid);
                Outcome::Done
            }
            Inst::Const { .. }
            | Inst::Grid { .. }
            | Inst::Local { .. }
            | Inst::Fold { .. }
            | Inst::GroupFold { .. }
            | Inst::Lane { .. }
            | Inst::For { .. }
            | Inst::If { .. }
            | Inst::Prefetch { .. }
            | Inst::Barrier => Outcome::Copy,
        }
    }
}

/// Comparisons and selects of masks, as logic; false < true.
fn on_masks(b: &mut KernelBuilder, op: Op, v: &[Val]) -> Outcome {
    let not_and = |b: &mut KernelBuilder, x: Val, y: Val| {
        let not = b.op(Op::Not, &[x]);
        b.op(Op::And, &[not, y])
    };
    Outcome::Value(match op {
        Op::Ne => b.op(Op::Xor, v),
        Op::Eq => {
            let differ = b.op(Op::Xor, v);
            b.op(Op::Not, &[differ])
        }
        Op::Lt => not_and(b, v[0], v[1]),
        Op::Gt => not_and(b, v[1], v[0]),
        Op::Ge => {
            let less = not_and(b, v[0], v[1]);
            b.op(Op::Not, &[less])
        }
        Op::Le => {
            let greater = not_and(b, v[1], v[0]);
            b.op(Op::Not, &[greater])
        }
        Op::Select => {
            let yes = b.op(Op::And, &[v[0], v[1]]);
            let no = not_and(b, v[0], v[2]);
            b.op(Op::Or, &[yes, no])
        }
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
        | Op::Scale => return Outcome::Copy,
    })
}

/// An operation on i32 registers that hold narrow integers.
fn on_narrow(b: &mut KernelBuilder, op: Op, d: DType, args: &[Val]) -> Outcome {
    match op {
        Op::Shl | Op::Shr => {
            let bits = 8 * d.bytes() as i64 - 1;
            let bits = b.constant(b.ty(args[1]), Lit::int(DType::I32, bits));
            let amount = b.op(Op::And, &[args[1], bits]);
            let shifted = b.op(op, &[args[0], amount]);
            Outcome::Value(wrap(b, shifted, d))
        }
        Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge => Outcome::Copy,
        Op::Select | Op::Min | Op::Max | Op::And | Op::Or | Op::Xor | Op::Rem => Outcome::Copy,
        Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Div
        | Op::Neg
        | Op::Abs
        | Op::Sqrt
        | Op::Floor
        | Op::Ceil
        | Op::Trunc
        | Op::Round
        | Op::Fma
        | Op::Not
        | Op::Exp
        | Op::Expm1
        | Op::Log
        | Op::Log1p
        | Op::Sin
        | Op::Cos
        | Op::Tanh
        | Op::Erf
        | Op::Pow
        | Op::Scale => {
            let wide = b.op(op, args);
            Outcome::Value(wrap(b, wide, d))
        }
    }
}

/// The low bits of an i32 as the value of a narrow type; f16 and bf16 are held as their bits.
fn wrap(b: &mut KernelBuilder, v: Val, d: DType) -> Val {
    let ty = b.ty(v);
    let shift = 32 - 8 * d.bytes() as i64;
    if d.is_signed_int() {
        let by = b.constant(ty, Lit::int(DType::I32, shift));
        let up = b.op(Op::Shl, &[v, by]);
        return b.op(Op::Shr, &[up, by]);
    }
    let low = b.constant(ty, Lit::int(DType::I32, (1 << (32 - shift)) - 1));
    b.op(Op::And, &[v, low])
}

/// 1 where the mask is set, else 0.
fn as_number(b: &mut KernelBuilder, mask: Val, to: DType) -> Val {
    let lanes = b.ty(mask).lanes();
    let [one, zero] = [1.0, 0.0].map(|v| b.number(to, lanes, v));
    b.op(Op::Select, &[mask, one, zero])
}

/// `Convert` between the types of the old kernel, on registers of the new one.
fn convert(b: &mut KernelBuilder, v: Val, from: Ty, to: Ty) -> Val {
    // What the register holds, as a type of the new kernel.
    let source = match from.dtype() {
        DType::F16 | DType::BF16 => {
            let value = half_to_f32(b, v, from.dtype());
            return convert(b, value, Ty::of(DType::F32, from.lanes()), to);
        }
        d if is_narrow(d) => DType::I32,
        d => d,
    };
    if to == Ty::Index {
        if source == DType::Bool {
            let one = as_number(b, v, DType::I64);
            return b.to_index(one);
        }
        return if from == Ty::Index { v } else { b.to_index(v) };
    }
    let d = to.dtype();
    match (source, d) {
        (DType::Bool, DType::Bool) => v,
        (_, DType::Bool) => {
            let zero = b.constant(b.ty(v), Lit::int(source, 0));
            b.op(Op::Ne, &[v, zero])
        }
        (DType::Bool, DType::F16 | DType::BF16) => {
            let one = as_number(b, v, DType::F32);
            f32_to_half(b, one, d)
        }
        (DType::Bool, _) => {
            let one = as_number(b, v, if is_narrow(d) { DType::I32 } else { d });
            if is_narrow(d) { wrap(b, one, d) } else { one }
        }
        (_, DType::F16 | DType::BF16) => {
            let value = to_f32_odd(b, v, source);
            f32_to_half(b, value, d)
        }
        (DType::F32 | DType::F64, _) if is_narrow(d) => {
            let wide = b.convert(v, DType::I32);
            let bits = 8 * d.bytes() as u32;
            let (lo, hi) = match d.is_signed_int() {
                true => (-(1i64 << (bits - 1)), (1 << (bits - 1)) - 1),
                false => (0, (1 << bits) - 1),
            };
            let [lo, hi] = [lo, hi].map(|l| b.constant(b.ty(wide), Lit::int(DType::I32, l)));
            let low = b.op(Op::Max, &[wide, lo]);
            b.op(Op::Min, &[low, hi])
        }
        (_, _) if is_narrow(d) => {
            let wide = if source == DType::I32 { v } else { b.convert(v, DType::I32) };
            wrap(b, wide, d)
        }
        (DType::U32, DType::F32) if to.lanes() > 1 => u32_to_f32(b, v),
        (DType::F32, DType::U32) if to.lanes() > 1 => f32_to_u32(b, v),
        (DType::I32, DType::U32) | (DType::U32, DType::I32) => b.bitcast(v, d),
        (DType::I64, DType::U64) | (DType::U64, DType::I64) if from != Ty::Index => b.bitcast(v, d),
        (_, _) => b.convert(v, d),
    }
}

/// The halves of a u32 are exact as f32, and so is the high one times 65536: the sum rounds once.
fn u32_to_f32(b: &mut KernelBuilder, v: Val) -> Val {
    let (ty, lanes) = (b.ty(v), b.ty(v).lanes());
    let [sixteen, low] = [16, 0xffff].map(|c| b.constant(ty, Lit::int(DType::U32, c)));
    let high = b.op(Op::Shr, &[v, sixteen]);
    let low = b.op(Op::And, &[v, low]);
    let [high, low] = [high, low].map(|h| {
        let h = b.bitcast(h, DType::I32);
        b.convert(h, DType::F32)
    });
    let scale = b.number(DType::F32, lanes, 65536.0);
    let high = b.op(Op::Mul, &[high, scale]);
    b.op(Op::Add, &[high, low])
}

/// From 2³¹ on (exact to subtract) the difference is converted; `max(x, 0)` makes NaN 0.
fn f32_to_u32(b: &mut KernelBuilder, x: Val) -> Val {
    let lanes = b.ty(x).lanes();
    let [zero, limit] = [0.0, 2147483648.0].map(|v| b.number(DType::F32, lanes, v));
    let big = b.op(Op::Ge, &[x, limit]);
    let over = b.op(Op::Sub, &[x, limit]);
    let low = b.op(Op::Max, &[x, zero]);
    let value = b.op(Op::Select, &[big, over, low]);
    let value = b.convert(value, DType::I32);
    let value = b.bitcast(value, DType::U32);
    let [top, none] = [1i64 << 31, 0].map(|v| b.constant(b.ty(value), Lit::int(DType::U32, v)));
    let offset = b.op(Op::Select, &[big, top, none]);
    b.op(Op::Add, &[value, offset])
}

/// A constant like the i32 register `v`.
fn int(b: &mut KernelBuilder, v: Val, c: i64) -> Val {
    b.constant(b.ty(v), Lit::int(DType::I32, c))
}

/// The value of 16 bits in an i32.
fn half_to_f32(b: &mut KernelBuilder, v: Val, from: DType) -> Val {
    let sixteen = int(b, v, 16);
    if from == DType::BF16 {
        let bits = b.op(Op::Shl, &[v, sixteen]);
        return b.bitcast(bits, DType::F32);
    }
    // The exponent moves by an addition. Subnormal numbers get that of the least normal one and its
    // implicit bit, which is subtracted again: so nothing here is subnormal as f32, which a GPU and
    // some settings of a CPU take for zero. Infinities and NaN get the exponent of f32 in full.
    let [magnitude, thirteen, sign, top] = [0x7fff, 13, 0x8000, 0x7c00].map(|c| int(b, v, c));
    let em = b.op(Op::And, &[v, magnitude]);
    let moved = b.op(Op::Shl, &[em, thirteen]);
    let [least, rebias, one] = [0x400, 112 << 23, 1 << 23].map(|c| int(b, v, c));
    let normal = b.op(Op::Add, &[moved, rebias]);
    let higher = b.op(Op::Add, &[normal, one]);
    let higher = b.bitcast(higher, DType::F32);
    let implicit = b.number(DType::F32, b.ty(v).lanes(), 2f64.powi(-14));
    let subnormal = b.op(Op::Sub, &[higher, implicit]);
    let subnormal = b.bitcast(subnormal, DType::I32);
    let is_small = b.op(Op::Lt, &[em, least]);
    let value = b.op(Op::Select, &[is_small, subnormal, normal]);
    let special = b.op(Op::Ge, &[em, top]);
    let [full, none] = [0x7f80_0000, 0].map(|c| int(b, v, c));
    let full = b.op(Op::Select, &[special, full, none]);
    let value = b.op(Op::Or, &[value, full]);
    let sign = b.op(Op::And, &[v, sign]);
    let sign = b.op(Op::Shl, &[sign, sixteen]);
    let bits = b.op(Op::Or, &[value, sign]);
    b.bitcast(bits, DType::F32)
}

/// Rounds to nearest even, to 16 bits in an i32.
fn f32_to_half(b: &mut KernelBuilder, x: Val, to: DType) -> Val {
    let lanes = b.ty(x).lanes();
    let bits = b.bitcast(x, DType::U32);
    let uint = |b: &mut KernelBuilder, c: i64| {
        b.constant(Ty::of(DType::U32, lanes), Lit::int(DType::U32, c))
    };
    let [sixteen, one] = [16, 1].map(|c| uint(b, c));
    let nan = b.op(Op::Ne, &[x, x]);
    let high = b.op(Op::Shr, &[bits, sixteen]);
    if to == DType::BF16 {
        let [half, quiet] = [0x7fff, 0x40].map(|c| uint(b, c));
        let odd = b.op(Op::And, &[high, one]);
        let up = b.op(Op::Add, &[bits, half]);
        let up = b.op(Op::Add, &[up, odd]);
        let rounded = b.op(Op::Shr, &[up, sixteen]);
        let quiet = b.op(Op::Or, &[high, quiet]);
        let result = b.op(Op::Select, &[nan, quiet, rounded]);
        return b.bitcast(result, DType::I32);
    }
    let abs = b.op(Op::Abs, &[x]);
    let magnitude = b.bitcast(abs, DType::U32);
    // Normal results: the exponent moves, and the last 13 bits round.
    let [rebias, half, thirteen] = [112 << 23, 0xfff, 13].map(|c| uint(b, c));
    let last = b.op(Op::Shr, &[magnitude, thirteen]);
    let odd = b.op(Op::And, &[last, one]);
    let up = b.op(Op::Sub, &[magnitude, rebias]);
    let up = b.op(Op::Add, &[up, half]);
    let up = b.op(Op::Add, &[up, odd]);
    let normal = b.op(Op::Shr, &[up, thirteen]);
    // Subnormal results: 1/2 has the last place 2^-24, so adding it rounds.
    let shift = b.number(DType::F32, lanes, 0.5);
    let small = b.op(Op::Add, &[abs, shift]);
    let small = b.bitcast(small, DType::U32);
    let base = b.bitcast(shift, DType::U32);
    let subnormal = b.op(Op::Sub, &[small, base]);
    let [least, most, inf, quiet] = [0x3880_0000, 0x4780_0000, 0x7c00, 0x7e00].map(|c| uint(b, c));
    let is_small = b.op(Op::Lt, &[magnitude, least]);
    let is_large = b.op(Op::Ge, &[magnitude, most]);
    let result = b.op(Op::Select, &[is_small, subnormal, normal]);
    let result = b.op(Op::Select, &[is_large, inf, result]);
    let result = b.op(Op::Select, &[nan, quiet, result]);
    let sign = uint(b, 0x8000);
    let sign = b.op(Op::And, &[high, sign]);
    let result = b.op(Op::Or, &[result, sign]);
    b.bitcast(result, DType::I32)
}

/// A number as f32 from which rounding to f16 or bf16 is as if done at once: what is not exact
/// gets an odd last bit (Boldo and Melquiond 2008).
fn to_f32_odd(b: &mut KernelBuilder, v: Val, source: DType) -> Val {
    let lanes = b.ty(v).lanes();
    let wide = match source {
        DType::F32 => return v,
        DType::F64 => v,
        DType::I64 | DType::U64 => {
            let v = if b.ty(v) == Ty::Index { b.convert(v, DType::I64) } else { v };
            let v = sticky(b, v, source);
            b.convert(v, DType::F64)
        }
        _ => b.convert(v, DType::F64),
    };
    let near = b.convert(wide, DType::F32);
    let back = b.convert(near, DType::F64);
    let [size, back_size] = [wide, back].map(|x| b.op(Op::Abs, &[x]));
    let bits = b.bitcast(near, DType::I32);
    let [zero, one, minus] =
        [0, 1, -1].map(|c| b.constant(Ty::of(DType::I32, lanes), Lit::int(DType::I32, c)));
    let low = b.op(Op::And, &[bits, one]);
    let even = b.op(Op::Eq, &[low, zero]);
    let [above, below] = [(back_size, size), (size, back_size)].map(|(x, y)| {
        let m = b.op(Op::Gt, &[x, y]);
        b.op(Op::And, &[m, even])
    });
    let step = b.op(Op::Select, &[below, one, zero]);
    let step = b.op(Op::Select, &[above, minus, step]);
    let odd = b.op(Op::Add, &[bits, step]);
    b.bitcast(odd, DType::F32)
}

/// A 64-bit integer that f64 holds exactly and that rounds to 11 bits or fewer like this one: from
/// 2⁵³ on the last 24 bits become one that says whether they were not zero.
fn sticky(b: &mut KernelBuilder, v: Val, d: DType) -> Val {
    let ty = b.ty(v);
    let c = |b: &mut KernelBuilder, c: i64| b.constant(ty, Lit::int(d, c));
    let [low, bit, zero, limit] = [0xff_ffff, 0x80_0000, 0, 1 << 53].map(|x| c(b, x));
    let rest = b.op(Op::And, &[v, low]);
    let some = b.op(Op::Ne, &[rest, zero]);
    let flag = b.op(Op::Select, &[some, bit, zero]);
    let high = b.op(Op::Sub, &[v, rest]);
    let rounded = b.op(Op::Or, &[high, flag]);
    let size = b.op(Op::Abs, &[v]);
    let small = b.op(Op::Lt, &[size, limit]);
    // |MIN| wraps to MIN, which is below the limit but exact: its low bits are 0.
    b.op(Op::Select, &[small, v, rounded])
}
