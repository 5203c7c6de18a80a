//! From a fusion group to a Nest.
//!
//! In: the region of a group, with bound shapes and only nodes that have a nest form. Every node
//! becomes a stage whose body reads its operands through index maps; then it is decided which
//! stages are kept, and the results of a group with an anchor are turned around so that they are
//! computed where the anchor is: `out[view(p)] = f(anchor[p])`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{DType, TensorType};
use crate::ir::graph::{Graph, NodeId, Value};
use crate::ir::index::{Expr, Guard, IndexMap, Term};
use crate::ir::op::{Class, ContractSpec, ReduceSpec, Source, View, WindowKind, WindowSpec};
use crate::ir::scalar::{Combine, ScalarFn};
use crate::kernel::generate::reduce::neutral;
use crate::kernel::ir::Lit;
use crate::kernel::nest::{Body, From, Keep, Nest, Out, Scalar, Slot, Stage};
use crate::kernel::resolve::{Leaf, Resolved, resolve};

/// Why a group cannot become a nest; fusion then keeps its nodes apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoNest(pub &'static str);

/// Where a value of the region comes from.
#[derive(Clone)]
enum Def {
    Slot(u16),
    Stage(u16),
    Const(Lit),
}

/// Lowers the region of a group; slots are the region's inputs, then its outputs.
pub fn lower_group(name: &str, region: &Graph) -> Result<Nest, NoNest> {
    let slot = |ty: &TensorType| -> Result<Slot, NoNest> {
        let shape = ty.shape.concrete().ok_or(NoNest("an open dimension"))?;
        Ok(Slot { dtype: ty.dtype, shape })
    };
    let operand_slots: Vec<Slot> = region
        .inputs
        .iter()
        .map(|id| slot(&region.node(*id).results[0]))
        .collect::<Result<_, _>>()?;
    let result_slots: Vec<Slot> =
        region.outputs.iter().map(|o| slot(region.ty(o.value))).collect::<Result<_, _>>()?;
    let operands = operand_slots.len();
    let mut lowering = Lowering {
        region,
        nest: Nest {
            name: name.into(),
            slots: [operand_slots, result_slots].concat(),
            operands,
            shared: 0,
            stages: vec![],
            outs: vec![],
            inplace: vec![],
        },
        defs: BTreeMap::new(),
    };
    for (i, id) in region.inputs.iter().enumerate() {
        lowering.defs.insert(Value { node: *id, result: 0 }, Def::Slot(i as u16));
    }
    for id in region.topological() {
        if !region.inputs.contains(&id) {
            lowering.node(id)?;
        }
    }
    lowering.outputs(operands)?;
    lowering.keep()?;
    lowering.inplace();
    Ok(lowering.nest)
}

struct Lowering<'a> {
    region: &'a Graph,
    nest: Nest,
    defs: BTreeMap<Value, Def>,
}

impl Lowering<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), NoNest> {
        let node = self.region.node(id);
        let shapes: Vec<Vec<usize>> = self
            .region
            .op_types(id)
            .iter()
            .map(|t| t.shape.concrete().ok_or(NoNest("an open dimension")))
            .collect::<Result<_, _>>()?;
        let result = node.results[0].shape.concrete().ok_or(NoNest("an open dimension"))?;
        let args = node.operands();
        match self.region.class(id) {
            Class::Source(Source::Constant) => self.constant(id)?,
            Class::Source(Source::Iota { axis }) => {
                let mut body = Body(vec![Scalar::Axis(Expr::axis(axis))]);
                body.push(Scalar::Fn(ScalarFn::Cast(node.results[0].dtype), vec![0]));
                self.stage(id, 0, &result, vec![], None, body);
            }
            Class::Source(_) => return Err(NoNest("a source")),
            Class::Elementwise(f) => {
                let mut body = Body::default();
                let loads: Vec<u16> = args
                    .iter()
                    .zip(&shapes)
                    .map(|(v, s)| self.load(&mut body, *v, IndexMap::broadcast(s, &result)))
                    .collect();
                body.push(Scalar::Fn(f, loads));
                self.stage(id, 0, &result, vec![], None, body);
            }
            Class::View(view) => self.view(id, &view, &shapes, &result)?,
            Class::Reduce(spec) => self.reduce(id, &spec, &shapes[0], &result),
            Class::Contract(spec) => self.contract(id, &spec, &shapes, &result),
            Class::Window(spec) => self.window(id, &spec, &shapes, &result),
            Class::Gather { axis } => self.gather(id, axis, &shapes, &result)?,
            Class::UpdateSlice { axis } => self.update_slice(id, axis, &shapes, &result)?,
            Class::Scatter(_) | Class::Sort(_) | Class::Region(_) | Class::Composite => {
                return Err(NoNest("an op with a kernel of its own"));
            }
        }
        Ok(())
    }

    fn constant(&mut self, id: NodeId) -> Result<(), NoNest> {
        let node = self.region.node(id);
        let crate::ir::Attr::Tensor(t) = node.op.attr("value") else {
            return Err(NoNest("a source"));
        };
        if t.numel() != 1 {
            return Err(NoNest("a constant of many elements"));
        }
        let mut bytes = [0u8; 8];
        bytes[..t.bytes().len()].copy_from_slice(t.bytes());
        let lit = Lit { dtype: t.dtype(), bits: u64::from_le_bytes(bytes) };
        self.defs.insert(Value { node: id, result: 0 }, Def::Const(lit));
        Ok(())
    }

    fn load(&self, body: &mut Body, v: Value, map: IndexMap) -> u16 {
        body.push(match &self.defs[&v] {
            Def::Slot(s) => Scalar::Load { from: From::Slot(*s), map },
            Def::Stage(s) => Scalar::Load { from: From::Stage(*s), map },
            Def::Const(lit) => Scalar::Const(*lit),
        })
    }

    fn stage(
        &mut self,
        id: NodeId,
        result: u16,
        axes: &[usize],
        reduce: Vec<i64>,
        combine: Option<Combine>,
        body: Body,
    ) -> u16 {
        let dtype = self.region.node(id).results[result as usize].dtype;
        let stage = self.push(axes, reduce, combine, body, dtype);
        self.defs.insert(Value { node: id, result }, Def::Stage(stage));
        stage
    }

    fn push(
        &mut self,
        axes: &[usize],
        reduce: Vec<i64>,
        combine: Option<Combine>,
        body: Body,
        dtype: DType,
    ) -> u16 {
        let axes = axes.iter().map(|&d| d as i64).collect();
        self.nest.stages.push(Stage { axes, reduce, combine, body, dtype, keep: Keep::Inline });
        self.nest.stages.len() as u16 - 1
    }

    /// An index that is read at run time: `slot` of a map stands for an operand of the node.
    fn bind_dynamic(&self, e: &Expr, args: &[Value]) -> Result<Expr, NoNest> {
        let mut out = Expr::constant(e.constant);
        for (term, c) in &e.terms {
            let bound = match term {
                Term::Dyn { slot, at, limit } => match &self.defs[&args[*slot as usize]] {
                    Def::Slot(s) => {
                        Expr::term(Term::Dyn { slot: *s, at: at.clone(), limit: *limit })
                    }
                    Def::Const(l) => {
                        Expr::constant(l.as_int().unwrap_or(0).clamp(0, (*limit).max(0)))
                    }
                    Def::Stage(_) => return Err(NoNest("an index that the group computes")),
                },
                Term::Axis(_) | Term::FloorDiv(..) | Term::Mod(..) => Expr::term(term.clone()),
            };
            out = out.add(&bound.scale(*c));
        }
        Ok(out)
    }

    fn view(
        &mut self,
        id: NodeId,
        view: &View,
        shapes: &[Vec<usize>],
        result: &[usize],
    ) -> Result<(), NoNest> {
        let args = self.region.node(id).operands().to_vec();
        let mut body = Body::default();
        let mut value: Option<u16> = None;
        for part in view.parts(shapes, result).iter().rev() {
            let map = part.map.0.iter().map(|e| self.bind_dynamic(e, &args));
            let map = IndexMap(map.collect::<Result<_, _>>()?);
            let then = self.load(&mut body, args[part.operand], map);
            value = Some(match value {
                Some(els) if !part.guards.is_empty() => {
                    body.push(Scalar::Guarded { guards: part.guards.clone(), then, els })
                }
                _ => then,
            });
        }
        self.stage(id, 0, result, vec![], None, body);
        Ok(())
    }

    fn reduce(&mut self, id: NodeId, spec: &ReduceSpec, operand: &[usize], result: &[usize]) {
        let mut map = vec![];
        let (mut kept, mut reduced) = (0, 0);
        for (axis, _) in operand.iter().enumerate() {
            if spec.axes.contains(&axis) {
                map.push(Expr::axis(result.len() + reduced));
                reduced += 1;
                kept += spec.keepdims as usize;
            } else {
                map.push(Expr::axis(kept));
                kept += 1;
            }
        }
        let mut extents: Vec<i64> = spec.axes.iter().map(|&a| operand[a] as i64).collect();
        if extents.is_empty() && matches!(spec.combine, Combine::ArgMax | Combine::ArgMin) {
            // An index among one element is 0, and not the element.
            extents.push(1);
        }
        let mut body = Body::default();
        self.load(&mut body, self.region.node(id).operands()[0], IndexMap(map));
        self.stage(id, 0, result, extents, Some(spec.combine), body);
    }

    fn contract(
        &mut self,
        id: NodeId,
        spec: &ContractSpec,
        shapes: &[Vec<usize>],
        result: &[usize],
    ) {
        let summed: Vec<u8> = spec.lhs.iter().copied().filter(|l| !spec.out.contains(l)).collect();
        let extent = |label: u8| {
            let of = |labels: &[u8], shape: &[usize]| {
                labels.iter().zip(shape).filter(|(l, _)| **l == label).map(|(_, d)| *d).max()
            };
            of(&spec.lhs, &shapes[0]).max(of(&spec.rhs, &shapes[1])).unwrap_or(1)
        };
        let map = |labels: &[u8], shape: &[usize]| {
            let along = |(label, d): (&u8, &usize)| {
                let out = spec.out.iter().position(|l| l == label);
                let at = out
                    .or_else(|| summed.iter().position(|l| l == label).map(|i| i + result.len()));
                match at {
                    Some(axis) if *d == extent(*label) => Expr::axis(axis),
                    _ => Expr::constant(0),
                }
            };
            IndexMap(labels.iter().zip(shape).map(along).collect())
        };
        let args = self.region.node(id).operands().to_vec();
        let mut body = Body::default();
        let x = self.load(&mut body, args[0], map(&spec.lhs, &shapes[0]));
        let y = self.load(&mut body, args[1], map(&spec.rhs, &shapes[1]));
        let of_bool = self.region.node(id).results[0].dtype == DType::Bool;
        let (f, combine) = match of_bool {
            true => (ScalarFn::And, Combine::Any),
            false => (ScalarFn::Mul, Combine::Sum),
        };
        body.push(Scalar::Fn(f, vec![x, y]));
        let reduce = summed.iter().map(|l| extent(*l) as i64).collect();
        self.stage(id, 0, result, reduce, Some(combine), body);
    }

    fn window(&mut self, id: NodeId, spec: &WindowSpec, shapes: &[Vec<usize>], result: &[usize]) {
        let args = self.region.node(id).operands().to_vec();
        let (x, rank, spatial) = (&shapes[0], result.len(), spec.kernel.len());
        let conv = matches!(spec.kind, WindowKind::Conv { .. });
        // Coordinates: result axes, then (channel of the group for convolutions), kernel axes.
        let first = rank + conv as usize;
        let mut guards = vec![];
        let mut along = |i: usize| {
            let e = Expr::axis(2 + i)
                .scale(spec.stride[i] as i64)
                .add(&Expr::axis(first + i).scale(spec.dilation[i] as i64))
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
            WindowKind::MaxPool | WindowKind::AvgPool { .. } => Expr::axis(1),
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
                let weight = [1, rank].into_iter().chain(first..first + spatial).map(Expr::axis);
                let w = self.load(&mut body, args[1], IndexMap(weight.collect()));
                body.push(Scalar::Fn(ScalarFn::Mul, vec![v, w]));
                let reduce = [&[shapes[1][1] as i64], &kernel[..]].concat();
                self.stage(id, 0, result, reduce, Some(Combine::Sum), body);
            }
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

    fn gather(
        &mut self,
        id: NodeId,
        axis: usize,
        shapes: &[Vec<usize>],
        result: &[usize],
    ) -> Result<(), NoNest> {
        let args = self.region.node(id).operands().to_vec();
        let n = shapes[1].len();
        let at: Vec<Expr> = (axis..axis + n).map(Expr::axis).collect();
        let limit = shapes[0][axis] as i64 - 1;
        let index = self.bind_dynamic(&Expr::term(Term::Dyn { slot: 1, at, limit }), &args)?;
        let before = (0..axis).map(Expr::axis);
        let after = (axis + n..result.len()).map(Expr::axis);
        let map = IndexMap(before.chain([index]).chain(after).collect());
        let mut body = Body::default();
        self.load(&mut body, args[0], map);
        self.stage(id, 0, result, vec![], None, body);
        Ok(())
    }

    fn update_slice(
        &mut self,
        id: NodeId,
        axis: usize,
        shapes: &[Vec<usize>],
        result: &[usize],
    ) -> Result<(), NoNest> {
        let args = self.region.node(id).operands().to_vec();
        let len = shapes[1][axis] as i64;
        let limit = result[axis] as i64 - len;
        let start =
            self.bind_dynamic(&Expr::term(Term::Dyn { slot: 2, at: vec![], limit }), &args)?;
        let inside = Expr::axis(axis).add(&start.scale(-1));
        let mut map = IndexMap::identity(result.len());
        map.0[axis] = inside.clone();
        let mut body = Body::default();
        let els = self.load(&mut body, args[0], IndexMap::identity(result.len()));
        let then = self.load(&mut body, args[1], map);
        let guards = vec![Guard { expr: inside, lo: 0, hi: len }];
        body.push(Scalar::Guarded { guards, then, els });
        self.stage(id, 0, result, vec![], None, body);
        Ok(())
    }

    /// Binds the region's outputs to stages. Where something is reduced, results are computed at
    /// the points of the last reduction or row that they come from, and stored through the views.
    fn outputs(&mut self, operands: usize) -> Result<(), NoNest> {
        let reduces = self.nest.stages.iter().any(|s| s.combine.is_some());
        for (i, output) in self.region.outputs.iter().enumerate() {
            let slot = (operands + i) as u16;
            let shape = self.nest.slots[slot as usize].shape.clone();
            let stage = match self.defs[&output.value].clone() {
                Def::Stage(s) => s,
                Def::Slot(_) | Def::Const(_) => {
                    let mut body = Body::default();
                    self.load(&mut body, output.value, IndexMap::identity(shape.len()));
                    let dtype = self.nest.slots[slot as usize].dtype;
                    self.push(&shape, vec![], None, body, dtype)
                }
            };
            let (stage, point) = match reduces {
                true => self.turned(output.value, stage),
                false => (stage, (0..shape.len()).map(Expr::axis).collect()),
            };
            self.nest.stages[stage as usize].keep = Keep::Out;
            let at = IndexMap(point).flatten(&shape);
            self.nest.outs.push(Out { stage, slot, at });
        }
        Ok(())
    }

    /// The stage whose points produce a value, and the value's coordinates at such a point. For a
    /// chain of reshapes and transposes over a stage these views are inverted; elementwise nodes
    /// behind such a view get a stage over the anchor's axes.
    fn turned(&mut self, value: Value, stage: u16) -> (u16, Vec<Expr>) {
        let identity = |rank: usize| (0..rank).map(Expr::axis).collect::<Vec<_>>();
        let rank = self.nest.stages[stage as usize].axes.len();
        let Some((base, point)) = self.path(value) else { return (stage, identity(rank)) };
        let base_stage = match self.defs[&base] {
            Def::Stage(s) => s,
            Def::Slot(_) | Def::Const(_) => return (stage, identity(rank)),
        };
        if base_stage == stage || point == identity(rank) {
            return (stage, identity(rank));
        }
        let (axes, dtype) = {
            let s = &self.nest.stages[base_stage as usize];
            (
                s.axes.iter().map(|&d| d as usize).collect::<Vec<_>>(),
                self.nest.stages[stage as usize].dtype,
            )
        };
        let body = Body::load(From::Stage(stage), IndexMap(point.clone()));
        (self.push(&axes, vec![], None, body, dtype), point)
    }

    /// Follows a value back through elementwise nodes of one shape, reshapes and transposes to the
    /// node where its points come from; gives that value and the coordinates over its axes.
    fn path(&self, value: Value) -> Option<(Value, Vec<Expr>)> {
        let mut chain: Vec<NodeId> = vec![];
        let mut at = value;
        loop {
            let node = self.region.node(at.node);
            let next = match self.region.class(at.node) {
                Class::View(View::Reshape | View::Transpose(_)) => node.operands()[0],
                Class::Elementwise(_) => {
                    // Only worth it if a view lies behind.
                    let shape = &self.region.ty(at).shape;
                    let same = |v: &&Value| {
                        self.region.ty(**v).shape == *shape
                            && matches!(self.defs[v], Def::Stage(_))
                            && self.depends_on_reduction(**v)
                    };
                    match node.operands().iter().find(same) {
                        Some(v) => *v,
                        None => break,
                    }
                }
                _ => break,
            };
            if !matches!(self.defs[&next], Def::Stage(_)) {
                break;
            }
            chain.push(at.node);
            at = next;
        }
        // The last view of the chain decides where the points are.
        while let Some(last) = chain.last() {
            if matches!(self.region.class(*last), Class::View(_)) {
                break;
            }
            at = Value { node: chain.pop().expect("checked"), result: 0 };
        }
        let shape = self.region.ty(at).shape.concrete()?;
        let extents: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        let mut point: Vec<Expr> = (0..shape.len()).map(Expr::axis).collect();
        let mut shape = shape;
        for id in chain.iter().rev() {
            let result = self.region.node(*id).results[0].shape.concrete()?;
            match self.region.class(*id) {
                Class::View(View::Transpose(perm)) => {
                    point = perm.iter().map(|&p| point[p].clone()).collect();
                }
                Class::View(_) => {
                    let flat = IndexMap(point).flatten(&shape);
                    let mut inner = 1i64;
                    let mut parts: Vec<Expr> = result
                        .iter()
                        .rev()
                        .map(|&d| {
                            let e = flat
                                .floor_div(inner.max(1), &extents)
                                .modulo((d as i64).max(1), &extents);
                            inner *= d as i64;
                            e
                        })
                        .collect();
                    parts.reverse();
                    point = parts;
                }
                _ => {}
            }
            shape = result;
        }
        Some((at, point))
    }

    fn depends_on_reduction(&self, v: Value) -> bool {
        let Def::Stage(root) = self.defs[&v] else { return false };
        let mut open = vec![root];
        let mut seen = BTreeSet::new();
        while let Some(s) = open.pop() {
            let stage = &self.nest.stages[s as usize];
            if stage.combine.is_some() {
                return true;
            }
            open.extend(stage_operands(stage).filter(|s| seen.insert(*s)));
        }
        false
    }

    /// Decides what is kept, and how many leading axes all kept stages share.
    fn keep(&mut self) -> Result<(), NoNest> {
        let n = self.nest.stages.len();
        if !self.nest.stages.iter().any(|s| s.combine.is_some()) {
            return Ok(());
        }
        for s in &mut self.nest.stages {
            if s.combine.is_some() && s.keep == Keep::Inline {
                s.keep = Keep::Row;
            }
        }
        self.drop_dead();
        let row = self.row_axes();
        // The loops that would compute an inline stage, and what one evaluation costs.
        let n = n.min(self.nest.stages.len());
        let mut roots: Vec<BTreeSet<u16>> = vec![BTreeSet::new(); n];
        let costs = self.inline_costs();
        for s in (0..n).rev() {
            let stage = &self.nest.stages[s];
            let on_rows = stage.axes.len() >= row.len() && stage.axes[..row.len()] == row[..];
            // Once a row, where a loop would compute it for each element.
            let invariant = on_rows && stage.axes[row.len()..].iter().product::<i64>() == 1;
            let keepable = stage.keep == Keep::Inline
                && on_rows
                && (invariant && costs[s] > 0
                    || roots[s].len() > 1 && costs[s] >= 4 && stage.axes.len() > row.len());
            if keepable {
                self.nest.stages[s].keep = Keep::Row;
            }
            let stage = &self.nest.stages[s];
            let through = match stage.keep {
                Keep::Inline => roots[s].clone(),
                Keep::Row | Keep::Out => BTreeSet::from([s as u16]),
            };
            for operand in stage_operands(stage).collect::<Vec<_>>() {
                roots[operand as usize].extend(&through);
            }
        }
        self.nest.shared = row.len();
        Ok(())
    }

    /// Stages that nothing reads any more, after results were turned around.
    fn drop_dead(&mut self) {
        let n = self.nest.stages.len();
        let mut live = vec![false; n];
        for o in &self.nest.outs {
            live[o.stage as usize] = true;
        }
        for s in (0..n).rev() {
            if live[s] {
                for o in stage_operands(&self.nest.stages[s]) {
                    live[o as usize] = true;
                }
            }
        }
        let mut at = vec![0u16; n];
        let mut kept = vec![];
        for (s, stage) in std::mem::take(&mut self.nest.stages).into_iter().enumerate() {
            at[s] = kept.len() as u16;
            if live[s] {
                kept.push(stage);
            }
        }
        for stage in &mut kept {
            for scalar in &mut stage.body.0 {
                if let Scalar::Load { from: From::Stage(s), .. } = scalar {
                    *s = at[*s as usize];
                }
            }
        }
        self.nest.outs.iter_mut().for_each(|o| o.stage = at[o.stage as usize]);
        self.nest.stages = kept;
    }

    /// FLOP of one evaluation of each stage with everything inline in it.
    fn inline_costs(&self) -> Vec<u64> {
        let mut costs: Vec<u64> = vec![];
        for stage in &self.nest.stages {
            let own: u64 = stage
                .body
                .0
                .iter()
                .map(|s| match s {
                    Scalar::Fn(f, _) => f.flops(),
                    Scalar::Load { .. }
                    | Scalar::Axis(_)
                    | Scalar::Const(_)
                    | Scalar::Guarded { .. } => 0,
                })
                .sum();
            let operands: u64 = stage_operands(stage)
                .filter(|s| self.nest.stages[*s as usize].keep == Keep::Inline)
                .map(|s| costs[s as usize])
                .sum();
            costs.push(own.saturating_add(operands).min(1 << 40));
        }
        costs
    }

    /// The longest prefix of axes that all kept stages have in common and at which they read each
    /// other only in place.
    fn row_axes(&self) -> Vec<i64> {
        let kept: Vec<u16> = (0..self.nest.stages.len() as u16)
            .filter(|s| self.nest.stages[*s as usize].keep != Keep::Inline)
            .collect();
        let mut prefix = self.nest.stages[kept[0] as usize].axes.clone();
        for s in &kept {
            let axes = &self.nest.stages[*s as usize].axes;
            let common = prefix.iter().zip(axes).take_while(|(a, b)| a == b).count();
            prefix.truncate(common);
        }
        for s in &kept {
            let stage = &self.nest.stages[*s as usize];
            let extents = stage.extents();
            let point: Vec<Expr> = (0..extents.len()).map(Expr::axis).collect();
            let mut resolved = Resolved::default();
            // `shared` is still 0, so the coordinates of stage reads are whole.
            resolve(&self.nest, *s, &point, &extents, &mut resolved);
            for leaf in &resolved.leaves {
                let Leaf::Stage { at, .. } = leaf else { continue };
                let in_place = at.iter().enumerate().take_while(|(i, e)| {
                    **e == Expr::axis(*i) || extents.get(*i) == Some(&1) && e.as_const() == Some(0)
                });
                prefix.truncate(in_place.count().min(prefix.len()));
            }
        }
        prefix
    }

    /// A result may take over an operand's bytes where the nest is pointwise and reads the operand
    /// at the result's own offset only.
    fn inplace(&mut self) {
        let nest = &self.nest;
        let one_shape = nest.outs.windows(2).all(|w| {
            nest.stages[w[0].stage as usize].axes == nest.stages[w[1].stage as usize].axes
        });
        if nest.stages.iter().any(|s| s.keep == Keep::Row || s.combine.is_some()) || !one_shape {
            return;
        }
        let mut inline = nest.clone();
        inline.stages.iter_mut().for_each(|s| s.keep = Keep::Inline);
        let mut resolved = Resolved::default();
        for out in &nest.outs {
            let extents = nest.stages[out.stage as usize].axes.clone();
            let point: Vec<Expr> = (0..extents.len()).map(Expr::axis).collect();
            resolve(&inline, out.stage, &point, &extents, &mut resolved);
        }
        let mut pairs = vec![];
        for out in &nest.outs {
            for operand in 0..nest.operands as u16 {
                let (o, r) = (&nest.slots[operand as usize], &nest.slots[out.slot as usize]);
                let same_size = o.dtype == r.dtype && o.numel() == r.numel();
                let in_step = resolved.leaves.iter().all(|l| match l {
                    Leaf::Slot { slot, at } => *slot != operand || *at == out.at,
                    Leaf::Guarded { .. } | Leaf::Fn(..) | Leaf::Const(_) | Leaf::Stage { .. } => {
                        true
                    }
                    Leaf::Axis(_) => true,
                });
                let dynamic = resolved.leaves.iter().any(|l| reads_index(l, operand));
                if same_size && in_step && !dynamic {
                    pairs.push((out.slot, operand));
                }
            }
        }
        self.nest.inplace = pairs;
    }
}

/// Whether a leaf reads a slot as a run-time index.
fn reads_index(leaf: &Leaf, slot: u16) -> bool {
    fn expr(e: &Expr, slot: u16) -> bool {
        e.terms.iter().any(|(t, _)| match t {
            Term::Axis(_) => false,
            Term::FloorDiv(e, _) | Term::Mod(e, _) => expr(e, slot),
            Term::Dyn { slot: s, at, .. } => *s == slot || at.iter().any(|e| expr(e, slot)),
        })
    }
    match leaf {
        Leaf::Slot { at, .. } => expr(at, slot),
        Leaf::Stage { at, .. } => at.iter().any(|e| expr(e, slot)),
        Leaf::Axis(e) => expr(e, slot),
        Leaf::Guarded { guards, .. } => guards.iter().any(|g| expr(&g.expr, slot)),
        Leaf::Const(_) | Leaf::Fn(..) => false,
    }
}

fn stage_operands(stage: &Stage) -> impl Iterator<Item = u16> + '_ {
    stage.body.0.iter().filter_map(|s| match s {
        Scalar::Load { from: From::Stage(s), .. } => Some(*s),
        Scalar::Load { .. }
        | Scalar::Axis(_)
        | Scalar::Const(_)
        | Scalar::Fn(..)
        | Scalar::Guarded { .. } => None,
    })
}
