//! Results that are not finite, done again without tiles.
//!
//! An infinity or a NaN among what a tile reads gets into all of its results, by the sums before and
//! after the products. Only some of them read the element: where a result is not finite, those of the
//! tile are summed as the convolution says, over (channel, place of the kernel), with the kernel found
//! back from its transform.

use std::collections::BTreeMap;

use super::input::factor;
use super::{Plan, Tile, lines};
use crate::ir::index::Expr;
use crate::ir::op::winograd::KERNEL;
use crate::ir::scalar::Combine;
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::Emitter;
use crate::kernel::ir::{Addr, Buf, Op, Val};
use crate::kernel::resolve::{Resolved, resolve};

/// Where a vector of results stands: its tile, by number and place, and its columns.
pub struct Site<'t> {
    pub number: Val,
    pub tile: &'t Tile,
    pub panel: Val,
    /// In the panel, and how many of its lanes are columns.
    pub first: i64,
    pub valid: u16,
}

impl Plan<'_> {
    /// The results of a tile, line by line, or what they are without tiles.
    pub(super) fn repaired(
        &self,
        b: &mut KernelBuilder,
        bufs: &[Buf],
        site: &Site,
        results: Vec<Val>,
    ) -> Vec<Val> {
        // Nothing but 0 and -0 comes of finite numbers.
        let zero = b.number(self.dtype, self.lanes as u16, 0.0);
        let mut sum = zero;
        for v in &results {
            sum = b.mul_add(*v, zero, sum);
        }
        let sick = b.op(Op::Ne, &[sum, zero]);
        let sick = b.fold(Combine::Any, sick);
        b.if_else(sick, |b| self.direct(b, bufs, site), |_| results.clone())
    }

    /// The results of a tile as sums over channels and the kernel, one after the other.
    fn direct(&self, b: &mut KernelBuilder, bufs: &[Buf], site: &Site) -> Vec<Val> {
        let m = Plan::scratch(bufs).1;
        let lanes = self.lanes as u16;
        let (inputs, weights) = (self.taps(), self.weights(site.first));
        let from = b.times(site.number, self.width);
        let (zero, side, channels) = (b.index(0), b.index(self.tile), b.index(self.channels));
        b.for_loop((zero, side, 1), &[], |b, row, _| {
            b.for_loop((zero, side, 1), &[], |b, column, _| {
                let none = b.number(self.dtype, lanes, 0.0);
                let sum = b.for_loop((zero, channels, 1), &[none], |b, channel, sum| {
                    let kernel = self.kernel(b, bufs, &weights, site, channel);
                    let at = [site.tile.image, channel, site.tile.down, site.tile.across];
                    let coords = [&at[..], &[row, column]].concat();
                    let mut sum = sum[0];
                    for (body, weight) in inputs.iter().zip(kernel) {
                        let x = self.value(b, bufs, body, &coords, (None, lanes));
                        sum = b.mul_add(x, weight, sum);
                    }
                    vec![sum]
                });
                // The products of the tile are done with.
                let place = b.times(row, self.tile);
                let place = b.add(place, column);
                let place = b.times(place, self.block * self.width);
                let base = b.add(place, from);
                b.store(Addr { buf: m, base, plus: site.first }, sum[0]);
                vec![]
            });
            vec![]
        });
        let mut results = vec![];
        for place in 0..self.tile * self.tile {
            let plus = place * self.block * self.width + site.first;
            let at = Addr { buf: m, base: from, plus };
            results.push(self.columns(b, at, site.valid));
        }
        results
    }

    /// The operand at each place of the kernel, over the axes image, channel, down, across, and the
    /// place of the result in its tile.
    fn taps(&self) -> Vec<Resolved> {
        let extents = [self.images, self.channels, self.down, self.across, self.tile, self.tile];
        let [row, column] = self.result((0, 0));
        let tap = |k: usize| {
            let (y, x) = ((k / KERNEL) as i64, (k % KERNEL) as i64);
            let (zero, channel) = (Expr::constant(0), Expr::axis(1));
            let place = [Expr::axis(4).plus(y), Expr::axis(5).plus(x)];
            let of = [Expr::axis(0), zero, row.clone(), column.clone(), channel];
            self.factor(&[&of[..], &place].concat(), &extents, 0)
        };
        (0..KERNEL * KERNEL).map(tap).collect()
    }

    /// The transformed weight at each place, over the axes panel, channel, lane.
    fn weights(&self, first: i64) -> Vec<Resolved> {
        let panels = (self.columns as u64).div_ceil(self.width as u64) as i64;
        let extents = [panels, self.channels, self.lanes];
        let column = Expr::axis(0).scale(self.width).add(&Expr::axis(2)).plus(first);
        let zero = || Expr::constant(0);
        let weight = |place: i64| {
            let place = Expr::constant(place);
            let of = [zero(), column.clone(), zero(), zero(), Expr::axis(1), zero(), place];
            self.factor(&of, &extents, 1)
        };
        (0..self.places()).map(weight).collect()
    }

    /// A factor of the products at a point of the stage.
    fn factor(&self, point: &[Expr], extents: &[i64], operand: usize) -> Resolved {
        let mut body = Resolved::default();
        let product = resolve(self.nest, self.sum, point, extents, &mut body);
        body.root = factor(&body, product, operand);
        body
    }

    /// The kernel of a channel, place by place.
    fn kernel(
        &self,
        b: &mut KernelBuilder,
        bufs: &[Buf],
        weights: &[Resolved],
        site: &Site,
        channel: Val,
    ) -> Vec<Val> {
        let lane = b.index(0);
        let coords = [site.panel, channel, lane];
        let lines = lines::both_axes(b, self.side, lines::kernel(self.tile), |b, (y, x)| {
            let body = &weights[(y * self.side + x) as usize];
            self.value(b, bufs, body, &coords, (Some(2), site.valid))
        });
        lines.into_iter().flatten().collect()
    }

    fn value(
        &self,
        b: &mut KernelBuilder,
        bufs: &[Buf],
        body: &Resolved,
        coords: &[Val],
        (vector, valid): (Option<usize>, u16),
    ) -> Val {
        let (homes, decided) = (BTreeMap::new(), BTreeMap::new());
        let slots = &bufs[..bufs.len() - 2];
        let (coords, of) = (coords.to_vec(), (vector, self.lanes as u16));
        let mut e = Emitter::new(self.nest, body, slots, &homes, &decided, coords, of);
        e.valid = valid;
        e.value(b, body.root)
    }
}
