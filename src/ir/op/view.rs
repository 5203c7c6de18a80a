//! Ops that only move elements and whose class is a view: reshapes, transposes, broadcasts, concat.
//! Slices stand in `slice.rs`, padding in `pad.rs`.

use super::common::*;
use super::sample::*;
use super::view_eval::eval_view;
use super::*;
use crate::base::{Shape, shape};
use crate::ir::attr::{AttrKind, Preset};

pub const X: &[OperandSpec] = &[operand("x", "any shape")];
pub const SHAPE: AttrSpec = attr("shape", AttrKind::Dims, Preset::Required, "the result's extents");

type Infer = fn(&OpCtx) -> Result<Vec<TensorType>, OpError>;

/// A row of class `View`.
pub const fn row(
    name: &'static str,
    attrs: &'static [AttrSpec],
    infer: Infer,
    class: fn(&OpCtx) -> Class,
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
        class,
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::EXACT,
        samples,
    }
}

pub fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let Class::View(view) = ctx.class() else { unreachable!("the row is a view") };
    Ok(vec![eval_view(&view, ctx.operands, &ctx.result_shape(0))])
}

pub static ROWS: &[OpRow] = &[
    row(
        "reshape",
        &[attr(
            "shape",
            AttrKind::Dims,
            Preset::Required,
            "the result's extents; one of them may be -1: whatever is left",
        )],
        infer_reshape,
        |_| Class::View(View::Reshape),
        reshape_samples,
        "The same elements in row-major order under another shape. `-1` needs the other extents to \
         divide the number of elements.",
    ),
    row(
        "flatten",
        &[
            attr("start_axis", AttrKind::Int, Preset::Int(1), "the first axis to merge"),
            attr("end_axis", AttrKind::Int, Preset::Int(-1), "the last axis to merge"),
        ],
        infer_flatten,
        |_| Class::View(View::Reshape),
        flatten_samples,
        "Merges neighbouring axes into one; by default all but the first, the batch.",
    ),
    row(
        "squeeze",
        &[attr(
            "axis",
            AttrKind::Ints,
            Preset::None,
            "the axes to drop; absent: every axis of extent 1",
        )],
        infer_squeeze,
        |_| Class::View(View::Reshape),
        squeeze_samples,
        "Drops axes of extent 1.",
    ),
    row(
        "unsqueeze",
        &[attr(
            "axis",
            AttrKind::Ints,
            Preset::Required,
            "where the new axes stand in the result; negative ones counted from its end",
        )],
        infer_unsqueeze,
        |_| Class::View(View::Reshape),
        unsqueeze_samples,
        "Adds axes of extent 1.",
    ),
    row(
        "transpose",
        &[attr(
            "perm",
            AttrKind::Ints,
            Preset::None,
            "axis i of the result is axis perm[i] of x; absent: the last two change places",
        )],
        infer_transpose,
        transposed,
        transpose_samples,
        "Permutes axes. Without `perm` it swaps the last two, so that a matrix is transposed and a \
         batch of matrices matrix by matrix.",
    ),
    row(
        "permute",
        &[attr(
            "perm",
            AttrKind::Ints,
            Preset::Required,
            "axis i of the result is axis perm[i] of x",
        )],
        infer_transpose,
        transposed,
        permute_samples,
        "Permutes axes; the same as `transpose` with `perm`.",
    ),
    row(
        "relayout",
        &[
            attr("axis", AttrKind::Int, Preset::Required, "the axis that is cut into blocks"),
            attr("block", AttrKind::Int, Preset::Required, "elements of a block"),
        ],
        infer_relayout,
        |c| Class::View(blocks(c).expect("inference checked the blocks")),
        relayout_samples,
        "An axis in blocks: [.., n, ..] becomes [.., n / block, .., block], the order in which \
         convolutions like their channels. A launch that computes x stores it in that order.",
    ),
    row(
        "broadcast_to",
        &[SHAPE],
        infer_broadcast,
        |_| Class::View(View::Broadcast),
        broadcast_samples,
        "Repeats x along axes of extent 1 and new leading axes, as NumPy broadcasts.",
    ),
    OpRow {
        operands: &[variadic(
            "xs",
            "at least one, of one dtype and equal extents but along `axis`",
        )],
        ..row(
            "concat",
            &[attr("axis", AttrKind::Int, Preset::Int(0), "the axis to join along")],
            infer_concat,
            |c| Class::View(View::Concat { axis: one_axis(c) }),
            concat_samples,
            "Joins tensors along an axis, one after the other.",
        )
    },
];

pub fn one_axis(c: &OpCtx) -> usize {
    axis(c.op, c.op.int("axis"), c.types[0].rank()).expect("inference checked the axis")
}

// ---- Reshapes ----------------------------------------------------------------------------------

pub fn of_shape(c: &OpCtx, shape: Shape) -> Result<Vec<TensorType>, OpError> {
    Ok(vec![TensorType::new(c.types[0].dtype, shape)])
}

fn infer_reshape(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let x = &c.types[0];
    let mut dims = c.op.dims("shape");
    let wanted = Shape(dims.clone());
    let clash = |why: String| {
        Err(OpError::shape(format!("`{}` cannot turn {} into {wanted}", c.op.row.name, x.shape))
            .note(why))
    };
    let n = x.shape.numel().ok_or_else(OpError::overflow)?;
    let free: Vec<usize> = (0..dims.len()).filter(|&i| dims[i] == Dim::Const(-1)).collect();
    if dims.iter().any(|d| d.as_const().is_some_and(|v| v < -1)) || free.len() > 1 {
        return Err(OpError::attr(format!("`{}` to {wanted}", c.op.row.name))
            .help("extents are 0 or more, and at most one of them is -1"));
    }
    if let [at] = free[..] {
        dims.remove(at);
        let rest = Shape(dims.clone()).numel().ok_or_else(OpError::overflow)?;
        if rest == Dim::Const(0) {
            return clash("beside an extent of 0, -1 could be anything".into());
        }
        match n.div_exact(&rest) {
            Some(d) => dims.insert(at, d),
            None => return clash(format!("{n} elements do not divide by {rest}")),
        }
        return of_shape(c, Shape(dims));
    }
    let m = wanted.numel().ok_or_else(OpError::overflow)?;
    match m == n {
        true => of_shape(c, wanted),
        false => clash(format!("{n} elements are not {m}")),
    }
}

fn infer_flatten(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let x = &c.types[0];
    let first = axis(c.op, c.op.int("start_axis"), x.rank())?;
    let last = axis(c.op, c.op.int("end_axis"), x.rank())?;
    if first > last {
        return Err(OpError::attr(format!("`flatten` from axis {first} to axis {last}")));
    }
    let merged = Shape(x.shape.0[first..=last].to_vec()).numel().ok_or_else(OpError::overflow)?;
    let dims = [&x.shape.0[..first], &[merged], &x.shape.0[last + 1..]].concat();
    of_shape(c, Shape(dims))
}

fn infer_squeeze(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let x = &c.types[0];
    let named = !matches!(c.op.attr("axis"), Attr::None);
    let axes = axes(c.op, "axis", x.rank())?;
    let one = |i: usize| x.shape.0[i] == Dim::ONE;
    if let Some(&i) = axes.iter().find(|&&i| named && !one(i)) {
        return Err(OpError::shape(format!(
            "`squeeze` drops axes of extent 1, but axis {i} has {}",
            x.shape.0[i]
        ))
        .note(format!("`x` is {x}")));
    }
    let keep = (0..x.rank()).filter(|i| axes.binary_search(i).is_err() || !one(*i));
    of_shape(c, Shape(keep.map(|i| x.shape.0[i].clone()).collect()))
}

fn infer_unsqueeze(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let x = &c.types[0];
    let rank = x.rank() + c.op.ints("axis").len();
    let new = axes(c.op, "axis", rank)?;
    let mut old = x.shape.0.iter().cloned();
    let dim = |i: usize| match new.binary_search(&i) {
        Ok(_) => Dim::ONE,
        Err(_) => old.next().expect("as many axes as the operand has"),
    };
    of_shape(c, Shape((0..rank).map(dim).collect()))
}

// ---- Transpose, broadcast ----------------------------------------------------------------------

fn perm(c: &OpCtx) -> Result<Vec<usize>, OpError> {
    let (rank, name) = (c.types[0].rank(), c.op.row.name);
    if matches!(c.op.attr("perm"), Attr::None) {
        expect_rank(c.op, "x", &c.types[0], 2)?;
        return Ok((0..rank - 2).chain([rank - 1, rank - 2]).collect());
    }
    let given = c.op.ints("perm");
    let perm: Vec<usize> = given.iter().map(|&a| axis(c.op, a, rank)).collect::<Result<_, _>>()?;
    let mut seen = vec![false; rank];
    perm.iter().for_each(|&a| seen[a] = true);
    match perm.len() == rank && seen.iter().all(|s| *s) {
        true => Ok(perm),
        false => Err(OpError::attr(format!("`{name}` has perm = {given:?}"))
            .note(format!("`x` is {}", c.types[0]))
            .help(format!("name each of the {rank} axes once"))),
    }
}

fn infer_transpose(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    of_shape(c, Shape(perm(c)?.into_iter().map(|a| c.types[0].shape.0[a].clone()).collect()))
}

fn transposed(c: &OpCtx) -> Class {
    Class::View(View::Transpose(perm(c).expect("inference checked the permutation")))
}

fn blocks(c: &OpCtx) -> Result<View, OpError> {
    let axis = axis(c.op, c.op.int("axis"), c.types[0].rank())?;
    let (block, extent) = (c.op.int("block"), &c.types[0].shape.0[axis]);
    match extent.as_const() {
        Some(n) if block > 0 && n % block == 0 => Ok(View::Relayout { axis, block }),
        _ => Err(OpError::attr(format!("`relayout` of an axis of {extent} in blocks of {block}"))
            .help("the extent is a number that the block divides")),
    }
}

fn infer_relayout(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let View::Relayout { axis, block } = blocks(c)? else { return Err(OpError::overflow()) };
    let mut shape = c.types[0].shape.clone();
    let n = shape.0[axis].as_const().unwrap_or(0);
    shape.0[axis] = Dim::Const(n / block);
    shape.0.push(Dim::Const(block));
    of_shape(c, shape)
}

fn infer_broadcast(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let to = shape_attr(c.op, "shape")?;
    let x = &c.types[0];
    match shape::broadcast(&x.shape, &to) {
        Some(s) if s == to => of_shape(c, to),
        _ => Err(OpError::shape(format!("`broadcast_to` cannot turn {} into {to}", x.shape))
            .help("aligned at the right, extents of x must be equal or 1")),
    }
}

// ---- Concat ------------------------------------------------------------------------------------

fn infer_concat(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let Some(first) = c.types.first() else {
        return Err(OpError::shape(format!("`{}` of nothing", c.op.row.name))
            .help("give at least one operand"));
    };
    one_dtype(c.op, c.types)?;
    let axis = axis(c.op, c.op.int("axis"), first.rank())?;
    let mut shape = first.shape.clone();
    for t in &c.types[1..] {
        let fits = t.rank() == first.rank()
            && (0..t.rank()).all(|i| i == axis || t.shape.0[i] == shape.0[i]);
        if !fits {
            return Err(OpError::shape(format!(
                "`concat` along axis {axis} cannot join {} and {}",
                first.shape, t.shape
            ))
            .note(format!("operands: {}", list(&c.types[..c.types.len().min(16)])))
            .help("all other extents must be equal"));
        }
        shape.0[axis] = shape.0[axis].add(&t.shape.0[axis]).ok_or_else(OpError::overflow)?;
    }
    of_shape(c, shape)
}

// ---- Samples -----------------------------------------------------------------------------------

pub fn ints_attr(name: &'static str, v: &[i64]) -> (&'static str, Attr) {
    (name, Attr::Ints(v.to_vec()))
}

fn dims_attr(v: &[i64]) -> (&'static str, Attr) {
    ("shape", Attr::Dims(v.iter().map(|&d| Dim::Const(d)).collect()))
}

fn reshape_samples() -> Vec<Sample> {
    let case = |from: &[usize], to: &[i64]| sample(vec![f32s(from, 1)], vec![dims_attr(to)]);
    vec![
        case(&[2, 12], &[2, 3, 4]),
        case(&[4, 6], &[8, -1]),
        case(&[4, 6], &[3, 8]),
        case(&[1, 1], &[]),
        case(&[], &[1, 1]),
        case(&[0, 3], &[3, 0, 2]),
        case(&[2, 3, 5], &[-1]),
        sample(vec![bools(&[2, 3], 1)], vec![dims_attr(&[3, 2])]),
        sample(vec![ints(DType::I64, &[4], 1, -5, 5)], vec![dims_attr(&[2, 2])]),
    ]
}

fn flatten_samples() -> Vec<Sample> {
    let range = vec![("start_axis", Attr::Int(0)), ("end_axis", Attr::Int(1))];
    vec![
        sample(vec![f32s(&[2, 3, 4], 1)], vec![]),
        sample(vec![f32s(&[2, 3, 4], 1)], range),
        sample(vec![f32s(&[0, 3, 4], 1)], vec![]),
    ]
}

fn squeeze_samples() -> Vec<Sample> {
    vec![
        sample(vec![f32s(&[1, 3, 1, 2], 1)], vec![]),
        sample(vec![f32s(&[1, 3, 1, 2], 1)], vec![ints_attr("axis", &[-2])]),
    ]
}

fn unsqueeze_samples() -> Vec<Sample> {
    vec![
        sample(vec![f32s(&[3, 2], 1)], vec![ints_attr("axis", &[0, -1])]),
        sample(vec![f32s(&[], 1)], vec![("axis", Attr::Int(0))]),
    ]
}

fn transpose_samples() -> Vec<Sample> {
    let mut out = permute_samples();
    out.push(sample(vec![f32s(&[5, 7], 1)], vec![]));
    out.push(sample(vec![f32s(&[2, 3, 4], 1)], vec![]));
    out
}

fn relayout_samples() -> Vec<Sample> {
    let case = |x: Tensor, axis: i64, block: i64| {
        sample(vec![x], vec![("axis", Attr::Int(axis)), ("block", Attr::Int(block))])
    };
    vec![
        case(f32s(&[2, 6, 3, 2], 1), 1, 3),
        case(f32s(&[5, 8], 1), -1, 4),
        case(uniform(DType::F16, &[4, 3], 1, -1.0, 1.0), 0, 2),
        case(f32s(&[4, 0], 1), 0, 4),
    ]
}

fn permute_samples() -> Vec<Sample> {
    let case = |x: Tensor, p: &[i64]| sample(vec![x], vec![ints_attr("perm", p)]);
    vec![
        case(f32s(&[2, 3, 4], 1), &[2, 0, 1]),
        case(f32s(&[2, 3, 4, 5], 1), &[0, 2, -3, 3]),
        case(uniform(DType::F16, &[3, 5], 1, -1.0, 1.0), &[1, 0]),
        case(f32s(&[2, 0, 3], 1), &[2, 1, 0]),
        case(bools(&[3, 2], 1), &[1, 0]),
        case(f32s(&[], 1), &[]),
    ]
}

fn broadcast_samples() -> Vec<Sample> {
    let case = |x: Tensor, to: &[i64]| sample(vec![x], vec![dims_attr(to)]);
    vec![
        case(f32s(&[3, 1], 1), &[2, 3, 4]),
        case(f32s(&[], 1), &[5]),
        case(f32s(&[4], 1), &[4]),
        case(f32s(&[1, 4], 1), &[0, 4]),
        case(ints(DType::I8, &[1, 2, 1], 1, 0, 9), &[3, 2, 2]),
    ]
}

fn concat_samples() -> Vec<Sample> {
    let along = |a| vec![("axis", Attr::Int(a))];
    vec![
        sample(vec![f32s(&[2, 3], 1), f32s(&[4, 3], 2), f32s(&[1, 3], 3)], along(0)),
        sample(vec![f32s(&[2, 3, 4], 1), f32s(&[2, 5, 4], 2)], along(-2)),
        sample(vec![f32s(&[2, 3], 1), f32s(&[2, 0], 2), f32s(&[2, 1], 3)], along(1)),
        sample(vec![f32s(&[2], 1)], along(0)),
        sample(vec![ints(DType::I64, &[2], 1, 0, 9), ints(DType::I64, &[3], 2, 0, 9)], along(0)),
        sample(vec![bools(&[2, 1], 1), bools(&[2, 2], 2)], along(1)),
    ]
}
