//! Moves between lanes and between kinds of registers.

use super::{Selector, Value};
use crate::base::DType;
use crate::kernel::ir::{LaneOp, Ty, Val};
use crate::target::cpu::x86::codes::{Fp, Shape};
use crate::target::cpu::x86::inst::{Code, Inst, RegClass, Src, VReg, View};
use crate::target::cpu::x86::{Level, Res, reject};

impl Selector<'_> {
    pub(super) fn lane_op(&mut self, dst: Val, op: &LaneOp, args: &[Val]) -> Res<()> {
        let (ty, from) = (self.ty(dst), self.ty(args[0]));
        if let (Ty::Vector(d, _), _) | (_, Ty::Vector(d, _)) = (ty, from)
            && d.bytes() < 4
        {
            return reject(format!("{op:?} on vectors of {d}"));
        }
        self.class(ty)?;
        let made = match op {
            LaneOp::Splat => self.splat(args[0], ty)?,
            LaneOp::Extract(lane) => {
                let v = self.reg(args[0])?;
                self.extract(v, from, *lane)
            }
            LaneOp::Insert(lane) => {
                let [v, one] = [self.reg(args[0])?, self.reg(args[1])?];
                self.insert(v, one, ty, *lane)
            }
            LaneOp::Concat => match ty {
                Ty::Mask(_) => self.join_masks(args)?,
                _ => self.gather_lanes(args, ty)?,
            },
            LaneOp::Slice(at) => match (ty, from) {
                (Ty::Mask(n), Ty::Mask(_)) => {
                    let v = self.reg(args[0])?;
                    self.half_mask(v, *at >= n)
                }
                _ => return reject(format!("a slice of {from:?}")),
            },
            LaneOp::Shuffle(lanes) => match (ty, from) {
                (Ty::Vector(..), Ty::Vector(..)) if ty == from => {
                    let v = self.reg(args[0])?;
                    self.shuffle(v, self.shape(ty), lanes)
                }
                _ => return reject(format!("a shuffle of {from:?} to {ty:?}")),
            },
            LaneOp::Bitcast => {
                let v = self.reg(args[0])?;
                self.bitcast(v, from, ty)
            }
            LaneOp::Convert => return reject("a conversion among lane operations"),
        };
        self.set_reg(dst, made);
        Ok(())
    }

    fn splat(&mut self, v: Val, ty: Ty) -> Res<VReg> {
        let shape = self.shape(ty);
        if let Some(lit) = self.literal(v) {
            return self.constant(ty, lit);
        }
        if let Value::Load(load) = self.vals[v.0 as usize]
            && self.info.uses[v.0 as usize] == 1
        {
            let (code, view) = (Fp::Broadcast.code(shape), shape.view());
            return Ok(self.unary(code, view, View::X, Src::Mem(load.mem)));
        }
        let one = self.reg(v)?;
        Ok(self.spread(one, shape))
    }

    /// A scalar's register in every lane.
    fn spread(&mut self, one: VReg, shape: Shape) -> VReg {
        let view = shape.view();
        if one.class() == RegClass::Float {
            return self.unary(Fp::Spread.code(shape), view, View::X, Src::Reg(one));
        }
        if self.level == Level::V4 {
            let (code, from) = match shape.dtype.bytes() {
                4 => (Code::EVEX_Vpbroadcastd_zmm_k1z_r32, View::R32),
                _ => (Code::EVEX_Vpbroadcastq_zmm_k1z_r64, View::R64),
            };
            return self.unary(code, view, from, Src::Reg(one));
        }
        let one = self.general_to_vector(one, shape.dtype);
        self.unary(Fp::Spread.code(shape), view, View::X, Src::Reg(one))
    }

    /// A general register's bits as lane 0.
    pub(super) fn general_to_vector(&mut self, v: VReg, d: DType) -> VReg {
        let (code, from) = match (self.level, d.bytes()) {
            (Level::V3, 4) => (Code::VEX_Vmovd_xmm_rm32, View::R32),
            (Level::V3, _) => (Code::VEX_Vmovq_xmm_rm64, View::R64),
            (Level::V4, 4) => (Code::EVEX_Vmovd_xmm_rm32, View::R32),
            (Level::V4, _) => (Code::EVEX_Vmovq_xmm_rm64, View::R64),
        };
        self.unary(code, View::X, from, Src::Reg(v))
    }

    /// Lane 0 in a general register.
    pub(super) fn vector_to_general(&mut self, v: VReg, d: DType) -> VReg {
        let (code, to) = match (self.level, d.bytes()) {
            (Level::V3, 4) => (Code::VEX_Vmovd_rm32_xmm, View::R32),
            (Level::V3, _) => (Code::VEX_Vmovq_rm64_xmm, View::R64),
            (Level::V4, 4) => (Code::EVEX_Vmovd_rm32_xmm, View::R32),
            (Level::V4, _) => (Code::EVEX_Vmovq_rm64_xmm, View::R64),
        };
        self.unary(code, to, View::X, Src::Reg(v))
    }

    fn extract(&mut self, v: VReg, from: Ty, lane: u16) -> VReg {
        let d = from.dtype();
        let low = self.lane_to_front(v, d, lane);
        if d.is_float() { low } else { self.vector_to_general(low, d) }
    }

    /// A register whose lane 0 is this lane.
    fn lane_to_front(&mut self, v: VReg, d: DType, lane: u16) -> VReg {
        use Code::*;
        if lane == 0 {
            return v;
        }
        if self.level == Level::V4 {
            let code = match d.bytes() {
                4 => EVEX_Valignd_zmm_k1z_zmm_zmmm512b32_imm8,
                _ => EVEX_Valignq_zmm_k1z_zmm_zmmm512b64_imm8,
            };
            let dst = self.vreg(RegClass::Float);
            let inst = Inst::new(code).def(dst, View::Z).read(v, View::Z).read(v, View::Z);
            self.push(inst.imm8(lane as u8));
            return dst;
        }
        let half = (16 / d.bytes()) as u16;
        let mut low = v;
        if lane >= half {
            low =
                self.with_imm(VEX_Vextracti128_xmmm128_ymm_imm8, View::X, View::Y, Src::Reg(v), 1);
        }
        match (d.bytes(), (lane % half) as u8) {
            (_, 0) => low,
            (4, l) => {
                self.with_imm(VEX_Vpshufd_xmm_xmmm128_imm8, View::X, View::X, Src::Reg(low), l)
            }
            (_, _) => {
                self.with_imm(VEX_Vpshufd_xmm_xmmm128_imm8, View::X, View::X, Src::Reg(low), 0xee)
            }
        }
    }

    fn insert(&mut self, v: VReg, one: VReg, ty: Ty, lane: u16) -> VReg {
        use Code::*;
        let shape = self.shape(ty);
        let wide = shape.dtype.bytes() == 8;
        let dst = self.vreg(RegClass::Float);
        if self.level == Level::V4 {
            let bit = self.int_constant(1 << lane);
            let k = self.unary(VEX_Kmovw_kr_r32, View::K, View::R32, Src::Reg(bit));
            let (code, from) = match (one.class(), wide) {
                (RegClass::Int, false) => (EVEX_Vpbroadcastd_zmm_k1z_r32, View::R32),
                (RegClass::Int, true) => (EVEX_Vpbroadcastq_zmm_k1z_r64, View::R64),
                _ => (Fp::Spread.code(shape), View::X),
            };
            self.push(Inst::new(code).tied(dst, v, View::Z).read(one, from).mask(k));
            return dst;
        }
        let all = self.spread(one, shape);
        let (code, set) = match wide {
            false => (VEX_Vblendps_ymm_ymm_ymmm256_imm8, 1u8 << lane),
            true => (VEX_Vblendpd_ymm_ymm_ymmm256_imm8, 1 << lane),
        };
        let inst = Inst::new(code).def(dst, View::Y).read(v, View::Y).read(all, View::Y);
        self.push(inst.imm8(set));
        dst
    }

    /// Scalars as a vector: neighbours are joined, then pairs, halves and so on.
    fn gather_lanes(&mut self, args: &[Val], ty: Ty) -> Res<VReg> {
        use Code::*;
        if args.len() != ty.lanes() as usize {
            return reject(format!("a concatenation to {ty:?}"));
        }
        let d = ty.dtype();
        let mut parts = vec![];
        for v in args {
            let one = self.reg(*v)?;
            parts.push(if one.class() == RegClass::Int {
                self.general_to_vector(one, d)
            } else {
                one
            });
        }
        let single = |bytes| {
            let dtype = if bytes == 4 { DType::F32 } else { DType::F64 };
            Fp::Unpack.code(Shape { level: self.level, dtype, vector: false })
        };
        let (words, pairs) = (single(4), single(8));
        let mut bytes = d.bytes();
        while parts.len() > 1 {
            let (code, view, imm) = match (bytes, self.level) {
                (4, _) => (words, View::X, None),
                (8, _) => (pairs, View::X, None),
                (16, Level::V3) => (VEX_Vinsertf128_ymm_ymm_xmmm128_imm8, View::Y, Some(1)),
                (16, Level::V4) => (EVEX_Vinsertf32x4_ymm_k1z_ymm_xmmm128_imm8, View::Y, Some(1)),
                (_, _) => (EVEX_Vinsertf64x4_zmm_k1z_zmm_ymmm256_imm8, View::Z, Some(1)),
            };
            let part = match view {
                View::Y => View::X,
                View::Z => View::Y,
                _ => View::X,
            };
            let mut joined = vec![];
            for pair in parts.chunks(2) {
                let dst = self.vreg(RegClass::Float);
                let inst = Inst::new(code).def(dst, view).read(pair[0], view).read(pair[1], part);
                self.push(match imm {
                    Some(imm) => inst.imm8(imm),
                    None => inst,
                });
                joined.push(dst);
            }
            parts = joined;
            bytes *= 2;
        }
        Ok(parts[0])
    }

    /// Two masks of 8-byte lanes as one of 4-byte lanes.
    fn join_masks(&mut self, args: &[Val]) -> Res<VReg> {
        use Code::*;
        let [low, high] = args else { return reject("a concatenation of masks") };
        let [low, high] = [self.reg(*low)?, self.reg(*high)?];
        if self.level == Level::V4 {
            return Ok(self.binary(VEX_Kunpckbw_kr_kr_kr, View::K, high, Src::Reg(low)));
        }
        // The even words of both, in the order 0 1 4 5 2 3 6 7 of pairs; then the pairs move.
        let dst = self.vreg(RegClass::Float);
        self.push(
            Inst::new(VEX_Vshufps_ymm_ymm_ymmm256_imm8)
                .def(dst, View::Y)
                .read(low, View::Y)
                .read(high, View::Y)
                .imm8(0x88),
        );
        Ok(self.with_imm(VEX_Vpermq_ymm_ymmm256_imm8, View::Y, View::Y, Src::Reg(dst), 0xd8))
    }

    /// Half of a mask of 4-byte lanes, as one of 8-byte lanes.
    fn half_mask(&mut self, v: VReg, upper: bool) -> VReg {
        use Code::*;
        match (self.level, upper) {
            (Level::V4, false) => v,
            (Level::V4, true) => {
                self.with_imm(VEX_Kshiftrw_kr_kr_imm8, View::K, View::K, Src::Reg(v), 8)
            }
            (Level::V3, _) => {
                let half = match upper {
                    false => v,
                    true => {
                        let code = VEX_Vextracti128_xmmm128_ymm_imm8;
                        self.with_imm(code, View::X, View::Y, Src::Reg(v), 1)
                    }
                };
                self.unary(VEX_Vpmovsxdq_ymm_xmmm128, View::Y, View::X, Src::Reg(half))
            }
        }
    }

    /// Lane `i` of the result is lane `lanes[i]`.
    fn shuffle(&mut self, v: VReg, shape: Shape, lanes: &[u16]) -> VReg {
        use Code::*;
        let (view, v4) = (shape.view(), self.level == Level::V4);
        // As moves of 4-byte lanes.
        let words: Vec<u16> = match shape.dtype.bytes() {
            4 => lanes.to_vec(),
            _ => lanes.iter().flat_map(|l| [2 * l, 2 * l + 1]).collect(),
        };
        // The same within each 128 bits.
        let inside = |(i, l): (usize, &u16)| *l as usize / 4 == i / 4 && *l % 4 == words[i % 4] % 4;
        if words.iter().enumerate().all(inside) {
            let code = if v4 {
                EVEX_Vpshufd_zmm_k1z_zmmm512b32_imm8
            } else {
                VEX_Vpshufd_ymm_ymmm256_imm8
            };
            return self.with_imm(code, view, view, Src::Reg(v), quarters(&words[..4]));
        }
        // Whole groups of 128 bits.
        let whole =
            |(i, l): (usize, &u16)| *l as usize % 4 == i % 4 && *l / 4 == words[i / 4 * 4] / 4;
        if v4 && words.iter().enumerate().all(whole) {
            let groups: Vec<u16> = words.iter().step_by(4).map(|l| l / 4).collect();
            let dst = self.vreg(RegClass::Float);
            let code = EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8;
            let inst = Inst::new(code).def(dst, view).read(v, view).read(v, view);
            self.push(inst.imm8(quarters(&groups)));
            return dst;
        }
        let pairs =
            |(i, l): (usize, &u16)| *l as usize % 2 == i % 2 && *l / 2 == words[i / 2 * 2] / 2;
        if !v4 && words.iter().enumerate().all(pairs) {
            let pairs: Vec<u16> = words.iter().step_by(2).map(|l| l / 2).collect();
            let code = VEX_Vpermq_ymm_ymmm256_imm8;
            return self.with_imm(code, view, view, Src::Reg(v), quarters(&pairs));
        }
        let order = words.iter().flat_map(|l| (*l as u32).to_le_bytes()).collect();
        let order = self.pooled(order);
        let order = self.unary(
            Fp::Load.code(Shape { dtype: DType::F32, ..shape }),
            view,
            view,
            Src::Mem(order),
        );
        let code = if v4 { EVEX_Vpermd_zmm_k1z_zmm_zmmm512b32 } else { VEX_Vpermd_ymm_ymm_ymmm256 };
        self.binary(code, view, order, Src::Reg(v))
    }

    fn bitcast(&mut self, v: VReg, from: Ty, to: Ty) -> VReg {
        match (from, to) {
            (Ty::Scalar(a), Ty::Scalar(b)) if a.is_float() && !b.is_float() => {
                self.vector_to_general(v, a)
            }
            (Ty::Scalar(a), Ty::Scalar(b)) if !a.is_float() && b.is_float() => {
                self.general_to_vector(v, b)
            }
            _ => v,
        }
    }
}

/// Four numbers below 4 as an immediate.
fn quarters(four: &[u16]) -> u8 {
    four.iter().enumerate().map(|(i, l)| ((l % 4) as u8) << (2 * i)).sum()
}
