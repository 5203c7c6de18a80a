//! Transposed convolutions: the adjoints of convolutions, which make images larger.
//!
//! Composites: zeros are put between the elements of `x`, and a convolution with the mirrored weights
//! goes over the result. `out = (in − 1)·stride − 2·pad + d·(k−1) + output_padding + 1`.

use super::check::{data, f32s, sample, sample_of};
use super::common::{attr, operand, optional};
use super::number::{Number, widen, with_number};
use super::window::{BY_AXIS_LIMIT, by_axis};
use super::window_eval::{Window3, volume};
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar_eval::convert;

macro_rules! row {
    ($name:literal, $conv:literal, $axes:literal, $x:literal, $weight:literal) => {
        OpRow {
            name: $name,
            doc: "The adjoint of a convolution: each element of `x` adds its multiple of `weight` to \
                  the result.",
            operands: &[operand("x", $x), operand("weight", $weight), optional("bias", "[O]")],
            attrs: &[
                attr("stride", AttrKind::Ints, Preset::Int(1), "steps in the result, by axis"),
                attr("pad", AttrKind::Ints, Preset::Int(0), "cut off on both sides, by axis"),
                attr(
                    "output_padding",
                    AttrKind::Ints,
                    Preset::Int(0),
                    "more elements at the end, by axis; less than stride or dilation",
                ),
                attr("groups", AttrKind::Int, Preset::Int(1), "channels fall into this many groups"),
                attr("dilation", AttrKind::Ints, Preset::Int(1), "distance between weights, by axis"),
            ],
            results: &["y"],
            infer: |ctx| infer(ctx, $axes),
            eval,
            class: |_| Class::Composite,
            expand: Some(|b, ctx| expand(b, ctx, $conv)),
            gradient: Gradient::Expansion,
            tolerance: Tolerance::SUM,
            samples: || samples($axes),
        }
    };
}

pub static ROWS: &[OpRow] = &[
    row!("conv_transpose1d", "conv1d", 1, "[N, C, L]", "[C, O / groups, k]"),
    row!("conv_transpose2d", "conv2d", 2, "[N, C, H, W]", "[C, O / groups, kh, kw]"),
    row!("conv_transpose3d", "conv3d", 3, "[N, C, D, H, W]", "[C, O / groups, kd, kh, kw]"),
];

/// What the attributes and the weights say, by spatial axis.
struct Form {
    kernel: Vec<usize>,
    stride: Vec<usize>,
    pad: Vec<usize>,
    more: Vec<usize>,
    dilation: Vec<usize>,
    groups: i64,
}

impl Form {
    fn of(ctx: &OpCtx) -> Result<Form, OpError> {
        let kernel = ctx.types[1].shape.0[2..].iter().map(|d| {
            let known = d.as_extent().filter(|k| (1..=BY_AXIS_LIMIT as usize).contains(k));
            known.ok_or_else(|| {
                ctx.clash(format!("a kernel extent must be a number from 1, not {d}"))
            })
        });
        let kernel: Vec<usize> = kernel.collect::<Result<_, _>>()?;
        let n = kernel.len();
        Ok(Form {
            kernel,
            stride: by_axis(ctx, "stride", n, 1)?,
            pad: by_axis(ctx, "pad", n, 0)?,
            more: by_axis(ctx, "output_padding", n, 0)?,
            dilation: by_axis(ctx, "dilation", n, 1)?,
            groups: ctx.op.int("groups"),
        })
    }

    /// Elements that a weight reaches over along an axis, without the first.
    fn reach(&self, axis: usize) -> i64 {
        (self.dilation[axis] * (self.kernel[axis] - 1)) as i64
    }
}

fn infer(ctx: &OpCtx, axes: usize) -> Result<Vec<TensorType>, OpError> {
    let dtype = ctx.same_number(&["x", "weight", "bias"])?;
    let (x, weight) = (&ctx.need("x")?.shape.0, &ctx.need("weight")?.shape.0);
    for (name, dims) in [("x", x), ("weight", weight)] {
        if dims.len() != axes + 2 {
            return Err(ctx.clash(format!(
                "`{name}` must have {} axes, not {}",
                axes + 2,
                dims.len()
            )));
        }
    }
    if x[1] != weight[0] {
        let message = format!("`x` has {} channels, `weight` takes {}", x[1], weight[0]);
        return Err(ctx.clash(message).help("`weight` is [C, O / groups, kernel…]"));
    }
    let form = Form::of(ctx)?;
    let groups = Dim::Const(form.groups);
    if !(1..=BY_AXIS_LIMIT).contains(&form.groups) || x[1].modulo(&groups) != Some(Dim::Const(0)) {
        return Err(ctx.clash(format!("{} channels do not fall into {groups} groups", x[1])));
    }
    let out = weight[1].mul(&groups).ok_or_else(OpError::overflow)?;
    ctx.expect_shape("bias", std::slice::from_ref(&out))?;
    let mut dims = vec![x[0].clone(), out];
    for i in 0..axes {
        if form.more[i] >= form.stride[i].max(form.dilation[i]) {
            let message = format!("`output_padding` is {} along spatial axis {i}", form.more[i]);
            return Err(ctx
                .bad_attr(message)
                .help("it must be less than the stride or the dilation"));
        }
        let rest = form.reach(i) + form.more[i] as i64 + 1 - 2 * form.pad[i] as i64;
        let stride = Dim::from(form.stride[i]);
        let steps = x[i + 2].sub(&Dim::ONE).and_then(|d| d.mul(&stride));
        let extent = steps.and_then(|d| d.add(&Dim::Const(rest))).ok_or_else(OpError::overflow)?;
        if extent.as_const().is_some_and(|v| v < 1) || x[i + 2] == Dim::Const(0) {
            return Err(ctx.clash(format!("nothing is left of spatial axis {i}")));
        }
        dims.push(extent);
    }
    Ok(vec![TensorType::new(dtype, Shape(dims))])
}

fn expand(b: &mut Builder, ctx: &ExpandCtx, conv: &str) -> Result<Vec<Value>, OpError> {
    let form = Form::of(&OpCtx { op: ctx.op, types: ctx.types, regions: &[] })?;
    let n = form.kernel.len();
    let dims = ctx.types[0].shape.0.clone();
    let zero = b.scalar(ctx.types[0].dtype, 0.0);

    // [N, C, H, 1, …] padded to [N, C, H, stride, …] is x with zeros behind each element.
    let (mut split, mut widths, mut joined) =
        (dims[..2].to_vec(), vec![0i64; 4], dims[..2].to_vec());
    for i in 0..n {
        split.extend([dims[i + 2].clone(), Dim::ONE]);
        widths.extend([0, 0, 0, form.stride[i] as i64 - 1]);
        let extent = dims[i + 2].mul(&Dim::from(form.stride[i]));
        joined.push(extent.ok_or_else(OpError::overflow)?);
    }
    let mut x = ctx.operands[0];
    if form.stride.iter().any(|s| *s > 1) {
        x = b.reshape(x, &Shape(split))?;
        x = b.op("pad_with", &[x, zero], &[("pad", Attr::Ints(widths))])?;
        x = b.reshape(x, &Shape(joined))?;
    }
    let mut edges = vec![0i64; 4];
    for i in 0..n {
        let before = form.reach(i) - form.pad[i] as i64;
        edges.extend([before, before + form.more[i] as i64 - (form.stride[i] as i64 - 1)]);
    }
    x = b.op("pad_with", &[x, zero], &[("pad", Attr::Ints(edges))])?;

    // [C, O / g, k…] → [g, C / g, O / g, k…] → [g, O / g, C / g, k…] → [O, C / g, k…], mirrored.
    let shape = ctx.types[1].shape.0.clone();
    let groups = Dim::Const(form.groups);
    let each = shape[0].floor_div(&groups).ok_or_else(OpError::overflow)?;
    let kernel = &shape[2..];
    let of = |lead: &[&Dim]| Shape(lead.iter().copied().chain(kernel).cloned().collect());
    let axes: Vec<i64> = (0..n as i64).collect();
    let perm = [0, 2, 1].into_iter().chain(axes.iter().map(|a| a + 3)).collect();
    let weight = b.reshape(ctx.operands[1], &of(&[&groups, &each, &shape[1]]))?;
    let weight = b.op("transpose", &[weight], &[("perm", Attr::Ints(perm))])?;
    let weight = b.reshape(weight, &of(&[&ctx.results[0].shape.0[1], &each]))?;
    let mirrored = Attr::Ints(axes.iter().map(|a| a + 2).collect());
    let weight = b.op("flip", &[weight], &[("axis", mirrored)])?;

    let dilation = form.dilation.iter().map(|d| *d as i64).collect();
    let attrs = [("groups", Attr::Int(form.groups)), ("dilation", Attr::Ints(dilation))];
    let operands: Vec<Value> = [x, weight].into_iter().chain(ctx.operand("bias")).collect();
    Ok(vec![b.op(conv, &operands, &attrs)?])
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let types: Vec<TensorType> = ctx.operands.iter().map(Tensor::ty).collect();
    let form = Form::of(&OpCtx { op: ctx.op, types: &types, regions: &[] })?;
    let (x, weight) = (&ctx.operands[0], &ctx.operands[1]);
    let shape = ctx.result_shape(0);
    // Seen from the result this is a convolution from the result to x.
    let spec = WindowSpec {
        kind: WindowKind::Conv { groups: form.groups as usize },
        pad: form.pad.iter().map(|p| (*p, *p)).collect(),
        kernel: form.kernel,
        stride: form.stride,
        dilation: form.dilation,
    };
    let window = Window3::new(&spec, &shape, x.shape());
    let groups = form.groups as usize;
    let (channels, per_group) = (x.shape()[1], weight.shape()[1]);
    let (dtype, wide_x, wide_w) = (x.dtype(), widen(x), widen(weight));
    let bias = ctx.operand("bias").map(widen);
    let y = with_number!(dtype, T => {
        let (x, w) = (wide_x.as_slice::<T>(), wide_w.as_slice::<T>());
        let bias = bias.as_ref().map(|b| b.as_slice::<T>());
        let (image, taps) = (volume(&window.output), volume(&window.kernel));
        let mut y = vec![T::default(); volume(&shape)];
        for (i, sums) in y.chunks_mut(volume(&window.input).max(1)).enumerate() {
            let (n, o) = (i / shape[1], i % shape[1]);
            let (group, within) = (o / per_group, o % per_group);
            for c in group * (channels / groups)..(group + 1) * (channels / groups) {
                let x = &x[(n * channels + c) * image..][..image];
                let w = &w[(c * per_group + within) * taps..][..taps];
                add_channel(&window, sums, x, w);
            }
            if let Some(bias) = bias {
                sums.iter_mut().for_each(|s| *s = s.plus(bias[o]));
            }
        }
        Tensor::from_slice(&shape, &y)
    });
    Ok(vec![convert(&y, dtype)])
}

/// Adds what one channel of x spreads over a plane of the result.
fn add_channel<T: Number>(window: &Window3, sums: &mut [T], x: &[T], w: &[T]) {
    let [_, k1s, k2s] = window.kernel;
    for (tap, w) in w.iter().enumerate() {
        let k = [tap / (k1s * k2s), tap / k2s % k1s, tap % k2s];
        for i0 in window.results(0, k[0]) {
            for i1 in window.results(1, k[1]) {
                let row = window.at(0, i0, k[0]) * window.input[1] + window.at(1, i1, k[1]);
                let from = (i0 * window.output[1] + i1) * window.output[2];
                for i2 in window.results(2, k[2]) {
                    let to = row * window.input[2] + window.at(2, i2, k[2]);
                    sums[to] = sums[to].plus(x[from + i2].times(*w));
                }
            }
        }
    }
}

fn samples(axes: usize) -> Vec<Sample> {
    let shape = |n: usize, c: usize, spatial: &[usize]| [&[n, c], &spatial[3 - axes..]].concat();
    let few = |name: &'static str, v: [i64; 3]| (name, Attr::Ints(v[3 - axes..].to_vec()));
    let all = |name: &'static str, v: i64| (name, Attr::Int(v));
    let x = f32s(&shape(2, 4, &[2, 5, 3]), 1);
    let plain = f32s(&shape(4, 3, &[2, 3, 2]), 2);
    let bare = |w: &Tensor, attrs: &[(&'static str, Attr)]| {
        sample_of(vec![Some(x.clone()), Some(w.clone()), None], attrs)
    };
    let mut samples = vec![
        sample([x.clone(), plain.clone(), f32s(&[3], 3)], &[]),
        bare(&plain, &[all("stride", 2), all("pad", 1), all("output_padding", 1)]),
        bare(&plain, &[few("stride", [1, 2, 3]), few("dilation", [2, 1, 2])]),
        bare(&plain, &[all("groups", 2)]),
        bare(&f32s(&shape(4, 1, &[2, 2, 2]), 4), &[all("groups", 4), all("stride", 2)]),
        sample_of(vec![Some(f32s(&shape(0, 4, &[2, 5, 3]), 1)), Some(plain), None], &[]),
    ];
    for dtype in [DType::F64, DType::BF16, DType::I32] {
        let x = data(dtype, &shape(1, 2, &[2, 3, 4]), 5);
        let w = data(dtype, &shape(2, 2, &[2, 2, 3]), 6);
        samples.push(sample_of(vec![Some(x), Some(w), None], &[all("stride", 2)]));
    }
    samples
}
