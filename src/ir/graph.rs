//! The graph: a directed acyclic graph of tensor ops, and the only file that names petgraph.
//!
//! A node's operand vector is the truth; the edges mirror it, so that users can be found. Only
//! [`Graph::add`], [`Graph::set_operand`], [`Graph::replace_uses`] and [`Graph::remove`] touch both.
//! After [`Graph::compact`] ids are 0..n in canonical order: first the sources in the order of the
//! signature (inputs, params, states), then the other nodes topologically. Live ids equal printed ids.
//!
//! A region (the body of `scan`, `cond`, `do`) is a closed `Graph` of its own: what it reads from
//! outside comes in through trailing inputs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

use super::op::{Class, Op, OpCtx};
use crate::base::{Symbol, TensorType};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u32);

/// One result of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Value {
    pub node: NodeId,
    pub result: u16,
}

/// A place in the user's text, for messages and dumps.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Loc {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub op: Op,
    /// Kept in step with the edges by `Graph`.
    operands: Vec<Value>,
    pub results: Vec<TensorType>,
    pub regions: Vec<Graph>,
    /// Names that the user gave to results (`as`), as (result, name).
    pub names: Vec<(u16, Arc<str>)>,
    pub loc: Option<Loc>,
}

impl Node {
    pub fn new(op: Op, operands: Vec<Value>, results: Vec<TensorType>) -> Node {
        Node { op, operands, results, regions: vec![], names: vec![], loc: None }
    }

    pub fn operands(&self) -> &[Value] {
        &self.operands
    }

    /// The same op on other operands: for a node that is not in a graph (yet).
    pub fn with_operands(self, operands: Vec<Value>) -> Node {
        Node { operands, ..self }
    }
}

/// One use of a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Use {
    Operand {
        user: NodeId,
        index: u16,
    },
    /// The i-th output of the graph.
    Output(u32),
    /// The next value of the i-th state.
    State(u32),
}

/// A declared open dimension and its bounds, both inclusive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DimDecl {
    pub symbol: Symbol,
    pub low: i64,
    pub high: Option<i64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    pub name: Arc<str>,
    pub value: Value,
}

/// A state: the node that reads it and the value that it takes at the end of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatePair {
    pub node: NodeId,
    pub next: Value,
}

#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub name: Arc<str>,
    pub dims: Vec<DimDecl>,
    dag: StableDiGraph<Node, Edge, u32>,
    /// Source nodes in signature order. Params and states are those of class `Param`, `State`.
    pub inputs: Vec<NodeId>,
    pub params: Vec<NodeId>,
    pub states: Vec<StatePair>,
    pub outputs: Vec<Output>,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    result: u16,
    operand: u16,
}

fn ix(id: NodeId) -> NodeIndex<u32> {
    NodeIndex::new(id.0 as usize)
}

impl Graph {
    pub fn new(name: &str) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    pub fn len(&self) -> usize {
        self.dag.node_count()
    }

    pub fn is_empty(&self) -> bool {
        self.dag.node_count() == 0
    }

    /// One past the greatest id: the size of a table indexed by node.
    pub fn id_bound(&self) -> usize {
        self.dag.node_indices().next_back().map_or(0, |i| i.index() + 1)
    }

    pub fn contains(&self, id: NodeId) -> bool {
        self.dag.contains_node(ix(id))
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[ix(id)]
    }

    /// For names, places, attributes, regions and types; operands change through `set_operand`.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.dag[ix(id)]
    }

    pub fn ty(&self, v: Value) -> &TensorType {
        &self.node(v.node).results[v.result as usize]
    }

    /// All nodes by ascending id: a topological order after `compact`.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.dag.node_indices().map(|i| NodeId(i.index() as u32))
    }

    /// Adds a node. Inputs, params and states must also be entered into the signature's list.
    pub fn add(&mut self, node: Node) -> NodeId {
        let operands = node.operands.clone();
        let id = self.dag.add_node(node);
        for (k, v) in operands.iter().enumerate() {
            self.dag.add_edge(ix(v.node), id, Edge { result: v.result, operand: k as u16 });
        }
        NodeId(id.index() as u32)
    }

    pub fn op_types(&self, id: NodeId) -> Vec<TensorType> {
        self.node(id).operands.iter().map(|v| self.ty(*v).clone()).collect()
    }

    /// The class of a node.
    pub fn class(&self, id: NodeId) -> Class {
        let node = self.node(id);
        let types = self.op_types(id);
        (node.op.row.class)(&OpCtx { op: &node.op, types: &types, regions: &node.regions })
    }

    /// The users of all results of a node, ascending, each operand position once; outputs and
    /// states are not among them.
    pub fn users(&self, id: NodeId) -> Vec<(u16, NodeId, u16)> {
        let edges = self.dag.edges_directed(ix(id), Outgoing);
        let mut users: Vec<(u16, NodeId, u16)> = edges
            .map(|e| (e.weight().result, NodeId(e.target().index() as u32), e.weight().operand))
            .collect();
        users.sort_by_key(|(result, user, operand)| (*user, *operand, *result));
        users
    }

    /// How many operands of nodes read a result of this node.
    pub fn use_count(&self, id: NodeId) -> usize {
        self.dag.edges_directed(ix(id), Outgoing).count()
    }

    /// Points operand `index` of `user` at another value.
    pub fn set_operand(&mut self, user: NodeId, index: usize, to: Value) {
        let stale = self
            .dag
            .edges_directed(ix(user), Incoming)
            .find(|e| e.weight().operand as usize == index)
            .map(|e| e.id());
        if let Some(edge) = stale {
            self.dag.remove_edge(edge);
        }
        self.dag[ix(user)].operands[index] = to;
        let edge = Edge { result: to.result, operand: index as u16 };
        self.dag.add_edge(ix(to.node), ix(user), edge);
    }

    /// Everything that read `from` reads `to`, outputs and states included. The names of `from`
    /// move along where `to` has none.
    pub fn replace_uses(&mut self, from: Value, to: Value) {
        for (result, user, index) in self.users(from.node) {
            if result == from.result {
                self.set_operand(user, index as usize, to);
            }
        }
        for output in &mut self.outputs {
            if output.value == from {
                output.value = to;
            }
        }
        for state in &mut self.states {
            if state.next == from {
                state.next = to;
            }
        }
        let moved: Vec<Arc<str>> = self
            .node(from.node)
            .names
            .iter()
            .filter(|(r, _)| *r == from.result)
            .map(|(_, n)| n.clone())
            .collect();
        let target = self.node_mut(to.node);
        if !target.names.iter().any(|(r, _)| *r == to.result) {
            target.names.extend(moved.into_iter().map(|n| (to.result, n)));
        }
    }

    /// Removes a node that nothing uses (that is the caller's promise, checked in debug builds).
    pub fn remove(&mut self, id: NodeId) {
        debug_assert_eq!(self.use_count(id), 0, "a removed node has no users");
        self.dag.remove_node(ix(id));
    }

    /// Renumbers to 0..n in canonical order, so that a graph which is already in order keeps its ids.
    /// Returns old id → new id. Regions are graphs of their own and stay as they are.
    pub fn compact(&mut self) -> BTreeMap<NodeId, NodeId> {
        let order = self.canonical_order();
        // In order already: nothing moves.
        if !order.iter().enumerate().all(|(i, id)| id.0 as usize == i) {
            self.renumber(&order);
        }
        order.into_iter().enumerate().map(|(i, id)| (id, NodeId(i as u32))).collect()
    }

    /// The nodes in this order get the ids 0..n.
    fn renumber(&mut self, order: &[NodeId]) {
        let mut map = vec![NodeId(u32::MAX); self.id_bound()];
        for (i, id) in order.iter().enumerate() {
            map[id.0 as usize] = NodeId(i as u32);
        }
        let at = |id: &mut NodeId| *id = map[id.0 as usize];
        let mut nodes = self.take_nodes();
        for id in order {
            let mut node = nodes[id.0 as usize].take().expect("every node is visited once");
            node.operands.iter_mut().for_each(|v| at(&mut v.node));
            self.add(node);
        }
        self.inputs.iter_mut().chain(&mut self.params).for_each(at);
        self.states.iter_mut().for_each(|s| {
            at(&mut s.node);
            at(&mut s.next.node);
        });
        self.outputs.iter_mut().for_each(|o| at(&mut o.value.node));
    }

    /// Takes all nodes out, by id; the signature stays and must be mapped by the caller. This, and
    /// adding what is kept in order, is how a pass rewrites in time linear in nodes and edges:
    /// taking single edges from a value with many users is not.
    pub fn take_nodes(&mut self) -> Vec<Option<Node>> {
        let mut nodes: Vec<Option<Node>> = (0..self.id_bound()).map(|_| None).collect();
        let ids: Vec<NodeId> = self.ids().collect();
        let dag = petgraph::Graph::from(std::mem::take(&mut self.dag));
        for (id, node) in ids.into_iter().zip(dag.into_nodes_edges().0) {
            nodes[id.0 as usize] = Some(node.weight);
        }
        nodes
    }

    /// Keeps only the nodes marked by id, which must be closed under operands and hold the signature.
    /// Ids are renumbered: compact follows.
    pub fn retain(&mut self, keep: &[bool]) {
        let mut map = vec![NodeId(u32::MAX); self.id_bound()];
        let order = self.canonical_order();
        let mut nodes = self.take_nodes();
        for id in order.into_iter().filter(|id| keep[id.0 as usize]) {
            let mut node = nodes[id.0 as usize].take().expect("every node is visited once");
            node.operands.iter_mut().for_each(|v| v.node = map[v.node.0 as usize]);
            map[id.0 as usize] = self.add(node);
        }
        let at = |id: &mut NodeId| *id = map[id.0 as usize];
        self.inputs.iter_mut().chain(&mut self.params).for_each(at);
        self.states.iter_mut().for_each(|s| {
            at(&mut s.node);
            at(&mut s.next.node);
        });
        self.outputs.iter_mut().for_each(|o| at(&mut o.value.node));
    }

    /// The canonical order of all nodes: inputs, params and states in the order of the signature,
    /// then always the ready node with the least id next.
    pub fn canonical_order(&self) -> Vec<NodeId> {
        let mut first = vec![false; self.id_bound()];
        let states = self.states.iter().map(|s| s.node);
        let mut order: Vec<NodeId> =
            self.inputs.iter().chain(&self.params).copied().chain(states).collect();
        order.iter().for_each(|id| first[id.0 as usize] = true);
        order.extend(self.topological().into_iter().filter(|id| !first[id.0 as usize]));
        order
    }

    /// All nodes, operands before their users: always the ready node with the least id next.
    pub fn topological(&self) -> Vec<NodeId> {
        let order = self.ready_order();
        assert_eq!(order.len(), self.len(), "the graph is acyclic");
        order
    }

    /// Whether no node reads, over any way, a result of its own.
    pub fn is_acyclic(&self) -> bool {
        self.ready_order().len() == self.len()
    }

    /// Whether the edges into a node are exactly those that its operands call for.
    pub fn edges_agree(&self, id: NodeId) -> bool {
        let mut found: Vec<(u16, NodeId, u16)> = self
            .dag
            .edges_directed(ix(id), Incoming)
            .map(|e| {
                let source = NodeId(e.source().index() as u32);
                (e.weight().operand, source, e.weight().result)
            })
            .collect();
        found.sort();
        let wanted = self.node(id).operands.iter().enumerate();
        found.into_iter().eq(wanted.map(|(k, v)| (k as u16, v.node, v.result)))
    }

    fn ready_order(&self) -> Vec<NodeId> {
        let mut missing = vec![0usize; self.id_bound()];
        let mut ready = BinaryHeap::new();
        for i in self.dag.node_indices() {
            missing[i.index()] = self.dag[i].operands.len();
            if missing[i.index()] == 0 {
                ready.push(Reverse(i.index()));
            }
        }
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse(i)) = ready.pop() {
            order.push(NodeId(i as u32));
            for e in self.dag.edges_directed(NodeIndex::new(i), Outgoing) {
                let t = e.target().index();
                missing[t] -= 1;
                if missing[t] == 0 {
                    ready.push(Reverse(t));
                }
            }
        }
        order
    }

    /// The value that carries this name: an output, a named result, an input.
    pub fn find_value(&self, name: &str) -> Option<Value> {
        if let Some(o) = self.outputs.iter().find(|o| &*o.name == name) {
            return Some(o.value);
        }
        self.ids().find_map(|id| {
            let named = self.node(id).names.iter().find(|(_, n)| &**n == name);
            named.map(|(result, _)| Value { node: id, result: *result })
        })
    }
}
