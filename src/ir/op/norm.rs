//! Normalizations over axes of the operand itself: layer, rms, group, instance.
//!
//! All are composites. Their expansions reduce, then go elementwise over the same axes, so that each
//! can become one kernel; narrow floats are widened to f32 for all of it. Variances are means of
//! squared differences from the mean.

use super::check::{data, f32s, sample, sample_of};
use super::common::{attr, operand, optional};
use super::number::{Number, Real, widen, with_real};
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar_eval::convert;

pub(super) const EPS: AttrSpec =
    attr("eps", AttrKind::Float, Preset::Float(1e-5), "added to the variance before the root");
const AXIS: AttrSpec =
    attr("axis", AttrKind::Int, Preset::Int(-1), "first of the axes that are normalized over");
pub(super) const CHANNEL: &str = "[C]";
const TRAILING: &str = "the shape of `x` from `axis` on";

macro_rules! norm_row {
    ($name:literal, $doc:literal, $operands:expr, $attrs:expr, $infer:expr, $eval:expr, $expand:expr,
     $samples:expr) => {
        OpRow {
            name: $name,
            doc: $doc,
            operands: $operands,
            attrs: $attrs,
            results: &["y"],
            infer: $infer,
            eval: $eval,
            class: |_| Class::Composite,
            expand: Some($expand),
            gradient: Gradient::Expansion,
            tolerance: Tolerance::SUM,
            samples: $samples,
        }
    };
}

pub static ROWS: &[OpRow] = &[
    norm_row!(
        "layer_norm",
        "Normalizes over the axes from `axis` on to mean 0 and variance 1, then scales and shifts \
         each element.",
        &[operand("x", "any"), optional("weight", TRAILING), optional("bias", TRAILING)],
        &[EPS, AXIS],
        |ctx| infer_trailing(ctx, &["weight", "bias"]),
        |ctx| eval_trailing(ctx, Center::Mean, ctx.op.float("eps")),
        |b, ctx| expand_trailing(b, ctx, Center::Mean, ctx.op.float("eps")),
        layer_samples
    ),
    norm_row!(
        "rms_norm",
        "Divides by the root of the mean square over the axes from `axis` on, then scales each \
         element.",
        &[operand("x", "any"), optional("weight", TRAILING)],
        &[
            attr(
                "eps",
                AttrKind::Float,
                Preset::None,
                "added to the mean square; absent: the distance from 1 to the next number (of f32 \
                 for narrower types)"
            ),
            AXIS
        ],
        |ctx| infer_trailing(ctx, &["weight"]),
        |ctx| eval_trailing(ctx, Center::Zero, rms_eps(ctx.op, ctx.results[0].dtype)),
        |b, ctx| expand_trailing(b, ctx, Center::Zero, rms_eps(ctx.op, ctx.types[0].dtype)),
        rms_samples
    ),
    norm_row!(
        "group_norm",
        "Normalizes over each group of neighbouring channels and all that follows them, then scales \
         and shifts each channel.",
        &[operand("x", "[N, C, …]"), optional("weight", CHANNEL), optional("bias", CHANNEL)],
        &[attr("groups", AttrKind::Int, Preset::Required, "number of groups"), EPS],
        infer_group,
        |ctx| eval_channels(ctx, ctx.op.int("groups") as usize),
        expand_group,
        group_samples
    ),
    norm_row!(
        "instance_norm",
        "Normalizes each channel of each instance over its spatial axes, then scales and shifts it.",
        &[operand("x", "[N, C, …]"), optional("weight", CHANNEL), optional("bias", CHANNEL)],
        &[EPS],
        |ctx| infer_channels(ctx, 3),
        |ctx| eval_channels(ctx, ctx.operands[0].shape()[1]),
        expand_instance,
        instance_samples
    ),
];

/// What deviations are measured from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Center {
    Mean,
    Zero,
}

fn rms_eps(op: &Op, dtype: DType) -> f64 {
    op.opt_float("eps").unwrap_or(match dtype {
        DType::F64 => f64::EPSILON,
        _ => f32::EPSILON as f64,
    })
}

// ---- Layer and rms ----

fn infer_trailing(ctx: &OpCtx, factors: &[&str]) -> Result<Vec<TensorType>, OpError> {
    ctx.same_float(&[&["x"], factors].concat())?;
    let x = ctx.need("x")?;
    let axis = ctx.axis(x.rank())?;
    for name in factors {
        ctx.expect_shape(name, &x.shape.0[axis..]).map_err(|e| {
            e.help("`axis` says where the normalized axes begin: for two of them it is -2")
        })?;
    }
    Ok(vec![x.clone()])
}

fn expand_trailing(
    b: &mut Builder,
    ctx: &ExpandCtx,
    center: Center,
    eps: f64,
) -> Result<Vec<Value>, OpError> {
    let rank = ctx.types[0].rank();
    let first = common::axis(ctx.op, ctx.op.int("axis"), rank)? as i64;
    let axes: Vec<i64> = (first..rank as i64).collect();
    let dtype = ctx.types[0].dtype;
    let x = b.cast(ctx.operands[0], dtype.compute())?;
    let mut y = normalized(b, x, &axes, center, eps)?;
    for (name, f) in [("weight", "mul"), ("bias", "add")] {
        if let Some(v) = ctx.op.row.operand_index(name).and_then(|_| ctx.operand(name)) {
            let v = b.cast(v, dtype.compute())?;
            y = b.bin(f, y, v)?;
        }
    }
    Ok(vec![b.cast(y, dtype)?])
}

fn eval_trailing(ctx: &EvalCtx, center: Center, eps: f64) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    let first = common::axis(ctx.op, ctx.op.int("axis"), x.rank())?;
    let columns: usize = x.shape()[first..].iter().product();
    let factor =
        |name: &str| ctx.op.row.operand_index(name).and_then(|_| ctx.operand(name)).map(widen);
    let (weight, bias) = (factor("weight"), factor("bias"));
    Ok(vec![normalize(x, columns, center, eps, weight, bias, |_, column| column)])
}

// ---- Group and instance ----

fn infer_channels(ctx: &OpCtx, least: usize) -> Result<Vec<TensorType>, OpError> {
    ctx.same_float(&["x", "weight", "bias"])?;
    let x = ctx.need("x")?;
    if x.rank() < least {
        return Err(ctx.clash(format!("`x` must be [N, C, …] with {least} axes at least")));
    }
    for name in ["weight", "bias"] {
        ctx.expect_shape(name, &x.shape.0[1..2])?;
    }
    Ok(vec![x.clone()])
}

fn infer_group(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let result = infer_channels(ctx, 2)?;
    let (groups, channels) = (ctx.op.int("groups"), &result[0].shape.0[1]);
    if groups < 1 || channels.modulo(&Dim::Const(groups)) != Some(Dim::Const(0)) {
        let error = ctx.clash(format!("{channels} channels do not fall into {groups} groups"));
        return Err(error.help("`groups` must divide the number of channels"));
    }
    Ok(result)
}

fn expand_group(b: &mut Builder, ctx: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let dims = &ctx.types[0].shape.0;
    let groups = Dim::Const(ctx.op.int("groups"));
    let each = dims[2..].iter().try_fold(dims[1].floor_div(&groups), |n, d| Some(n?.mul(d)));
    let each = each.flatten().ok_or_else(OpError::overflow)?;
    let dtype = ctx.types[0].dtype;
    let x = b.cast(ctx.operands[0], dtype.compute())?;
    let x = b.reshape(x, &Shape(vec![dims[0].clone(), groups, each]))?;
    let y = normalized(b, x, &[2], Center::Mean, ctx.op.float("eps"))?;
    let y = b.reshape(y, &ctx.types[0].shape)?;
    by_channel(b, ctx, y)
}

fn expand_instance(b: &mut Builder, ctx: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let axes: Vec<i64> = (2..ctx.types[0].rank() as i64).collect();
    let x = b.cast(ctx.operands[0], ctx.types[0].dtype.compute())?;
    let y = normalized(b, x, &axes, Center::Mean, ctx.op.float("eps"))?;
    by_channel(b, ctx, y)
}

/// `y · weight + bias` by channel, in the dtype of the op.
fn by_channel(b: &mut Builder, ctx: &ExpandCtx, mut y: Value) -> Result<Vec<Value>, OpError> {
    let dtype = ctx.types[0].dtype;
    let column = channel_column(&ctx.types[0]);
    for (name, f) in [("weight", "mul"), ("bias", "add")] {
        if let Some(v) = ctx.operand(name) {
            let v = b.cast(v, dtype.compute())?;
            let v = b.reshape(v, &column)?;
            y = b.bin(f, y, v)?;
        }
    }
    Ok(vec![b.cast(y, dtype)?])
}

fn eval_channels(ctx: &EvalCtx, groups: usize) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    let inner: usize = x.shape()[2..].iter().product();
    let each = x.shape()[1].checked_div(groups).unwrap_or(0);
    let (weight, bias) = (ctx.operand("weight").map(widen), ctx.operand("bias").map(widen));
    let channel = |row: usize, column: usize| row % groups * each + column / inner;
    let eps = ctx.op.float("eps");
    Ok(vec![normalize(x, each * inner, Center::Mean, eps, weight, bias, channel)])
}

// ---- What they share ----

/// The shape in which a value for each channel broadcasts against `x`: `[C, 1, …]`.
pub(super) fn channel_column(x: &TensorType) -> Shape {
    let ones = vec![Dim::ONE; x.rank() - 2];
    Shape([x.shape.0[1].clone()].into_iter().chain(ones).collect())
}

/// Differences from the mean, the mean and the variance over these axes, which stay.
pub(super) fn moments(
    b: &mut Builder,
    x: Value,
    axes: &[i64],
) -> Result<(Value, Value, Value), OpError> {
    let mean = kept(b, "mean", x, axes)?;
    let deviation = b.bin("sub", x, mean)?;
    let square = b.bin("mul", deviation, deviation)?;
    Ok((deviation, mean, kept(b, "mean", square, axes)?))
}

fn normalized(
    b: &mut Builder,
    x: Value,
    axes: &[i64],
    center: Center,
    eps: f64,
) -> Result<Value, OpError> {
    let (deviation, var) = match center {
        Center::Mean => {
            let (deviation, _, var) = moments(b, x, axes)?;
            (deviation, var)
        }
        Center::Zero => {
            let square = b.bin("mul", x, x)?;
            (x, kept(b, "mean", square, axes)?)
        }
    };
    scaled_deviation(b, deviation, var, eps)
}

pub(super) fn scaled_deviation(
    b: &mut Builder,
    d: Value,
    var: Value,
    eps: f64,
) -> Result<Value, OpError> {
    let shifted = b.bin_const("add", var, eps)?;
    let root = b.un("rsqrt", shifted)?;
    b.bin("mul", d, root)
}

/// A reduction whose axes stay with extent 1.
pub(super) fn kept(
    b: &mut Builder,
    reduce: &str,
    x: Value,
    axes: &[i64],
) -> Result<Value, OpError> {
    let attrs = [("axis", Attr::Ints(axes.to_vec())), ("keepdims", Attr::Bool(true))];
    b.op(reduce, &[x], &attrs)
}

/// Rows of `columns` neighbours, each normalized; `factor(row, column)` is the place of an element's
/// weight and bias.
fn normalize(
    x: &Tensor,
    columns: usize,
    center: Center,
    eps: f64,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    factor: impl Fn(usize, usize) -> usize,
) -> Tensor {
    let (dtype, wide) = (x.dtype(), widen(x));
    let y = with_real!(dtype, T => {
        let weight = weight.as_ref().map(|w| w.as_slice::<T>());
        let bias = bias.as_ref().map(|b| b.as_slice::<T>());
        let n = T::of(columns as f64);
        let mut y: Vec<T> = Vec::with_capacity(x.numel());
        for (r, row) in wide.as_slice::<T>().chunks(columns.max(1)).enumerate() {
            let mean = match center {
                Center::Mean => row.iter().fold(T::default(), |s, v| s.plus(*v)).over(n),
                Center::Zero => T::default(),
            };
            let square = |v: &T| v.minus(mean).times(v.minus(mean));
            let var = row.iter().map(square).fold(T::default(), T::plus).over(n);
            let root = var.plus(T::of(eps)).rsqrt();
            y.extend(row.iter().enumerate().map(|(c, v)| {
                let at = factor(r, c);
                let v = v.minus(mean).times(root);
                let v = weight.map_or(v, |w| v.times(w[at]));
                bias.map_or(v, |b| v.plus(b[at]))
            }));
        }
        Tensor::from_slice(x.shape(), &y)
    });
    convert(&y, dtype)
}

// ---- Samples ----

fn layer_samples() -> Vec<Sample> {
    let far = super::sample::uniform(DType::F32, &[3, 10], 6, 99.0, 101.0);
    let constant = Tensor::from_slice(&[2, 4], &[3.5f32; 8]);
    let nan = Tensor::from_slice(&[2, 2], &[1.0, f32::NAN, f32::INFINITY, 2.0]);
    let mut samples = vec![
        sample([f32s(&[2, 3, 10], 1), f32s(&[10], 2), f32s(&[10], 3)], &[]),
        sample_of(vec![Some(f32s(&[5, 70], 1)), None, None], &[("eps", Attr::Float(1e-3))]),
        sample_of(vec![Some(f32s(&[5, 7], 1)), None, Some(f32s(&[7], 2))], &[]),
        sample_of(vec![Some(f32s(&[5, 7], 1)), Some(f32s(&[7], 2)), None], &[]),
        sample(
            [f32s(&[2, 3, 4], 1), f32s(&[3, 4], 2), f32s(&[3, 4], 3)],
            &[("axis", Attr::Int(-2))],
        ),
        sample_of(vec![Some(f32s(&[2, 3, 4], 1)), None, None], &[("axis", Attr::Int(0))]),
        sample_of(vec![Some(far), None, None], &[]),
        sample_of(vec![Some(constant), None, None], &[]),
        sample_of(vec![Some(nan), None, None], &[]),
        sample_of(vec![Some(f32s(&[0, 3], 1)), None, None], &[]),
    ];
    for dtype in [DType::F64, DType::BF16, DType::F16] {
        samples.push(sample(
            [data(dtype, &[3, 9], 1), data(dtype, &[9], 2), data(dtype, &[9], 3)],
            &[],
        ));
    }
    samples
}

fn rms_samples() -> Vec<Sample> {
    let mut samples = vec![
        sample([f32s(&[2, 3, 10], 1), f32s(&[10], 2)], &[]),
        sample_of(vec![Some(f32s(&[5, 70], 1)), None], &[("eps", Attr::Float(1e-3))]),
        sample([f32s(&[2, 3, 4], 1), f32s(&[3, 4], 2)], &[("axis", Attr::Int(-2))]),
        sample_of(vec![Some(f32s(&[0, 3], 1)), None], &[]),
        sample_of(vec![Some(Tensor::from_slice(&[1, 3], &[0f32; 3])), None], &[]),
    ];
    for dtype in [DType::F64, DType::BF16] {
        samples.push(sample([data(dtype, &[3, 9], 1), data(dtype, &[9], 2)], &[]));
    }
    samples
}

fn group_samples() -> Vec<Sample> {
    let groups = |n: i64| [("groups", Attr::Int(n))];
    let whole = |shape: &[usize], n: i64| {
        sample([f32s(shape, 1), f32s(&[shape[1]], 2), f32s(&[shape[1]], 3)], &groups(n))
    };
    vec![
        whole(&[2, 6, 4, 3], 3),
        whole(&[2, 6], 2),
        whole(&[1, 4, 5], 1),
        whole(&[0, 4, 5], 2),
        sample_of(vec![Some(f32s(&[2, 4, 3, 3], 1)), None, None], &groups(4)),
        sample(
            [DType::BF16; 3]
                .into_iter()
                .zip([&[2, 4, 3][..], &[4], &[4]])
                .map(|(d, s)| data(d, s, 7)),
            &groups(2),
        ),
    ]
}

fn instance_samples() -> Vec<Sample> {
    let bare = |x: Tensor| sample_of(vec![Some(x), None, None], &[]);
    vec![
        sample([f32s(&[2, 3, 5, 4], 1), f32s(&[3], 2), f32s(&[3], 3)], &[]),
        sample([f32s(&[2, 3, 7], 1), f32s(&[3], 2), f32s(&[3], 3)], &[("eps", Attr::Float(0.01))]),
        bare(f32s(&[1, 2, 3, 2, 2], 1)),
        bare(f32s(&[0, 2, 3], 1)),
        bare(data(DType::F64, &[2, 2, 6], 1)),
    ]
}
