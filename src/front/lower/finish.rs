//! From the nodes of a model to its graph: next values of states, what nothing needs removed.

use std::collections::BTreeMap;

use super::call::matches;
use super::function;
use super::value::Val;
use super::{Lowerer, RenameRule};
use crate::base::diag::Diagnostic;
use crate::base::{Symbol, codes};
use crate::front::ast::*;
use crate::front::project::UnitId;
use crate::ir::graph::NodeId;
use crate::ir::op::{self, Op};
use crate::ir::{Attr, Builder, Graph};

impl Lowerer<'_> {
    /// The finished graph in canonical order. Parameters that nothing reads are dropped: they
    /// belong to parts that were cut away.
    pub(super) fn finish(&mut self) -> Graph {
        let mut graph = std::mem::take(&mut self.regions[0].graph);
        for (_, state) in std::mem::take(&mut self.states) {
            let Val::Tensor(current) = state.current else { continue };
            if state.updated {
                Builder::new(&mut graph).set_state(state.node.value, current.value);
            } else {
                become_param(&mut graph, state.node.value.node, &state.init);
            }
        }
        prune(&mut graph);
        self.regions[0].graph = graph;
        self.declare_all_dims();
        let mut graph = std::mem::take(&mut self.regions[0].graph);
        graph.compact();
        graph
    }

    /// Every symbol that a type or attribute mentions has its line in the graph.
    fn declare_all_dims(&mut self) {
        let mut used: Vec<Symbol> = vec![];
        let graph = &self.regions[0].graph;
        for id in graph.ids() {
            let node = graph.node(id);
            for ty in &node.results {
                ty.shape.dims().iter().for_each(|d| d.symbols(&mut used));
            }
            for attr in &node.op.attrs {
                if let Attr::Dims(dims) = attr {
                    dims.iter().for_each(|d| d.symbols(&mut used));
                }
            }
        }
        used.sort();
        used.dedup();
        self.declare_dims(crate::front::project::ROOT, &used);
    }

    /// The rename table of a `weights` clause.
    pub(super) fn renames(&mut self, unit: UnitId, clause: &Weights) -> Vec<RenameRule> {
        let mut out = vec![];
        for rename in &clause.renames {
            let frame = self.constant_frame(unit);
            self.frames.push(frame);
            out.extend(self.rename(rename));
            self.frames.pop();
        }
        out
    }

    fn rename(&mut self, rename: &Rename) -> Option<RenameRule> {
        let expr = self.expr(rename.theirs);
        let (head, stages) = match &expr.kind {
            ExprKind::Pipe { parts } => (parts[0].value, &parts[1..]),
            _ => (rename.theirs, &[][..]),
        };
        let wrong = |this: &mut Self, span, message: String| {
            this.report(Diagnostic::error(codes::BAD_WEIGHTS_CLAUSE, span, message).help(
                "write `ours = \"theirs\"`, then possibly `|> transpose` or \
                     `|> permute(3, 2, 0, 1)`",
            ));
        };
        let ExprKind::Str(theirs) = &self.expr(head).kind else {
            let span = self.expr(head).span;
            wrong(self, span, "the name in the file is a text in quotes".into());
            return None;
        };
        let stars = |s: &str| s.matches('*').count();
        if stars(&rename.ours.text) > 1 || stars(&rename.ours.text) != stars(theirs) {
            let message = "a `*` stands once on both sides or on none".to_string();
            wrong(self, expr.span, message);
            return None;
        }
        let mut permute = vec![];
        for stage in stages {
            let span = self.expr(stage.value).span;
            permute = match self.stage_axes(stage.value) {
                Some(axes) if permute.is_empty() => axes,
                Some(_) => {
                    wrong(self, span, "one change of axes is enough".into());
                    return None;
                }
                None => {
                    wrong(self, span, "only `transpose` and `permute(…)` can follow".into());
                    return None;
                }
            };
        }
        Some(RenameRule { ours: rename.ours.text.clone(), theirs: theirs.clone(), permute })
    }

    /// `transpose`, `transpose()` or `permute(1, 0)` as axes.
    fn stage_axes(&mut self, id: ExprId) -> Option<Vec<i64>> {
        let (name, args) = match &self.expr(id).kind {
            ExprKind::Name(n) => (n.as_str(), None),
            ExprKind::Postfix { base, trailers } => {
                match (&self.expr(*base).kind, trailers.as_slice()) {
                    (ExprKind::Name(n), [Trailer::Call { args, .. }]) => (n.as_str(), Some(args)),
                    _ => return None,
                }
            }
            _ => return None,
        };
        let args = args.map_or(vec![], |a| self.args(a).positional);
        let axes: Vec<i64> = match args.as_slice() {
            [(Val::List(items), _)] => items.iter().map(int).collect::<Option<_>>()?,
            many => many.iter().map(|(v, _)| int(v)).collect::<Option<_>>()?,
        };
        match (name, axes.as_slice()) {
            ("transpose", []) => Some(vec![-1]),
            ("permute" | "transpose", axes) => {
                let mut sorted = axes.to_vec();
                sorted.sort_unstable();
                let whole = sorted.iter().enumerate().all(|(i, a)| *a == i as i64);
                (whole && !axes.is_empty()).then(|| axes.to_vec())
            }
            _ => None,
        }
    }

    /// Whether a pattern names at least one parameter (for `update`).
    pub(super) fn any_param(&self, pattern: &str) -> bool {
        self.params.keys().any(|p| matches(pattern, p))
    }
}

fn int(v: &Val) -> Option<i64> {
    function::as_dim(v)?.as_const()
}

/// State that nothing changes is a parameter (rule 7).
fn become_param(graph: &mut Graph, id: NodeId, init: &str) {
    let Some(row) = op::find("param") else { return };
    let node = graph.node_mut(id);
    let keep = |name: &str| (node.op.attr(name)).clone();
    let attrs = [
        ("name", keep("name")),
        ("dtype", keep("dtype")),
        ("shape", keep("shape")),
        ("init", Attr::Str(init.to_string())),
    ];
    node.op = Op::new(row, &attrs);
    graph.states.retain(|s| s.node != id);
    graph.params.push(id);
}

/// Removes what no output and no state needs; inputs stay.
pub(super) fn prune(graph: &mut Graph) {
    let order = graph.topological();
    let mut needed: BTreeMap<NodeId, ()> = graph.inputs.iter().map(|id| (*id, ())).collect();
    let mut work: Vec<NodeId> = graph.outputs.iter().map(|o| o.value.node).collect();
    work.extend(graph.states.iter().flat_map(|s| [s.node, s.next.node]));
    while let Some(id) = work.pop() {
        if needed.insert(id, ()).is_none() {
            work.extend(graph.node(id).operands().iter().map(|v| v.node));
        }
    }
    graph.params.retain(|id| needed.contains_key(id));
    for id in order.into_iter().rev() {
        if !needed.contains_key(&id) {
            graph.remove(id);
        }
    }
}
