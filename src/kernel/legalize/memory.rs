//! Loads and stores of split values.
//!
//! A load of which only some lanes touch memory becomes whole vectors, one masked or assembled
//! vector, and constants; nothing outside `valid` is touched. Gathers become scalar loads.

use super::split::Splitter;
use crate::base::DType;
use crate::kernel::ir::*;

impl Splitter<'_> {
    /// Lanes of the registers in which a value travels to and from memory.
    fn in_memory(&self, ty: Ty, valid: u16) -> u16 {
        match ty.dtype().bytes() {
            1 | 2 if self.form.packed && valid == ty.lanes() => {
                self.native(Ty::of(DType::I32, ty.lanes()))
            }
            2 if self.form.half && ty.dtype() == DType::F16 && valid == ty.lanes() => {
                self.native(Ty::of(DType::F32, ty.lanes()))
            }
            1 | 2 => 1,
            _ => self.native(ty),
        }
    }

    pub(super) fn load(
        &mut self,
        dst: Val,
        at: &Addr,
        mode: LoadMode,
        valid: u16,
        fill: Option<Lit>,
    ) {
        let ty = self.old.ty(dst);
        let (n, d) = (ty.lanes(), ty.dtype());
        let base = self.one(at.base);
        let addr = |l: u16| Addr { buf: at.buf, base, plus: at.plus.saturating_add(l as i64) };
        let fill = fill.unwrap_or(Lit { dtype: d, bits: 0 });
        match mode {
            LoadMode::Splat if valid == n && d.bytes() >= 4 => {
                let each = self.native(ty);
                let v = self.b.load_splat(addr(0), each);
                self.set(dst, each, Args::from_elem(v, (n / each) as usize));
            }
            LoadMode::Splat => {
                let v = self.b.load(addr(0), 1);
                let rest = self.b.constant(Ty::of(d, 1), fill);
                let vals = (0..n).map(|l| if l < valid { v } else { rest });
                self.set(dst, 1, vals);
            }
            LoadMode::Gather(idx) => {
                let idx = self.shaped(idx, 1);
                let mut vals = vec![];
                for l in 0..n {
                    vals.push(match l < valid {
                        true => {
                            let offset = self.b.to_index(idx[l as usize]);
                            let sum = self.b.add(base, offset);
                            self.b.load(Addr { buf: at.buf, base: sum, plus: at.plus }, 1)
                        }
                        false => self.b.constant(Ty::of(d, 1), fill),
                    });
                }
                self.set(dst, 1, vals);
            }
            LoadMode::Contig => {
                let each = self.in_memory(ty, valid);
                let mut vals = Args::new();
                for l in (0..n).step_by(each as usize) {
                    vals.push(self.load_piece(addr(l), each, valid.saturating_sub(l), fill));
                }
                self.set(dst, each, vals);
            }
        }
    }

    /// One register of a load of which the first `valid` lanes touch memory.
    fn load_piece(&mut self, at: Addr, each: u16, valid: u16, fill: Lit) -> Val {
        let ty = Ty::of(fill.dtype, each);
        match valid {
            0 => self.b.constant(ty, fill),
            v if v >= each => self.b.load(at, each),
            v if self.form.masked && fill.dtype.bytes() >= 4 => {
                self.b.load_as(at, each, LoadMode::Contig, v, Some(fill))
            }
            v => {
                let rest = self.b.constant(ty.with_lanes(1), fill);
                let mut lanes = vec![rest; each as usize];
                for l in 0..v {
                    let at = Addr { plus: at.plus.saturating_add(l as i64), ..at };
                    lanes[l as usize] = self.b.load(at, 1);
                }
                self.vector(fill.dtype, &lanes)
            }
        }
    }

    pub(super) fn store(&mut self, at: &Addr, v: Val, valid: u16) {
        let ty = self.old.ty(v);
        let each = self.in_memory(ty, valid);
        let base = self.one(at.base);
        let mut vals = self.shaped(self.narrowed[v.0 as usize].unwrap_or(v), each);
        if self.narrowed[v.0 as usize].is_some() {
            let narrow =
                |s: &mut Self, v: &Val| s.b.lane(LaneOp::Convert, ty.with_lanes(each), &[*v]);
            let count = valid.div_ceil(each) as usize;
            vals = vals[..count].iter().map(|v| narrow(self, v)).collect();
        }
        for (i, piece) in vals.iter().enumerate() {
            let l = i as u16 * each;
            let left = valid.saturating_sub(l);
            let addr = |l: u16| Addr { buf: at.buf, base, plus: at.plus.saturating_add(l as i64) };
            match left {
                0 => break,
                n if n >= each => self.b.store(addr(l), *piece),
                n if self.form.masked && ty.dtype().bytes() >= 4 => {
                    self.b.store_valid(addr(l), *piece, n);
                }
                n => {
                    for j in 0..n {
                        let scalar = self.lane(*piece, ty.dtype(), j);
                        self.b.store(addr(l + j), scalar);
                    }
                }
            }
        }
    }
}
