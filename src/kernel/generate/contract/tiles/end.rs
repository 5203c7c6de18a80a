//! What is made of a tile's sums, and where it is stored.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::super::loops::store;
use super::super::tiling::Piece;
use super::{End, Tile, Tiles};
use crate::ir::index::Expr;
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::{Emitter, Home};
use crate::kernel::ir::{Addr, Buf, Val};

impl Tiles<'_> {
    /// Parks the sums, then goes through them row by row.
    pub(super) fn finish_parked(
        &self,
        b: &mut KernelBuilder,
        tile: &Tile,
        (parked, axis): (Buf, usize),
        sums: &[Val],
    ) {
        let (pieces, width) = (&tile.kind.pieces, self.tiling.width);
        let zero = b.index(0);
        for (i, sum) in sums.iter().enumerate() {
            let (row, piece) = (i / pieces.len(), &pieces[i % pieces.len()]);
            let plus = row as i64 * width + piece.first;
            b.store(Addr { buf: parked, base: zero, plus }, *sum);
        }
        let rows = b.index(tile.band.rows);
        b.for_loop((zero, rows, 1), &[], |b, row, _| {
            let mut coords = tile.coords.clone();
            coords[axis] = b.add(coords[axis], row);
            let base = b.times(row, width);
            for piece in pieces {
                let sum = b.load(Addr { buf: parked, base, plus: piece.first }, piece.lanes);
                self.finish(b, &coords, (0, piece), sum);
            }
            vec![]
        });
    }

    /// What is made of a sum, and where it goes.
    pub(super) fn finish(
        &self,
        b: &mut KernelBuilder,
        coords: &[Val],
        (row, piece): (i64, &Piece),
        sum: Val,
    ) {
        let plan = self.plan;
        let end = self.end(row, piece.first);
        let mut homes: BTreeMap<u16, Home> = BTreeMap::new();
        for (i, ((id, _), body)) in plan.stages.iter().zip(&end.stages).enumerate() {
            let coords = coords.to_vec();
            let vector = (Some(self.lane()), piece.lanes);
            let mut e =
                Emitter::new(plan.nest, body, self.slots, &homes, self.none, coords, vector);
            e.valid = piece.valid;
            let v = if i == 0 { sum } else { e.value(b, body.root) };
            for ((_, slot, _), at) in plan.outs.iter().zip(&end.outs).filter(|(o, _)| o.0 == *id) {
                let base = b.index(0);
                store(b, &mut e, self.slots[*slot as usize], base, at, v);
            }
            homes.insert(*id, Home::Here(v));
        }
    }

    /// All stages and their places at a row and a first column of the tile.
    fn end(&self, row: i64, first: i64) -> Rc<End> {
        let make = || {
            let plan = self.plan;
            let zeros: Vec<Expr> = plan.reduced().iter().map(|_| Expr::constant(0)).collect();
            let (by, extents) = (self.point(row, first, &zeros), self.extents());
            let at = |e: &Expr| e.substitute(&by, &extents);
            let stages = plan.stages.iter().map(|(_, body)| body.map(at)).collect();
            let outs = plan.outs.iter().map(|(_, _, e)| at(e)).collect();
            Rc::new(End { stages, outs })
        };
        self.ends.borrow_mut().entry((row, first)).or_insert_with(make).clone()
    }
}
