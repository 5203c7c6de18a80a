//! Ops that read or write at indices known at run time.
//!
//! Reading clamps an index into range; writing skips an index that is out of range. `embedding`,
//! `gather` and `one_hot` are composites over `take` and comparisons.

use super::check::{data, f32s, sample};
use super::common::{attr, dtype_or, operand};
use super::index_eval::{gather, index_at, scatter, take, update_slice};
use super::sample::ints;
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar::Combine;
use crate::ir::scalar_eval::convert;

const AXIS: AttrSpec = attr("axis", AttrKind::Int, Preset::Int(0), "the axis that indices count");
const REDUCE: AttrSpec = attr(
    "reduce",
    AttrKind::Word(&["none", "sum", "prod", "max", "min"]),
    Preset::Str("none"),
    "how an update meets what is there; none: it replaces it, and the last one wins",
);
const WRITTEN: &[OperandSpec] = &[
    operand("x", "any"),
    operand("index", "integers: no longer than `x` except along `axis`"),
    operand("updates", "the shape of `index`"),
];

pub static ROWS: &[OpRow] = &[
    OpRow {
        name: "take",
        doc: "Whole slices of `x` by their indices along an axis: the axis is replaced by the axes \
              of `indices`. Indices out of range are clamped.",
        operands: &[operand("x", "[lead…, n, rest…]"), operand("indices", "integers, any shape")],
        attrs: &[AXIS],
        results: &["y"],
        infer: infer_take,
        eval: |ctx| Ok(vec![take(&ctx.operands[0], &ctx.operands[1], axis_of(ctx))]),
        class: |ctx| Class::Gather { axis: plain_axis(ctx) },
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::EXACT,
        samples: take_samples,
    },
    OpRow {
        name: "embedding",
        doc: "The row of `weight` for each id. Ids out of range are clamped.",
        operands: &[operand("ids", "integers, any shape"), operand("weight", "[rows, dim]")],
        attrs: &[],
        results: &["y"],
        infer: infer_embedding,
        eval: |ctx| Ok(vec![take(&ctx.operands[1], &ctx.operands[0], 0)]),
        class: |_| Class::Composite,
        expand: Some(|b, ctx| Ok(vec![b.bin("take", ctx.operands[1], ctx.operands[0])?])),
        gradient: Gradient::Expansion,
        tolerance: Tolerance::EXACT,
        samples: embedding_samples,
    },
    OpRow {
        name: "gather",
        doc: "One element of `x` for each element of `index`: `y[p] = x[p with p[axis] = index[p]]`. \
              Indices out of range are clamped.",
        operands: &[
            operand("x", "any"),
            operand("index", "integers: no longer than `x` except along `axis`"),
        ],
        attrs: &[AXIS],
        results: &["y"],
        infer: infer_gather,
        eval: |ctx| Ok(vec![gather(&ctx.operands[0], &ctx.operands[1], axis_of(ctx))]),
        class: |_| Class::Composite,
        expand: Some(expand_gather),
        gradient: Gradient::Expansion,
        tolerance: Tolerance::EXACT,
        samples: gather_samples,
    },
    OpRow {
        name: "scatter",
        doc: "`x` with `y[p with p[axis] = index[p]]` replaced by, or combined with, `updates[p]`, \
              in row-major order of p. Indices out of range are skipped.",
        operands: WRITTEN,
        attrs: &[AXIS, REDUCE],
        results: &["y"],
        infer: |ctx| infer_scatter(ctx, reduction(ctx.op)),
        eval: |ctx| Ok(vec![eval_scatter(ctx)]),
        class: |ctx| class_scatter(ctx, reduction(ctx.op)),
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::SUM,
        samples: scatter_samples,
    },
    OpRow {
        name: "scatter_add",
        doc: "`scatter` with `reduce = sum`.",
        operands: WRITTEN,
        attrs: &[AXIS],
        results: &["y"],
        infer: |ctx| infer_scatter(ctx, Some(Combine::Sum)),
        eval: |ctx| Ok(vec![eval_scatter(ctx)]),
        class: |ctx| class_scatter(ctx, Some(Combine::Sum)),
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::SUM,
        samples: || scatter_cases(&[]),
    },
    OpRow {
        name: "update_slice",
        doc: "`x` with a part along an axis replaced by `update`, from index `at` on, which is \
              clamped so that the part fits. May be done in place.",
        operands: &[
            operand("x", "any"),
            operand("update", "the shape of `x`, no longer along `axis`"),
            operand("at", "[], an integer"),
        ],
        attrs: &[AXIS],
        results: &["y"],
        infer: infer_update,
        eval: |ctx| {
            let [x, update, at] = [0, 1, 2].map(|i| &ctx.operands[i]);
            Ok(vec![update_slice(x, update, at, axis_of(ctx))])
        },
        class: |ctx| Class::UpdateSlice { axis: plain_axis(ctx) },
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::EXACT,
        samples: update_samples,
    },
    OpRow {
        name: "one_hot",
        doc: "1 at the place that each id names along a new last axis, 0 elsewhere; an id out of \
              range has no 1.",
        operands: &[operand("ids", "integers, any shape")],
        attrs: &[
            attr("num_classes", AttrKind::Int, Preset::Required, "extent of the new axis"),
            attr("dtype", AttrKind::DType, Preset::None, "of the result; absent: i64"),
        ],
        results: &["y"],
        infer: infer_one_hot,
        eval: eval_one_hot,
        class: |_| Class::Composite,
        expand: Some(expand_one_hot),
        gradient: Gradient::Zero("a function of integers"),
        tolerance: Tolerance::EXACT,
        samples: one_hot_samples,
    },
];

fn plain_axis(ctx: &OpCtx) -> usize {
    common::axis(ctx.op, ctx.op.int("axis"), ctx.types[0].rank()).unwrap_or(0)
}

fn axis_of(ctx: &EvalCtx) -> usize {
    let axis = common::axis(ctx.op, ctx.op.int("axis"), ctx.operands[0].rank());
    axis.expect("inference has checked the axis")
}

/// Nothing can be read along an axis without elements.
fn expect_source(ctx: &OpCtx, extent: &Dim, indices: &TensorType) -> Result<(), OpError> {
    if *extent == Dim::Const(0) && indices.shape.numel() != Some(Dim::Const(0)) {
        return Err(ctx.clash("there is nothing to read along an axis without elements"));
    }
    Ok(())
}

fn infer_take(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let (x, indices) = (ctx.need("x")?, ctx.integer("indices")?);
    let axis = ctx.axis(x.rank())?;
    expect_source(ctx, &x.shape.0[axis], indices)?;
    let dims = [&x.shape.0[..axis], &indices.shape.0, &x.shape.0[axis + 1..]].concat();
    Ok(vec![TensorType::new(x.dtype, Shape(dims))])
}

fn infer_embedding(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let (ids, weight) = (ctx.integer("ids")?, ctx.need("weight")?);
    let [rows, dim] = weight.shape.0.as_slice() else {
        return Err(ctx.clash("`weight` must be [rows, dim]"));
    };
    expect_source(ctx, rows, ids)?;
    let dims = ids.shape.0.iter().chain([dim]).cloned().collect();
    Ok(vec![TensorType::new(weight.dtype, Shape(dims))])
}

/// `index` has the rank of `x` and fits into it, except along the axis.
fn expect_inside(ctx: &OpCtx) -> Result<usize, OpError> {
    let (x, index) = (ctx.need("x")?, ctx.integer("index")?);
    let axis = ctx.axis(x.rank())?;
    if index.rank() != x.rank() {
        return Err(ctx.clash("`index` must have as many axes as `x`"));
    }
    for (i, (have, want)) in x.shape.0.iter().zip(&index.shape.0).enumerate() {
        let fits = have == want
            || have.as_const().zip(want.as_const()).is_some_and(|(have, want)| want <= have);
        if i != axis && !fits {
            return Err(ctx.clash(format!("`index` does not fit into `x` along axis {i}")));
        }
    }
    Ok(axis)
}

fn infer_gather(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let axis = expect_inside(ctx)?;
    let (x, index) = (&ctx.types[0], &ctx.types[1]);
    expect_source(ctx, &x.shape.0[axis], index)?;
    Ok(vec![TensorType::new(x.dtype, index.shape.clone())])
}

/// `take` from the flattened operand: the place is Σ coordinate · stride.
fn expand_gather(b: &mut Builder, ctx: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let (x, index) = (ctx.operands[0], ctx.operands[1]);
    let (dims, shape) = (ctx.types[0].shape.0.clone(), ctx.types[1].shape.clone());
    if shape.numel() == Some(Dim::Const(0)) {
        let zero = b.scalar(ctx.types[0].dtype, 0.0);
        return Ok(vec![b.broadcast_to(zero, &shape)?]);
    }
    let axis = common::axis(ctx.op, ctx.op.int("axis"), dims.len())?;
    // A u64 beyond i64 would come out negative.
    let index = match ctx.types[1].dtype {
        DType::U64 => b.bin_const("minimum", index, (1u64 << 62) as f64)?,
        _ => index,
    };
    let index = b.cast(index, DType::I64)?;
    let extent = b.count(&Shape(vec![dims[axis].clone()]), DType::I64)?;
    let last = b.bin_const("sub", extent, 1.0)?;
    let index = b.bin("minimum", index, last)?;
    let index = b.bin_const("maximum", index, 0.0)?;
    let stride = |b: &mut Builder, i: usize| b.count(&Shape(dims[i + 1..].to_vec()), DType::I64);
    let step = stride(b, axis)?;
    let mut place = b.bin("mul", index, step)?;
    for i in (0..dims.len()).filter(|i| *i != axis && dims[*i] != Dim::ONE) {
        let mut line = vec![Dim::ONE; dims.len()];
        line[i] = shape.0[i].clone();
        let coordinate = b.iota(line, i, DType::I64)?;
        let step = stride(b, i)?;
        let part = b.bin("mul", coordinate, step)?;
        place = b.bin("add", place, part)?;
    }
    let total = ctx.types[0].shape.numel().ok_or_else(OpError::overflow)?;
    let flat = b.reshape(x, &Shape(vec![total]))?;
    Ok(vec![b.bin("take", flat, place)?])
}

fn reduction(op: &Op) -> Option<Combine> {
    match op.str("reduce") {
        "sum" => Some(Combine::Sum),
        "prod" => Some(Combine::Prod),
        "max" => Some(Combine::Max),
        "min" => Some(Combine::Min),
        _ => None,
    }
}

fn infer_scatter(ctx: &OpCtx, combine: Option<Combine>) -> Result<Vec<TensorType>, OpError> {
    match combine {
        Some(_) => ctx.same_number(&["x", "updates"])?,
        None => ctx.same_dtype(&["x", "updates"])?,
    };
    expect_inside(ctx)?;
    ctx.need("updates")?;
    ctx.expect_shape("updates", &ctx.types[1].shape.0)?;
    Ok(vec![ctx.types[0].clone()])
}

fn class_scatter(ctx: &OpCtx, combine: Option<Combine>) -> Class {
    Class::Scatter(ScatterSpec { axis: plain_axis(ctx), combine })
}

fn eval_scatter(ctx: &EvalCtx) -> Tensor {
    let Class::Scatter(spec) = ctx.class() else { unreachable!("these rows are scatters") };
    let [x, index, updates] = [0, 1, 2].map(|i| &ctx.operands[i]);
    scatter(&spec, x, index, updates)
}

fn infer_update(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    ctx.same_dtype(&["x", "update"])?;
    let (x, update) = (ctx.need("x")?, ctx.need("update")?);
    let axis = ctx.axis(x.rank())?;
    if ctx.integer("at")?.rank() != 0 {
        return Err(ctx.clash("`at` must be a scalar"));
    }
    if update.rank() != x.rank() {
        return Err(ctx.clash("`update` must have as many axes as `x`"));
    }
    for (i, (have, want)) in x.shape.0.iter().zip(&update.shape.0).enumerate() {
        let longer = have.as_const().zip(want.as_const()).is_some_and(|(have, want)| want > have);
        if longer || (i != axis && have != want) {
            return Err(ctx.clash(format!("`update` does not fit into `x` along axis {i}")));
        }
    }
    Ok(vec![x.clone()])
}

fn infer_one_hot(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let ids = ctx.integer("ids")?;
    let classes = ctx.op.int("num_classes");
    if classes < 0 {
        return Err(ctx.bad_attr(format!("`num_classes` is {classes}")));
    }
    let dims = ids.shape.0.iter().cloned().chain([Dim::Const(classes)]).collect();
    Ok(vec![TensorType::new(dtype_or(ctx.op, "dtype", DType::I64), Shape(dims))])
}

fn expand_one_hot(b: &mut Builder, ctx: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let ids = b.cast(ctx.operands[0], DType::I64)?;
    let column = Shape(ctx.types[0].shape.0.iter().cloned().chain([Dim::ONE]).collect());
    let ids = b.reshape(ids, &column)?;
    let places = b.iota(vec![Dim::Const(ctx.op.int("num_classes"))], 0, DType::I64)?;
    let hit = b.bin("eq", ids, places)?;
    Ok(vec![b.cast(hit, ctx.results[0].dtype)?])
}

fn eval_one_hot(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let (ids, classes) = (&ctx.operands[0], ctx.op.int("num_classes"));
    let hits: Vec<bool> = (0..ids.numel())
        .flat_map(|i| (0..classes).map(move |c| (i, c)))
        .map(|(i, c)| index_at(ids, i) == c)
        .collect();
    let hits = Tensor::from_bools(&ctx.result_shape(0), &hits);
    Ok(vec![convert(&hits, ctx.results[0].dtype)])
}

fn on_axis(axis: i64) -> [(&'static str, Attr); 1] {
    [("axis", Attr::Int(axis))]
}

fn take_samples() -> Vec<Sample> {
    let ids = |shape: &[usize], seed: u64| ints(DType::I64, shape, seed, -3, 9);
    let mut samples = vec![
        sample([f32s(&[2, 4, 5], 1), ids(&[2, 3], 2)], &on_axis(1)),
        sample([f32s(&[7, 3], 1), ints(DType::I32, &[5], 2, 0, 6)], &[]),
        sample([f32s(&[7, 3], 1), ids(&[], 2)], &on_axis(-1)),
        sample([f32s(&[7], 1), ids(&[2, 2], 3)], &[]),
        sample([f32s(&[7, 3], 1), ids(&[0], 2)], &[]),
        sample([f32s(&[7, 0], 1), ids(&[2], 2)], &[]),
        sample([f32s(&[0, 3], 1), ids(&[0], 2)], &[]),
        sample([f32s(&[5], 1), Tensor::from_slice(&[3], &[i64::MIN, i64::MAX, 2])], &[]),
        sample([f32s(&[5], 1), ints(DType::U8, &[4], 2, 0, 9)], &[]),
    ];
    for dtype in [DType::F64, DType::BF16, DType::I8, DType::Bool, DType::U64] {
        samples.push(sample([data(dtype, &[4, 3], 3), ids(&[3], 4)], &[]));
    }
    samples
}

fn embedding_samples() -> Vec<Sample> {
    vec![
        sample([ints(DType::I32, &[2, 3], 1, 0, 6), f32s(&[7, 5], 2)], &[]),
        sample([ints(DType::I64, &[4], 1, -2, 9), f32s(&[7, 1], 2)], &[]),
        sample([ints(DType::I64, &[], 1, 0, 6), data(DType::F16, &[7, 3], 2)], &[]),
        sample([ints(DType::U8, &[0], 1, 0, 6), data(DType::F64, &[7, 3], 2)], &[]),
    ]
}

fn gather_samples() -> Vec<Sample> {
    let ids = |dtype: DType, shape: &[usize], seed: u64| {
        ints(dtype, shape, seed, if dtype.is_signed_int() { -2 } else { 0 }, 6)
    };
    vec![
        sample([f32s(&[2, 4, 5], 1), ids(DType::I64, &[2, 1, 5], 2)], &on_axis(1)),
        sample([f32s(&[3, 4], 1), ids(DType::I32, &[6, 3], 2)], &on_axis(0)),
        sample([f32s(&[3, 4], 1), ids(DType::U8, &[2, 7], 2)], &on_axis(-1)),
        sample([f32s(&[5], 1), Tensor::from_slice(&[2], &[u64::MAX, 1])], &on_axis(0)),
        sample([f32s(&[3, 4], 1), ids(DType::I64, &[0, 4], 2)], &on_axis(0)),
        sample([data(DType::I8, &[3, 1, 2], 1), ids(DType::I64, &[3, 1, 4], 2)], &on_axis(2)),
    ]
}

fn scatter_samples() -> Vec<Sample> {
    let mut samples = scatter_cases(&[]);
    for word in ["sum", "prod", "max", "min"] {
        samples.extend(scatter_cases(&[("reduce", Attr::Str(word.into()))]));
    }
    let [x, y] = [data(DType::Bool, &[5], 1), data(DType::Bool, &[3], 2)];
    samples.push(sample([x, ints(DType::I64, &[3], 3, 0, 4), y], &[]));
    samples
}

fn scatter_cases(attrs: &[(&'static str, Attr)]) -> Vec<Sample> {
    let with = |axis: i64| [attrs, &on_axis(axis)].concat();
    let ids = |shape: &[usize]| ints(DType::I64, shape, 2, -1, 4);
    let nan = Tensor::from_slice(&[3], &[f32::NAN, 1.0, f32::INFINITY]);
    let mut samples = vec![
        sample([f32s(&[2, 4, 5], 1), ids(&[2, 2, 5]), f32s(&[2, 2, 5], 3)], &with(1)),
        sample([f32s(&[3, 4], 1), ids(&[6, 3]), f32s(&[6, 3], 3)], &with(0)),
        sample([f32s(&[3, 4], 1), ids(&[3, 0]), f32s(&[3, 0], 3)], &with(-1)),
        sample([f32s(&[3], 1), Tensor::from_slice(&[3], &[1i32, 2, 1]), nan], &with(0)),
    ];
    for dtype in [DType::F64, DType::BF16, DType::I32, DType::U8] {
        samples.push(sample([data(dtype, &[5], 1), ids(&[9]), data(dtype, &[9], 3)], &with(0)));
    }
    samples
}

fn update_samples() -> Vec<Sample> {
    let at = |v: i64| Tensor::from_slice(&[], &[v]);
    let case = |dtype: DType, x: &[usize], update: &[usize], at: Tensor, axis: i64| {
        sample([data(dtype, x, 1), data(dtype, update, 2), at], &on_axis(axis))
    };
    vec![
        case(DType::F32, &[2, 4, 5], &[2, 2, 5], at(1), 1),
        case(DType::F32, &[2, 4, 5], &[2, 2, 5], at(9), 1),
        case(DType::F32, &[2, 4, 5], &[2, 2, 5], at(-3), 1),
        case(DType::F32, &[6, 3], &[6, 3], at(2), 0),
        case(DType::F32, &[6, 3], &[0, 3], at(2), 0),
        case(DType::F32, &[6, 3], &[6, 1], Tensor::from_slice(&[], &[2i32]), -1),
        case(DType::BF16, &[5], &[2], at(3), 0),
        case(DType::Bool, &[5], &[2], at(3), 0),
        case(DType::I64, &[5], &[2], at(i64::MAX), 0),
    ]
}

fn one_hot_samples() -> Vec<Sample> {
    let classes = ("num_classes", Attr::Int(4));
    let to = |d: DType| [classes.clone(), ("dtype", Attr::DType(d))];
    vec![
        sample([ints(DType::I64, &[2, 3], 1, -1, 5)], std::slice::from_ref(&classes)),
        sample([ints(DType::I32, &[5], 1, 0, 3)], &to(DType::F32)),
        sample([ints(DType::U8, &[], 1, 0, 3)], &to(DType::Bool)),
        sample([Tensor::from_slice(&[2], &[u64::MAX, 3])], &to(DType::BF16)),
        sample([ints(DType::I32, &[0], 1, 0, 3)], &to(DType::F64)),
        sample([ints(DType::I32, &[2], 1, 0, 3)], &[("num_classes", Attr::Int(0))]),
    ]
}
