//! Dead code: what no output and no state depends on is removed.
//!
//! Inputs, params and states stay, for they are the signature. Linear.

use super::PassCtx;
use crate::ir::op::OpError;
use crate::ir::{Graph, NodeId};

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
