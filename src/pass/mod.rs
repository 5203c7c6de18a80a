//! Passes: graph in, better graph out, same results.
//!
//! A pass is a row of [`TABLE`]: a name, a sentence, a free function in a file of its own. Which
//! passes run at which level is written in `src/pipeline.rs`. A pass keeps the signature (inputs,
//! params, states, outputs) and works on one graph; the manager applies it to regions too, innermost
//! first. Every single rewrite asks [`PassCtx::allow`] first, so that `--pass-limit` can bisect.

mod algebra;
mod canonicalize;
mod cse;
mod dce;
mod expand;
mod fold;
mod fold_batch_norm;
mod known;
mod manager;
mod merge;
mod narrow;
mod raise;
mod rebuild;
#[cfg(test)]
mod tests;
mod unwrap;

use std::collections::BTreeMap;

use crate::base::{DType, Tensor};
use crate::ir::op::{Class, OpCtx, OpError, Source};
use crate::ir::{Attr, Graph, Node, Value};

pub use expand::expand_where;
pub use manager::{Control, PassFailure, PassStat, Step, compact_all, run};
pub use rebuild::{Visit, rebuild};

/// One pass.
pub struct PassRow {
    pub name: &'static str,
    /// What it does, in one sentence.
    pub doc: &'static str,
    pub run: fn(&mut Graph, &mut PassCtx) -> Result<(), OpError>,
}

/// All passes.
pub static TABLE: &[PassRow] = &[
    PassRow {
        name: "canonicalize",
        doc: "brings equal computations into one form: order of commutative operands, captures",
        run: canonicalize::run,
    },
    PassRow {
        name: "raise",
        doc: "recognizes softmax, normalizations, activations and attention in simpler ops",
        run: raise::run,
    },
    PassRow {
        name: "unwrap",
        doc: "opens composites that are an operand of theirs, or affine with known weights",
        run: unwrap::run,
    },
    PassRow {
        name: "fold_batch_norm",
        doc: "moves a scale after a convolution or a product into its weights",
        run: fold_batch_norm::run,
    },
    PassRow {
        name: "merge",
        doc: "joins products of one value with several parameters",
        run: merge::run,
    },
    PassRow {
        name: "algebra",
        doc: "applies equations (`x * 1 = x`), each with its licence where it is not exact",
        run: algebra::run,
    },
    PassRow {
        name: "fold",
        doc: "computes ops whose operands are constants, by the reference evaluator",
        run: fold::run,
    },
    PassRow { name: "cse", doc: "computes equal expressions once", run: cse::run },
    PassRow { name: "dce", doc: "removes what no output and no state depends on", run: dce::run },
    PassRow {
        name: "expand",
        doc: "replaces composites by their definition in simpler ops",
        run: expand::run,
    },
    PassRow {
        name: "lower",
        doc: "expands the composites that no fusion group computes whole",
        run: expand::run_unclaimed,
    },
    PassRow {
        name: "narrow",
        doc: "rounds operands and results of products to the type that `--precision` asks for",
        run: narrow::run,
    },
];

/// The row of this name.
pub fn find(name: &str) -> Option<&'static PassRow> {
    TABLE.iter().find(|row| row.name == name)
}

/// What passes are told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Only rewrites that change no bit of a result.
    pub strict: bool,
    /// The graph is a training step: dropout and batch statistics stay.
    pub training: bool,
    /// Composites that a fusion group computes whole; `lower` leaves them.
    pub claimed: &'static [&'static str],
    /// Constant folding makes no tensor larger than this.
    pub fold_bytes: u64,
    /// The float type of products and convolutions over f32, if it is to be another one.
    pub narrow: Option<DType>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { strict: false, training: false, claimed: &[], fold_bytes: 1 << 20, narrow: None }
    }
}

/// What a pass is given beside the graph, and what it leaves behind.
pub struct PassCtx {
    pub settings: Settings,
    /// Single rewrites that may still be made; `None` is no limit.
    left: Option<u64>,
    /// Rewrites made, by rule.
    pub made: BTreeMap<&'static str, u64>,
    /// The rule of the latest rewrite: what a bisection ends at.
    pub latest: Option<&'static str>,
}

impl PassCtx {
    pub fn new(settings: Settings, limit: Option<u64>) -> PassCtx {
        PassCtx { settings, left: limit, made: BTreeMap::new(), latest: None }
    }

    /// Whether one more rewrite may be made; counts it where it may. To be called last, when the
    /// rewrite is certain.
    pub fn allow(&mut self, rule: &'static str) -> bool {
        if self.left == Some(0) {
            return false;
        }
        self.left = self.left.map(|n| n - 1);
        *self.made.entry(rule).or_insert(0) += 1;
        self.latest = Some(rule);
        true
    }

    /// [`PassCtx::allow`] for a rewrite that may round differently: never under `--strict`.
    pub fn allow_inexact(&mut self, rule: &'static str) -> bool {
        !self.settings.strict && self.allow(rule)
    }

    /// All rewrites so far.
    pub fn rewrites(&self) -> u64 {
        self.made.values().sum()
    }
}

/// The class of a node whose operands are in this graph, itself in it or not.
pub fn class_of(graph: &Graph, node: &Node) -> Class {
    let types: Vec<_> = node.operands().iter().map(|v| graph.ty(*v).clone()).collect();
    (node.op.row.class)(&OpCtx { op: &node.op, types: &types, regions: &node.regions })
}

/// The tensor, where the value is a constant.
pub fn constant(graph: &Graph, v: Value) -> Option<&Tensor> {
    let node = graph.node(v.node);
    if !node.operands().is_empty() {
        return None;
    }
    match class_of(graph, node) {
        Class::Source(Source::Constant) => match node.op.attr("value") {
            Attr::Tensor(t) => Some(t),
            other => unreachable!("a constant holds a tensor by its schema: {other:?}"),
        },
        Class::Source(_)
        | Class::Elementwise(_)
        | Class::Reduce(_)
        | Class::View(_)
        | Class::Contract(_)
        | Class::Window(_)
        | Class::Gather { .. }
        | Class::Scatter(_)
        | Class::UpdateSlice { .. }
        | Class::Sort(_)
        | Class::Region(_)
        | Class::Composite => None,
    }
}
