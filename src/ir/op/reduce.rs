//! Reductions: many elements become one, along some axes.
//!
//! Elements are combined in row-major order, narrow floats in f32. Reducing nothing gives the
//! neutral element where there is one; the greatest of nothing is an error.

use super::common::*;
use super::sample::*;
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar::{Combine, ScalarFn};
use crate::ir::scalar_eval::{Bool, Scalar, convert, for_dtype};

pub const AXIS: AttrSpec = attr(
    "axis",
    AttrKind::Ints,
    Preset::None,
    "the axes to reduce, negative ones counted from the end; absent: all",
);
const ONE_AXIS: AttrSpec = attr(
    "axis",
    AttrKind::Int,
    Preset::None,
    "the axis to search, negative counted from the end; absent: all, as if flattened",
);
const X: &[OperandSpec] = &[operand("x", "any shape")];

const fn row(
    name: &'static str,
    class: fn(&OpCtx) -> Class,
    gradient: Gradient,
    tolerance: Tolerance,
    samples: fn() -> Vec<Sample>,
    doc: &'static str,
) -> OpRow {
    OpRow {
        name,
        doc,
        operands: X,
        attrs: &[AXIS, KEEPDIMS],
        results: &["y"],
        infer,
        eval,
        class,
        expand: None,
        gradient,
        tolerance,
        samples,
    }
}

const fn arg(name: &'static str, class: fn(&OpCtx) -> Class, doc: &'static str) -> OpRow {
    let reason = Gradient::Zero("the result is an index");
    OpRow {
        attrs: &[ONE_AXIS, KEEPDIMS],
        ..row(name, class, reason, Tolerance::EXACT, arg_samples, doc)
    }
}

pub static ROWS: &[OpRow] = &[
    row(
        "sum",
        |c| reduce(c, Combine::Sum),
        Gradient::Unwritten,
        Tolerance::SUM,
        number_samples,
        "The sum along axes; of nothing, 0. Integers keep their dtype and wrap.",
    ),
    row(
        "prod",
        |c| reduce(c, Combine::Prod),
        Gradient::Unwritten,
        Tolerance::SUM,
        number_samples,
        "The product along axes; of nothing, 1. Integers keep their dtype and wrap.",
    ),
    row(
        "amax",
        |c| reduce(c, Combine::Max),
        Gradient::Unwritten,
        Tolerance::EXACT,
        extreme_samples,
        MAX,
    ),
    row(
        "amin",
        |c| reduce(c, Combine::Min),
        Gradient::Unwritten,
        Tolerance::EXACT,
        extreme_samples,
        MIN,
    ),
    row(
        "max",
        |c| reduce(c, Combine::Max),
        Gradient::Unwritten,
        Tolerance::EXACT,
        extreme_samples,
        MAX,
    ),
    row(
        "min",
        |c| reduce(c, Combine::Min),
        Gradient::Unwritten,
        Tolerance::EXACT,
        extreme_samples,
        MIN,
    ),
    row(
        "any",
        |c| reduce(c, Combine::Any),
        Gradient::Zero("the result is bool"),
        Tolerance::EXACT,
        bool_samples,
        "Whether a bool along the axes is true; of nothing, false.",
    ),
    row(
        "all",
        |c| reduce(c, Combine::All),
        Gradient::Zero("the result is bool"),
        Tolerance::EXACT,
        bool_samples,
        "Whether all bools along the axes are true; of nothing, true.",
    ),
    arg(
        "argmax",
        |c| reduce(c, Combine::ArgMax),
        "The index (i64) of the first greatest element along an axis; of the first NaN if there is one.",
    ),
    arg(
        "argmin",
        |c| reduce(c, Combine::ArgMin),
        "The index (i64) of the first least element along an axis; of the first NaN if there is one.",
    ),
];

const MAX: &str = "The greatest element along axes; NaN if there is one. `max` and `amax` are the \
                   same. Of nothing, an error.";
const MIN: &str = "The least element along axes; NaN if there is one. `min` and `amin` are the \
                   same. Of nothing, an error.";

fn reduce(ctx: &OpCtx, combine: Combine) -> Class {
    let axes = reduced_axes(ctx).expect("inference checked the axes");
    Class::Reduce(ReduceSpec { combine, axes, keepdims: ctx.op.bool("keepdims") })
}

pub fn reduced_axes(ctx: &OpCtx) -> Result<Vec<usize>, OpError> {
    axes(ctx.op, "axis", ctx.types[0].rank())
}

/// The shape without these axes, or with extent 1 in their place.
pub fn reduced(shape: &Shape, axes: &[usize], keepdims: bool) -> Shape {
    let keep = |(i, d): (usize, &Dim)| match axes.binary_search(&i) {
        Ok(_) => keepdims.then_some(Dim::ONE),
        Err(_) => Some(d.clone()),
    };
    Shape(shape.0.iter().enumerate().filter_map(keep).collect())
}

fn infer(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let x = &ctx.types[0];
    let axes = reduced_axes(ctx)?;
    let Class::Reduce(spec) = (ctx.op.row.class)(ctx) else {
        unreachable!("the row is a reduction")
    };
    let domain = match spec.combine {
        Combine::Any | Combine::All => Domain::Bool,
        Combine::Sum
        | Combine::Prod
        | Combine::Max
        | Combine::Min
        | Combine::ArgMax
        | Combine::ArgMin => Domain::Number,
    };
    expect_dtype(ctx.op, "x", x, domain)?;
    let shape = reduced(&x.shape, &axes, spec.keepdims);
    if needs_elements(spec.combine) {
        expect_elements(ctx.op, x, &axes, &shape)?;
    }
    Ok(vec![TensorType::new(spec.combine.result(x.dtype), shape)])
}

fn needs_elements(combine: Combine) -> bool {
    match combine {
        Combine::Max | Combine::Min | Combine::ArgMax | Combine::ArgMin => true,
        Combine::Sum | Combine::Prod | Combine::Any | Combine::All => false,
    }
}

/// Where the result has elements, each must come from at least one.
pub fn expect_elements(
    op: &Op,
    x: &TensorType,
    axes: &[usize],
    result: &Shape,
) -> Result<(), OpError> {
    let zero = |d: &Dim| d.as_const() == Some(0);
    match axes.iter().find(|&&a| zero(&x.shape.0[a])) {
        Some(a) if !result.0.iter().any(zero) => {
            Err(OpError::shape(format!("`{}` of nothing: axis {a} has no elements", op.row.name))
                .note(format!("`x` is {x}")))
        }
        _ => Ok(()),
    }
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    let Class::Reduce(spec) = ctx.class() else { unreachable!("the row is a reduction") };
    let shape = ctx.result_shape(0);
    if needs_elements(spec.combine) {
        let axes: Vec<usize> = spec.axes.clone();
        expect_elements(ctx.op, &x.ty(), &axes, &Shape::of(&shape))?;
    }
    Ok(vec![combine(x, &spec.axes, spec.combine, &shape)])
}

/// Reduces axes of `x`; `shape` is the result's. Max, Min, ArgMax and ArgMin need elements.
pub fn combine(x: &Tensor, axes: &[usize], how: Combine, shape: &[usize]) -> Tensor {
    let wide = convert(x, x.dtype().compute());
    for_dtype!(wide.dtype(), T => {
        let data = wide.as_slice::<T>();
        let folded = |f: ScalarFn, start: Option<T>| {
            let out = fold(x.shape(), axes, start, |acc: &mut Option<T>, i| {
                *acc = Some(acc.map_or(data[i], |a| T::binary(f, a, data[i])));
            });
            let out: Vec<T> = out.into_iter().map(|v| v.expect("elements were checked")).collect();
            convert(&Tensor::from_slice(shape, &out), x.dtype())
        };
        let number = |v: i128| Some(T::from_num(crate::ir::scalar_eval::Num::Int(v)));
        match how {
            Combine::Sum => folded(ScalarFn::Add, number(0)),
            Combine::Prod => folded(ScalarFn::Mul, number(1)),
            Combine::Max => folded(ScalarFn::Max, None),
            Combine::Min => folded(ScalarFn::Min, None),
            Combine::Any => truth(x, axes, shape, false, |a, b| a | b),
            Combine::All => truth(x, axes, shape, true, |a, b| a & b),
            Combine::ArgMax => first_best(data, x.shape(), axes, shape, |new, old| new > old),
            Combine::ArgMin => first_best(data, x.shape(), axes, shape, |new, old| new < old),
        }
    })
}

fn truth(
    x: &Tensor,
    axes: &[usize],
    shape: &[usize],
    start: bool,
    f: impl Fn(u8, u8) -> u8,
) -> Tensor {
    let data = x.as_bools();
    let out = fold(x.shape(), axes, Bool::from(start), |acc, i| acc.0 = f(acc.0, data[i]));
    Tensor::from_slice(shape, &out)
}

/// Row-major positions, among the reduced axes, of the first element that no other beats.
fn first_best<T: Scalar>(
    data: &[T],
    from: &[usize],
    axes: &[usize],
    shape: &[usize],
    better: impl Fn(&T, &T) -> bool,
) -> Tensor {
    let nan = |v: &T| v.partial_cmp(v).is_none();
    // (seen so far, best, its position)
    let out = fold(from, axes, (0i64, None, 0i64), |(seen, best, at), i| {
        let new = &data[i];
        let wins = best.as_ref().is_none_or(|old| !nan(old) && (nan(new) || better(new, old)));
        if wins {
            (*best, *at) = (Some(*new), *seen);
        }
        *seen += 1;
    });
    Tensor::from_slice(shape, &out.into_iter().map(|(_, _, at)| at).collect::<Vec<i64>>())
}

/// For each element in row-major order, `step(accumulator of its result, its index)`.
pub fn fold<A: Clone>(
    shape: &[usize],
    axes: &[usize],
    start: A,
    mut step: impl FnMut(&mut A, usize),
) -> Vec<A> {
    let (strides, len) = result_strides(shape, axes);
    let mut out = vec![start; len];
    walk(shape, &strides, |i, at| step(&mut out[at], i));
    out
}

/// For each axis of the operand, how far a step along it moves in the result, 0 for
/// reduced axes; and the number of elements of the result.
pub fn result_strides(shape: &[usize], axes: &[usize]) -> (Vec<usize>, usize) {
    let mut strides = vec![0; shape.len()];
    let mut len = 1;
    for i in (0..shape.len()).rev() {
        if axes.binary_search(&i).is_err() {
            strides[i] = len;
            len *= shape[i];
        }
    }
    (strides, len)
}

/// `f(i, offset)` for each position i of a shape in row-major order, `offset` by the strides.
pub fn walk(shape: &[usize], strides: &[usize], mut f: impl FnMut(usize, usize)) {
    let Some((&inner, outer)) = shape.split_last() else { return f(0, 0) };
    if shape.contains(&0) {
        return;
    }
    let step = strides[outer.len()];
    let mut at = vec![0; outer.len()];
    let (mut i, mut base) = (0, 0);
    loop {
        for k in 0..inner {
            f(i + k, base + k * step);
        }
        i += inner;
        let Some(axis) = (0..outer.len()).rev().find(|&a| at[a] + 1 < outer[a]) else { return };
        at[axis] += 1;
        base += strides[axis];
        for a in axis + 1..outer.len() {
            base -= at[a] * strides[a];
            at[a] = 0;
        }
    }
}

// ---- Samples -----------------------------------------------------------------------------------

/// Axes and keepdims of the usual kinds, for an operand of rank 3.
pub fn axis_choices() -> Vec<Vec<(&'static str, Attr)>> {
    let keep = ("keepdims", Attr::Bool(true));
    vec![
        vec![],
        vec![("axis", Attr::Ints(vec![-1]))],
        vec![("axis", Attr::Int(0))],
        vec![("axis", Attr::Ints(vec![2, 0])), keep.clone()],
        vec![("axis", Attr::Ints(vec![1])), keep],
        vec![("axis", Attr::Ints(vec![]))],
    ]
}

pub fn float_samples() -> Vec<Sample> {
    let x = |seed| f32s(&[3, 4, 35], seed);
    let mut out: Vec<Sample> = axis_choices()
        .into_iter()
        .enumerate()
        .map(|(i, attrs)| sample(vec![x(i as u64)], attrs))
        .collect();
    let last = || vec![("axis", Attr::Ints(vec![-1]))];
    out.push(sample(vec![f32s(&[], 7)], vec![]));
    out.push(sample(vec![f32s(&[0, 5], 7)], last()));
    for d in [DType::F64, DType::F16, DType::BF16] {
        out.push(sample(vec![uniform(d, &[2, 3, 20], 8, -1.0, 1.0)], last()));
    }
    let holes = [1.0, f64::NAN, 2.0, f64::INFINITY, 1.0, 0.0, -1.0, 2.0, f64::NEG_INFINITY];
    out.push(sample(vec![tensor(DType::F32, &[3, 3], &holes)], last()));
    out
}

fn number_samples() -> Vec<Sample> {
    let mut out = float_samples();
    let axis = |a| vec![("axis", Attr::Ints(vec![a]))];
    out.push(sample(vec![f32s(&[2, 0, 3], 1)], axis(1)));
    for d in [DType::I32, DType::I8, DType::U8, DType::I64] {
        out.push(sample(vec![ints(d, &[3, 4, 5], 2, 0, 9)], axis(1)));
    }
    out
}

fn extreme_samples() -> Vec<Sample> {
    let mut out = float_samples();
    let axis = |a| vec![("axis", Attr::Ints(vec![a]))];
    for d in [DType::I32, DType::I8, DType::U8, DType::I64] {
        out.push(sample(vec![ints(d, &[3, 4, 5], 2, 0, 9)], axis(1)));
        out.push(sample(vec![specials_of(d)], vec![]));
    }
    out
}

fn arg_samples() -> Vec<Sample> {
    let axis = |a| vec![("axis", Attr::Int(a))];
    let ties = [1.0, 3.0, 3.0, 0.0, 2.0, 2.0, 2.0, 2.0, -1.0, f64::NAN, 5.0, f64::NAN];
    vec![
        sample(vec![f32s(&[3, 4, 35], 1)], vec![]),
        sample(vec![f32s(&[3, 4, 35], 2)], axis(-1)),
        sample(vec![f32s(&[3, 4, 5], 3)], [axis(1), vec![("keepdims", Attr::Bool(true))]].concat()),
        sample(vec![tensor(DType::F32, &[3, 4], &ties)], axis(1)),
        sample(vec![tensor(DType::F32, &[3, 4], &ties)], axis(0)),
        sample(vec![ints(DType::I32, &[5, 6], 4, -3, 3)], axis(0)),
        sample(vec![ints(DType::U8, &[5, 6], 4, 0, 3)], axis(1)),
        sample(vec![uniform(DType::F16, &[2, 7], 5, -1.0, 1.0)], axis(1)),
        sample(vec![f32s(&[0, 5], 6)], axis(1)),
        sample(vec![f32s(&[], 6)], vec![]),
    ]
}

fn bool_samples() -> Vec<Sample> {
    let mut out: Vec<Sample> = axis_choices()
        .into_iter()
        .enumerate()
        .map(|(i, attrs)| sample(vec![bools(&[3, 4, 2], i as u64)], attrs))
        .collect();
    out.push(sample(vec![bools(&[3, 0], 1)], vec![("axis", Attr::Int(1))]));
    out.push(sample(vec![bools(&[], 1)], vec![]));
    out
}
