//! Padding: three views of class `Pad`, and `pad`, which users call and which expands to them.
//!
//! Widths are pairs (before, after), axis by axis from the first; NumPy's order, flattened.

use super::common::*;
use super::sample::*;
use super::view::{X, row};
use super::view_eval::{for_each_point, offset};
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar_eval::{Num, Scalar, for_dtype};

const PAD: AttrSpec = attr(
    "pad",
    AttrKind::Ints,
    Preset::Required,
    "elements before and after each axis, from the first axis on: [b0, a0, b1, a1, …]",
);

/// A part of the view for each of inside, before and after, on each padded axis: with k axes 3^k.
const AXES_AT_ONCE: usize = 3;

pub static ROWS: &[OpRow] = &[
    OpRow {
        name: "pad",
        doc: "Adds elements around x. `constant`: they are `value`; `replicate`: the nearest \
              element; `reflect`: mirrored at the edge, which is not repeated; `circular`: from the \
              other end. Negative widths crop, in the mode `constant`.",
        operands: X,
        attrs: &[
            PAD,
            attr(
                "mode",
                AttrKind::Word(&["constant", "replicate", "reflect", "circular"]),
                Preset::Str("constant"),
                "what the new elements are",
            ),
            attr(
                "value",
                AttrKind::Float,
                Preset::Float(0.0),
                "the new elements, in the mode `constant`",
            ),
        ],
        results: &["y"],
        infer: |c| infer(c, mode_of(c.op)),
        eval,
        class: |_| Class::Composite,
        expand: Some(expand),
        gradient: Gradient::Expansion,
        tolerance: Tolerance::EXACT,
        samples,
    },
    OpRow {
        operands: &[operand("x", "any shape"), operand("value", "a scalar of the dtype of x")],
        ..row(
            "pad_with",
            &[PAD],
            infer_with,
            |c| view(c, PadMode::Constant),
            with_samples,
            "Adds elements of one value, known only at run time, around x. Negative widths crop.",
        )
    },
    row(
        "pad_edge",
        &[PAD],
        |c| infer_mode(c, Mode::Replicate),
        |c| view(c, PadMode::Edge),
        mode_samples,
        "Repeats the outermost elements; along at most three axes. See `pad`.",
    ),
    row(
        "pad_reflect",
        &[PAD],
        |c| infer_mode(c, Mode::Reflect),
        |c| view(c, PadMode::Reflect),
        mode_samples,
        "Mirrors x at its edges, which are not repeated; along at most three axes. See `pad`.",
    ),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Constant,
    Replicate,
    Reflect,
    Circular,
}

fn mode_of(op: &Op) -> Mode {
    match op.str("mode") {
        "replicate" => Mode::Replicate,
        "reflect" => Mode::Reflect,
        "circular" => Mode::Circular,
        _ => Mode::Constant,
    }
}

/// (before, after) for each axis.
fn widths(op: &Op, x: &TensorType) -> Result<Vec<(i64, i64)>, OpError> {
    let pad = op.ints("pad");
    if pad.len() != 2 * x.rank() {
        return Err(OpError::attr(format!(
            "`{}` has {} widths for an operand of rank {}",
            op.row.name,
            pad.len(),
            x.rank()
        ))
        .note(format!("`x` is {x}"))
        .help(
            "give two for each axis, from the first axis on: [before, after, before, after, …]",
        ));
    }
    // Far beyond any memory, and far from where index arithmetic overflows.
    if pad.iter().any(|w| w.unsigned_abs() > 1 << 48) {
        return Err(OpError::overflow());
    }
    Ok(pad.chunks(2).map(|w| (w[0], w[1])).collect())
}

fn infer(c: &OpCtx, mode: Mode) -> Result<Vec<TensorType>, OpError> {
    let x = &c.types[0];
    let mut dims = vec![];
    for (axis, ((lo, hi), d)) in widths(c.op, x)?.into_iter().zip(&x.shape.0).enumerate() {
        let n = d.as_const();
        let (most, why) = match mode {
            Mode::Constant => (i64::MAX, ""),
            Mode::Replicate => {
                (if n == Some(0) { 0 } else { i64::MAX }, "there is no element to repeat")
            }
            Mode::Reflect => {
                (n.map_or(i64::MAX, |n| (n - 1).max(0)), "a reflection reaches to the other edge")
            }
            Mode::Circular => (n.unwrap_or(i64::MAX), "a circle goes around once"),
        };
        if lo > most || hi > most || mode != Mode::Constant && (lo < 0 || hi < 0) {
            let message = format!("`{}` of axis {axis} by ({lo}, {hi})", c.op.row.name);
            let why = if lo < 0 || hi < 0 { "only the mode `constant` crops" } else { why };
            return Err(OpError::attr(message).note(format!("`x` is {x}")).help(why));
        }
        let total = lo.checked_add(hi).and_then(|w| d.add(&Dim::Const(w)));
        let total = total.ok_or_else(OpError::overflow)?;
        if total.as_const().is_some_and(|v| v < 0) {
            return Err(OpError::shape(format!(
                "`{}` crops axis {axis}, of extent {d}, to {total}",
                c.op.row.name
            )));
        }
        dims.push(total);
    }
    Ok(vec![TensorType::new(x.dtype, Shape(dims))])
}

fn infer_with(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    one_dtype(c.op, c.types)?;
    if c.types[1].rank() != 0 {
        let message = format!("`pad_with` takes one value, but it is {}", c.types[1]);
        return Err(OpError::shape(message));
    }
    infer(c, Mode::Constant)
}

fn infer_mode(c: &OpCtx, mode: Mode) -> Result<Vec<TensorType>, OpError> {
    let padded = widths(c.op, &c.types[0])?.iter().filter(|w| **w != (0, 0)).count();
    if padded > AXES_AT_ONCE {
        let message = format!("`{}` along {padded} axes at once", c.op.row.name);
        return Err(OpError::attr(message).help("use `pad`, which does a few after the others"));
    }
    infer(c, mode)
}

fn view(c: &OpCtx, mode: PadMode) -> Class {
    let widths = widths(c.op, &c.types[0]).expect("inference checked the widths");
    Class::View(View::Pad { lo: widths.iter().map(|w| w.0).collect(), mode })
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let x = &ctx.operands[0];
    let (widths, mode) = (widths(ctx.op, &x.ty())?, mode_of(ctx.op));
    let shape = ctx.result_shape(0);
    Ok(vec![for_dtype!(x.dtype(), T => {
        let (data, fill) = (x.as_slice::<T>(), T::from_num(Num::Float(ctx.op.float("value"))));
        let mut out = Vec::with_capacity(shape.iter().product());
        for_each_point(&shape, |_, at| {
            let from: Option<Vec<usize>> = (at.iter().zip(&widths).zip(x.shape()))
                .map(|((&i, &(lo, _)), &n)| source(i as i64 - lo, n as i64, mode))
                .collect();
            out.push(from.map_or(fill, |from| data[offset(x.shape(), &from)]));
        });
        Tensor::from_slice(&shape, &out)
    })])
}

/// The index along an axis of n elements that stands at `i`; `None`: the fill value.
fn source(i: i64, n: i64, mode: Mode) -> Option<usize> {
    let inside = (0..n).contains(&i);
    let at = match mode {
        _ if inside => i,
        Mode::Constant => return None,
        Mode::Replicate => i.clamp(0, n - 1),
        Mode::Reflect if i < 0 => -i,
        Mode::Reflect => 2 * (n - 1) - i,
        Mode::Circular => i.rem_euclid(n),
    };
    Some(at as usize)
}

fn expand(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let (x, widths) = (c.operands[0], widths(c.op, &c.types[0])?);
    let (name, mode) = match mode_of(c.op) {
        Mode::Constant => {
            let value = b.scalar(c.types[0].dtype, c.op.float("value"));
            return Ok(vec![b.op(
                "pad_with",
                &[x, value],
                &[("pad", c.op.attr("pad").clone())],
            )?]);
        }
        Mode::Replicate => ("pad_edge", Mode::Replicate),
        Mode::Reflect => ("pad_reflect", Mode::Reflect),
        Mode::Circular => ("concat", Mode::Circular),
    };
    let padded: Vec<usize> = (0..widths.len()).filter(|&a| widths[a] != (0, 0)).collect();
    if mode == Mode::Circular {
        return Ok(vec![padded.iter().try_fold(x, |x, &axis| circular(b, x, axis, widths[axis]))?]);
    }
    let some = |b: &mut Builder, x: Value, axes: &[usize]| {
        let pair = |a: usize| if axes.contains(&a) { [widths[a].0, widths[a].1] } else { [0, 0] };
        let pad = Attr::Ints((0..widths.len()).flat_map(pair).collect());
        b.op(name, &[x], &[("pad", pad)])
    };
    Ok(vec![padded.chunks(AXES_AT_ONCE).try_fold(x, |x, axes| some(b, x, axes))?])
}

/// The last elements, all of them, the first ones.
fn circular(b: &mut Builder, x: Value, axis: usize, w: (i64, i64)) -> Result<Value, OpError> {
    let along = ("axes", Attr::Ints(vec![axis as i64]));
    let mut parts = vec![x];
    if w.0 > 0 {
        let starts = ("starts", Attr::Ints(vec![-w.0]));
        parts.insert(0, b.op("slice", &[x], &[starts, along.clone()])?);
    }
    if w.1 > 0 {
        let range = [("starts", Attr::Ints(vec![0])), ("ends", Attr::Ints(vec![w.1])), along];
        parts.push(b.op("slice", &[x], &range)?);
    }
    b.op("concat", &parts, &[("axis", Attr::Int(axis as i64))])
}

// ---- Samples -----------------------------------------------------------------------------------

fn pad_attr(widths: &[i64]) -> (&'static str, Attr) {
    ("pad", Attr::Ints(widths.to_vec()))
}

fn samples() -> Vec<Sample> {
    let mode = |m: &str| ("mode", Attr::Str(m.into()));
    let x = || f32s(&[2, 4, 5], 1);
    let wide = || pad_attr(&[0, 0, 1, 2, 3, 1]);
    let mut out: Vec<Sample> = ["constant", "replicate", "reflect", "circular"]
        .map(|m| sample(vec![x()], vec![wide(), mode(m)]))
        .into();
    let value = ("value", Attr::Float(-2.5));
    out.push(sample(vec![x()], vec![pad_attr(&[1, 0, 0, 0, 0, 2]), value.clone()]));
    out.push(sample(vec![x()], vec![pad_attr(&[0, 0, -1, 2, 1, -3])]));
    out.push(sample(vec![ints(DType::I32, &[3], 1, 0, 9)], vec![pad_attr(&[2, 2]), value]));
    out.push(sample(vec![f32s(&[0, 2], 1)], vec![pad_attr(&[1, 1, 0, 0])]));
    let four = || vec![f32s(&[2, 3, 2, 3], 1)];
    out.push(sample(four(), vec![pad_attr(&[1, 0, 2, 1, 0, 1, 1, 1]), mode("reflect")]));
    out.push(sample(four(), vec![pad_attr(&[1, 0, 2, 1, 0, 3, 1, 1]), mode("replicate")]));
    out
}

fn with_samples() -> Vec<Sample> {
    let value = || Tensor::from_slice(&[], &[f32::NEG_INFINITY]);
    vec![
        sample(vec![f32s(&[3, 4], 1), value()], vec![pad_attr(&[1, 2, 0, 3])]),
        sample(vec![f32s(&[3, 4], 1), value()], vec![pad_attr(&[-1, 2, 1, -2])]),
        sample(vec![f32s(&[3, 4], 1), value()], vec![pad_attr(&[0, -1, 0, 0])]),
        sample(vec![f32s(&[], 1), value()], vec![pad_attr(&[])]),
    ]
}

fn mode_samples() -> Vec<Sample> {
    vec![
        sample(vec![f32s(&[3, 4], 1)], vec![pad_attr(&[1, 2, 3, 0])]),
        sample(vec![f32s(&[3, 4], 1)], vec![pad_attr(&[0, 0, 2, 3])]),
        sample(vec![f32s(&[2, 3, 3], 1)], vec![pad_attr(&[1, 1, 2, 0, 0, 2])]),
        sample(vec![f32s(&[3], 1)], vec![pad_attr(&[0, 0])]),
    ]
}
