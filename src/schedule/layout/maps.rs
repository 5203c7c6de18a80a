//! Feature maps in blocks of channels, for chains of convolutions.
//!
//! In: the graph of runs. A value `[N, C, spatial…]` that only convolutions, pools, elementwise
//! ops, concatenations and reductions over space touch is stored as `[N, C / 16, spatial…, 16]`:
//! a `relayout` behind what computes it, views that undo it before what reads it. Sixteen channels
//! then lie in lanes whatever the width of the map. The rim keeps the plain order: inputs and
//! results of the model (those of convolutions are copied), and whatever else reads a value. Which
//! values are in blocks depends on the graph alone, so results are the same on every machine.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::DType;
use crate::ir::attr::Attr;
use crate::ir::builder::Builder;
use crate::ir::graph::{Graph, NodeId, Value};
use crate::ir::op::{Class, OpError, Source, View, WindowKind, WindowSpec};

use super::super::consts::Split;
use super::super::fusion::{Group, Mode, groups};
use super::fill;

/// Channels of a block.
pub const BLOCK: usize = 16;

/// What a convolution does with channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conv {
    /// Every output sums over every input.
    Dense,
    /// Channel by channel.
    Depthwise,
}

/// A group whose result goes in blocks.
struct Chosen {
    root: NodeId,
    members: BTreeSet<NodeId>,
    conv: Option<(NodeId, Conv)>,
}

/// Puts feature maps in blocks; gives the convolutions that work on them.
pub fn block(split: &mut Split) -> Result<Vec<(NodeId, Conv)>, OpError> {
    let graph = &split.run;
    if !graph.ids().any(|id| conv(graph, id).is_some()) {
        return Ok(vec![]);
    }
    let mut convs = vec![];
    let mut whole: BTreeMap<Value, Value> = BTreeMap::new();
    for Chosen { root, members, conv } in Choice::of(graph).chosen() {
        let users = split.run.users(root);
        let channels = channels(&split.run, Value { node: root, result: 0 }).unwrap_or(0);
        let filled = match channels.is_multiple_of(BLOCK) {
            true => None,
            false => Some(fill::fill(split, (root, &members), conv, &whole)?),
        };
        let now = |id: NodeId| filled.as_ref().map_or(id, |at| at[&id]);
        let map = in_blocks(&mut split.run, Value { node: now(root), result: 0 })?;
        convs.extend(conv.map(|(id, conv)| (now(id), conv)));
        let read = match filled {
            None => map,
            Some(_) => {
                let slice = fill::first(&mut Builder::new(&mut split.run), map, channels)?;
                whole.insert(slice, map);
                slice
            }
        };
        for (_, user, operand) in users {
            split.run.set_operand(user, operand as usize, read);
        }
        for output in split.run.outputs.iter_mut().filter(|o| o.value.node == root) {
            output.value = read;
        }
        if filled.is_some() {
            let order = split.run.topological();
            for id in order.into_iter().rev().filter(|id| members.contains(id)) {
                split.run.remove(id);
            }
        }
    }
    Ok(convs)
}

/// A map stored in blocks, and views that undo it.
fn in_blocks(graph: &mut Graph, map: Value) -> Result<Value, OpError> {
    let shape = graph.ty(map).shape.clone();
    let rank = shape.0.len();
    let mut b = Builder::new(graph);
    b.loc = b.graph.node(map.node).loc.clone();
    let attrs = [("axis", Attr::Int(1)), ("block", Attr::Int(BLOCK as i64))];
    let stored = b.op("relayout", &[map], &attrs)?;
    // Axes N, C / 16, 16, spatial.
    let perm = [0, 1, rank].into_iter().chain(2..rank).map(|a| a as i64).collect();
    let plain = b.op("transpose", &[stored], &[("perm", Attr::Ints(perm))])?;
    b.reshape(plain, &shape)
}

/// The dense or depthwise convolution that a node is, with weights among the parameters.
fn conv(graph: &Graph, id: NodeId) -> Option<Conv> {
    let Class::Window(WindowSpec { kind: WindowKind::Conv { groups }, .. }) = graph.class(id)
    else {
        return None;
    };
    let [x, w] = [0, 1].map(|i| graph.node(id).operands()[i]);
    if !matches!(graph.class(w.node), Class::Source(Source::Param)) {
        return None;
    }
    match groups {
        1 => Some(Conv::Dense),
        g if channels(graph, x)? == g && graph.ty(w).shape.concrete()?[0] == g => {
            Some(Conv::Depthwise)
        }
        _ => None,
    }
}

fn channels(graph: &Graph, v: Value) -> Option<usize> {
    graph.ty(v).shape.concrete()?.get(1).copied()
}

struct Choice<'a> {
    graph: &'a Graph,
    groups: Vec<Group>,
    /// The groups that a node is in.
    member_of: BTreeMap<NodeId, Vec<usize>>,
    /// Groups whose result is to be in blocks.
    blocked: BTreeSet<usize>,
    /// Groups by the node whose value they store.
    stored: BTreeMap<NodeId, usize>,
}

impl<'a> Choice<'a> {
    fn of(graph: &'a Graph) -> Choice<'a> {
        let groups = groups(graph, Mode::Together);
        let mut member_of: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (i, g) in groups.iter().enumerate() {
            for m in &g.members {
                member_of.entry(*m).or_default().push(i);
            }
        }
        let stored = groups.iter().enumerate().map(|(i, g)| (g.root, i)).collect();
        let states: BTreeSet<NodeId> = graph.states.iter().map(|s| s.next.node).collect();
        let outputs: BTreeSet<NodeId> = graph.outputs.iter().map(|o| o.value.node).collect();
        // A result of the model is copied from blocks where that is little beside computing it.
        let escapes = |g: &Group| {
            let dense = g.anchor.is_some_and(|a| conv(graph, a) == Some(Conv::Dense));
            states.contains(&g.root) || outputs.contains(&g.root) && !dense
        };
        let fits = |g: &Group| {
            let ty = &graph.node(g.root).results[0];
            let shape = ty.shape.concrete().unwrap_or_default();
            let plain = graph.users(g.root).iter().all(|(result, _, _)| *result == 0);
            (3..=5).contains(&shape.len())
                && ty.dtype == DType::F32
                && shape.iter().product::<usize>() > 0
                && (shape[1].is_multiple_of(BLOCK) || fill::pays(shape[1]))
                && plain
                && !escapes(g)
        };
        let blocked = (0..groups.len()).filter(|i| fits(&groups[*i])).collect();
        Choice { graph, groups, member_of, blocked, stored }
    }

    /// Drops values until all that is left agrees; producers come before consumers.
    fn chosen(mut self) -> Vec<Chosen> {
        loop {
            let keeps =
                |i: &&usize| self.computes(**i) && self.is_filled(**i) && self.is_read_well(**i);
            let kept: BTreeSet<usize> = self.blocked.iter().filter(keeps).copied().collect();
            if kept.len() == self.blocked.len() {
                break;
            }
            self.blocked = kept;
        }
        let one = |i: &usize| {
            let g = &self.groups[*i];
            let conv = g.anchor.and_then(|a| conv(self.graph, a).map(|c| (a, c)));
            Chosen { root: g.root, members: g.members.clone(), conv }
        };
        // Groups were found from the results to the inputs.
        self.blocked.iter().rev().map(one).collect()
    }

    fn is_blocked(&self, v: Value) -> bool {
        v.result == 0 && self.stored.get(&v.node).is_some_and(|g| self.blocked.contains(g))
    }

    /// Whether the group can compute its result in blocks: from operands in blocks.
    fn computes(&self, i: usize) -> bool {
        let (graph, group) = (self.graph, &self.groups[i]);
        if !group.reduces.is_empty() {
            return false;
        }
        let outside = group
            .members
            .iter()
            .flat_map(|m| graph.node(*m).operands().iter().map(move |v| (*m, *v)))
            .filter(|(_, v)| !group.members.contains(&v.node));
        let rank = graph.node(group.root).results[0].shape.rank();
        let mut maps = outside.filter(|(m, v)| {
            let source = matches!(graph.class(v.node), Class::Source(Source::Param));
            Some(*m) != group.anchor && !source && graph.ty(*v).shape.rank() == rank && {
                let shape = graph.ty(*v).shape.concrete().unwrap_or_default();
                shape[2..].iter().product::<usize>() > 1
            }
        });
        match group.anchor {
            Some(anchor) => {
                let x = graph.node(anchor).operands()[0];
                let reads = match graph.class(anchor) {
                    Class::Window(WindowSpec { kind: WindowKind::Conv { .. }, .. }) => {
                        match conv(graph, anchor) {
                            // It broadcasts pixel by pixel: these lie well in either order.
                            Some(Conv::Dense) => true,
                            Some(Conv::Depthwise) => self.is_blocked(x),
                            None => false,
                        }
                    }
                    Class::Window(_) => self.is_blocked(x),
                    _ => false,
                };
                reads && maps.all(|(_, v)| self.is_blocked(v))
            }
            None => {
                let maps: Vec<Value> = maps.map(|(_, v)| v).collect();
                !maps.is_empty() && maps.iter().all(|v| self.is_blocked(*v))
            }
        }
    }

    /// Whether the group's channels are whole blocks, or can be filled up: see `fill`.
    fn is_filled(&self, i: usize) -> bool {
        let (graph, group) = (self.graph, &self.groups[i]);
        let shape = |v: Value| graph.ty(v).shape.concrete().unwrap_or_default();
        let root = shape(Value { node: group.root, result: 0 });
        let channels = root[1];
        // Of each member, and of what it reads from outside.
        let outside = |v: &Value| {
            let of = shape(*v);
            let axis = (of.len() + 1).checked_sub(root.len());
            self.is_blocked(*v)
                || axis.is_none_or(|a| of[a] != channels)
                || matches!(graph.class(v.node), Class::Source(Source::Param))
        };
        let member = |m: &NodeId| {
            let node = graph.node(*m);
            let own = shape(Value { node: *m, result: 0 });
            let fits = own.len() == root.len() && own[1] == channels;
            fits && match graph.class(*m) {
                Class::Window(_) => group.anchor == Some(*m),
                Class::Elementwise(_) => {
                    node.operands().iter().all(|v| group.members.contains(&v.node) || outside(v))
                }
                Class::Source(_)
                | Class::View(_)
                | Class::Reduce(_)
                | Class::Contract(_)
                | Class::Gather { .. }
                | Class::Scatter(_)
                | Class::UpdateSlice { .. }
                | Class::Sort(_)
                | Class::Region(_)
                | Class::Composite => false,
            }
        };
        channels.is_multiple_of(BLOCK) || group.members.iter().all(member)
    }

    /// Whether all that reads the group's result can take it in blocks.
    fn is_read_well(&self, i: usize) -> bool {
        let (graph, root) = (self.graph, self.groups[i].root);
        let shape = graph.node(root).results[0].shape.concrete().unwrap_or_default();
        if shape[2..].iter().all(|n| *n == 1) {
            // Of one pixel: the order is the plain one.
            return true;
        }
        graph.users(root).iter().all(|(_, user, operand)| {
            let mut groups = self.member_of.get(user).into_iter().flatten();
            let mut stored = || groups.all(|g| self.blocked.contains(g));
            match graph.class(*user) {
                // A pool reads blocks whatever order it stores.
                Class::Window(spec) => {
                    let pools = !matches!(spec.kind, WindowKind::Conv { .. });
                    *operand == 0 && (pools || stored())
                }
                Class::Reduce(spec) => spec.axes.iter().all(|a| *a >= 2),
                Class::View(View::Concat { axis: 1 }) | Class::Elementwise(_) => groups.all(|g| {
                    let group = &self.groups[*g];
                    self.blocked.contains(g) || group.anchor.is_none() && !group.reduces.is_empty()
                }),
                Class::Source(_)
                | Class::View(_)
                | Class::Contract(_)
                | Class::Gather { .. }
                | Class::Scatter(_)
                | Class::UpdateSlice { .. }
                | Class::Sort(_)
                | Class::Region(_)
                | Class::Composite => false,
            }
        })
    }
}
