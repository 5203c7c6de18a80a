//! Comparisons, masks and selects.
//!
//! A comparison of scalars is only remembered; each reader makes it again, as flags where it
//! branches or moves conditionally. Comparisons of vectors give masks (see the module's top).

use super::{Memo, Selector, Value};
use crate::base::DType;
use crate::kernel::ir::{Op, Order, Ty, Val};
use crate::target::cpu::x86::codes::{Alu, Fp, Int, Shape, Width, cmov, setcc};
use crate::target::cpu::x86::inst::{Cc, Code, Inst, RegClass, Src, Test, VReg, View};
use crate::target::cpu::x86::{Level, Res, reject};

/// A comparison of two scalars.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Compare {
    order: Order,
    dtype: DType,
    a: VReg,
    b: Operand,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Operand {
    Reg(VReg),
    /// Of integers.
    Imm(i32),
}

impl Compare {
    pub fn registers(&self) -> impl Iterator<Item = VReg> + use<> {
        let b = match self.b {
            Operand::Reg(v) => Some(v),
            Operand::Imm(_) => None,
        };
        std::iter::once(self.a).chain(b)
    }

    fn shape(&self, level: Level) -> Shape {
        Shape::one(level, self.dtype)
    }
}

impl Order {
    /// For integers, by the flags of `cmp a, b`.
    fn cc(self, signed: bool) -> Cc {
        match (self, signed) {
            (Order::Eq, _) => Cc::Eq,
            (Order::Ne, _) => Cc::Ne,
            (Order::Lt, true) => Cc::Lt,
            (Order::Le, true) => Cc::Le,
            (Order::Gt, true) => Cc::Gt,
            (Order::Ge, true) => Cc::Ge,
            (Order::Lt, false) => Cc::Below,
            (Order::Le, false) => Cc::BelowEq,
            (Order::Gt, false) => Cc::Above,
            (Order::Ge, false) => Cc::AboveEq,
        }
    }

    /// The predicate of `vcmpps`: quiet, ordered but for `Ne` (Intel SDM volume 2C, "VCMPPS").
    fn float_predicate(self) -> u8 {
        match self {
            Order::Eq => 0x00,
            Order::Ne => 0x04,
            Order::Lt => 0x11,
            Order::Le => 0x12,
            Order::Gt => 0x1e,
            Order::Ge => 0x1d,
        }
    }

    /// The predicate of AVX-512's `vpcmpd` and its kin.
    fn int_predicate(self) -> u8 {
        match self {
            Order::Eq => 0,
            Order::Lt => 1,
            Order::Le => 2,
            Order::Ne => 4,
            Order::Ge => 5,
            Order::Gt => 6,
        }
    }
}

/// The predicate of `vcmpps` that holds where no operand is NaN.
pub(super) const ORDERED: u8 = 0x07;

impl Selector<'_> {
    pub(super) fn compare(&mut self, dst: Val, order: Order, a: Val, b: Val) -> Res<()> {
        let ty = self.ty(a);
        match ty {
            Ty::Mask(_) => reject("a comparison of masks, which is expanded before"),
            Ty::Vector(d, _) => {
                let (x, y) = (self.reg(a)?, self.src(b)?);
                let shape = self.shape(ty);
                let mask = if d.is_float() {
                    self.compare_floats(order.float_predicate(), shape, x, y)
                } else {
                    self.compare_ints(order, shape, x, y)
                };
                let mask = self.mask_of(shape, mask);
                self.set_reg(dst, mask);
                Ok(())
            }
            Ty::Index | Ty::Scalar(_) => {
                let x = self.reg(a)?;
                let small = match ty.dtype().is_float() {
                    true => None,
                    false => self.literal(b).and_then(|l| i32::try_from(l.as_int()?).ok()),
                };
                let y = match small {
                    // Immediates are sign-extended, which agrees with either reading of 32 bits.
                    Some(imm) => Operand::Imm(imm),
                    None => Operand::Reg(self.reg(b)?),
                };
                let compare = Compare { order, dtype: ty.dtype(), a: x, b: y };
                self.set(dst, Value::Compare(compare));
                Ok(())
            }
        }
    }

    /// A mask of what a comparison of float vectors holds for.
    pub(super) fn compare_floats(&mut self, predicate: u8, shape: Shape, a: VReg, b: Src) -> VReg {
        let view = shape.view();
        let (class, out) = match self.level {
            Level::V3 => (RegClass::Float, view),
            Level::V4 => (RegClass::Vector, View::K),
        };
        let dst = self.vreg(class);
        self.push(
            Inst::new(Fp::Compare.code(shape))
                .def(dst, out)
                .read(a, view)
                .src(b, view)
                .imm8(predicate),
        );
        dst
    }

    pub(super) fn compare_ints(&mut self, order: Order, shape: Shape, a: VReg, b: Src) -> VReg {
        let view = shape.view();
        let signed = shape.dtype.is_signed_int();
        if self.level == Level::V4 {
            let op = if signed { Int::Compare } else { Int::CompareUnsigned };
            let code = op.code(shape).expect("AVX-512 compares all integers");
            let dst = self.vreg(RegClass::Vector);
            let predicate = order.int_predicate();
            self.push(Inst::new(code).def(dst, View::K).read(a, view).src(b, view).imm8(predicate));
            return dst;
        }
        let code = |op: Int| op.code(shape).expect("AVX2 has it for both widths");
        match order {
            Order::Eq => self.binary(code(Int::Equal), view, a, b),
            Order::Ne => {
                let equal = self.binary(code(Int::Equal), view, a, b);
                self.vector_not(shape, equal)
            }
            Order::Lt | Order::Le | Order::Gt | Order::Ge => {
                let (mut a, mut b) = (a, self.loaded(shape, b));
                if !signed {
                    // Unsigned order is signed order with the sign bits flipped.
                    let bits = 8 * shape.dtype.bytes() as u32;
                    let sign = self.wide_constant(shape, 1u64 << (bits - 1));
                    [a, b] = [a, b].map(|v| self.binary(code(Int::Xor), view, v, Src::Reg(sign)));
                }
                let (x, y) = if matches!(order, Order::Lt | Order::Ge) { (b, a) } else { (a, b) };
                let greater = self.binary(code(Int::Compare), view, x, Src::Reg(y));
                match order {
                    Order::Le | Order::Ge => self.vector_not(shape, greater),
                    _ => greater,
                }
            }
        }
    }

    /// On AVX2 masks of 4 lanes are held in 128 bits: the even words of what a comparison of 8-byte
    /// lanes gave.
    fn mask_of(&mut self, shape: Shape, mask: VReg) -> VReg {
        use Code::*;
        if self.level == Level::V4 || shape.dtype.bytes() == 4 || shape.width != Width::Y {
            return mask;
        }
        let code = VEX_Vextracti128_xmmm128_ymm_imm8;
        let high = self.with_imm(code, View::X, View::Y, Src::Reg(mask), 1);
        let dst = self.vreg(RegClass::Float);
        let inst = Inst::new(VEX_Vshufps_xmm_xmm_xmmm128_imm8).def(dst, View::X);
        self.push(inst.read(mask, View::X).read(high, View::X).imm8(0x88));
        dst
    }

    /// The mask as operations of this shape take it.
    fn mask_for(&mut self, shape: Shape, mask: VReg) -> VReg {
        if self.level == Level::V4 || shape.dtype.bytes() == 4 || shape.width != Width::Y {
            return mask;
        }
        self.unary(Code::VEX_Vpmovsxdq_ymm_xmmm128, View::Y, View::X, Src::Reg(mask))
    }

    /// What an operand reads, in a register.
    pub(super) fn loaded(&mut self, shape: Shape, src: Src) -> VReg {
        match src {
            Src::Reg(v) => v,
            Src::Mem(_) => self.unary(Fp::Load.code(shape), shape.view(), shape.view(), src),
            Src::Broadcast(m) => {
                self.unary(Fp::Broadcast.code(shape), shape.view(), View::X, Src::Mem(m))
            }
        }
    }

    /// A comparison of scalars as flags.
    fn flags_of(&mut self, c: &Compare) -> Option<Test> {
        if !c.dtype.is_float() {
            let view = if c.dtype.bytes() == 8 { View::R64 } else { View::R32 };
            let cc = c.order.cc(c.dtype.is_signed_int());
            let inst = match c.b {
                Operand::Imm(0) if matches!(c.order, Order::Eq | Order::Ne) => self.test(c.a, view),
                Operand::Imm(imm) => self.cmp_imm(view, c.a, imm),
                Operand::Reg(b) => Inst::new(Alu::Cmp.codes(view)[0]).read(c.a, view).read(b, view),
            };
            return Some(Test { inst, cc });
        }
        let Operand::Reg(b) = c.b else { return None };
        // Unordered operands set the carry, so `above` excludes them; equality has no such flag.
        let (a, b, cc) = match c.order {
            Order::Gt => (c.a, b, Cc::Above),
            Order::Ge => (c.a, b, Cc::AboveEq),
            Order::Lt => (b, c.a, Cc::Above),
            Order::Le => (b, c.a, Cc::AboveEq),
            Order::Eq | Order::Ne => return None,
        };
        let code = Fp::Flags.code(c.shape(self.level));
        Some(Test { inst: Inst::new(code).read(a, View::X).read(b, View::X), cc })
    }

    pub(super) fn test(&self, v: VReg, view: View) -> Inst {
        let code = if view == View::R64 { Code::Test_rm64_r64 } else { Code::Test_rm32_r32 };
        Inst::new(code).read(v, view).read(v, view)
    }

    /// The flags that say whether a condition holds.
    pub(super) fn flags(&mut self, cond: Val) -> Res<Test> {
        if let Value::Compare(c) = self.vals[cond.0 as usize].clone()
            && let Some(test) = self.flags_of(&c)
        {
            return Ok(test);
        }
        let v = self.reg(cond)?;
        Ok(Test { inst: self.test(v, View::R32), cc: Cc::Ne })
    }

    /// A comparison as 0 or 1.
    pub(super) fn bool_reg(&mut self, c: &Compare) -> VReg {
        let (memo, depth) = (Memo::Bool(c.clone()), self.depth());
        if let Some(v) = self.known(&memo, depth) {
            return v;
        }
        let dst = match self.flags_of(c) {
            Some(test) => {
                let byte = self.vreg(RegClass::Int);
                self.push(test.inst);
                self.push(Inst::new(setcc(test.cc)).def(byte, View::R8));
                let dst = self.vreg(RegClass::Int);
                self.push(Inst::new(Code::Movzx_r32_rm8).def(dst, View::R32).read(byte, View::R8));
                dst
            }
            None => {
                let mask = self.scalar_mask(c);
                match self.level {
                    Level::V4 => {
                        self.unary(Code::VEX_Kmovw_r32_kr, View::R32, View::K, Src::Reg(mask))
                    }
                    Level::V3 => {
                        let bits = self.unary(
                            Code::VEX_Vmovd_rm32_xmm,
                            View::R32,
                            View::X,
                            Src::Reg(mask),
                        );
                        self.alu_imm(Alu::And, View::R32, bits, 1)
                    }
                }
            }
        };
        self.remember(memo, depth, dst);
        dst
    }

    /// A comparison of floats as a mask for `blend`.
    fn scalar_mask(&mut self, c: &Compare) -> VReg {
        let b = match c.b {
            Operand::Reg(b) => b,
            Operand::Imm(_) => c.a,
        };
        let predicate = c.order.float_predicate();
        self.compare_floats(predicate, c.shape(self.level), c.a, Src::Reg(b))
    }

    /// `mask ? b : a`, on masks as comparisons of this shape give them.
    pub(super) fn blend(&mut self, shape: Shape, mask: VReg, a: VReg, b: Src) -> VReg {
        let view = shape.view();
        let dst = self.vreg(RegClass::Float);
        let inst = Inst::new(Fp::Blend.code(shape)).def(dst, view).read(a, view).src(b, view);
        self.push(match self.level {
            Level::V3 => inst.read(mask, view),
            Level::V4 => inst.mask(mask),
        });
        dst
    }

    pub(super) fn select_op(&mut self, cond: Val, yes: Val, no: Val) -> Res<VReg> {
        let ty = self.ty(yes);
        let shape = self.shape(ty);
        match ty {
            Ty::Mask(_) => reject("a select of masks, which is expanded before"),
            Ty::Vector(d, n) => {
                if d.bytes() < 4 {
                    return reject("a select of narrow integers");
                }
                debug_assert_eq!(self.ty(cond).lanes(), n);
                let mask = self.reg(cond)?;
                let mask = self.mask_for(shape, mask);
                if self.level == Level::V4 && self.literal(no).is_some_and(|l| l.bits == 0) {
                    let yes = self.src(yes)?;
                    if !matches!(yes, Src::Broadcast(_)) {
                        let dst = self.vreg(RegClass::Float);
                        let view = shape.view();
                        let inst = Inst::new(Fp::Load.code(shape)).def(dst, view).src(yes, view);
                        self.push(inst.mask_zero(mask));
                        return Ok(dst);
                    }
                    let zero = self.zero();
                    return Ok(self.blend(shape, mask, zero, yes));
                }
                let no = self.reg(no)?;
                let yes = self.src(yes)?;
                Ok(self.blend(shape, mask, no, yes))
            }
            Ty::Scalar(d) if d.is_float() => {
                let [no, yes] = [self.reg(no)?, self.reg(yes)?];
                let mask = match self.vals[cond.0 as usize].clone() {
                    Value::Compare(c) if c.dtype == d => self.scalar_mask(&c),
                    _ => {
                        let bit = self.reg(cond)?;
                        self.mask_of_bit(bit, d)
                    }
                };
                Ok(self.blend(shape, mask, no, Src::Reg(yes)))
            }
            Ty::Index | Ty::Scalar(_) => {
                let view = int_view(ty.dtype());
                let [no, yes] = [self.reg(no)?, self.reg(yes)?];
                let test = self.flags(cond)?;
                self.push(test.inst);
                Ok(self.cmov(test.cc, view, no, yes))
            }
        }
    }

    /// `cc ? yes : no`, by the flags.
    pub(super) fn cmov(&mut self, cc: Cc, view: View, no: VReg, yes: VReg) -> VReg {
        let dst = self.vreg(RegClass::Int);
        self.push(Inst::new(cmov(cc, view)).tied(dst, no, view).read(yes, view));
        dst
    }

    /// 0 or 1 as the mask of one lane.
    fn mask_of_bit(&mut self, bit: VReg, d: DType) -> VReg {
        match self.level {
            Level::V4 => self.unary(Code::VEX_Kmovw_kr_r32, View::K, View::R32, Src::Reg(bit)),
            Level::V3 => {
                let minus = self.vreg(RegClass::Int);
                self.push(Inst::new(Code::Neg_rm64).tied(minus, bit, View::R64));
                self.general_to_vector(minus, d)
            }
        }
    }

    pub(super) fn mask_op(&mut self, dst: Val, op: Op, args: &[Val], lanes: u16) -> Res<()> {
        let mut regs = vec![];
        for v in args {
            regs.push(self.reg(*v)?);
        }
        let made = match (op, &regs[..]) {
            (Op::And | Op::Or | Op::Xor, &[a, b]) => self.mask_logic(op, lanes, a, b),
            (Op::Not, &[a]) if lanes == 1 => self.alu_imm(Alu::Xor, View::R32, a, 1),
            (Op::Not, &[a]) => match self.level {
                Level::V4 => self.unary(Code::VEX_Knotw_kr_kr, View::K, View::K, Src::Reg(a)),
                Level::V3 => self.vector_not(Shape::full(self.level, DType::I32), a),
            },
            _ => return reject(format!("{op:?} on masks")),
        };
        self.set_reg(dst, made);
        Ok(())
    }

    fn mask_logic(&mut self, op: Op, lanes: u16, a: VReg, b: VReg) -> VReg {
        if lanes == 1 {
            let alu = match op {
                Op::And => Alu::And,
                Op::Or => Alu::Or,
                _ => Alu::Xor,
            };
            return self.alu(alu, View::R32, a, b);
        }
        if self.level == Level::V4 {
            let code = match op {
                Op::And => Code::VEX_Kandw_kr_kr_kr,
                Op::Or => Code::VEX_Korw_kr_kr_kr,
                _ => Code::VEX_Kxorw_kr_kr_kr,
            };
            return self.binary(code, View::K, a, Src::Reg(b));
        }
        let code = match op {
            Op::And => Code::VEX_Vandps_ymm_ymm_ymmm256,
            Op::Or => Code::VEX_Vorps_ymm_ymm_ymmm256,
            _ => Code::VEX_Vxorps_ymm_ymm_ymmm256,
        };
        self.binary(code, View::Y, a, Src::Reg(b))
    }

    /// A mask of which all lanes are set, or none.
    pub(super) fn mask_constant(&mut self, lanes: u16, set: bool) -> VReg {
        match (self.level, set) {
            (_, _) if lanes == 1 => self.int_constant(set as i64),
            (Level::V4, _) => {
                let bits = self.int_constant(if set { 0xffff } else { 0 });
                self.unary(Code::VEX_Kmovw_kr_r32, View::K, View::R32, Src::Reg(bits))
            }
            (Level::V3, false) => self.zero(),
            (Level::V3, true) => self.ones(Shape::full(self.level, DType::I32)),
        }
    }
}

/// The view of a scalar integer's register.
pub(super) fn int_view(d: DType) -> View {
    if d.bytes() == 8 { View::R64 } else { View::R32 }
}
