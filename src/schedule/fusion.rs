//! Fusion: which ops become one launch.
//!
//! In: a bound graph whose composites are expanded, but for attention. Out: a graph in which every
//! op that computes sits in a `do` region, one region a launch, and the reason for each
//! producer–consumer pair, fused or not.
//!
//! Nodes are visited from the results to the inputs. A node joins the group of its consumers when
//! *all* of them are in that one group (so no cycle can arise) and the rules of [`rules`] allow it;
//! views that only rename elements are given to every group that reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rules::{self, Kind};
use crate::ir::builder::Builder;
use crate::ir::graph::{Graph, Node, NodeId, Output, Value};
use crate::ir::op::{self, ExpandCtx, Op, OpError};

/// One launch to be.
#[derive(Clone, Debug)]
pub struct Group {
    /// The node whose results the group stores.
    pub root: NodeId,
    /// Ascending, the root among them.
    pub members: BTreeSet<NodeId>,
    /// A contraction, window or attention.
    pub anchor: Option<NodeId>,
    pub reduces: BTreeSet<NodeId>,
    /// Extents of the axes that all reductions of the group leave, where results of reductions
    /// are read along whole rows.
    pub row: Option<Vec<usize>>,
}

/// What was decided about one producer–consumer pair.
#[derive(Clone, Debug)]
pub struct Decision {
    pub producer: NodeId,
    pub consumer: NodeId,
    pub fused: bool,
    pub reason: String,
}

pub struct Fusion {
    /// Sources, ops with kernels of their own, and one `do` node for each group.
    pub graph: Graph,
    /// Names of the ops in each `do` node, in graph order, and the anchor's.
    pub groups: BTreeMap<NodeId, GroupInfo>,
    pub decisions: Vec<DecisionRow>,
}

#[derive(Clone, Debug, Default)]
pub struct GroupInfo {
    pub ops: Vec<&'static str>,
    pub anchor: Option<&'static str>,
    /// Parameters that the group reads in packed form. The views that undo the packing are no ops of
    /// the model, so `ops` and the decisions leave them out.
    pub packed: Vec<Arc<str>>,
}

/// A decision in words: nodes as `name %id` of the graph before fusion.
#[derive(Clone, Debug)]
pub struct DecisionRow {
    pub producer: String,
    pub consumer: String,
    pub fused: bool,
    pub reason: String,
}

/// Whether ops are brought together at all (`-O0` gives each its own launch).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Apart,
    Together,
}

pub fn fuse(graph: &Graph, mode: Mode) -> Result<Fusion, OpError> {
    Planner::planned(graph, mode).build()
}

/// The groups that fusion makes of a graph.
pub(super) fn groups(graph: &Graph, mode: Mode) -> Vec<Group> {
    Planner::planned(graph, mode).groups
}

pub(super) struct Planner<'a> {
    pub graph: &'a Graph,
    mode: Mode,
    pub kinds: BTreeMap<NodeId, Kind>,
    pub groups: Vec<Group>,
    /// The groups that a node is a member of.
    pub member_of: BTreeMap<NodeId, BTreeSet<usize>>,
    escapes: BTreeSet<NodeId>,
    unpacks: BTreeMap<NodeId, Arc<str>>,
    decisions: Vec<Decision>,
}

impl<'a> Planner<'a> {
    fn new(graph: &'a Graph, mode: Mode) -> Planner<'a> {
        let kinds = graph.ids().map(|id| (id, rules::kind(graph, id))).collect();
        let outputs = graph.outputs.iter().map(|o| o.value.node);
        let escapes = outputs.chain(graph.states.iter().map(|s| s.next.node)).collect();
        let (groups, member_of, decisions) = (vec![], BTreeMap::new(), vec![]);
        let unpacks = unpacking(graph);
        Planner { graph, mode, kinds, groups, member_of, escapes, unpacks, decisions }
    }

    fn planned(graph: &'a Graph, mode: Mode) -> Planner<'a> {
        let mut plan = Planner::new(graph, mode);
        for id in graph.topological().into_iter().rev() {
            plan.visit(id);
        }
        plan
    }

    fn visit(&mut self, id: NodeId) {
        let kind = self.kinds[&id];
        if matches!(kind, Kind::Source | Kind::Constant) {
            return;
        }
        let users: Vec<(NodeId, u16)> =
            self.graph.users(id).into_iter().map(|(_, user, operand)| (user, operand)).collect();
        let consumers: BTreeSet<NodeId> = users.iter().map(|(u, _)| *u).collect();
        if users.is_empty() && !self.escapes.contains(&id) {
            return;
        }
        let groups: BTreeSet<usize> =
            consumers.iter().filter_map(|u| self.member_of.get(u)).flatten().copied().collect();
        match self.refusal(id, &users, &groups) {
            None => {
                for g in &groups {
                    self.join(id, *g);
                }
                self.note(id, &consumers, true, "inlined into its consumer");
            }
            Some(reason) => {
                self.note(id, &consumers, false, &reason);
                self.root(id);
            }
        }
    }

    /// Why a node cannot go into the groups of its consumers.
    fn refusal(
        &self,
        id: NodeId,
        users: &[(NodeId, u16)],
        groups: &BTreeSet<usize>,
    ) -> Option<String> {
        if users.is_empty() {
            return Some("nothing reads it".into());
        }
        if self.escapes.contains(&id) {
            return Some("it is a result of the model".into());
        }
        let kind = self.kinds[&id];
        if let Some((opaque, _)) = users.iter().find(|(u, _)| self.kinds[u] == Kind::Opaque) {
            let name = self.graph.node(*opaque).op.row.name;
            return Some(format!("`{name}` has a kernel of its own"));
        }
        if self.mode == Mode::Apart && kind != Kind::Index {
            return Some("fusion is off at this level".into());
        }
        if groups.len() > 1 && !matches!(kind, Kind::Rename | Kind::Index) {
            return Some(format!(
                "{} launches read it: storing it once is cheaper than computing it again",
                groups.len()
            ));
        }
        groups.iter().find_map(|g| rules::refuse(self, id, users, *g).map(str::to_string))
    }

    fn note(&mut self, id: NodeId, consumers: &BTreeSet<NodeId>, fused: bool, reason: &str) {
        for consumer in consumers {
            let reason = reason.to_string();
            self.decisions.push(Decision { producer: id, consumer: *consumer, fused, reason });
        }
    }

    fn root(&mut self, id: NodeId) {
        let kind = self.kinds[&id];
        let mut group = Group {
            root: id,
            members: BTreeSet::new(),
            anchor: None,
            reduces: BTreeSet::new(),
            row: None,
        };
        group.members.insert(id);
        if kind.is_anchor() {
            group.anchor = Some(id);
        }
        if kind == Kind::Reduce {
            group.reduces.insert(id);
        }
        self.groups.push(group);
        self.member_of.insert(id, BTreeSet::from([self.groups.len() - 1]));
    }

    fn join(&mut self, id: NodeId, g: usize) {
        let kind = self.kinds[&id];
        let row = (kind == Kind::Reduce).then(|| rules::row_for(self, id, g)).flatten();
        let group = &mut self.groups[g];
        group.members.insert(id);
        if kind.is_anchor() {
            group.anchor = Some(id);
        }
        if kind == Kind::Reduce {
            group.reduces.insert(id);
            if row.is_some() {
                group.row = row;
            }
        }
        self.member_of.entry(id).or_default().insert(g);
    }

    /// The graph with one `do` node for each group.
    fn build(self) -> Result<Fusion, OpError> {
        let mut out = Graph::new(&self.graph.name);
        out.dims = self.graph.dims.clone();
        let mut at: BTreeMap<Value, Value> = BTreeMap::new();
        let mut infos = BTreeMap::new();
        let roots: BTreeMap<NodeId, usize> =
            self.groups.iter().enumerate().map(|(i, g)| (g.root, i)).collect();
        let order = self.graph.topological();
        let place: BTreeMap<NodeId, usize> =
            order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        for id in &order {
            match self.kinds[id] {
                Kind::Source | Kind::Constant => {
                    let new = out.add(self.graph.node(*id).clone());
                    at.insert(Value { node: *id, result: 0 }, Value { node: new, result: 0 });
                }
                Kind::Opaque => {
                    let node = self.graph.node(*id);
                    let operands = node.operands().iter().map(|v| at[v]).collect();
                    let mut new = Node::new(node.op.clone(), operands, node.results.clone());
                    (new.regions, new.names) = (node.regions.clone(), node.names.clone());
                    new.loc = node.loc.clone();
                    self.enter(&mut out, *id, new, node.results.len(), &mut at);
                }
                _ => {
                    let Some(g) = roots.get(id) else { continue };
                    let (node, results, info) = self.region(&self.groups[*g], &place, &at)?;
                    let new = out.add(node);
                    for (i, r) in results.iter().enumerate() {
                        at.insert(*r, Value { node: new, result: i as u16 });
                    }
                    infos.insert(new, info);
                }
            }
        }
        let value = |v: Value| at[&v];
        let source = |id: &NodeId| at[&Value { node: *id, result: 0 }].node;
        out.inputs = self.graph.inputs.iter().map(source).collect();
        out.params = self.graph.params.iter().map(source).collect();
        out.states = self.graph.states.clone();
        for s in &mut out.states {
            (s.node, s.next) = (source(&s.node), value(s.next));
        }
        let output = |o: &Output| Output { name: o.name.clone(), value: value(o.value) };
        out.outputs = self.graph.outputs.iter().map(output).collect();
        let name = |id: NodeId| format!("{} %{}", self.graph.node(id).op.row.name, id.0);
        let mut decisions = self.decisions;
        decisions.sort_by_key(|d| (d.producer, d.consumer));
        let decisions = decisions
            .into_iter()
            .filter(|d| !self.unpacks.contains_key(&d.producer))
            .map(|d| DecisionRow {
                producer: name(d.producer),
                consumer: name(d.consumer),
                fused: d.fused,
                reason: d.reason,
            })
            .collect();
        Ok(Fusion { graph: out, groups: infos, decisions })
    }

    fn enter(
        &self,
        out: &mut Graph,
        id: NodeId,
        node: Node,
        results: usize,
        at: &mut BTreeMap<Value, Value>,
    ) {
        let new = out.add(node);
        for r in 0..results as u16 {
            at.insert(Value { node: id, result: r }, Value { node: new, result: r });
        }
    }

    /// The `do` node of a group, and which values of the graph its results are.
    fn region(
        &self,
        group: &Group,
        place: &BTreeMap<NodeId, usize>,
        at: &BTreeMap<Value, Value>,
    ) -> Result<(Node, Vec<Value>, GroupInfo), OpError> {
        let mut region = Graph::new("");
        let mut inner: BTreeMap<Value, Value> = BTreeMap::new();
        let mut captures: Vec<Value> = vec![];
        let mut members: Vec<NodeId> = group.members.iter().copied().collect();
        members.sort_by_key(|id| place[id]);
        let mut info = GroupInfo::default();
        for id in &members {
            let node = self.graph.node(*id);
            match self.unpacks.get(id) {
                None => info.ops.push(node.op.row.name),
                Some(name) if info.packed.contains(name) => {}
                Some(name) => info.packed.push(name.clone()),
            }
            if group.anchor == Some(*id) {
                info.anchor = Some(node.op.row.name);
            }
            for v in node.operands() {
                if !inner.contains_key(v) {
                    let value = self.import(&mut region, *v, &mut captures, at);
                    inner.insert(*v, value);
                }
            }
            let operands: Vec<Value> = node.operands().iter().map(|v| inner[v]).collect();
            for (r, v) in self.member(&mut region, *id, operands)?.into_iter().enumerate() {
                inner.insert(Value { node: *id, result: r as u16 }, v);
            }
        }
        if group.anchor.is_none() {
            info.anchor = group.reduces.first().map(|r| self.graph.node(*r).op.row.name);
        }
        let root = self.graph.node(group.root);
        let read: BTreeSet<u16> = self.graph.users(group.root).iter().map(|u| u.0).collect();
        let escaping = |r: u16| {
            let v = Value { node: group.root, result: r };
            self.graph.outputs.iter().any(|o| o.value == v)
                || self.graph.states.iter().any(|s| s.next == v)
        };
        let results: Vec<Value> = (0..root.results.len() as u16)
            .filter(|r| read.contains(r) || escaping(*r))
            .map(|result| Value { node: group.root, result })
            .collect();
        for (i, r) in results.iter().enumerate() {
            let name: Arc<str> = format!("r{i}").into();
            region.outputs.push(Output { name, value: inner[r] });
        }
        drop_dead(&mut region);
        let types = results.iter().map(|r| self.graph.ty(*r).clone()).collect();
        let row = op::find("do").expect("an op of the table");
        let mut node = Node::new(Op::new(row, &[]), captures, types);
        node.loc = root.loc.clone();
        let position = |r: u16| results.iter().position(|v| v.result == r);
        node.names = root
            .names
            .iter()
            .filter_map(|(r, n)| position(*r).map(|i| (i as u16, n.clone())))
            .collect();
        node.regions = vec![region];
        Ok((node, results, info))
    }

    /// An operand from outside the group: scalar constants are copied, all else is captured.
    fn import(
        &self,
        region: &mut Graph,
        v: Value,
        captures: &mut Vec<Value>,
        at: &BTreeMap<Value, Value>,
    ) -> Value {
        let node = self.graph.node(v.node);
        let scalar = self.graph.ty(v).shape.numel().and_then(|d| d.as_const()) == Some(1);
        if self.kinds[&v.node] == Kind::Constant && scalar {
            return Value { node: region.add(node.clone()), result: 0 };
        }
        let name = format!("c{}", captures.len());
        captures.push(at[&v]);
        Builder::new(region).input(&name, self.graph.ty(v).clone())
    }

    /// Copies a member into the region; attention is copied as its expansion.
    fn member(
        &self,
        region: &mut Graph,
        id: NodeId,
        operands: Vec<Value>,
    ) -> Result<Vec<Value>, OpError> {
        let node = self.graph.node(id);
        if self.kinds[&id] == Kind::Attention {
            return expand_all(region, node, operands);
        }
        let new = region.add(Node::new(node.op.clone(), operands, node.results.clone()));
        Ok((0..node.results.len() as u16).map(|result| Value { node: new, result }).collect())
    }
}

/// The views that undo the packing of a parameter, with its name before `layout` packed it.
fn unpacking(graph: &Graph) -> BTreeMap<NodeId, Arc<str>> {
    let mut found: BTreeMap<NodeId, Arc<str>> = BTreeMap::new();
    for id in graph.topological() {
        let (op::Class::View(_), [from]) = (graph.class(id), graph.node(id).operands()) else {
            continue;
        };
        let source = graph.node(from.node);
        let name = match graph.class(from.node) {
            op::Class::Source(op::Source::Param) => {
                source.op.str("name").split_once('@').map(|(plain, _)| plain.into())
            }
            _ => found.get(&from.node).cloned(),
        };
        if let Some(name) = name {
            found.insert(id, name);
        }
    }
    found
}

/// Adds the expansion of a composite, and the expansions of what that contains.
fn expand_all(
    region: &mut Graph,
    node: &Node,
    operands: Vec<Value>,
) -> Result<Vec<Value>, OpError> {
    let expand = node.op.row.expand.expect("a composite has an expansion");
    let types: Vec<_> = operands.iter().map(|v| region.ty(*v).clone()).collect();
    let before = region.id_bound() as u32;
    let ctx = ExpandCtx {
        op: &node.op,
        operands: &operands,
        types: &types,
        results: &node.results,
        regions: &node.regions,
    };
    let mut results = expand(&mut Builder::new(region), &ctx)?;
    let mut at = before;
    while (at as usize) < region.id_bound() {
        let id = NodeId(at);
        at += 1;
        if !region.contains(id) || region.class(id) != op::Class::Composite {
            continue;
        }
        let inner = region.node(id).clone();
        let values = expand_all(region, &inner, inner.operands().to_vec())?;
        for (r, v) in values.into_iter().enumerate() {
            let old = Value { node: id, result: r as u16 };
            region.replace_uses(old, v);
            results.iter_mut().filter(|x| **x == old).for_each(|x| *x = v);
        }
        region.remove(id);
    }
    Ok(results)
}

/// Removes nodes of a region that no output needs. Inputs stay: they are the captures.
fn drop_dead(region: &mut Graph) {
    let kept: BTreeSet<NodeId> = region.outputs.iter().map(|o| o.value.node).collect();
    for id in region.topological().into_iter().rev() {
        if region.use_count(id) == 0 && !kept.contains(&id) && !region.inputs.contains(&id) {
            region.remove(id);
        }
    }
    region.compact();
}
