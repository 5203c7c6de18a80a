//! One step of a tile's sums: its vectors of the wide operand, and of the narrow one an element for
//! each row.

use std::collections::BTreeMap;

use super::super::tiling::{Piece, Status, holds};
use super::{Ahead, Step, Tile, Tiles};
use crate::ir::index::Term;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::{Addr, Lit, Op, Ty, Val};
use crate::kernel::resolve::{Leaf, Resolved};
use crate::kernel::scalar_fn::gather_lanes;

impl Tiles<'_> {
    /// Asks for vectors of the tile's part of the next panel. Steps walk through a panel by its width,
    /// through the part by so many vectors.
    fn fetch_ahead(&self, b: &mut KernelBuilder, tile: &Tile, coords: &[Val], step: &Step) {
        let wide = &self.plan.stages[0].1.leaves[self.plan.wide as usize];
        let (Some(Ahead { skip, vectors }), Leaf::Slot { slot, at }) = (tile.ahead, wide) else {
            return;
        };
        let mut at = at.substitute(&self.point(0, 0, step.reduced), &self.extents());
        let (from, to) = (self.tiling.width, vectors * self.tiling.lanes as i64);
        let of_steps = |(term, _): &&mut (Term, i64)| matches!(term, Term::Axis(a) if *a as usize > self.lane());
        for by in at.terms.iter_mut().filter(of_steps).map(|t| &mut t.1).chain([&mut at.constant]) {
            *by = *by / from * to;
        }
        let (empty, zero) = (Resolved::default(), b.index(0));
        let mut e = self.emitter(&empty, coords, 1);
        let addr = e.addr(b, self.slots[*slot as usize], zero, &at, 0);
        let base = b.add(addr.base, skip);
        for i in 0..vectors {
            b.prefetch(Addr { base, plus: addr.plus + i * self.tiling.lanes as i64, ..addr });
        }
    }

    /// One product added to each sum of the tile.
    pub(super) fn step(
        &self,
        b: &mut KernelBuilder,
        tile: &Tile,
        coords: &[Val],
        step: &Step,
        sums: &mut [Val],
    ) {
        self.fetch_ahead(b, tile, coords, step);
        let pieces = &tile.kind.pieces;
        let mut wides: Vec<Option<(Val, Option<Val>)>> = vec![];
        for (&piece, status) in pieces.iter().zip(step.status) {
            let Piece { first, lanes, .. } = piece;
            wides.push(match status {
                Status::Outside => None,
                Status::Inside => {
                    let read = 0..if self.tiling.filled { lanes } else { piece.valid };
                    let place = (0, first);
                    let v = self.run(b, self.plan.wide, place, step, coords, (lanes, read));
                    Some((v, None))
                }
                Status::Edge => {
                    let column = tile.kind.from * self.tiling.width + first;
                    Some(self.edge(b, (first, lanes), column, coords, step))
                }
            });
        }
        for (i, row) in self.rows(tile.band).enumerate() {
            if !step.inside[i] {
                continue;
            }
            let mut broadcast: BTreeMap<u16, Val> = BTreeMap::new();
            for (j, &Piece { first, lanes, valid }) in pieces.iter().enumerate() {
                let Some((wide, mask)) = wides[j] else { continue };
                let y = match broadcast.get(&lanes) {
                    Some(y) => *y,
                    None if self.plan.lanewise => {
                        let place = (row, first);
                        let some = (lanes, 0..valid);
                        self.run(b, self.plan.narrow, place, step, coords, some)
                    }
                    None => {
                        let y = self.value(b, self.plan.narrow, (row, 0), step, coords, lanes);
                        broadcast.insert(lanes, y);
                        y
                    }
                };
                let sum = &mut sums[i * pieces.len() + j];
                let next = match self.plan.dtype().is_float() {
                    true => b.mul_add(wide, y, *sum),
                    false => {
                        let product = b.op(Op::Mul, &[wide, y]);
                        b.op(Op::Add, &[*sum, product])
                    }
                };
                *sum = match mask {
                    Some(mask) => b.op(Op::Select, &[mask, next, *sum]),
                    None => next,
                };
            }
        }
    }

    /// A piece of which some lanes are padding, and the mask of the others.
    fn edge(
        &self,
        b: &mut KernelBuilder,
        (first, lanes): (i64, u16),
        column: i64,
        coords: &[Val],
        step: &Step,
    ) -> (Val, Option<Val>) {
        let inside: Vec<bool> =
            (0..lanes as i64).map(|lane| holds(self.plan, column + lane, step.fixed)).collect();
        let mut mask = vec![];
        for holds in &inside {
            mask.push(b.condition(*holds));
        }
        let mask = Some(gather_lanes(b, &mask));
        // One run of lanes is read from its first one on, then moved to its place.
        let from = inside.iter().position(|i| *i).unwrap_or(0) as u16;
        let count = inside.iter().filter(|i| **i).count() as u16;
        if inside[from as usize..].iter().take_while(|i| **i).count() == count as usize {
            let place = (0, first + from as i64);
            let run = self.run(b, self.plan.wide, place, step, coords, (lanes, from..from + count));
            return (run, mask);
        }
        let mut values = vec![];
        for (lane, holds) in inside.iter().enumerate() {
            values.push(match holds {
                true => {
                    let place = (0, first + lane as i64);
                    self.value(b, self.plan.wide, place, step, coords, 1)
                }
                false => {
                    let dtype = self.plan.dtype();
                    b.constant(Ty::of(dtype, 1), Lit::int(dtype, 0))
                }
            });
        }
        (gather_lanes(b, &values), mask)
    }
}
