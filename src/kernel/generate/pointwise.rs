//! Pointwise nests: every result has the same axes and nothing is reduced.
//!
//! Axes that every access walks through in step become one; the last axis lies in lanes; the grid
//! covers the outer axes, or chunks of the last one where it is all there is, or every element.

use std::collections::BTreeMap;

use super::loops::{grid_point, lanes, store};
use super::sweep::{self, Pieces, Segment};
use crate::base::DType;
use crate::base::machine::Machine;
use crate::ir::index::{Expr, Guard, Term};
use crate::ir::scalar::ScalarFn;
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::Emitter;
use crate::kernel::ir::{Buf, Op, Val};
use crate::kernel::nest::{Keep, Nest, Out};
use crate::kernel::resolve::{Leaf, Resolved, resolve};

/// Elements of one grid point where a single axis is cut.
const CHUNK: i64 = 4096;
/// Elements that one access moves where invocations run side by side.
const FOUR: i64 = 4;
/// Elements from which a quarter as many grid points still keep such a machine busy.
const MANY: i64 = 1 << 18;

pub fn build(nest: &Nest, machine: &Machine, b: &mut KernelBuilder, slots: &[Buf]) {
    let mut inline = nest.clone();
    inline.stages.iter_mut().for_each(|s| s.keep = Keep::Inline);
    let mut all = Results::of(&inline);
    all.merge_axes();
    let (body, outs, rank) = (&all.body, &all.outs[..], all.extents.len());
    Pointwise { nest: &inline, slots, body, outs, rank }.emit(b, machine, &all.extents);
}

/// All results in one body, with their positions and offsets over the loop axes.
struct Results {
    body: Resolved,
    outs: Vec<(u32, Expr)>,
    extents: Vec<i64>,
}

impl Results {
    fn of(nest: &Nest) -> Results {
        let extents = nest.stages[nest.outs[0].stage as usize].axes.clone();
        let point: Vec<Expr> = (0..extents.len()).map(Expr::axis).collect();
        let mut body = Resolved::default();
        let result = |out: &Out| {
            let value = resolve(nest, out.stage, &point, &extents, &mut body);
            (value, out.at.clone())
        };
        let outs = nest.outs.iter().map(result).collect();
        Results { body, outs, extents }
    }

    /// Merges neighbours as long as no access tells them apart. Offsets are rewritten as they are: those
    /// that are equal before, as of a result in the place of an operand, stay so.
    fn merge_axes(&mut self) {
        let mut i = 0;
        while i + 1 < self.extents.len() {
            if !self.in_step(i) {
                i += 1;
                continue;
            }
            let (rank, inner) = (self.extents.len(), self.extents[i + 1]);
            self.extents[i] *= inner;
            self.extents.remove(i + 1);
            let extents = &self.extents;
            let by: Vec<Expr> = (0..rank)
                .map(|k| match k {
                    k if k < i => Expr::axis(k),
                    k if k == i => Expr::axis(i).floor_div(inner.max(1), extents),
                    k if k == i + 1 => Expr::axis(i).modulo(inner.max(1), extents),
                    k => Expr::axis(k - 1),
                })
                .collect();
            self.body = self.body.map(|e| e.substitute(&by, extents));
            self.outs.iter_mut().for_each(|(_, at)| *at = at.substitute(&by, extents));
        }
    }

    /// Whether every access walks through an axis and the next one as if they were one.
    fn in_step(&self, i: usize) -> bool {
        let (outer, inner) = (self.extents[i], self.extents[i + 1]);
        let in_step = |e: &Expr| match (e.stride(i), e.stride(i + 1)) {
            (Some(a), Some(b)) => outer == 1 || inner == 1 || a == b * inner,
            _ => !e.mentions(i) && !e.mentions(i + 1),
        };
        self.outs.iter().all(|(_, at)| in_step(at))
            && self.body.leaves.iter().all(|l| match l {
                Leaf::Slot { at, .. } => in_step(at),
                Leaf::Stage { at, .. } => at.iter().all(in_step),
                Leaf::Axis(e) => in_step(e),
                Leaf::Guarded { guards, .. } => guards.iter().all(|g| in_step(&g.expr)),
                Leaf::Const(_) | Leaf::Fn(..) => true,
            })
    }
}

struct Pointwise<'a> {
    nest: &'a Nest,
    slots: &'a [Buf],
    body: &'a Resolved,
    outs: &'a [(u32, Expr)],
    rank: usize,
}

impl Pointwise<'_> {
    fn emit(&self, b: &mut KernelBuilder, machine: &Machine, extents: &[i64]) {
        if extents.is_empty() {
            self.point(b, vec![], (None, 1), &BTreeMap::new());
            return;
        }
        if machine.in_step() {
            return self.in_step(b, extents);
        }
        let last = self.rank - 1;
        let extent = extents[last];
        let cuts = sweep::segments([self.body], last, extent, sweep::IN_LANES);
        let wide = if cuts.is_some() { lanes(self.nest, self.body, last, machine) } else { 1 };
        let cuts = cuts.unwrap_or_else(|| Segment::whole(extent));
        if self.rank == 1 && cuts.len() == 1 && extent > CHUNK {
            return self.chunks(b, extent, wide, &cuts[0].decided);
        }
        // Outer axes go to the grid until a grid point is small.
        let work = |g: usize| extents[g..].iter().product::<i64>();
        let g = (0..last).find(|&g| work(g) <= CHUNK).unwrap_or(last);
        let coords = grid_point(b, &extents[..g]);
        Pieces::of(&[self.body], &extents[..last]).walk(b, &coords, &mut |b, coords, around| {
            for cut in &cuts {
                let decided = [around, &cut.decided].into_iter().flatten();
                let decided = decided.map(|(g, truth)| (g.clone(), *truth)).collect();
                sweep::vectors(b, (cut.lo, cut.hi), wide, &mut |b, i, lanes| {
                    self.point(b, [coords, &[i]].concat(), (Some(last), lanes), &decided);
                });
            }
        });
    }

    /// A grid point for each element, or for four that follow each other where there are many.
    fn in_step(&self, b: &mut KernelBuilder, extents: &[i64]) {
        let last = self.rank - 1;
        let fours = extents[last] % FOUR == 0
            && extents.iter().product::<i64>() >= MANY
            && self.steps_in_fours(last);
        let mut outer = extents.to_vec();
        if fours {
            outer[last] /= FOUR;
        }
        let mut coords = grid_point(b, &outer);
        let lanes = match fours {
            true => {
                coords[last] = b.times(coords[last], FOUR);
                (Some(last), FOUR as u16)
            }
            false => (None, 1),
        };
        self.point(b, coords, lanes, &BTreeMap::new());
    }

    /// Whether four points along an axis, from a multiple of four on, read and write elements of 32 bits or
    /// less that follow each other, also from a multiple of four on, or read the same one.
    fn steps_in_fours(&self, axis: usize) -> bool {
        let along = |e: &Expr| {
            let own = |term: &Term| *term == Term::Axis(axis as u16);
            let even = e.terms.iter().all(|(term, c)| own(term) || c % FOUR == 0);
            e.stride(axis) == Some(1) && even && e.constant % FOUR == 0
        };
        let narrow = |dtype: DType| dtype.bytes() <= 4;
        let slots = self
            .nest
            .slots
            .iter()
            .all(|s| matches!(s.dtype, DType::F32 | DType::I32 | DType::U32 | DType::F16));
        slots
            && self.outs.iter().all(|(_, at)| along(at))
            && self.body.leaves.iter().all(|leaf| match leaf {
                Leaf::Slot { at, .. } => at.stride(axis) == Some(0) || along(at),
                Leaf::Guarded { guards, .. } => guards.iter().all(|g| !g.expr.mentions(axis)),
                Leaf::Fn(ScalarFn::Cast(to), _) => narrow(*to),
                Leaf::Const(lit) => narrow(lit.dtype),
                Leaf::Fn(..) => true,
                Leaf::Axis(_) | Leaf::Stage { .. } => false,
            })
    }

    /// One axis, cut into chunks of `CHUNK`; the last chunk ends with the tail.
    fn chunks(&self, b: &mut KernelBuilder, n: i64, lanes: u16, decided: &BTreeMap<Guard, bool>) {
        let full = n / lanes as i64 * lanes as i64;
        b.set_grid([(n as u64).div_ceil(CHUNK as u64).min(u32::MAX as u64) as u32, 1, 1]);
        let g = b.grid(0);
        let lo = b.times(g, CHUNK);
        let (end, top) = (b.offset(lo, CHUNK), b.index(full));
        let hi = b.op(Op::Min, &[end, top]);
        b.for_loop((lo, hi, lanes as i64), &[], |b, i, _| {
            self.point(b, vec![i], (Some(0), lanes), decided);
            vec![]
        });
        if full == n {
            return;
        }
        let total = b.index(n);
        let last = b.op(Op::Ge, &[end, total]);
        b.if_else(
            last,
            |b| {
                for (at, lanes) in sweep::tail(full, n, lanes) {
                    let first = b.index(at);
                    self.point(b, vec![first], (Some(0), lanes), decided);
                }
                vec![]
            },
            |_| vec![],
        );
    }

    /// Computes all results first, then stores them: a result may overwrite an operand.
    fn point(
        &self,
        b: &mut KernelBuilder,
        coords: Vec<Val>,
        lanes: (Option<usize>, u16),
        decided: &BTreeMap<Guard, bool>,
    ) {
        let homes = BTreeMap::new();
        let mut e = Emitter::new(self.nest, self.body, self.slots, &homes, decided, coords, lanes);
        let values: Vec<Val> = self.outs.iter().map(|(leaf, _)| e.value(b, *leaf)).collect();
        for ((out, (_, at)), v) in self.nest.outs.iter().zip(self.outs).zip(values) {
            let base = b.index(0);
            store(b, &mut e, self.slots[out.slot as usize], base, at, v);
        }
    }
}
