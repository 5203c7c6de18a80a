//! Loads and stores.
//!
//! A load waits until somebody reads it, at the latest until what may write its buffer: then its
//! only reader may take it as a memory operand. Lanes beyond `valid` are never touched.

use super::{Memo, Selector, Value};
use crate::base::DType;
use crate::kernel::ir::{Access, Addr, Buf, Lit, LoadMode, Ty, Val};
use crate::target::cpu::x86::codes::{Fp, Shape, Width};
use crate::target::cpu::x86::inst::{Code, Inst, Mem, RegClass, Src, VReg, View};
use crate::target::cpu::x86::{Level, Res, reject};

/// A load that has not happened yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub mem: Mem,
    pub ty: Ty,
    splat: bool,
    valid: u16,
    fill: Option<Lit>,
    /// Something may write the buffer while the kernel runs.
    written: bool,
}

impl Load {
    /// The operand that reads this memory in place of a register.
    pub fn foldable(&self, level: Level) -> Option<Src> {
        let float = self.ty.dtype().is_float();
        match self.ty {
            Ty::Vector(d, n) if d.bytes() >= 4 && self.valid == n => match (self.splat, level) {
                (false, _) => Some(Src::Mem(self.mem)),
                (true, Level::V4) => Some(Src::Broadcast(self.mem)),
                (true, Level::V3) => None,
            },
            Ty::Scalar(d) if float && d.bytes() >= 4 => Some(Src::Mem(self.mem)),
            Ty::Scalar(_) | Ty::Vector(..) | Ty::Index | Ty::Mask(_) => None,
        }
    }
}

impl Selector<'_> {
    pub(super) fn load(
        &mut self,
        dst: Val,
        at: &Addr,
        mode: LoadMode,
        valid: u16,
        fill: Option<Lit>,
    ) -> Res<()> {
        let ty = self.ty(dst);
        self.class(ty)?;
        let splat = match mode {
            LoadMode::Contig => false,
            LoadMode::Splat => ty.lanes() > 1,
            LoadMode::Gather(_) => return reject("a gather, which is expanded before"),
        };
        let mem = self.address(at)?;
        let written = self.may_be_written(at.buf);
        let load = Load { mem, ty, splat, valid, fill, written };
        self.set(dst, Value::Load(load));
        self.pending.push(dst);
        Ok(())
    }

    fn may_be_written(&self, buf: Buf) -> bool {
        match buf {
            Buf::Scratch(_) => true,
            Buf::Param(i) => {
                let read = self.kernel.params[i as usize].access == Access::Read;
                !read || self.kernel.inplace.iter().any(|(out, input)| *out == i || *input == i)
            }
        }
    }

    /// Performs loads that wait: all of them, or only those of buffers that are written.
    pub(super) fn settle(&mut self, all: bool) -> Res<()> {
        for v in std::mem::take(&mut self.pending) {
            let Value::Load(load) = &self.vals[v.0 as usize] else { continue };
            // A reader that took it as a memory operand leaves it behind; it was the only one.
            if self.info.last[v.0 as usize] < self.id {
                continue;
            }
            if all || load.written {
                self.load_now(v)?;
            } else {
                self.pending.push(v);
            }
        }
        Ok(())
    }

    /// Performs a load here.
    pub(super) fn load_now(&mut self, v: Val) -> Res<VReg> {
        let Value::Load(load) = self.vals[v.0 as usize] else { return self.reg(v) };
        let reg = self.perform(&load)?;
        self.set_reg(v, reg);
        Ok(reg)
    }

    fn perform(&mut self, load: &Load) -> Res<VReg> {
        let Load { mem, ty, splat, valid, fill, .. } = *load;
        let shape = self.shape(ty);
        let view = shape.view();
        match ty {
            Ty::Scalar(d) if d.is_float() => {
                Ok(self.unary(Fp::Load.code(shape), view, view, Src::Mem(mem)))
            }
            Ty::Scalar(d) => Ok(self.load_int(d, mem)),
            Ty::Vector(d, n) if d.bytes() < 4 => {
                if splat || valid < n {
                    return reject("some lanes of narrow integers");
                }
                self.load_narrow(ty, mem)
            }
            Ty::Vector(_, n) if splat && valid == n => {
                Ok(self.unary(Fp::Broadcast.code(shape), view, View::X, Src::Mem(mem)))
            }
            Ty::Vector(_, n) if !splat && valid == n => {
                Ok(self.unary(Fp::Load.code(shape), view, view, Src::Mem(mem)))
            }
            Ty::Vector(..) if !splat => {
                self.load_masked(mem, ty, valid, fill.unwrap_or(Lit { dtype: ty.dtype(), bits: 0 }))
            }
            Ty::Vector(..) | Ty::Index | Ty::Mask(_) => reject(format!("a load of {ty:?}")),
        }
    }

    /// An integer of any width, extended to 32 bits at least.
    fn load_int(&mut self, d: DType, mem: Mem) -> VReg {
        let (code, view) = match d {
            DType::I8 => (Code::Movsx_r32_rm8, View::R32),
            DType::I16 => (Code::Movsx_r32_rm16, View::R32),
            DType::U8 | DType::Bool => (Code::Movzx_r32_rm8, View::R32),
            DType::U16 | DType::F16 | DType::BF16 => (Code::Movzx_r32_rm16, View::R32),
            DType::I32 | DType::U32 | DType::F32 => (Code::Mov_r32_rm32, View::R32),
            DType::I64 | DType::U64 | DType::F64 => (Code::Mov_r64_rm64, View::R64),
        };
        self.unary(code, view, view, Src::Mem(mem))
    }

    /// As many bytes as the narrow integers of this type take.
    fn load_narrow(&mut self, ty: Ty, mem: Mem) -> Res<VReg> {
        use Code::*;
        let bytes = ty.lanes() as usize * ty.dtype().bytes();
        let (code, view) = match (self.level, bytes) {
            (Level::V3, 4) => (VEX_Vmovd_xmm_rm32, View::X),
            (Level::V3, 8) => (VEX_Vmovq_xmm_xmmm64, View::X),
            (Level::V3, 16) => (VEX_Vmovups_xmm_xmmm128, View::X),
            (Level::V4, 4) => (EVEX_Vmovd_xmm_rm32, View::X),
            (Level::V4, 8) => (EVEX_Vmovq_xmm_xmmm64, View::X),
            (Level::V4, 16) => (EVEX_Vmovups_xmm_k1z_xmmm128, View::X),
            (Level::V4, 32) => (EVEX_Vmovups_ymm_k1z_ymmm256, View::Y),
            _ => return reject(format!("a load of {ty:?}")),
        };
        Ok(self.unary(code, view, view, Src::Mem(mem)))
    }

    fn load_masked(&mut self, mem: Mem, ty: Ty, valid: u16, fill: Lit) -> Res<VReg> {
        let shape = self.shape(ty);
        let view = shape.view();
        let dst = self.vreg(RegClass::Float);
        let code = Fp::Load.code(shape);
        match self.level {
            Level::V4 => {
                let k = self.low_mask(valid);
                if fill.bits == 0 {
                    self.push(Inst::new(code).def(dst, view).mem(mem).mask_zero(k));
                } else {
                    let rest = self.constant(ty, fill)?;
                    self.push(Inst::new(code).tied(dst, rest, view).mem(mem).mask(k));
                }
                Ok(dst)
            }
            Level::V3 => {
                let mask = self.lane_mask(shape, valid);
                let code = match shape.dtype.bytes() {
                    4 => Code::VEX_Vmaskmovps_ymm_ymm_m256,
                    _ => Code::VEX_Vmaskmovpd_ymm_ymm_m256,
                };
                self.push(Inst::new(shape.fit(code)).def(dst, view).read(mask, view).mem(mem));
                if fill.bits == 0 {
                    return Ok(dst);
                }
                let rest = self.constant(ty, fill)?;
                Ok(self.blend(shape, mask, rest, Src::Reg(dst)))
            }
        }
    }

    /// A mask register with the `n` low bits set.
    pub(super) fn low_mask(&mut self, n: u16) -> VReg {
        let memo = Memo::LowMask(n);
        if let Some(k) = self.known(&memo, 0) {
            return k;
        }
        // Few of them stay in registers.
        let held = self.scopes[0].memo.keys().filter(|m| matches!(m, Memo::LowMask(_))).count();
        let make = |s: &mut Self| {
            let bits = s.int_constant(if n >= 64 { -1 } else { (1 << n) - 1 });
            s.unary(Code::VEX_Kmovw_kr_r32, View::K, View::R32, Src::Reg(bits))
        };
        if held >= 3 {
            return make(self);
        }
        let k = self.at_depth(0, make);
        self.remember(memo, 0, k);
        k
    }

    /// AVX2: a vector whose `valid` low lanes are -1.
    fn lane_mask(&mut self, shape: Shape, valid: u16) -> VReg {
        let bytes = shape.dtype.bytes();
        let set = valid as usize * bytes;
        let pattern = (0..32).map(|i| if i < set { 0xff } else { 0 }).collect();
        let mem = self.pooled(pattern);
        self.unary(Code::VEX_Vmovups_ymm_ymmm256, View::Y, View::Y, Src::Mem(mem))
    }

    pub(super) fn store(&mut self, at: &Addr, v: Val, valid: u16) -> Res<()> {
        let ty = self.ty(v);
        let mem = self.address(at)?;
        if let (Ty::Vector(d, n), Some(lit)) = (ty, self.literal(v))
            && d.bytes() < 4
        {
            let lit = Lit::int(DType::I32, lit.bits as i64);
            let wide = self.constant(Ty::Vector(DType::I32, n), lit)?;
            self.settle(false)?;
            return self.store_narrow(mem, wide, ty, valid);
        }
        if let Value::Narrow(wide) = self.vals[v.0 as usize] {
            self.settle(false)?;
            return self.store_narrow(mem, wide, ty, valid);
        }
        let reg = self.reg(v)?;
        self.settle(false)?;
        let shape = self.shape(ty);
        let view = shape.view();
        match ty {
            Ty::Scalar(d) if d.is_float() => {
                self.push(Inst::new(Fp::Store.code(shape)).mem(mem).read(reg, view));
            }
            Ty::Scalar(d) => {
                let (code, view) = match d.bytes() {
                    1 => (Code::Mov_rm8_r8, View::R8),
                    2 => (Code::Mov_rm16_r16, View::R16),
                    4 => (Code::Mov_rm32_r32, View::R32),
                    _ => (Code::Mov_rm64_r64, View::R64),
                };
                self.push(Inst::new(code).mem(mem).read(reg, view));
            }
            Ty::Vector(d, n) if d.bytes() >= 4 => {
                let store = Inst::new(Fp::Store.code(shape)).mem(mem).read(reg, view);
                if valid == n {
                    self.push(store);
                } else if self.level == Level::V4 {
                    let k = self.low_mask(valid);
                    self.push(store.mask(k));
                } else {
                    let mask = self.lane_mask(shape, valid);
                    let code = match d.bytes() {
                        4 => Code::VEX_Vmaskmovps_m256_ymm_ymm,
                        _ => Code::VEX_Vmaskmovpd_m256_ymm_ymm,
                    };
                    self.push(Inst::new(shape.fit(code)).mem(mem).read(mask, view).read(reg, view));
                }
            }
            Ty::Vector(..) | Ty::Index | Ty::Mask(_) => {
                return reject(format!("a store of {ty:?}"));
            }
        }
        Ok(())
    }

    /// The low bits of 32-bit lanes.
    fn store_narrow(&mut self, mem: Mem, wide: VReg, ty: Ty, valid: u16) -> Res<()> {
        use Code::*;
        if valid < ty.lanes() {
            return reject("some lanes of narrow integers");
        }
        let bytes = ty.dtype().bytes();
        let shape = self.shape(Ty::of(DType::I32, ty.lanes()));
        let view = shape.view();
        if self.level == Level::V4 {
            let code = match bytes {
                1 => EVEX_Vpmovdb_xmmm128_k1z_zmm,
                _ => EVEX_Vpmovdw_ymmm256_k1z_zmm,
            };
            self.push(Inst::new(shape.fit(code)).mem(mem).read(wide, view));
            return Ok(());
        }
        // Each half of 128 bits gathers its low bytes in its first element; then the halves meet.
        let order: Vec<u8> = match bytes {
            1 => vec![0, 4, 8, 12],
            _ => vec![0, 1, 4, 5, 8, 9, 12, 13],
        };
        let mut pattern = [0x80u8; 32];
        for half in 0..2 {
            pattern[16 * half..][..order.len()].copy_from_slice(&order);
        }
        let pattern = self.pooled(pattern.to_vec());
        let shuffle = shape.fit(VEX_Vpshufb_ymm_ymm_ymmm256);
        let gathered = self.binary(shuffle, view, wide, Src::Mem(pattern));
        if shape.width == Width::X {
            let store = if bytes == 1 { VEX_Vmovd_rm32_xmm } else { VEX_Vmovq_xmmm64_xmm };
            self.push(Inst::new(store).mem(mem).read(gathered, View::X));
            return Ok(());
        }
        let code = VEX_Vextracti128_xmmm128_ymm_imm8;
        let high = self.with_imm(code, View::X, View::Y, Src::Reg(gathered), 1);
        let (join, store) = match bytes {
            1 => (VEX_Vpunpckldq_xmm_xmm_xmmm128, VEX_Vmovq_xmmm64_xmm),
            _ => (VEX_Vpunpcklqdq_xmm_xmm_xmmm128, VEX_Vmovups_xmmm128_xmm),
        };
        let joined = self.binary(join, View::X, gathered, Src::Reg(high));
        self.push(Inst::new(store).mem(mem).read(joined, View::X));
        Ok(())
    }
}
