//! Algebra: rewrites by equations.
//!
//! Each rewrite asks leave under its equation. `PassCtx::allow` is for those that change no bit of
//! any result (NaN stays NaN, which one is not promised); `allow_inexact` for the others, with the
//! licence that they need beside them:
//! - *reassociation*: sums and products of three are computed in another order;
//! - *reciprocal*: a division becomes a multiplication by a rounded reciprocal;
//! - *zero sign*: a zero may come out with the other sign;
//! - *function*: one function for two, with an error of its own.
//!
//! A rule sees a node whose operands are final, and what they are computed from.

mod cast;
mod contract;
mod elementwise;
mod region;
mod view;

pub use region::inline;

use super::rebuild::{Visit, rebuild};
use super::{PassCtx, class_of, constant};
use crate::base::TensorType;
use crate::ir::op::{Class, OpError, RegionKind, View};
use crate::ir::scalar::ScalarFn;
use crate::ir::{Builder, Graph, Node, Value};

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    rebuild(graph, &mut |graph, _, node| {
        let class = class_of(graph, &node);
        let mut site = Site { graph, node: &node, cx };
        let found = match &class {
            Class::Elementwise(f) => elementwise::simplify(&mut site, *f)?,
            Class::View(v) => view::simplify(&mut site, v)?,
            Class::Contract(_) => contract::simplify(&mut site)?,
            Class::Region(RegionKind::Cond) => region::simplify_cond(&mut site)?,
            Class::Region(RegionKind::Scan { .. } | RegionKind::Do)
            | Class::Source(_)
            | Class::Reduce(_)
            | Class::Window(_)
            | Class::Gather { .. }
            | Class::Scatter(_)
            | Class::UpdateSlice { .. }
            | Class::Sort(_)
            | Class::Composite => None,
        };
        Ok(match found {
            Some(values) => Visit::Replace(values),
            None => Visit::Keep(node),
        })
    })
}

/// Larger constants are not looked through, for each of their users would do so.
const SPLAT_ELEMENTS: usize = 256;

/// What a rule has before it: a node that is about to enter the graph.
struct Site<'a> {
    graph: &'a mut Graph,
    node: &'a Node,
    cx: &'a mut PassCtx,
}

/// What a rule makes of it: the values of the results, or nothing.
type Found = Result<Option<Vec<Value>>, OpError>;

impl<'a> Site<'a> {
    fn operand(&self, i: usize) -> Value {
        self.node.operands()[i]
    }

    fn ty(&self, v: Value) -> &TensorType {
        self.graph.ty(v)
    }

    /// The type of the first result.
    fn result(&self) -> &TensorType {
        &self.node.results[0]
    }

    fn is_float(&self, v: Value) -> bool {
        self.ty(v).dtype.is_float()
    }

    /// A builder that gives new nodes the place of the old one.
    fn builder(&mut self) -> Builder<'_> {
        Builder { loc: self.node.loc.clone(), graph: self.graph }
    }

    /// `v` in place of the node, where the types are equal.
    fn becomes(&mut self, v: Value, equation: &'static str) -> Found {
        let same = self.ty(v) == self.result();
        Ok((same && self.cx.allow(equation)).then(|| vec![v]))
    }

    fn becomes_inexactly(&mut self, v: Value, equation: &'static str) -> Found {
        let same = self.ty(v) == self.result();
        Ok((same && self.cx.allow_inexact(equation)).then(|| vec![v]))
    }

    /// The function and operands that an operand is computed by, where it is elementwise.
    fn function(&self, v: Value) -> Option<(ScalarFn, Vec<Value>)> {
        let node = self.graph.node(v.node);
        match class_of(self.graph, node) {
            Class::Elementwise(f) => Some((f, node.operands().to_vec())),
            Class::Source(_)
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

    /// The operand of `f`, where `v` is `f` of one operand.
    fn argument(&self, f: ScalarFn, v: Value) -> Option<Value> {
        let (g, operands) = self.function(v)?;
        (g == f).then(|| operands[0])
    }

    /// The view and operands that an operand is computed by.
    fn view(&self, v: Value) -> Option<(View, Vec<Value>)> {
        let node = self.graph.node(v.node);
        match class_of(self.graph, node) {
            Class::View(view) => Some((view, node.operands().to_vec())),
            Class::Source(_)
            | Class::Elementwise(_)
            | Class::Reduce(_)
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

    /// The number that every element is, where the value is known to be a constant of one number.
    fn splat(&self, v: Value) -> Option<f64> {
        if let Some(t) = constant(self.graph, v) {
            let first = (t.numel() > 0).then(|| t.get_f64(0))?;
            let same = |i: usize| t.get_f64(i).to_bits() == first.to_bits();
            return (t.numel() <= SPLAT_ELEMENTS && (1..t.numel()).all(same)).then_some(first);
        }
        match self.view(v)? {
            (View::Broadcast | View::Reshape, operands) => self.splat(operands[0]),
            (
                View::Transpose(_)
                | View::Relayout { .. }
                | View::Slice { .. }
                | View::Pad { .. }
                | View::Concat { .. }
                | View::DynamicSlice { .. },
                _,
            ) => None,
        }
    }
}
