//! Composites that rearrange elements: split, stack, select, tile, roll, triangles.
//!
//! `eval` computes for each element where it comes from; `expand` says the same in views.

use super::common::*;
use super::sample::*;
use super::view::X;
use super::view_eval::{copy_by, offset};
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};

/// Results are numbered in 16 bits.
pub const MOST_PARTS: i64 = 1 << 15;

const AXIS: AttrSpec =
    attr("axis", AttrKind::Int, Preset::Int(0), "the axis, negative counted from the end");

pub const fn composite(
    name: &'static str,
    attrs: &'static [AttrSpec],
    infer: fn(&OpCtx) -> Result<Vec<TensorType>, OpError>,
    eval: fn(&EvalCtx) -> Result<Vec<Tensor>, OpError>,
    expand: Expand,
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
        tolerance: Tolerance::EXACT,
        samples,
    }
}

pub static ROWS: &[OpRow] = &[
    OpRow {
        results: &["part"],
        ..composite(
            "split",
            &[
                attr(
                    "parts",
                    AttrKind::Ints,
                    Preset::Required,
                    "an integer: how many equal parts; a list: the extent of each part",
                ),
                AXIS,
            ],
            infer_split,
            eval_split,
            expand_split,
            split_samples,
            "Cuts x along an axis into parts, one result each. The inverse of `concat`.",
        )
    },
    OpRow {
        operands: &[variadic("xs", "at least one, of one type")],
        ..composite(
            "stack",
            &[attr(
                "axis",
                AttrKind::Int,
                Preset::Int(0),
                "where the new axis stands in the result",
            )],
            infer_stack,
            eval_stack,
            expand_stack,
            stack_samples,
            "Joins tensors of one type along a new axis.",
        )
    },
    composite(
        "tile",
        &[attr(
            "reps",
            AttrKind::Ints,
            Preset::Required,
            "how often along each axis, aligned at the right; 1 where there is none",
        )],
        infer_tile,
        eval_tile,
        expand_tile,
        tile_samples,
        "Repeats x as a whole along axes, as NumPy's `tile`.",
    ),
    composite(
        "roll",
        &[
            attr("shift", AttrKind::Int, Preset::Required, "by how much towards higher indices"),
            AXIS,
        ],
        |c| {
            axis(c.op, c.op.int("axis"), c.types[0].rank())?;
            Ok(vec![c.types[0].clone()])
        },
        eval_roll,
        expand_roll,
        roll_samples,
        "Moves elements along an axis; those that fall off its end come in at its beginning.",
    ),
    composite(
        "tril",
        &[DIAGONAL],
        infer_triangle,
        |c| eval_triangle(c, |row, column| column <= row),
        |b, c| expand_triangle(b, c, "ge"),
        triangle_samples,
        "The lower triangle of the last two axes, the rest 0.",
    ),
    composite(
        "triu",
        &[DIAGONAL],
        infer_triangle,
        |c| eval_triangle(c, |row, column| column >= row),
        |b, c| expand_triangle(b, c, "le"),
        triangle_samples,
        "The upper triangle of the last two axes, the rest 0.",
    ),
    composite(
        "select",
        &[attr("index", AttrKind::Int, Preset::Required, "negative counted from the end"), AXIS],
        infer_select,
        eval_select,
        expand_select,
        select_samples,
        "The part at one index of an axis, without that axis.",
    ),
    composite(
        "identity",
        &[],
        |c| Ok(c.types.to_vec()),
        |c| Ok(c.operands.to_vec()),
        |_, c| Ok(c.operands.to_vec()),
        || vec![sample(vec![f32s(&[2, 3], 1)], vec![])],
        "x itself.",
    ),
    OpRow {
        gradient: Gradient::Zero("that is what it is for"),
        ..composite(
            "stop_gradient",
            &[],
            |c| Ok(c.types.to_vec()),
            |c| Ok(c.operands.to_vec()),
            |_, c| Ok(c.operands.to_vec()),
            || vec![sample(vec![f32s(&[2, 3], 1)], vec![])],
            "x itself; no gradient flows back through it.",
        )
    },
];

const DIAGONAL: AttrSpec = attr(
    "diagonal",
    AttrKind::Int,
    Preset::Int(0),
    "which diagonal bounds the triangle: 0 the main one, above it positive",
);

pub fn int(name: &'static str, v: i64) -> (&'static str, Attr) {
    (name, Attr::Int(v))
}

fn one_int(name: &'static str, v: i64) -> (&'static str, Attr) {
    (name, Attr::Ints(vec![v]))
}

pub fn dim(d: Option<Dim>) -> Result<Dim, OpError> {
    d.ok_or_else(OpError::overflow)
}

fn index_attr(c: &EvalCtx, name: &str) -> usize {
    let rank = c.operands[0].rank();
    axis(c.op, c.op.int(name), rank).expect("inference checked the axis")
}

// ---- Split, stack, select ----------------------------------------------------------------------

/// The extents of the parts.
fn parts(op: &Op, x: &TensorType) -> Result<(usize, Vec<Dim>), OpError> {
    let axis = axis(op, op.int("axis"), x.rank())?;
    let d = &x.shape.0[axis];
    let bad = |message: String| Err(OpError::shape(message).note(format!("`x` is {x}")));
    if let Attr::Int(n) = *op.attr("parts") {
        if !(1..=MOST_PARTS).contains(&n) {
            return Err(OpError::attr(format!("`split` into {n} parts"))
                .help(format!("from 1 to {MOST_PARTS}")));
        }
        return match d.div_exact(&Dim::Const(n)) {
            Some(part) => Ok((axis, vec![part; n as usize])),
            None => {
                bad(format!("`split` cannot cut axis {axis}, of extent {d}, into {n} equal parts"))
            }
        };
    }
    let sizes = op.ints("parts");
    let total = sizes.iter().try_fold(0i64, |sum, s| sum.checked_add(*s));
    if sizes.is_empty() || sizes.len() as i64 > MOST_PARTS || sizes.iter().any(|s| *s < 0) {
        return Err(OpError::attr(
            "`split` takes the extents of one or more parts, 0 or more each",
        ));
    }
    match total {
        Some(total) if *d == Dim::Const(total) => {
            Ok((axis, sizes.into_iter().map(Dim::Const).collect()))
        }
        Some(total) => {
            bad(format!("`split` cuts axis {axis}, of extent {d}, into parts of {total} together"))
        }
        None => Err(OpError::overflow()),
    }
}

fn infer_split(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let x = &c.types[0];
    let (axis, parts) = parts(c.op, x)?;
    let part = |d: Dim| {
        let mut t = x.clone();
        t.shape.0[axis] = d;
        t
    };
    Ok(parts.into_iter().map(part).collect())
}

fn eval_split(c: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let (x, axis) = (&c.operands[0], index_attr(c, "axis"));
    let mut start = 0;
    let cut = |i: usize| {
        let shape = c.result_shape(i);
        let from = |at: &[usize]| {
            let mut at = at.to_vec();
            at[axis] += start;
            offset(x.shape(), &at)
        };
        let part = copy_by(x, &shape, from);
        start += shape[axis];
        part
    };
    Ok((0..c.results.len()).map(cut).collect())
}

/// Parts with an open extent are equal ones, and come through an axis that counts the parts.
fn expand_split(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let (axis, parts) = parts(c.op, &c.types[0])?;
    let Some(sizes) = parts.iter().map(Dim::as_const).collect::<Option<Vec<i64>>>() else {
        let mut dims = c.types[0].shape.0.clone();
        dims.splice(axis..=axis, [Dim::from(parts.len()), parts[0].clone()]);
        let counted = b.reshape(c.operands[0], &Shape(dims))?;
        return (0..parts.len())
            .map(|i| take_part(b, counted, axis, i, &c.results[i].shape))
            .collect();
    };
    let mut start = 0;
    sizes
        .iter()
        .map(|n| {
            let range = [
                one_int("starts", start),
                one_int("ends", start + n),
                one_int("axes", axis as i64),
            ];
            start += n;
            b.op("slice", &[c.operands[0]], &range)
        })
        .collect()
}

/// Element `index` of an axis, in a shape without that axis.
pub fn take_part(
    b: &mut Builder,
    x: Value,
    axis: usize,
    index: usize,
    shape: &Shape,
) -> Result<Value, OpError> {
    let i = index as i64;
    let range = [one_int("starts", i), one_int("ends", i + 1), one_int("axes", axis as i64)];
    let part = b.op("slice", &[x], &range)?;
    b.reshape(part, shape)
}

fn infer_stack(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let Some(first) = c.types.first() else {
        return Err(OpError::shape("`stack` of nothing").help("give at least one operand"));
    };
    if let Some(other) = c.types.iter().find(|t| *t != first) {
        return Err(OpError::shape(format!(
            "`stack` joins tensors of one type, not {first} and {other}"
        )));
    }
    let mut shape = first.shape.clone();
    shape.0.insert(axis(c.op, c.op.int("axis"), first.rank() + 1)?, Dim::from(c.types.len()));
    Ok(vec![TensorType::new(first.dtype, shape)])
}

fn eval_stack(c: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let shape = c.result_shape(0);
    let axis = axis(c.op, c.op.int("axis"), shape.len())?;
    let size = c.operands[0].dtype().bytes();
    // Blocks: what lies behind the new axis stays together.
    let block: usize = shape[axis + 1..].iter().product::<usize>() * size;
    let outer: usize = shape[..axis].iter().product();
    let mut bytes = Vec::with_capacity(outer * shape[axis] * block);
    for i in 0..outer {
        c.operands.iter().for_each(|x| bytes.extend_from_slice(&x.bytes()[i * block..][..block]));
    }
    let bytes = crate::base::tensor::AlignedBytes::copy_of(&bytes);
    Ok(vec![
        Tensor::from_bytes(c.operands[0].dtype(), &shape, bytes).expect("blocks fill the shape"),
    ])
}

fn expand_stack(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let at = axis(c.op, c.op.int("axis"), c.types[0].rank() + 1)?;
    let mut shape = c.types[0].shape.clone();
    shape.0.insert(at, Dim::ONE);
    let parts: Vec<Value> =
        c.operands.iter().map(|x| b.reshape(*x, &shape)).collect::<Result<_, _>>()?;
    Ok(vec![b.op("concat", &parts, &[int("axis", at as i64)])?])
}

fn selected(op: &Op, x: &TensorType) -> Result<(usize, i64), OpError> {
    let at = axis(op, op.int("axis"), x.rank())?;
    let index = op.int("index");
    match x.shape.0[at].as_const() {
        Some(n) if index >= n || index < -n => Err(OpError::attr(format!(
            "`select` has index {index}, but axis {at} has {n} elements"
        ))),
        Some(n) if index < 0 => Ok((at, index + n)),
        Some(_) | None => Ok((at, index)),
    }
}

fn infer_select(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let mut y = c.types[0].clone();
    y.shape.0.remove(selected(c.op, &y)?.0);
    Ok(vec![y])
}

fn eval_select(c: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let x = &c.operands[0];
    let (axis, index) = selected(c.op, &x.ty())?;
    let from = |at: &[usize]| {
        let mut at = at.to_vec();
        at.insert(axis, index as usize);
        offset(x.shape(), &at)
    };
    Ok(vec![copy_by(x, &c.result_shape(0), from)])
}

fn expand_select(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let (axis, index) = selected(c.op, &c.types[0])?;
    // Only the last element of an open axis has an end that cannot be written.
    let end = if index == -1 { i64::MAX } else { index + 1 };
    let range = [one_int("starts", index), one_int("ends", end), one_int("axes", axis as i64)];
    let part = b.op("slice", &[c.operands[0]], &range)?;
    Ok(vec![b.reshape(part, &c.results[0].shape)?])
}

// ---- Tile, roll, triangles ---------------------------------------------------------------------

/// The operand's shape and the repetitions, both filled up with ones at the left.
fn tiling(op: &Op, x: &TensorType) -> Result<(Vec<Dim>, Vec<i64>), OpError> {
    let reps = op.ints("reps");
    if reps.iter().any(|r| *r < 0) {
        return Err(
            OpError::attr(format!("`tile` has reps = {reps:?}")).help("repetitions are 0 or more")
        );
    }
    let rank = reps.len().max(x.rank());
    let dims = [vec![Dim::ONE; rank - x.rank()], x.shape.0.clone()].concat();
    Ok((dims, [vec![1; rank - reps.len()], reps].concat()))
}

fn infer_tile(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let (dims, reps) = tiling(c.op, &c.types[0])?;
    let dims = dims.iter().zip(&reps).map(|(d, r)| dim(d.mul(&Dim::Const(*r))));
    Ok(vec![TensorType::new(c.types[0].dtype, Shape(dims.collect::<Result<_, _>>()?))])
}

fn eval_tile(c: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let (x, shape) = (&c.operands[0], c.result_shape(0));
    let lead = shape.len() - x.rank();
    let from =
        |at: &[usize]| x.shape().iter().zip(&at[lead..]).fold(0, |o, (&n, &i)| o * n + i % n);
    Ok(vec![copy_by(x, &shape, from)])
}

/// `[a, b]` → `[1, a, 1, b]` → `[r, a, s, b]` → `[r · a, s · b]`.
fn expand_tile(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let (dims, reps) = tiling(c.op, &c.types[0])?;
    let split = dims.iter().flat_map(|d| [Dim::ONE, d.clone()]).collect();
    let wide = dims.iter().zip(&reps).flat_map(|(d, r)| [Dim::Const(*r), d.clone()]).collect();
    let x = b.reshape(c.operands[0], &Shape(split))?;
    let x = b.broadcast_to(x, &Shape(wide))?;
    Ok(vec![b.reshape(x, &c.results[0].shape)?])
}

fn eval_roll(c: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let (x, axis, shift) = (&c.operands[0], index_attr(c, "axis"), c.op.int("shift"));
    let from = |at: &[usize]| {
        let mut at = at.to_vec();
        let n = x.shape()[axis] as i128;
        at[axis] = (at[axis] as i128 - shift as i128).rem_euclid(n) as usize;
        offset(x.shape(), &at)
    };
    Ok(vec![copy_by(x, x.shape(), from)])
}

/// The last `shift` elements, then the others.
fn expand_roll(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let (x, dims) = (c.operands[0], &c.types[0].shape.0);
    let axis = axis(c.op, c.op.int("axis"), dims.len())?;
    let shift = match dims[axis].as_const() {
        Some(0) => 0,
        Some(n) => c.op.int("shift").rem_euclid(n),
        None => c.op.int("shift"),
    };
    if shift == 0 || shift == i64::MIN {
        return Ok(vec![x]);
    }
    let along = one_int("axes", axis as i64);
    let tail = b.op("slice", &[x], &[one_int("starts", -shift), along.clone()])?;
    let head = b.op("slice", &[x], &[one_int("starts", 0), one_int("ends", -shift), along])?;
    Ok(vec![b.op("concat", &[tail, head], &[int("axis", axis as i64)])?])
}

fn infer_triangle(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    expect_rank(c.op, "x", &c.types[0], 2)?;
    Ok(vec![c.types[0].clone()])
}

fn eval_triangle(c: &EvalCtx, inside: fn(i128, i128) -> bool) -> Result<Vec<Tensor>, OpError> {
    let x = &c.operands[0];
    let (size, rank) = (x.dtype().bytes(), x.rank());
    let mut out = crate::base::tensor::AlignedBytes::copy_of(x.bytes());
    let diagonal = c.op.int("diagonal") as i128;
    super::view_eval::for_each_point(x.shape(), |i, at| {
        let (row, column) = (at[rank - 2] as i128, at[rank - 1] as i128);
        if !inside(row + diagonal, column) {
            out.as_mut()[i * size..][..size].fill(0);
        }
    });
    Ok(vec![Tensor::from_bytes(x.dtype(), x.shape(), out).expect("the operand's own size")])
}

/// `where(row + diagonal ≥ column, x, 0)`; `le` for the upper triangle.
fn expand_triangle(b: &mut Builder, c: &ExpandCtx, inside: &str) -> Result<Vec<Value>, OpError> {
    let dims = &c.types[0].shape.0[c.types[0].rank() - 2..];
    let count = |b: &mut Builder, axis: i64| {
        let shape = ("shape", Attr::Dims(dims.to_vec()));
        b.op("iota", &[], &[shape, int("axis", axis), ("dtype", Attr::DType(DType::I64))])
    };
    let (rows, columns) = (count(b, 0)?, count(b, 1)?);
    // Beyond 2⁶² a diagonal is as good as infinitely far.
    let diagonal = c.op.int("diagonal").clamp(-(1 << 62), 1 << 62);
    let diagonal = b.constant(Tensor::from_slice(&[], &[diagonal]));
    let bound = b.bin("add", rows, diagonal)?;
    let keep = b.bin(inside, bound, columns)?;
    let zero = b.scalar(c.types[0].dtype, 0.0);
    Ok(vec![b.op("where", &[keep, c.operands[0], zero], &[])?])
}

// ---- Samples -----------------------------------------------------------------------------------

fn split_samples() -> Vec<Sample> {
    let list = |v: &[i64]| ("parts", Attr::Ints(v.to_vec()));
    vec![
        sample(vec![f32s(&[2, 9], 1)], vec![int("parts", 3), int("axis", -1)]),
        sample(vec![f32s(&[6, 2], 1)], vec![int("parts", 2)]),
        sample(vec![f32s(&[2, 9, 3], 1)], vec![list(&[2, 0, 7]), int("axis", 1)]),
        sample(vec![ints(DType::I32, &[4], 1, 0, 9)], vec![list(&[4])]),
    ]
}

fn stack_samples() -> Vec<Sample> {
    let xs = || vec![f32s(&[2, 3], 1), f32s(&[2, 3], 2), f32s(&[2, 3], 3)];
    vec![
        sample(xs(), vec![]),
        sample(xs(), vec![int("axis", 1)]),
        sample(xs(), vec![int("axis", -1)]),
        sample(vec![f32s(&[], 1), f32s(&[], 2)], vec![]),
    ]
}

fn tile_samples() -> Vec<Sample> {
    let reps = |v: &[i64]| vec![("reps", Attr::Ints(v.to_vec()))];
    vec![
        sample(vec![f32s(&[2, 3], 1)], reps(&[2])),
        sample(vec![f32s(&[2, 3], 1)], reps(&[2, 1, 3])),
        sample(vec![f32s(&[2, 3], 1)], reps(&[0, 2])),
        sample(vec![f32s(&[], 1)], reps(&[4])),
    ]
}

fn roll_samples() -> Vec<Sample> {
    let by = |s, a| vec![int("shift", s), int("axis", a)];
    vec![
        sample(vec![f32s(&[5], 1)], by(2, 0)),
        sample(vec![f32s(&[2, 5], 1)], by(-7, -1)),
        sample(vec![f32s(&[2, 0], 1)], by(1, 1)),
        sample(vec![f32s(&[3, 2], 1)], by(3, 0)),
    ]
}

fn triangle_samples() -> Vec<Sample> {
    vec![
        sample(vec![f32s(&[4, 5], 1)], vec![]),
        sample(vec![f32s(&[2, 5, 3], 1)], vec![int("diagonal", 1)]),
        sample(vec![ints(DType::I32, &[4, 4], 1, 1, 9)], vec![int("diagonal", -2)]),
        sample(vec![bools(&[3, 3], 1)], vec![int("diagonal", i64::MAX)]),
    ]
}

fn select_samples() -> Vec<Sample> {
    vec![
        sample(vec![f32s(&[3, 4], 1)], vec![int("index", 1)]),
        sample(vec![f32s(&[3, 4, 2], 1)], vec![int("index", -1), int("axis", 1)]),
        sample(vec![f32s(&[3], 1)], vec![int("index", 0)]),
    ]
}
