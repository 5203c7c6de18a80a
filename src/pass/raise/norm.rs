//! Softmax and normalizations.

use super::Raised;
use super::find::Find;
use crate::ir::scalar::{Combine, ScalarFn};
use crate::ir::{Attr, Node, Value};

/// `exp(x − max x) / Σ exp(x − max x)`, with or without the maximum, and its logarithm
/// `(x − max x) − log Σ exp(x − max x)`.
pub fn softmax(f: &Find, node: &Node) -> Option<Raised> {
    let (rule, name, x, axes) = if let Some([p, total]) = f.function(node, ScalarFn::Div) {
        let axes = f.reduced(*total, *p, Combine::Sum)?;
        let below = f.unary(*p, ScalarFn::Exp)?;
        ("exp(x - m) / sum(exp(x - m)) = softmax(x)", "softmax", shifted(f, below, &axes), axes)
    } else {
        let [below, log] = f.function(node, ScalarFn::Sub)? else { return None };
        let total = f.stripped(f.unary(f.stripped(*log), ScalarFn::Log)?);
        let p = *f.node(total).operands().first()?;
        if f.unary(p, ScalarFn::Exp)? != *below {
            return None;
        }
        let axes = f.reduced(total, p, Combine::Sum)?;
        if f.dims(*log).len() != f.dims(p).len() {
            return None;
        }
        let rule = "x - m - log(sum(exp(x - m))) = log_softmax(x)";
        (rule, "log_softmax", shifted(f, *below, &axes), axes)
    };
    let [axis] = axes[..] else { return None };
    let attrs = vec![("axis", Attr::Int(axis as i64))];
    Some(Raised { rule, name, operands: vec![x], permuted: None, attrs })
}

/// `x` of `x − max x`; the value itself where it is not such a difference.
fn shifted(f: &Find, below: Value, axes: &[usize]) -> Value {
    match f.binary(below, ScalarFn::Sub) {
        Some([x, top]) if f.reduced(top, x, Combine::Max).as_deref() == Some(axes) => x,
        _ => below,
    }
}

/// `(x − mean) / √(var + eps)` and `x / √(mean(x²) + eps)`, over trailing axes.
pub fn normalization(f: &Find, node: &Node) -> Option<Raised> {
    let (d, inner) = deviation_and_variance(f, node)?;
    let [eps, v] = pair(f, inner)?;
    let eps = f.number(eps)?;
    let trailing = |axes: &[usize], rank: usize| {
        axes.first().is_some_and(|a| axes.iter().copied().eq(*a..rank))
    };
    let make = |rule, name, x: Value, axes: &[usize]| {
        let attrs = vec![("eps", Attr::Float(eps)), ("axis", Attr::Int(axes[0] as i64))];
        let rank = f.dims(x).len();
        trailing(axes, rank).then(|| Raised {
            rule,
            name,
            operands: vec![x],
            permuted: None,
            attrs,
        })
    };
    // The centre, if the deviation is one from the mean.
    let centred = f.binary(d, ScalarFn::Sub).and_then(|[x, m]| {
        let (of, axes) = f.mean(m)?;
        (of == x).then_some((x, axes))
    });
    if let Some((square, axes)) = f.mean(v) {
        let of = f.square(square)?;
        if of != d {
            return None;
        }
        return match centred {
            Some((x, centre)) if centre == axes => {
                make("(x - mean) / sqrt(var + eps) = layer_norm(x)", "layer_norm", x, &axes)
            }
            _ => make("x / sqrt(mean(x * x) + eps) = rms_norm(x)", "rms_norm", d, &axes),
        };
    }
    let (x, axes) = centred?;
    let var = f.op(f.stripped(v), "var")?;
    let same = var.operands()[0] == x
        && var.op.int("correction") == 0
        && f.axes(var, f.dims(x).len())? == axes
        && f.dims(v).len() == f.dims(x).len();
    if !same {
        return None;
    }
    make("(x - mean) / sqrt(var + eps) = layer_norm(x)", "layer_norm", x, &axes)
}

/// `d` and `v + eps` of `d / √(v + eps)` or `d · rsqrt(v + eps)`.
fn deviation_and_variance(f: &Find, node: &Node) -> Option<(Value, Value)> {
    if let Some([d, root]) = f.function(node, ScalarFn::Div) {
        return Some((*d, f.unary(f.stripped(*root), ScalarFn::Sqrt)?));
    }
    let [a, b] = f.function(node, ScalarFn::Mul)? else { return None };
    [(*a, *b), (*b, *a)].into_iter().find_map(|(d, root)| {
        let root = f.stripped(root);
        if let Some(inner) = f.unary(root, ScalarFn::Rsqrt) {
            return Some((d, inner));
        }
        let root = f.unary(root, ScalarFn::Reciprocal)?;
        Some((d, f.unary(root, ScalarFn::Sqrt)?))
    })
}

/// The operands of a sum, the number first.
fn pair(f: &Find, v: Value) -> Option<[Value; 2]> {
    f.either(v, ScalarFn::Add, |c| f.number(c).is_some())
}

/// `layer_norm(x) * w + b`: a normalization without them takes its weight, then its bias.
pub fn with_weights(f: &Find, node: &Node) -> Option<Raised> {
    let (function, operand) = match f.function(node, ScalarFn::Mul) {
        Some(_) => (ScalarFn::Mul, "weight"),
        None => (ScalarFn::Add, "bias"),
    };
    let [a, b] = f.function(node, function)? else { return None };
    [(*a, *b), (*b, *a)].into_iter().find_map(|(y, w)| {
        let norm = f.node(y);
        let name = ["layer_norm", "rms_norm"].into_iter().find(|n| f.op(y, n).is_some())?;
        // The weight goes first: a bias is only taken after it.
        let count = norm.operands().len();
        let index = norm.op.row.operand_index(operand)?;
        if count != index || !f.is_single(y) {
            return None;
        }
        let x = norm.operands()[0];
        let first = norm.op.int("axis").rem_euclid(f.dims(x).len() as i64) as usize;
        if f.dims(w) != &f.dims(x)[first..] {
            return None;
        }
        let attrs = norm.op.row.attrs.iter().zip(&norm.op.attrs);
        Some(Raised {
            rule: "norm(x) * w + b = norm(x, w, b)",
            name,
            operands: [norm.operands(), &[w]].concat(),
            permuted: None,
            attrs: attrs.map(|(spec, a)| (spec.name, a.clone())).collect(),
        })
    })
}
