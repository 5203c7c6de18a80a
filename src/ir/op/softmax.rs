//! Softmax and its logarithm: composites, stable for any finite input.
//!
//! The greatest element of a row is subtracted first, so that no exponential overflows. A row with a
//! NaN, with +∞ or of nothing but −∞ is NaN, as in PyTorch.

use super::check::{data, f32s, sample};
use super::common::{attr, operand};
use super::norm::kept;
use super::number::{Number, Real, widen, with_real};
use super::*;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar_eval::convert;

const AXIS: AttrSpec = attr("axis", AttrKind::Int, Preset::Int(-1), "the axis that adds up to 1");

pub static ROWS: &[OpRow] = &[
    OpRow {
        name: "softmax",
        doc: "`exp(x) / sum(exp(x))` along an axis.",
        operands: &[operand("x", "any")],
        attrs: &[AXIS],
        results: &["y"],
        infer,
        eval: |ctx| eval(ctx, Scale::Linear),
        class: |_| Class::Composite,
        expand: Some(|b, ctx| expand(b, ctx, Scale::Linear)),
        gradient: Gradient::Expansion,
        tolerance: Tolerance::SUM,
        samples,
    },
    OpRow {
        name: "log_softmax",
        doc: "`x − log(sum(exp(x)))` along an axis.",
        operands: &[operand("x", "any")],
        attrs: &[AXIS],
        results: &["y"],
        infer,
        eval: |ctx| eval(ctx, Scale::Log),
        class: |_| Class::Composite,
        expand: Some(|b, ctx| expand(b, ctx, Scale::Log)),
        gradient: Gradient::Expansion,
        tolerance: Tolerance::SUM,
        samples,
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
}

fn infer(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    ctx.same_float(&["x"])?;
    let x = ctx.need("x")?;
    ctx.axis(x.rank())?;
    Ok(vec![x.clone()])
}

fn expand(b: &mut Builder, ctx: &ExpandCtx, scale: Scale) -> Result<Vec<Value>, OpError> {
    let dtype = ctx.types[0].dtype;
    let axes = [common::axis(ctx.op, ctx.op.int("axis"), ctx.types[0].rank())? as i64];
    if ctx.types[0].shape.0[axes[0] as usize] == Dim::Const(0) {
        // No elements, and no maximum of none.
        return Ok(vec![ctx.operands[0]]);
    }
    let x = b.cast(ctx.operands[0], dtype.compute())?;
    let top = kept(b, "amax", x, &axes)?;
    let below = b.bin("sub", x, top)?;
    let powers = b.un("exp", below)?;
    let total = kept(b, "sum", powers, &axes)?;
    let y = match scale {
        Scale::Linear => b.bin("div", powers, total)?,
        Scale::Log => {
            let log = b.un("log", total)?;
            b.bin("sub", below, log)?
        }
    };
    Ok(vec![b.cast(y, dtype)?])
}

fn eval(ctx: &EvalCtx, scale: Scale) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    let axis = common::axis(ctx.op, ctx.op.int("axis"), x.rank())?;
    let (n, inner) = (x.shape()[axis], x.shape()[axis + 1..].iter().product::<usize>());
    let (dtype, wide) = (x.dtype(), widen(x));
    let y = with_real!(dtype, T => {
        let x = wide.as_slice::<T>();
        let mut y = x.to_vec();
        for start in (0..x.len()).filter(|i| i / inner % n == 0) {
            let at = |i: usize| start + i * inner;
            let top = (0..n).map(|i| x[at(i)]).fold(T::LEAST, |a, b| {
                if a.is_nan() || a > b { a } else { b }
            });
            let powers = (0..n).map(|i| x[at(i)].minus(top).exponential());
            let total = powers.fold(T::default(), T::plus);
            for i in 0..n {
                let below = x[at(i)].minus(top);
                y[at(i)] = match scale {
                    Scale::Linear => below.exponential().over(total),
                    Scale::Log => below.minus(total.logarithm()),
                };
            }
        }
        Tensor::from_slice(ctx.operands[0].shape(), &y)
    });
    Ok(vec![convert(&y, dtype)])
}

fn samples() -> Vec<Sample> {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let hard = [
        [1e4, 1e4 - 1.0, -1e4, 0.0],
        [-inf, 0.0, 1.0, -inf],
        [-1e30, 1e30, 3e38, -3e38],
        [nan, 0.0, 1.0, 2.0],
        [inf, 0.0, 1.0, -inf],
        [-inf; 4],
    ];
    let hard = Tensor::from_slice(&[6, 4], &hard.concat());
    let axis = |a: i64| [("axis", Attr::Int(a))];
    let mut samples = vec![
        sample([f32s(&[3, 4, 5], 1)], &axis(0)),
        sample([f32s(&[3, 4, 5], 1)], &axis(1)),
        sample([f32s(&[3, 70], 2)], &[]),
        sample([hard], &[]),
        sample([f32s(&[5], 3)], &[]),
        sample([f32s(&[3, 1], 3)], &[]),
        sample([f32s(&[0, 4], 3)], &[]),
        sample([f32s(&[4, 0], 3)], &[]),
    ];
    for dtype in [DType::F64, DType::BF16, DType::F16] {
        samples.push(sample([data(dtype, &[3, 9], 4)], &[]));
    }
    samples
}
