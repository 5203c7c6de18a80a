//! A scale after a convolution or a product moves into the weights.
//!
//! `conv(x, w) * s = conv(x, w * s)` and `(conv(x, w) + t) * s = conv(x, w * s) + t * s`, where w, s
//! and t are known before the run and s varies along the output channels only. After `unwrap` this
//! is how batch normalization folds into the convolution before it: the new weights are ops on
//! parameters, computed once at load. Licence: reassociation (each product is rounded once more, each
//! sum once less).

use super::known::Known;
use super::rebuild::{Visit, all_results, rebuild};
use super::{PassCtx, class_of};
use crate::base::{Dim, Shape};
use crate::ir::op::{Class, OpError, WindowKind};
use crate::ir::scalar::ScalarFn;
use crate::ir::{Builder, Graph, Node, NodeId, Value};

const RULE: &str = "conv(x, w) * s = conv(x, w * s)";

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    if cx.settings.strict || cx.settings.training {
        return Ok(());
    }
    let mut single = single_uses(graph);
    let mut known = Known::default();
    // By new id: results that only one op reads.
    let mut new_single: Vec<bool> = vec![];
    rebuild(graph, &mut |graph, id, node| {
        let class = class_of(graph, &node);
        let is_single = std::mem::take(&mut single[id.0 as usize]);
        let values = match class {
            Class::Elementwise(ScalarFn::Mul) => {
                let mut site = Site { graph, known: &mut known, single: &new_single };
                let scaled = site.scaled(&node)?;
                match scaled {
                    Some(plan) if cx.allow(RULE) => vec![plan.build(graph, &node)?],
                    _ => all_results(graph.add(node), 1),
                }
            }
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
            | Class::Composite => {
                let results = node.results.len();
                all_results(graph.add(node), results)
            }
        };
        new_single.resize(graph.id_bound(), false);
        if let Some(v) = values.first() {
            new_single[v.node.0 as usize] = is_single;
        }
        Ok(Visit::Added(values))
    })
}

/// By id: nodes of one result which one operand reads, and no output and no state.
pub fn single_uses(graph: &Graph) -> Vec<bool> {
    let mut uses = vec![0u32; graph.id_bound()];
    for id in graph.ids() {
        graph.node(id).operands().iter().for_each(|v| uses[v.node.0 as usize] += 1);
    }
    graph.outputs.iter().for_each(|o| uses[o.value.node.0 as usize] += 2);
    graph.states.iter().for_each(|s| uses[s.next.node.0 as usize] += 2);
    uses.into_iter().map(|n| n == 1).collect()
}

struct Site<'a> {
    graph: &'a Graph,
    known: &'a mut Known,
    single: &'a [bool],
}

/// A product or convolution and what is done to it.
struct Plan {
    root: NodeId,
    /// The axis of the weights that the scale runs along.
    axis: usize,
    scale: Value,
    /// Added after the root, or subtracted.
    shift: Option<(ScalarFn, Value)>,
}

impl Site<'_> {
    /// How the product `node` can move into weights.
    fn scaled(&mut self, node: &Node) -> Result<Option<Plan>, OpError> {
        let [a, b] = *node.operands() else { return Ok(None) };
        for (y, scale) in [(a, b), (b, a)] {
            if !self.known.is_known(self.graph, scale) || self.known.is_known(self.graph, y) {
                continue;
            }
            if let Some(axis) = self.root(y, scale, node) {
                return Ok(Some(Plan { root: y.node, axis, scale, shift: None }));
            }
            // One shift between: a bias.
            let inner = self.graph.node(y.node);
            let (Class::Elementwise(f @ (ScalarFn::Add | ScalarFn::Sub)), true) =
                (class_of(self.graph, inner), self.is_single(y))
            else {
                continue;
            };
            let [x, t] = *inner.operands() else { continue };
            let pairs = if f == ScalarFn::Add { vec![(x, t), (t, x)] } else { vec![(x, t)] };
            for (x, t) in pairs {
                if self.known.is_known(self.graph, t)
                    && self.graph.ty(x) == &node.results[0]
                    && let Some(axis) = self.root(x, scale, node)
                {
                    return Ok(Some(Plan { root: x.node, axis, scale, shift: Some((f, t)) }));
                }
            }
        }
        Ok(None)
    }

    fn is_single(&self, v: Value) -> bool {
        self.single.get(v.node.0 as usize) == Some(&true)
    }

    /// The weights' axis of output channels, where `y` is a product with known weights that nothing
    /// else reads, and `scale` varies along the channels only.
    fn root(&mut self, y: Value, scale: Value, product: &Node) -> Option<usize> {
        let node = self.graph.node(y.node);
        if !self.is_single(y) || self.graph.ty(y) != &product.results[0] {
            return None;
        }
        let (axis, channel) = match class_of(self.graph, node) {
            Class::Window(spec) => match spec.kind {
                WindowKind::Conv { .. } => (0, 1),
                WindowKind::Winograd { .. } | WindowKind::MaxPool | WindowKind::AvgPool { .. } => {
                    return None;
                }
            },
            Class::Contract(spec) => {
                let is_channel = |l: &u8| spec.out.contains(l) && !spec.lhs.contains(l);
                let mut axes = (0..spec.rhs.len()).filter(|i| is_channel(&spec.rhs[*i]));
                let axis = axes.next().filter(|_| axes.next().is_none())?;
                let label = spec.rhs[axis];
                (axis, spec.out.iter().position(|l| *l == label)?)
            }
            Class::Source(_)
            | Class::Elementwise(_)
            | Class::Reduce(_)
            | Class::View(_)
            | Class::Gather { .. }
            | Class::Scatter(_)
            | Class::UpdateSlice { .. }
            | Class::Sort(_)
            | Class::Region(_)
            | Class::Composite => return None,
        };
        let [_, weights] = *node.operands() else { return None };
        let shape = self.graph.ty(scale).shape.dims();
        let lead = product.results[0].rank() - shape.len();
        let along = (0..shape.len()).all(|i| shape[i] == Dim::ONE || i + lead == channel);
        (along && self.known.is_known(self.graph, weights)).then_some(axis)
    }
}

impl Plan {
    fn build(self, graph: &mut Graph, product: &Node) -> Result<Value, OpError> {
        let root = graph.node(self.root).clone();
        let (x, w) = (root.operands()[0], root.operands()[1]);
        let rank = graph.ty(w).rank();
        let count = graph.ty(self.scale).shape.numel().ok_or_else(OpError::overflow)?;
        let mut along = vec![Dim::ONE; rank];
        along[self.axis] = count;
        let mut b = Builder { graph, loc: root.loc.clone() };
        let scale = b.reshape(self.scale, &Shape(along))?;
        let weights = b.bin("mul", w, scale)?;
        let node = b.push(root.op, vec![x, weights], vec![])?;
        let y = Value { node, result: 0 };
        let Some((f, t)) = self.shift else { return Ok(y) };
        b.loc = product.loc.clone();
        let shift = b.bin("mul", t, self.scale)?;
        b.bin(if f == ScalarFn::Add { "add" } else { "sub" }, y, shift)
    }
}
