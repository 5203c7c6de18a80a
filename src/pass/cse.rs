//! Common subexpressions: equal ops on equal operands are computed once.
//!
//! One walk with a hash table, so near-linear. Ops that own regions are left alone. Random ops carry
//! their stream in an attribute: equal attributes mean equal draws.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::PassCtx;
use super::rebuild::{Visit, all_results, rebuild};
use crate::base::Tensor;
use crate::ir::op::OpError;
use crate::ir::{Attr, Graph, Node, NodeId};

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    // From hash to the nodes that have it; only looked up, never iterated.
    let mut seen: HashMap<u64, Vec<NodeId>> = HashMap::new();
    rebuild(graph, &mut |graph, _, node| {
        if !node.regions.is_empty() {
            return Ok(Visit::Keep(node));
        }
        let same = seen.entry(hash(&node)).or_default();
        let twin = same.iter().copied().find(|id| {
            let other = graph.node(*id);
            other.op == node.op && other.operands() == node.operands()
        });
        if let Some(twin) = twin
            && cx.allow("computed before")
        {
            return Ok(Visit::Replace(all_results(twin, node.results.len())));
        }
        let count = node.results.len();
        let id = graph.add(node);
        same.push(id);
        Ok(Visit::Added(all_results(id, count)))
    })
}

fn hash(node: &Node) -> u64 {
    let mut h = DefaultHasher::new();
    node.op.row.name.hash(&mut h);
    node.op.present.hash(&mut h);
    node.operands().hash(&mut h);
    for a in &node.op.attrs {
        match a {
            Attr::None => 0u8.hash(&mut h),
            Attr::Int(v) => v.hash(&mut h),
            Attr::Float(v) => v.to_bits().hash(&mut h),
            Attr::Bool(v) => v.hash(&mut h),
            Attr::Str(v) => v.hash(&mut h),
            Attr::Ints(v) => v.hash(&mut h),
            Attr::Dims(v) => v.hash(&mut h),
            Attr::DType(v) => v.hash(&mut h),
            Attr::Tensor(t) => hash_tensor(t, &mut h),
        }
    }
    h.finish()
}

/// Of a large tensor only some bytes: what is equal here is compared in full.
fn hash_tensor(t: &Tensor, h: &mut DefaultHasher) {
    (t.dtype(), t.shape()).hash(h);
    let bytes = t.bytes();
    let step = (bytes.len() / 256).max(1);
    bytes.iter().step_by(step).for_each(|b| b.hash(h));
}
