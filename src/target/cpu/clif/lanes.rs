//! Constants, masks, moves between lanes, folds across lanes.

use cranelift_codegen::ir::types::{self, Type};
use cranelift_codegen::ir::{ConstantData, Immediate, InstBuilder, Value};

use super::emit::{Emitter, Res, clif_type, elem_type, full_vector, reject};
use crate::base::DType;
use crate::ir::scalar::Combine;
use crate::kernel::ir::{LaneOp, Lit, Op, Ty, Val};

impl Emitter<'_> {
    /// The element in every lane.
    pub(super) fn constant(&mut self, ty: Ty, lit: Lit) -> Res<Value> {
        let own = clif_type(ty)?;
        if let Ty::Mask(n) = ty {
            let set = lit.bits != 0;
            return Ok(match n {
                1 => self.b.ins().iconst(types::I8, set as i64),
                _ => self.vector_constant(own, [if set { 0xff } else { 0 }; 16]),
            });
        }
        if own.is_vector() {
            let width = ty.dtype().bytes();
            let bytes = std::array::from_fn(|i| (lit.bits >> (8 * (i % width))) as u8);
            return Ok(self.vector_constant(own, bytes));
        }
        Ok(match own {
            types::F32 => self.b.ins().f32const(f32::from_bits(lit.bits as u32)),
            types::F64 => self.b.ins().f64const(f64::from_bits(lit.bits)),
            _ => self.b.ins().iconst(own, lit.bits as i64),
        })
    }

    fn vector_constant(&mut self, ty: Type, bytes: [u8; 16]) -> Value {
        let handle = self.b.func.dfg.constants.insert(ConstantData::from(&bytes[..]));
        self.b.ins().vconst(ty, handle)
    }

    pub(super) fn lane(&mut self, op: &LaneOp, args: &[Val], out: Ty) -> Res<Value> {
        let ty = self.kernel.ty(args[0]);
        let v = self.get(args[0])?;
        let own = clif_type(out)?;
        match op {
            LaneOp::Splat => self.splat(v, out),
            LaneOp::Extract(lane) => self.extract(v, ty, *lane),
            LaneOp::Insert(lane) => {
                let scalar = self.get(args[1])?;
                self.insert(v, ty, scalar, *lane)
            }
            LaneOp::Slice(from) => {
                let list: Vec<u16> = (*from..from + out.lanes()).collect();
                self.shuffle(v, ty, &list, out)
            }
            LaneOp::Shuffle(list) => self.shuffle(v, ty, list, out),
            LaneOp::Concat => self.concat(args, out),
            LaneOp::Bitcast => match (self.type_of(v), own) {
                (from, to) if from.bits() == to.bits() => Ok(self.bits_as(own, v)),
                _ => reject(format!("a bitcast from {ty:?} to {out:?}")),
            },
            LaneOp::Convert => self.convert(v, ty, out),
        }
    }

    fn splat(&mut self, v: Value, out: Ty) -> Res<Value> {
        let own = clif_type(out)?;
        Ok(match out {
            Ty::Index | Ty::Scalar(_) | Ty::Mask(1) => v,
            Ty::Vector(..) => self.b.ins().splat(own, v),
            Ty::Mask(n) => self.mask_splat(v, n)?,
        })
    }

    /// A scalar condition in each of `n` lanes.
    pub(super) fn mask_splat(&mut self, v: Value, n: u16) -> Res<Value> {
        let own = clif_type(Ty::Mask(n))?;
        let lane = self.mask_lane(v, n);
        Ok(self.b.ins().splat(own, lane))
    }

    /// A scalar condition as one lane, 0 or -1, of a mask of `n` lanes.
    fn mask_lane(&mut self, v: Value, n: u16) -> Value {
        let negative = self.b.ins().ineg(v);
        let lane = mask_type(n).lane_type();
        if lane == types::I8 { negative } else { self.b.ins().sextend(lane, negative) }
    }

    /// A vector with the scalar in lane 0; the others hold anything.
    pub(super) fn first_lane(&mut self, full: Type, scalar: Value) -> Value {
        if full.lane_bits() >= 32 {
            return self.b.ins().scalar_to_vector(full, scalar);
        }
        let word = self.b.ins().uextend(types::I32, scalar);
        let words = self.b.ins().scalar_to_vector(types::I32X4, word);
        self.bits_as(full, words)
    }

    /// One lane as a scalar register.
    pub(super) fn extract(&mut self, v: Value, ty: Ty, lane: u16) -> Res<Value> {
        if lane >= ty.lanes() {
            return reject(format!("lane {lane} of {ty:?}"));
        }
        Ok(match ty {
            Ty::Index | Ty::Scalar(_) | Ty::Mask(1) => v,
            Ty::Vector(..) => self.b.ins().extractlane(v, lane as u8),
            Ty::Mask(n) => {
                let wide = self.b.ins().extractlane(v, lane as u8);
                let byte = match n {
                    16 => wide,
                    _ => self.b.ins().ireduce(types::I8, wide),
                };
                self.b.ins().band_imm_u(byte, 1)
            }
        })
    }

    pub(super) fn insert(&mut self, v: Value, ty: Ty, scalar: Value, lane: u16) -> Res<Value> {
        if lane >= ty.lanes() {
            return reject(format!("lane {lane} of {ty:?}"));
        }
        Ok(match ty {
            Ty::Index | Ty::Scalar(_) | Ty::Mask(1) => scalar,
            Ty::Vector(..) => self.b.ins().insertlane(v, scalar, lane as u8),
            Ty::Mask(n) => {
                let x = self.mask_lane(scalar, n);
                self.b.ins().insertlane(v, x, lane as u8)
            }
        })
    }

    /// Lane `i` of the result is lane `list[i]`.
    fn shuffle(&mut self, v: Value, ty: Ty, list: &[u16], out: Ty) -> Res<Value> {
        if list.len() != out.lanes() as usize || list.iter().any(|l| *l >= ty.lanes()) {
            return reject(format!("lanes {list:?} of {ty:?} as {out:?}"));
        }
        if list.len() == 1 {
            return self.extract(v, ty, list[0]);
        }
        let identity = list.iter().enumerate().all(|(i, l)| i == *l as usize);
        match (ty, out) {
            (Ty::Vector(..), Ty::Vector(..)) if identity => Ok(v),
            (Ty::Vector(dtype, _), Ty::Vector(..)) => {
                let width = dtype.bytes();
                self.shuffle_lanes(v, v, list, width, out)
            }
            (Ty::Mask(n), Ty::Mask(m)) if n == m => {
                let width = 16 / n as usize;
                let full = mask_type(n);
                self.shuffle_bytes_of(v, v, list, width, full)
            }
            _ => {
                let lanes =
                    list.iter().map(|l| self.extract(v, ty, *l)).collect::<Res<Vec<Value>>>()?;
                self.assemble(&lanes, out)
            }
        }
    }

    fn shuffle_lanes(
        &mut self,
        a: Value,
        b: Value,
        list: &[u16],
        width: usize,
        out: Ty,
    ) -> Res<Value> {
        let full = full_vector(out.dtype());
        self.shuffle_bytes_of(a, b, list, width, full)
    }

    /// Elements of `width` bytes of the 32 bytes `a, b`; lanes beyond the list repeat its last.
    fn shuffle_bytes_of(
        &mut self,
        a: Value,
        b: Value,
        list: &[u16],
        width: usize,
        full: Type,
    ) -> Res<Value> {
        let lanes = 16 / width;
        let lane = |i: usize| list.get(i).or(list.last()).map_or(0, |l| *l as usize);
        // Without a byte shuffle, Cranelift would call a library for all but words and pairs.
        let one_source = (0..lanes).all(|i| lane(i) < lanes);
        if !(self.features.shuffles || width >= 4 && one_source) {
            let ty = full.lane_type().by(lanes as u32).unwrap_or(full);
            let [a, b] = [a, b].map(|v| self.bits_as(ty, v));
            let mut out = a;
            for i in 0..list.len() {
                let (source, l) = if lane(i) < lanes { (a, lane(i)) } else { (b, lane(i) - lanes) };
                let x = self.b.ins().extractlane(source, l as u8);
                out = self.b.ins().insertlane(out, x, i as u8);
            }
            return Ok(out);
        }
        let bytes: Vec<u8> = (0..16).map(|i| (lane(i / width) * width + i % width) as u8).collect();
        let [a, b] = [a, b].map(|v| self.bits_as(types::I8X16, v));
        let mask: Immediate = self.b.func.dfg.immediates.push(ConstantData::from(&bytes[..]));
        let mixed = self.b.ins().shuffle(a, b, mask);
        Ok(self.bits_as(full, mixed))
    }

    /// Operands one after the other.
    fn concat(&mut self, args: &[Val], out: Ty) -> Res<Value> {
        let total: u32 = args.iter().map(|v| self.kernel.ty(*v).lanes() as u32).sum();
        if total != out.lanes() as u32 {
            return reject(format!("{total} lanes put together as {out:?}"));
        }
        let first = self.kernel.ty(args[0]);
        if args.len() == 2 && self.kernel.ty(args[1]) == first && first.lanes() > 1 {
            let (a, b) = (self.get(args[0])?, self.get(args[1])?);
            match out {
                Ty::Mask(n) => return self.narrow_masks(a, b, n),
                Ty::Vector(dtype, n) => {
                    let (half, width) = (n / 2, dtype.bytes());
                    let all = (16 / width) as u16;
                    let list: Vec<u16> = (0..half).chain(all..all + half).collect();
                    return self.shuffle_lanes(a, b, &list, width, out);
                }
                Ty::Index | Ty::Scalar(_) => {}
            }
        }
        let mut lanes = vec![];
        for v in args {
            let (value, ty) = (self.get(*v)?, self.kernel.ty(*v));
            for i in 0..ty.lanes() {
                lanes.push(self.extract(value, ty, i)?);
            }
        }
        self.assemble(&lanes, out)
    }

    /// A register from scalars.
    fn assemble(&mut self, lanes: &[Value], out: Ty) -> Res<Value> {
        let own = clif_type(out)?;
        let Ty::Mask(n @ 2..) = out else {
            return self.by_lane(out, |_, i| Ok(lanes[i as usize]));
        };
        let first = self.mask_lane(lanes[0], n);
        let mut v = self.first_lane(own, first);
        for (i, lane) in lanes.iter().enumerate().skip(1) {
            let x = self.mask_lane(*lane, n);
            v = self.b.ins().insertlane(v, x, i as u8);
        }
        Ok(v)
    }

    /// Two masks of n/2 lanes as one of `n`.
    fn narrow_masks(&mut self, a: Value, b: Value, n: u16) -> Res<Value> {
        Ok(match n {
            4 => self.even_words(a, b),
            8 | 16 => self.b.ins().snarrow(a, b),
            _ => return reject(format!("a mask of {n} lanes")),
        })
    }

    /// The low halves of 64-bit lanes.
    pub(super) fn even_words(&mut self, a: Value, b: Value) -> Value {
        let [a, b] = [a, b].map(|v| self.bits_as(types::I8X16, v));
        let bytes: [u8; 16] = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27];
        // With one source this is a shuffle of words, with two one of float pairs: both are in the
        // baseline.
        let bytes = if a == b { bytes.map(|i| i % 16) } else { bytes };
        let mask = self.b.func.dfg.immediates.push(ConstantData::from(&bytes[..]));
        let mixed = self.b.ins().shuffle(a, b, mask);
        self.bits_as(types::I32X4, mixed)
    }

    /// A comparison's result, in the width of `ty`'s elements, as a mask register.
    pub(super) fn mask_of(&mut self, v: Value, ty: Ty) -> Res<Value> {
        let own = clif_type(Ty::Mask(ty.lanes()))?;
        let mut v = v;
        while self.type_of(v) != own {
            v = self.b.ins().swiden_low(v);
        }
        Ok(v)
    }

    /// A mask register with lanes as wide as the elements of `dtype`.
    pub(super) fn mask_for(&mut self, mask: Value, lanes: u16, dtype: DType) -> Value {
        let mut width = 16 / lanes as usize;
        let mut v = mask;
        while width > dtype.bytes() {
            v = match width {
                8 => self.even_words(v, v),
                _ => self.b.ins().snarrow(v, v),
            };
            width /= 2;
        }
        v
    }

    /// All lanes combined: lane i with lane i + n/2, until one is left.
    pub(super) fn fold(&mut self, combine: Combine, v: Val) -> Res<Value> {
        let ty = self.kernel.ty(v);
        let mut value = self.get(v)?;
        if let (Ty::Mask(2..), Combine::Any | Combine::All) = (ty, combine) {
            return Ok(match combine {
                Combine::Any => self.b.ins().vany_true(value),
                _ => self.b.ins().vall_true(value),
            });
        }
        let op = match combine {
            Combine::Sum => Op::Add,
            Combine::Prod => Op::Mul,
            Combine::Max => Op::Max,
            Combine::Min => Op::Min,
            Combine::Any => Op::Or,
            Combine::All => Op::And,
            Combine::ArgMax | Combine::ArgMin => {
                return reject(format!("a fold by {combine:?}"));
            }
        };
        let mut lanes = ty.lanes();
        while lanes > 1 {
            let (now, half) = (ty.with_lanes(lanes), ty.with_lanes(lanes / 2));
            let low: Vec<u16> = (0..lanes / 2).collect();
            let high: Vec<u16> = (lanes / 2..lanes).collect();
            let a = self.shuffle(value, now, &low, half)?;
            let b = self.shuffle(value, now, &high, half)?;
            value = self.op_on(op, &[a, b], half)?;
            lanes /= 2;
        }
        Ok(value)
    }
}

/// How a mask of `n` lanes, 2 or more, is held.
fn mask_type(n: u16) -> Type {
    let lane = match n {
        2 => types::I64,
        4 => types::I32,
        8 => types::I16,
        _ => elem_type(DType::U8),
    };
    lane.by(128 / lane.bits()).expect("128 bits are a vector of Cranelift")
}
