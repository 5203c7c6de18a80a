//! Loads and stores.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value};

use super::emit::{Emitter, Res, clif_type, elem_type, full_vector, reject};
use crate::base::DType;
use crate::kernel::ir::{Addr, Lit, LoadMode, Ty, Val};

/// A place in memory: a pointer and a distance from it in bytes.
#[derive(Clone, Copy)]
struct Spot {
    pointer: Value,
    offset: i32,
    flags: MemFlagsData,
}

impl Spot {
    fn plus(self, bytes: usize) -> Spot {
        Spot { offset: self.offset + bytes as i32, ..self }
    }
}

impl Emitter<'_> {
    /// `movable`: nothing writes the buffer meanwhile, and an early load does no harm.
    pub(super) fn load(
        &mut self,
        ty: Ty,
        at: &Addr,
        mode: &LoadMode,
        valid: u16,
        fill: Option<Lit>,
        movable: bool,
    ) -> Res<Value> {
        let (_, elem) = self.pointer(at.buf);
        if ty != Ty::of(elem, ty.lanes()) || valid > ty.lanes() {
            return reject(format!("a load of {ty:?} from a buffer of {elem}"));
        }
        let mut flags = MemFlagsData::new().with_notrap();
        if movable {
            flags = flags.with_readonly().with_can_move();
        }
        let spot = self.spot(at, flags)?;
        let fill = fill.unwrap_or(Lit { dtype: elem, bits: 0 });
        match mode {
            LoadMode::Splat if valid == ty.lanes() => {
                let one = self.load_one(elem, spot);
                if let (Ty::Mask(n @ 2..), _) = (ty, elem) {
                    return self.mask_splat(one, n);
                }
                Ok(if ty.lanes() == 1 { one } else { self.b.ins().splat(clif_type(ty)?, one) })
            }
            LoadMode::Splat => {
                let one = self.load_one(elem, spot);
                self.some_lanes(ty, valid, fill, |_, _| Ok(one))
            }
            LoadMode::Contig => self.load_contiguous(ty, elem, spot, valid, fill),
            LoadMode::Gather(idx) => {
                let (index, index_ty) = (self.get(*idx)?, self.kernel.ty(*idx));
                if index_ty.dtype() != DType::I64 || index_ty.lanes() != ty.lanes() {
                    return reject(format!("a gather of {ty:?} by {index_ty:?}"));
                }
                self.some_lanes(ty, valid, fill, |e, i| {
                    let i = e.extract(index, index_ty, i)?;
                    let bytes = e.scaled(i, elem);
                    let pointer = e.b.ins().iadd(spot.pointer, bytes);
                    Ok(e.load_one(elem, Spot { pointer, ..spot }))
                })
            }
        }
    }

    fn load_contiguous(
        &mut self,
        ty: Ty,
        elem: DType,
        spot: Spot,
        valid: u16,
        fill: Lit,
    ) -> Res<Value> {
        let lanes = ty.lanes();
        if lanes == 1 && valid == 1 {
            return Ok(self.load_one(elem, spot));
        }
        let width = elem.bytes();
        if valid < lanes || ![2, 4, 8, 16].contains(&(lanes as usize * width)) {
            return self.some_lanes(ty, valid, fill, |e, i| {
                Ok(e.load_one(elem, spot.plus(i as usize * width)))
            });
        }
        clif_type(ty)?;
        let full = full_vector(elem);
        let bytes = self.load_bytes(lanes as usize * width, spot);
        let vector = self.bits_as(full, bytes);
        if elem != DType::Bool {
            return Ok(vector);
        }
        let zero = self.constant(Ty::Vector(DType::U8, 16), Lit { dtype: DType::U8, bits: 0 })?;
        let set = self.b.ins().icmp(IntCC::NotEqual, vector, zero);
        self.mask_of(set, Ty::Vector(DType::U8, lanes))
    }

    /// The low `bytes` bytes of a 128-bit register.
    fn load_bytes(&mut self, bytes: usize, Spot { pointer, offset, flags }: Spot) -> Value {
        let (scalar, full) = match bytes {
            16 => return self.b.ins().load(types::I8X16, flags, pointer, offset),
            8 => (types::F64, types::F64X2),
            4 => (types::F32, types::F32X4),
            _ => (types::I16, types::I16X8),
        };
        let one = self.b.ins().load(scalar, flags, pointer, offset);
        self.first_lane(full, one)
    }

    /// A register whose first `valid` lanes are made one by one; the others hold `fill`.
    fn some_lanes(
        &mut self,
        ty: Ty,
        valid: u16,
        fill: Lit,
        mut lane: impl FnMut(&mut Self, u16) -> Res<Value>,
    ) -> Res<Value> {
        if ty.lanes() == 1 {
            return if valid == 1 { lane(self, 0) } else { self.constant(ty, fill) };
        }
        let mut v = self.constant(ty, fill)?;
        for i in 0..valid {
            let x = lane(self, i)?;
            v = self.insert(v, ty, x, i)?;
        }
        Ok(v)
    }

    /// One element. A bool's byte is tested, since the caller may have put there what it liked.
    fn load_one(&mut self, elem: DType, Spot { pointer, offset, flags }: Spot) -> Value {
        let v = self.b.ins().load(elem_type(elem), flags, pointer, offset);
        match elem {
            DType::Bool => self.b.ins().icmp_imm_u(IntCC::NotEqual, v, 0),
            _ => v,
        }
    }

    pub(super) fn store(&mut self, at: &Addr, v: Val, valid: u16) -> Res<()> {
        let (_, elem) = self.pointer(at.buf);
        let ty = self.kernel.ty(v);
        if ty != Ty::of(elem, ty.lanes()) || valid > ty.lanes() {
            return reject(format!("a store of {ty:?} to a buffer of {elem}"));
        }
        let value = self.get(v)?;
        let spot = self.spot(at, MemFlagsData::new().with_notrap())?;
        if valid == 0 {
            return Ok(());
        }
        if ty.lanes() == 1 {
            self.b.ins().store(spot.flags, value, spot.pointer, spot.offset);
            return Ok(());
        }
        let bytes = match ty {
            Ty::Mask(n) => {
                let bytes = self.mask_for(value, n, DType::Bool);
                let one = self.b.ins().iconst(types::I8, 1);
                let one = self.b.ins().splat(types::I8X16, one);
                self.b.ins().band(bytes, one)
            }
            Ty::Index | Ty::Scalar(_) | Ty::Vector(..) => value,
        };
        self.store_bytes(bytes, valid as usize * elem.bytes(), spot);
        Ok(())
    }

    /// The first `count` bytes of a vector, in pieces of 16, 8, 4, 2 and 1.
    fn store_bytes(&mut self, v: Value, count: usize, spot: Spot) {
        let mut done = 0;
        for (size, full) in [
            (16, types::I8X16),
            (8, types::F64X2),
            (4, types::F32X4),
            (2, types::I16X8),
            (1, types::I8X16),
        ] {
            if count - done < size {
                continue;
            }
            let whole = self.bits_as(full, v);
            let piece = match size {
                16 => whole,
                _ => self.b.ins().extractlane(whole, (done / size) as u8),
            };
            let Spot { pointer, offset, flags } = spot.plus(done);
            self.b.ins().store(flags, piece, pointer, offset);
            done += size;
        }
    }

    /// The address as pointer and small constant, so that it becomes one addressing mode.
    fn spot(&mut self, at: &Addr, flags: MemFlagsData) -> Res<Spot> {
        let (buffer, elem) = self.pointer(at.buf);
        let width = elem.bytes() as i64;
        let literal = self.facts[at.base.0 as usize].literal.and_then(Lit::as_int);
        let constant = literal.unwrap_or(0).checked_add(at.plus);
        let Some(distance) = constant.and_then(|c| c.checked_mul(width)) else {
            return reject("an address beyond 64 bits");
        };
        let mut pointer = match literal {
            Some(_) => buffer,
            None => {
                let base = self.get(at.base)?;
                let bytes = self.scaled(base, elem);
                self.b.ins().iadd(buffer, bytes)
            }
        };
        // Room is left for the lanes of a vector.
        let mut offset = 0;
        match i32::try_from(distance).ok().filter(|d| d.abs() < i32::MAX - 64) {
            Some(small) => offset = small,
            None => pointer = self.b.ins().iadd_imm_s(pointer, distance),
        }
        Ok(Spot { pointer, offset, flags })
    }

    fn scaled(&mut self, elements: Value, elem: DType) -> Value {
        match elem.bytes().trailing_zeros() {
            0 => elements,
            shift => self.b.ins().ishl_imm_u(elements, shift as i64),
        }
    }
}
