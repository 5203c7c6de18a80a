//! Elementwise ops of one operand.

use super::common::*;
use super::elementwise::*;
use super::sample::*;
use super::*;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar::ScalarFn;

use Class::Elementwise;
use Gradient::Unwritten;

const EXACT: Tolerance = Tolerance::EXACT;
const TIGHT: Tolerance = Tolerance::TIGHT;

pub static ROWS: &[OpRow] = &[
    row(
        "neg",
        X,
        |_| Elementwise(ScalarFn::Neg),
        Unwritten,
        EXACT,
        number_unary,
        "`-x`. Integers wrap.",
    ),
    row(
        "abs",
        X,
        |_| Elementwise(ScalarFn::Abs),
        Unwritten,
        EXACT,
        number_unary,
        "`|x|`. Integers wrap: the least signed integer stays what it is.",
    ),
    row(
        "sign",
        X,
        |_| Elementwise(ScalarFn::Sign),
        STEPS,
        EXACT,
        number_unary,
        "1 where x > 0, -1 where x < 0, else x itself: zero, or NaN.",
    ),
    row(
        "relu",
        X,
        |_| Elementwise(ScalarFn::Relu),
        Unwritten,
        EXACT,
        number_unary,
        "`max(x, 0)`. NaN stays NaN.",
    ),
    row(
        "floor",
        X,
        |_| Elementwise(ScalarFn::Floor),
        STEPS,
        EXACT,
        number_unary,
        "The greatest integer not above x. The identity on integers.",
    ),
    row(
        "ceil",
        X,
        |_| Elementwise(ScalarFn::Ceil),
        STEPS,
        EXACT,
        number_unary,
        "The least integer not below x. The identity on integers.",
    ),
    row(
        "round",
        X,
        |_| Elementwise(ScalarFn::Round),
        STEPS,
        EXACT,
        number_unary,
        "The nearest integer, ties to even. The identity on integers.",
    ),
    row(
        "trunc",
        X,
        |_| Elementwise(ScalarFn::Trunc),
        STEPS,
        EXACT,
        number_unary,
        "x without its fraction. The identity on integers.",
    ),
    row(
        "sqrt",
        X,
        |_| Elementwise(ScalarFn::Sqrt),
        Unwritten,
        TIGHT,
        || float_unary(0.0, 9.0),
        "The square root. NaN where x < 0.",
    ),
    row(
        "rsqrt",
        X,
        |_| Elementwise(ScalarFn::Rsqrt),
        Unwritten,
        TIGHT,
        || float_unary(0.1, 9.0),
        "`1 / sqrt(x)`. Infinite at 0, NaN where x < 0.",
    ),
    row(
        "reciprocal",
        X,
        |_| Elementwise(ScalarFn::Reciprocal),
        Unwritten,
        TIGHT,
        || float_unary(0.2, 9.0),
        "`1 / x`.",
    ),
    row(
        "exp",
        X,
        |_| Elementwise(ScalarFn::Exp),
        Unwritten,
        TIGHT,
        || float_unary(-12.0, 12.0),
        "e to the power of x.",
    ),
    row(
        "expm1",
        X,
        |_| Elementwise(ScalarFn::Expm1),
        Unwritten,
        TIGHT,
        || float_unary(-3.0, 3.0),
        "`exp(x) - 1`, accurate near 0.",
    ),
    row(
        "log",
        X,
        |_| Elementwise(ScalarFn::Log),
        Unwritten,
        TIGHT,
        || float_unary(0.01, 12.0),
        "The natural logarithm. -inf at 0, NaN where x < 0.",
    ),
    row(
        "log1p",
        X,
        |_| Elementwise(ScalarFn::Log1p),
        Unwritten,
        TIGHT,
        || float_unary(-0.9, 4.0),
        "`log(1 + x)`, accurate near 0.",
    ),
    row(
        "sin",
        X,
        |_| Elementwise(ScalarFn::Sin),
        Unwritten,
        TIGHT,
        periodic,
        "The sine of x in radians. NaN at infinities.",
    ),
    row(
        "cos",
        X,
        |_| Elementwise(ScalarFn::Cos),
        Unwritten,
        TIGHT,
        periodic,
        "The cosine of x in radians. NaN at infinities.",
    ),
    row(
        "tanh",
        X,
        |_| Elementwise(ScalarFn::Tanh),
        Unwritten,
        TIGHT,
        || float_unary(-6.0, 6.0),
        "The hyperbolic tangent.",
    ),
    row(
        "sigmoid",
        X,
        |_| Elementwise(ScalarFn::Sigmoid),
        Unwritten,
        TIGHT,
        || float_unary(-12.0, 12.0),
        "`1 / (1 + exp(-x))`.",
    ),
    row(
        "erf",
        X,
        |_| Elementwise(ScalarFn::Erf),
        Unwritten,
        TIGHT,
        || float_unary(-4.0, 4.0),
        "The error function, 2/√π times the integral of exp(-t²) from 0 to x.",
    ),
    OpRow {
        attrs: &[attr(
            "approximate",
            AttrKind::Word(&["none", "tanh"]),
            Preset::Str("none"),
            "`none`: by erf, exact; `tanh`: x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2",
        )],
        ..row(
            "gelu",
            X,
            gelu,
            Unwritten,
            TIGHT,
            gelu_samples,
            "The Gaussian error linear unit: x · Φ(x), Φ the standard normal distribution function \
             (Hendrycks, Gimpel 2016). NaN at -inf.",
        )
    },
    row(
        "silu",
        X,
        |_| Elementwise(ScalarFn::Silu),
        Unwritten,
        TIGHT,
        || float_unary(-12.0, 12.0),
        "`x * sigmoid(x)`, also called swish. NaN at -inf.",
    ),
    row(
        "softplus",
        X,
        |_| Elementwise(ScalarFn::Softplus),
        Unwritten,
        TIGHT,
        || float_unary(-12.0, 12.0),
        "`log(1 + exp(x))`, without overflow.",
    ),
    row(
        "isnan",
        X,
        |_| Elementwise(ScalarFn::IsNan),
        TRUTH,
        EXACT,
        || float_unary(-1.0, 1.0),
        "True where x is NaN.",
    ),
    row(
        "isinf",
        X,
        |_| Elementwise(ScalarFn::IsInf),
        TRUTH,
        EXACT,
        || float_unary(-1.0, 1.0),
        "True where x is infinite, of either sign.",
    ),
    OpRow {
        infer: infer_logical,
        ..row(
            "logical_not",
            X,
            |_| Elementwise(ScalarFn::Not),
            TRUTH,
            EXACT,
            || vec![sample(vec![bools(&[3, 5], 1)], vec![])],
            "True where the bool x is false.",
        )
    },
    row(
        "bitwise_not",
        X,
        |_| Elementwise(ScalarFn::Not),
        BITS,
        EXACT,
        bits_unary,
        "The complement of each bit of an integer; of a bool, its negation.",
    ),
    OpRow {
        attrs: &[attr("dtype", AttrKind::DType, Preset::Required, "the dtype to convert to")],
        ..row(
            "cast",
            X,
            |ctx| Elementwise(ScalarFn::Cast(ctx.op.dtype("dtype"))),
            Unwritten,
            TIGHT,
            cast_samples,
            "x in another dtype. Floats round to nearest; float to integer truncates and saturates, \
             and NaN gives 0; integers wrap; to bool is `x != 0`. f16 and bf16 are reached through \
             f32.",
        )
    },
];

fn gelu(ctx: &OpCtx) -> Class {
    match ctx.op.str("approximate") {
        "tanh" => Elementwise(ScalarFn::GeluTanh),
        _ => Elementwise(ScalarFn::Gelu),
    }
}

fn gelu_samples() -> Vec<Sample> {
    let tanh = || vec![("approximate", Attr::Str("tanh".into()))];
    let mut out = float_unary(-6.0, 6.0);
    out.extend(float_unary(-6.0, 6.0).into_iter().map(|s| Sample { attrs: tanh(), ..s }));
    out
}

/// Moderate angles: how well large ones are reduced is a property of each target.
fn periodic() -> Vec<Sample> {
    let mut out = float_unary(-20.0, 20.0);
    out.truncate(5);
    let edges = [0.0, -0.0, 1e-8, 3.25, 100.0, -1000.5, f64::NAN, f64::INFINITY];
    out.push(sample(vec![tensor(DType::F32, &[8], &edges)], vec![]));
    out
}

/// Every dtype to every dtype, over the special values.
fn cast_samples() -> Vec<Sample> {
    let to = |d| vec![("dtype", Attr::DType(d))];
    let pairs = DType::ALL.into_iter().flat_map(|a| DType::ALL.into_iter().map(move |b| (a, b)));
    let mut out: Vec<Sample> = pairs.map(|(a, b)| sample(vec![specials_of(a)], to(b))).collect();
    out.push(sample(vec![f32s(&[3, 21], 1)], to(DType::I32)));
    out.push(sample(vec![ints(DType::I64, &[2, 3], 2, -50, 50)], to(DType::F32)));
    out
}

fn infer_logical(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    for (ty, spec) in ctx.types.iter().zip(ctx.op.row.operands) {
        expect_dtype(ctx.op, spec.name, ty, Domain::Bool)?;
    }
    infer(ctx)
}
