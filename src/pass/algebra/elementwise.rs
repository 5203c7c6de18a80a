//! Equations of elementwise functions.

use super::{Found, Site, cast};
use crate::base::{DType, Shape, shape};
use crate::ir::Value;
use crate::ir::op::{OpError, View};
use crate::ir::scalar::ScalarFn;

pub fn simplify(s: &mut Site, f: ScalarFn) -> Found {
    use ScalarFn::*;
    let found = match f {
        Neg | Abs | Not | Relu => unary(s, f)?,
        Floor | Ceil | Round | Trunc => rounding(s)?,
        Log => log(s)?,
        Reciprocal => reciprocal(s)?,
        Cast(to) => cast::simplify(s, to)?,
        Add => add(s)?,
        Sub => sub(s)?,
        Mul => mul(s)?,
        Div => div(s)?,
        Pow => pow(s)?,
        Min | Max => extremum(s, f)?,
        And | Or | Xor => bits(s, f)?,
        Shl | Shr => shift(s)?,
        Where => choice(s)?,
        Sign
        | Sqrt
        | Rsqrt
        | Exp
        | Expm1
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
        | FloorDiv
        | Mod
        | Eq
        | Ne
        | Lt
        | Le
        | Gt
        | Ge
        | Random { .. } => None,
    };
    match found {
        Some(values) => Ok(Some(values)),
        None => implicit_broadcast(s),
    }
}

/// One new node in place of this one; `None` where its type would be another.
fn make(s: &mut Site, name: &str, operands: &[Value]) -> Found {
    let wanted = s.result().clone();
    let v = s.builder().op(name, operands, &[])?;
    debug_assert_eq!(*s.ty(v), wanted, "a rewrite keeps the type");
    Ok(Some(vec![v]))
}

fn unary(s: &mut Site, f: ScalarFn) -> Found {
    use ScalarFn::*;
    let x = s.operand(0);
    if matches!(f, Abs | Relu) && s.ty(x).dtype.is_unsigned_int() {
        return s.becomes(x, "abs(x) = relu(x) = x, x unsigned");
    }
    let inner = s.function(x);
    match (f, inner) {
        (Neg, Some((Neg, a))) => s.becomes(a[0], "-(-x) = x"),
        (Not, Some((Not, a))) => s.becomes(a[0], "not not x = x"),
        (Abs, Some((Abs, _))) => s.becomes(x, "abs(abs(x)) = abs(x)"),
        (Relu, Some((Relu, _))) => s.becomes(x, "relu(relu(x)) = relu(x)"),
        (Relu, Some((Abs, _))) => s.becomes(x, "relu(abs(x)) = abs(x)"),
        (Abs, Some((Neg, a))) if s.cx.allow("abs(-x) = abs(x)") => make(s, "abs", &[a[0]]),
        // Licence: zero sign (a = b).
        (Neg, Some((Sub, a)))
            if s.is_float(x) && s.cx.allow_inexact("-(a - b) = b - a")
                || !s.is_float(x) && s.cx.allow("-(a - b) = b - a") =>
        {
            make(s, "sub", &[a[1], a[0]])
        }
        _ => Ok(None),
    }
}

fn rounding(s: &mut Site) -> Found {
    use ScalarFn::*;
    let x = s.operand(0);
    if !s.is_float(x) {
        return s.becomes(x, "floor(x) = x, x whole");
    }
    match s.function(x) {
        Some((Floor | Ceil | Round | Trunc, _)) => s.becomes(x, "floor(floor(x)) = floor(x)"),
        _ => Ok(None),
    }
}

fn log(s: &mut Site) -> Found {
    // Licence: function; exp may round, overflow or vanish.
    match s.argument(ScalarFn::Exp, s.operand(0)) {
        Some(x) => s.becomes_inexactly(x, "log(exp(x)) = x"),
        None => Ok(None),
    }
}

fn reciprocal(s: &mut Site) -> Found {
    // Licence: function (one rounding for two).
    match s.argument(ScalarFn::Sqrt, s.operand(0)) {
        Some(x) if s.cx.allow_inexact("1 / sqrt(x) = rsqrt(x)") => make(s, "rsqrt", &[x]),
        _ => Ok(None),
    }
}

fn add(s: &mut Site) -> Found {
    let (a, b) = (s.operand(0), s.operand(1));
    for (x, zero) in [(a, b), (b, a)] {
        match s.splat(zero) {
            Some(z) if z == 0.0 && (z.is_sign_negative() || !s.is_float(x)) => {
                if let Some(found) = s.becomes(x, "x + -0 = x")? {
                    return Ok(Some(found));
                }
            }
            // Licence: zero sign (-0 + 0 = 0).
            Some(0.0) => {
                if let Some(found) = s.becomes_inexactly(x, "x + 0 = x")? {
                    return Ok(Some(found));
                }
            }
            _ => {}
        }
        if let Some(y) = s.argument(ScalarFn::Neg, zero)
            && s.cx.allow("x + -y = x - y")
        {
            return make(s, "sub", &[x, y]);
        }
    }
    reassociate(s, ScalarFn::Add, "add", "(x + c) + d = x + (c + d)")
}

fn sub(s: &mut Site) -> Found {
    let (x, y) = (s.operand(0), s.operand(1));
    if s.splat(y).is_some_and(|z| z == 0.0 && z.is_sign_positive()) {
        return s.becomes(x, "x - 0 = x");
    }
    match s.argument(ScalarFn::Neg, y) {
        Some(y) if s.cx.allow("x - -y = x + y") => make(s, "add", &[x, y]),
        _ => Ok(None),
    }
}

fn mul(s: &mut Site) -> Found {
    let (a, b) = (s.operand(0), s.operand(1));
    for (x, c) in [(a, b), (b, a)] {
        let same = s.ty(x) == s.result();
        match s.splat(c) {
            Some(1.0) if same => return s.becomes(x, "x * 1 = x"),
            Some(-1.0) if same && s.cx.allow("x * -1 = -x") => return make(s, "neg", &[x]),
            // Not for floats: infinity times zero is NaN.
            Some(0.0) if !s.is_float(x) => {
                if let Some(found) = s.becomes(c, "x * 0 = 0, x whole")? {
                    return Ok(Some(found));
                }
            }
            _ => {}
        }
    }
    reassociate(s, ScalarFn::Mul, "mul", "(x * c) * d = x * (c * d)")
}

/// Licence on floats: reassociation; on integers, which wrap, exact. `c` and `d` are constants of
/// one number and the scalar `c ∘ d` is finite.
fn reassociate(s: &mut Site, f: ScalarFn, name: &str, equation: &'static str) -> Found {
    let (x, d) = (s.operand(0), s.operand(1));
    let Some((g, inner)) = s.function(x) else { return Ok(None) };
    let (Some(first), Some(second)) = (s.splat(d), inner.get(1).and_then(|c| s.splat(*c))) else {
        return Ok(None);
    };
    let both = if f == ScalarFn::Add { first + second } else { first * second };
    let float = s.is_float(x);
    // The product of two tiny or huge constants may leave the range of the dtype.
    let safe = !float || both == 0.0 || (1e-4..1e4).contains(&both.abs());
    if g != f || !safe || (float && both == 0.0 && f == ScalarFn::Mul) {
        return Ok(None);
    }
    let leave = if float { s.cx.allow_inexact(equation) } else { s.cx.allow(equation) };
    if !leave {
        return Ok(None);
    }
    let wanted = s.result().clone();
    let mut b = s.builder();
    let c = b.op(name, &[inner[1], d], &[])?;
    let v = b.op(name, &[inner[0], c], &[])?;
    debug_assert_eq!(*s.ty(v), wanted, "a rewrite keeps the type");
    Ok(Some(vec![v]))
}

fn div(s: &mut Site) -> Found {
    let (x, y) = (s.operand(0), s.operand(1));
    let c = s.splat(y);
    if c == Some(1.0) {
        return s.becomes(x, "x / 1 = x");
    }
    if !s.is_float(x) {
        return Ok(None);
    }
    let dtype = s.ty(x).dtype;
    if let Some(c) = c.filter(|c| c.is_finite() && *c != 0.0) {
        // Exact where 1 / c is: both round the same real number.
        let exact = is_power_of_two(c) && (1e-4..1e4).contains(&c.abs());
        let leave = match exact {
            true => s.cx.allow("x / c = x * (1 / c), c a power of two"),
            // Licence: reciprocal.
            false => (1e-4..1e4).contains(&c.abs()) && s.cx.allow_inexact("x / c = x * (1 / c)"),
        };
        if leave {
            let inverse = s.builder().scalar(dtype, 1.0 / c);
            let ty = s.ty(y).shape.clone();
            let inverse = match ty.rank() {
                0 => inverse,
                _ => broadcast(s, inverse, &ty)?,
            };
            return make(s, "mul", &[x, inverse]);
        }
        return Ok(None);
    }
    if s.splat(x) == Some(1.0)
        && s.ty(y) == s.result()
        && let Some(root) = s.argument(ScalarFn::Sqrt, y)
        && s.cx.allow_inexact("1 / sqrt(x) = rsqrt(x)")
    {
        return make(s, "rsqrt", &[root]);
    }
    // Licence: reciprocal. Pays where one reciprocal serves many quotients.
    let fewer = match (s.ty(y).shape.numel(), s.result().shape.numel()) {
        (Some(small), Some(large)) => match (small.as_const(), large.as_const()) {
            (Some(small), Some(large)) => small.saturating_mul(4) <= large,
            _ => false,
        },
        _ => false,
    };
    let wide = matches!(dtype, DType::F32 | DType::F64);
    if fewer && wide && s.cx.allow_inexact("x / y = x * (1 / y), y smaller") {
        let inverse = s.builder().op("reciprocal", &[y], &[])?;
        return make(s, "mul", &[x, inverse]);
    }
    Ok(None)
}

fn is_power_of_two(c: f64) -> bool {
    c.to_bits() & ((1 << 52) - 1) == 0
}

fn broadcast(s: &mut Site, v: Value, to: &Shape) -> Result<Value, OpError> {
    let shape = crate::ir::Attr::Dims(to.0.clone());
    s.builder().op("broadcast_to", &[v], &[("shape", shape)])
}

fn pow(s: &mut Site) -> Found {
    let (x, y) = (s.operand(0), s.operand(1));
    let same = s.ty(x) == s.result();
    match s.splat(y) {
        Some(1.0) => s.becomes(x, "x ** 1 = x"),
        Some(2.0) if same && !s.is_float(x) && s.cx.allow("x ** 2 = x * x, x whole") => {
            make(s, "mul", &[x, x])
        }
        // Licence for these: function.
        Some(2.0) if same && s.cx.allow_inexact("x ** 2 = x * x") => make(s, "mul", &[x, x]),
        Some(0.5) if same && s.cx.allow_inexact("x ** 0.5 = sqrt(x)") => make(s, "sqrt", &[x]),
        Some(-1.0) if same && s.is_float(x) && s.cx.allow_inexact("x ** -1 = 1 / x") => {
            make(s, "reciprocal", &[x])
        }
        Some(-0.5) if same && s.cx.allow_inexact("x ** -0.5 = rsqrt(x)") => make(s, "rsqrt", &[x]),
        _ => Ok(None),
    }
}

fn extremum(s: &mut Site, f: ScalarFn) -> Found {
    let (a, b) = (s.operand(0), s.operand(1));
    if a == b {
        return s.becomes(a, "max(x, x) = min(x, x) = x");
    }
    if f == ScalarFn::Max {
        for (x, zero) in [(a, b), (b, a)] {
            let same = s.ty(x) == s.result() && !s.ty(x).dtype.is_unsigned_int();
            // Licence: zero sign. (On integers exact.)
            if same && s.ty(x).dtype != DType::Bool && s.splat(zero) == Some(0.0) {
                let leave = match s.is_float(x) {
                    true => s.cx.allow_inexact("max(x, 0) = relu(x)"),
                    false => s.cx.allow("max(x, 0) = relu(x)"),
                };
                return if leave { make(s, "relu", &[x]) } else { Ok(None) };
            }
        }
    }
    Ok(None)
}

fn bits(s: &mut Site, f: ScalarFn) -> Found {
    let (a, b) = (s.operand(0), s.operand(1));
    if a == b && f != ScalarFn::Xor {
        return s.becomes(a, "x & x = x | x = x");
    }
    for (x, c) in [(a, b), (b, a)] {
        let is_bool = s.ty(x).dtype == DType::Bool;
        let neutral = match (f, s.splat(c)) {
            (ScalarFn::And, Some(v)) => v == if is_bool { 1.0 } else { -1.0 },
            (_, Some(v)) => v == 0.0,
            (_, None) => false,
        };
        if neutral && let Some(found) = s.becomes(x, "x & ones = x | 0 = x ^ 0 = x")? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn shift(s: &mut Site) -> Found {
    match s.splat(s.operand(1)) {
        Some(0.0) => s.becomes(s.operand(0), "x << 0 = x >> 0 = x"),
        _ => Ok(None),
    }
}

fn choice(s: &mut Site) -> Found {
    let (c, a, b) = (s.operand(0), s.operand(1), s.operand(2));
    if a == b {
        return s.becomes(a, "where(c, x, x) = x");
    }
    match s.splat(c) {
        Some(0.0) => return s.becomes(b, "where(false, a, b) = b"),
        Some(_) => return s.becomes(a, "where(true, a, b) = a"),
        None => {}
    }
    match s.argument(ScalarFn::Not, c) {
        Some(c) if s.cx.allow("where(not c, a, b) = where(c, b, a)") => {
            make(s, "where", &[c, b, a])
        }
        _ => Ok(None),
    }
}

/// `f(x, broadcast(y)) = f(x, y)` where the shape of the result stays.
fn implicit_broadcast(s: &mut Site) -> Found {
    let operands = s.node.operands().to_vec();
    for k in 0..operands.len() {
        let Some((View::Broadcast, inner)) = s.view(operands[k]) else { continue };
        let mut fewer = operands.clone();
        fewer[k] = inner[0];
        let shapes = fewer.iter().map(|v| s.ty(*v).shape.clone());
        let all = shapes.reduce(|a, b| shape::broadcast(&a, &b).unwrap_or_default());
        if all.as_ref() == Some(&s.result().shape) && s.cx.allow("f(x, broadcast(y)) = f(x, y)") {
            let op = s.node.op.clone();
            let node = s.builder().push(op, fewer, vec![])?;
            return Ok(Some(vec![Value { node, result: 0 }]));
        }
    }
    Ok(None)
}
