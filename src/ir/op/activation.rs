//! Functions that users expect by name and that are made of simpler elementwise ops.
//!
//! Each row states its formula twice: `eval` in f64 on an element, rounded once, and `expand` as
//! ops. The walk of the table compares the two.

use super::common::*;
use super::elementwise::{X, float_unary, number_unary};
use super::sample::*;
use super::*;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::eval::Precision;
use crate::ir::scalar_eval::{Num, Scalar, for_dtype};

const fn composite(
    name: &'static str,
    attrs: &'static [AttrSpec],
    eval: fn(&EvalCtx) -> Result<Vec<Tensor>, OpError>,
    expand: Expand,
    samples: fn() -> Vec<Sample>,
    doc: &'static str,
) -> OpRow {
    OpRow {
        name,
        doc,
        operands: X,
        attrs,
        results: &["y"],
        infer: infer_float,
        eval,
        class: |_| Class::Composite,
        expand: Some(expand),
        gradient: Gradient::Expansion,
        tolerance: Tolerance { rel: 1e-5, abs: 2e-6 },
        samples,
    }
}

const SLOPE: AttrSpec =
    attr("negative_slope", AttrKind::Float, Preset::Float(0.01), "the slope where x < 0");
const ALPHA: AttrSpec =
    attr("alpha", AttrKind::Float, Preset::Float(1.0), "minus the limit towards minus infinity");
const MIN: AttrSpec = attr("min", AttrKind::Float, Preset::None, "the least value; absent: none");
const MAX: AttrSpec =
    attr("max", AttrKind::Float, Preset::None, "the greatest value; absent: none");

pub static ROWS: &[OpRow] = &[
    composite(
        "leaky_relu",
        &[SLOPE],
        |c| map(c, |op, x| if x > 0.0 { x } else { op.float("negative_slope") * x }),
        |b, c| {
            let x = c.operands[0];
            let low = b.bin_const("mul", x, c.op.float("negative_slope"))?;
            positive_or(b, x, low)
        },
        || float_unary(-6.0, 6.0),
        "x where x > 0, else `negative_slope * x`.",
    ),
    composite(
        "elu",
        &[ALPHA],
        |c| map(c, |op, x| if x > 0.0 { x } else { op.float("alpha") * libm::expm1(x) }),
        |b, c| {
            let x = c.operands[0];
            let e = b.un("expm1", x)?;
            let low = b.bin_const("mul", e, c.op.float("alpha"))?;
            positive_or(b, x, low)
        },
        || float_unary(-6.0, 6.0),
        "x where x > 0, else `alpha * (exp(x) - 1)` (Clevert et al. 2015).",
    ),
    composite(
        "selu",
        &[],
        |c| map(c, |_, x| SELU.0 * if x > 0.0 { x } else { SELU.1 * libm::expm1(x) }),
        |b, c| {
            let x = c.operands[0];
            let e = b.un("expm1", x)?;
            let low = b.bin_const("mul", e, SELU.1)?;
            let y = positive_or(b, x, low)?;
            Ok(vec![b.bin_const("mul", y[0], SELU.0)?])
        },
        || float_unary(-6.0, 6.0),
        "Self-normalizing: 1.0507 times (x where x > 0, else 1.6733 (exp(x) - 1)) (Klambauer et al. 2017).",
    ),
    OpRow {
        infer: infer_clamp,
        ..composite(
            "clamp",
            &[MIN, MAX],
            eval_clamp,
            |b, c| {
                let mut y = c.operands[0];
                if let Some(least) = c.op.opt_float("min") {
                    y = b.bin_const("maximum", y, least)?;
                }
                if let Some(greatest) = c.op.opt_float("max") {
                    y = b.bin_const("minimum", y, greatest)?;
                }
                Ok(vec![y])
            },
            clamp_samples,
            "`minimum(maximum(x, min), max)`: x brought into a range. NaN stays NaN.",
        )
    },
    composite(
        "relu6",
        &[],
        |c| map(c, |_, x| between(x, 0.0, 6.0)),
        |b, c| Ok(vec![clamped(b, c.operands[0], 0.0, 6.0)?]),
        || float_unary(-9.0, 9.0),
        "x brought into 0 to 6.",
    ),
    composite(
        "hardtanh",
        &[],
        |c| map(c, |_, x| between(x, -1.0, 1.0)),
        |b, c| Ok(vec![clamped(b, c.operands[0], -1.0, 1.0)?]),
        || float_unary(-3.0, 3.0),
        "x brought into -1 to 1.",
    ),
    composite(
        "hardsigmoid",
        &[],
        |c| map(c, |_, x| between(x + 3.0, 0.0, 6.0) / 6.0),
        |b, c| Ok(vec![hardsigmoid(b, c.operands[0])?]),
        || float_unary(-6.0, 6.0),
        "`relu6(x + 3) / 6`.",
    ),
    composite(
        "hardswish",
        &[],
        |c| map(c, |_, x| x * (between(x + 3.0, 0.0, 6.0) / 6.0)),
        |b, c| {
            let gate = hardsigmoid(b, c.operands[0])?;
            Ok(vec![b.bin("mul", c.operands[0], gate)?])
        },
        || float_unary(-6.0, 6.0),
        "`x * hardsigmoid(x)`.",
    ),
    composite(
        "mish",
        &[],
        |c| map(c, |_, x| x * libm::tanh(softplus(x))),
        |b, c| {
            let s = b.un("softplus", c.operands[0])?;
            let t = b.un("tanh", s)?;
            Ok(vec![b.bin("mul", c.operands[0], t)?])
        },
        || float_unary(-6.0, 6.0),
        "`x * tanh(softplus(x))` (Misra 2019).",
    ),
    composite(
        "softsign",
        &[],
        |c| map(c, |_, x| x / (1.0 + x.abs())),
        |b, c| {
            let a = b.un("abs", c.operands[0])?;
            let d = b.bin_const("add", a, 1.0)?;
            Ok(vec![b.bin("div", c.operands[0], d)?])
        },
        || float_unary(-6.0, 6.0),
        "`x / (1 + |x|)`.",
    ),
    composite(
        "logsigmoid",
        &[],
        |c| map(c, |_, x| -softplus(-x)),
        |b, c| {
            let n = b.un("neg", c.operands[0])?;
            let s = b.un("softplus", n)?;
            Ok(vec![b.un("neg", s)?])
        },
        || float_unary(-12.0, 12.0),
        "`log(sigmoid(x))`, without overflow.",
    ),
    OpRow {
        infer: infer_number,
        ..composite(
            "square",
            &[],
            |c| {
                map_num(c, |x| match x {
                    Num::Float(v) => Num::Float(v * v),
                    // Wrapping on the way is wrapping at the end.
                    Num::Int(v) => Num::Int(v.wrapping_mul(v)),
                })
            },
            |b, c| Ok(vec![b.bin("mul", c.operands[0], c.operands[0])?]),
            number_unary,
            "`x * x`. Integers wrap.",
        )
    },
    composite(
        "exp2",
        &[],
        |c| map(c, |_, x| libm::exp2(x)),
        |b, c| {
            let s = b.bin_const("mul", c.operands[0], std::f64::consts::LN_2)?;
            Ok(vec![b.un("exp", s)?])
        },
        || float_unary(-12.0, 12.0),
        "2 to the power of x.",
    ),
    composite(
        "log2",
        &[],
        |c| map(c, |_, x| libm::log2(x)),
        |b, c| {
            let l = b.un("log", c.operands[0])?;
            Ok(vec![b.bin_const("mul", l, std::f64::consts::LOG2_E)?])
        },
        || float_unary(0.01, 12.0),
        "The logarithm to the base 2.",
    ),
    composite(
        "tan",
        &[],
        |c| map(c, |_, x| libm::tan(x)),
        |b, c| {
            let (s, k) = (b.un("sin", c.operands[0])?, b.un("cos", c.operands[0])?);
            Ok(vec![b.bin("div", s, k)?])
        },
        || vec![sample(vec![uniform(DType::F32, &[40], 1, -1.4, 1.4)], vec![])],
        "The tangent of x in radians.",
    ),
];

/// scale and alpha of selu.
const SELU: (f64, f64) = (1.0507009873554805, 1.6732632423543772);

fn softplus(x: f64) -> f64 {
    f64::unary(crate::ir::scalar::ScalarFn::Softplus, x)
}

/// Keeps NaN.
fn between(x: f64, lo: f64, hi: f64) -> f64 {
    if x < lo {
        lo
    } else if x > hi {
        hi
    } else {
        x
    }
}

fn infer_float(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    expect_dtype(ctx.op, "x", &ctx.types[0], Domain::Float)?;
    Ok(vec![ctx.types[0].clone()])
}

fn infer_number(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    expect_dtype(ctx.op, "x", &ctx.types[0], Domain::Number)?;
    Ok(vec![ctx.types[0].clone()])
}

fn infer_clamp(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let (lo, hi) = (ctx.op.opt_float("min"), ctx.op.opt_float("max"));
    if lo.is_none() && hi.is_none() {
        return Err(OpError::attr("`clamp` has neither `min` nor `max`").help("give one of them"));
    }
    if [lo, hi].iter().flatten().any(|v| v.is_nan()) {
        return Err(OpError::attr("`clamp` has NaN as a bound"));
    }
    infer_number(ctx)
}

/// The function on every element, in f64, rounded once.
fn map(ctx: &EvalCtx, f: impl Fn(&Op, f64) -> f64) -> Result<Vec<Tensor>, OpError> {
    map_num(ctx, |x| match x {
        Num::Float(v) => Num::Float(f(ctx.op, v)),
        Num::Int(_) => unreachable!("inference admits floats only"),
    })
}

fn map_num(ctx: &EvalCtx, f: impl Fn(Num) -> Num) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    Ok(vec![for_dtype!(x.dtype(), T => {
        let data: Vec<T> = x.as_slice::<T>().iter().map(|v| T::from_num(f(v.num()))).collect();
        Tensor::from_slice(x.shape(), &data)
    })])
}

/// The bounds take the dtype of x first, as the constants of the expansion do.
fn eval_clamp(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let own = match ctx.precision {
        Precision::Own => ctx.results[0].dtype,
        Precision::F64 if ctx.results[0].dtype.is_float() => DType::F64,
        Precision::F64 => ctx.results[0].dtype,
    };
    let bound = |name: &str| {
        let b = ctx.op.opt_float(name)?;
        Some(for_dtype!(own, T => T::from_num(Num::Float(b)).num()))
    };
    let (lo, hi) = (bound("min"), bound("max"));
    let below = |x: Num, y: Num| match (x, y) {
        (Num::Float(a), Num::Float(b)) => a < b,
        (Num::Int(a), Num::Int(b)) => a < b,
        _ => unreachable!("both have the dtype of x"),
    };
    map_num(ctx, |x| {
        let x = lo.filter(|&lo| below(x, lo)).unwrap_or(x);
        hi.filter(|&hi| below(hi, x)).unwrap_or(x)
    })
}

fn clamp_samples() -> Vec<Sample> {
    let range = |lo, hi| vec![("min", Attr::Float(lo)), ("max", Attr::Float(hi))];
    let mut out: Vec<Sample> = number_unary()
        .into_iter()
        .map(|s| {
            let unsigned = s.operands[0].as_ref().is_some_and(|t| t.dtype().is_unsigned_int());
            Sample { attrs: range(if unsigned { 1.0 } else { -2.0 }, 3.0), ..s }
        })
        .collect();
    out.push(sample(vec![f32s(&[9], 1)], vec![("min", Attr::Float(0.5))]));
    out.push(sample(vec![f32s(&[9], 1)], vec![("max", Attr::Float(0.5))]));
    // Bounds in the wrong order: the upper one wins.
    out.push(sample(vec![f32s(&[9], 1)], range(1.0, -1.0)));
    out
}

fn positive_or(b: &mut Builder, x: Value, other: Value) -> Result<Vec<Value>, OpError> {
    let positive = b.bin_const("gt", x, 0.0)?;
    Ok(vec![b.op("where", &[positive, x, other], &[])?])
}

fn clamped(b: &mut Builder, x: Value, lo: f64, hi: f64) -> Result<Value, OpError> {
    let y = b.bin_const("maximum", x, lo)?;
    b.bin_const("minimum", y, hi)
}

fn hardsigmoid(b: &mut Builder, x: Value) -> Result<Value, OpError> {
    let shifted = b.bin_const("add", x, 3.0)?;
    let y = clamped(b, shifted, 0.0, 6.0)?;
    b.bin_const("mul", y, 1.0 / 6.0)
}
