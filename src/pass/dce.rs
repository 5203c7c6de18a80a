//! Dead code: what no output and no state depends on is removed.
//!
//! Inputs, params and states stay, for they are the signature. Of `scan` the stacked outputs that
//! nobody reads are cut, and of `cond` and `do` the results; what computed them in the regions goes too. Linear.

use std::collections::BTreeSet;

use super::PassCtx;
use crate::ir::op::{Class, OpError, RegionKind};
use crate::ir::{Graph, NodeId, Value};

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    let mut keep = live(graph);
    // Users before their operands, so that a bisected run leaves a whole graph as well.
    for id in graph.topological().into_iter().rev() {
        let i = id.0 as usize;
        keep[i] = keep[i] || !cx.allow("no output depends on it");
        if keep[i] {
            graph.node(id).operands().iter().for_each(|v| keep[v.node.0 as usize] = true);
        }
    }
    if !keep.iter().all(|k| *k) {
        graph.retain(&keep);
    }
    for id in graph.topological() {
        let Class::Region(kind) = graph.class(id) else { continue };
        let kept = match kind {
            RegionKind::Scan { carries, .. } => carries,
            RegionKind::Cond | RegionKind::Do => 0,
        };
        cut_results(graph, cx, id, kept)?;
    }
    Ok(())
}

/// Removes the results of a node with regions that nobody reads, but for the first few.
fn cut_results(
    graph: &mut Graph,
    cx: &mut PassCtx,
    id: NodeId,
    kept: usize,
) -> Result<(), OpError> {
    let users = graph.users(id);
    let escapes = graph.outputs.iter().map(|o| o.value).chain(graph.states.iter().map(|s| s.next));
    let mut read: BTreeSet<u16> = users.iter().map(|(result, ..)| *result).collect();
    read.extend(escapes.filter(|v| v.node == id).map(|v| v.result));
    let all = graph.node(id).results.len();
    let stays: Vec<usize> = (0..all).filter(|r| *r < kept || read.contains(&(*r as u16))).collect();
    if stays.len() == all || stays.is_empty() || !cx.allow("a result that nobody reads") {
        return Ok(());
    }
    let place = |r: u16| stays.iter().position(|s| *s == r as usize).map(|r| r as u16);
    let moved = |v: Value| match place(v.result).filter(|_| v.node == id) {
        Some(result) => Value { node: id, result },
        None => v,
    };
    let node = graph.node_mut(id);
    node.results = stays.iter().map(|r| node.results[*r].clone()).collect();
    node.names = node.names.iter().filter_map(|(r, n)| Some((place(*r)?, n.clone()))).collect();
    let mut regions = std::mem::take(&mut node.regions);
    for region in &mut regions {
        region.outputs = stays.iter().map(|r| region.outputs[*r].clone()).collect();
        run(region, cx)?;
    }
    graph.node_mut(id).regions = regions;
    for (result, user, operand) in users {
        graph.set_operand(user, operand as usize, moved(Value { node: id, result }));
    }
    graph.outputs.iter_mut().for_each(|o| o.value = moved(o.value));
    graph.states.iter_mut().for_each(|s| s.next = moved(s.next));
    Ok(())
}

/// By node id: whether the signature, an output or a next value needs the node.
pub fn live(graph: &Graph) -> Vec<bool> {
    let mut live = vec![false; graph.id_bound()];
    let mut open: Vec<NodeId> = graph.outputs.iter().map(|o| o.value.node).collect();
    open.extend(graph.states.iter().flat_map(|s| [s.node, s.next.node]));
    open.extend(graph.inputs.iter().chain(&graph.params));
    while let Some(id) = open.pop() {
        if !std::mem::replace(&mut live[id.0 as usize], true) {
            open.extend(graph.node(id).operands().iter().map(|v| v.node));
        }
    }
    live
}
