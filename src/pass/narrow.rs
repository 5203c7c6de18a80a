//! Products and convolutions in a narrower float type.
//!
//! Where [`Settings::narrow`](super::Settings) says so, their operands of f32 are rounded to it and so are
//! their results; sums are held in f32 as everywhere. The casts fuse with what is around them, so that
//! what lies in memory between two products is narrow, and parameters are rounded once at load.

use super::rebuild::{Visit, all_results, rebuild};
use super::{PassCtx, class_of};
use crate::base::DType;
use crate::ir::op::{Class, Op, OpError, WindowKind};
use crate::ir::{Builder, Graph, Node, Value};

const RULE: &str = "products in a narrower type";

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    let Some(narrow) = cx.settings.narrow else { return Ok(()) };
    rebuild(graph, &mut |graph, _, node| {
        let values = match is_product(graph, &node) && cx.allow(RULE) {
            true => vec![narrowed(graph, node, narrow)?],
            false => {
                let results = node.results.len();
                all_results(graph.add(node), results)
            }
        };
        Ok(Visit::Added(values))
    })
}

/// Whether a node multiplies two operands of f32 and adds up.
fn is_product(graph: &Graph, node: &Node) -> bool {
    let multiplies = match class_of(graph, node) {
        Class::Contract(_) => true,
        Class::Window(spec) => match spec.kind {
            WindowKind::Conv { .. } => true,
            WindowKind::Winograd { .. } | WindowKind::MaxPool | WindowKind::AvgPool { .. } => false,
        },
        Class::Source(_)
        | Class::Elementwise(_)
        | Class::Reduce(_)
        | Class::View(_)
        | Class::Gather { .. }
        | Class::Scatter(_)
        | Class::UpdateSlice { .. }
        | Class::Sort(_)
        | Class::Region(_)
        | Class::Composite => false,
    };
    multiplies && node.operands().iter().all(|v| graph.ty(*v).dtype == DType::F32)
}

fn narrowed(graph: &mut Graph, node: Node, narrow: DType) -> Result<Value, OpError> {
    let mut b = Builder::new(graph);
    b.loc = node.loc.clone();
    let operands = node.operands().iter().map(|v| b.cast(*v, narrow));
    let operands = operands.collect::<Result<Vec<_>, _>>()?;
    let op: Op = node.op.clone();
    let product = b.push(op, operands, vec![])?;
    b.cast(Value { node: product, result: 0 }, DType::F32)
}
