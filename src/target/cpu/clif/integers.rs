//! Operations on integers and indices.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types;
use cranelift_codegen::ir::{InstBuilder, Value};

use super::emit::{Emitter, Res, reject};
use crate::base::DType;
use crate::kernel::ir::{Op, Order, Ty, Val};

impl Emitter<'_> {
    pub(super) fn int_op(&mut self, op: Op, v: &[Value], ty: Ty) -> Res<Value> {
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
                let order = if op == Op::Min { Order::Lt } else { Order::Gt };
                let cond = self.compare(order, v[0], v[1], dtype);
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
            | Op::Pow
            | Op::Scale => return reject(format!("{op:?} on integers")),
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
    pub(super) fn index_division(
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
    pub(super) fn shift_lanes(
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
}
