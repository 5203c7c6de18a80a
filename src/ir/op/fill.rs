//! Tensors from nothing but attributes: counting and constant ones.

use super::common::*;
use super::sample::*;
use super::view::SHAPE;
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::eval::scalar_tensor;
use crate::ir::scalar_eval::{Num, Scalar, for_dtype};

const DTYPE: AttrSpec = attr("dtype", AttrKind::DType, Preset::None, "element type; absent: f32");
const VALUE: AttrSpec = attr("value", AttrKind::Float, Preset::Required, "every element");
const LIKE: &[OperandSpec] = &[operand("x", "gives the shape and the dtype")];
const CONSTANT: Gradient = Gradient::Zero("the result does not depend on the operands' values");

const fn filled(
    name: &'static str,
    attrs: &'static [AttrSpec],
    value: fn(&EvalCtx) -> Result<Vec<Tensor>, OpError>,
    expand: Expand,
    samples: fn() -> Vec<Sample>,
    doc: &'static str,
) -> OpRow {
    OpRow {
        name,
        doc,
        operands: &[],
        attrs,
        results: &["y"],
        infer: |c| {
            let shape = shape_attr(c.op, "shape")?;
            Ok(vec![TensorType::new(dtype_or(c.op, "dtype", DType::F32), shape)])
        },
        eval: value,
        class: |_| Class::Composite,
        expand: Some(expand),
        gradient: CONSTANT,
        tolerance: Tolerance::EXACT,
        samples,
    }
}

const fn like(
    name: &'static str,
    attrs: &'static [AttrSpec],
    value: fn(&EvalCtx) -> Result<Vec<Tensor>, OpError>,
    expand: Expand,
    samples: fn() -> Vec<Sample>,
    doc: &'static str,
) -> OpRow {
    OpRow {
        operands: LIKE,
        infer: |c| Ok(vec![c.types[0].clone()]),
        ..filled(name, attrs, value, expand, samples, doc)
    }
}

pub static ROWS: &[OpRow] = &[
    OpRow {
        name: "iota",
        doc: "Counts 0, 1, 2, … along an axis: each element is its index there.",
        operands: &[],
        attrs: &[
            SHAPE,
            attr("axis", AttrKind::Int, Preset::Int(0), "the axis to count along"),
            attr("dtype", AttrKind::DType, Preset::None, "a number; absent: i32"),
        ],
        results: &["y"],
        infer: infer_iota,
        eval: eval_iota,
        class: |c| {
            Class::Source(Source::Iota { axis: counted(c.op).expect("inference checked it") })
        },
        expand: None,
        gradient: CONSTANT,
        tolerance: Tolerance::TIGHT,
        samples: iota_samples,
    },
    filled(
        "full",
        &[SHAPE, VALUE, DTYPE],
        |c| fill(c, c.op.float("value")),
        |b, c| expand(b, c, c.op.float("value")),
        || shapes(vec![("value", Attr::Float(2.5))]),
        "Every element is one value.",
    ),
    filled(
        "zeros",
        &[SHAPE, DTYPE],
        |c| fill(c, 0.0),
        |b, c| expand(b, c, 0.0),
        || shapes(vec![]),
        "Every element is 0.",
    ),
    filled(
        "ones",
        &[SHAPE, DTYPE],
        |c| fill(c, 1.0),
        |b, c| expand(b, c, 1.0),
        || shapes(vec![]),
        "Every element is 1.",
    ),
    like(
        "full_like",
        &[VALUE],
        |c| fill(c, c.op.float("value")),
        |b, c| expand(b, c, c.op.float("value")),
        || likes(vec![("value", Attr::Float(2.5))]),
        "Every element is one value; type and shape are those of x.",
    ),
    like(
        "zeros_like",
        &[],
        |c| fill(c, 0.0),
        |b, c| expand(b, c, 0.0),
        || likes(vec![]),
        "Every element is 0; type and shape are those of x.",
    ),
    like(
        "ones_like",
        &[],
        |c| fill(c, 1.0),
        |b, c| expand(b, c, 1.0),
        || likes(vec![]),
        "Every element is 1; type and shape are those of x.",
    ),
];

fn counted(op: &Op) -> Result<usize, OpError> {
    let rank = match op.attr("shape") {
        Attr::Dims(d) => d.len(),
        _ => op.dims("shape").len(),
    };
    axis(op, op.int("axis"), rank)
}

fn infer_iota(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let shape: Shape = shape_attr(c.op, "shape")?;
    counted(c.op)?;
    let y = TensorType::new(dtype_or(c.op, "dtype", DType::I32), shape);
    match y.dtype {
        DType::Bool => Err(OpError::dtype("`iota` counts in numbers, not in bool")),
        _ => Ok(vec![y]),
    }
}

fn eval_iota(c: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let (shape, axis) = (c.result_shape(0), counted(c.op)?);
    let inner: usize = shape[axis + 1..].iter().product();
    let n: usize = shape.iter().product();
    Ok(vec![for_dtype!(c.results[0].dtype, T => {
        let at = |i: usize| T::from_num(Num::Int((i / inner % shape[axis]) as i128));
        Tensor::from_slice(&shape, &(0..n).map(at).collect::<Vec<T>>())
    })])
}

fn fill(c: &EvalCtx, value: f64) -> Result<Vec<Tensor>, OpError> {
    let (shape, dtype) = (c.result_shape(0), c.results[0].dtype);
    let n: usize = shape.iter().product();
    Ok(vec![for_dtype!(dtype, T => {
        Tensor::from_slice(&shape, &vec![T::from_num(Num::Float(value)); n])
    })])
}

/// A scalar, broadcast.
fn expand(b: &mut Builder, c: &ExpandCtx, value: f64) -> Result<Vec<Value>, OpError> {
    let one = b.constant(scalar_tensor(c.results[0].dtype, value));
    Ok(vec![b.broadcast_to(one, &c.results[0].shape)?])
}

// ---- Samples -----------------------------------------------------------------------------------

fn dims(v: &[i64]) -> (&'static str, Attr) {
    ("shape", Attr::Dims(v.iter().map(|&d| Dim::Const(d)).collect()))
}

fn iota_samples() -> Vec<Sample> {
    let along = |a| ("axis", Attr::Int(a));
    let of = |d| ("dtype", Attr::DType(d));
    vec![
        sample(vec![], vec![dims(&[7])]),
        sample(vec![], vec![dims(&[3, 4, 2]), along(1)]),
        sample(vec![], vec![dims(&[3, 4]), along(-1), of(DType::F32)]),
        sample(vec![], vec![dims(&[300]), of(DType::U8)]),
        sample(vec![], vec![dims(&[2, 0]), of(DType::I64)]),
        sample(vec![], vec![dims(&[40]), of(DType::BF16)]),
        sample(vec![], vec![("shape", Attr::Int(3))]),
    ]
}

fn shapes(more: Vec<(&'static str, Attr)>) -> Vec<Sample> {
    let with = |attrs: Vec<(&'static str, Attr)>| sample(vec![], [attrs, more.clone()].concat());
    vec![
        with(vec![dims(&[2, 3])]),
        with(vec![dims(&[])]),
        with(vec![dims(&[0, 3])]),
        with(vec![dims(&[4]), ("dtype", Attr::DType(DType::I64))]),
        with(vec![dims(&[4]), ("dtype", Attr::DType(DType::Bool))]),
        with(vec![dims(&[4]), ("dtype", Attr::DType(DType::F16))]),
    ]
}

fn likes(attrs: Vec<(&'static str, Attr)>) -> Vec<Sample> {
    let xs = [f32s(&[2, 3], 1), ints(DType::I32, &[], 2, 0, 9), bools(&[0, 2], 3)];
    xs.into_iter().map(|x| sample(vec![x], attrs.clone())).collect()
}
