//! Lanewise operations: floats, comparisons, masks; integers are in `integers`.
//!
//! Vectors use one instruction where Cranelift has one for the type, short sequences where those
//! exist on every instruction set, and else go lane by lane through scalars.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{self, Type};
use cranelift_codegen::ir::{InstBuilder, Value};

use super::emit::{Emitter, Res, clif_type, elem_type, full_vector, reject};
use crate::base::DType;
use crate::kernel::ir::{Lit, Op, Order, Ty, Val};

impl Emitter<'_> {
    pub(super) fn op(&mut self, op: Op, args: &[Val], out: Ty) -> Res<Value> {
        let ty = self.kernel.ty(args[if op == Op::Select { 1 } else { 0 }]);
        let mut values = args.iter().map(|v| self.get(*v)).collect::<Res<Vec<Value>>>()?;
        if op == Op::Fma && self.uses[args[0].0 as usize] > self.uses[args[1].0 as usize] {
            // a · b = b · a. The instruction overwrites its first factor, which is copied before if
            // somebody else reads it.
            values.swap(0, 1);
        }
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
            (Op::Shl | Op::Shr, Ty::Vector(dtype, lanes)) => {
                self.shift_lanes(op, args, &values, dtype, lanes)
            }
            (_, Ty::Index | Ty::Scalar(_) | Ty::Vector(..)) => match op.order() {
                Some(order) => {
                    let wide = self.compare(order, values[0], values[1], ty.dtype());
                    self.mask_of(wide, ty)
                }
                None => self.op_on(op, &values, ty),
            },
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
            Op::Floor => self.round(Rounding::Down, v[0], dtype),
            Op::Ceil => self.round(Rounding::Up, v[0], dtype),
            Op::Trunc => self.round(Rounding::TowardsZero, v[0], dtype),
            Op::Round => self.round(Rounding::Nearest, v[0], dtype),
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
            | Op::Pow
            | Op::Scale => return reject(format!("{op:?}, which is expanded before emission")),
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

    fn round(&mut self, way: Rounding, x: Value, dtype: DType) -> Value {
        match way {
            _ if !self.features.rounding => self.round_by_addition(way, x, dtype),
            Rounding::Down => self.b.ins().floor(x),
            Rounding::Up => self.b.ins().ceil(x),
            Rounding::TowardsZero => self.b.ins().trunc(x),
            Rounding::Nearest => self.b.ins().nearest(x),
        }
    }

    /// Rounding without an instruction for it: below 2^(mantissa bits), adding and subtracting that
    /// power rounds to the nearest even integer; larger numbers are integers, NaN stays. One more
    /// or less gives the other directions; the sign is that of `x`, which -0 needs.
    fn round_by_addition(&mut self, way: Rounding, x: Value, dtype: DType) -> Value {
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
        let rounded = match way {
            Rounding::TowardsZero => towards_zero(self, nearest, magnitude),
            Rounding::Down => {
                let r = self.with_sign_of(nearest, x);
                towards_zero(self, r, x)
            }
            Rounding::Up => {
                let r = self.with_sign_of(nearest, x);
                let under = self.pick(FloatCC::LessThan, (r, x), one, zero);
                self.b.ins().fadd(r, under)
            }
            Rounding::Nearest => nearest,
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

    /// A comparison in the operands' own width: `i8` for scalars, 0 or -1 lanes for vectors.
    pub(super) fn compare(&mut self, order: Order, a: Value, b: Value, dtype: DType) -> Value {
        if dtype.is_float() {
            let cc = match order {
                Order::Eq => FloatCC::Equal,
                Order::Ne => FloatCC::NotEqual,
                Order::Lt => FloatCC::LessThan,
                Order::Le => FloatCC::LessThanOrEqual,
                Order::Gt => FloatCC::GreaterThan,
                Order::Ge => FloatCC::GreaterThanOrEqual,
            };
            return self.b.ins().fcmp(cc, a, b);
        }
        let signed = match order {
            Order::Eq => IntCC::Equal,
            Order::Ne => IntCC::NotEqual,
            Order::Lt => IntCC::SignedLessThan,
            Order::Le => IntCC::SignedLessThanOrEqual,
            Order::Gt => IntCC::SignedGreaterThan,
            Order::Ge => IntCC::SignedGreaterThanOrEqual,
        };
        let cc = if dtype.is_signed_int() { signed } else { signed.unsigned() };
        let ty = self.type_of(a);
        if ty == types::I64X2 && cc != signed {
            // Unsigned order is signed order with the sign bits flipped.
            let sign = self.b.ins().iconst(types::I64, i64::MIN);
            let sign = self.b.ins().splat(ty, sign);
            let [a, b] = [a, b].map(|v| self.b.ins().bxor(v, sign));
            return self.b.ins().icmp(signed, a, b);
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

/// Where a rounded number lies.
#[derive(Clone, Copy)]
enum Rounding {
    Down,
    Up,
    TowardsZero,
    /// Ties to even.
    Nearest,
}
