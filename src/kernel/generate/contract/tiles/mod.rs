//! The kernel of a contraction: grid points, loops over the sum, one tile in registers.
//!
//! Expressions are emitted over *tile axes*: the loop axes of the result, where the coordinate of
//! the columns counts tiles and that of the rows is the tile's first row; then the lane; then the
//! reduced axes. Rows, pieces and written-out steps are constants in the expressions, so that they end
//! up in the displacement of an address and all of a tile shares its bases.

mod end;
mod step;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use super::super::loops::{declare, grid_point};
use super::super::sweep;
use super::plan::{Clip, Plan};
use super::tiling::{Band, Kind, Status, Tiling};
use crate::base::FastMap;
use crate::base::machine::Machine;
use crate::ir::index::{Expr, Guard};
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::{Emitter, Home};
use crate::kernel::ir::{Buf, Kernel, Lit, Op, Ty, Val};
use crate::kernel::resolve::Resolved;

/// Long functions of so many vectors may be written out, one after the other.
const WRITTEN_OUT: i64 = 16;
/// Panels, and rows of a tile, from which fetching ahead pays.
const FEW: i64 = 4;
/// The part of the second cache from which on a panel is long, and the most tiles along the rows that
/// share a long one that is still fetched ahead: many of them make up for what the first one waits,
/// and need the room in the cache themselves.
const LONG: (u64, i64) = (8, 64);

/// A kernel whose grid points are the tiles.
pub fn build(plan: &Plan, tiling: &Tiling, machine: &Machine) -> Kernel {
    let mut b = KernelBuilder::new(&plan.nest.name, machine.numerics());
    let slots = declare(plan.nest, &mut b);
    let (none, nowhere) = (BTreeMap::new(), BTreeMap::new());
    let (factors, ends) = Default::default();
    let (slots, parked) = (&slots, park(&mut b, plan, tiling));
    let next = plan.panel().filter(|p| p.width == tiling.width && tiling.across >= FEW);
    let next = next.map(|p| p.stride);
    let tiles =
        Tiles { plan, tiling, slots, none: &none, nowhere: &nowhere, factors, ends, parked, next };
    let (order, extents) = tiles.order();
    let at = grid_point(&mut b, &extents);
    let coords = tiles.coords(&mut b, &[], &order, &at);
    tiles.bands(&mut b, coords, 0);
    b.finish()
}

/// Loops over the tiles, at a point of the plan's fixed axes.
pub fn within(
    b: &mut KernelBuilder,
    plan: &Plan,
    tiling: &Tiling,
    slots: &[Buf],
    (point, next): (&[Val], Option<i64>),
) {
    let (none, nowhere) = (BTreeMap::new(), BTreeMap::new());
    let (factors, ends) = Default::default();
    let parked = park(b, plan, tiling);
    let tiles =
        Tiles { plan, tiling, slots, none: &none, nowhere: &nowhere, factors, ends, parked, next };
    let (order, extents) = tiles.order();
    sweep::nested(b, &extents, &mut vec![], &mut |b, at| {
        let coords = tiles.coords(b, point, &order, at);
        tiles.bands(b, coords, 0);
    });
}

/// Scratch for the sums of a tile, where much is made of each: done in a loop over rows instead of
/// once for each sum, that stays in the cache of instructions. (In small maps rows are constants.)
fn park(b: &mut KernelBuilder, plan: &Plan, tiling: &Tiling) -> Option<Buf> {
    let rows = tiling.bands.iter().map(|band| band.rows).max().unwrap_or(1);
    let sums = rows * tiling.width;
    let many = rows > 1 && sums > WRITTEN_OUT * tiling.lanes as i64;
    (many && !plan.small && plan.is_heavy()).then(|| b.scratch(plan.dtype(), sums as u64))
}

struct Tiles<'a> {
    plan: &'a Plan<'a>,
    tiling: &'a Tiling,
    slots: &'a [Buf],
    /// No guard is left to the emitter.
    none: &'a BTreeMap<Guard, bool>,
    /// No stage is read before the sums are done.
    nowhere: &'a BTreeMap<u16, Home>,
    /// The reduction's body at (row, first column, number of the step) of a tile; tiles share them.
    factors: RefCell<FastMap<(i64, i64, usize), Rc<Resolved>>>,
    /// What is made of the sums at (row, first column).
    ends: RefCell<FastMap<(i64, i64), Rc<End>>>,
    /// Where a tile's sums wait for what is made of them.
    parked: Option<Buf>,
    /// Elements from a panel of the wide operand to the one that is read next.
    next: Option<i64>,
}

/// All stages, and where they are stored.
struct End {
    stages: Vec<Resolved>,
    outs: Vec<Expr>,
}

/// One tile: its kind of rows, its kind of columns, and its tile coordinates.
struct Tile<'k> {
    band: &'k Band,
    kind: &'k Kind,
    coords: Vec<Val>,
    ahead: Option<Ahead>,
}

/// What a tile fetches of the next panel of weights, so that its first tile need not wait for them.
#[derive(Clone, Copy)]
struct Ahead {
    /// Elements from the first one of this panel to the tile's part of the next one.
    skip: Val,
    /// Vectors a step, one behind the other: the tiles that read a panel share the next one.
    vectors: i64,
}

/// One step of the sum.
struct Step<'s> {
    number: usize,
    /// The reduced coordinates, over tile axes.
    reduced: &'s [Expr],
    /// Those that are written out.
    fixed: &'s [i64],
    /// Of each piece of the columns.
    status: &'s [Status],
    /// Of each row.
    inside: &'s [bool],
}

impl Tiles<'_> {
    /// The lane's place among the tile axes.
    fn lane(&self) -> usize {
        self.plan.rank
    }

    /// The axes of the result in the order of the loops over tiles, and how many tiles along each.
    fn order(&self) -> (Vec<usize>, Vec<i64>) {
        let plan = self.plan;
        let columns = plan.columns;
        let extent = |a: usize| match a {
            a if a == columns => self.tiling.across,
            a if Some(a) == plan.rows => self.tiling.down,
            a => plan.extents[a],
        };
        let pick = |wide: bool, narrow: bool| {
            let of = move |o: &&(usize, bool, bool)| (o.1, o.2) == (wide, narrow);
            plan.others.iter().filter(of).map(|o| o.0).collect::<Vec<_>>()
        };
        let of_wide = [pick(true, false), vec![columns]].concat();
        let of_narrow = [pick(false, true), plan.rows.into_iter().collect()].concat();
        let both = [pick(true, true), pick(false, false)].concat();
        let order = match self.outer_wide() {
            true => [both, of_wide, of_narrow].concat(),
            false => [both, of_narrow, of_wide].concat(),
        };
        let extents = order.iter().map(|a| extent(*a)).collect();
        (order, extents)
    }

    /// Whether the wide operand is walked through in the outer loops. What is there is read once:
    /// the operand that does not stay in the cache.
    fn outer_wide(&self) -> bool {
        let half = self.tiling.cache / 2;
        self.plan.sizes.1 <= half || self.plan.sizes.0 > half
    }

    /// Tile coordinates; that of the rows is still the number of the tile.
    fn coords(
        &self,
        b: &mut KernelBuilder,
        point: &[Val],
        order: &[usize],
        at: &[Val],
    ) -> Vec<Val> {
        let mut coords = vec![b.index(0); self.plan.extents.len() + 1];
        coords[..point.len()].copy_from_slice(point);
        for (axis, v) in order.iter().zip(at) {
            coords[*axis] = *v;
        }
        coords
    }

    /// The tile's kind, by its place along the rows.
    fn bands(&self, b: &mut KernelBuilder, coords: Vec<Val>, at: usize) {
        let band = &self.tiling.bands[at];
        let Some(axis) = self.plan.rows else { return self.kinds(b, band, coords, 0) };
        let fixed = |b: &mut KernelBuilder| {
            let mut coords = coords.clone();
            coords[axis] = match band.to == band.from + 1 {
                true if self.plan.small => b.index(0),
                true => b.index(band.first),
                false => {
                    let first = b.times(coords[axis], band.rows);
                    b.offset(first, band.first - band.from * band.rows)
                }
            };
            self.kinds(b, band, coords, 0);
        };
        if at + 1 == self.tiling.bands.len() {
            return fixed(b);
        }
        let bound = b.index(band.to);
        let this = b.op(Op::Lt, &[coords[axis], bound]);
        b.if_else(
            this,
            |b| {
                fixed(b);
                vec![]
            },
            |b| {
                self.bands(b, coords.clone(), at + 1);
                vec![]
            },
        );
    }

    /// The tile's kind, by its place along the columns.
    fn kinds(&self, b: &mut KernelBuilder, band: &Band, coords: Vec<Val>, at: usize) {
        let kind = &self.tiling.kinds[at];
        let columns = self.plan.columns;
        let fixed = |b: &mut KernelBuilder| {
            let mut coords = coords.clone();
            if kind.to == kind.from + 1 {
                coords[columns] = b.index(kind.from);
            }
            let ahead = self.ahead(b, band, kind, &coords);
            self.tile(b, &Tile { band, kind, coords, ahead });
        };
        if at + 1 == self.tiling.kinds.len() {
            return fixed(b);
        }
        let bound = b.index(kind.to);
        let this = b.op(Op::Lt, &[coords[columns], bound]);
        b.if_else(
            this,
            |b| {
                fixed(b);
                vec![]
            },
            |b| {
                self.kinds(b, band, coords.clone(), at + 1);
                vec![]
            },
        );
    }

    /// What a tile is to fetch of the next panel, where there are panels, and tiles tall enough that
    /// a few loads more go unnoticed.
    fn ahead(
        &self,
        b: &mut KernelBuilder,
        band: &Band,
        kind: &Kind,
        coords: &[Val],
    ) -> Option<Ahead> {
        let (plan, &Tiling { width, down, lanes, .. }) = (self.plan, self.tiling);
        let next = self.next?;
        let rows = plan.rows?;
        if !self.outer_wide() || band.rows < FEW || kind.pieces.len() < 2 {
            return None;
        }
        // All tiles that read the panel, by their number: the innermost axis counts rows.
        let (mut number, mut count) = (b.index(0), 1);
        for (axis, ..) in plan.others.iter().filter(|(_, wide, narrow)| !wide && *narrow) {
            number = b.times(number, plan.extents[*axis]);
            number = b.add(number, coords[*axis]);
            count *= plan.extents[*axis];
        }
        let height = b.index(band.rows);
        let tile = match plan.small {
            true => b.index(band.from),
            false => b.op(Op::Div, &[coords[rows], height]),
        };
        number = b.times(number, down);
        number = b.add(number, tile);
        let long = next.unsigned_abs().saturating_mul(LONG.0) > self.tiling.cache;
        if long && count * down > LONG.1 {
            return None;
        }
        let (all, tiles) = (width / lanes as i64, (count * down) as u64);
        let steps = plan.reduced().iter().product::<i64>();
        let part = ((steps * all) as u64).div_ceil(tiles) as i64;
        let first = b.times(number, part * lanes as i64);
        let vectors = (all as u64).div_ceil(tiles) as i64;
        Some(Ahead { skip: b.offset(first, next), vectors })
    }

    /// The rows of a tile: counted from its first one, or in a small map from that of the map.
    fn rows(&self, band: &Band) -> Range<i64> {
        let first = if self.plan.small { band.first } else { 0 };
        first..first + band.rows
    }

    fn tile(&self, b: &mut KernelBuilder, tile: &Tile) {
        let zero = |b: &mut KernelBuilder, lanes: u16| {
            let dtype = self.plan.dtype();
            b.constant(Ty::of(dtype, lanes), Lit::int(dtype, 0))
        };
        let mut sums = vec![];
        for _ in 0..tile.band.rows {
            for piece in &tile.kind.pieces {
                sums.push(zero(b, piece.lanes));
            }
        }
        let sums = self.sum(b, tile, 0, tile.coords.clone(), sums);
        if let (Some(parked), Some(rows)) = (self.parked, self.plan.rows) {
            return self.finish_parked(b, tile, (parked, rows), &sums);
        }
        let mut sums = sums.into_iter();
        for row in self.rows(tile.band) {
            for piece in &tile.kind.pieces {
                let sum = sums.next().expect("one for each row and piece");
                self.finish(b, &tile.coords, (row, piece), sum);
            }
        }
    }

    /// The loops over reduced axes from `axis` on.
    fn sum(
        &self,
        b: &mut KernelBuilder,
        tile: &Tile,
        axis: usize,
        coords: Vec<Val>,
        sums: Vec<Val>,
    ) -> Vec<Val> {
        let plan = self.plan;
        if axis == plan.statics {
            return self.steps(b, tile, &coords, sums);
        }
        let n = plan.reduced()[axis];
        let place = self.lane() + 1 + axis;
        let at = |i: Val| {
            let mut coords = coords.clone();
            coords[place] = i;
            coords
        };
        let (lo, hi) = match plan.clips.iter().any(|c| c.axis == axis) {
            true => self.clip(b, axis, &coords),
            false => (b.index(0), b.index(n)),
        };
        b.for_loop((lo, hi, 1), &sums, |b, i, carried| {
            self.sum(b, tile, axis + 1, at(i), carried.to_vec())
        })
    }

    /// The bounds of a loop whose guards exclude steps at its ends.
    fn clip(&self, b: &mut KernelBuilder, axis: usize, coords: &[Val]) -> (Val, Val) {
        let n = self.plan.reduced()[axis];
        let (mut lo, mut hi) = (b.index(0), b.index(n));
        for Clip { scale, rest, lo: least, hi: end, .. } in
            self.plan.clips.iter().filter(|c| c.axis == axis)
        {
            let by = self.point(0, 0, &[]);
            let rest = rest.substitute(&by, &self.extents());
            let empty = Resolved::default();
            let rest = self.emitter(&empty, coords, 1).index(b, &rest, 0);
            let minus = b.times(rest, -1);
            let scale = b.index(*scale);
            // scale · r ≥ least - rest, rounded up; scale · r ≤ end - 1 - rest, rounded down.
            let above = b.offset(minus, least - 1);
            let above = b.op(Op::Div, &[above, scale]);
            let above = b.offset(above, 1);
            lo = b.op(Op::Max, &[lo, above]);
            let below = b.offset(minus, end - 1);
            let below = b.op(Op::Div, &[below, scale]);
            let below = b.offset(below, 1);
            hi = b.op(Op::Min, &[hi, below]);
        }
        (lo, hi)
    }

    /// All written-out steps. For Cranelift each of several has a loop of one round around it: it
    /// orders pure instructions by chains, and between steps without a border it would finish one
    /// sum after the other, with all operands of all steps alive at once.
    fn steps(
        &self,
        b: &mut KernelBuilder,
        tile: &Tile,
        coords: &[Val],
        mut sums: Vec<Val>,
    ) -> Vec<Val> {
        let plan = self.plan;
        let steps = plan.static_steps();
        let single = steps.len() == 1;
        let status = tile.kind.status.iter().zip(&tile.band.inside);
        for (number, (step, (status, inside))) in steps.iter().zip(status).enumerate() {
            let looped = (0..plan.statics).map(|q| Expr::axis(self.lane() + 1 + q));
            let reduced: Vec<Expr> =
                looped.chain(step.iter().map(|c| Expr::constant(*c))).collect();
            let at = Step { number, reduced: &reduced, fixed: step, status, inside };
            if single || !self.tiling.borders {
                self.step(b, tile, coords, &at, &mut sums);
                continue;
            }
            let (lo, hi) = (b.index(0), b.index(1));
            sums = b.for_loop((lo, hi, 1), &sums, |b, _, carried| {
                let mut sums = carried.to_vec();
                self.step(b, tile, coords, &at, &mut sums);
                sums
            });
        }
        sums
    }

    /// The value of an operand's leaf at a row and a first column of the tile.
    fn value(
        &self,
        b: &mut KernelBuilder,
        leaf: u32,
        (row, first): (i64, i64),
        step: &Step,
        coords: &[Val],
        lanes: u16,
    ) -> Val {
        self.run(b, leaf, (row, first), step, coords, (lanes, 0..lanes))
    }

    /// The same where only some lanes are read, the first of which is at that place.
    fn run(
        &self,
        b: &mut KernelBuilder,
        leaf: u32,
        (row, first): (i64, i64),
        step: &Step,
        coords: &[Val],
        (lanes, read): (u16, Range<u16>),
    ) -> Val {
        let make = || {
            let (by, extents) = (self.point(row, first, step.reduced), self.extents());
            Rc::new(self.plan.stages[0].1.map(|e| e.substitute(&by, &extents)))
        };
        let place = (row, first, step.number);
        let body = self.factors.borrow_mut().entry(place).or_insert_with(make).clone();
        let mut emitter = self.emitter(&body, coords, lanes);
        (emitter.shift, emitter.valid) = (read.start, read.len() as u16);
        emitter.value(b, leaf)
    }

    fn emitter<'e>(&'e self, body: &'e Resolved, coords: &[Val], lanes: u16) -> Emitter<'e> {
        let vector = (Some(self.lane()), lanes);
        let coords = coords.to_vec();
        Emitter::new(self.plan.nest, body, self.slots, self.nowhere, self.none, coords, vector)
    }

    /// Each loop axis over the tile axes: `row` and `first` are counted from the tile's corner.
    fn point(&self, row: i64, first: i64, reduced: &[Expr]) -> Vec<Expr> {
        let plan = self.plan;
        let result = (0..plan.rank).map(|a| match a {
            a if a == plan.columns => {
                Expr::axis(a).scale(self.tiling.width).add(&Expr::axis(self.lane())).plus(first)
            }
            a if Some(a) == plan.rows && plan.small => Expr::constant(row),
            a if Some(a) == plan.rows => Expr::axis(a).plus(row),
            a => Expr::axis(a),
        });
        let filled = (reduced.len()..plan.reduced().len()).map(|q| Expr::axis(self.lane() + 1 + q));
        result.chain(reduced.iter().cloned()).chain(filled).collect()
    }

    /// Of the tile axes.
    fn extents(&self) -> Vec<i64> {
        let plan = self.plan;
        let mut extents = plan.extents.clone();
        extents[plan.columns] = self.tiling.across;
        extents.insert(plan.rank, self.tiling.lanes as i64);
        extents
    }
}
