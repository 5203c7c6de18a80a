//! Operations on floats, scalars and vectors alike.

use super::Selector;
use crate::kernel::ir::{Op, Ty, Val};
use crate::target::cpu::x86::codes::{Fp, Shape};
use crate::target::cpu::x86::inst::{Inst, RegClass, Src, VReg};
use crate::target::cpu::x86::{Level, Res, reject};

/// Immediates of the rounding instructions; 8: no exception for inexact results.
const NEAREST: u8 = 8;
const DOWN: u8 = 8 | 1;
const UP: u8 = 8 | 2;
const TOWARDS_ZERO: u8 = 8 | 3;

impl Selector<'_> {
    pub(super) fn float_op(&mut self, dst: Val, op: Op, args: &[Val], ty: Ty) -> Res<()> {
        if ty.dtype().bytes() < 4 {
            return reject(format!("{op:?} on {}", ty.dtype()));
        }
        let shape = self.shape(ty);
        let made = match op {
            Op::Add => self.float_binary(Fp::Add, shape, args[0], args[1], true)?,
            Op::Mul => self.float_binary(Fp::Mul, shape, args[0], args[1], true)?,
            Op::Sub => self.float_binary(Fp::Sub, shape, args[0], args[1], false)?,
            Op::Div => self.float_binary(Fp::Div, shape, args[0], args[1], false)?,
            // Of two operands without order these give the second, as the IR does.
            Op::Min => self.float_binary(Fp::Min, shape, args[0], args[1], false)?,
            Op::Max => self.float_binary(Fp::Max, shape, args[0], args[1], false)?,
            Op::Scale if self.level == Level::V4 => {
                self.float_binary(Fp::Scale, shape, args[0], args[1], false)?
            }
            Op::Fma => self.fma(shape, args[0], args[1], args[2])?,
            Op::Neg => {
                let x = self.reg(args[0])?;
                let sign = self.bits_src(shape, sign_bit(shape));
                self.binary(Fp::Xor.code(shape), shape.view(), x, sign)
            }
            Op::Abs => {
                let x = self.reg(args[0])?;
                let rest = self.bits_src(shape, sign_bit(shape) - 1);
                self.binary(Fp::And.code(shape), shape.view(), x, rest)
            }
            Op::Sqrt => {
                let x = self.src(args[0])?;
                self.float_unary(Fp::Sqrt, shape, x, None)
            }
            Op::Floor | Op::Ceil | Op::Trunc | Op::Round => {
                let way = match op {
                    Op::Floor => DOWN,
                    Op::Ceil => UP,
                    Op::Trunc => TOWARDS_ZERO,
                    _ => NEAREST,
                };
                let x = self.src(args[0])?;
                self.float_unary(Fp::Round, shape, x, Some(way))
            }
            Op::Rem
            | Op::And
            | Op::Or
            | Op::Xor
            | Op::Not
            | Op::Shl
            | Op::Shr
            | Op::Eq
            | Op::Ne
            | Op::Lt
            | Op::Le
            | Op::Gt
            | Op::Ge
            | Op::Select
            | Op::Exp
            | Op::Expm1
            | Op::Log
            | Op::Log1p
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Erf
            | Op::Pow
            | Op::Scale => return reject(format!("{op:?} on floats")),
        };
        self.set_reg(dst, made);
        Ok(())
    }

    fn float_binary(&mut self, op: Fp, shape: Shape, a: Val, b: Val, commutes: bool) -> Res<VReg> {
        let swap = commutes && self.is_memory(a) && !self.is_memory(b);
        let (a, b) = if swap { (b, a) } else { (a, b) };
        let a = self.reg(a)?;
        let b = self.src(b)?;
        Ok(self.binary(op.code(shape), shape.view(), a, b))
    }

    /// Vectors have two operands; scalars a third, of which the upper lanes come.
    fn float_unary(&mut self, op: Fp, shape: Shape, x: Src, imm: Option<u8>) -> VReg {
        let view = shape.view();
        let dst = self.vreg(RegClass::Float);
        let mut inst = Inst::new(op.code(shape)).def(dst, view);
        if !shape.is_vector() {
            let x = self.loaded(shape, x);
            inst = inst.read(x, view).read(x, view);
        } else {
            inst = inst.src(x, view);
        }
        self.push(match imm {
            Some(imm) => inst.imm8(imm),
            None => inst,
        });
        dst
    }

    /// `a · b + c` in the form that overwrites an operand nobody needs any more and reads one from
    /// memory.
    fn fma(&mut self, shape: Shape, a: Val, b: Val, c: Val) -> Res<VReg> {
        let (mut a, mut b) = (a, b);
        if self.is_memory(a) && !self.is_memory(b) {
            std::mem::swap(&mut a, &mut b);
        }
        let free = |s: &Self, v: Val| s.dies(v) || s.is_memory(v);
        let view = shape.view();
        let dst = self.vreg(RegClass::Float);
        // Each form names the tied operand, a register, and one that may be memory.
        let (form, tied, reg, any) = if self.is_memory(b) {
            if free(self, c) || !free(self, a) {
                (Fp::Fma231, c, a, b)
            } else {
                (Fp::Fma132, a, c, b)
            }
        } else if self.is_memory(c) && self.dies(a) {
            (Fp::Fma213, a, b, c)
        } else if self.is_memory(c) && self.dies(b) {
            (Fp::Fma213, b, a, c)
        } else if free(self, c) {
            (Fp::Fma231, c, a, b)
        } else if self.dies(a) {
            (Fp::Fma213, a, b, c)
        } else if self.dies(b) {
            (Fp::Fma213, b, a, c)
        } else {
            (Fp::Fma231, c, a, b)
        };
        let tied = self.reg(tied)?;
        let reg = self.reg(reg)?;
        let any = self.src(any)?;
        self.push(Inst::new(form.code(shape)).tied(dst, tied, view).read(reg, view).src(any, view));
        Ok(dst)
    }

    /// The same bits in every lane, as an operand of a bitwise operation on floats.
    pub(super) fn bits_src(&mut self, shape: Shape, bits: u64) -> Src {
        let element = bits.to_le_bytes()[..shape.dtype.bytes()].to_vec();
        match (shape.level, shape.is_vector()) {
            (Level::V4, _) => Src::Broadcast(self.pooled(element)),
            (Level::V3, true) => Src::Mem(self.pooled(element.repeat(32 / element.len()))),
            // The instruction would read 128 bits.
            (Level::V3, false) => Src::Mem(self.pooled(element.repeat(16 / element.len()))),
        }
    }
}

pub(super) fn sign_bit(shape: Shape) -> u64 {
    1 << (8 * shape.dtype.bytes() - 1)
}
