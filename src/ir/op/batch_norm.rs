//! Batch normalization.
//!
//! At inference it is `x · scale + shift` with both computed from the small parameters alone, so that
//! they fold into a convolution before it. In training it normalizes by the batch and gives the next
//! running statistics.

use super::check::{data, sample};
use super::common::{attr, operand};
use super::norm::{CHANNEL, EPS, channel_column, moments, scaled_deviation};
use super::number::{Number, Real, widen, with_real};
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar_eval::convert;

pub static ROWS: &[OpRow] = &[OpRow {
    name: "batch_norm",
    doc: "`(x − mean) / √(var + eps) · weight + bias` for each channel. At inference mean and \
              var are the running ones, and are passed on; in training they are those of the batch, \
              and the results are the next running ones: `(1 − momentum) · running + momentum · \
              batch`, with the unbiased variance.",
    operands: &[
        operand("x", "[N, C, …]"),
        operand("weight", CHANNEL),
        operand("bias", CHANNEL),
        operand("running_mean", CHANNEL),
        operand("running_var", CHANNEL),
    ],
    attrs: &[
        EPS,
        attr("momentum", AttrKind::Float, Preset::Float(0.1), "share of the batch"),
        attr("training", AttrKind::Bool, Preset::Bool(false), "statistics of the batch"),
    ],
    results: &["y", "mean", "var"],
    infer: infer_batch,
    eval: eval_batch,
    class: |_| Class::Composite,
    expand: Some(expand_batch),
    gradient: Gradient::Expansion,
    tolerance: Tolerance::SUM,
    samples: batch_samples,
}];

fn infer_batch(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let dtype = ctx.same_float(&["x", "weight", "bias", "running_mean", "running_var"])?;
    let x = ctx.need("x")?;
    let Some(channels) = x.shape.0.get(1) else {
        return Err(ctx.clash("`x` must be [N, C, …]"));
    };
    for name in ["weight", "bias", "running_mean", "running_var"] {
        ctx.need(name)?;
        ctx.expect_shape(name, std::slice::from_ref(channels))?;
    }
    let statistic = TensorType::new(dtype, Shape(vec![channels.clone()]));
    Ok(vec![x.clone(), statistic.clone(), statistic])
}

fn expand_batch(b: &mut Builder, ctx: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let dtype = ctx.types[0].dtype;
    let mut wide = Vec::with_capacity(5);
    for v in ctx.operands {
        wide.push(b.cast(*v, dtype.compute())?);
    }
    let [x, weight, bias, mean, var] = wide[..] else {
        unreachable!("inference admits five operands")
    };
    let column = channel_column(&ctx.types[0]);
    if !ctx.op.bool("training") {
        // y = x · scale + shift, scale = weight / √(var + eps), shift = bias − mean · scale.
        let shifted = b.bin_const("add", var, ctx.op.float("eps"))?;
        let root = b.un("rsqrt", shifted)?;
        let scale = b.bin("mul", weight, root)?;
        let centre = b.bin("mul", mean, scale)?;
        let shift = b.bin("sub", bias, centre)?;
        let (scale, shift) = (b.reshape(scale, &column)?, b.reshape(shift, &column)?);
        let scaled = b.bin("mul", x, scale)?;
        let y = b.bin("add", scaled, shift)?;
        return Ok(vec![b.cast(y, dtype)?, ctx.operands[3], ctx.operands[4]]);
    }
    let axes: Vec<i64> = (0..ctx.types[0].rank() as i64).filter(|a| *a != 1).collect();
    let (deviation, batch_mean, batch_var) = moments(b, x, &axes)?;
    let y = scaled_deviation(b, deviation, batch_var, ctx.op.float("eps"))?;
    let (weight, bias) = (b.reshape(weight, &column)?, b.reshape(bias, &column)?);
    let y = b.bin("mul", y, weight)?;
    let y = b.bin("add", y, bias)?;

    let count = axes.iter().map(|a| ctx.types[0].shape.0[*a as usize].clone()).collect();
    let unbias = unbiased_factor(b, count, dtype.compute())?;
    let channels = b.ty(mean).shape.clone();
    let batch_var = b.reshape(batch_var, &channels)?;
    let batch_var = b.bin("mul", batch_var, unbias)?;
    let batch_mean = b.reshape(batch_mean, &channels)?;
    let momentum = ctx.op.float("momentum");
    let mut next = |running: Value, batch: Value| -> Result<Value, OpError> {
        let kept = b.bin_const("mul", running, 1.0 - momentum)?;
        let new = b.bin_const("mul", batch, momentum)?;
        let sum = b.bin("add", kept, new)?;
        b.cast(sum, dtype)
    };
    let (next_mean, next_var) = (next(mean, batch_mean)?, next(var, batch_var)?);
    Ok(vec![b.cast(y, dtype)?, next_mean, next_var])
}

/// `n / (n − 1)` for the number of elements of these extents (1 for a single element).
fn unbiased_factor(b: &mut Builder, extents: Vec<Dim>, dtype: DType) -> Result<Value, OpError> {
    let shape = Shape(extents);
    let total = shape.numel().ok_or_else(OpError::overflow)?;
    if let Some(n) = total.as_const() {
        return Ok(b.scalar(dtype, n as f64 / (n - 1).max(1) as f64));
    }
    let n = b.count(&shape, DType::I64)?;
    let less = b.bin_const("sub", n, 1.0)?;
    let least = b.bin_const("maximum", less, 1.0)?;
    let (n, least) = (b.cast(n, dtype)?, b.cast(least, dtype)?);
    b.bin("div", n, least)
}

fn eval_batch(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    let (dtype, shape) = (x.dtype(), x.shape());
    let (channels, inner) = (shape[1], shape[2..].iter().product::<usize>());
    let wide: Vec<Tensor> = ctx.operands.iter().map(widen).collect();
    let (eps, momentum) = (ctx.op.float("eps"), ctx.op.float("momentum"));
    let results = with_real!(dtype, T => {
        let [x, weight, bias, mean, var] = [0, 1, 2, 3, 4].map(|i| wide[i].as_slice::<T>());
        let count = shape[0] * inner;
        let of_channel = |c: usize| {
            (0..count).map(move |i| x[(i / inner * channels + c) * inner + i % inner])
        };
        let (mut next_mean, mut next_var) = (mean.to_vec(), var.to_vec());
        let mut factors: Vec<[T; 3]> = vec![];
        for c in 0..channels {
            if !ctx.op.bool("training") {
                let scale = weight[c].times(var[c].plus(T::of(eps)).rsqrt());
                factors.push([T::default(), scale, bias[c].minus(mean[c].times(scale))]);
                continue;
            }
            let n = T::of(count as f64);
            let m = of_channel(c).fold(T::default(), T::plus).over(n);
            let squares = of_channel(c).map(|v| v.minus(m).times(v.minus(m)));
            let v = squares.fold(T::default(), T::plus).over(n);
            factors.push([m, weight[c].times(v.plus(T::of(eps)).rsqrt()), bias[c]]);
            let unbiased = v.times(T::of(count as f64 / count.saturating_sub(1).max(1) as f64));
            let next = |running: T, batch: T| {
                running.times(T::of(1.0 - momentum)).plus(batch.times(T::of(momentum)))
            };
            (next_mean[c], next_var[c]) = (next(mean[c], m), next(var[c], unbiased));
        }
        let y: Vec<T> = x
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let [m, scale, shift] = factors[i / inner % channels];
                v.minus(m).times(scale).plus(shift)
            })
            .collect();
        let row = [channels];
        [
            Tensor::from_slice(shape, &y),
            Tensor::from_slice(&row, &next_mean),
            Tensor::from_slice(&row, &next_var),
        ]
    });
    Ok(results.iter().map(|t| convert(t, dtype)).collect())
}

fn positive(dtype: DType, n: usize, seed: u64) -> Tensor {
    super::sample::uniform(dtype, &[n], seed, 0.1, 2.0)
}

fn batch_samples() -> Vec<Sample> {
    let training = ("training", Attr::Bool(true));
    let case = |dtype: DType, shape: &[usize], attrs: &[(&'static str, Attr)]| {
        let c = shape[1];
        let [weight, bias, mean] = [2, 3, 4].map(|seed| data(dtype, &[c], seed));
        sample([data(dtype, shape, 1), weight, bias, mean, positive(dtype, c, 5)], attrs)
    };
    let mut samples = vec![
        case(DType::F32, &[2, 6, 4, 3], &[]),
        case(DType::F32, &[3, 5], &[("eps", Attr::Float(0.1))]),
        case(DType::F32, &[2, 3, 2, 3, 2], &[]),
        case(DType::F32, &[0, 3, 2, 2], &[]),
        case(DType::F32, &[4, 6, 5], std::slice::from_ref(&training)),
        case(DType::F32, &[4, 3, 3, 2], &[training.clone(), ("momentum", Attr::Float(0.3))]),
        case(DType::F32, &[1, 4], std::slice::from_ref(&training)),
    ];
    for dtype in [DType::F64, DType::BF16, DType::F16] {
        samples.push(case(dtype, &[2, 3, 4], &[]));
        samples.push(case(dtype, &[2, 3, 4], std::slice::from_ref(&training)));
    }
    samples
}
