//! The graph of each segment.
//!
//! In: a graph, its units, and the segments in the order of a run. Out: a graph for each segment. Its
//! inputs are those of the model's inputs that it reads, then values of earlier segments; its
//! outputs are what later segments and the model's outputs read. Parameters, constants, and what is
//! computed of them alone, are in every graph that needs them; a state is in one.

use std::collections::{BTreeMap, BTreeSet};

use super::cost::is_input;
use super::timeline::Segment;
use super::units::Units;
use crate::ir::Builder;
use crate::ir::graph::{Graph, Node, NodeId, Output, StatePair, Value};
use crate::ir::op::{Class, Source};
use crate::schedule::program::Queue;

/// Where an input of a segment comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// The caller: the i-th input of the model.
    Input(usize),
    Part {
        part: usize,
        output: usize,
    },
}

/// A segment as a graph of its own.
#[derive(Clone, Debug)]
pub struct Part {
    pub queue: Queue,
    pub graph: Graph,
    /// Of each input of the graph.
    pub origins: Vec<Origin>,
    /// The nodes of the whole graph that it computes in runs.
    pub nodes: Vec<NodeId>,
}

/// A graph cut into parts, in the order of a run.
#[derive(Clone, Debug)]
pub struct Split {
    pub parts: Vec<Part>,
    /// Part and output of each output of the model.
    pub outputs: Vec<(usize, usize)>,
    /// Part and state of each state of the model.
    pub states: Vec<(usize, usize)>,
}

impl Split {
    pub fn of(graph: &Graph, units: &Units, segments: &[Segment]) -> Split {
        let mut cut = Cut::new(graph, units, segments);
        cut.exports();
        let mut split = Split { parts: vec![], outputs: vec![], states: vec![] };
        for (i, (queue, _)) in cut.own.iter().enumerate() {
            split.parts.push(cut.part(i, *queue));
        }
        for o in &graph.outputs {
            let part = cut.home(o.value.node);
            split.outputs.push((part, cut.port(part, o.value)));
        }
        let mut counted = vec![0; split.parts.len()];
        for s in &graph.states {
            let part = cut.home(s.node);
            split.states.push((part, counted[part]));
            counted[part] += 1;
        }
        split
    }
}

impl Split {
    /// A unit as a graph of its own.
    pub fn alone(graph: &Graph, units: &Units, unit: usize) -> Graph {
        let segment =
            |units: Vec<usize>| Segment { queue: Queue::Gpu, units, start_us: 0.0, end_us: 0.0 };
        let rest = (0..units.all.len()).filter(|u| *u != unit).collect();
        let mut cut = Cut::new(graph, units, &[segment(vec![unit]), segment(rest)]);
        cut.exports();
        cut.part(0, Queue::Gpu).graph
    }
}

struct Cut<'a> {
    graph: &'a Graph,
    /// Queue and nodes of each segment.
    own: Vec<(Queue, Vec<NodeId>)>,
    /// The segment that computes a node, by its id.
    at: Vec<Option<usize>>,
    /// The segment that passes inputs and constants on to the model's outputs.
    passing: usize,
    /// What others need of each segment, in order.
    exports: Vec<Vec<Value>>,
    order: Vec<NodeId>,
}

impl<'a> Cut<'a> {
    fn new(graph: &'a Graph, units: &Units, segments: &[Segment]) -> Cut<'a> {
        let mut at = vec![None; graph.id_bound()];
        let mut own = vec![];
        for (i, segment) in segments.iter().enumerate() {
            let nodes = segment.units.iter().flat_map(|u| units.all[*u].nodes.iter().copied());
            let nodes: Vec<NodeId> = nodes.collect();
            nodes.iter().for_each(|id| at[id.0 as usize] = Some(i));
            own.push((segment.queue, nodes));
        }
        let near = own.iter().position(|(queue, _)| *queue == Queue::Cpu);
        let passing = near.unwrap_or(own.len());
        let passes = graph.outputs.iter().any(|o| at[o.value.node.0 as usize].is_none());
        if own.is_empty() || (passes && passing == own.len()) {
            own.push((Queue::Cpu, vec![]));
        }
        let order = graph.topological();
        let exports = vec![vec![]; own.len()];
        Cut { graph, own, at, passing, exports, order }
    }

    /// The segment that has a value for others.
    fn home(&self, id: NodeId) -> usize {
        self.at[id.0 as usize].unwrap_or(self.passing)
    }

    fn port(&self, part: usize, v: Value) -> usize {
        let found = self.exports[part].iter().position(|e| *e == v);
        found.expect("what others read is an output of its segment")
    }

    fn exports(&mut self) {
        let mut exports = vec![BTreeSet::new(); self.own.len()];
        let next = |s: &StatePair| (s.node, s.next);
        let reads = self
            .graph
            .ids()
            .flat_map(|id| self.graph.node(id).operands().iter().map(move |v| (id, *v)));
        for (user, v) in reads.chain(self.graph.states.iter().map(next)) {
            // A user of no segment is computed where it is needed, of what is nobody's own.
            let (user, from) = (self.at[user.0 as usize], self.at[v.node.0 as usize]);
            if let (Some(user), Some(from)) = (user, from)
                && user != from
            {
                exports[from].insert(v);
            }
        }
        for o in &self.graph.outputs {
            exports[self.home(o.value.node)].insert(o.value);
        }
        self.exports = exports.into_iter().map(|e| e.into_iter().collect()).collect();
    }

    fn part(&self, index: usize, queue: Queue) -> Part {
        let graph = self.graph;
        let wanted = self.needed(index);
        let mut new = Graph::new(&graph.name);
        new.dims = graph.dims.clone();
        let (mut map, mut origins) = (BTreeMap::new(), vec![]);
        self.inputs(index, &wanted, &mut new, &mut map, &mut origins);
        for id in self.order.iter().filter(|id| wanted.contains(id)) {
            let foreign = self.at[id.0 as usize].is_some_and(|at| at != index);
            let result = Value { node: *id, result: 0 };
            if foreign || is_input(graph, result) {
                continue;
            }
            let node = graph.node(*id);
            let operands = node.operands().iter().map(|v| map[v]).collect();
            let mut copy = Node::new(node.op.clone(), operands, node.results.clone());
            copy.regions = node.regions.clone();
            (copy.names, copy.loc) = (node.names.clone(), node.loc.clone());
            let added = new.add(copy);
            for result in 0..node.results.len() as u16 {
                map.insert(Value { node: *id, result }, Value { node: added, result });
            }
            if graph.class(*id) == Class::Source(Source::Param) {
                new.params.push(added);
            }
        }
        for s in graph.states.iter().filter(|s| self.home(s.node) == index) {
            let node = map[&Value { node: s.node, result: 0 }].node;
            new.states.push(StatePair { node, next: map[&s.next] });
        }
        for v in &self.exports[index] {
            let named = graph.outputs.iter().find(|o| o.value == *v);
            let name = named.map_or_else(|| crossing(*v).into(), |o| o.name.clone());
            new.outputs.push(Output { name, value: map[v] });
        }
        new.compact();
        Part { queue, graph: new, origins, nodes: self.own[index].1.clone() }
    }

    /// The nodes of a segment with all that they read directly, and with what is nobody's own.
    fn needed(&self, index: usize) -> BTreeSet<NodeId> {
        let states = self.graph.states.iter().filter(|s| self.home(s.node) == index);
        let mut open: Vec<NodeId> = self.own[index].1.clone();
        open.extend(states.map(|s| s.next.node));
        open.extend(self.exports[index].iter().map(|v| v.node));
        let mut wanted = BTreeSet::new();
        while let Some(id) = open.pop() {
            let foreign = self.at[id.0 as usize].is_some_and(|at| at != index);
            if wanted.insert(id) && !foreign {
                open.extend(self.graph.node(id).operands().iter().map(|v| v.node));
            }
        }
        wanted
    }

    /// The model's inputs first, then values of other segments.
    fn inputs(
        &self,
        index: usize,
        wanted: &BTreeSet<NodeId>,
        new: &mut Graph,
        map: &mut BTreeMap<Value, Value>,
        origins: &mut Vec<Origin>,
    ) {
        let mut b = Builder::new(new);
        for (i, id) in self.graph.inputs.iter().enumerate().filter(|(_, id)| wanted.contains(id)) {
            let node = self.graph.node(*id);
            b.loc = node.loc.clone();
            let v = Value { node: *id, result: 0 };
            map.insert(v, b.input(node.op.str("name"), node.results[0].clone()));
            origins.push(Origin::Input(i));
        }
        for (part, exports) in self.exports.iter().enumerate().filter(|(p, _)| *p != index) {
            for (output, v) in exports.iter().enumerate() {
                // An export of somebody else that is nobody's own is computed anew.
                let own = self.at[v.node.0 as usize] == Some(part);
                if own && self.reads(index, wanted, *v) {
                    b.loc = self.graph.node(v.node).loc.clone();
                    map.insert(*v, b.input(&crossing(*v), self.graph.ty(*v).clone()));
                    origins.push(Origin::Part { part, output });
                }
            }
        }
    }

    /// Whether a segment reads a value of another one.
    fn reads(&self, index: usize, wanted: &BTreeSet<NodeId>, v: Value) -> bool {
        if !wanted.contains(&v.node) {
            return false;
        }
        let users = self.graph.users(v.node);
        let mut users = users.iter().filter(|(result, _, _)| *result == v.result);
        let mut next = self.graph.states.iter().filter(|s| s.next == v);
        users.any(|(_, user, _)| self.at[user.0 as usize] == Some(index))
            || next.any(|s| self.home(s.node) == index)
    }
}

/// The name of a value on its way from one segment to another: as `inspect graph` prints it.
fn crossing(v: Value) -> String {
    match v.result {
        0 => format!("%{}", v.node.0),
        result => format!("%{}#{result}", v.node.0),
    }
}
