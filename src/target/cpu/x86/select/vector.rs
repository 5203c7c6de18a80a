//! Operations on vectors of integers.

use super::Selector;
use super::float::sign_bit;
use crate::kernel::ir::{Op, Order, Ty, Val};
use crate::target::cpu::x86::codes::{Int, Shape};
use crate::target::cpu::x86::inst::{Arg, Code, Inst, RegClass, Src, VReg, View};
use crate::target::cpu::x86::{Level, Res, reject};

impl Selector<'_> {
    pub(super) fn vector_op(&mut self, dst: Val, op: Op, args: &[Val], ty: Ty) -> Res<()> {
        let shape = self.shape(ty);
        if shape.dtype.bytes() < 4 {
            return reject(format!("{op:?} on vectors of {}", shape.dtype));
        }
        let signed = shape.dtype.is_signed_int();
        let simple = match op {
            Op::Add => Some((Int::Add, true)),
            Op::Sub => Some((Int::Sub, false)),
            Op::Mul => Some((Int::Mul, true)),
            Op::And => Some((Int::And, true)),
            Op::Or => Some((Int::Or, true)),
            Op::Xor => Some((Int::Xor, true)),
            Op::Min => Some((if signed { Int::MinSigned } else { Int::MinUnsigned }, true)),
            Op::Max => Some((if signed { Int::MaxSigned } else { Int::MaxUnsigned }, true)),
            _ => None,
        };
        let made = match (op, simple) {
            (_, Some((simple, commutes))) => {
                let (mut a, mut b) = (args[0], args[1]);
                if commutes && self.is_memory(a) && !self.is_memory(b) {
                    std::mem::swap(&mut a, &mut b);
                }
                let (x, y) = (self.reg(a)?, self.src(b)?);
                match simple.code(shape) {
                    Some(code) => self.binary(code, shape.view(), x, y),
                    None if op == Op::Mul => self.wide_product(shape, x, y),
                    None => self.wide_min_max(op, shape, x, y)?,
                }
            }
            (Op::Shl | Op::Shr, _) => {
                let Some(amount) = self.literal(args[1]) else {
                    return reject("a shift of lanes by different amounts");
                };
                let x = self.reg(args[0])?;
                let by = (amount.bits % (8 * shape.dtype.bytes() as u64)) as u8;
                self.vector_shift(op, shape, x, by)
            }
            (Op::Neg, _) => {
                let x = self.src(args[0])?;
                let zero = self.zero();
                self.binary(self.int_code(Int::Sub, shape), shape.view(), zero, x)
            }
            (Op::Not, _) => {
                let x = self.reg(args[0])?;
                self.vector_not(shape, x)
            }
            (Op::Abs, _) if !signed => self.reg(args[0])?,
            (Op::Abs, _) => match Int::Abs.code(shape) {
                Some(code) => {
                    let x = self.src(args[0])?;
                    self.unary(code, shape.view(), shape.view(), x)
                }
                None => {
                    // |x| = (x ^ s) - s, where s = x < 0 ? -1 : 0; MIN stays.
                    let x = self.reg(args[0])?;
                    let zero = self.zero();
                    let sign = self.compare_ints(Order::Lt, shape, x, Src::Reg(zero));
                    let code = self.int_code(Int::Xor, shape);
                    let flipped = self.binary(code, shape.view(), x, Src::Reg(sign));
                    let code = self.int_code(Int::Sub, shape);
                    self.binary(code, shape.view(), flipped, Src::Reg(sign))
                }
            },
            _ => return reject(format!("{op:?} on {ty:?}")),
        };
        self.set_reg(dst, made);
        Ok(())
    }

    /// An opcode that both levels have for both widths.
    fn int_code(&self, op: Int, shape: Shape) -> Code {
        op.code(shape).unwrap_or(Code::INVALID)
    }

    /// Minimum and maximum of 64-bit integers, which AVX2 lacks.
    fn wide_min_max(&mut self, op: Op, shape: Shape, a: VReg, b: Src) -> Res<VReg> {
        let order = match op {
            Op::Min => Order::Lt,
            Op::Max => Order::Gt,
            _ => return reject(format!("{op:?} on vectors of {}", shape.dtype)),
        };
        let b = self.loaded(shape, b);
        let mask = self.compare_ints(order, shape, a, Src::Reg(b));
        Ok(self.blend(shape, mask, b, Src::Reg(a)))
    }

    /// Products of 64-bit integers, which AVX2 lacks: of the halves, the two mixed products count
    /// with their low 32 bits, at the top.
    fn wide_product(&mut self, shape: Shape, a: VReg, b: Src) -> VReg {
        use Code::*;
        let view = shape.view();
        let b = self.loaded(shape, b);
        let swapped =
            self.with_imm(shape.fit(VEX_Vpshufd_ymm_ymmm256_imm8), view, view, Src::Reg(b), 0xb1);
        let mixed = self.binary(shape.fit(VEX_Vpmulld_ymm_ymm_ymmm256), view, a, Src::Reg(swapped));
        let upper =
            self.with_imm(shape.fit(VEX_Vpsrlq_ymm_ymm_imm8), view, view, Src::Reg(mixed), 32);
        let sum = self.binary(shape.fit(VEX_Vpaddd_ymm_ymm_ymmm256), view, mixed, Src::Reg(upper));
        let high = self.with_imm(shape.fit(VEX_Vpsllq_ymm_ymm_imm8), view, view, Src::Reg(sum), 32);
        let low = self.binary(shape.fit(VEX_Vpmuludq_ymm_ymm_ymmm256), view, a, Src::Reg(b));
        self.binary(shape.fit(VEX_Vpaddq_ymm_ymm_ymmm256), view, low, Src::Reg(high))
    }

    fn vector_shift(&mut self, op: Op, shape: Shape, x: VReg, by: u8) -> VReg {
        let kind = match (op, shape.dtype.is_signed_int()) {
            (Op::Shl, _) => Int::Shl,
            (_, true) => Int::Sar,
            (_, false) => Int::Shr,
        };
        let view = shape.view();
        if by == 0 {
            return x;
        }
        if let Some(code) = kind.code(shape) {
            return self.with_imm(code, view, view, Src::Reg(x), by);
        }
        // AVX2 has no arithmetic shift of 64 bits: the logical one, then the sign's copies, as
        // (y ^ m) - m with m the place where the sign bit went.
        let code = self.int_code(Int::Shr, shape);
        let shifted = self.with_imm(code, view, view, Src::Reg(x), by);
        let place = self.wide_constant(shape, sign_bit(shape) >> by);
        let flipped = self.binary(self.int_code(Int::Xor, shape), view, shifted, Src::Reg(place));
        self.binary(self.int_code(Int::Sub, shape), view, flipped, Src::Reg(place))
    }

    pub(super) fn vector_not(&mut self, shape: Shape, x: VReg) -> VReg {
        match self.level {
            Level::V4 => {
                // The truth table of "not the third operand".
                let dst = self.vreg(RegClass::Float);
                self.push(
                    Inst::new(Code::EVEX_Vpternlogd_zmm_k1z_zmm_zmmm512b32_imm8)
                        .tied(dst, x, View::Z)
                        .read(x, View::Z)
                        .read(x, View::Z)
                        .imm8(0x55),
                );
                dst
            }
            Level::V3 => {
                let ones = self.ones(shape);
                self.binary(self.int_code(Int::Xor, shape), shape.view(), x, Src::Reg(ones))
            }
        }
    }

    /// All bits set, in the whole register.
    pub(super) fn ones(&mut self, shape: Shape) -> VReg {
        let shape = Shape::full(shape.level, shape.dtype);
        let dst = self.vreg(RegClass::Float);
        let view = shape.view();
        let inst = match self.level {
            Level::V3 => Inst::new(Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256),
            Level::V4 => Inst::new(Code::EVEX_Vpternlogd_zmm_k1z_zmm_zmmm512b32_imm8),
        };
        let inst = inst.def(dst, view).arg(Arg::Same(view)).arg(Arg::Same(view));
        self.push(if self.level == Level::V4 { inst.imm8(0xff) } else { inst });
        dst
    }

    /// The same bits in every lane.
    pub(super) fn wide_constant(&mut self, shape: Shape, bits: u64) -> VReg {
        let src = self.bits_src(shape, bits);
        self.loaded(shape, src)
    }
}
