//! How passes rewrite: one walk in canonical order that builds the graph anew.
//!
//! Each node comes to the visitor with its operands already in the new graph; the visitor adds it,
//! or other nodes in its place, or names values that are there. So a whole pass is linear in nodes
//! and edges, whatever the number of users of one value, and no rule ever sees a stale operand.
//! Kept: the signature, outputs and next values, names (they move to what replaces their value,
//! unless that has a name), places.

use std::sync::Arc;

use crate::ir::op::OpError;
use crate::ir::{Graph, Node, NodeId, Value};

/// What becomes of a node.
pub enum Visit {
    /// It is added as it is.
    Keep(Node),
    /// The visitor added it already, as these values.
    Added(Vec<Value>),
    /// Its results are these values of the new graph. Its names go to them.
    Replace(Vec<Value>),
}

/// Rebuilds `graph`. Inputs, params and states are copied without asking the visitor. Where the
/// visitor fails the graph is left broken: the caller gives up on it.
pub fn rebuild(
    graph: &mut Graph,
    visitor: &mut dyn FnMut(&mut Graph, NodeId, Node) -> Result<Visit, OpError>,
) -> Result<(), OpError> {
    let order = graph.canonical_order();
    let sources = graph.inputs.len() + graph.params.len() + graph.states.len();
    let mut nodes = graph.take_nodes();
    // Where the results of an old node are now.
    let mut map: Vec<Vec<Value>> = vec![vec![]; nodes.len()];
    for (i, id) in order.into_iter().enumerate() {
        let node = nodes[id.0 as usize].take().expect("every node is visited once");
        let results = node.results.len();
        let operands: Vec<Value> =
            node.operands().iter().map(|v| map[v.node.0 as usize][v.result as usize]).collect();
        let node = node.with_operands(operands);
        let names: Vec<(u16, Arc<str>)> = node.names.clone();
        let visit = if i < sources { Visit::Keep(node) } else { visitor(graph, id, node)? };
        map[id.0 as usize] = match visit {
            Visit::Keep(node) => all_results(graph.add(node), results),
            Visit::Added(values) => values,
            Visit::Replace(values) => {
                debug_assert_eq!(values.len(), results, "a value for each result");
                move_names(graph, names, &values);
                values
            }
        };
    }
    let at = |v: Value| map[v.node.0 as usize][v.result as usize];
    let node = |id: NodeId| map[id.0 as usize][0].node;
    graph.inputs.iter_mut().chain(&mut graph.params).for_each(|id| *id = node(*id));
    for s in &mut graph.states {
        s.node = node(s.node);
        s.next = at(s.next);
    }
    graph.outputs.iter_mut().for_each(|o| o.value = at(o.value));
    Ok(())
}

/// The values of all results of a node.
pub fn all_results(node: NodeId, count: usize) -> Vec<Value> {
    (0..count as u16).map(|result| Value { node, result }).collect()
}

fn move_names(graph: &mut Graph, names: Vec<(u16, Arc<str>)>, values: &[Value]) {
    for (result, name) in names {
        let Some(to) = values.get(result as usize) else { continue };
        let target = graph.node_mut(to.node);
        if !target.names.iter().any(|(r, _)| *r == to.result) {
            target.names.push((to.result, name));
        }
    }
}
