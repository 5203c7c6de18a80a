//! Reductions that are made of others: mean, variance, standard deviation, logsumexp.
//!
//! The reference computes in f64 except for `mean`, whose sum runs in sequence in the dtype of its
//! operand as `sum` does. The expansions of narrow floats sum in f32, so that no sum overflows.

use super::common::*;
use super::reduce::{
    AXIS, combine, expect_elements, float_samples, reduced, reduced_axes, result_strides, walk,
};
use super::sample::*;
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar::Combine;
use crate::ir::scalar_eval::{Num, Scalar, convert, for_dtype};

const X: &[OperandSpec] = &[operand("x", "floats of any shape")];
const CORRECTION: AttrSpec = attr(
    "correction",
    AttrKind::Int,
    Preset::Int(1),
    "subtracted from the number of elements in the divisor: 1 is the unbiased estimate",
);

const fn composite(
    name: &'static str,
    attrs: &'static [AttrSpec],
    eval: fn(&EvalCtx) -> Result<Vec<Tensor>, OpError>,
    expand: fn(&mut Builder, &ExpandCtx) -> Result<Vec<Value>, OpError>,
    samples: fn() -> Vec<Sample>,
    doc: &'static str,
) -> OpRow {
    OpRow {
        name,
        doc,
        operands: X,
        attrs,
        results: &["y"],
        infer,
        eval,
        class: |_| Class::Composite,
        expand: Some(expand),
        gradient: Gradient::Expansion,
        tolerance: Tolerance::SUM,
        samples,
    }
}

pub static ROWS: &[OpRow] = &[
    composite(
        "mean",
        &[AXIS, KEEPDIMS],
        eval_mean,
        expand_mean,
        float_samples,
        "The arithmetic mean along axes; of nothing, NaN.",
    ),
    composite(
        "var",
        &[AXIS, CORRECTION, KEEPDIMS],
        |c| eval_moments(c, |v| v),
        |b, c| Ok(vec![variance(b, c, |_, v| Ok(v))?]),
        moment_samples,
        "The variance along axes: the sum of squared distances from the mean, divided by the number \
         of elements minus `correction`.",
    ),
    composite(
        "std",
        &[AXIS, CORRECTION, KEEPDIMS],
        |c| eval_moments(c, f64::sqrt),
        |b, c| Ok(vec![variance(b, c, |b, v| b.un("sqrt", v))?]),
        moment_samples,
        "The standard deviation along axes: the square root of `var`.",
    ),
    OpRow {
        infer: infer_logsumexp,
        ..composite(
            "logsumexp",
            &[AXIS, KEEPDIMS],
            eval_logsumexp,
            expand_logsumexp,
            float_samples,
            "`log(sum(exp(x)))` along axes, without overflow. Of nothing, an error.",
        )
    },
];

fn infer(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let x = &ctx.types[0];
    expect_dtype(ctx.op, "x", x, Domain::Float)?;
    let axes = reduced_axes(ctx)?;
    Ok(vec![TensorType::new(x.dtype, reduced(&x.shape, &axes, ctx.op.bool("keepdims")))])
}

fn infer_logsumexp(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let out = infer(ctx)?;
    expect_elements(ctx.op, &ctx.types[0], &reduced_axes(ctx)?, &out[0].shape)?;
    Ok(out)
}

fn eval_mean(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    let axes = axes(ctx.op, "axis", x.rank())?;
    let shape = ctx.result_shape(0);
    let n: usize = axes.iter().map(|&a| x.shape()[a]).product();
    let sum = combine(&convert(x, x.dtype().compute()), &axes, Combine::Sum, &shape);
    let mean = match sum.dtype() {
        DType::F64 => {
            let data: Vec<f64> = sum.as_slice::<f64>().iter().map(|v| v / n as f64).collect();
            Tensor::from_slice(&shape, &data)
        }
        _ => {
            let data: Vec<f32> = sum.as_slice::<f32>().iter().map(|v| v / n as f32).collect();
            Tensor::from_slice(&shape, &data)
        }
    };
    Ok(vec![convert(&mean, x.dtype())])
}

/// The operand in f64, and for each result its mean (two passes) and the sum of squared distances.
fn eval_moments(ctx: &EvalCtx, last: impl Fn(f64) -> f64) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    let (axes, shape) = (axes(ctx.op, "axis", x.rank())?, ctx.result_shape(0));
    let wide = convert(x, DType::F64);
    let data = wide.as_slice::<f64>();
    let n: usize = axes.iter().map(|&a| x.shape()[a]).product();
    let mut mean = super::reduce::fold(x.shape(), &axes, 0.0, |acc, i| *acc += data[i]);
    mean.iter_mut().for_each(|m| *m /= n as f64);
    let (strides, mut sums) = (result_strides(x.shape(), &axes).0, vec![0.0; mean.len()]);
    walk(x.shape(), &strides, |i, at| sums[at] += (data[i] - mean[at]).powi(2));
    let divisor = (n as f64 - ctx.op.int("correction") as f64).max(0.0);
    let out: Vec<f64> = sums.iter().map(|s| last(s / divisor)).collect();
    Ok(vec![convert(&Tensor::from_slice(&shape, &out), x.dtype())])
}

fn eval_logsumexp(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    let (axes, shape) = (axes(ctx.op, "axis", x.rank())?, ctx.result_shape(0));
    expect_elements(ctx.op, &x.ty(), &axes, &Shape::of(&shape))?;
    let wide = convert(x, DType::F64);
    let top = combine(&wide, &axes, Combine::Max, &shape);
    let (data, top) = (wide.as_slice::<f64>(), top.as_slice::<f64>());
    let shift = |m: f64| if m.is_infinite() { 0.0 } else { m };
    let mut sums = vec![0.0; top.len()];
    walk(x.shape(), &result_strides(x.shape(), &axes).0, |i, at| {
        sums[at] += libm::exp(data[i] - shift(top[at]));
    });
    Ok(vec![for_dtype!(x.dtype(), T => {
        let log = |(s, m): (&f64, &f64)| T::from_num(Num::Float(libm::log(*s) + shift(*m)));
        Tensor::from_slice(&shape, &sums.iter().zip(top).map(log).collect::<Vec<T>>())
    })])
}

// ---- Expansions --------------------------------------------------------------------------------

/// `mean(x) = sum(x) · (1 / n)`.
fn expand_mean(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let x = b.cast(c.operands[0], c.types[0].dtype.compute())?;
    let axes = axes(c.op, "axis", c.types[0].rank())?;
    let mean = mean_of(b, x, &axes, c.op.bool("keepdims"))?;
    Ok(vec![b.cast(mean, c.types[0].dtype)?])
}

/// The mean in the dtype of x.
pub fn mean_of(
    b: &mut Builder,
    x: Value,
    axes: &[usize],
    keepdims: bool,
) -> Result<Value, OpError> {
    let sum = reduce_op(b, "sum", x, axes, keepdims)?;
    divide_by_count(b, sum, &b.ty(x).shape.clone(), axes, 0)
}

/// A reduction by name over these axes.
pub fn reduce_op(
    b: &mut Builder,
    name: &str,
    x: Value,
    axes: &[usize],
    keepdims: bool,
) -> Result<Value, OpError> {
    let axes = Attr::Ints(axes.iter().map(|&a| a as i64).collect());
    b.op(name, &[x], &[("axis", axes), ("keepdims", Attr::Bool(keepdims))])
}

/// `x / (n - correction)`, n the number of elements that these axes of `shape` have. An open extent
/// is counted by a sum of ones, which folds once it is bound.
fn divide_by_count(
    b: &mut Builder,
    x: Value,
    shape: &Shape,
    axes: &[usize],
    correction: i64,
) -> Result<Value, OpError> {
    let dims: Vec<Dim> = axes.iter().map(|&a| shape.0[a].clone()).collect();
    let n = Shape(dims.clone()).numel().ok_or_else(OpError::overflow)?;
    if let Some(n) = n.as_const() {
        let divisor = (n as f64 - correction as f64).max(0.0);
        return b.bin_const("mul", x, 1.0 / divisor);
    }
    let dtype = b.ty(x).dtype;
    let one = b.scalar(dtype, 1.0);
    let ones = b.broadcast_to(one, &Shape(dims))?;
    let n = b.un("sum", ones)?;
    let n = b.bin_const("sub", n, correction as f64)?;
    let n = b.bin_const("maximum", n, 0.0)?;
    b.bin("div", x, n)
}

fn variance(
    b: &mut Builder,
    c: &ExpandCtx,
    last: impl Fn(&mut Builder, Value) -> Result<Value, OpError>,
) -> Result<Value, OpError> {
    let x = b.cast(c.operands[0], c.types[0].dtype.compute())?;
    let axes = axes(c.op, "axis", c.types[0].rank())?;
    let mean = mean_of(b, x, &axes, true)?;
    let d = b.bin("sub", x, mean)?;
    let squares = b.bin("mul", d, d)?;
    let sum = reduce_op(b, "sum", squares, &axes, c.op.bool("keepdims"))?;
    let var = divide_by_count(b, sum, &c.types[0].shape, &axes, c.op.int("correction"))?;
    let y = last(b, var)?;
    b.cast(y, c.types[0].dtype)
}

/// `m + log Σ exp(x - m)` with `m = max(x)`, or 0 where that is infinite.
fn expand_logsumexp(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let x = b.cast(c.operands[0], c.types[0].dtype.compute())?;
    let axes = axes(c.op, "axis", c.types[0].rank())?;
    let top = reduce_op(b, "amax", x, &axes, true)?;
    let infinite = b.un("isinf", top)?;
    let zero = b.scalar(b.ty(x).dtype, 0.0);
    let m = b.op("where", &[infinite, zero, top], &[])?;
    let d = b.bin("sub", x, m)?;
    let e = b.un("exp", d)?;
    let sum = reduce_op(b, "sum", e, &axes, true)?;
    let log = b.un("log", sum)?;
    let y = b.bin("add", log, m)?;
    let y = b.cast(y, c.types[0].dtype)?;
    Ok(vec![b.reshape(y, &c.results[0].shape)?])
}

fn moment_samples() -> Vec<Sample> {
    let mut out = float_samples();
    out.push(sample(
        vec![f32s(&[3, 8], 20)],
        vec![("axis", Attr::Int(1)), ("correction", Attr::Int(0))],
    ));
    out
}
