//! Reductions: how many elements become one, in an order that the nest alone decides.
//!
//! - Along contiguous elements: interleaved partial results, 32 of them (fewer where the axis is
//!   shorter: the greatest power of two that fits), element `i` in partial `i mod 32`, folded by
//!   a halving tree.
//! - Otherwise: one ascending chain. Lanes then lie along the last axis of the result.
//! - A sum of products is a chain of multiply-adds; in a contraction (see `contract`) it is one
//!   ascending chain even where both operands are contiguous.

use std::collections::BTreeMap;

use super::group::unflatten;
use super::{contract, sweep};
use crate::base::DType;
use crate::ir::index::{Expr, Guard};
use crate::ir::scalar::{Combine, ScalarFn};
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::{Emitter, Home};
use crate::kernel::ir::{Buf, LaneOp, Lit, Op, Ty, Val};
use crate::kernel::nest::{Nest, Stage};
use crate::kernel::resolve::{Leaf, Resolved};
use crate::kernel::scalar_fn::nan_keeping;

/// Partial results of a reduction along contiguous elements.
const PARTIALS: i64 = 32;

pub struct Reduction<'a> {
    nest: &'a Nest,
    stage: &'a Stage,
    resolved: &'a Resolved,
    combine: Combine,
    /// Axes of the result: the reduced ones follow.
    rank: usize,
    /// The last steps, written out: see [`Reduction::steps`].
    steps: &'a [Resolved],
    /// Lanes that are read.
    valid: u16,
}

/// Steps of a reduction that are written out, at most.
const WRITTEN: i64 = 32;
/// Instructions of all of them together, at most.
const LONGEST: usize = 512;

impl<'a> Reduction<'a> {
    /// The reduction of a stage, if it is one.
    pub fn of(
        nest: &'a Nest,
        id: u16,
        resolved: &'a Resolved,
        rank: usize,
    ) -> Option<Reduction<'a>> {
        let stage = &nest.stages[id as usize];
        let combine = stage.combine?;
        debug_assert_eq!(rank, stage.axes.len());
        Some(Reduction { nest, stage, resolved, combine, rank, steps: &[], valid: u16::MAX })
    }

    /// The same with its last steps written out, of which only the first lanes are wanted.
    pub fn written(self, steps: &'a [Resolved], valid: u16) -> Reduction<'a> {
        Reduction { steps, valid, ..self }
    }

    /// The body at each step of the innermost reduced axes, as many axes as have few steps: then
    /// guards that ask for the place in a window depend on the result's axes only. Nothing where
    /// lanes lie along the reduction.
    pub fn steps(&self) -> Vec<Resolved> {
        if self.lanes_along_reduction() || self.scalar_only() {
            return vec![];
        }
        let reduce = &self.stage.reduce;
        let most = WRITTEN.min((LONGEST / self.resolved.leaves.len().max(1)) as i64);
        let looped = self.looped(most);
        let extents = self.stage.extents();
        let mut steps: Vec<Vec<i64>> = vec![vec![]];
        for n in &reduce[looped..] {
            let longer =
                |s: &Vec<i64>| (0..*n).map(|i| [&s[..], &[i]].concat()).collect::<Vec<_>>();
            steps = steps.iter().flat_map(longer).collect();
        }
        if looped == reduce.len() {
            return vec![];
        }
        let one = |step: &Vec<i64>| {
            let axes = (0..self.rank + looped).map(Expr::axis);
            let by: Vec<Expr> = axes.chain(step.iter().map(|i| Expr::constant(*i))).collect();
            self.resolved.map(|e| e.substitute(&by, &extents))
        };
        steps.iter().map(one).collect()
    }

    /// How many reduced axes stay loops where the others have at most so many steps.
    fn looped(&self, most: i64) -> usize {
        let reduce = &self.stage.reduce;
        let mut steps = 1i64;
        let few = |n: &&i64| {
            steps = steps.saturating_mul(**n);
            (1..=most).contains(&steps)
        };
        reduce.len() - reduce.iter().rev().take_while(few).count()
    }

    /// Lanes lie along the innermost reduced axis: all accesses are contiguous along it, or do not
    /// depend on it, and no guard does.
    pub fn lanes_along_reduction(&self) -> bool {
        let Some(&extent) = self.stage.reduce.last() else { return false };
        let axis = self.rank + self.stage.reduce.len() - 1;
        // Contractions are chains, however their operands lie.
        if self.combine == Combine::Sum && contract::is_contraction(self.nest) {
            return false;
        }
        let mut contiguous = false;
        let all = self.resolved.leaves.iter().all(|l| match l {
            Leaf::Slot { at, .. } => {
                contiguous |= at.stride(axis) == Some(1);
                matches!(at.stride(axis), Some(0 | 1))
            }
            Leaf::Stage { stage, at } => {
                let own: Vec<usize> = self.nest.stages[*stage as usize].axes[self.nest.shared..]
                    .iter()
                    .map(|&d| d as usize)
                    .collect();
                let flat = crate::ir::index::IndexMap(at.clone()).flatten(&own);
                contiguous |= flat.stride(axis) == Some(1);
                matches!(flat.stride(axis), Some(0 | 1))
            }
            Leaf::Axis(e) => !e.mentions(axis),
            Leaf::Guarded { guards, .. } => guards.iter().all(|g| !g.expr.mentions(axis)),
            Leaf::Const(_) | Leaf::Fn(..) => true,
        });
        all && contiguous && extent > 1 && !self.scalar_only()
    }

    /// Masks and indices are reduced one by one.
    pub fn scalar_only(&self) -> bool {
        match self.combine {
            Combine::Any | Combine::All | Combine::ArgMax | Combine::ArgMin => true,
            Combine::Sum | Combine::Prod | Combine::Max | Combine::Min => {
                self.stage.dtype == DType::Bool
            }
        }
    }

    /// The reduced value at a point of the result's axes.
    pub fn emit(
        &self,
        b: &mut KernelBuilder,
        slots: &'a [Buf],
        homes: &'a BTreeMap<u16, Home>,
        decided: &'a BTreeMap<Guard, bool>,
        coords: Vec<Val>,
        lanes: (Option<usize>, u16),
    ) -> Val {
        let site = Site { slots, homes, decided, coords };
        match self.combine {
            Combine::ArgMax | Combine::ArgMin => self.arg(b, &site),
            Combine::Any | Combine::All => self.chain(b, &site, (None, 1)),
            _ if self.lanes_along_reduction() => self.partials(b, &site),
            _ => self.chain(b, &site, lanes),
        }
    }

    /// The reduced value at a point, where so many invocations take turns: each reduces what is its own,
    /// then all are folded.
    pub fn in_turns(
        &self,
        b: &mut KernelBuilder,
        slots: &'a [Buf],
        homes: &'a BTreeMap<u16, Home>,
        coords: Vec<Val>,
        (turn, turns): (Val, i64),
    ) -> Val {
        let decided = &BTreeMap::new();
        let site = Site { slots, homes, decided, coords };
        let end = b.index(self.stage.reduce.iter().product());
        if let Some(of) = self.extreme() {
            let best = self.first_best(b, &site);
            let [best, index] = b.for_loop((turn, end, turns), &best, |b, i, carried| {
                let at = unflatten(b, i, &self.stage.reduce);
                self.better(b, &site, &at, i, carried)
            })[..] else {
                unreachable!("two values are carried")
            };
            return first_of_all(b, of, best, index);
        }
        let init = self.identity(b, 1);
        let part = b.for_loop((turn, end, turns), &[init], |b, i, carried| {
            let at = unflatten(b, i, &self.stage.reduce);
            vec![self.body(b, &site, &at, (None, 1), carried[0])]
        })[0];
        b.group_fold(self.combine, part)
    }

    fn body(
        &self,
        b: &mut KernelBuilder,
        site: &Site,
        reduce: &[Val],
        lanes: (Option<usize>, u16),
        acc: Val,
    ) -> Val {
        let coords = [&site.coords[..], reduce].concat();
        let mut e = Emitter::new(
            self.nest,
            self.resolved,
            site.slots,
            site.homes,
            site.decided,
            coords,
            lanes,
        );
        e.valid = self.valid.min(lanes.1);
        let root = self.resolved.root;
        // A sum of products: one multiply-add for each, rounded as the numeric class says.
        if self.combine == Combine::Sum
            && self.stage.dtype.is_float()
            && let Leaf::Fn(ScalarFn::Mul, args) = &self.resolved.leaves[root as usize]
        {
            let (x, y) = (e.value(b, args[0]), e.value(b, args[1]));
            return b.mul_add(x, y, acc);
        }
        let v = e.value(b, root);
        self.join(b, acc, v)
    }

    fn join(&self, b: &mut KernelBuilder, acc: Val, v: Val) -> Val {
        let float = b.ty(v).dtype().is_float();
        if let (Combine::Sum, Some(x), Some(y)) = (self.combine, b.literal(acc), b.literal(v))
            && let Some(sum) = small_sum(x, y)
        {
            return b.constant(b.ty(acc), sum);
        }
        // max(-∞, v) = v and min(∞, v) = v, of NaN as well.
        if matches!(self.combine, Combine::Max | Combine::Min)
            && b.literal(acc) == Some(neutral(self.combine, b.ty(acc).dtype()))
        {
            return v;
        }
        match self.combine {
            Combine::Sum => b.op(Op::Add, &[acc, v]),
            Combine::Prod => b.op(Op::Mul, &[acc, v]),
            Combine::Max => nan_keeping(b, Op::Max, float, acc, v),
            Combine::Min => nan_keeping(b, Op::Min, float, acc, v),
            Combine::Any => b.op(Op::Or, &[acc, v]),
            Combine::All => b.op(Op::And, &[acc, v]),
            Combine::ArgMax | Combine::ArgMin => unreachable!("indices are reduced by `arg`"),
        }
    }

    fn identity(&self, b: &mut KernelBuilder, lanes: u16) -> Val {
        let dtype = self.stage.dtype.compute();
        b.constant(Ty::of(dtype, lanes), neutral(self.combine, dtype))
    }

    /// One ascending chain over all reduced axes.
    fn chain(&self, b: &mut KernelBuilder, site: &Site, lanes: (Option<usize>, u16)) -> Val {
        let init = self.identity(b, lanes.1);
        if self.steps.is_empty() {
            return self.loops(b, &self.stage.reduce, &mut vec![], init, &mut |b, at, acc| {
                self.body(b, site, at, lanes, acc)
            });
        }
        let looped = self.looped(self.steps.len() as i64);
        self.loops(b, &self.stage.reduce[..looped], &mut vec![], init, &mut |b, at, acc| {
            // The expressions of a step do not mention the axes that are written out.
            let mut at = at.to_vec();
            at.resize(self.stage.reduce.len(), b.index(0));
            self.steps.iter().fold(acc, |acc, step| self.step(b, site, step, (&at, lanes), acc))
        })
    }

    /// One written-out step; padding that changes nothing is left out.
    fn step(
        &self,
        b: &mut KernelBuilder,
        site: &Site,
        step: &Resolved,
        (at, lanes): (&[Val], (Option<usize>, u16)),
        acc: Val,
    ) -> Val {
        // What a leaf is in padding only: its constant.
        let padding = |leaf: u32| match &step.leaves[leaf as usize] {
            Leaf::Guarded { guards, els, .. }
                if guards.iter().any(|g| site.decided.get(g) == Some(&false)) =>
            {
                match step.leaves[*els as usize] {
                    Leaf::Const(lit) => Some(lit),
                    _ => None,
                }
            }
            _ => None,
        };
        let root = self.resolved.root;
        let product = match &step.leaves[root as usize] {
            Leaf::Fn(ScalarFn::Mul, args) if self.combine == Combine::Sum => &args[..],
            _ => &[],
        };
        let neutral = |lit: Lit| lit == neutral(self.combine, lit.dtype);
        if padding(root).is_some_and(neutral)
            || product.iter().any(|arg| padding(*arg).is_some_and(neutral))
        {
            return acc;
        }
        let step = Reduction { resolved: step, steps: &[], ..*self };
        step.body(b, site, at, lanes, acc)
    }

    fn loops(
        &self,
        b: &mut KernelBuilder,
        extents: &[i64],
        at: &mut Vec<Val>,
        acc: Val,
        body: &mut dyn FnMut(&mut KernelBuilder, &[Val], Val) -> Val,
    ) -> Val {
        let [n, rest @ ..] = extents else { return body(b, at, acc) };
        let (lo, hi) = (b.index(0), b.index(*n));
        b.for_loop((lo, hi, 1), &[acc], |b, i, carried| {
            at.push(i);
            let v = self.loops(b, rest, at, carried[0], body);
            at.pop();
            vec![v]
        })[0]
    }

    fn partials(&self, b: &mut KernelBuilder, site: &Site) -> Val {
        let (&n, outer) = self.stage.reduce.split_last().expect("something is reduced");
        let axis = self.rank + outer.len();
        let count = (1..).map(|k| 1i64 << k).take_while(|p| *p <= n.min(PARTIALS)).last();
        let count = count.unwrap_or(1) as u16;
        let init = self.identity(b, count);
        let acc = self.loops(b, outer, &mut vec![], init, &mut |b, at, acc| {
            let full = n / count as i64 * count as i64;
            let (lo, hi) = (b.index(0), b.index(full));
            let mut acc = b.for_loop((lo, hi, count as i64), &[acc], |b, i, carried| {
                let at = [at, &[i]].concat();
                vec![self.body(b, site, &at, (Some(axis), count), carried[0])]
            })[0];
            for (first, lanes) in sweep::tail(full, n, count) {
                let at = [at, &[b.index(first)]].concat();
                acc = self.tail(b, acc, (first - full) as u16, lanes, &mut |b, part| {
                    self.body(b, site, &at, (Some(axis), lanes), part)
                });
            }
            acc
        });
        self.fold(b, acc)
    }

    /// The same where the elements of a short row are the first lanes of one vector.
    pub fn in_vector(&self, b: &mut KernelBuilder, row: Val, n: u16) -> Val {
        let part = |b: &mut KernelBuilder, from: u16, lanes: u16| {
            let ty = b.ty(row).with_lanes(lanes);
            match lanes {
                1 => b.lane(LaneOp::Extract(from), ty, &[row]),
                n if n == b.ty(row).lanes() => row,
                _ => b.lane(LaneOp::Slice(from), ty, &[row]),
            }
        };
        let count = 1 << n.ilog2();
        let (init, first) = (self.identity(b, count), part(b, 0, count));
        let mut acc = self.join(b, init, first);
        for (from, lanes) in sweep::tail(count as i64, n as i64, count) {
            acc = self.tail(b, acc, from as u16 - count, lanes, &mut |b, sum| {
                let v = part(b, from as u16, lanes);
                self.join(b, sum, v)
            });
        }
        self.fold(b, acc)
    }

    /// Whether the reduction is a chain of multiply-adds.
    pub fn sums_products(&self) -> bool {
        let root = &self.resolved.leaves[self.resolved.root as usize];
        self.combine == Combine::Sum && matches!(root, Leaf::Fn(ScalarFn::Mul, _))
    }

    /// Updates lanes `from .. from + lanes` of the partial results.
    fn tail(
        &self,
        b: &mut KernelBuilder,
        acc: Val,
        from: u16,
        lanes: u16,
        body: &mut dyn FnMut(&mut KernelBuilder, Val) -> Val,
    ) -> Val {
        let ty = b.ty(acc);
        let all = ty.lanes();
        let piece = |b: &mut KernelBuilder, from: u16, n: u16| match n {
            1 => b.lane(LaneOp::Extract(from), ty.with_lanes(1), &[acc]),
            n => b.lane(LaneOp::Slice(from), ty.with_lanes(n), &[acc]),
        };
        let part = piece(b, from, lanes);
        let updated = body(b, part);
        let mut parts = vec![];
        // What lies before and after, in powers of two.
        let mut at = 0;
        while at < all {
            if at == from {
                parts.push(updated);
                at += lanes;
                continue;
            }
            let end = if at < from { from } else { all };
            let mut width = 1u16;
            while width * 2 <= end - at && at % (width * 2) == 0 {
                width *= 2;
            }
            parts.push(piece(b, at, width));
            at += width;
        }
        b.lane(LaneOp::Concat, ty, &parts)
    }

    /// A halving tree: lane i with lane i + n/2.
    fn fold(&self, b: &mut KernelBuilder, acc: Val) -> Val {
        let mut v = acc;
        while b.ty(v).lanes() > 1 {
            let half = b.ty(v).lanes() / 2;
            let ty = b.ty(v).with_lanes(half);
            let part = |b: &mut KernelBuilder, from: u16| match half {
                1 => b.lane(LaneOp::Extract(from), ty, &[v]),
                _ => b.lane(LaneOp::Slice(from), ty, &[v]),
            };
            let (low, high) = (part(b, 0), part(b, half));
            v = self.join(b, low, high);
        }
        v
    }

    /// What an index is that of: the greatest element, or the least.
    fn extreme(&self) -> Option<Combine> {
        match self.combine {
            Combine::ArgMax => Some(Combine::Max),
            Combine::ArgMin => Some(Combine::Min),
            Combine::Sum
            | Combine::Prod
            | Combine::Max
            | Combine::Min
            | Combine::Any
            | Combine::All => None,
        }
    }

    /// The index of the first extreme element; the first NaN wins.
    fn arg(&self, b: &mut KernelBuilder, site: &Site) -> Val {
        let best = self.first_best(b, site);
        let mut step = |b: &mut KernelBuilder, at: &[Val], carried: &[Val]| {
            let mut position = b.index(0);
            for (i, n) in at.iter().zip(&self.stage.reduce) {
                let scaled = b.times(position, *n);
                position = b.add(scaled, *i);
            }
            self.better(b, site, at, position, carried)
        };
        carry(b, &self.stage.reduce, &mut vec![], &best, &mut step)[1]
    }

    /// An element that every other one beats, and index 0.
    fn first_best(&self, b: &mut KernelBuilder, site: &Site) -> [Val; 2] {
        let value = self.compared(site);
        let of = self.extreme().unwrap_or(Combine::Max);
        let best = b.constant(Ty::of(value, 1), neutral(of, value));
        [best, b.constant(Ty::of(DType::I64, 1), Lit::int(DType::I64, 0))]
    }

    /// The dtype in which elements are compared; masks are numbers for that.
    fn compared(&self, site: &Site) -> DType {
        let (none, coords) = (BTreeMap::new(), site.coords.clone());
        let Site { slots, homes, .. } = *site;
        let probe = Emitter::new(self.nest, self.resolved, slots, homes, &none, coords, (None, 1));
        match probe.dtype(self.resolved.root).compute() {
            DType::Bool => DType::U8,
            dtype => dtype,
        }
    }

    /// The better one of the element at these reduced coordinates and the one that is carried, and its
    /// index.
    fn better(
        &self,
        b: &mut KernelBuilder,
        site: &Site,
        at: &[Val],
        position: Val,
        carried: &[Val],
    ) -> Vec<Val> {
        let coords = [&site.coords[..], at].concat();
        let Site { slots, homes, decided, .. } = *site;
        let mut e =
            Emitter::new(self.nest, self.resolved, slots, homes, decided, coords, (None, 1));
        let mut v = e.value(b, self.resolved.root);
        if b.ty(v).dtype() == DType::Bool {
            v = b.convert(v, DType::U8);
        }
        let compare = if self.combine == Combine::ArgMin { Op::Lt } else { Op::Gt };
        let mut wins = b.op(compare, &[v, carried[0]]);
        if b.ty(v).dtype().is_float() {
            let (new, old) = (b.op(Op::Ne, &[v, v]), b.op(Op::Eq, &[carried[0], carried[0]]));
            let first = b.op(Op::And, &[new, old]);
            wins = b.op(Op::Or, &[wins, first]);
        }
        let position = b.convert(position, DType::I64);
        vec![
            b.op(Op::Select, &[wins, v, carried[0]]),
            b.op(Op::Select, &[wins, position, carried[1]]),
        ]
    }
}

/// The least index of those whose element is the best of all.
fn first_of_all(b: &mut KernelBuilder, of: Combine, best: Val, index: Val) -> Val {
    let top = b.group_fold(of, best);
    let mut mine = b.op(Op::Eq, &[best, top]);
    if b.ty(best).dtype().is_float() {
        let (own, all) = (b.op(Op::Ne, &[best, best]), b.op(Op::Ne, &[top, top]));
        let both = b.op(Op::And, &[own, all]);
        mine = b.op(Op::Or, &[mine, both]);
    }
    let none = b.constant(b.ty(index), Lit::int(DType::I64, i64::MAX));
    let index = b.op(Op::Select, &[mine, index, none]);
    b.group_fold(Combine::Min, index)
}

/// The sum of two small natural numbers, which is exact in every float: how many steps of a window
/// lie inside.
fn small_sum(x: Lit, y: Lit) -> Option<Lit> {
    let natural = |l: Lit| {
        let v = l.as_f64();
        l.dtype.is_float() && (0.0..=128.0).contains(&v) && v.fract() == 0.0 && v.is_sign_positive()
    };
    (natural(x) && natural(y)).then(|| Lit::new(x.dtype, x.as_f64() + y.as_f64()))
}

/// Where a reduction is emitted.
struct Site<'a> {
    slots: &'a [Buf],
    homes: &'a BTreeMap<u16, Home>,
    decided: &'a BTreeMap<Guard, bool>,
    coords: Vec<Val>,
}

/// One step of a reduction with several carried values: at these coordinates, from these values.
type CarryStep<'a> = dyn FnMut(&mut KernelBuilder, &[Val], &[Val]) -> Vec<Val> + 'a;

fn carry(
    b: &mut KernelBuilder,
    extents: &[i64],
    at: &mut Vec<Val>,
    init: &[Val],
    step: &mut CarryStep,
) -> Vec<Val> {
    let [n, rest @ ..] = extents else { return step(b, at, init) };
    let (lo, hi) = (b.index(0), b.index(*n));
    b.for_loop((lo, hi, 1), init, |b, i, carried| {
        at.push(i);
        let out = carry(b, rest, at, carried, step);
        at.pop();
        out
    })
}

/// The value that changes nothing.
pub fn neutral(combine: Combine, dtype: DType) -> Lit {
    let bits = 8 * dtype.bytes() as u32;
    match combine {
        Combine::Sum | Combine::Any | Combine::ArgMax | Combine::ArgMin => Lit::int(dtype, 0),
        Combine::Prod | Combine::All => Lit::int(dtype, 1),
        Combine::Max if dtype.is_float() => Lit::new(dtype, f64::NEG_INFINITY),
        Combine::Min if dtype.is_float() => Lit::new(dtype, f64::INFINITY),
        Combine::Max if dtype.is_signed_int() => Lit::int(dtype, i64::MIN >> (64 - bits)),
        Combine::Min if dtype.is_signed_int() => Lit::int(dtype, i64::MAX >> (64 - bits)),
        Combine::Max => Lit::int(dtype, 0),
        Combine::Min => Lit { dtype, bits: u64::MAX >> (64 - bits) },
    }
}
