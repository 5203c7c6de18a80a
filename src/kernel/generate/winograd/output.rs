//! From products to results: the transform back, and what is made of each sum on the spot.

use std::collections::BTreeMap;

use super::super::loops::store;
use super::repair::Site;
use super::{Block, Plan, Tile, lines};
use crate::ir::index::Expr;
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::{Emitter, Home};
use crate::kernel::ir::{Addr, Buf, Op, Val};
use crate::kernel::resolve::{Resolved, resolve};

/// What is made of the sum at one place of a tile: the stages, and where they are stored.
struct End {
    stages: Vec<Resolved>,
    outs: Vec<Expr>,
}

impl Plan<'_> {
    /// All results of a block in so many columns of a panel.
    pub(super) fn output(
        &self,
        b: &mut KernelBuilder,
        bufs: &[Buf],
        block: &Block,
        (panel, columns): (Val, i64),
    ) {
        let there = |b: &mut KernelBuilder, i: Val, tile: &Tile| {
            for first in (0..columns).step_by(self.lanes as usize) {
                let valid = (columns - first).min(self.lanes) as u16;
                let base = b.times(i, self.width);
                let results = lines::both_axes(b, self.side, lines::output(self.tile), |b, at| {
                    let place = at.0 * self.side + at.1;
                    let plus = place * self.block * self.width + first;
                    let at = Addr { buf: Plan::scratch(bufs).1, base, plus };
                    self.columns(b, at, valid)
                });
                let site = Site { number: i, tile, panel, first, valid };
                let results = results.into_iter().flatten().collect();
                let results = self.repaired(b, bufs, &site, results);
                for (place, sum) in results.into_iter().enumerate() {
                    let at = (place as i64 / self.tile, place as i64 % self.tile);
                    self.result_at(b, bufs, &site, at, sum);
                }
            }
        };
        self.each_tile(b, block, there, |_, _| {});
    }

    /// One vector of results, where it lies in the map.
    fn result_at(
        &self,
        b: &mut KernelBuilder,
        bufs: &[Buf],
        site: &Site,
        at: (i64, i64),
        sum: Val,
    ) {
        let tile = site.tile;
        let beyond = |n: i64, at: i64| n % self.tile != 0 && at >= n % self.tile;
        let ends = [(tile.down, self.lines, at.0), (tile.across, self.points, at.1)];
        let mut inside = None;
        for (tile, n, _) in ends.into_iter().filter(|(_, n, at)| beyond(*n, *at)) {
            // Only the last tile reaches beyond.
            let last = b.index(n / self.tile);
            let this = b.op(Op::Lt, &[tile, last]);
            inside = Some(match inside {
                Some(other) => b.op(Op::And, &[other, this]),
                None => this,
            });
        }
        match inside {
            None => self.finish(b, bufs, site, at, sum),
            Some(inside) => {
                let then = |b: &mut KernelBuilder| {
                    self.finish(b, bufs, site, at, sum);
                    vec![]
                };
                b.if_else(inside, then, |_| vec![]);
            }
        }
    }

    /// What is made of a sum, and where it goes.
    fn finish(&self, b: &mut KernelBuilder, bufs: &[Buf], site: &Site, at: (i64, i64), sum: Val) {
        let &Site { tile, panel, first, valid, .. } = site;
        let (end, slots) = (self.end(first, at), &bufs[..bufs.len() - 2]);
        let (lane, decided) = (b.index(0), BTreeMap::new());
        let coords = vec![tile.image, panel, tile.down, tile.across, lane];
        let mut homes: BTreeMap<u16, Home> = BTreeMap::new();
        for (id, body) in self.kept.iter().zip(&end.stages) {
            let of = (Some(4), self.lanes as u16);
            let coords = coords.clone();
            let mut e = Emitter::new(self.nest, body, slots, &homes, &decided, coords, of);
            e.valid = valid;
            let v = if *id == self.sum { sum } else { e.value(b, body.root) };
            for (out, at) in self.nest.outs.iter().zip(&end.outs).filter(|(o, _)| o.stage == *id) {
                let base = b.index(0);
                store(b, &mut e, slots[out.slot as usize], base, at, v);
            }
            homes.insert(*id, Home::Here(v));
        }
    }

    /// Over the axes image, panel, down, across, lane.
    fn end(&self, first: i64, at: (i64, i64)) -> End {
        let panels = (self.columns as u64).div_ceil(self.width as u64) as i64;
        let extents = [self.images, panels, self.down, self.across, self.lanes];
        let column = Expr::axis(1).scale(self.width).add(&Expr::axis(4)).plus(first);
        let [row, point] = self.result(at);
        let result = vec![Expr::axis(0), column, row, point];
        let stage = |id: &u16| {
            let mut body = Resolved::default();
            if *id != self.sum {
                body.root = resolve(self.nest, *id, &result, &extents, &mut body);
            }
            body
        };
        let stages = self.kept.iter().map(stage).collect();
        let outs = self.nest.outs.iter().map(|o| o.at.substitute(&result, &extents)).collect();
        End { stages, outs }
    }
}
