//! Lanewise operations.
//!
//! Vectors use one instruction where Cranelift has one for the type, short sequences where those
//! exist on every instruction set, and else go lane by lane through scalars.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{self, Type};
use cranelift_codegen::ir::{InstBuilder, Value};

use super::emit::{Emitter, Res, clif_type, elem_type, full_vector, reject};
use crate::base::DType;
use crate::kernel::ir::{Lit, Op, Ty, Val};

impl Emitter<'_> {
    pub(super) fn op(&mut self, op: Op, args: &[Val], out: Ty) -> Res<Value> {
        let ty = self.kernel.ty(args[if op == Op::Select { 1 } else { 0 }]);
        let values = args.iter().map(|v| self.get(*v)).collect::<Res<Vec<Value>>>()?;
        clif_type(out)?;
        match (op, ty) {
            (Op::Select, _) => {
                let mask_lanes = self.kernel.ty(args[0]).lanes();
                self.select(values[0], mask_lanes, values[1], values[2], ty)
            }
            (_, Ty::Mask(lanes)) => self.mask_op(op, &values, lanes),
            (Op::Div | Op::Rem, Ty::Index) => {
                let divisor = self.facts[args[1].0 as usize].literal.and_then(Lit::as_int);
                let nonnegative = self.facts[args[0].0 as usize].nonnegative;
                self.index_division(op, values[0], values[1], divisor, nonnegative)
            }
            (Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge, _) => {
                let wide = self.compare(op, values[0], values[1], ty.dtype());
                self.mask_of(wide, ty)
            }
            (Op::Shl | Op::Shr, Ty::Vector(dtype, lanes)) => {
                self.shift_lanes(op, args, &values, dtype, lanes)
            }
            (_, Ty::Index | Ty::Scalar(_) | Ty::Vector(..)) => self.op_on(op, &values, ty),
        }
    }

    /// An operation that gives a register of its operands' type.
    pub(super) fn op_on(&mut self, op: Op, v: &[Value], ty: Ty) -> Res<Value> {
        if let Ty::Mask(lanes) = ty {
            return self.mask_op(op, v, lanes);
        }
        let dtype = ty.dtype();
        match dtype {
            DType::F32 | DType::F64 => self.float_op(op, v, dtype),
            DType::F16 | DType::BF16 | DType::Bool => {
                reject(format!("{op:?} on {dtype}: only its bits can be moved"))
            }
            DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::U64 => self.int_op(op, v, ty),
        }
    }

    fn float_op(&mut self, op: Op, v: &[Value], dtype: DType) -> Res<Value> {
        Ok(match op {
            Op::Add => self.b.ins().fadd(v[0], v[1]),
            Op::Sub => self.b.ins().fsub(v[0], v[1]),
            Op::Mul => self.b.ins().fmul(v[0], v[1]),
            Op::Div => self.b.ins().fdiv(v[0], v[1]),
            Op::Neg => self.b.ins().fneg(v[0]),
            Op::Abs => self.b.ins().fabs(v[0]),
            Op::Sqrt => self.b.ins().sqrt(v[0]),
            Op::Floor | Op::Ceil | Op::Trunc | Op::Round => match self.features.rounding {
                true => self.round_instruction(op, v[0]),
                false => self.round_by_addition(op, v[0], dtype),
            },
            Op::Fma if self.features.fma => self.b.ins().fma(v[0], v[1], v[2]),
            Op::Fma => return reject("a fused multiply-add, which this target does not have"),
            // In this form Cranelift finds the instruction whose NaN rule is the one of the IR.
            Op::Min => self.pick(FloatCC::LessThan, (v[0], v[1]), v[0], v[1]),
            Op::Max => self.pick(FloatCC::LessThan, (v[1], v[0]), v[0], v[1]),
            Op::Rem | Op::And | Op::Or | Op::Xor | Op::Not | Op::Shl | Op::Shr => {
                return reject(format!("{op:?} on floats"));
            }
            Op::Exp
            | Op::Expm1
            | Op::Log
            | Op::Log1p
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Erf
            | Op::Pow => return reject(format!("{op:?}, which is expanded before emission")),
            Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge | Op::Select => {
                unreachable!("comparisons and selects were handled before")
            }
        })
    }

    /// `a cc b ? x : y` on floats.
    fn pick(&mut self, cc: FloatCC, (a, b): (Value, Value), x: Value, y: Value) -> Value {
        let ty = self.type_of(x);
        let cond = self.b.ins().fcmp(cc, a, b);
        if !ty.is_vector() {
            return self.b.ins().select(cond, x, y);
        }
        let cond = self.bits_as(ty, cond);
        self.b.ins().bitselect(cond, x, y)
    }

    fn round_instruction(&mut self, op: Op, x: Value) -> Value {
        match op {
            Op::Floor => self.b.ins().floor(x),
            Op::Ceil => self.b.ins().ceil(x),
            Op::Trunc => self.b.ins().trunc(x),
            _ => self.b.ins().nearest(x),
        }
    }

    /// Rounding without an instruction for it: below 2^(mantissa bits), adding and subtracting that
    /// power rounds to the nearest even integer; larger numbers are integers, NaN stays. One more
    /// or less gives the other directions; the sign is that of `x`, which -0 needs.
    fn round_by_addition(&mut self, op: Op, x: Value, dtype: DType) -> Value {
        let ty = self.type_of(x);
        let magic = if dtype == DType::F32 { (1u64 << 23) as f64 } else { (1u64 << 52) as f64 };
        let limit = self.float(dtype, ty, magic);
        let one = self.float(dtype, ty, 1.0);
        let zero = self.float(dtype, ty, 0.0);
        let magnitude = self.b.ins().fabs(x);
        let up = self.b.ins().fadd(magnitude, limit);
        let nearest = self.b.ins().fsub(up, limit);
        let towards_zero = |e: &mut Self, r: Value, x: Value| {
            let over = e.pick(FloatCC::GreaterThan, (r, x), one, zero);
            e.b.ins().fsub(r, over)
        };
        let rounded = match op {
            Op::Trunc => towards_zero(self, nearest, magnitude),
            Op::Floor => {
                let r = self.with_sign_of(nearest, x);
                towards_zero(self, r, x)
            }
            Op::Ceil => {
                let r = self.with_sign_of(nearest, x);
                let under = self.pick(FloatCC::LessThan, (r, x), one, zero);
                self.b.ins().fadd(r, under)
            }
            _ => nearest,
        };
        let signed = self.with_sign_of(rounded, x);
        self.pick(FloatCC::LessThan, (magnitude, limit), signed, x)
    }

    fn with_sign_of(&mut self, v: Value, x: Value) -> Value {
        let ty = self.type_of(v);
        if !ty.is_vector() {
            return self.b.ins().fcopysign(v, x);
        }
        let dtype = if ty == types::F32X4 { DType::F32 } else { DType::F64 };
        let minus_zero = self.float(dtype, ty, -0.0);
        let sign = self.b.ins().band(x, minus_zero);
        let magnitude = self.b.ins().fabs(v);
        self.b.ins().bor(magnitude, sign)
    }

    /// A float constant in every lane of the type.
    fn float(&mut self, dtype: DType, ty: Type, v: f64) -> Value {
        let lit = Lit::new(dtype, v);
        let scalar = match dtype {
            DType::F32 => self.b.ins().f32const(f32::from_bits(lit.bits as u32)),
            _ => self.b.ins().f64const(v),
        };
        if ty.is_vector() { self.b.ins().splat(ty, scalar) } else { scalar }
    }

    fn int_op(&mut self, op: Op, v: &[Value], ty: Ty) -> Res<Value> {
        let dtype = ty.dtype();
        let signed = dtype.is_signed_int();
        let vector = self.type_of(v[0]).is_vector();
        Ok(match op {
            Op::Add => self.b.ins().iadd(v[0], v[1]),
            Op::Sub => self.b.ins().isub(v[0], v[1]),
            Op::Mul if self.type_of(v[0]) == types::I8X16 => self.multiply_bytes(v[0], v[1]),
            Op::Mul => self.b.ins().imul(v[0], v[1]),
            Op::Neg => self.b.ins().ineg(v[0]),
            Op::Abs if signed => self.b.ins().iabs(v[0]),
            Op::Abs => v[0],
            Op::Min | Op::Max if vector && dtype.bytes() == 8 => {
                let cond = self.compare(op_of_pick(op), v[0], v[1], dtype);
                self.b.ins().bitselect(cond, v[0], v[1])
            }
            Op::Min if signed => self.b.ins().smin(v[0], v[1]),
            Op::Min => self.b.ins().umin(v[0], v[1]),
            Op::Max if signed => self.b.ins().smax(v[0], v[1]),
            Op::Max => self.b.ins().umax(v[0], v[1]),
            Op::And => self.b.ins().band(v[0], v[1]),
            Op::Or => self.b.ins().bor(v[0], v[1]),
            Op::Xor => self.b.ins().bxor(v[0], v[1]),
            Op::Not => self.b.ins().bnot(v[0]),
            // Cranelift takes the amount modulo the bits, too.
            Op::Shl => self.b.ins().ishl(v[0], v[1]),
            Op::Shr if signed => self.b.ins().sshr(v[0], v[1]),
            Op::Shr => self.b.ins().ushr(v[0], v[1]),
            Op::Div | Op::Rem if vector => {
                return self.by_lane(ty, |e, i| {
                    let lane = |e: &mut Self, v: Value| e.b.ins().extractlane(v, i as u8);
                    let (a, b) = (lane(e, v[0]), lane(e, v[1]));
                    Ok(e.divide(op, a, b, dtype))
                });
            }
            Op::Div | Op::Rem => self.divide(op, v[0], v[1], dtype),
            Op::Floor | Op::Ceil | Op::Trunc | Op::Round => v[0],
            Op::Sqrt
            | Op::Fma
            | Op::Exp
            | Op::Expm1
            | Op::Log
            | Op::Log1p
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Erf
            | Op::Pow => return reject(format!("{op:?} on integers")),
            Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge | Op::Select => {
                unreachable!("comparisons and selects were handled before")
            }
        })
    }

    /// Products of bytes, in two halves of 16-bit products whose low bytes are packed again.
    fn multiply_bytes(&mut self, a: Value, b: Value) -> Value {
        let halves = [false, true].map(|high| {
            let [x, y] = [a, b].map(|v| match high {
                true => self.b.ins().uwiden_high(v),
                false => self.b.ins().uwiden_low(v),
            });
            let product = self.b.ins().imul(x, y);
            let byte = self.b.ins().iconst(types::I16, 0xff);
            let byte = self.b.ins().splat(types::I16X8, byte);
            self.b.ins().band(product, byte)
        });
        self.b.ins().unarrow(halves[0], halves[1])
    }

    /// Division of scalars with every case defined: by zero gives 0, MIN / -1 gives MIN.
    fn divide(&mut self, op: Op, a: Value, b: Value, dtype: DType) -> Value {
        let narrow = self.type_of(a);
        let signed = dtype.is_signed_int();
        let wide = if narrow.bits() < 32 { types::I32 } else { narrow };
        let [a, b] = [a, b].map(|v| match (wide == narrow, signed) {
            (true, _) => v,
            (false, true) => self.b.ins().sextend(wide, v),
            (false, false) => self.b.ins().uextend(wide, v),
        });
        let zero = self.b.ins().iconst(wide, 0);
        let one = self.b.ins().iconst(wide, 1);
        let by_zero = self.b.ins().icmp_imm_u(IntCC::Equal, b, 0);
        let mut divisor = self.b.ins().select(by_zero, one, b);
        let overflow = signed.then(|| self.b.ins().icmp_imm_s(IntCC::Equal, b, -1));
        if let Some(minus_one) = overflow {
            divisor = self.b.ins().select(minus_one, one, divisor);
        }
        let mut result = match (op, signed) {
            (Op::Div, true) => self.b.ins().sdiv(a, divisor),
            (Op::Div, false) => self.b.ins().udiv(a, divisor),
            (_, true) => self.b.ins().srem(a, divisor),
            (_, false) => self.b.ins().urem(a, divisor),
        };
        if let (Some(minus_one), Op::Div) = (overflow, op) {
            // a / -1 = -a, which wraps for MIN; the remainder by 1 is 0 already.
            let negated = self.b.ins().ineg(a);
            result = self.b.ins().select(minus_one, negated, result);
        }
        result = self.b.ins().select(by_zero, zero, result);
        if wide == narrow { result } else { self.b.ins().ireduce(narrow, result) }
    }

    /// Floor division and its remainder on indices, by a positive constant.
    fn index_division(
        &mut self,
        op: Op,
        a: Value,
        b: Value,
        divisor: Option<i64>,
        nonnegative: bool,
    ) -> Res<Value> {
        let Some(d) = divisor.filter(|d| *d > 0) else {
            return reject("an index divided by what is no positive constant");
        };
        let shift = d.trailing_zeros() as i64;
        Ok(match op {
            Op::Div if d.count_ones() == 1 => self.b.ins().sshr_imm_u(a, shift),
            Op::Div if nonnegative => self.b.ins().udiv(a, b),
            Op::Div => {
                // floor(a / d) = trunc(a / d) - (a mod d < 0)
                let quotient = self.b.ins().sdiv(a, b);
                let rest = self.b.ins().srem(a, b);
                let below = self.b.ins().ushr_imm_u(rest, 63);
                self.b.ins().isub(quotient, below)
            }
            _ if d.count_ones() == 1 => self.b.ins().band_imm_s(a, d - 1),
            _ if nonnegative => self.b.ins().urem(a, b),
            _ => {
                let rest = self.b.ins().srem(a, b);
                let sign = self.b.ins().sshr_imm_u(rest, 63);
                let correction = self.b.ins().band(sign, b);
                self.b.ins().iadd(rest, correction)
            }
        })
    }

    /// Shifts of a vector: by one amount where all lanes agree, else lane by lane.
    fn shift_lanes(
        &mut self,
        op: Op,
        args: &[Val],
        v: &[Value],
        dtype: DType,
        lanes: u16,
    ) -> Res<Value> {
        let fact = self.facts[args[1].0 as usize];
        let amount = match (fact.literal, fact.splat_of) {
            (Some(lit), _) => {
                let modulo = lit.bits % (8 * dtype.bytes() as u64);
                Some(self.b.ins().iconst(types::I32, modulo as i64))
            }
            (None, Some(scalar)) => Some(self.get(scalar)?),
            (None, None) => None,
        };
        let shift = |e: &mut Self, x: Value, by: Value| match (op, dtype.is_signed_int()) {
            (Op::Shl, _) => e.b.ins().ishl(x, by),
            (_, true) => e.b.ins().sshr(x, by),
            (_, false) => e.b.ins().ushr(x, by),
        };
        if !dtype.is_int() {
            return reject(format!("{op:?} on {dtype}"));
        }
        match amount {
            Some(by) => Ok(shift(self, v[0], by)),
            None => self.by_lane(Ty::Vector(dtype, lanes), |e, i| {
                let x = e.b.ins().extractlane(v[0], i as u8);
                let by = e.b.ins().extractlane(v[1], i as u8);
                Ok(shift(e, x, by))
            }),
        }
    }

    /// A comparison in the operands' own width: `i8` for scalars, 0 or -1 lanes for vectors.
    pub(super) fn compare(&mut self, op: Op, a: Value, b: Value, dtype: DType) -> Value {
        if dtype.is_float() {
            let cc = match op {
                Op::Eq => FloatCC::Equal,
                Op::Ne => FloatCC::NotEqual,
                Op::Lt => FloatCC::LessThan,
                Op::Le => FloatCC::LessThanOrEqual,
                Op::Gt => FloatCC::GreaterThan,
                _ => FloatCC::GreaterThanOrEqual,
            };
            return self.b.ins().fcmp(cc, a, b);
        }
        let cc = match (op, dtype.is_signed_int()) {
            (Op::Eq, _) => IntCC::Equal,
            (Op::Ne, _) => IntCC::NotEqual,
            (Op::Lt, true) => IntCC::SignedLessThan,
            (Op::Lt, false) => IntCC::UnsignedLessThan,
            (Op::Le, true) => IntCC::SignedLessThanOrEqual,
            (Op::Le, false) => IntCC::UnsignedLessThanOrEqual,
            (Op::Gt, true) => IntCC::SignedGreaterThan,
            (Op::Gt, false) => IntCC::UnsignedGreaterThan,
            (_, true) => IntCC::SignedGreaterThanOrEqual,
            (_, false) => IntCC::UnsignedGreaterThanOrEqual,
        };
        let ty = self.type_of(a);
        let order = !matches!(op, Op::Eq | Op::Ne);
        if ty == types::I64X2 && order && !dtype.is_signed_int() {
            // Unsigned order is signed order with the sign bits flipped.
            let sign = self.b.ins().iconst(types::I64, i64::MIN);
            let sign = self.b.ins().splat(ty, sign);
            let [a, b] = [a, b].map(|v| self.b.ins().bxor(v, sign));
            return self.compare(op, a, b, DType::I64);
        }
        self.b.ins().icmp(cc, a, b)
    }

    fn mask_op(&mut self, op: Op, v: &[Value], lanes: u16) -> Res<Value> {
        Ok(match op {
            Op::And => self.b.ins().band(v[0], v[1]),
            Op::Or => self.b.ins().bor(v[0], v[1]),
            Op::Xor | Op::Ne => self.b.ins().bxor(v[0], v[1]),
            Op::Not => self.mask_not(v[0], lanes),
            Op::Eq => {
                let differ = self.b.ins().bxor(v[0], v[1]);
                self.mask_not(differ, lanes)
            }
            // false < true: a < b = !a & b, and so on.
            Op::Lt | Op::Ge => {
                let not_a = self.mask_not(v[0], lanes);
                let less = self.b.ins().band(not_a, v[1]);
                if op == Op::Lt { less } else { self.mask_not(less, lanes) }
            }
            Op::Gt | Op::Le => {
                let not_b = self.mask_not(v[1], lanes);
                let greater = self.b.ins().band(v[0], not_b);
                if op == Op::Gt { greater } else { self.mask_not(greater, lanes) }
            }
            _ => return reject(format!("{op:?} on masks")),
        })
    }

    fn mask_not(&mut self, v: Value, lanes: u16) -> Value {
        if lanes == 1 { self.b.ins().bxor_imm_u(v, 1) } else { self.b.ins().bnot(v) }
    }

    /// `mask ? a : b`, lane by lane.
    fn select(&mut self, mask: Value, mask_lanes: u16, a: Value, b: Value, ty: Ty) -> Res<Value> {
        if mask_lanes == 1 {
            return Ok(self.b.ins().select(mask, a, b));
        }
        if mask_lanes != ty.lanes() {
            return reject(format!("a mask of {mask_lanes} lanes selects among {}", ty.lanes()));
        }
        let own = self.type_of(a);
        let wide = match ty {
            Ty::Mask(_) => mask,
            Ty::Index | Ty::Scalar(_) | Ty::Vector(..) => {
                self.mask_for(mask, mask_lanes, ty.dtype())
            }
        };
        let cond = self.bits_as(own, wide);
        Ok(self.b.ins().bitselect(cond, a, b))
    }

    /// Makes a register lane by lane.
    pub(super) fn by_lane(
        &mut self,
        ty: Ty,
        mut lane: impl FnMut(&mut Self, u16) -> Res<Value>,
    ) -> Res<Value> {
        let first = lane(self, 0)?;
        if ty.lanes() == 1 {
            return Ok(first);
        }
        let full = full_vector(ty.dtype());
        debug_assert_eq!(self.type_of(first), elem_type(ty.dtype()));
        let mut out = self.first_lane(full, first);
        for i in 1..ty.lanes() {
            let v = lane(self, i)?;
            out = self.b.ins().insertlane(out, v, i as u8);
        }
        Ok(out)
    }

    /// Whether the result is surely at least 0, from what is known of the operands.
    pub(super) fn op_is_nonnegative(&self, op: Op, args: &[Val], dst: Val) -> bool {
        let known = |v: &Val| self.facts[v.0 as usize].nonnegative;
        match (self.kernel.ty(dst), op) {
            (Ty::Index, Op::Rem) => true,
            (Ty::Index, Op::Add | Op::Mul | Op::Div | Op::Min) => args.iter().all(known),
            (Ty::Index, Op::Max) => args.iter().any(known),
            (Ty::Index, Op::Select) => args[1..].iter().all(known),
            _ => false,
        }
    }
}

/// The comparison by which min and max choose their first operand.
fn op_of_pick(op: Op) -> Op {
    if op == Op::Min { Op::Lt } else { Op::Gt }
}
