//! Conversions between element types.

use super::compare::ORDERED;
use super::{Selector, Value};
use crate::base::DType;
use crate::kernel::eval;
use crate::kernel::ir::{Lit, Ty, Val};
use crate::target::cpu::x86::codes::{Alu, Fp, Int, Shape, Width};
use crate::target::cpu::x86::inst::{Cc, Code, Inst, RegClass, Src, VReg, View};
use crate::target::cpu::x86::linear::Linear;
use crate::target::cpu::x86::{Level, Res, reject};

impl Selector<'_> {
    pub(super) fn convert(&mut self, dst: Val, v: Val) -> Res<()> {
        let (from, to) = (self.ty(v), self.ty(dst));
        if let Some(lit) = self.literal(v)
            && !matches!(to, Ty::Mask(_))
        {
            let bits = eval::convert(lit.bits, lit.dtype, to.dtype());
            let value = match to {
                Ty::Index => Value::Linear(Linear::constant(bits as i64)),
                _ => Value::Const(Lit { dtype: to.dtype(), bits }),
            };
            self.set(dst, value);
            return Ok(());
        }
        match (from, to) {
            (Ty::Vector(a, _), Ty::Vector(DType::I32, _)) if a.is_int() && a.bytes() < 4 => {
                let wide = self.widened(v, a, self.shape(to))?;
                self.set_reg(dst, wide);
            }
            (Ty::Vector(DType::I32, _), Ty::Vector(b, _)) if b.is_int() && b.bytes() < 4 => {
                let wide = self.reg(v)?;
                self.set(dst, Value::Narrow(wide));
            }
            (Ty::Vector(DType::I32, _), Ty::Vector(DType::F32, _)) => {
                let x = self.src(v)?;
                let code = match self.level {
                    Level::V3 => Code::VEX_Vcvtdq2ps_ymm_ymmm256,
                    Level::V4 => Code::EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er,
                };
                let (shape, view) = (self.shape(to), self.shape(to).view());
                let made = self.unary(shape.fit(code), view, view, x);
                self.set_reg(dst, made);
            }
            (Ty::Vector(DType::F32, _), Ty::Vector(DType::I32, _)) => {
                let x = self.reg(v)?;
                let made = self.floats_to_ints(x, self.shape(from));
                self.set_reg(dst, made);
            }
            (Ty::Index | Ty::Scalar(_), Ty::Index | Ty::Scalar(_)) => {
                let made = self.convert_scalar(v, from, to)?;
                match to {
                    Ty::Index => self.set(dst, Value::Linear(Linear::register(made))),
                    _ => self.set_reg(dst, made),
                }
            }
            _ => return reject(format!("a conversion from {from:?} to {to:?}")),
        }
        Ok(())
    }

    /// Narrow integers of a register or of memory, extended to 32 bits.
    fn widened(&mut self, v: Val, from: DType, shape: Shape) -> Res<VReg> {
        use Code::*;
        let src = match self.vals[v.0 as usize] {
            Value::Load(load) if self.info.uses[v.0 as usize] == 1 => Src::Mem(load.mem),
            _ => Src::Reg(self.reg(v)?),
        };
        let signed = from.is_signed_int();
        let code = match (self.level, from.bytes(), signed) {
            (Level::V3, 1, true) => VEX_Vpmovsxbd_ymm_xmmm64,
            (Level::V3, 1, false) => VEX_Vpmovzxbd_ymm_xmmm64,
            (Level::V3, _, true) => VEX_Vpmovsxwd_ymm_xmmm128,
            (Level::V3, _, false) => VEX_Vpmovzxwd_ymm_xmmm128,
            (Level::V4, 1, true) => EVEX_Vpmovsxbd_zmm_k1z_xmmm128,
            (Level::V4, 1, false) => EVEX_Vpmovzxbd_zmm_k1z_xmmm128,
            (Level::V4, _, true) => EVEX_Vpmovsxwd_zmm_k1z_ymmm256,
            (Level::V4, _, false) => EVEX_Vpmovzxwd_zmm_k1z_ymmm256,
        };
        let part = match (from.bytes(), shape.width) {
            (2, Width::Z) => View::Y,
            _ => View::X,
        };
        Ok(self.unary(shape.fit(code), shape.view(), part, src))
    }

    /// f32 to i32: truncates, saturates, NaN gives 0. The instruction gives MIN for all that does
    /// not fit; MIN with all bits flipped is MAX.
    fn floats_to_ints(&mut self, x: VReg, shape: Shape) -> VReg {
        let view = shape.view();
        let limit = self.bits_src(shape, 0x4f00_0000);
        let over = self.compare_floats(0x1d, shape, x, limit);
        let number = self.compare_floats(ORDERED, shape, x, Src::Reg(x));
        let dst = self.vreg(RegClass::Float);
        match self.level {
            Level::V4 => {
                let code = Code::EVEX_Vcvttps2dq_zmm_k1z_zmmm512b32_sae;
                self.push(
                    Inst::new(shape.fit(code)).def(dst, view).read(x, view).mask_zero(number),
                );
                let most = self.bits_src(shape, 0x7fff_ffff);
                self.blend(shape, over, dst, most)
            }
            Level::V3 => {
                let code = Code::VEX_Vcvttps2dq_ymm_ymmm256;
                self.push(Inst::new(shape.fit(code)).def(dst, view).read(x, view));
                let ints = Shape { dtype: DType::I32, ..shape };
                let [xor, and] = [Int::Xor, Int::And].map(|op| op.code(ints));
                let flipped = self.binary(xor.unwrap_or(Code::INVALID), view, dst, Src::Reg(over));
                self.binary(and.unwrap_or(Code::INVALID), view, flipped, Src::Reg(number))
            }
        }
    }

    fn convert_scalar(&mut self, v: Val, from: Ty, to: Ty) -> Res<VReg> {
        let (a, b) = (from.dtype(), to.dtype());
        if a.is_narrow_float() || b.is_narrow_float() {
            return reject(format!("a conversion from {a} to {b}"));
        }
        let loaded = matches!(self.vals[v.0 as usize], Value::Load(_));
        let x = self.reg(v)?;
        match (a.is_float(), b.is_float()) {
            (true, true) if a == b => Ok(x),
            (true, true) => {
                use Code::*;
                let code = match (self.level, b) {
                    (Level::V3, DType::F64) => VEX_Vcvtss2sd_xmm_xmm_xmmm32,
                    (Level::V3, _) => VEX_Vcvtsd2ss_xmm_xmm_xmmm64,
                    (Level::V4, DType::F64) => EVEX_Vcvtss2sd_xmm_k1z_xmm_xmmm32_sae,
                    (Level::V4, _) => EVEX_Vcvtsd2ss_xmm_k1z_xmm_xmmm64_er,
                };
                Ok(self.binary(code, View::X, x, Src::Reg(x)))
            }
            (true, false) => self.float_to_int(x, a, b),
            (false, true) => Ok(self.int_to_float(x, a, b)),
            (false, false) => Ok(self.resize(loaded, x, a, b)),
        }
    }

    /// Integers to integers. A narrow one that was just `loaded` is extended already; else it is
    /// what a wider one was cut to, and its upper bits hold anything.
    fn resize(&mut self, loaded: bool, x: VReg, a: DType, b: DType) -> VReg {
        let mut x = x;
        if a.bytes() < 4 && b.bytes() > a.bytes() && !loaded {
            let (code, part) = match (a.bytes(), a.is_signed_int()) {
                (1, true) => (Code::Movsx_r32_rm8, View::R8),
                (1, false) => (Code::Movzx_r32_rm8, View::R8),
                (_, true) => (Code::Movsx_r32_rm16, View::R16),
                (_, false) => (Code::Movzx_r32_rm16, View::R16),
            };
            x = self.unary(code, View::R32, part, Src::Reg(x));
        }
        if b.bytes() < 8 || a.bytes() == 8 {
            return x;
        }
        match a.is_signed_int() {
            true => self.unary(Code::Movsxd_r64_rm32, View::R64, View::R32, Src::Reg(x)),
            false => self.unary(Code::Mov_r32_rm32, View::R32, View::R32, Src::Reg(x)),
        }
    }

    fn int_to_float(&mut self, x: VReg, a: DType, b: DType) -> VReg {
        let shape = Shape::one(self.level, b);
        match (a.bytes(), a.is_signed_int()) {
            (1 | 2, _) | (4, true) => self.general_to_float(Fp::FromInt32, shape, x, View::R32),
            (4, false) => {
                // Zero-extended it is a signed number of 64 bits.
                let wide = self.unary(Code::Mov_r32_rm32, View::R32, View::R32, Src::Reg(x));
                self.general_to_float(Fp::FromInt64, shape, wide, View::R64)
            }
            (_, true) => self.general_to_float(Fp::FromInt64, shape, x, View::R64),
            (_, false) if self.level == Level::V4 => {
                let zero = self.zero();
                let code = match b {
                    DType::F32 => Code::EVEX_Vcvtusi2ss_xmm_xmm_rm64_er,
                    _ => Code::EVEX_Vcvtusi2sd_xmm_xmm_rm64_er,
                };
                let dst = self.vreg(RegClass::Float);
                let inst = Inst::new(code).def(dst, View::X).read(zero, View::X);
                self.push(inst.read(x, View::R64));
                dst
            }
            (_, false) => {
                // From 2⁶³ on: half of it, with the bit that was lost kept in the last place, so
                // that it rounds the same way; then twice that.
                let small = self.general_to_float(Fp::FromInt64, shape, x, View::R64);
                let half = self.shift_by(Code::Shr_rm64_imm8, View::R64, x, 1);
                let lost = self.alu_imm(Alu::And, View::R64, x, 1);
                let half = self.alu(Alu::Or, View::R64, half, lost);
                let half = self.general_to_float(Fp::FromInt64, shape, half, View::R64);
                let large = self.binary(Fp::Add.code(shape), View::X, half, Src::Reg(half));
                let sign = self.shift_by(Code::Sar_rm64_imm8, View::R64, x, 63);
                let sign = self.general_to_vector(sign, b);
                self.blend(shape, sign, small, Src::Reg(large))
            }
        }
    }

    fn general_to_float(&mut self, op: Fp, shape: Shape, x: VReg, view: View) -> VReg {
        // The upper lanes come from a register that nobody waits for.
        let zero = self.zero();
        let dst = self.vreg(RegClass::Float);
        let inst = Inst::new(op.code(shape)).def(dst, View::X).read(zero, View::X);
        self.push(inst.read(x, view));
        dst
    }

    /// Truncates, saturates, NaN gives 0. The instruction gives MIN for all that does not fit.
    fn float_to_int(&mut self, x: VReg, a: DType, b: DType) -> Res<VReg> {
        let shape = Shape::one(self.level, a);
        let number = |s: &mut Self, shape: Shape, v: f64| {
            let lit = Lit::new(shape.dtype, v);
            s.vector_constant(Ty::Scalar(shape.dtype), lit)
        };
        match b {
            DType::I32 | DType::U32 => {
                // All bounds are exact in f64. NaN, which stands second, passes both; its
                // conversion to 64 bits ends in zeros.
                let mut y = x;
                if a == DType::F32 {
                    let code = match self.level {
                        Level::V3 => Code::VEX_Vcvtss2sd_xmm_xmm_xmmm32,
                        Level::V4 => Code::EVEX_Vcvtss2sd_xmm_k1z_xmm_xmmm32_sae,
                    };
                    y = self.binary(code, View::X, x, Src::Reg(x));
                }
                let wide = Shape { dtype: DType::F64, ..shape };
                let (lo, hi) = match b {
                    DType::I32 => (i32::MIN as f64, i32::MAX as f64),
                    _ => (0.0, u32::MAX as f64),
                };
                let [lo, hi] = [lo, hi].map(|v| number(self, wide, v));
                let y = self.binary(Fp::Min.code(wide), View::X, hi, Src::Reg(y));
                let y = self.binary(Fp::Max.code(wide), View::X, lo, Src::Reg(y));
                Ok(self.unary(Fp::ToInt64.code(wide), View::R64, View::X, Src::Reg(y)))
            }
            DType::I64 => {
                let limit = number(self, shape, 9223372036854775808.0);
                let raw = self.unary(Fp::ToInt64.code(shape), View::R64, View::X, Src::Reg(x));
                let most = self.int_constant(i64::MAX);
                let zero = self.int_constant(0);
                self.ask(shape, x, limit);
                let clamped = self.cmov(Cc::AboveEq, View::R64, raw, most);
                self.ask(shape, x, x);
                Ok(self.cmov(Cc::Parity, View::R64, clamped, zero))
            }
            DType::U64 => {
                // NaN and what is negative become 0 (the second operand of `max`).
                let zero = self.zero();
                let y = self.binary(Fp::Max.code(shape), View::X, x, Src::Reg(zero));
                let half = number(self, shape, 9223372036854775808.0);
                let full = number(self, shape, 18446744073709551616.0);
                let low = self.unary(Fp::ToInt64.code(shape), View::R64, View::X, Src::Reg(y));
                let over = self.binary(Fp::Sub.code(shape), View::X, y, Src::Reg(half));
                let high = self.unary(Fp::ToInt64.code(shape), View::R64, View::X, Src::Reg(over));
                let high = self.alu_imm(Alu::Xor, View::R64, high, i64::MIN);
                let most = self.int_constant(-1);
                self.ask(shape, y, half);
                let value = self.cmov(Cc::AboveEq, View::R64, low, high);
                self.ask(shape, y, full);
                Ok(self.cmov(Cc::AboveEq, View::R64, value, most))
            }
            _ => reject(format!("a conversion from {a} to {b}")),
        }
    }

    /// Compares floats into the flags.
    fn ask(&mut self, shape: Shape, a: VReg, b: VReg) {
        let code = Fp::Flags.code(shape);
        self.push(Inst::new(code).read(a, View::X).read(b, View::X));
    }
}
