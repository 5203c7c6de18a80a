//! Constant folding: ops whose operands are all constants are computed by the reference evaluator.
//!
//! Caps keep the compiler's time and the model's size bounded: no folded tensor is larger than
//! `fold_bytes`, nor much larger than the constants it comes from (a broadcast stays an op), and sums
//! of products are folded only over small operands.

use super::rebuild::{Visit, rebuild};
use super::{PassCtx, Settings, constant};
use crate::base::{Tensor, TensorType};
use crate::ir::eval::{EvalCtx, Precision};
use crate::ir::op::{Class, OpCtx, OpError};
use crate::ir::{Builder, Graph, Node};

/// What a folded tensor may exceed its operands by.
const GROWTH_BYTES: u64 = 1 << 10;
/// Operands of ops that look at each element a few times.
const LINEAR_BYTES: u64 = 16 << 20;
/// Operands of ops that do more than linear work.
const SUPERLINEAR_BYTES: u64 = 64 << 10;

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    rebuild(graph, &mut |graph, _, node| {
        let Some(results) = folded(graph, &node, &cx.settings) else {
            return Ok(Visit::Keep(node));
        };
        if !cx.allow("computed at compile time") {
            return Ok(Visit::Keep(node));
        }
        let mut b = Builder { graph, loc: node.loc };
        Ok(Visit::Replace(results.into_iter().map(|t| b.constant(t)).collect()))
    })
}

/// The results of a node, where all its operands are constants and the caps allow it.
fn folded(graph: &Graph, node: &Node, settings: &Settings) -> Option<Vec<Tensor>> {
    if node.operands().is_empty() || !node.regions.is_empty() {
        return None;
    }
    let operands: Option<Vec<Tensor>> =
        node.operands().iter().map(|v| constant(graph, *v).cloned()).collect();
    let operands = operands?;
    let read: u64 = operands.iter().map(|t| t.bytes().len() as u64).sum();
    let written = node.results.iter().map(TensorType::bytes).sum::<Option<u64>>()?;
    if written > settings.fold_bytes || written > read.saturating_add(GROWTH_BYTES) {
        return None;
    }
    let types: Vec<TensorType> = operands.iter().map(Tensor::ty).collect();
    let class = (node.op.row.class)(&OpCtx { op: &node.op, types: &types, regions: &[] });
    let cap = match class {
        Class::Source(_) | Class::Region(_) => return None,
        Class::Contract(_) | Class::Window(_) | Class::Composite => SUPERLINEAR_BYTES,
        Class::Elementwise(_)
        | Class::Reduce(_)
        | Class::View(_)
        | Class::Gather { .. }
        | Class::Scatter(_)
        | Class::UpdateSlice { .. }
        | Class::Sort(_) => LINEAR_BYTES,
    };
    if read > cap {
        return None;
    }
    // An op that cannot be computed on these values says so when the model runs.
    (node.op.row.eval)(&EvalCtx {
        op: &node.op,
        operands: &operands,
        regions: &node.regions,
        results: &node.results,
        precision: Precision::Own,
    })
    .ok()
}
