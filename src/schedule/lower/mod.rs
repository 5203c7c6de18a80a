//! From a fusion group to a Nest.
//!
//! In: the region of a group, with bound shapes and only nodes that have a nest form. Every node
//! becomes a stage whose body reads its operands through index maps; then it is decided which
//! stages are kept, and the results of a group with an anchor are turned around so that they are
//! computed where the anchor is: `out[view(p)] = f(anchor[p])`.

mod keep;
mod results;
mod window;

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
    lowering.whole_tiles()?;
    lowering.inplace();
    Ok(lowering.nest)
}

pub(super) struct Lowering<'a> {
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
            Class::Window(WindowSpec { kind: WindowKind::Winograd { tile }, pad, .. }) => {
                self.winograd(id, (tile, &pad), &shapes, &result);
            }
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
        self.nest.stages.push(Stage {
            axes,
            reduce,
            combine,
            body,
            dtype,
            keep: Keep::Inline,
            tile: None,
        });
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
}
