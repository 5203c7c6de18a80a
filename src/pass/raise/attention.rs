//! Attention: `softmax(q · kᵀ · scale + mask) · v`.

use super::super::class_of;
use super::Raised;
use super::find::Find;
use crate::ir::op::{Class, View};
use crate::ir::scalar::ScalarFn;
use crate::ir::{Attr, Node, Value};

pub fn find(f: &Find, node: &Node) -> Option<Raised> {
    if node.op.row.name != "matmul" || node.op.bool("transpose_a") || node.op.bool("transpose_b") {
        return None;
    }
    let [weights, v] = *node.operands() else { return None };
    let softmax = f.op(weights, "softmax")?;
    let scores = softmax.operands()[0];
    let rank = f.dims(scores).len();
    if f.axes(softmax, rank)? != [rank - 1] {
        return None;
    }
    let (scores, mask) = unmasked(f, scores);
    let (scale, factors) = f.factors_of(scores);
    let [product] = factors[..] else { return None };
    let matmul = f.op(product, "matmul").filter(|m| !m.op.bool("transpose_a"))?;
    let [q, k] = *matmul.operands() else { return None };
    let (k, permuted) = match matmul.op.bool("transpose_b") {
        true => (k, None),
        false => transposed(f, k)?,
    };
    // The scale may stand before the product.
    let (before, only) = f.factors_of(q);
    let (scale, q) = match only[..] {
        [inner] if f.dims(inner) == f.dims(q) => (scale * before, inner),
        _ => (scale, q),
    };
    let attrs = vec![("scale", Attr::Float(scale))];
    let mut operands = vec![q, k, v];
    operands.extend(mask);
    Some(Raised {
        rule: "softmax(q · kᵀ · scale + mask) · v = attention(q, k, v, mask)",
        name: "attention",
        operands,
        permuted: permuted.map(|perm| (1, perm)),
        attrs,
    })
}

/// The scores and the mask that is added, or that keeps where it is true.
fn unmasked(f: &Find, scores: Value) -> (Value, Option<Value>) {
    let is_product = |v: Value| {
        let (_, factors) = f.factors_of(v);
        matches!(factors[..], [p] if f.op(p, "matmul").is_some())
    };
    if let Some([inner, mask]) = f.either(scores, ScalarFn::Add, is_product)
        && f.dims(inner) == f.dims(scores)
    {
        return (inner, Some(mask));
    }
    let node = f.node(scores);
    if let Some([keep, inner, least]) = f.function(node, ScalarFn::Where)
        && f.number(*least) == Some(f64::NEG_INFINITY)
        && f.dims(*inner) == f.dims(scores)
    {
        return (*inner, Some(*keep));
    }
    (scores, None)
}

/// What `v` is the transpose of, over the last two axes: a value, and the permutation that is left
/// where `v` permutes other axes too (`transpose(x, [0, 2, 3, 1])` is kᵀ of
/// `transpose(x, [0, 2, 1, 3])`).
fn transposed(f: &Find, v: Value) -> Option<(Value, Option<Vec<i64>>)> {
    let node = f.node(v);
    let Class::View(View::Transpose(mut perm)) = class_of(f.graph, node) else { return None };
    let rank = perm.len();
    perm.swap(rank.checked_sub(2)?, rank - 1);
    let left = perm.iter().enumerate().any(|(i, p)| i != *p);
    Some((node.operands()[0], left.then(|| perm.iter().map(|p| *p as i64).collect())))
}
