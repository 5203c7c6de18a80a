//! Operations on scalar integers and indices, in general registers.

use super::Selector;
use super::compare::int_view;
use crate::kernel::ir::{Op, Ty, Val};
use crate::target::cpu::x86::codes::Alu;
use crate::target::cpu::x86::frame::{RAX, RDX};
use crate::target::cpu::x86::inst::{Arg, Cc, Code, Inst, PReg, RegClass, VReg, View};
use crate::target::cpu::x86::{Res, reject};

impl Selector<'_> {
    pub(super) fn int_op(&mut self, dst: Val, op: Op, args: &[Val], ty: Ty) -> Res<()> {
        if ty.dtype().bytes() < 4 {
            return reject(format!("{op:?} on {}", ty.dtype()));
        }
        let view = int_view(ty.dtype());
        let small = args.get(1).and_then(|v| self.literal(*v)).and_then(|l| l.as_int());
        let small = small.and_then(|c| i32::try_from(c).ok()).map(|c| c as i64);
        let alu = match op {
            Op::Add => Some(Alu::Add),
            Op::Sub => Some(Alu::Sub),
            Op::And => Some(Alu::And),
            Op::Or => Some(Alu::Or),
            Op::Xor => Some(Alu::Xor),
            _ => None,
        };
        let made = match (alu, op, small) {
            (Some(alu), _, Some(c)) => {
                let a = self.reg(args[0])?;
                self.alu_imm(alu, view, a, c)
            }
            (None, Op::Shl | Op::Shr, Some(_)) => {
                let a = self.reg(args[0])?;
                let bits = 8 * ty.dtype().bytes() as u64;
                let by = self.literal(args[1]).map_or(0, |l| (l.bits % bits) as u8);
                self.shift_by(shift_code(op, ty), view, a, by)
            }
            _ => {
                let mut regs = vec![];
                for v in args {
                    regs.push(self.reg(*v)?);
                }
                self.int_on(op, &regs, ty)?
            }
        };
        self.set_reg(dst, made);
        Ok(())
    }

    /// An operation on registers.
    pub(super) fn int_on(&mut self, op: Op, v: &[VReg], ty: Ty) -> Res<VReg> {
        let dtype = ty.dtype();
        let view = int_view(dtype);
        let signed = dtype.is_signed_int();
        let wide = view == View::R64;
        Ok(match (op, v) {
            (Op::Add, &[a, b]) => self.alu(Alu::Add, view, a, b),
            (Op::Sub, &[a, b]) => self.alu(Alu::Sub, view, a, b),
            (Op::And, &[a, b]) => self.alu(Alu::And, view, a, b),
            (Op::Or, &[a, b]) => self.alu(Alu::Or, view, a, b),
            (Op::Xor, &[a, b]) => self.alu(Alu::Xor, view, a, b),
            (Op::Mul, &[a, b]) => {
                let code = if wide { Code::Imul_r64_rm64 } else { Code::Imul_r32_rm32 };
                let dst = self.vreg(RegClass::Int);
                self.push(Inst::new(code).tied(dst, a, view).read(b, view));
                dst
            }
            (Op::Neg, &[a]) => {
                self.tied(if wide { Code::Neg_rm64 } else { Code::Neg_rm32 }, a, view)
            }
            (Op::Not, &[a]) => {
                self.tied(if wide { Code::Not_rm64 } else { Code::Not_rm32 }, a, view)
            }
            (Op::Abs, &[a]) if !signed => a,
            (Op::Abs, &[a]) => {
                // |a| = (a ^ s) - s, where s = a < 0 ? -1 : 0; MIN stays.
                let code = if wide { Code::Sar_rm64_imm8 } else { Code::Sar_rm32_imm8 };
                let sign = self.shift_by(code, view, a, if wide { 63 } else { 31 });
                let flipped = self.alu(Alu::Xor, view, a, sign);
                self.alu(Alu::Sub, view, flipped, sign)
            }
            (Op::Min | Op::Max, &[a, b]) => {
                let cc = match (op, signed) {
                    (Op::Min, true) => Cc::Lt,
                    (Op::Min, false) => Cc::Below,
                    (_, true) => Cc::Gt,
                    (_, false) => Cc::Above,
                };
                self.push(Inst::new(Alu::Cmp.codes(view)[0]).read(a, view).read(b, view));
                self.cmov(cc, view, b, a)
            }
            (Op::Shl | Op::Shr, &[a, by]) => {
                // These take the amount modulo the bits.
                let code = match (op, signed, wide) {
                    (Op::Shl, _, true) => Code::VEX_Shlx_r64_rm64_r64,
                    (Op::Shl, _, false) => Code::VEX_Shlx_r32_rm32_r32,
                    (_, true, true) => Code::VEX_Sarx_r64_rm64_r64,
                    (_, true, false) => Code::VEX_Sarx_r32_rm32_r32,
                    (_, false, true) => Code::VEX_Shrx_r64_rm64_r64,
                    (_, false, false) => Code::VEX_Shrx_r32_rm32_r32,
                };
                let dst = self.vreg(RegClass::Int);
                self.push(Inst::new(code).def(dst, view).read(a, view).read(by, view));
                dst
            }
            (Op::Div | Op::Rem, &[a, b]) => self.divide(op, a, b, ty),
            _ => return reject(format!("{op:?} on {ty:?}")),
        })
    }

    /// Division with every case defined: by zero gives 0, MIN / -1 gives MIN.
    fn divide(&mut self, op: Op, a: VReg, b: VReg, ty: Ty) -> VReg {
        let view = int_view(ty.dtype());
        let signed = ty.dtype().is_signed_int();
        let wide = view == View::R64;
        let (zero, one) = (self.int_constant(0), self.int_constant(1));
        // What the processor refuses is divided by 1 instead.
        let test = self.test(b, view);
        self.push(test);
        let mut divisor = self.cmov(Cc::Eq, view, b, one);
        if signed {
            let minus = self.cmp_imm(view, b, -1);
            self.push(minus);
            divisor = self.cmov(Cc::Eq, view, divisor, one);
        }
        let high = match (signed, wide) {
            (false, _) => zero,
            (true, true) => self.shift_by(Code::Sar_rm64_imm8, view, a, 63),
            (true, false) => self.shift_by(Code::Sar_rm32_imm8, view, a, 31),
        };
        let code = match (signed, wide) {
            (true, true) => Code::Idiv_rm64,
            (true, false) => Code::Idiv_rm32,
            (false, true) => Code::Div_rm64,
            (false, false) => Code::Div_rm32,
        };
        let [rax, rdx] = [RAX, RDX].map(|n| PReg::new(n as usize, RegClass::Int));
        let [quotient, rest] = [(); 2].map(|()| self.vreg(RegClass::Int));
        self.push(
            Inst::new(code)
                .read(divisor, view)
                .implicit(a, rax, false)
                .implicit(high, rdx, false)
                .implicit(quotient, rax, true)
                .implicit(rest, rdx, true),
        );
        let mut result = if op == Op::Div { quotient } else { rest };
        if signed && op == Op::Div {
            // a / -1 = -a, which wraps for MIN; the remainder by 1 is 0 already.
            let negated = self.tied(if wide { Code::Neg_rm64 } else { Code::Neg_rm32 }, a, view);
            let minus = self.cmp_imm(view, b, -1);
            self.push(minus);
            result = self.cmov(Cc::Eq, view, result, negated);
        }
        let test = self.test(b, view);
        self.push(test);
        self.cmov(Cc::Eq, view, result, zero)
    }

    /// `op dst, b` with `dst` tied to `a`.
    pub(super) fn alu(&mut self, op: Alu, view: View, a: VReg, b: VReg) -> VReg {
        let dst = self.vreg(RegClass::Int);
        self.push(Inst::new(op.codes(view)[0]).tied(dst, a, view).read(b, view));
        dst
    }

    pub(super) fn alu_imm(&mut self, op: Alu, view: View, a: VReg, c: i64) -> VReg {
        let Ok(imm) = i32::try_from(c) else {
            let c = self.int_constant(c);
            return self.alu(op, view, a, c);
        };
        let dst = self.vreg(RegClass::Int);
        self.push(with_imm(op, view, imm, |inst| inst.tied(dst, a, view)));
        dst
    }

    pub(super) fn cmp_imm(&self, view: View, a: VReg, imm: i32) -> Inst {
        with_imm(Alu::Cmp, view, imm, |inst| inst.read(a, view))
    }

    /// A shift by a constant below the width.
    pub(super) fn shift_by(&mut self, code: Code, view: View, a: VReg, by: u8) -> VReg {
        if by == 0 {
            return a;
        }
        let dst = self.vreg(RegClass::Int);
        self.push(Inst::new(code).tied(dst, a, view).imm8(by));
        dst
    }

    fn tied(&mut self, code: Code, a: VReg, view: View) -> VReg {
        let dst = self.vreg(RegClass::Int);
        self.push(Inst::new(code).tied(dst, a, view));
        dst
    }
}

/// `op first, imm` with the shorter immediate that holds it.
fn with_imm(op: Alu, view: View, imm: i32, first: impl FnOnce(Inst) -> Inst) -> Inst {
    let [_, long, short] = op.codes(view);
    match (i8::try_from(imm), view) {
        (Ok(imm), _) => first(Inst::new(short)).arg(Arg::Imm8Signed(imm, view)),
        (Err(_), View::R64) => first(Inst::new(long)).arg(Arg::Imm32Signed(imm)),
        (Err(_), _) => first(Inst::new(long)).arg(Arg::Imm32(imm)),
    }
}

fn shift_code(op: Op, ty: Ty) -> Code {
    let wide = ty.dtype().bytes() == 8;
    match (op, ty.dtype().is_signed_int(), wide) {
        (Op::Shl, _, true) => Code::Shl_rm64_imm8,
        (Op::Shl, _, false) => Code::Shl_rm32_imm8,
        (_, true, true) => Code::Sar_rm64_imm8,
        (_, true, false) => Code::Sar_rm32_imm8,
        (_, false, true) => Code::Shr_rm64_imm8,
        (_, false, false) => Code::Shr_rm32_imm8,
    }
}
