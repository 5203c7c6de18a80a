//! What is computed once, when weights are known, and not in every run.
//!
//! A value that depends on nothing but parameters and constants is taken out of the graph: the
//! first result is the graph of runs, whose parameters are the values it still needs; the second
//! is the recipe that makes them of the model's parameters. Values that would only take more room
//! than what they are made of (broadcasts, fills) stay with the runs.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::Shape;
use crate::ir::attr::Attr;
use crate::ir::graph::{Graph, Node, NodeId, Output, Value};
use crate::ir::op::{self, Class, Op, Source, View};

/// A value may be this much larger than its operands together and still be prepared.
const GROWTH: u64 = 2;
/// Below this size growth does not matter.
const SMALL: u64 = 64 << 10;

pub struct Split {
    pub run: Graph,
    /// No inputs, the model's parameters, and one output for each parameter of `run`, by its name.
    pub recipe: Graph,
}

pub fn split(graph: &Graph) -> Split {
    let fixed = fixed_nodes(graph);
    let mut run = Graph::new(&graph.name);
    run.dims = graph.dims.clone();
    let mut recipe = Graph::new(&graph.name);
    let (mut in_run, mut in_recipe) = (BTreeMap::new(), BTreeMap::new());
    for id in graph.topological() {
        let node = graph.node(id);
        let results = node.results.len() as u16;
        let copy = |to: &mut Graph, at: &mut BTreeMap<Value, Value>| {
            let operands = node.operands().iter().map(|v| at[v]).collect();
            let mut new = Node::new(node.op.clone(), operands, node.results.clone());
            new.regions = node.regions.clone();
            (new.names, new.loc) = (node.names.clone(), node.loc.clone());
            let new = to.add(new);
            for result in 0..results {
                at.insert(Value { node: id, result }, Value { node: new, result });
            }
            new
        };
        if fixed.contains(&id) {
            let new = copy(&mut recipe, &mut in_recipe);
            if graph.class(id) == Class::Source(Source::Param) {
                recipe.params.push(new);
            }
            continue;
        }
        for v in node.operands() {
            if !in_run.contains_key(v) {
                let param = import(graph, *v, &mut run, &mut recipe, &in_recipe);
                in_run.insert(*v, param);
            }
        }
        copy(&mut run, &mut in_run);
    }
    let mut needed = |v: Value| {
        *in_run.entry(v).or_insert_with(|| import(graph, v, &mut run, &mut recipe, &in_recipe))
    };
    let outputs: Vec<Output> = graph
        .outputs
        .iter()
        .map(|o| Output { name: o.name.clone(), value: needed(o.value) })
        .collect();
    let source = |id: NodeId| Value { node: id, result: 0 };
    let mut states = graph.states.clone();
    for s in &mut states {
        (s.node, s.next) = (needed(source(s.node)).node, needed(s.next));
    }
    let inputs = graph.inputs.iter().map(|id| needed(source(*id)).node).collect();
    (run.outputs, run.states, run.inputs) = (outputs, states, inputs);
    run.compact();
    recipe.compact();
    Split { run, recipe }
}

/// A fixed value in the graph of runs: constants are copied, all else becomes a parameter.
fn import(
    graph: &Graph,
    v: Value,
    run: &mut Graph,
    recipe: &mut Graph,
    in_recipe: &BTreeMap<Value, Value>,
) -> Value {
    let node = graph.node(v.node);
    if graph.class(v.node) == Class::Source(Source::Constant) {
        return Value { node: run.add(node.clone()), result: 0 };
    }
    let ty = graph.ty(v).clone();
    let name = match graph.class(v.node) {
        Class::Source(Source::Param) => node.op.str("name").to_string(),
        _ => format!("%{}.{}", v.node.0, v.result),
    };
    let Shape(dims) = ty.shape.clone();
    let attrs = [
        ("name", Attr::Str(name.clone())),
        ("dtype", Attr::DType(ty.dtype)),
        ("shape", Attr::Dims(dims)),
    ];
    let row = op::find("param").expect("an op of the table");
    let mut param = Node::new(Op::new(row, &attrs), vec![], vec![ty]);
    param.loc = node.loc.clone();
    let id = run.add(param);
    run.params.push(id);
    recipe.outputs.push(Output { name: name.into(), value: in_recipe[&v] });
    Value { node: id, result: 0 }
}

fn fixed_nodes(graph: &Graph) -> BTreeSet<NodeId> {
    let mut fixed = BTreeSet::new();
    for id in graph.topological() {
        let node = graph.node(id);
        let prepared = match graph.class(id) {
            Class::Source(Source::Param | Source::Constant) => true,
            Class::Source(Source::Input | Source::State | Source::Iota { .. }) => false,
            Class::View(View::Broadcast) | Class::Region(_) => false,
            Class::Elementwise(_)
            | Class::Reduce(_)
            | Class::View(_)
            | Class::Contract(_)
            | Class::Window(_)
            | Class::Gather { .. }
            | Class::Scatter(_)
            | Class::UpdateSlice { .. }
            | Class::Sort(_)
            | Class::Composite => {
                let fits = |v: &Value| fixed.contains(&v.node);
                !node.operands().is_empty() && node.operands().iter().all(fits) && !grows(graph, id)
            }
        };
        if prepared {
            fixed.insert(id);
        }
    }
    fixed
}

fn grows(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let results: u64 = node.results.iter().map(|t| t.bytes().unwrap_or(u64::MAX / 4)).sum();
    let operands: u64 = node.operands().iter().map(|v| graph.ty(*v).bytes().unwrap_or(0)).sum();
    results > SMALL && results > GROWTH * operands
}
