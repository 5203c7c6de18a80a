//! Composites whose definition is simple take its form.
//!
//! Two kinds, found by trying the expansion on a scratch graph:
//! - the definition is one of the operands (dropout at inference, `stop_gradient`): it vanishes;
//! - it is affine in its first operand, at most after a product or convolution with weights, and all
//!   else is known before the run (a bias, batch normalization by stored statistics): then scale and
//!   shift become ops on parameters, which are computed once at load, and other passes see them.
//!
//! Everything that schedules expand later anyway; doing it here changes no result.

use std::cell::RefCell;

use super::expand::expand_round;
use super::known::Known;
use super::{PassCtx, class_of};
use crate::ir::op::{Class, ExpandCtx, OpError, View, WindowKind};
use crate::ir::scalar::ScalarFn;
use crate::ir::{Builder, Graph, Node, Value};

/// Definitions of definitions: a layer, its convolution, an activation.
const ROUNDS: usize = 4;

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    for _ in 0..ROUNDS {
        // A round makes the graph anew, so what is known is asked anew.
        let known = RefCell::new(Known::default());
        let changed = expand_round(graph, cx, &|graph, node| {
            let mut known = known.borrow_mut();
            let rest = node.operands().iter().skip(1).all(|v| known.is_known(graph, *v));
            !node.operands().is_empty() && is_simple(graph, node, rest)
        })?;
        if !changed {
            break;
        }
    }
    Ok(())
}

/// Whether the definition is an operand, or (where `affine` is wanted too) affine in the first one.
fn is_simple(graph: &Graph, node: &Node, affine: bool) -> bool {
    let Some(expand) = node.op.row.expand else { return false };
    let mut scratch = Graph::new("trial");
    let mut b = Builder::new(&mut scratch);
    let types: Vec<_> = node.operands().iter().map(|v| graph.ty(*v).clone()).collect();
    let operands: Vec<Value> =
        types.iter().enumerate().map(|(i, t)| b.input(&i.to_string(), t.clone())).collect();
    let ctx = ExpandCtx {
        op: &node.op,
        operands: &operands,
        types: &types,
        results: &node.results,
        regions: &node.regions,
    };
    let Ok(results) = expand(&mut b, &ctx) else { return false };
    if results.iter().all(|v| operands.contains(v)) {
        return true;
    }
    affine && is_affine(&scratch, operands[0])
}

/// Whether all that depends on `x` does so by sums and products with what does not.
fn is_affine(graph: &Graph, x: Value) -> bool {
    let mut depends = vec![false; graph.id_bound()];
    depends[x.node.0 as usize] = true;
    for id in graph.topological() {
        let node = graph.node(id);
        let on_x: Vec<bool> = node.operands().iter().map(|v| depends[v.node.0 as usize]).collect();
        let count = on_x.iter().filter(|d| **d).count();
        if count == 0 {
            continue;
        }
        depends[id.0 as usize] = true;
        let allowed = match class_of(graph, node) {
            Class::Elementwise(ScalarFn::Add | ScalarFn::Sub | ScalarFn::Mul) => true,
            Class::Elementwise(ScalarFn::Cast(to)) => to.is_float(),
            Class::Elementwise(_) => false,
            Class::View(View::Reshape | View::Broadcast) => true,
            Class::View(
                View::Transpose(_)
                | View::Relayout { .. }
                | View::Slice { .. }
                | View::Pad { .. }
                | View::Concat { .. }
                | View::DynamicSlice { .. },
            ) => false,
            Class::Contract(_) => on_x[0],
            Class::Window(spec) => match spec.kind {
                WindowKind::Conv { .. } => on_x[0],
                WindowKind::Winograd { .. } | WindowKind::MaxPool | WindowKind::AvgPool { .. } => {
                    false
                }
            },
            Class::Source(_)
            | Class::Reduce(_)
            | Class::Gather { .. }
            | Class::Scatter(_)
            | Class::UpdateSlice { .. }
            | Class::Sort(_)
            | Class::Region(_)
            | Class::Composite => false,
        };
        if !allowed || count > 1 {
            return false;
        }
    }
    true
}
