//! Sliding windows: convolutions and pools over `[N, C, spatial…]`.
//!
//! The rows share one geometry: stride, dilation and padding by axis, `out = ⌊(in + pad − d·(k−1) − 1)
//! / stride⌋ + 1`. A convolution with a bias is the bare one and an addition.

use super::common::{attr, operand, optional};
use super::window_eval::{avg_pool, conv, max_pool};
use super::window_samples::*;
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};

const PAD_WORDS: &[&str] = &["same", "same_upper"];
const STRIDE: AttrSpec =
    attr("stride", AttrKind::Ints, Preset::Int(1), "steps of the window, by axis");
pub(super) const PAD: AttrSpec = attr(
    "pad",
    AttrKind::IntsOr(PAD_WORDS),
    Preset::Int(0),
    "elements of padding: one number, one for each spatial axis, or all before and then all after. \
     `same`: d·(k−1) in all, the odd one after. `same_upper`: just enough for ⌈in / stride⌉ results, \
     the odd one after (TensorFlow's SAME)",
);
const DILATION: AttrSpec =
    attr("dilation", AttrKind::Ints, Preset::Int(1), "distance between elements of the window");
const GROUPS: AttrSpec =
    attr("groups", AttrKind::Int, Preset::Int(1), "channels fall into this many groups");
const KERNEL: AttrSpec =
    attr("kernel", AttrKind::Ints, Preset::Required, "extents of the window, by axis");
const POOL_STRIDE: AttrSpec =
    attr("stride", AttrKind::Ints, Preset::None, "steps of the window; absent: `kernel`");
const CEIL: AttrSpec = attr(
    "ceil_mode",
    AttrKind::Bool,
    Preset::Bool(false),
    "round the result's extent up: a last window may reach beyond the padding, but not start there",
);

macro_rules! conv_row {
    ($name:literal, $axes:literal, $x:literal, $weight:literal) => {
        OpRow {
            name: $name,
            doc: "The cross-correlation of `x` with `weight`, zero outside of `x`, and `bias` added \
                  to each channel.",
            operands: &[operand("x", $x), operand("weight", $weight), optional("bias", "[O]")],
            attrs: &[STRIDE, PAD, DILATION, GROUPS],
            results: &["y"],
            infer: |ctx| infer_conv(ctx, $axes),
            eval: eval_conv,
            class: class_conv,
            expand: Some(expand_conv),
            gradient: Gradient::Unwritten,
            tolerance: Tolerance::SUM,
            samples: || conv_samples($axes),
        }
    };
}

pub static ROWS: &[OpRow] = &[
    conv_row!("conv1d", 1, "[N, C, L]", "[O, C / groups, k]"),
    conv_row!("conv2d", 2, "[N, C, H, W]", "[O, C / groups, kh, kw]"),
    conv_row!("conv3d", 3, "[N, C, D, H, W]", "[O, C / groups, kd, kh, kw]"),
    OpRow {
        name: "max_pool",
        doc: "The greatest element of each window, and where it is in the flattened spatial axes of \
              `x` (the first of equals; the first NaN). Padding never wins; a window without any \
              element of `x` gives the least number and index 0.",
        operands: &[operand("x", "[N, C, spatial…]")],
        attrs: &[KERNEL, POOL_STRIDE, PAD, DILATION, CEIL],
        results: &["y", "index"],
        infer: infer_max_pool,
        eval: |ctx| Ok(max_pool(&window_of(ctx), &ctx.operands[0], &ctx.result_shape(0))),
        class: |ctx| class_pool(ctx, WindowKind::MaxPool),
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::EXACT,
        samples: max_pool_samples,
    },
    OpRow {
        name: "avg_pool",
        doc: "The mean of each window.",
        operands: &[operand("x", "[N, C, spatial…]")],
        attrs: &[
            KERNEL,
            POOL_STRIDE,
            PAD,
            CEIL,
            attr(
                "count_include_pad",
                AttrKind::Bool,
                Preset::Bool(true),
                "divide by the number of elements inside `x` and its padding, without what \
                 `ceil_mode` adds; else by the number of those inside `x`",
            ),
        ],
        results: &["y"],
        infer: infer_avg_pool,
        eval: eval_avg_pool,
        class: |ctx| match counts_some(ctx.op) {
            true => Class::Composite,
            false => class_pool(ctx, avg_kind(ctx.op)),
        },
        expand: Some(expand_avg_pool),
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::SUM,
        samples: avg_pool_samples,
    },
    OpRow {
        name: "global_avg_pool",
        doc: "The mean over all spatial axes, which stay with extent 1.",
        operands: &[operand("x", "[N, C, spatial…]")],
        attrs: &[],
        results: &["y"],
        infer: |ctx| infer_global(ctx, ctx.same_float(&["x"])?),
        eval: |ctx| Ok(vec![eval_global(ctx, WindowKind::AvgPool { include_pad: true })]),
        class: |_| Class::Composite,
        expand: Some(|b, ctx| expand_global(b, ctx, "mean")),
        gradient: Gradient::Expansion,
        tolerance: Tolerance::SUM,
        samples: global_samples,
    },
    OpRow {
        name: "global_max_pool",
        doc: "The greatest element over all spatial axes, which stay with extent 1.",
        operands: &[operand("x", "[N, C, spatial…]")],
        attrs: &[],
        results: &["y"],
        infer: |ctx| infer_global(ctx, ctx.same_number(&["x"])?),
        eval: |ctx| Ok(vec![eval_global(ctx, WindowKind::MaxPool)]),
        class: |_| Class::Composite,
        expand: Some(|b, ctx| expand_global(b, ctx, "amax")),
        gradient: Gradient::Expansion,
        tolerance: Tolerance::EXACT,
        samples: global_samples,
    },
];

/// No extent, step or padding of a window may be larger: their products stay within 64 bits.
pub(super) const BY_AXIS_LIMIT: i64 = 1 << 30;

/// A window's shape in place, and the spatial extents of its result.
pub(super) struct Geometry {
    pub spec: WindowSpec,
    pub out: Vec<Dim>,
}

/// The geometry of a row's attributes for these spatial extents.
pub(super) fn geometry(
    ctx: &OpCtx,
    kind: WindowKind,
    spatial: &[Dim],
    kernel: Vec<usize>,
) -> Result<Geometry, OpError> {
    let n = spatial.len();
    let has = |name: &str| ctx.op.row.attr_index(name).is_some();
    let stride = match ctx.op.attr("stride") {
        Attr::None => kernel.clone(),
        _ => by_axis(ctx, "stride", n, 1)?,
    };
    let dilation = if has("dilation") { by_axis(ctx, "dilation", n, 1)? } else { vec![1; n] };
    let ceil = has("ceil_mode") && ctx.op.bool("ceil_mode");
    let mut pad = pads(ctx, spatial, &kernel, &stride, &dilation)?;
    let mut out = Vec::with_capacity(n);
    for i in 0..n {
        let reach = (dilation[i] * (kernel[i] - 1) + 1) as i64;
        if ceil {
            pad[i].1 += beyond(ctx, &spatial[i], pad[i], reach, stride[i] as i64)?;
        }
        let padded =
            spatial[i].add(&Dim::from(pad[i].0 + pad[i].1)).ok_or_else(OpError::overflow)?;
        if padded.as_const().is_some_and(|p| p < reach) {
            let message = format!(
                "the window reaches over {reach} elements of spatial axis {i}, which has {} and {} \
                 of padding",
                spatial[i],
                pad[i].0 + pad[i].1
            );
            return Err(ctx.clash(message).help("a smaller kernel or dilation, or more padding"));
        }
        let steps = padded.sub(&Dim::Const(reach)).and_then(|d| d.floor_div(&Dim::from(stride[i])));
        out.push(steps.and_then(|d| d.add(&Dim::ONE)).ok_or_else(OpError::overflow)?);
    }
    Ok(Geometry { spec: WindowSpec { kind, kernel, stride, dilation, pad }, out })
}

/// An attribute with one number for each spatial axis, or one for all.
pub(super) fn by_axis(
    ctx: &OpCtx,
    name: &str,
    n: usize,
    least: i64,
) -> Result<Vec<usize>, OpError> {
    let given = ctx.op.ints(name);
    if let Some(v) = given.iter().find(|v| !(least..=BY_AXIS_LIMIT).contains(v)) {
        return Err(
            ctx.bad_attr(format!("`{name}` is {v}; it must lie in {least}..={BY_AXIS_LIMIT}"))
        );
    }
    let given: Vec<usize> = given.iter().map(|v| *v as usize).collect();
    match given.len() {
        1 => Ok(vec![given[0]; n]),
        len if len == n => Ok(given),
        len => {
            let message = format!("`{name}` has {len} numbers for {n} spatial axes");
            Err(ctx.bad_attr(message).help("give one number for all axes, or one for each"))
        }
    }
}

/// Padding before and after each axis, without what `ceil_mode` adds.
pub(super) fn pads(
    ctx: &OpCtx,
    spatial: &[Dim],
    kernel: &[usize],
    stride: &[usize],
    dilation: &[usize],
) -> Result<Vec<(usize, usize)>, OpError> {
    let n = spatial.len();
    let upper = match ctx.op.attr("pad") {
        Attr::Str(word) => word == "same_upper",
        _ if ctx.op.ints("pad").len() == 2 * n => {
            let both = by_axis(ctx, "pad", 2 * n, 0)?;
            return Ok((0..n).map(|i| (both[i], both[n + i])).collect());
        }
        _ => return Ok(by_axis(ctx, "pad", n, 0)?.into_iter().map(|p| (p, p)).collect()),
    };
    let total = |i: usize| -> Result<usize, OpError> {
        let reach = dilation[i] * (kernel[i] - 1) + 1;
        if !upper || stride[i] == 1 {
            return Ok(reach - 1);
        }
        let extent = known(ctx, &spatial[i], "`pad = same_upper` with a stride")? as usize;
        let results = extent.div_ceil(stride[i]);
        Ok((results.saturating_sub(1) * stride[i] + reach).saturating_sub(extent))
    };
    (0..n).map(|i| total(i).map(|t| (t / 2, t - t / 2))).collect()
}

/// What `ceil_mode` adds to the padding after an axis.
fn beyond(
    ctx: &OpCtx,
    extent: &Dim,
    (lo, hi): (usize, usize),
    reach: i64,
    stride: i64,
) -> Result<usize, OpError> {
    if stride == 1 {
        return Ok(0);
    }
    let (lo, hi) = (lo as i64, hi as i64);
    let extent = known(ctx, extent, "`ceil_mode` with a stride")?;
    let mut last = (extent + lo + hi - reach + stride - 1).div_euclid(stride) * stride;
    if last >= extent + lo {
        last -= stride;
    }
    Ok((last + reach - extent - lo - hi).max(0) as usize)
}

fn known(ctx: &OpCtx, extent: &Dim, who: &str) -> Result<i64, OpError> {
    match extent.as_const() {
        Some(v) if (0..=BY_AXIS_LIMIT).contains(&v) => Ok(v),
        Some(v) => Err(ctx.clash(format!("an extent of {v} is beyond {BY_AXIS_LIMIT}"))),
        None => Err(ctx
            .clash(format!("{who} needs to know the extent `{extent}`"))
            .help("fix the dimension with `--set`, or give `pad` in numbers")),
    }
}

fn infer_conv(ctx: &OpCtx, axes: usize) -> Result<Vec<TensorType>, OpError> {
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
    let groups = ctx.op.int("groups");
    if !(1..=BY_AXIS_LIMIT).contains(&groups) {
        return Err(
            ctx.bad_attr(format!("`groups` is {groups}; it must lie in 1..={BY_AXIS_LIMIT}"))
        );
    }
    let groups = Dim::Const(groups);
    if weight[1].mul(&groups).ok_or_else(OpError::overflow)? != x[1] {
        let message = format!(
            "`x` has {} channels, `weight` takes {} in each of {groups} group(s)",
            x[1], weight[1]
        );
        return Err(ctx.clash(message).help("`weight` is [O, C / groups, kernel…]"));
    }
    if weight[0].modulo(&groups) != Some(Dim::Const(0)) {
        return Err(
            ctx.clash(format!("{} output channels do not fall into {groups} groups", weight[0]))
        );
    }
    ctx.expect_shape("bias", &weight[..1])?;
    let g = conv_geometry(ctx)?;
    let dims = [x[0].clone(), weight[0].clone()].into_iter().chain(g.out).collect();
    Ok(vec![TensorType::new(dtype, Shape(dims))])
}

fn conv_geometry(ctx: &OpCtx) -> Result<Geometry, OpError> {
    let extent = |d: &Dim| {
        let known = d.as_extent().filter(|k| (1..=BY_AXIS_LIMIT as usize).contains(k));
        known.ok_or_else(|| ctx.clash(format!("a kernel extent must be a number from 1, not {d}")))
    };
    let kernel = ctx.types[1].shape.0[2..].iter().map(extent).collect::<Result<_, _>>()?;
    let kind = WindowKind::Conv { groups: ctx.op.int("groups") as usize };
    geometry(ctx, kind, &ctx.types[0].shape.0[2..], kernel)
}

fn class_conv(ctx: &OpCtx) -> Class {
    match (ctx.operand("bias"), conv_geometry(ctx)) {
        (None, Ok(g)) => Class::Window(g.spec),
        _ => Class::Composite,
    }
}

fn expand_conv(b: &mut Builder, ctx: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let bare = Op { present: 0b11, ..ctx.op.clone() };
    let node = b.push(bare, ctx.operands[..2].to_vec(), vec![])?;
    let y = Value { node, result: 0 };
    let Some(bias) = ctx.operand("bias") else { return Ok(vec![y]) };
    let channels = b.ty(bias).shape.0.clone();
    let spatial = b.ty(y).rank() - 2;
    let column = Shape(channels.into_iter().chain(vec![Dim::ONE; spatial]).collect());
    let bias = b.reshape(bias, &column)?;
    Ok(vec![b.bin("add", y, bias)?])
}

fn eval_conv(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let types: Vec<TensorType> = ctx.operands.iter().map(Tensor::ty).collect();
    let g = conv_geometry(&OpCtx { op: ctx.op, types: &types, regions: &[] })?;
    let [x, weight] = [&ctx.operands[0], &ctx.operands[1]];
    Ok(vec![conv(&g.spec, x, weight, ctx.operand("bias"), &ctx.result_shape(0))])
}

fn pool_geometry(ctx: &OpCtx, kind: WindowKind) -> Result<Geometry, OpError> {
    let x = &ctx.need("x")?.shape.0;
    if !(3..=5).contains(&x.len()) {
        return Err(ctx.clash("`x` must be [N, C, spatial…] with one to three spatial axes"));
    }
    let kernel = by_axis(ctx, "kernel", x.len() - 2, 1)?;
    let g = geometry(ctx, kind, &x[2..], kernel)?;
    for (i, (lo, _)) in g.spec.pad.iter().enumerate() {
        let reach = g.spec.dilation[i] * (g.spec.kernel[i] - 1) + 1;
        if *lo > reach / 2 {
            let message = format!("`pad` is {lo} before a window that reaches over {reach}");
            return Err(ctx.bad_attr(message).help("padding may be half the window at most"));
        }
    }
    Ok(g)
}

fn pooled(ctx: &OpCtx, dtype: DType, g: Geometry) -> TensorType {
    let lead = ctx.types[0].shape.0[..2].iter().cloned();
    TensorType::new(dtype, Shape(lead.chain(g.out).collect()))
}

fn infer_max_pool(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let dtype = ctx.same_number(&["x"])?;
    let y = pooled(ctx, dtype, pool_geometry(ctx, WindowKind::MaxPool)?);
    let index = TensorType::new(DType::I64, y.shape.clone());
    Ok(vec![y, index])
}

fn infer_avg_pool(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let dtype = ctx.same_float(&["x"])?;
    Ok(vec![pooled(ctx, dtype, pool_geometry(ctx, avg_kind(ctx.op))?)])
}

/// Whether padding counts but what `ceil_mode` adds beyond it does not: three kinds of places.
fn counts_some(op: &Op) -> bool {
    let unpadded = matches!(op.attr("pad"), Attr::Int(0));
    op.bool("ceil_mode") && op.bool("count_include_pad") && !unpadded
}

/// The geometry, and the extents of the spatial axes with their padding.
fn padded(ctx: &OpCtx) -> Result<(Geometry, Vec<(usize, usize)>), OpError> {
    let g = pool_geometry(ctx, WindowKind::AvgPool { include_pad: false })?;
    let spatial = &ctx.types[0].shape.0[2..];
    let pads = pads(ctx, spatial, &g.spec.kernel, &g.spec.stride, &g.spec.dilation)?;
    Ok((g, pads))
}

fn eval_avg_pool(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let (x, shape) = (&ctx.operands[0], ctx.result_shape(0));
    if !counts_some(ctx.op) {
        return Ok(vec![avg_pool(&window_of(ctx), x, &shape, None)]);
    }
    let (g, pads) = padded(&OpCtx { op: ctx.op, types: &[x.ty()], regions: &[] })?;
    let extents: Vec<usize> =
        x.shape()[2..].iter().zip(pads).map(|(n, (lo, hi))| n + lo + hi).collect();
    Ok(vec![avg_pool(&g.spec, x, &shape, Some(&extents))])
}

/// Where some places count: zeros around `x`, of which all count, and the windows that begin in
/// the padding behind cut off again.
fn expand_avg_pool(b: &mut Builder, ctx: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let (g, pads) = padded(&OpCtx { op: ctx.op, types: ctx.types, regions: &[] })?;
    let zero = b.scalar(ctx.types[0].dtype, 0.0);
    let widths = pads.iter().flat_map(|(lo, hi)| [*lo as i64, *hi as i64]);
    let widths = [0; 4].into_iter().chain(widths).collect();
    let x = b.op("pad_with", &[ctx.operands[0], zero], &[("pad", Attr::Ints(widths))])?;
    let ints = |v: &[usize]| Attr::Ints(v.iter().map(|n| *n as i64).collect());
    let attrs = [
        ("kernel", ints(&g.spec.kernel)),
        ("stride", ints(&g.spec.stride)),
        ("ceil_mode", Attr::Bool(true)),
        ("count_include_pad", Attr::Bool(false)),
    ];
    let mut y = b.op("avg_pool", &[x], &attrs)?;
    for (axis, wanted) in g.out.iter().enumerate() {
        let axis = axis + 2;
        if let (true, Some(end)) = (b.ty(y).shape.0[axis] != *wanted, wanted.as_const()) {
            let attrs = [
                ("starts", Attr::Ints(vec![0])),
                ("ends", Attr::Ints(vec![end])),
                ("axes", Attr::Ints(vec![axis as i64])),
            ];
            y = b.op("slice", &[y], &attrs)?;
        }
    }
    Ok(vec![y])
}

/// Without padding in the attribute, all that is outside lies beyond the last window's end
/// (`ceil_mode`) and never counts.
fn avg_kind(op: &Op) -> WindowKind {
    let unpadded = matches!(op.attr("pad"), Attr::Int(0));
    WindowKind::AvgPool { include_pad: op.bool("count_include_pad") && !unpadded }
}

fn class_pool(ctx: &OpCtx, kind: WindowKind) -> Class {
    match pool_geometry(ctx, kind) {
        Ok(g) => Class::Window(g.spec),
        // Inference refused it; nothing looks at this.
        Err(_) => Class::Composite,
    }
}

fn window_of(ctx: &EvalCtx) -> WindowSpec {
    match ctx.class() {
        Class::Window(spec) => spec,
        other => unreachable!("a pool that passed inference is a window: {other:?}"),
    }
}

fn infer_global(ctx: &OpCtx, dtype: DType) -> Result<Vec<TensorType>, OpError> {
    let x = &ctx.need("x")?.shape.0;
    if x.len() < 3 {
        return Err(ctx.clash("`x` must be [N, C, spatial…] with a spatial axis at least"));
    }
    if x[2..].contains(&Dim::Const(0)) {
        return Err(ctx.clash("a spatial axis without elements"));
    }
    let ones = vec![Dim::ONE; x.len() - 2];
    Ok(vec![TensorType::new(dtype, Shape(x[..2].iter().cloned().chain(ones).collect()))])
}

fn expand_global(b: &mut Builder, ctx: &ExpandCtx, reduce: &str) -> Result<Vec<Value>, OpError> {
    let axes = (2..ctx.types[0].rank() as i64).collect();
    let attrs = [("axis", Attr::Ints(axes)), ("keepdims", Attr::Bool(true))];
    Ok(vec![b.op(reduce, &ctx.operands[..1], &attrs)?])
}

/// One window over all spatial axes taken as one.
fn eval_global(ctx: &EvalCtx, kind: WindowKind) -> Tensor {
    let x = &ctx.operands[0];
    let (lead, spatial) = x.shape().split_at(2);
    let all: usize = spatial.iter().product();
    let flat = x.reshaped(&[lead[0], lead[1], all]).expect("the same number of elements");
    let spec = WindowSpec {
        kind,
        kernel: vec![all],
        stride: vec![1],
        dilation: vec![1],
        pad: vec![(0, 0)],
    };
    let shape = [lead[0], lead[1], 1];
    let y = match kind {
        WindowKind::AvgPool { .. } => avg_pool(&spec, &flat, &shape, None),
        WindowKind::MaxPool | WindowKind::Conv { .. } | WindowKind::Winograd { .. } => {
            max_pool(&spec, &flat, &shape).remove(0)
        }
    };
    let ones = vec![1; spatial.len()];
    y.reshaped(&[lead, &ones].concat()).expect("the same number of elements")
}
