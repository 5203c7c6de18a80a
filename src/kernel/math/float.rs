//! Short names for operations on float registers of one type, and the facts of their format.

use super::Means;
use crate::base::DType;
use crate::base::machine::Numerics;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::*;

/// Builds expressions on f32 or f64 registers of some lanes.
pub struct Floats<'b> {
    pub b: &'b mut KernelBuilder,
    pub dtype: DType,
    pub lanes: u16,
    pub means: Means,
}

impl Floats<'_> {
    pub fn is_f32(&self) -> bool {
        self.dtype == DType::F32
    }

    /// One of two, by the format.
    pub fn pick<T>(&self, f32: T, f64: T) -> T {
        if self.is_f32() { f32 } else { f64 }
    }

    /// Stored bits of the significand.
    pub fn mantissa(&self) -> i64 {
        self.pick(23, 52)
    }

    pub fn bias(&self) -> i64 {
        self.pick(127, 1023)
    }

    /// Adding this rounds to an integer, which then is in the low bits (to ±2^21 at least).
    pub fn magic(&self) -> f64 {
        1.5 * 2f64.powi(self.mantissa() as i32)
    }

    fn int(&self) -> DType {
        self.pick(DType::I32, DType::I64)
    }

    pub fn c(&mut self, v: f64) -> Val {
        self.b.number(self.dtype, self.lanes, v)
    }

    pub fn ic(&mut self, v: i64) -> Val {
        let ty = Ty::of(self.int(), self.lanes);
        self.b.constant(ty, Lit::int(self.int(), v))
    }

    /// The bits of a float constant, as an integer constant.
    pub fn bits_of(&mut self, v: f64) -> Val {
        let bits = Lit::new(self.dtype, v).bits;
        self.ic(bits as i64)
    }

    pub fn op(&mut self, op: Op, args: &[Val]) -> Val {
        self.b.op(op, args)
    }

    pub fn add(&mut self, a: Val, b: Val) -> Val {
        self.op(Op::Add, &[a, b])
    }

    pub fn sub(&mut self, a: Val, b: Val) -> Val {
        self.op(Op::Sub, &[a, b])
    }

    pub fn mul(&mut self, a: Val, b: Val) -> Val {
        self.op(Op::Mul, &[a, b])
    }

    pub fn div(&mut self, a: Val, b: Val) -> Val {
        self.op(Op::Div, &[a, b])
    }

    pub fn abs(&mut self, a: Val) -> Val {
        self.op(Op::Abs, &[a])
    }

    pub fn mul_add(&mut self, a: Val, b: Val, c: Val) -> Val {
        self.b.mul_add(a, b, c)
    }

    pub fn select(&mut self, mask: Val, a: Val, b: Val) -> Val {
        self.op(Op::Select, &[mask, a, b])
    }

    /// Compares with a constant.
    pub fn is(&mut self, op: Op, a: Val, c: f64) -> Val {
        let c = self.c(c);
        self.op(op, &[a, c])
    }

    pub fn bits(&mut self, v: Val) -> Val {
        let int = self.int();
        self.b.bitcast(v, int)
    }

    pub fn value(&mut self, bits: Val) -> Val {
        let dtype = self.dtype;
        self.b.bitcast(bits, dtype)
    }

    /// `a`, which is not negative, with the sign of `s`.
    pub fn signed(&mut self, a: Val, s: Val) -> Val {
        let sign = self.ic(i64::MIN >> (63 - self.mantissa() - self.pick(8, 11)));
        let (a, s) = (self.bits(a), self.bits(s));
        let s = self.op(Op::And, &[s, sign]);
        let both = self.op(Op::Or, &[a, s]);
        self.value(both)
    }

    /// `|a|` with the sign of `s`.
    pub fn with_sign(&mut self, a: Val, s: Val) -> Val {
        let sign = self.ic(i64::MIN >> (63 - self.mantissa() - self.pick(8, 11)));
        let (a, s) = (self.bits(a), self.bits(s));
        let s = self.op(Op::And, &[s, sign]);
        let not = self.op(Op::Not, &[sign]);
        let a = self.op(Op::And, &[a, not]);
        let both = self.op(Op::Or, &[a, s]);
        self.value(both)
    }

    /// A polynomial, coefficients ascending, by Horner's rule.
    pub fn poly(&mut self, x: Val, coefficients: &[f64]) -> Val {
        let mut terms = coefficients.iter().rev();
        let mut sum = terms.next().map(|c| self.c(*c)).unwrap_or(x);
        for c in terms {
            let c = self.c(*c);
            sum = self.mul_add(sum, x, c);
        }
        sum
    }

    /// 2 to the power of an integer register within the range of exponents of normal numbers.
    pub fn power_of_two(&mut self, n: Val) -> Val {
        let (bias, shift) = (self.ic(self.bias()), self.ic(self.mantissa()));
        let exponent = self.op(Op::Add, &[n, bias]);
        let bits = self.op(Op::Shl, &[exponent, shift]);
        self.value(bits)
    }

    /// a + b = sum + error, exactly (Knuth).
    pub fn two_sum(&mut self, a: Val, b: Val) -> (Val, Val) {
        let sum = self.add(a, b);
        let bb = self.sub(sum, a);
        let aa = self.sub(sum, bb);
        let (da, db) = (self.sub(a, aa), self.sub(b, bb));
        (sum, self.add(da, db))
    }

    /// a · b = product + error, exactly (Dekker; by a fused multiply-add where there is one).
    pub fn two_product(&mut self, a: Val, b: Val) -> (Val, Val) {
        let p = self.mul(a, b);
        if self.b.numerics() == Numerics::Fused {
            let minus = self.op(Op::Neg, &[p]);
            return (p, self.op(Op::Fma, &[a, b, minus]));
        }
        let factor = self.pick(4097.0, 134217729.0);
        let split = |f: &mut Self, x: Val| {
            let c = f.c(factor);
            let scaled = f.mul(c, x);
            let rest = f.sub(scaled, x);
            let high = f.sub(scaled, rest);
            (high, f.sub(x, high))
        };
        let ((ah, al), (bh, bl)) = (split(self, a), split(self, b));
        let hh = self.mul(ah, bh);
        let mut error = self.sub(hh, p);
        for (x, y) in [(ah, bl), (al, bh), (al, bl)] {
            let part = self.mul(x, y);
            error = self.add(error, part);
        }
        (p, error)
    }
}
