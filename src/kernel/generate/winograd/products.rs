//! The products of a panel: a matrix product at each place of a tile.

use super::Plan;
use super::input::factor;
use crate::ir::index::{Expr, IndexMap};
use crate::ir::scalar::{Combine, ScalarFn};
use crate::kernel::build::KernelBuilder;
use crate::kernel::generate::{contract, loops};
use crate::kernel::ir::{Buf, Val};
use crate::kernel::nest::{Body, From, Keep, Nest, Out, Scalar, Slot, Stage};
use crate::kernel::resolve::{Leaf, Resolved, resolve};

impl Plan<'_> {
    /// `M[place, tile, column]` of so many columns of a panel.
    pub(super) fn products(&self, b: &mut KernelBuilder, bufs: &[Buf], panel: Val, columns: i64) {
        let nest = self.product(columns);
        let (zero, end) = (b.index(0), b.index(self.places()));
        b.for_loop((zero, end, 1), &[], |b, place, _| {
            let point = [panel, place];
            // The next place, or the first one of the next panel.
            let next = Some(self.channels * self.width);
            if !contract::within(b, &nest, self.machine, bufs, (&point, next)) {
                loops::within(b, &nest, self.machine, bufs, &point);
            }
            vec![]
        });
    }

    /// The nest over the axes panel, place, tile, column, and the channels.
    fn product(&self, columns: i64) -> Nest {
        let flat = |s: &Slot| Slot { dtype: s.dtype, shape: vec![s.numel() as usize] };
        let mut slots: Vec<Slot> = self.nest.slots.iter().map(flat).collect();
        let (v, m) = (slots.len() as u16, slots.len() as u16 + 1);
        for each in [self.pitch, self.width] {
            let len = (self.places() * self.block * each).max(1) as usize;
            slots.push(Slot { dtype: self.dtype, shape: vec![len] });
        }
        let panels = (self.columns as u64).div_ceil(self.width as u64) as i64;
        let axes = vec![panels, self.places(), self.block, columns];
        let extents = [&axes[..], &[self.channels]].concat();
        let row = |each: i64| {
            let tile = Expr::axis(1).scale(self.block).add(&Expr::axis(2));
            tile.scale(each)
        };
        let mut body = self.weight(&extents);
        let weight = body.0.len() as u16 - 1;
        let map = IndexMap(vec![row(self.pitch).add(&Expr::axis(4))]);
        let input = body.push(Scalar::Load { from: From::Slot(v), map });
        body.push(Scalar::Fn(ScalarFn::Mul, vec![input, weight]));
        let stage = Stage {
            axes,
            reduce: vec![self.channels],
            combine: Some(Combine::Sum),
            body,
            dtype: self.dtype,
            keep: Keep::Out,
            tile: None,
        };
        let at = row(self.width).add(&Expr::axis(3));
        Nest {
            name: self.nest.name.clone(),
            operands: self.nest.operands,
            slots,
            shared: 4,
            stages: vec![stage],
            outs: vec![Out { stage: 0, slot: m, at }],
            inplace: vec![],
        }
    }

    /// The transformed weight of a panel's column, at a place and a channel.
    fn weight(&self, extents: &[i64]) -> Body {
        let column = Expr::axis(0).scale(self.width).add(&Expr::axis(3));
        let zero = || Expr::constant(0);
        // The place is all of its two coordinates: weights lie by their number.
        let of = [zero(), column, zero(), zero(), Expr::axis(4), zero(), Expr::axis(1)];
        let (mut body, mut resolved) = (Body::default(), Resolved::default());
        let product = resolve(self.nest, self.sum, &of, extents, &mut resolved);
        let mut at: Vec<u16> = vec![];
        for leaf in &resolved.leaves {
            let scalar = match leaf {
                Leaf::Slot { slot, at } => {
                    Scalar::Load { from: From::Slot(*slot), map: IndexMap(vec![at.clone()]) }
                }
                Leaf::Stage { stage, at } => {
                    Scalar::Load { from: From::Stage(*stage), map: IndexMap(at.clone()) }
                }
                Leaf::Axis(e) => Scalar::Axis(e.clone()),
                Leaf::Const(lit) => Scalar::Const(*lit),
                Leaf::Fn(f, args) => Scalar::Fn(*f, args.iter().map(|a| at[*a as usize]).collect()),
                Leaf::Guarded { guards, then, els } => Scalar::Guarded {
                    guards: guards.clone(),
                    then: at[*then as usize],
                    els: at[*els as usize],
                },
            };
            at.push(body.push(scalar));
        }
        let mut body = body.excerpt(at[factor(&resolved, product, 1) as usize]);
        let weight = body.0.len() as u16 - 1;
        if self.nest.dtype(&body, weight) != self.dtype {
            body.push(Scalar::Fn(ScalarFn::Cast(self.dtype), vec![weight]));
        }
        body
    }
}
