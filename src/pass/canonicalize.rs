//! Canonical form: equal computations look equal, so that later passes compare and match less.
//!
//! - operands of commutative functions: constants last, then by position in the graph (`b + a = a + b`;
//!   exact, except for which of two NaNs survives, which dlc does not promise);
//! - captures of regions: each value once, none that is not read, and small constants are copied
//!   into the region, where they can fold.

use super::rebuild::{Visit, rebuild};
use super::{PassCtx, class_of, constant};
use crate::ir::op::{Class, OpError};
use crate::ir::print::own_operands_of;
use crate::ir::scalar::ScalarFn;
use crate::ir::{Builder, Graph, Node, Value};

/// Constants of at most so many elements are copied into regions.
const COPIED_ELEMENTS: usize = 16;

pub fn run(graph: &mut Graph, cx: &mut PassCtx) -> Result<(), OpError> {
    rebuild(graph, &mut |graph, _, node| {
        Ok(Visit::Keep(match class_of(graph, &node) {
            Class::Elementwise(f) if is_commutative(f) => order_operands(graph, node, cx),
            class @ Class::Region(_) => tidy_captures(graph, node, &class, cx),
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
            | Class::Composite => node,
        }))
    })
}

/// `f(a, b) = f(b, a)`, to the bit where neither is NaN. (`min` and `max` are not among them: on
/// zeros of both signs the order may show.)
pub fn is_commutative(f: ScalarFn) -> bool {
    use ScalarFn::*;
    match f {
        Add | Mul | And | Or | Xor | Eq | Ne => true,
        Neg
        | Abs
        | Sign
        | Relu
        | Floor
        | Ceil
        | Round
        | Trunc
        | Sqrt
        | Rsqrt
        | Reciprocal
        | Exp
        | Expm1
        | Log
        | Log1p
        | Sin
        | Cos
        | Tanh
        | Sigmoid
        | Erf
        | Gelu
        | GeluTanh
        | Silu
        | Softplus
        | IsNan
        | IsInf
        | Not
        | Cast(_)
        | Sub
        | Div
        | FloorDiv
        | Mod
        | Pow
        | Min
        | Max
        | Shl
        | Shr
        | Lt
        | Le
        | Gt
        | Ge
        | Where
        | Random { .. } => false,
    }
}

fn order_operands(graph: &Graph, node: Node, cx: &mut PassCtx) -> Node {
    let [a, b] = *node.operands() else { return node };
    let key = |v: Value| (constant(graph, v).is_some(), v);
    match key(b) < key(a) && cx.allow("f(b, a) = f(a, b)") {
        true => node.with_operands(vec![b, a]),
        false => node,
    }
}

fn tidy_captures(graph: &Graph, mut node: Node, class: &Class, cx: &mut PassCtx) -> Node {
    let own = own_operands_of(class, node.operands().len());
    let mut operands = node.operands().to_vec();
    let mut k = own;
    while k < operands.len() {
        let value = operands[k];
        // Where the capture stands among the inputs of a region.
        let at = |region: &Graph, k: usize| region.inputs.len() - (operands.len() - k);
        let read = |r: &Graph| is_read(r, input(r, at(r, k)));
        let first = operands[own..k].iter().position(|v| *v == value).map(|i| i + own);
        let copied = constant(graph, value).filter(|t| t.numel() <= COPIED_ELEMENTS);
        if !node.regions.iter().any(read) {
            if !cx.allow("a capture that is not read") {
                return node.with_operands(operands);
            }
        } else if let Some(first) = first {
            if !cx.allow("a value captured twice") {
                return node.with_operands(operands);
            }
            for region in &mut node.regions {
                let (from, to) = (input(region, at(region, k)), input(region, at(region, first)));
                region.replace_uses(from, to);
            }
        } else if let Some(t) = copied {
            if !cx.allow("a captured constant is copied") {
                return node.with_operands(operands);
            }
            for region in &mut node.regions {
                let from = input(region, at(region, k));
                let to = Builder::new(region).constant(t.clone());
                region.replace_uses(from, to);
            }
        } else {
            k += 1;
            continue;
        }
        for region in &mut node.regions {
            let gone = region.inputs.remove(at(region, k));
            region.remove(gone);
        }
        operands.remove(k);
    }
    node.with_operands(operands)
}

fn input(region: &Graph, index: usize) -> Value {
    Value { node: region.inputs[index], result: 0 }
}

fn is_read(region: &Graph, v: Value) -> bool {
    region.use_count(v.node) > 0 || region.outputs.iter().any(|o| o.value == v)
}
