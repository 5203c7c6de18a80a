//! Products of one value with several parameters become one product (queries, keys and values).
//!
//! `x · a, x · b, x · c = split(x · [a, b, c])`. Exact: every element is the same sum in the same
//! order. The weights are joined by an op on parameters, once at load. Biases that follow every one
//! of the products join too, so that the merged product keeps its epilogue.

use std::collections::BTreeMap;

use super::known::Known;
use super::rebuild::{Visit, rebuild};
use super::{PassCtx, class_of};
use crate::base::{Dim, Shape};
use crate::ir::op::{Class, ContractSpec, Op, OpError, Source};
use crate::ir::scalar::ScalarFn;
use crate::ir::{Attr, Builder, Graph, NodeId, Value};

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    if cx.settings.training {
        return Ok(());
    }
    let groups = find_groups(graph);
    // By old id: the group that a product or a bias belongs to, its place there, and whether the
    // merged result takes the node's place.
    let mut place: BTreeMap<NodeId, (usize, usize, bool)> = BTreeMap::new();
    for (g, group) in groups.iter().enumerate() {
        for (k, m) in group.members.iter().enumerate() {
            place.insert(m.product, (g, k, m.bias.is_none()));
            if let Some((sum, _)) = m.bias {
                place.insert(sum, (g, k, true));
            }
        }
    }
    // The sources stand first in the new graph, in the order of the signature.
    let old_sources: Vec<NodeId> = graph.inputs.iter().chain(&graph.params).copied().collect();
    let at: BTreeMap<NodeId, usize> =
        old_sources.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let new = move |v: Value| Value { node: NodeId(at[&v.node] as u32), result: v.result };
    let mut merged: BTreeMap<usize, Option<Vec<Value>>> = BTreeMap::new();
    rebuild(graph, &mut |graph, id, node| {
        let Some((g, k, takes_place)) = place.get(&id).copied() else {
            return Ok(Visit::Keep(node));
        };
        if let std::collections::btree_map::Entry::Vacant(slot) = merged.entry(g) {
            slot.insert(match cx.allow("x · a, x · b = split(x · [a, b])") {
                true => Some(groups[g].build(graph, node.operands()[0], &node.loc, &new)?),
                false => None,
            });
        }
        match &merged[&g] {
            Some(parts) if takes_place => Ok(Visit::Replace(vec![parts[k]])),
            Some(_) | None => Ok(Visit::Keep(node)),
        }
    })
}

/// Products that become one.
struct Group {
    op: Op,
    /// Of the weights and of the result: the axis that is joined.
    weight_axis: usize,
    out_axis: usize,
    members: Vec<Member>,
}

#[derive(Clone, Copy)]
struct Member {
    product: NodeId,
    weights: Value,
    /// The sum with a bias, and the bias.
    bias: Option<(NodeId, Value)>,
}

fn find_groups(graph: &Graph) -> Vec<Group> {
    let uses = uses(graph);
    let mut groups: BTreeMap<Value, Vec<Group>> = BTreeMap::new();
    let mut known = Known::default();
    for id in graph.ids() {
        let node = graph.node(id);
        let Class::Contract(spec) = class_of(graph, node) else { continue };
        let [x, weights] = *node.operands() else { continue };
        let Some((weight_axis, out_axis)) = channel_axes(&spec) else { continue };
        let extent = graph.ty(weights).shape.dims()[weight_axis].as_const();
        if extent.is_none() || !is_own_param(graph, weights, &uses) || known.is_known(graph, x) {
            continue;
        }
        let bias = sum_with_bias(graph, id, out_axis, &uses);
        let member = Member { product: id, weights, bias };
        let same = groups.entry(x).or_default();
        let fits = |g: &&mut Group| {
            let first = g.members[0];
            g.op == node.op
                && g.weight_axis == weight_axis
                && first.bias.is_some() == bias.is_some()
                && same_but(graph, first.weights, weights, weight_axis)
        };
        match same.iter_mut().find(fits) {
            Some(group) => group.members.push(member),
            None => same.push(Group {
                op: node.op.clone(),
                weight_axis,
                out_axis,
                members: vec![member],
            }),
        }
    }
    groups.into_values().flatten().filter(|g| g.members.len() > 1).collect()
}

/// By id: reads of a node, by nodes, outputs and states, with the latest reader.
fn uses(graph: &Graph) -> Vec<(u32, Option<NodeId>)> {
    let mut uses = vec![(0, None); graph.id_bound()];
    for id in graph.ids() {
        for v in graph.node(id).operands() {
            let slot: &mut (u32, Option<NodeId>) = &mut uses[v.node.0 as usize];
            *slot = (slot.0 + 1, Some(id));
        }
    }
    let states = graph.states.iter().map(|s| s.next);
    for v in graph.outputs.iter().map(|o| o.value).chain(states) {
        uses[v.node.0 as usize].0 += 2;
    }
    uses
}

/// The one axis of the second operand that is an axis of the result and not of the first operand.
fn channel_axes(spec: &ContractSpec) -> Option<(usize, usize)> {
    let is_channel = |l: &u8| spec.out.contains(l) && !spec.lhs.contains(l);
    let mut axes = (0..spec.rhs.len()).filter(|i| is_channel(&spec.rhs[*i]));
    let axis = axes.next().filter(|_| axes.next().is_none())?;
    let label = spec.rhs[axis];
    Some((axis, spec.out.iter().position(|l| *l == label)?))
}

/// A parameter that nothing else reads: joined weights would be a second copy.
fn is_own_param(graph: &Graph, v: Value, uses: &[(u32, Option<NodeId>)]) -> bool {
    class_of(graph, graph.node(v.node)) == Class::Source(Source::Param)
        && uses[v.node.0 as usize].0 == 1
}

/// The only reader of a product, where it adds a parameter along the joined axis, the last one.
fn sum_with_bias(
    graph: &Graph,
    id: NodeId,
    out_axis: usize,
    uses: &[(u32, Option<NodeId>)],
) -> Option<(NodeId, Value)> {
    let (1, Some(reader)) = uses[id.0 as usize] else { return None };
    let node = graph.node(reader);
    if class_of(graph, node) != Class::Elementwise(ScalarFn::Add) {
        return None;
    }
    let [a, b] = *node.operands() else { return None };
    let bias = if a.node == id { b } else { a };
    let ty = &graph.node(id).results[0];
    let last = out_axis + 1 == ty.rank();
    let fits = graph.ty(bias).shape.dims() == &ty.shape.dims()[out_axis..];
    (last && fits && is_own_param(graph, bias, uses)).then_some((reader, bias))
}

/// Whether two values have one type, but for the extent of an axis.
fn same_but(graph: &Graph, a: Value, b: Value, axis: usize) -> bool {
    let (a, b) = (graph.ty(a), graph.ty(b));
    let others = |s: &Shape| {
        let mut dims = s.dims().to_vec();
        dims[axis] = Dim::ONE;
        dims
    };
    a.dtype == b.dtype && a.rank() == b.rank() && others(&a.shape) == others(&b.shape)
}

impl Group {
    /// The parts of the merged product, one for each member.
    fn build(
        &self,
        graph: &mut Graph,
        x: Value,
        loc: &Option<crate::ir::Loc>,
        new: &dyn Fn(Value) -> Value,
    ) -> Result<Vec<Value>, OpError> {
        let mut b = Builder { graph, loc: loc.clone() };
        let join = |b: &mut Builder, values: Vec<Value>, axis: usize| {
            b.op("concat", &values, &[("axis", Attr::Int(axis as i64))])
        };
        let weights: Vec<Value> = self.members.iter().map(|m| new(m.weights)).collect();
        let extents: Vec<i64> = weights
            .iter()
            .map(|w| b.ty(*w).shape.dims()[self.weight_axis].as_const())
            .collect::<Option<_>>()
            .ok_or_else(OpError::overflow)?;
        let weights = join(&mut b, weights, self.weight_axis)?;
        let node = b.push(self.op.clone(), vec![x, weights], vec![])?;
        let mut y = Value { node, result: 0 };
        let biases: Option<Vec<Value>> =
            self.members.iter().map(|m| m.bias.map(|(_, v)| new(v))).collect();
        if let Some(biases) = biases {
            let bias = join(&mut b, biases, 0)?;
            y = b.bin("add", y, bias)?;
        }
        let mut start = 0i64;
        let mut parts = vec![];
        for n in extents {
            let ints = |v: i64| Attr::Ints(vec![v]);
            let axes = ints(self.out_axis as i64);
            let attrs = [("starts", ints(start)), ("ends", ints(start + n)), ("axes", axes)];
            parts.push(b.op("slice", &[y], &attrs)?);
            start += n;
        }
        Ok(parts)
    }
}
