//! Sums and products of everything up to each element.
//!
//! The expansion doubles: after step k each element holds the last 2^k elements (Hillis and Steele,
//! "Data parallel algorithms", 1986), so that it needs views and additions only.

use super::common::*;
use super::sample::*;
use super::view_eval::for_each_point;
use super::*;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar::ScalarFn;
use crate::ir::scalar_eval::{Scalar, convert, for_dtype};

const ATTRS: &[AttrSpec] = &[
    attr("axis", AttrKind::Int, Preset::Required, "the axis, negative counted from the end"),
    attr("exclusive", AttrKind::Bool, Preset::Bool(false), "without the element itself"),
    attr("reverse", AttrKind::Bool, Preset::Bool(false), "from the end of the axis"),
];

const X: &[OperandSpec] = &[operand("x", "numbers of any shape")];

const fn row(
    name: &'static str,
    eval: fn(&EvalCtx) -> Result<Vec<Tensor>, OpError>,
    expand: Expand,
    doc: &'static str,
) -> OpRow {
    OpRow {
        name,
        doc,
        operands: X,
        attrs: ATTRS,
        results: &["y"],
        infer,
        eval,
        class: |_| Class::Composite,
        expand: Some(expand),
        gradient: Gradient::Expansion,
        tolerance: Tolerance::SUM,
        samples,
    }
}

pub static ROWS: &[OpRow] = &[
    row(
        "cumsum",
        |c| eval(c, ScalarFn::Add, 0.0),
        |b, c| expand(b, c, "add", 0.0),
        "Each element is the sum of all up to it along an axis. Integers keep their dtype and wrap.",
    ),
    row(
        "cumprod",
        |c| eval(c, ScalarFn::Mul, 1.0),
        |b, c| expand(b, c, "mul", 1.0),
        "Each element is the product of all up to it along an axis. Integers keep their dtype and wrap.",
    ),
];

fn infer(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let x = &c.types[0];
    expect_dtype(c.op, "x", x, Domain::Number)?;
    axis(c.op, c.op.int("axis"), x.rank())?;
    Ok(vec![x.clone()])
}

fn eval(c: &EvalCtx, f: ScalarFn, start: f64) -> Result<Vec<Tensor>, OpError> {
    let x = convert(&c.operands[0], c.operands[0].dtype().compute());
    let axis = axis(c.op, c.op.int("axis"), x.rank())?;
    let (exclusive, reverse) = (c.op.bool("exclusive"), c.op.bool("reverse"));
    let (n, inner) = (x.shape()[axis], x.shape()[axis + 1..].iter().product::<usize>());
    let mut lines = x.shape().to_vec();
    lines[axis] = 1;
    let y = for_dtype!(x.dtype(), T => {
        let (data, start) = (x.as_slice::<T>(), T::from_num(crate::ir::scalar_eval::Num::Float(start)));
        let mut out = vec![start; data.len()];
        for_each_point(&lines, |line, _| {
            let first = line / inner * n * inner + line % inner;
            let mut sum = start;
            for k in 0..n {
                let i = first + inner * if reverse { n - 1 - k } else { k };
                let next = T::binary(f, sum, data[i]);
                out[i] = if exclusive { sum } else { next };
                sum = next;
            }
        });
        Tensor::from_slice(x.shape(), &out)
    });
    Ok(vec![convert(&y, c.operands[0].dtype())])
}

fn expand(b: &mut Builder, c: &ExpandCtx, f: &str, start: f64) -> Result<Vec<Value>, OpError> {
    let x = &c.types[0];
    let axis = axis(c.op, c.op.int("axis"), x.rank())?;
    let n = x.shape.0[axis].as_const().ok_or_else(|| {
        OpError::shape(format!("`{}` along an open dimension", c.op.row.name))
            .note(format!("`x` is {x}"))
            .help("bind the dimension")
    })?;
    let neutral = b.scalar(x.dtype.compute(), start);
    let mut y = b.cast(c.operands[0], x.dtype.compute())?;
    // By one element, what comes in being neutral; the last element falls off.
    let shifted = |b: &mut Builder, y: Value, by: i64| {
        let mut pad = vec![0; 2 * x.rank()];
        let (before, after) = (2 * axis, 2 * axis + 1);
        let (grows, shrinks) = if c.op.bool("reverse") { (after, before) } else { (before, after) };
        (pad[grows], pad[shrinks]) = (by, -by);
        b.op("pad_with", &[y, neutral], &[("pad", Attr::Ints(pad))])
    };
    if c.op.bool("exclusive") && n > 0 {
        y = shifted(b, y, 1)?;
    }
    let mut reach = 1;
    while reach < n {
        let earlier = shifted(b, y, reach)?;
        y = b.bin(f, earlier, y)?;
        reach *= 2;
    }
    Ok(vec![b.cast(y, x.dtype)?])
}

fn samples() -> Vec<Sample> {
    let along = |a| ("axis", Attr::Int(a));
    let flag = |name| (name, Attr::Bool(true));
    vec![
        sample(vec![f32s(&[3, 7], 1)], vec![along(1)]),
        sample(vec![f32s(&[5, 2, 3], 2)], vec![along(0), flag("reverse")]),
        sample(vec![f32s(&[4, 6], 3)], vec![along(-1), flag("exclusive")]),
        sample(
            vec![ints(DType::I32, &[9], 4, -3, 3)],
            vec![along(0), flag("exclusive"), flag("reverse")],
        ),
        sample(vec![uniform(DType::F16, &[2, 5], 5, -1.0, 1.0)], vec![along(1)]),
        sample(vec![f32s(&[2, 0], 6)], vec![along(1)]),
    ]
}
