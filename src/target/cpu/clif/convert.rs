//! Conversions between element types.
//!
//! Scalars have an instruction each. Vectors whose lanes all fit one register on both sides widen,
//! narrow and convert in the register; what has no such form goes lane by lane.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{self, Type};
use cranelift_codegen::ir::{InstBuilder, Value};

use super::emit::{Emitter, Res, clif_type, elem_type, full_vector, reject};
use crate::base::DType;
use crate::kernel::ir::{Lit, Ty};

impl Emitter<'_> {
    pub(super) fn convert(&mut self, v: Value, from: Ty, to: Ty) -> Res<Value> {
        let (a, b) = (from.dtype(), to.dtype());
        if from.lanes() != to.lanes() {
            return reject(format!("a conversion from {from:?} to {to:?}"));
        }
        if a == b {
            return Ok(v);
        }
        if a.is_narrow_float() || b.is_narrow_float() {
            return reject(format!(
                "a conversion from {a} to {b}, which is expanded before emission"
            ));
        }
        clif_type(to)?;
        match (from, to) {
            (Ty::Mask(1), _) => Ok(self.scalar_from_bool(v, b)),
            (Ty::Mask(n), _) => self.vector_from_mask(v, n, to),
            (_, Ty::Mask(_)) => self.mask_of_nonzero(v, from),
            (Ty::Vector(..), _) => match self.convert_vector(v, from, to) {
                Some(value) => Ok(value),
                None => self.by_lane(to, |e, i| {
                    let x = e.b.ins().extractlane(v, i as u8);
                    Ok(e.convert_scalar(x, a, b))
                }),
            },
            (Ty::Index | Ty::Scalar(_), _) => Ok(self.convert_scalar(v, a, b)),
        }
    }

    fn scalar_from_bool(&mut self, v: Value, to: DType) -> Value {
        let ty = elem_type(to);
        if to.is_float() {
            let wide = self.b.ins().uextend(types::I32, v);
            return self.b.ins().fcvt_from_sint(ty, wide);
        }
        if ty == types::I8 { v } else { self.b.ins().uextend(ty, v) }
    }

    /// The bits of 1 where the mask is set.
    fn vector_from_mask(&mut self, v: Value, lanes: u16, to: Ty) -> Res<Value> {
        let dtype = to.dtype();
        let mask = self.mask_for(v, lanes, dtype);
        let one = self.constant(to, Lit::new(dtype, 1.0))?;
        let bits = self.type_of(mask);
        let one = self.bits_as(bits, one);
        let chosen = self.b.ins().band(mask, one);
        Ok(self.bits_as(full_vector(dtype), chosen))
    }

    /// Not equal to zero.
    fn mask_of_nonzero(&mut self, v: Value, from: Ty) -> Res<Value> {
        let zero = self.constant(from, Lit::new(from.dtype(), 0.0))?;
        let differ = match from.dtype().is_float() {
            true => self.b.ins().fcmp(FloatCC::NotEqual, v, zero),
            false => self.b.ins().icmp(IntCC::NotEqual, v, zero),
        };
        self.mask_of(differ, from)
    }

    fn convert_scalar(&mut self, v: Value, from: DType, to: DType) -> Value {
        let ty = elem_type(to);
        match (from.is_float(), to.is_float()) {
            (true, true) if to == DType::F64 => self.b.ins().fpromote(ty, v),
            (true, true) => self.b.ins().fdemote(ty, v),
            (true, false) => self.float_to_int(v, to),
            (false, true) => {
                let v = self.resize(v, types::I32, from.is_signed_int());
                match from.is_signed_int() || from.bytes() < 4 {
                    true => self.b.ins().fcvt_from_sint(ty, v),
                    false => self.b.ins().fcvt_from_uint(ty, v),
                }
            }
            (false, false) if to.bytes() < from.bytes() => self.b.ins().ireduce(ty, v),
            (false, false) => self.resize(v, ty, from.is_signed_int()),
        }
    }

    /// At least as wide as `ty`.
    fn resize(&mut self, v: Value, ty: Type, signed: bool) -> Value {
        match (self.type_of(v).bits() < ty.bits(), signed) {
            (false, _) => v,
            (true, true) => self.b.ins().sextend(ty, v),
            (true, false) => self.b.ins().uextend(ty, v),
        }
    }

    /// Truncates and saturates; NaN gives 0.
    fn float_to_int(&mut self, v: Value, to: DType) -> Value {
        let ty = elem_type(to);
        let wide = if ty.bits() < 32 { types::I32 } else { ty };
        if !to.is_signed_int() {
            let full = self.b.ins().fcvt_to_uint_sat(wide, v);
            if wide == ty {
                return full;
            }
            let highest = self.b.ins().iconst(wide, (1i64 << ty.bits()) - 1);
            let clamped = self.b.ins().umin(full, highest);
            return self.b.ins().ireduce(ty, clamped);
        }
        let full = self.b.ins().fcvt_to_sint_sat(wide, v);
        if wide == ty {
            return full;
        }
        let half = 1i64 << (ty.bits() - 1);
        let highest = self.b.ins().iconst(wide, half - 1);
        let lowest = self.b.ins().iconst(wide, -half & 0xffff_ffff);
        let clamped = self.b.ins().smin(full, highest);
        let clamped = self.b.ins().smax(clamped, lowest);
        self.b.ins().ireduce(ty, clamped)
    }

    /// The conversions that stay inside one register.
    fn convert_vector(&mut self, v: Value, from: Ty, to: Ty) -> Option<Value> {
        let (a, b) = (from.dtype(), to.dtype());
        if a.is_int() && b.is_int() {
            return Some(if b.bytes() > a.bytes() {
                self.widen(v, a, b.bytes())
            } else {
                self.narrow(v, a.bytes(), b.bytes())
            });
        }
        match (a, b) {
            (DType::F32, DType::F64) => Some(self.b.ins().fvpromote_low(v)),
            (DType::F64, DType::F32) => Some(self.b.ins().fvdemote(v)),
            (DType::U32, DType::F32) => Some(self.b.ins().fcvt_from_uint(types::F32X4, v)),
            (_, DType::F32) if a.is_int() && a.bytes() <= 4 => {
                let words = self.widen(v, a, 4);
                Some(self.b.ins().fcvt_from_sint(types::F32X4, words))
            }
            (_, DType::F64) if a.is_int() && a.bytes() <= 4 => {
                let words = self.widen(v, a, 4);
                Some(if a == DType::U32 {
                    let pairs = self.b.ins().uwiden_low(words);
                    self.b.ins().fcvt_from_uint(types::F64X2, pairs)
                } else {
                    let pairs = self.b.ins().swiden_low(words);
                    self.b.ins().fcvt_from_sint(types::F64X2, pairs)
                })
            }
            (DType::F32, DType::U32) => Some(self.b.ins().fcvt_to_uint_sat(types::I32X4, v)),
            (DType::F32, _) if b.is_int() && b.bytes() <= 4 => {
                // Packing with saturation keeps what the conversion to words saturated.
                let words = self.b.ins().fcvt_to_sint_sat(types::I32X4, v);
                Some(match b {
                    DType::I16 => self.b.ins().snarrow(words, words),
                    DType::U16 => self.b.ins().unarrow(words, words),
                    DType::I8 => {
                        let halves = self.b.ins().snarrow(words, words);
                        self.b.ins().snarrow(halves, halves)
                    }
                    DType::U8 => {
                        let halves = self.b.ins().snarrow(words, words);
                        self.b.ins().unarrow(halves, halves)
                    }
                    _ => words,
                })
            }
            _ => None,
        }
    }

    /// The low lanes, sign- or zero-extended to `bytes`.
    fn widen(&mut self, v: Value, from: DType, bytes: usize) -> Value {
        let (mut v, mut width) = (v, from.bytes());
        while width < bytes {
            v = match from.is_signed_int() {
                true => self.b.ins().swiden_low(v),
                false => self.b.ins().uwiden_low(v),
            };
            width *= 2;
        }
        v
    }

    /// The low bits of each lane, packed into the low lanes.
    fn narrow(&mut self, v: Value, from: usize, to: usize) -> Value {
        let (mut v, mut width) = (v, from);
        while width > to {
            v = match width {
                8 => self.even_words(v, v),
                4 => {
                    // Sign-extended halves survive the saturating pack.
                    let left = self.b.ins().ishl_imm_u(v, 16);
                    let halves = self.b.ins().sshr_imm_u(left, 16);
                    self.b.ins().snarrow(halves, halves)
                }
                _ => {
                    let low = self.b.ins().iconst(types::I16, 0xff);
                    let low = self.b.ins().splat(types::I16X8, low);
                    let bytes = self.b.ins().band(v, low);
                    self.b.ins().unarrow(bytes, bytes)
                }
            };
            width /= 2;
        }
        v
    }
}
