//! Equations of ops that own regions.

use super::{Found, Site};
use crate::ir::{Graph, NodeId, Value};

/// `cond(true, a, b) = a`, `cond(false, a, b) = b`: the body takes the place of the node.
pub fn simplify_cond(s: &mut Site) -> Found {
    let Some(predicate) = s.splat(s.operand(0)) else { return Ok(None) };
    let region = if predicate != 0.0 { 0 } else { 1 };
    if !s.cx.allow("cond(true, a, b) = a") {
        return Ok(None);
    }
    let captures = s.node.operands()[1..].to_vec();
    Ok(Some(inline(s.graph, &s.node.regions[region], &captures)))
}

/// Copies a region into a graph, its inputs being these values. The values of its outputs.
pub fn inline(graph: &mut Graph, region: &Graph, inputs: &[Value]) -> Vec<Value> {
    let mut map: Vec<NodeId> = vec![NodeId(0); region.id_bound()];
    let mut source: Vec<Option<Value>> = vec![None; region.id_bound()];
    for (id, v) in region.inputs.iter().zip(inputs) {
        source[id.0 as usize] = Some(*v);
    }
    let at = |map: &[NodeId], v: Value| {
        let i = v.node.0 as usize;
        source[i].unwrap_or(Value { node: map[i], result: v.result })
    };
    for id in region.topological() {
        if source[id.0 as usize].is_none() {
            let mut node = region.node(id).clone();
            // Names inside a region need not be unique outside.
            node.names.clear();
            let operands = node.operands().iter().map(|v| at(&map, *v)).collect();
            map[id.0 as usize] = graph.add(node.with_operands(operands));
        }
    }
    region.outputs.iter().map(|o| at(&map, o.value)).collect()
}
