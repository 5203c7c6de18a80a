//! What all elementwise rows share: inference, evaluation, dtype domains, samples.
//!
//! Operands of one dtype broadcast as in NumPy; the result's dtype follows from the function. There
//! is no promotion here: the front end gives weak literals the dtype of the other operand.

use super::common::*;
use super::sample::*;
use super::*;
use crate::ir::eval::Precision;
use crate::ir::scalar::ScalarFn;
use crate::ir::scalar_eval;

pub const X: &[OperandSpec] = &[operand("x", "any shape")];
pub const XY: &[OperandSpec] = &[operand("x", "any shape"), operand("y", "broadcasts against x")];

pub const STEPS: Gradient = Gradient::Zero("constant between its steps");
pub const BITS: Gradient = Gradient::Zero("a function of integers or bools");
pub const TRUTH: Gradient = Gradient::Zero("the result is bool");

/// A row of class `Elementwise` without attributes.
pub const fn row(
    name: &'static str,
    operands: &'static [OperandSpec],
    class: fn(&OpCtx) -> Class,
    gradient: Gradient,
    tolerance: Tolerance,
    samples: fn() -> Vec<Sample>,
    doc: &'static str,
) -> OpRow {
    OpRow {
        name,
        doc,
        operands,
        attrs: &[],
        results: &["y"],
        infer,
        eval,
        class,
        expand: None,
        gradient,
        tolerance,
        samples,
    }
}

/// The dtypes on which a function is defined (for `Where`: of its branches).
pub fn domain(f: ScalarFn) -> Domain {
    use ScalarFn::*;
    match f {
        Sqrt | Rsqrt | Reciprocal | Exp | Expm1 | Log | Log1p | Sin | Cos | Tanh | Sigmoid
        | Erf | Gelu | GeluTanh | Silu | Softplus | IsNan | IsInf => Domain::Float,
        Neg | Abs | Sign | Relu | Floor | Ceil | Round | Trunc | Add | Sub | Mul | Div
        | FloorDiv | Mod | Pow | Min | Max => Domain::Number,
        Not | And | Or | Xor => Domain::Bits,
        Shl | Shr | Random { .. } => Domain::Int,
        Cast(_) | Eq | Ne | Lt | Le | Gt | Ge | Where => Domain::Any,
    }
}

fn scalar_fn(class: Class) -> ScalarFn {
    match class {
        Class::Elementwise(f) => f,
        other => unreachable!("the row is elementwise: {other:?}"),
    }
}

/// The broadcast shape of the operands, in the dtype that the function makes of theirs.
pub fn infer(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let f = scalar_fn((ctx.op.row.class)(ctx));
    let domain = domain(f);
    // Of `where`, the first operand is the condition.
    let same = if f == ScalarFn::Where { &ctx.types[1..] } else { ctx.types };
    for (ty, spec) in ctx.types.iter().zip(ctx.op.row.operands).rev().take(same.len()).rev() {
        expect_dtype(ctx.op, spec.name, ty, domain)?;
    }
    if f == ScalarFn::Where {
        expect_dtype(ctx.op, "condition", &ctx.types[0], Domain::Bool)?;
    }
    let dtype = one_dtype(ctx.op, same)?;
    Ok(vec![TensorType::new(f.result(dtype), broadcast_all(ctx.op, ctx.types)?)])
}

pub fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let f = match scalar_fn(ctx.class()) {
        // Where every float is f64 there is nothing narrower to go to.
        ScalarFn::Cast(to) if ctx.precision == Precision::F64 && to.is_float() => {
            ScalarFn::Cast(DType::F64)
        }
        f => f,
    };
    Ok(vec![scalar_eval::apply(f, ctx.operands, &ctx.result_shape(0))])
}

/// The row that stands for a function, and its attributes: how passes make elementwise ops.
pub fn row_of(f: ScalarFn) -> (&'static str, Vec<(&'static str, Attr)>) {
    use ScalarFn::*;
    let name = match f {
        Neg => "neg",
        Abs => "abs",
        Sign => "sign",
        Relu => "relu",
        Floor => "floor",
        Ceil => "ceil",
        Round => "round",
        Trunc => "trunc",
        Sqrt => "sqrt",
        Rsqrt => "rsqrt",
        Reciprocal => "reciprocal",
        Exp => "exp",
        Expm1 => "expm1",
        Log => "log",
        Log1p => "log1p",
        Sin => "sin",
        Cos => "cos",
        Tanh => "tanh",
        Sigmoid => "sigmoid",
        Erf => "erf",
        Gelu => "gelu",
        GeluTanh => return ("gelu", vec![("approximate", Attr::Str("tanh".into()))]),
        Silu => "silu",
        Softplus => "softplus",
        IsNan => "isnan",
        IsInf => "isinf",
        Not => "bitwise_not",
        Cast(to) => return ("cast", vec![("dtype", Attr::DType(to))]),
        Add => "add",
        Sub => "sub",
        Mul => "mul",
        Div => "div",
        FloorDiv => "floor_divide",
        Mod => "remainder",
        Pow => "pow",
        Min => "minimum",
        Max => "maximum",
        And => "bitwise_and",
        Or => "bitwise_or",
        Xor => "bitwise_xor",
        Shl => "bitwise_left_shift",
        Shr => "bitwise_right_shift",
        Eq => "eq",
        Ne => "ne",
        Lt => "lt",
        Le => "le",
        Gt => "gt",
        Ge => "ge",
        Where => "where",
        Random { key } => {
            let key = Attr::Ints(key.iter().map(|&k| k as i64).collect());
            return ("random", vec![("key", key)]);
        }
    };
    (name, vec![])
}

// ---- Samples -----------------------------------------------------------------------------------

const INTS: [DType; 4] = [DType::I32, DType::I8, DType::U8, DType::I64];
const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

/// One float operand over a range, and the special values of every float dtype.
pub fn float_unary(lo: f64, hi: f64) -> Vec<Sample> {
    let ordinary = [
        uniform(DType::F32, &[5, 37], 1, lo, hi),
        uniform(DType::F64, &[3, 5], 2, lo, hi),
        uniform(DType::BF16, &[2, 9], 3, lo, hi),
        uniform(DType::F32, &[], 4, lo, hi),
        uniform(DType::F32, &[0, 3], 5, lo, hi),
    ];
    ordinary.into_iter().chain(FLOATS.map(specials_of)).map(|x| sample(vec![x], vec![])).collect()
}

pub fn number_unary() -> Vec<Sample> {
    let mut out = float_unary(-6.0, 6.0);
    out.extend(INTS.map(|d| sample(vec![specials_of(d)], vec![])));
    out
}

/// Two float operands that broadcast in the usual ways.
pub fn float_binary(lo: f64, hi: f64) -> Vec<Sample> {
    let shapes: [[&[usize]; 2]; 6] = [
        [&[4, 19], &[4, 19]],
        [&[3, 1, 5], &[4, 1]],
        [&[2, 3, 33], &[33]],
        [&[2, 3], &[]],
        [&[], &[]],
        [&[0, 3], &[1, 3]],
    ];
    let pair = |d, i: usize, [a, b]: [&[usize]; 2]| {
        let seed = 10 + 2 * i as u64;
        sample(vec![uniform(d, a, seed, lo, hi), uniform(d, b, seed + 1, lo, hi)], vec![])
    };
    let mut out: Vec<Sample> =
        shapes.iter().enumerate().map(|(i, s)| pair(DType::F32, i, *s)).collect();
    out.extend(FLOATS[1..].iter().map(|&d| pair(d, 1, shapes[1])));
    out
}

pub fn number_binary() -> Vec<Sample> {
    let mut out = float_binary(-4.0, 4.0);
    out.extend([DType::F32, DType::F16].map(|d| sample(special_pairs(d).to_vec(), vec![])));
    out.extend(int_binary());
    out
}

/// Every pair of special values of the integers.
pub fn int_binary() -> Vec<Sample> {
    let pairs = INTS.map(|d| sample(special_pairs(d).to_vec(), vec![]));
    let broadcast = sample(
        vec![ints(DType::I32, &[3, 1], 30, -9, 9), ints(DType::I32, &[2, 1, 4], 31, -9, 9)],
        vec![],
    );
    pairs.into_iter().chain([broadcast]).collect()
}

pub fn bits_unary() -> Vec<Sample> {
    INTS.into_iter().chain([DType::Bool]).map(|d| sample(vec![specials_of(d)], vec![])).collect()
}

pub fn bits_binary() -> Vec<Sample> {
    let mut out = int_binary();
    out.push(sample(special_pairs(DType::Bool).to_vec(), vec![]));
    out
}

pub fn bool_binary() -> Vec<Sample> {
    let broadcast = sample(vec![bools(&[3, 1], 1), bools(&[2, 1, 5], 2)], vec![]);
    vec![sample(special_pairs(DType::Bool).to_vec(), vec![]), broadcast]
}
