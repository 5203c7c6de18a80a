//! Activations that were written out.

use super::Raised;
use super::find::Find;
use crate::ir::scalar::ScalarFn;
use crate::ir::{Attr, Node, Value};

pub fn find(f: &Find, node: &Node) -> Option<Raised> {
    softplus(f, node).or_else(|| {
        f.function(node, ScalarFn::Mul).or_else(|| f.function(node, ScalarFn::Div))?;
        let (number, factors) = f.factors(node);
        let [a, b] = factors[..] else { return None };
        [(a, b), (b, a)].into_iter().find_map(|(x, gate)| gated(f, number, x, gate))
    })
}

fn raised(rule: &'static str, name: &'static str, x: Value) -> Option<Raised> {
    Some(Raised { rule, name, operands: vec![x], permuted: None, attrs: vec![] })
}

/// `number · x · gate`.
fn gated(f: &Find, number: f64, x: Value, gate: Value) -> Option<Raised> {
    if number == 1.0 && f.unary(gate, ScalarFn::Sigmoid) == Some(x) {
        return raised("x * sigmoid(x) = silu(x)", "silu", x);
    }
    if !f.is_about(number, 0.5) {
        return None;
    }
    let [one, inner] =
        f.either(gate, ScalarFn::Add, |c| f.number(c).is_some_and(|v| f.is_about(v, 1.0)))?;
    let _ = one;
    if let Some(u) = f.unary(inner, ScalarFn::Erf) {
        let (scale, of) = f.factors_of(u);
        let fits = of == [x] && f.is_about(scale, std::f64::consts::FRAC_1_SQRT_2);
        return fits.then(|| raised("x * (1 + erf(x / sqrt(2))) / 2 = gelu(x)", "gelu", x))?;
    }
    let (scale, of) = f.factors_of(f.unary(inner, ScalarFn::Tanh)?);
    let [sum] = of[..] else { return None };
    let [_, cube] = f.either(sum, ScalarFn::Add, |v| v == x)?;
    let (c, powers) = f.factors_of(cube);
    let is_cube = match powers[..] {
        [a, b, c] => [a, b, c] == [x; 3],
        [p] => {
            let cubed = |[y, e]: [Value; 2]| y == x && f.number(e) == Some(3.0);
            f.binary(p, ScalarFn::Pow).is_some_and(cubed)
        }
        [a, b] => a == x && f.square(b) == Some(x) || b == x && f.square(a) == Some(x),
        _ => false,
    };
    let root = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    if !is_cube || !f.is_about(c, 0.044715) || !f.is_about(scale, root) {
        return None;
    }
    Some(Raised {
        rule: "x * (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2 = gelu(x, tanh)",
        name: "gelu",
        operands: vec![x],
        permuted: None,
        attrs: vec![("approximate", Attr::Str("tanh".into()))],
    })
}

/// `log(1 + exp(x))`.
fn softplus(f: &Find, node: &Node) -> Option<Raised> {
    let rule = "log(1 + exp(x)) = softplus(x)";
    if let Some([u]) = f.function(node, ScalarFn::Log1p) {
        return raised(rule, "softplus", f.unary(*u, ScalarFn::Exp)?);
    }
    let [sum] = f.function(node, ScalarFn::Log)? else { return None };
    let [_, e] = f.either(*sum, ScalarFn::Add, |c| f.number(c) == Some(1.0))?;
    raised(rule, "softplus", f.unary(e, ScalarFn::Exp)?)
}
