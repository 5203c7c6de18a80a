//! Expansion: composites become their definition in simpler ops, and the ops of a `do` take its place:
//! the groups that the scheduler makes are the only ones that it finds.
//!
//! The pass expands every composite; the scheduler expands only those that no generator claims, by
//! [`expand_where`]. What an expansion builds may be composite again, so the walk is repeated.

use super::PassCtx;
use super::algebra::inline;
use super::rebuild::{Visit, rebuild};
use crate::base::codes;
use crate::ir::op::{Class, ExpandCtx, OpCtx, OpError, RegionKind};
use crate::ir::{Builder, Graph, Node};

/// Deeper definitions of composites by composites than this are a bug of the op table.
const DEPTH: usize = 16;

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    expand_where(graph, cx, &|_, _| true)
}

/// Expands all but what `Settings::claimed` names.
pub fn run_unclaimed(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    let claimed = cx.settings.claimed;
    expand_where(graph, cx, &|_, node| !claimed.contains(&node.op.row.name))
}

/// Expands the composites that `wanted` picks (it sees the new graph, whose values the node's
/// operands are), until none is left. Regions are not entered.
pub fn expand_where(
    graph: &mut Graph,
    cx: &mut PassCtx,
    wanted: &dyn Fn(&Graph, &Node) -> bool,
) -> Result<(), OpError> {
    for _ in 0..DEPTH {
        if !expand_round(graph, cx, wanted)? {
            return Ok(());
        }
    }
    Err(OpError::new(codes::DEEP_COMPOSITES, format!("composites nest deeper than {DEPTH}")))
}

/// One walk of [`expand_where`]; whether it expanded anything.
pub fn expand_round(
    graph: &mut Graph,
    cx: &mut PassCtx,
    wanted: &dyn Fn(&Graph, &Node) -> bool,
) -> Result<bool, OpError> {
    let mut changed = false;
    rebuild(graph, &mut |graph, _, node| {
        if node.op.row.expand.is_none() && !matches!(node.regions[..], [_]) {
            return Ok(Visit::Keep(node));
        }
        let types: Vec<_> = node.operands().iter().map(|v| graph.ty(*v).clone()).collect();
        let ctx = OpCtx { op: &node.op, types: &types, regions: &node.regions };
        let class = (node.op.row.class)(&ctx);
        let expands = matches!(class, Class::Composite | Class::Region(RegionKind::Do));
        if !expands || !wanted(graph, &node) || !cx.allow(node.op.row.name) {
            return Ok(Visit::Keep(node));
        }
        changed = true;
        let Some(expand) = node.op.row.expand else {
            // What stands in a `do` may as well stand around it.
            return Ok(Visit::Replace(inline(graph, &node.regions[0], node.operands())));
        };
        let mut b = Builder { graph, loc: node.loc.clone() };
        let ctx = ExpandCtx {
            op: &node.op,
            operands: node.operands(),
            types: &types,
            results: &node.results,
            regions: &node.regions,
        };
        Ok(Visit::Replace(expand(&mut b, &ctx)?))
    })?;
    Ok(changed)
}
