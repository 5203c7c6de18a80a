//! Units: nodes that are placed together.
//!
//! - An op that computes much is a unit, with the elementwise ops and views that read it alone: what
//!   fusion would join is not cut. One that joins two branches is a unit of its own, so that the
//!   branches may run side by side. Only the first node of a unit reads others; so no two units read
//!   each other.
//! - A state, whoever reads it, and the node that makes its next value are one unit, with all that
//!   lies between them.
//! - A node that is named in a file of queues begins a unit.
//!
//! What depends on no input and no state belongs to no unit: whoever needs it computes it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use super::components::components;
use crate::ir::graph::{Graph, NodeId, Value};
use crate::ir::op::{Class, Source};

#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// In topological order.
    pub nodes: Vec<NodeId>,
    /// Units whose values it reads, ascending. All have smaller numbers.
    pub reads: Vec<usize>,
    /// Values that it reads of others, inputs among them, each once.
    pub imports: Vec<Value>,
    /// Its values that other units or the model's outputs read.
    pub exports: Vec<Value>,
}

#[derive(Clone, Debug)]
pub struct Units {
    /// In topological order.
    pub all: Vec<Unit>,
    /// The unit of a node, by its id.
    of: Vec<Option<usize>>,
}

impl Units {
    /// `begins` are nodes that do not follow others.
    pub fn of(graph: &Graph, begins: &dyn Fn(NodeId) -> bool) -> Units {
        let order = graph.topological();
        let first = grouped(graph, &order, begins);
        let joined = with_states(graph, &order, first);
        numbered(graph, &order, joined)
    }

    /// The unit that computes a node; none for inputs and what depends on none.
    pub fn unit(&self, id: NodeId) -> Option<usize> {
        self.of[id.0 as usize]
    }
}

/// Whether a node can go with what it reads.
fn follows(class: &Class) -> bool {
    match class {
        Class::Elementwise(_) | Class::View(_) => true,
        Class::Source(_)
        | Class::Reduce(_)
        | Class::Contract(_)
        | Class::Window(_)
        | Class::Gather { .. }
        | Class::Scatter(_)
        | Class::UpdateSlice { .. }
        | Class::Sort(_)
        | Class::Region(_)
        | Class::Composite => false,
    }
}

/// A group for each node that is computed in runs: the place of the group's first node in the order.
fn grouped(graph: &Graph, order: &[NodeId], begins: &dyn Fn(NodeId) -> bool) -> Vec<Option<usize>> {
    let mut group = vec![None; graph.id_bound()];
    // Whether a run's inputs or states matter to a node.
    let mut varies = vec![false; graph.id_bound()];
    for (place, id) in order.iter().enumerate() {
        let (at, class) = (id.0 as usize, graph.class(*id));
        let operands = || graph.node(*id).operands().iter().map(|v| v.node.0 as usize);
        varies[at] = match class {
            Class::Source(Source::Input | Source::State) => true,
            _ => operands().any(|o| varies[o]),
        };
        if !varies[at] || class == Class::Source(Source::Input) {
            continue;
        }
        let leader = match follows(&class) && !begins(*id) {
            true => only(operands().filter_map(|o| group[o])),
            false => None,
        };
        group[at] = Some(leader.unwrap_or(place));
    }
    group
}

/// What all of them are, if they are one.
fn only(mut groups: impl Iterator<Item = usize>) -> Option<usize> {
    let first = groups.next()?;
    groups.all(|g| g == first).then_some(first)
}

/// Groups joined where they share a state, and where joined ones would read each other.
fn with_states(graph: &Graph, order: &[NodeId], group: Vec<Option<usize>>) -> Vec<Option<usize>> {
    let at = |id: NodeId| group[id.0 as usize];
    let mut reads: Vec<Vec<usize>> = vec![vec![]; order.len()];
    for (user, operand) in edges(graph, order) {
        if let (Some(user), Some(operand)) = (at(user), at(operand)) {
            reads[user].push(operand);
        }
    }
    // Groups that read each other are one component; so they are made to.
    let mut tie = |a: usize, b: usize| {
        reads[a].push(b);
        reads[b].push(a);
    };
    for state in &graph.states {
        let Some(own) = at(state.node) else { continue };
        let users = graph.users(state.node).into_iter().map(|(_, user, _)| user);
        users.chain([state.next.node]).filter_map(at).for_each(|other| tie(own, other));
    }
    let component = components(&reads);
    group.into_iter().map(|g| g.map(|g| component[g])).collect()
}

fn edges<'a>(graph: &'a Graph, order: &'a [NodeId]) -> impl Iterator<Item = (NodeId, NodeId)> + 'a {
    order.iter().flat_map(|id| graph.node(*id).operands().iter().map(|v| (*id, v.node)))
}

/// Groups as units, numbered topologically: of those that read nothing open, the one whose first
/// node comes first.
fn numbered(graph: &Graph, order: &[NodeId], group: Vec<Option<usize>>) -> Units {
    let bound = group.iter().flatten().max().map_or(0, |m| m + 1);
    let mut units: Vec<Unit> = vec![Unit::default(); bound];
    let (mut users, mut reads) = (vec![BTreeSet::new(); bound], vec![BTreeSet::new(); bound]);
    for id in order {
        if let Some(g) = group[id.0 as usize] {
            units[g].nodes.push(*id);
        }
    }
    for (user, operand) in edges(graph, order) {
        if let (Some(u), Some(o)) = (group[user.0 as usize], group[operand.0 as usize])
            && u != o
        {
            reads[u].insert(o);
            users[o].insert(u);
        }
    }
    let mut place = vec![usize::MAX; graph.id_bound()];
    order.iter().enumerate().for_each(|(i, id)| place[id.0 as usize] = i);
    let first = |units: &[Unit], g: usize| place[units[g].nodes[0].0 as usize];
    let mut missing: Vec<usize> = reads.iter().map(BTreeSet::len).collect();
    let ready = (0..bound).filter(|g| !units[*g].nodes.is_empty() && missing[*g] == 0);
    let mut ready: BinaryHeap<_> = ready.map(|g| Reverse((first(&units, g), g))).collect();
    let (mut new, mut all) = (vec![usize::MAX; bound], vec![]);
    while let Some(Reverse((_, g))) = ready.pop() {
        new[g] = all.len();
        for user in &users[g] {
            missing[*user] -= 1;
            if missing[*user] == 0 {
                ready.push(Reverse((first(&units, *user), *user)));
            }
        }
        let mut unit = std::mem::take(&mut units[g]);
        unit.reads = reads[g].iter().map(|r| new[*r]).collect();
        unit.reads.sort();
        all.push(unit);
    }
    let of = group.into_iter().map(|g| g.map(|g| new[g])).collect();
    let mut units = Units { all, of };
    units.borders(graph);
    units
}

impl Units {
    /// Fills in what crosses the borders of units.
    fn borders(&mut self, graph: &Graph) {
        let mut imports: Vec<BTreeSet<Value>> = vec![BTreeSet::new(); self.all.len()];
        let mut exports = imports.clone();
        for id in graph.ids() {
            let Some(user) = self.unit(id) else { continue };
            for v in graph.node(id).operands() {
                let is_input = graph.class(v.node) == Class::Source(Source::Input);
                match self.unit(v.node) {
                    Some(unit) if unit == user => {}
                    Some(unit) => {
                        imports[user].insert(*v);
                        exports[unit].insert(*v);
                    }
                    None if is_input => {
                        imports[user].insert(*v);
                    }
                    None => {}
                }
            }
        }
        for output in &graph.outputs {
            if let Some(unit) = self.unit(output.value.node) {
                exports[unit].insert(output.value);
            }
        }
        for (unit, (imports, exports)) in self.all.iter_mut().zip(imports.into_iter().zip(exports))
        {
            (unit.imports, unit.exports) =
                (imports.into_iter().collect(), exports.into_iter().collect());
        }
    }
}
