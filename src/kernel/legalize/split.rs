//! Step 3 of legalizing: every vector fills exactly one register of the machine.
//!
//! In: a widened kernel. A value of many lanes becomes several registers ([`Rep`]): full vectors,
//! or scalars where it has fewer lanes than a vector, or where an operation has no vector form.
//! Moves between lanes become renaming wherever the pieces allow it.
//!
//! A mask has no width of its own: it is held with as many lanes as the vectors that made it, and
//! is converted where it selects among others.

use smallvec::SmallVec;

use super::Form;
use crate::base::DType;
use crate::ir::scalar::Combine;
use crate::kernel::build::KernelBuilder;
use crate::kernel::eval::{convert, fold_op};
use crate::kernel::ir::*;

/// Splits the values of a widened kernel.
pub fn split(kernel: &Kernel, form: Form) -> Kernel {
    let b = KernelBuilder::like(kernel);
    let n = kernel.types.len();
    let mut splitter =
        Splitter { old: kernel, b, reps: vec![None; n], narrowed: vec![None; n], form };
    splitter.region(&kernel.body);
    splitter.b.finish()
}

/// The registers that hold a value, each of them `each` lanes.
#[derive(Clone)]
pub(super) struct Rep {
    pub each: u16,
    pub vals: Args,
}

pub(super) struct Splitter<'k> {
    pub(super) old: &'k Kernel,
    pub(super) b: KernelBuilder,
    reps: Vec<Option<Rep>>,
    /// The i32 of which a narrow register is made, at its store.
    pub(super) narrowed: Vec<Option<Val>>,
    pub(super) form: Form,
}

impl Splitter<'_> {
    fn region(&mut self, region: &Region) {
        for inst in &region.insts {
            self.inst(inst);
        }
    }

    pub(super) fn set(&mut self, v: Val, each: u16, vals: impl IntoIterator<Item = Val>) {
        let vals: Args = vals.into_iter().collect();
        debug_assert_eq!(each as usize * vals.len(), self.old.ty(v).lanes() as usize);
        self.reps[v.0 as usize] = Some(Rep { each, vals });
    }

    fn rep_of(&self, v: Val) -> &Rep {
        self.reps[v.0 as usize].as_ref().expect("registers are defined before their uses")
    }

    pub(super) fn rep(&self, v: Val) -> Rep {
        self.rep_of(v).clone()
    }

    /// The register of a value of one lane.
    pub(super) fn one(&self, v: Val) -> Val {
        self.rep_of(v).vals[0]
    }

    /// Lanes of the registers in which a value of this type is kept.
    pub(super) fn native(&self, ty: Ty) -> u16 {
        let lanes = |bytes: usize| self.form.lanes(bytes, ty.lanes());
        match ty {
            Ty::Index | Ty::Scalar(_) => 1,
            Ty::Vector(d, _) => lanes(d.bytes()),
            Ty::Mask(_) => lanes(4).max(lanes(8)),
        }
    }

    /// The registers of a value with `each` lanes in each.
    pub(super) fn shaped(&mut self, v: Val, each: u16) -> Args {
        let (rep, ty) = (self.rep(v), self.old.ty(v));
        if rep.each == each {
            return rep.vals;
        }
        let vals: Args = match ty.dtype() {
            DType::Bool => self.mask_shaped(&rep, each).into(),
            d if each == 1 => {
                let lanes = rep.vals.iter().flat_map(|v| (0..rep.each).map(|l| (*v, l)));
                lanes.map(|(v, l)| self.lane(v, d, l)).collect()
            }
            d if rep.each == 1 => {
                let groups = rep.vals.chunks(each as usize);
                groups.map(|group| self.vector(d, group)).collect()
            }
            d if rep.each > each => {
                let parts = (0..rep.each).step_by(each as usize);
                let parts = rep.vals.iter().flat_map(|v| parts.clone().map(|from| (*v, from)));
                parts.map(|(v, from)| self.part(v, d, from, each)).collect()
            }
            d => {
                let mut vals = rep.vals.to_vec();
                let mut lanes = rep.each;
                while lanes < each {
                    lanes *= 2;
                    vals = vals.chunks(2).map(|pair| self.joined(pair, d, lanes)).collect();
                }
                vals.into()
            }
        };
        vals
    }

    /// One lane of a vector as a scalar.
    pub(super) fn lane(&mut self, v: Val, d: DType, lane: u16) -> Val {
        match self.b.literal(v) {
            Some(lit) => self.b.constant(Ty::of(d, 1), lit),
            None => self.b.lane(LaneOp::Extract(lane), Ty::of(d, 1), &[v]),
        }
    }

    /// Some lanes of a vector, as a narrower one.
    fn part(&mut self, v: Val, d: DType, from: u16, each: u16) -> Val {
        match self.b.literal(v) {
            Some(lit) => self.b.constant(Ty::of(d, each), lit),
            None => self.b.lane(LaneOp::Slice(from), Ty::of(d, each), &[v]),
        }
    }

    /// Two vectors as one.
    fn joined(&mut self, pair: &[Val], d: DType, lanes: u16) -> Val {
        match self.b.literal(pair[0]) {
            Some(lit) if self.b.literal(pair[1]) == Some(lit) => {
                self.b.constant(Ty::of(d, lanes), lit)
            }
            _ => self.b.lane(LaneOp::Concat, Ty::of(d, lanes), pair),
        }
    }

    /// A vector of scalars.
    pub(super) fn vector(&mut self, d: DType, lanes: &[Val]) -> Val {
        let n = lanes.len() as u16;
        let literal = self.b.literal(lanes[0]);
        if literal.is_some() && lanes.iter().all(|v| self.b.literal(*v) == literal) {
            return self.b.splat(lanes[0], n);
        }
        if lanes.iter().all(|v| *v == lanes[0]) {
            return self.b.splat(lanes[0], n);
        }
        self.b.lane(LaneOp::Concat, Ty::of(d, n), lanes)
    }

    /// A mask with other lanes in each register. Masks move between scalar and vector form as
    /// integers, 0 or 1; halves and pairs of vector masks are lane operations of their own.
    fn mask_shaped(&mut self, rep: &Rep, each: u16) -> Vec<Val> {
        if rep.each == 1 {
            let groups = rep.vals.chunks(each as usize);
            return groups.map(|group| self.vector_mask(group)).collect();
        }
        if each == 1 {
            let vals = rep.vals.iter();
            return vals.flat_map(|v| self.scalar_masks(*v, rep.each)).collect();
        }
        if each < rep.each {
            let parts = (0..rep.each).step_by(each as usize);
            let lanes = rep.vals.iter().flat_map(|v| parts.clone().map(|from| (*v, from)));
            return lanes.map(|(v, from)| self.mask_part(v, from, each)).collect();
        }
        let groups = rep.vals.chunks((each / rep.each) as usize);
        groups
            .map(|group| match self.b.literal(group[0]) {
                Some(lit) if group.iter().all(|v| self.b.literal(*v) == Some(lit)) => {
                    self.b.constant(Ty::Mask(each), lit)
                }
                _ => self.b.lane(LaneOp::Concat, Ty::Mask(each), group),
            })
            .collect()
    }

    fn mask_part(&mut self, v: Val, from: u16, each: u16) -> Val {
        match self.b.literal(v) {
            Some(lit) => self.b.constant(Ty::Mask(each), lit),
            None => self.b.lane(LaneOp::Slice(from), Ty::Mask(each), &[v]),
        }
    }

    /// The integer type whose vectors have this many lanes.
    fn int_of(&self, lanes: u16) -> DType {
        if self.form.lanes(4, lanes) == lanes { DType::I32 } else { DType::I64 }
    }

    fn vector_mask(&mut self, lanes: &[Val]) -> Val {
        let n = lanes.len() as u16;
        let literal = self.b.literal(lanes[0]);
        if let Some(lit) = literal
            && lanes.iter().all(|v| self.b.literal(*v) == literal)
        {
            return self.b.constant(Ty::Mask(n), lit);
        }
        let d = self.int_of(n);
        let [one, zero] = [1.0, 0.0].map(|c| self.b.number(d, 1, c));
        let ints: Vec<Val> =
            lanes.iter().map(|m| self.b.op(Op::Select, &[*m, one, zero])).collect();
        let ints = self.vector(d, &ints);
        let zero = self.b.number(d, n, 0.0);
        self.b.op(Op::Ne, &[ints, zero])
    }

    fn scalar_masks(&mut self, mask: Val, n: u16) -> Vec<Val> {
        if let Some(lit) = self.b.literal(mask) {
            let bit = self.b.constant(Ty::Mask(1), lit);
            return vec![bit; n as usize];
        }
        let d = self.int_of(n);
        let [one, zero] = [1.0, 0.0].map(|c| self.b.number(d, n, c));
        let ints = self.b.op(Op::Select, &[mask, one, zero]);
        let zero = self.b.number(d, 1, 0.0);
        (0..n)
            .map(|l| {
                let int = self.lane(ints, d, l);
                self.b.op(Op::Ne, &[int, zero])
            })
            .collect()
    }

    fn inst(&mut self, inst: &Inst) {
        match inst {
            Inst::Const { dst, value } => {
                let ty = self.old.ty(*dst);
                let each = self.native(ty);
                let v = match ty {
                    Ty::Index => self.b.constant(ty, *value),
                    _ => self.b.constant(ty.with_lanes(each), *value),
                };
                self.set(*dst, each, Args::from_elem(v, (ty.lanes() / each) as usize));
            }
            Inst::Grid { dst, axis } => {
                let v = self.b.grid(*axis);
                self.set(*dst, 1, [v]);
            }
            Inst::Local { dst, axis } => {
                let v = self.b.local(*axis);
                self.set(*dst, 1, [v]);
            }
            Inst::Op { dst, op, args } => self.op(*dst, *op, args),
            Inst::Fold { dst, combine, v } => {
                let folded = self.fold(*combine, *v);
                self.set(*dst, 1, [folded]);
            }
            Inst::GroupFold { dst, combine, v } => {
                let v = self.one(*v);
                let folded = self.b.group_fold(*combine, v);
                self.set(*dst, 1, [folded]);
            }
            Inst::Lane { dst, op, args } => self.move_lanes(*dst, op, args),
            Inst::Load { dst, at, mode, valid, fill } => {
                self.load(*dst, at, *mode, *valid, *fill);
            }
            Inst::Store { at, v, valid } => self.store(at, *v, *valid),
            Inst::For { results, lo, hi, step, init, body, unroll } => {
                let (lo, hi) = (self.one(*lo), self.one(*hi));
                let init_vals = self.flat(init);
                let counter = self.b.fresh(Ty::Index);
                self.set(body.params[0], 1, [counter]);
                let mut params = vec![counter];
                params.extend(self.renew(&body.params[1..]));
                self.b.enter();
                self.region(body);
                let yields = self.flat(&body.yields);
                let region = Region { params, insts: self.b.leave(), yields };
                let (step, unroll) = (*step, *unroll);
                let results = self.renew(results);
                let init = init_vals;
                self.b.push(Inst::For { results, lo, hi, step, init, body: region, unroll });
            }
            Inst::If { results, cond, then, els } => {
                let cond = self.one(*cond);
                let [then, els] = [then, els].map(|side| {
                    self.b.enter();
                    self.region(side);
                    let yields = self.flat(&side.yields);
                    Region { params: vec![], insts: self.b.leave(), yields }
                });
                let results = self.renew(results);
                self.b.push(Inst::If { results, cond, then, els });
            }
            Inst::Prefetch { at } => {
                let base = self.one(at.base);
                self.b.prefetch(Addr { base, ..*at });
            }
            Inst::Barrier => self.b.push(Inst::Barrier),
        }
    }

    /// The registers of values in their native form, one after the other.
    fn flat(&mut self, vals: &[Val]) -> Vec<Val> {
        let mut out = vec![];
        for v in vals {
            let each = self.native(self.old.ty(*v));
            out.extend_from_slice(&self.shaped(*v, each));
        }
        out
    }

    /// New registers, in native form, for values that a loop or branch defines.
    fn renew(&mut self, vals: &[Val]) -> Vec<Val> {
        let mut out = vec![];
        for v in vals {
            let ty = self.old.ty(*v);
            let each = self.native(ty);
            let part = if ty == Ty::Index { ty } else { ty.with_lanes(each) };
            let new: Vec<Val> = (0..ty.lanes() / each).map(|_| self.b.fresh(part)).collect();
            out.extend_from_slice(&new);
            self.set(*v, each, new);
        }
        out
    }

    fn op(&mut self, dst: Val, op: Op, args: &[Val]) {
        let by = if op == Op::Select { args[1] } else { args[0] };
        let ty = self.old.ty(by);
        let each = match ty {
            Ty::Mask(_) => args.iter().map(|v| self.rep(*v).each).max().unwrap_or(1),
            _ if self.vectorizes(op, ty.dtype(), args) => self.native(ty),
            _ => 1,
        };
        let shaped: SmallVec<[Args; 3]> = args.iter().map(|v| self.shaped(*v, each)).collect();
        let piece = |s: &mut Self, i: usize| {
            let args: Args = shaped.iter().map(|vals| vals[i]).collect();
            s.b.op(op, &args)
        };
        let vals: Args = (0..shaped[0].len()).map(|i| piece(self, i)).collect();
        self.set(dst, each, vals);
    }

    /// Whether an operation has a vector form in every emitter.
    fn vectorizes(&self, op: Op, d: DType, args: &[Val]) -> bool {
        let float = d.is_float();
        match op {
            Op::Div | Op::Rem => float,
            Op::Mul => float || d.bytes() == 4,
            // One constant amount for all lanes.
            Op::Shl | Op::Shr => {
                let amount = self.rep(args[1]).vals;
                let literal = self.b.literal(amount[0]);
                literal.is_some() && amount.iter().all(|v| self.b.literal(*v) == literal)
            }
            Op::Add
            | Op::Sub
            | Op::Neg
            | Op::Abs
            | Op::Sqrt
            | Op::Floor
            | Op::Ceil
            | Op::Trunc
            | Op::Round
            | Op::Fma
            | Op::Min
            | Op::Max
            | Op::And
            | Op::Or
            | Op::Xor
            | Op::Not
            | Op::Eq
            | Op::Ne
            | Op::Lt
            | Op::Le
            | Op::Gt
            | Op::Ge
            | Op::Select
            | Op::Exp
            | Op::Expm1
            | Op::Log
            | Op::Log1p
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Erf
            | Op::Pow
            | Op::Scale => true,
        }
    }

    /// The halving tree: whole registers first, then lanes of the last one by shuffles.
    fn fold(&mut self, combine: Combine, v: Val) -> Val {
        let Some(op) = fold_op(combine) else { unreachable!("the type check passed") };
        let ty = self.old.ty(v);
        let rep = self.rep(v);
        let each = if ty.dtype() == DType::Bool { rep.each } else { self.native(ty) };
        let mut vals = self.shaped(v, each).to_vec();
        while vals.len() > 1 {
            let high = vals.split_off(vals.len() / 2);
            vals = vals.iter().zip(high).map(|(a, b)| self.b.op(op, &[*a, b])).collect();
        }
        if each == 1 {
            return vals[0];
        }
        let mut last = vals[0];
        let mut d = ty.dtype();
        if d == DType::Bool {
            d = self.int_of(each);
            let [one, zero] = [1.0, 0.0].map(|c| self.b.number(d, each, c));
            last = self.b.op(Op::Select, &[last, one, zero]);
        }
        let mut n = each;
        while n > 1 {
            n /= 2;
            // The upper lanes hold anything; the shuffle repeats what is needed.
            let lanes = (0..each).map(|l| l % n + n).collect();
            let high = self.b.lane(LaneOp::Shuffle(lanes), Ty::of(d, each), &[last]);
            last = self.b.op(op, &[last, high]);
        }
        let scalar = self.lane(last, d, 0);
        if ty.dtype() != DType::Bool {
            return scalar;
        }
        let zero = self.b.number(d, 1, 0.0);
        self.b.op(Op::Ne, &[scalar, zero])
    }

    fn move_lanes(&mut self, dst: Val, op: &LaneOp, args: &[Val]) {
        let ty = self.old.ty(dst);
        let n = ty.lanes() as usize;
        let each = self.native(ty);
        match op {
            LaneOp::Splat => {
                let v = self.one(args[0]);
                if ty.dtype() == DType::Bool {
                    return self.set(dst, 1, Args::from_elem(v, n));
                }
                let piece = self.b.splat(v, each);
                self.set(dst, each, Args::from_elem(piece, n / each as usize));
            }
            LaneOp::Extract(lane) => {
                let rep = self.rep(args[0]);
                let (piece, at) = (rep.vals[(lane / rep.each) as usize], lane % rep.each);
                let v = match ty.dtype() {
                    _ if rep.each == 1 => piece,
                    DType::Bool => self.scalar_masks(piece, rep.each)[at as usize],
                    d => self.lane(piece, d, at),
                };
                self.set(dst, 1, [v]);
            }
            LaneOp::Insert(lane) => {
                let each = if ty.dtype() == DType::Bool { 1 } else { each };
                let mut vals = self.shaped(args[0], each).to_vec();
                let scalar = self.one(args[1]);
                let piece = &mut vals[(lane / each) as usize];
                *piece = match each {
                    1 => scalar,
                    _ => {
                        let op = LaneOp::Insert(lane % each);
                        self.b.lane(op, ty.with_lanes(each), &[*piece, scalar])
                    }
                };
                self.set(dst, each, vals);
            }
            LaneOp::Slice(from) if self.is_part(args[0], ty, *from) => {
                let rep = self.rep(args[0]);
                let piece = rep.vals[(from / rep.each) as usize];
                let part = self.part(piece, ty.dtype(), from % rep.each, each);
                self.set(dst, each, [part]);
            }
            LaneOp::Slice(from) => {
                let lanes: Vec<u16> = (0..ty.lanes()).map(|l| from + l).collect();
                self.shuffle(dst, args[0], &lanes);
            }
            LaneOp::Shuffle(lanes) => self.shuffle(dst, args[0], lanes),
            LaneOp::Concat => {
                let reps: Vec<Rep> = args.iter().map(|v| self.rep(*v)).collect();
                // Wider registers are cut like the narrowest; who reads them joins them again.
                let each = reps.iter().map(|r| r.each).min().unwrap_or(1);
                let mut vals = vec![];
                for v in args {
                    vals.extend_from_slice(&self.shaped(*v, each));
                }
                self.set(dst, each, vals);
            }
            LaneOp::Bitcast => {
                let vals = self.shaped(args[0], each);
                let part = ty.with_lanes(each);
                let vals: Args = vals.iter().map(|v| self.bitcast(*v, part)).collect();
                self.set(dst, each, vals);
            }
            LaneOp::Convert => self.convert(dst, args[0]),
        }
    }

    /// Whether a slice is one vector inside a wider one.
    fn is_part(&self, v: Val, ty: Ty, from: u16) -> bool {
        let n = ty.lanes();
        let vector = ty.dtype().bytes() >= 4 && n > 1 && self.native(ty) == n;
        vector && self.rep(v).each > n && from.is_multiple_of(n)
    }

    fn bitcast(&mut self, v: Val, to: Ty) -> Val {
        match self.b.literal(v) {
            Some(lit) => self.b.constant(to, Lit { dtype: to.dtype(), bits: lit.bits }),
            None => self.b.lane(LaneOp::Bitcast, to, &[v]),
        }
    }

    /// Lane `i` of `dst` is lane `lanes[i]` of `v`: by renaming where whole registers move, by a
    /// shuffle where a register takes from one other, else lane by lane.
    fn shuffle(&mut self, dst: Val, v: Val, lanes: &[u16]) {
        let rep = self.rep(v);
        let (each, ty) = (rep.each as usize, self.old.ty(v));
        if each > 1 && lanes.len().is_multiple_of(each) {
            let pieces: Option<Vec<Val>> =
                lanes.chunks(each).map(|part| self.shuffled(&rep, part, ty)).collect();
            if let Some(pieces) = pieces {
                return self.set(dst, rep.each, pieces);
            }
        }
        let scalars: Args = match (each, ty.dtype()) {
            (1, _) => lanes.iter().map(|l| rep.vals[*l as usize]).collect(),
            (_, DType::Bool) => {
                let all = self.shaped(v, 1);
                lanes.iter().map(|l| all[*l as usize]).collect()
            }
            (_, d) => {
                let at = |l: &u16| (rep.vals[*l as usize / each], *l % rep.each);
                lanes.iter().map(at).map(|(v, l)| self.lane(v, d, l)).collect()
            }
        };
        self.set(dst, 1, scalars);
    }

    /// One register of a shuffle, if it takes its lanes from one register.
    fn shuffled(&mut self, rep: &Rep, lanes: &[u16], ty: Ty) -> Option<Val> {
        let piece = lanes[0] / rep.each;
        let v = rep.vals[piece as usize];
        if lanes.iter().any(|l| l / rep.each != piece) {
            return None;
        }
        let inner: Vec<u16> = lanes.iter().map(|l| l % rep.each).collect();
        if self.b.literal(v).is_some() || inner.iter().enumerate().all(|(i, l)| i == *l as usize) {
            return Some(v);
        }
        let shuffle = LaneOp::Shuffle(inner);
        (ty.dtype() != DType::Bool).then(|| self.b.lane(shuffle, ty.with_lanes(rep.each), &[v]))
    }

    fn convert(&mut self, dst: Val, v: Val) {
        let (from, to) = (self.old.ty(v), self.old.ty(dst));
        let each = match (from.dtype(), to.dtype()) {
            (DType::F32, DType::I32) | (DType::I32, DType::F32) => self.native(to),
            (f, _) if f.bytes() < 4 => self.rep(v).each,
            // It may be read again: rounding is what it is for.
            (DType::F32, DType::F16) if self.form.half => self.native(from),
            (_, DType::F16) => 1,
            (_, t) if t.bytes() < 4 => {
                self.narrowed[dst.0 as usize] = Some(v);
                return;
            }
            _ => 1,
        };
        let vals = self.shaped(v, each);
        let part = if to == Ty::Index { to } else { to.with_lanes(each) };
        let piece = |s: &mut Self, v: &Val| match s.b.literal(*v) {
            Some(lit) => {
                let dtype = to.dtype();
                s.b.constant(part, Lit { dtype, bits: convert(lit.bits, lit.dtype, dtype) })
            }
            None => s.b.lane(LaneOp::Convert, part, &[*v]),
        };
        let vals: Args = vals.iter().map(|v| piece(self, v)).collect();
        self.set(dst, each, vals);
    }
}
