//! Windows as stages: convolutions, and pools with the indices of their maxima.

use super::*;
use crate::ir::op::winograd::KERNEL;

impl Lowering<'_> {
    pub(super) fn window(
        &mut self,
        id: NodeId,
        spec: &WindowSpec,
        shapes: &[Vec<usize>],
        result: &[usize],
    ) {
        let args = self.region.node(id).operands().to_vec();
        let (x, rank, spatial) = (&shapes[0], result.len(), spec.kernel.len());
        let conv = matches!(spec.kind, WindowKind::Conv { .. });
        // Coordinates: result axes, then (channel of the group for convolutions), kernel axes. A
        // convolution sums over channels alone where its kernel is one element.
        let first = rank + conv as usize;
        let one = conv && spec.kernel.iter().all(|k| *k == 1);
        let tap = |i: usize| if one { Expr::constant(0) } else { Expr::axis(first + i) };
        let mut guards = vec![];
        let mut along = |i: usize| {
            let e = Expr::axis(2 + i)
                .scale(spec.stride[i] as i64)
                .add(&tap(i).scale(spec.dilation[i] as i64))
                .plus(-(spec.pad[i].0 as i64));
            if spec.pad[i] != (0, 0) {
                guards.push(Guard { expr: e.clone(), lo: 0, hi: x[2 + i] as i64 });
            }
            e
        };
        let at: Vec<Expr> = (0..spatial).map(&mut along).collect();
        let channel = match spec.kind {
            WindowKind::Conv { groups } => {
                let (out, inner) = (result[1] / groups.max(1), x[1] / groups.max(1));
                let extents: Vec<i64> = result.iter().map(|&d| d as i64).collect();
                let group = Expr::axis(1).floor_div((out as i64).max(1), &extents);
                group.scale(inner as i64).add(&Expr::axis(rank))
            }
            WindowKind::Winograd { .. } | WindowKind::MaxPool | WindowKind::AvgPool { .. } => {
                Expr::axis(1)
            }
        };
        let map = IndexMap([&[Expr::axis(0), channel], &at[..]].concat());
        let dtype = self.region.ty(args[0]).dtype;
        let kernel: Vec<i64> = spec.kernel.iter().map(|&k| k as i64).collect();
        let mut body = Body::default();
        let guarded = |me: &Self, body: &mut Body, fill: Lit| {
            let then = me.load(body, args[0], map.clone());
            if guards.is_empty() {
                return then;
            }
            let els = body.push(Scalar::Const(fill));
            body.push(Scalar::Guarded { guards: guards.clone(), then, els })
        };
        match spec.kind {
            WindowKind::Conv { .. } => {
                let v = guarded(self, &mut body, Lit::new(dtype, 0.0));
                let channels = [1, rank].into_iter().map(Expr::axis);
                let weight = channels.chain((0..spatial).map(tap)).collect();
                let w = self.load(&mut body, args[1], IndexMap(weight));
                body.push(Scalar::Fn(ScalarFn::Mul, vec![v, w]));
                let kernel = if one { &[][..] } else { &kernel };
                let reduce = [&[shapes[1][1] as i64], kernel].concat();
                self.stage(id, 0, result, reduce, Some(Combine::Sum), body);
            }
            WindowKind::Winograd { .. } => {}
            WindowKind::MaxPool => {
                guarded(self, &mut body, neutral(Combine::Max, dtype));
                self.stage(id, 0, result, kernel.clone(), Some(Combine::Max), body.clone());
                if self.is_read(Value { node: id, result: 1 }) {
                    self.pool_index(id, spec, x, result, body);
                }
            }
            WindowKind::AvgPool { include_pad } => {
                let v = guarded(self, &mut body, Lit::new(dtype, 0.0));
                debug_assert_eq!(v as usize + 1, body.0.len());
                let sum = self.push(result, kernel.clone(), Some(Combine::Sum), body, dtype);
                let identity = IndexMap::identity(rank);
                let mut body = Body::load(From::Stage(sum), identity.clone());
                let count = if include_pad || guards.is_empty() {
                    let n = spec.kernel.iter().product::<usize>() as f64;
                    body.push(Scalar::Const(Lit::new(dtype, n)))
                } else {
                    // As many ones as positions of the window that lie inside.
                    let mut ones = Body(vec![
                        Scalar::Const(Lit::new(dtype, 1.0)),
                        Scalar::Const(Lit::new(dtype, 0.0)),
                    ]);
                    ones.push(Scalar::Guarded { guards: guards.clone(), then: 0, els: 1 });
                    let n = self.push(result, kernel, Some(Combine::Sum), ones, dtype);
                    body.push(Scalar::Load { from: From::Stage(n), map: identity })
                };
                body.push(Scalar::Fn(ScalarFn::Div, vec![0, count]));
                self.stage(id, 0, result, vec![], None, body);
            }
        }
    }

    /// A convolution in tiles: for each result of a tile the sum is over the channels and over all
    /// places of the tile, whose elements its results share.
    pub(super) fn winograd(
        &mut self,
        id: NodeId,
        (tile, pad): (usize, &[(usize, usize)]),
        shapes: &[Vec<usize>],
        result: &[usize],
    ) {
        let args = self.region.node(id).operands().to_vec();
        let (x, rank, side) = (&shapes[0], result.len(), tile + KERNEL - 1);
        let extents: Vec<i64> = result.iter().map(|&d| d as i64).collect();
        let place = |i: usize| Expr::axis(rank + 1 + i);
        let along = |i: usize| {
            let first = Expr::axis(2 + i).floor_div(tile as i64, &extents).scale(tile as i64);
            first.add(&place(i)).plus(-(pad[i].0 as i64))
        };
        let at = [along(0), along(1)];
        let guard = |i: usize| Guard { expr: at[i].clone(), lo: 0, hi: x[2 + i] as i64 };
        let guards = vec![guard(0), guard(1)];
        let [row, column] = at.clone();
        let map = IndexMap(vec![Expr::axis(0), Expr::axis(rank), row, column]);
        let mut body = Body::default();
        let then = self.load(&mut body, args[0], map);
        let els = body.push(Scalar::Const(Lit::new(self.region.ty(args[0]).dtype, 0.0)));
        let v = body.push(Scalar::Guarded { guards, then, els });
        let flat = place(0).scale(side as i64).add(&place(1));
        let w =
            self.load(&mut body, args[1], IndexMap(vec![flat, Expr::axis(rank), Expr::axis(1)]));
        body.push(Scalar::Fn(ScalarFn::Mul, vec![v, w]));
        let reduce = vec![x[1] as i64, side as i64, side as i64];
        let stage = self.stage(id, 0, result, reduce, Some(Combine::Sum), body);
        self.nest.stages[stage as usize].tile = Some(tile);
    }

    fn is_read(&self, v: Value) -> bool {
        self.region.users(v.node).iter().any(|(r, _, _)| *r == v.result)
            || self.region.outputs.iter().any(|o| o.value == v)
    }

    /// The second result of a maximum pool: where in the flattened spatial axes the maximum is.
    fn pool_index(
        &mut self,
        id: NodeId,
        spec: &WindowSpec,
        x: &[usize],
        result: &[usize],
        window: Body,
    ) {
        let kernel: Vec<i64> = spec.kernel.iter().map(|&k| k as i64).collect();
        let arg = self.push(result, kernel, Some(Combine::ArgMax), window, DType::I64);
        let int = |v: i64| Scalar::Const(Lit::int(DType::I64, v));
        let mut body = Body::load(From::Stage(arg), IndexMap::identity(result.len()));
        let (mut rest, mut inner, mut sum) = (0u16, 1i64, None);
        for i in (0..spec.kernel.len()).rev() {
            let k = body.push(int(spec.kernel[i] as i64));
            let position = body.push(Scalar::Fn(ScalarFn::Mod, vec![rest, k]));
            rest = body.push(Scalar::Fn(ScalarFn::FloorDiv, vec![rest, k]));
            let dilation = body.push(int(spec.dilation[i] as i64));
            let offset = body.push(Scalar::Fn(ScalarFn::Mul, vec![position, dilation]));
            let start =
                Expr::axis(2 + i).scale(spec.stride[i] as i64).plus(-(spec.pad[i].0 as i64));
            // Where no element beats the padding, the first one inside is meant.
            let extents: Vec<i64> = result.iter().map(|&d| d as i64).collect();
            let first = start.modulo(spec.dilation[i].max(1) as i64, &extents);
            let start = body.push(Scalar::Axis(start));
            let at = body.push(Scalar::Fn(ScalarFn::Add, vec![start, offset]));
            let first = body.push(Scalar::Axis(first));
            let at = body.push(Scalar::Fn(ScalarFn::Max, vec![at, first]));
            let stride = body.push(int(inner));
            let scaled = body.push(Scalar::Fn(ScalarFn::Mul, vec![at, stride]));
            sum = Some(match sum {
                Some(s) => body.push(Scalar::Fn(ScalarFn::Add, vec![s, scaled])),
                None => scaled,
            });
            inner *= x[2 + i] as i64;
        }
        self.stage(id, 1, result, vec![], None, body);
    }
}
