//! Dropout: a composite over a counter-based random mask.
//!
//! Whether element i is kept is a function of (seed, stream, draw, i) alone, as for every random op;
//! outside of training nothing is left of it.

use super::check::{data, f32s, sample_of};
use super::common::{attr, operand, optional};
use super::number::{Number, Real, widen, with_real};
use super::random::{random_bits, stream_key};
use super::*;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar_eval::{convert, threefry2x32};

pub static ROWS: &[OpRow] = &[OpRow {
    name: "dropout",
    doc: "In training each element is 0 with probability p, and the others are divided by 1 − p; else \
          `x` itself.",
    operands: &[
        operand("x", "any floats"),
        optional("draw", "a u32 scalar: which draw of the stream; absent: 0"),
    ],
    attrs: &[
        attr("p", AttrKind::Float, Preset::Float(0.5), "probability of 0; from 0 to 1"),
        attr("training", AttrKind::Bool, Preset::Bool(true), "false: the identity"),
        attr("stream", AttrKind::Str, Preset::Str(""), "name of the random stream"),
        attr("seed", AttrKind::Int, Preset::Int(0), "the seed of all streams"),
    ],
    results: &["y"],
    infer,
    eval,
    class: |_| Class::Composite,
    expand: Some(expand),
    gradient: Gradient::Expansion,
    tolerance: Tolerance::TIGHT,
    samples,
}];

fn infer(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    ctx.same_float(&["x"])?;
    let p = ctx.op.float("p");
    if !(0.0..=1.0).contains(&p) {
        return Err(ctx.bad_attr(format!("`p` is {p}; a probability lies in 0..=1")));
    }
    if ctx.operand("draw").is_some_and(|d| *d != TensorType::scalar(DType::U32)) {
        return Err(ctx.clash("`draw` must be u32[]"));
    }
    Ok(vec![ctx.need("x")?.clone()])
}

/// What there is to do.
enum Plan {
    Keep,
    Zero,
    /// Words below `below` drop their element, the others are multiplied.
    Mask {
        below: u32,
        factor: f64,
    },
}

fn plan(op: &Op) -> Plan {
    let p = op.float("p");
    let below = (p * 4_294_967_296.0).round();
    match op.bool("training") {
        true if below > u32::MAX as f64 => Plan::Zero,
        true if below > 0.0 => Plan::Mask { below: below as u32, factor: 1.0 / (1.0 - p) },
        _ => Plan::Keep,
    }
}

fn key(op: &Op) -> [u32; 2] {
    stream_key(op.str("stream"), op.int("seed"), 0)
}

fn expand(b: &mut Builder, ctx: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let (x, ty) = (ctx.operands[0], &ctx.types[0]);
    let (below, factor) = match plan(ctx.op) {
        Plan::Keep => return Ok(vec![x]),
        Plan::Zero => {
            let zero = b.scalar(ty.dtype, 0.0);
            return Ok(vec![b.broadcast_to(zero, &ty.shape)?]);
        }
        Plan::Mask { below, factor } => (below, factor),
    };
    let bits = random_bits(b, &ty.shape, key(ctx.op), ctx.operand("draw"))?;
    let kept = b.bin_const("ge", bits, below as f64)?;
    let wide = b.cast(x, ty.dtype.compute())?;
    let scaled = b.bin_const("mul", wide, factor)?;
    let zero = b.scalar(ty.dtype.compute(), 0.0);
    let y = b.op("where", &[kept, scaled, zero], &[])?;
    Ok(vec![b.cast(y, ty.dtype)?])
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    let (below, factor) = match plan(ctx.op) {
        Plan::Keep => return Ok(vec![x.clone()]),
        Plan::Zero => {
            return Ok(vec![Tensor::zeros(x.dtype(), x.shape()).expect("the shape of x")]);
        }
        Plan::Mask { below, factor } => (below, factor),
    };
    let draw = ctx.operand("draw").map_or(0, |t| t.as_slice::<u32>()[0]);
    let key = key(ctx.op);
    let wide = widen(x);
    let y = with_real!(x.dtype(), T => {
        let one = |(i, v): (usize, &T)| match threefry2x32(key, [draw, i as u32])[0] >= below {
            true => v.times(T::of(factor)),
            false => T::default(),
        };
        let y: Vec<T> = wide.as_slice::<T>().iter().enumerate().map(one).collect();
        Tensor::from_slice(x.shape(), &y)
    });
    Ok(vec![convert(&y, x.dtype())])
}

fn samples() -> Vec<Sample> {
    let p = |v: f64| ("p", Attr::Float(v));
    let stream = ("stream", Attr::Str("encoder.0.dropout".into()));
    let alone = |x: Tensor, attrs: &[(&'static str, Attr)]| sample_of(vec![Some(x), None], attrs);
    let draw = Some(Tensor::from_slice(&[], &[7u32]));
    let nan = Tensor::from_slice(&[4], &[f32::NAN, f32::INFINITY, -0.0, 1.0]);
    let mut samples = vec![
        alone(f32s(&[5, 40], 1), &[]),
        alone(f32s(&[5, 40], 1), &[p(0.1), stream.clone(), ("seed", Attr::Int(3))]),
        sample_of(vec![Some(f32s(&[33], 1)), draw], &[p(0.7), stream]),
        alone(f32s(&[7], 1), &[p(0.0)]),
        alone(f32s(&[7], 1), &[p(1.0)]),
        alone(f32s(&[7], 1), &[("training", Attr::Bool(false))]),
        alone(f32s(&[0, 3], 1), &[]),
        alone(nan, &[]),
    ];
    for dtype in [DType::F64, DType::BF16] {
        samples.push(alone(data(dtype, &[20], 1), &[p(0.3)]));
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::eval::{Precision, evaluate};
    use crate::ir::op::walk::graph_of;

    #[test]
    fn a_share_is_dropped_and_the_mean_stays() {
        let ones = Tensor::from_slice(&[10_000], &[1f32; 10_000]);
        let run = |draw: u32| {
            let operands = vec![Some(ones.clone()), Some(Tensor::from_slice(&[], &[draw]))];
            let sample = sample_of(operands, &[("p", Attr::Float(0.2))]);
            let (graph, _, env) = graph_of(find("dropout").unwrap(), sample).unwrap();
            evaluate(&graph, &env, Precision::Own).unwrap().outputs.remove(0)
        };
        let y = run(1);
        let dropped = y.as_slice::<f32>().iter().filter(|v| **v == 0.0).count();
        assert!((1850..2150).contains(&dropped), "{dropped} of 10000 at p = 0.2");
        assert!(y.as_slice::<f32>().iter().all(|v| *v == 0.0 || *v == 1.25));
        assert_eq!(y, run(1));
        assert_ne!(y, run(2));
    }
}
