//! The transform of what tiles read.

use std::collections::BTreeMap;

use super::{Block, Plan, Tile, lines};
use crate::ir::index::{Expr, Guard, Term};
use crate::kernel::build::KernelBuilder;
use crate::kernel::emit::Emitter;
use crate::kernel::ir::{Addr, Buf, Lit, Op, Ty, Val};
use crate::kernel::resolve::{Leaf, Resolved, resolve};

/// The operand at each place of a tile, over the axes image, vector of channels, down, across, lane.
struct Reads {
    places: Vec<Resolved>,
    guards: Vec<Guard>,
}

impl Plan<'_> {
    /// Transforms what the tiles of a block read, into scratch.
    pub(super) fn input(&self, b: &mut KernelBuilder, bufs: &[Buf], block: &Block) {
        let vectors = self.channels / self.lanes;
        let rest = self.channels % self.lanes;
        let whole = self.reads(&Expr::axis(1).scale(self.lanes).add(&Expr::axis(4)), vectors);
        let last = self.reads(&Expr::axis(4).plus(vectors * self.lanes), vectors);
        let there = |b: &mut KernelBuilder, i: Val, tile: &Tile| {
            let emit = |b: &mut KernelBuilder, decided: &BTreeMap<Guard, bool>| {
                let (zero, end) = (b.index(0), b.index(vectors));
                b.for_loop((zero, end, 1), &[], |b, vector, _| {
                    let valid = self.lanes as u16;
                    self.transform(b, bufs, (&whole, decided), (tile, vector, valid), i);
                    vec![]
                });
                if rest > 0 {
                    let vector = b.index(vectors);
                    self.transform(b, bufs, (&last, decided), (tile, vector, rest as u16), i);
                }
            };
            let guards: Vec<&Guard> = whole.guards.iter().chain(&last.guards).collect();
            let sure = guards.iter().map(|g| ((*g).clone(), true)).collect();
            match self.interior(&guards) {
                Some([down, across]) => {
                    let inside = [within(b, tile.down, down), within(b, tile.across, across)];
                    let inside = b.op(Op::And, &inside);
                    b.if_else(
                        inside,
                        |b| {
                            emit(b, &sure);
                            vec![]
                        },
                        |b| {
                            emit(b, &BTreeMap::new());
                            vec![]
                        },
                    );
                }
                None => emit(b, &BTreeMap::new()),
            }
        };
        let missing = |b: &mut KernelBuilder, i: Val| self.clear(b, bufs, i);
        self.each_tile(b, block, there, missing);
    }

    /// What each place of a tile holds for an input channel.
    fn reads(&self, channel: &Expr, vectors: i64) -> Reads {
        let extents = [self.images, vectors.max(1), self.down, self.across, self.lanes];
        let [row, column] = self.result((0, 0));
        let place = |k: i64| {
            let (y, x) = (Expr::constant(k / self.side), Expr::constant(k % self.side));
            let zero = Expr::constant(0);
            let of = [Expr::axis(0), zero, row.clone(), column.clone(), channel.clone(), y, x];
            let mut body = Resolved::default();
            let product = resolve(self.nest, self.sum, &of, &extents, &mut body);
            body.root = factor(&body, product, 0);
            body
        };
        let places: Vec<Resolved> = (0..self.places()).map(place).collect();
        let guards = places.iter().flat_map(|body| &body.leaves).filter_map(|leaf| match leaf {
            Leaf::Guarded { guards, .. } => Some(guards.clone()),
            Leaf::Slot { .. }
            | Leaf::Stage { .. }
            | Leaf::Axis(_)
            | Leaf::Const(_)
            | Leaf::Fn(..) => None,
        });
        let guards = guards.flatten().collect();
        Reads { places, guards }
    }

    /// Tiles down and across that lie inside of the operand whole; `None` where that is not known,
    /// or where all do.
    fn interior(&self, guards: &[&Guard]) -> Option<[(i64, i64); 2]> {
        let mut ends = [(0, self.down), (0, self.across)];
        for guard in guards {
            let [(Term::Axis(axis @ 2..=3), step @ 1..)] = guard.expr.terms[..] else {
                return None;
            };
            let (lo, hi) = &mut ends[axis as usize - 2];
            let constant = guard.expr.constant;
            *lo = (*lo).max((guard.lo - constant + step - 1).div_euclid(step));
            *hi = (*hi).min((guard.hi - 1 - constant).div_euclid(step) + 1);
        }
        (!guards.is_empty()).then_some(ends)
    }

    /// One vector of channels of a tile.
    fn transform(
        &self,
        b: &mut KernelBuilder,
        bufs: &[Buf],
        (reads, decided): (&Reads, &BTreeMap<Guard, bool>),
        (tile, vector, valid): (&Tile, Val, u16),
        number: Val,
    ) {
        let nowhere = BTreeMap::new();
        let (lane, slots) = (b.index(0), &bufs[..bufs.len() - 2]);
        let coords = vec![tile.image, vector, tile.down, tile.across, lane];
        let lines = lines::both_axes(b, self.side, lines::input(self.tile), |b, (y, x)| {
            let body = &reads.places[(y * self.side + x) as usize];
            let of = (Some(4), self.lanes as u16);
            let coords = coords.clone();
            let mut e = Emitter::new(self.nest, body, slots, &nowhere, decided, coords, of);
            e.valid = valid;
            e.value(b, body.root)
        });
        let base = self.base(b, number, vector);
        for (place, v) in lines.into_iter().flatten().enumerate() {
            let plus = place as i64 * self.block * self.pitch;
            b.store(Addr { buf: Plan::scratch(bufs).0, base, plus }, v);
        }
    }

    /// Where a tile's vector of channels lies, at the first place.
    fn base(&self, b: &mut KernelBuilder, number: Val, vector: Val) -> Val {
        let (tile, channel) = (b.times(number, self.pitch), b.times(vector, self.lanes));
        b.add(tile, channel)
    }

    /// Zeros for a tile that is not there: its products are done with the others.
    fn clear(&self, b: &mut KernelBuilder, bufs: &[Buf], number: Val) {
        let (zero, end) = (b.index(0), b.index(self.pitch / self.lanes));
        let nothing = b.constant(Ty::of(self.dtype, self.lanes as u16), Lit::int(self.dtype, 0));
        b.for_loop((zero, end, 1), &[], |b, vector, _| {
            let base = self.base(b, number, vector);
            for place in 0..self.places() {
                let plus = place * self.block * self.pitch;
                b.store(Addr { buf: Plan::scratch(bufs).0, base, plus }, nothing);
            }
            vec![]
        });
    }
}

/// An operand of the product at a leaf.
pub fn factor(body: &Resolved, product: u32, operand: usize) -> u32 {
    match &body.leaves[product as usize] {
        Leaf::Fn(_, args) => args[operand],
        Leaf::Slot { .. }
        | Leaf::Stage { .. }
        | Leaf::Axis(_)
        | Leaf::Const(_)
        | Leaf::Guarded { .. } => unreachable!("lowering made a product"),
    }
}

fn within(b: &mut KernelBuilder, v: Val, (lo, hi): (i64, i64)) -> Val {
    let (lo, hi) = (b.index(lo), b.index(hi));
    let both = [b.op(Op::Ge, &[v, lo]), b.op(Op::Lt, &[v, hi])];
    b.op(Op::And, &both)
}
