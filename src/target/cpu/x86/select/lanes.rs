//! Moves between lanes and between kinds of registers.

use super::{Selector, Value};
use crate::base::DType;
use crate::kernel::ir::{LaneOp, Lit, Ty, Val};
use crate::target::cpu::x86::codes::{Fp, Shape, Width};
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
                Ty::Mask(n) => self.join_masks(args, n)?,
                _ => self.gather_lanes(args, ty)?,
            },
            LaneOp::Slice(at) => match (ty, from) {
                (Ty::Mask(n), Ty::Mask(m)) => {
                    let v = self.reg(args[0])?;
                    self.part_of_mask(v, m, *at, n)
                }
                (Ty::Vector(d, n), Ty::Vector(..)) if at % n == 0 => {
                    let v = self.reg(args[0])?;
                    self.part_of_vector(
                        v,
                        self.shape(from),
                        *at as usize * d.bytes(),
                        self.shape(ty),
                    )
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
            return self.unary(shape.fit(code), view, from, Src::Reg(one));
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
        let low = self.lane_to_front(v, self.shape(from), lane);
        if d.is_float() { low } else { self.vector_to_general(low, d) }
    }

    /// A register whose lane 0 is this lane.
    fn lane_to_front(&mut self, v: VReg, shape: Shape, lane: u16) -> VReg {
        use Code::*;
        let (d, view) = (shape.dtype, shape.view());
        if lane == 0 {
            return v;
        }
        if self.level == Level::V4 {
            let code = match d.bytes() {
                4 => EVEX_Valignd_zmm_k1z_zmm_zmmm512b32_imm8,
                _ => EVEX_Valignq_zmm_k1z_zmm_zmmm512b64_imm8,
            };
            let dst = self.vreg(RegClass::Float);
            let inst = Inst::new(shape.fit(code)).def(dst, view).read(v, view).read(v, view);
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
        let (dst, view) = (self.vreg(RegClass::Float), shape.view());
        if self.level == Level::V4 {
            let bit = self.int_constant(1 << lane);
            let k = self.unary(VEX_Kmovw_kr_r32, View::K, View::R32, Src::Reg(bit));
            let (code, from) = match (one.class(), wide) {
                (RegClass::Int, false) => (shape.fit(EVEX_Vpbroadcastd_zmm_k1z_r32), View::R32),
                (RegClass::Int, true) => (shape.fit(EVEX_Vpbroadcastq_zmm_k1z_r64), View::R64),
                _ => (Fp::Spread.code(shape), View::X),
            };
            self.push(Inst::new(code).tied(dst, v, view).read(one, from).mask(k));
            return dst;
        }
        let all = self.spread(one, shape);
        let (code, set) = match wide {
            false => (VEX_Vblendps_ymm_ymm_ymmm256_imm8, 1u8 << lane),
            true => (VEX_Vblendpd_ymm_ymm_ymmm256_imm8, 1 << lane),
        };
        let inst = Inst::new(shape.fit(code)).def(dst, view).read(v, view).read(all, view);
        self.push(inst.imm8(set));
        dst
    }

    /// Scalars or equal vectors as one vector: neighbours are joined, then pairs, halves and so on.
    fn gather_lanes(&mut self, args: &[Val], ty: Ty) -> Res<VReg> {
        use Code::*;
        let (d, each) = (ty.dtype(), self.ty(args[0]).lanes());
        let equal = args.iter().all(|v| self.ty(*v).lanes() == each);
        if !equal || !args.len().is_power_of_two() {
            return reject(format!("a concatenation to {ty:?}"));
        }
        // Constants come from memory together.
        let literals: Option<Vec<Lit>> = args.iter().map(|v| self.literal(*v)).collect();
        if let Some(literals) = literals
            && each == 1
            && d.bytes() >= 4
            && args.len() * d.bytes() >= 16
        {
            let element = |l: &Lit| l.bits.to_le_bytes().into_iter().take(d.bytes());
            let mem = self.pooled(literals.iter().flat_map(element).collect());
            let (shape, view) = (self.shape(ty), self.shape(ty).view());
            return Ok(self.unary(Fp::Load.code(shape), view, view, Src::Mem(mem)));
        }
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
            Fp::Unpack.code(Shape::one(self.level, dtype))
        };
        let (words, pairs) = (single(4), single(8));
        let mut bytes = each as usize * d.bytes();
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

    /// A part of a vector that begins so many bytes inside it, and is of a narrower shape.
    fn part_of_vector(&mut self, v: VReg, from: Shape, at: usize, to: Shape) -> VReg {
        use Code::*;
        if at == 0 {
            return v;
        }
        let (code, number) = match (to.width, from.width, self.level) {
            (Width::Y, _, _) => (EVEX_Vextractf64x4_ymmm256_k1z_zmm_imm8, at / 32),
            (_, Width::Z, _) => (EVEX_Vextractf32x4_xmmm128_k1z_zmm_imm8, at / 16),
            (_, _, Level::V4) => (EVEX_Vextractf32x4_xmmm128_k1z_ymm_imm8, at / 16),
            (_, _, Level::V3) => (VEX_Vextractf128_xmmm128_ymm_imm8, at / 16),
        };
        self.with_imm(code, to.view(), from.view(), Src::Reg(v), number as u8)
    }

    /// Two masks as one of `lanes` lanes.
    fn join_masks(&mut self, args: &[Val], lanes: u16) -> Res<VReg> {
        use Code::*;
        let [low, high] = args else { return reject("a concatenation of masks") };
        let [low, high] = [self.reg(*low)?, self.reg(*high)?];
        match (self.level, lanes) {
            (Level::V4, 16) => Ok(self.binary(VEX_Kunpckbw_kr_kr_kr, View::K, high, Src::Reg(low))),
            (Level::V4, n) => {
                // What stands above the low half's lanes goes away.
                let half = n as u8 / 2;
                let shift =
                    |s: &mut Self, code, v, by| s.with_imm(code, View::K, View::K, Src::Reg(v), by);
                let up = shift(self, VEX_Kshiftlw_kr_kr_imm8, low, 16 - half);
                let low = shift(self, VEX_Kshiftrw_kr_kr_imm8, up, 16 - half);
                let high = shift(self, VEX_Kshiftlw_kr_kr_imm8, high, half);
                Ok(self.binary(VEX_Korw_kr_kr_kr, View::K, high, Src::Reg(low)))
            }
            (Level::V3, 8) => {
                let dst = self.vreg(RegClass::Float);
                let inst = Inst::new(VEX_Vinsertf128_ymm_ymm_xmmm128_imm8).def(dst, View::Y);
                self.push(inst.read(low, View::Y).read(high, View::X).imm8(1));
                Ok(dst)
            }
            (Level::V3, _) => {
                let dst = self.vreg(RegClass::Float);
                let inst = Inst::new(VEX_Vshufps_xmm_xmm_xmmm128_imm8).def(dst, View::X);
                self.push(inst.read(low, View::X).read(high, View::X).imm8(0x88));
                Ok(dst)
            }
        }
    }

    /// `lanes` lanes of a mask of `all`, from lane `at` on.
    fn part_of_mask(&mut self, v: VReg, all: u16, at: u16, lanes: u16) -> VReg {
        use Code::*;
        if self.level == Level::V4 {
            if at == 0 {
                return v;
            }
            let code = VEX_Kshiftrw_kr_kr_imm8;
            return self.with_imm(code, View::K, View::K, Src::Reg(v), at as u8);
        }
        let (mut v, mut all, mut at) = (v, all, at);
        while all > lanes {
            let upper = at >= all / 2;
            if upper {
                at -= all / 2;
                v = match all {
                    8 => {
                        let code = VEX_Vextracti128_xmmm128_ymm_imm8;
                        self.with_imm(code, View::X, View::Y, Src::Reg(v), 1)
                    }
                    _ => {
                        let code = VEX_Vpshufd_xmm_xmmm128_imm8;
                        self.with_imm(code, View::X, View::X, Src::Reg(v), 0xee)
                    }
                };
            }
            all /= 2;
            if all == 2 {
                v = self.unary(VEX_Vpmovsxdq_xmm_xmmm64, View::X, View::X, Src::Reg(v));
            }
        }
        v
    }

    /// Lane `i` of the result is lane `lanes[i]`.
    fn shuffle(&mut self, v: VReg, shape: Shape, lanes: &[u16]) -> VReg {
        use Code::*;
        let view = shape.view();
        // As moves of 4-byte lanes.
        let words: Vec<u16> = match shape.dtype.bytes() {
            4 => lanes.to_vec(),
            _ => lanes.iter().flat_map(|l| [2 * l, 2 * l + 1]).collect(),
        };
        // The same within each 128 bits.
        let inside = |(i, l): (usize, &u16)| *l as usize / 4 == i / 4 && *l % 4 == words[i % 4] % 4;
        if words.iter().enumerate().all(inside) {
            let code = match self.level {
                Level::V4 => EVEX_Vpshufd_zmm_k1z_zmmm512b32_imm8,
                Level::V3 => VEX_Vpshufd_ymm_ymmm256_imm8,
            };
            let order = quarters(&words[..4]);
            return self.with_imm(shape.fit(code), view, view, Src::Reg(v), order);
        }
        // Whole groups of 128 bits.
        let whole =
            |(i, l): (usize, &u16)| *l as usize % 4 == i % 4 && *l / 4 == words[i / 4 * 4] / 4;
        if shape.width == Width::Z && words.iter().enumerate().all(whole) {
            let groups: Vec<u16> = words.iter().step_by(4).map(|l| l / 4).collect();
            let dst = self.vreg(RegClass::Float);
            let code = EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8;
            let inst = Inst::new(code).def(dst, view).read(v, view).read(v, view);
            self.push(inst.imm8(quarters(&groups)));
            return dst;
        }
        let pairs =
            |(i, l): (usize, &u16)| *l as usize % 2 == i % 2 && *l / 2 == words[i / 2 * 2] / 2;
        if shape.width == Width::Y && words.iter().enumerate().all(pairs) {
            let pairs: Vec<u16> = words.iter().step_by(2).map(|l| l / 2).collect();
            let code = match self.level {
                Level::V4 => EVEX_Vpermq_ymm_k1z_ymmm256b64_imm8,
                Level::V3 => VEX_Vpermq_ymm_ymmm256_imm8,
            };
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
        let code = match self.level {
            Level::V4 => EVEX_Vpermd_zmm_k1z_zmm_zmmm512b32,
            Level::V3 => VEX_Vpermd_ymm_ymm_ymmm256,
        };
        self.binary(shape.fit(code), view, order, Src::Reg(v))
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
