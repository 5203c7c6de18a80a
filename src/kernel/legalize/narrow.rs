//! Integers of 64 bits that are known to need 32, as such.
//!
//! Coordinates are i64 where a model computes with them (masks that compare places, say), and many a
//! shader has no such type. What holds small numbers only, by intervals, gets a twin of 32 bits; arithmetic and
//! comparisons of twins are done with these. Who wants 64 bits still gets them, from the twin.

use std::borrow::Cow;

use crate::base::DType;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::*;
use crate::kernel::range::{Interval, Ranges};
use crate::kernel::rebuild::{Map, Outcome, Rule, rebuild};

/// The same kernel; its i64 parameters stay.
pub fn narrow(kernel: &Kernel) -> Cow<'_, Kernel> {
    if !kernel.types.iter().any(|ty| is_long(*ty)) {
        return Cow::Borrowed(kernel);
    }
    let mut ranges = Ranges::new(kernel);
    ranges.see_region(&kernel.body);
    let twins = vec![None; kernel.types.len()];
    Cow::Owned(rebuild(kernel, KernelBuilder::like(kernel), &mut Narrow { ranges, twins }))
}

fn is_long(ty: Ty) -> bool {
    ty != Ty::Index && ty.dtype() == DType::I64
}

struct Narrow<'k> {
    ranges: Ranges<'k>,
    /// Of 32 bits, by the old register.
    twins: Vec<Option<Val>>,
}

impl Narrow<'_> {
    fn fits(&self, v: Val) -> bool {
        self.ranges.interval(v).within(Interval::of(DType::I32))
    }

    /// The twins of operands, if all have some.
    fn twins(&self, args: &[Val]) -> Option<Args> {
        args.iter().map(|v| self.twins[v.0 as usize]).collect()
    }

    /// A register and its twin.
    fn both(&mut self, b: &mut KernelBuilder, dst: Val, twin: Val) -> Outcome {
        self.twins[dst.0 as usize] = Some(twin);
        Outcome::Value(b.convert(twin, DType::I64))
    }

    fn op(
        &mut self,
        b: &mut KernelBuilder,
        (dst, op): (Val, Op),
        map: &Map,
        args: &[Val],
    ) -> Outcome {
        let integers = if op == Op::Select { &args[1..] } else { args };
        let Some(mut twins) = self.twins(integers) else { return Outcome::Copy };
        if op.order().is_some() {
            return Outcome::Value(b.op(op, &twins));
        }
        if !self.fits(dst) {
            return Outcome::Copy;
        }
        match op {
            Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::Rem
            | Op::Neg
            | Op::Min
            | Op::Max
            | Op::And
            | Op::Or
            | Op::Xor
            | Op::Not => {}
            Op::Select => twins.insert(0, map.get(args[0])),
            _ => return Outcome::Copy,
        }
        let twin = b.op(op, &twins);
        self.both(b, dst, twin)
    }

    fn lane(
        &mut self,
        b: &mut KernelBuilder,
        (dst, op): (Val, &LaneOp),
        map: &Map,
        args: &[Val],
    ) -> Outcome {
        let (from, to) = (map.old.ty(args[0]), map.old.ty(dst));
        if *op == LaneOp::Convert && is_long(from) {
            let Some(twin) = self.twins[args[0].0 as usize] else { return Outcome::Copy };
            return Outcome::Value(match to {
                Ty::Index => b.to_index(twin),
                _ => b.convert(twin, to.dtype()),
            });
        }
        if !is_long(to) || !self.fits(dst) {
            return Outcome::Copy;
        }
        let twin = match op {
            LaneOp::Convert if !from.dtype().is_float() => b.convert(map.get(args[0]), DType::I32),
            LaneOp::Convert | LaneOp::Bitcast => return Outcome::Copy,
            LaneOp::Splat
            | LaneOp::Extract(_)
            | LaneOp::Insert(_)
            | LaneOp::Slice(_)
            | LaneOp::Concat
            | LaneOp::Shuffle(_) => match self.twins(args) {
                Some(twins) => b.lane(op.clone(), Ty::of(DType::I32, to.lanes()), &twins),
                None => return Outcome::Copy,
            },
        };
        self.both(b, dst, twin)
    }
}

impl Rule for Narrow<'_> {
    fn inst(&mut self, b: &mut KernelBuilder, inst: &Inst, map: &Map) -> Outcome {
        match inst {
            Inst::Const { dst, value } if is_long(map.old.ty(*dst)) && self.fits(*dst) => {
                let lit = Lit::int(DType::I32, value.as_int().unwrap_or(0));
                let twin = b.constant(Ty::of(DType::I32, map.old.ty(*dst).lanes()), lit);
                self.both(b, *dst, twin)
            }
            Inst::Op { dst, op, args } => {
                let by = args[if *op == Op::Select { 1 } else { 0 }];
                match is_long(map.old.ty(by)) {
                    true => self.op(b, (*dst, *op), map, args),
                    false => Outcome::Copy,
                }
            }
            Inst::Lane { dst, op, args } => self.lane(b, (*dst, op), map, args),
            Inst::Const { .. }
            | Inst::Grid { .. }
            | Inst::Local { .. }
            | Inst::Fold { .. }
            | Inst::GroupFold { .. }
            | Inst::Load { .. }
            | Inst::Store { .. }
            | Inst::For { .. }
            | Inst::If { .. }
            | Inst::Prefetch { .. }
            | Inst::Barrier => Outcome::Copy,
        }
    }
}
