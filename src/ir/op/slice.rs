//! Parts of axes: slices by numbers known at compile time, flips, slices from a run-time start.

use super::common::*;
use super::sample::*;
use super::view::{ints_attr, of_shape, one_axis, row};
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};

pub static ROWS: &[OpRow] = &[
    row(
        "slice",
        &[
            attr(
                "starts",
                AttrKind::Ints,
                Preset::Required,
                "the first index along each of `axes`",
            ),
            attr(
                "ends",
                AttrKind::Ints,
                Preset::None,
                "one past the last index (with a negative step: one before it); absent: to the end",
            ),
            attr(
                "axes",
                AttrKind::Ints,
                Preset::None,
                "the axes; absent: the first ones, in order",
            ),
            attr(
                "steps",
                AttrKind::Ints,
                Preset::None,
                "the distances, negative ones run backwards; absent: 1",
            ),
        ],
        infer_slice,
        |c| Class::View(slice_view(c)),
        slice_samples,
        "Parts of axes, as NumPy slices: negative indices count from the end, and both are clamped. \
         The end that includes index 0 under a negative step is -9223372036854775808.",
    ),
    row(
        "flip",
        &[attr("axis", AttrKind::Ints, Preset::None, "the axes to turn around; absent: all")],
        |c| {
            axes(c.op, "axis", c.types[0].rank())?;
            Ok(vec![c.types[0].clone()])
        },
        |c| Class::View(flip_view(c)),
        flip_samples,
        "Turns the order of elements around along axes.",
    ),
    OpRow {
        operands: &[
            operand("x", "at least one axis"),
            operand("start", "an integer scalar; clamped so that the slice fits"),
        ],
        ..row(
            "dynamic_slice",
            &[
                attr("size", AttrKind::Int, Preset::Required, "how many elements along the axis"),
                attr("axis", AttrKind::Int, Preset::Int(0), "the axis to slice"),
            ],
            infer_dynamic,
            |c| Class::View(View::DynamicSlice { axis: one_axis(c) }),
            dynamic_samples,
            "A slice of fixed size whose start along one axis is known only at run time.",
        )
    },
];

/// Along one axis: first index, step, extent.
type Range = (i64, i64, Dim);

fn ranges(c: &OpCtx) -> Result<Vec<Range>, OpError> {
    let x = &c.types[0];
    let starts = c.op.ints("starts");
    let absent = |name: &str| matches!(c.op.attr(name), Attr::None);
    let named: Vec<usize> = match absent("axes") {
        true => {
            (0..starts.len() as i64).map(|a| axis(c.op, a, x.rank())).collect::<Result<_, _>>()?
        }
        false => {
            c.op.ints("axes").iter().map(|&a| axis(c.op, a, x.rank())).collect::<Result<_, _>>()?
        }
    };
    let n = starts.len();
    let steps = if absent("steps") { vec![1; n] } else { c.op.ints("steps") };
    let open_end = |&s: &i64| if s < 0 { i64::MIN } else { i64::MAX };
    let ends =
        if absent("ends") { steps.iter().map(open_end).collect() } else { c.op.ints("ends") };
    let mut out: Vec<Range> = x.shape.0.iter().map(|d| (0, 1, d.clone())).collect();
    if [named.len(), steps.len(), ends.len()].iter().any(|&l| l != n) {
        return Err(OpError::attr("`slice` has lists of different lengths")
            .help("starts, ends, axes and steps have one entry for each axis"));
    }
    for (k, &a) in named.iter().enumerate() {
        if named[..k].contains(&a) {
            return Err(OpError::attr(format!("`slice` names axis {a} twice")));
        }
        if steps[k] == 0 || steps[k] == i64::MIN {
            return Err(OpError::attr(format!("`slice` has step {} along axis {a}", steps[k])));
        }
        out[a] = match x.shape.0[a].as_const() {
            Some(n) => range(starts[k], ends[k], steps[k], n),
            None => open_range(starts[k], ends[k], steps[k], &x.shape.0[a]).ok_or_else(|| {
                OpError::shape(format!("`slice` of axis {a} needs its extent, which is open"))
                    .note(format!("`x` is {x}"))
                    .help("bind the dimension, or slice with step 1")
            })?,
        };
    }
    Ok(out)
}

/// NumPy's rule on an axis of n elements.
fn range(start: i64, end: i64, step: i64, n: i64) -> Range {
    let (least, most) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let at = |v: i64| (if v < 0 { v.saturating_add(n) } else { v }).clamp(least, most);
    let (s, e) = (at(start), at(end));
    let distance = if step > 0 { e - s } else { s - e };
    let extent = if distance > 0 { (distance - 1) / step.abs() + 1 } else { 0 };
    // A step that is never taken may be of any size; the index maps multiply by it.
    (s, if extent > 1 { step } else { 1 }, Dim::Const(extent))
}

/// The same on an open extent, where the indices are taken to lie inside: clamping would depend on
/// what is not known. A start below 0 stays so until the extent is bound.
fn open_range(start: i64, end: i64, step: i64, n: &Dim) -> Option<Range> {
    if step == -1 && end == i64::MIN && (start == -1 || start == i64::MAX) {
        return Some((-1, -1, n.clone()));
    }
    // Which of a place from the end and a place from the start comes first is not known.
    if step < 1 || start < 0 && (0..i64::MAX).contains(&end) {
        return None;
    }
    let at = |v: i64| if v < 0 { n.add(&Dim::Const(v)) } else { Some(Dim::Const(v)) };
    let end = if end == i64::MAX { n.clone() } else { at(end)? };
    let distance = end.sub(&at(start)?)?;
    let extent = match distance.as_const() {
        Some(d) => Dim::Const(if d > 0 { (d - 1) / step + 1 } else { 0 }),
        None if step == 1 => distance,
        None => distance.add(&Dim::Const(step - 1))?.floor_div(&Dim::Const(step))?,
    };
    Some((start, step, extent))
}

fn infer_slice(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    of_shape(c, Shape(ranges(c)?.into_iter().map(|(_, _, d)| d).collect()))
}

fn slice_view(c: &OpCtx) -> View {
    let ranges = ranges(c).expect("inference checked the ranges");
    View::Slice {
        starts: ranges.iter().map(|r| r.0).collect(),
        steps: ranges.iter().map(|r| r.1).collect(),
    }
}

fn flip_view(c: &OpCtx) -> View {
    let dims = &c.types[0].shape.0;
    let axes = axes(c.op, "axis", dims.len()).expect("inference checked the axes");
    let flipped = |i: &usize| axes.binary_search(i).is_ok();
    let last = |i: usize| dims[i].as_const().map_or(-1, |n| n - 1);
    View::Slice {
        starts: (0..dims.len()).map(|i| if flipped(&i) { last(i) } else { 0 }).collect(),
        steps: (0..dims.len()).map(|i| if flipped(&i) { -1 } else { 1 }).collect(),
    }
}

fn infer_dynamic(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let (x, start) = (&c.types[0], &c.types[1]);
    let axis = axis(c.op, c.op.int("axis"), x.rank())?;
    expect_dtype(c.op, "start", start, Domain::Int)?;
    if start.rank() != 0 {
        return Err(OpError::shape(format!(
            "`{}` starts at one place, but `start` is {start}",
            c.op.row.name
        )));
    }
    let size = c.op.int("size");
    if size < 0 || x.shape.0[axis].as_const().is_some_and(|n| n < size) {
        return Err(OpError::shape(format!(
            "`{}` of {size} elements along axis {axis}",
            c.op.row.name
        ))
        .note(format!("`x` is {x}")));
    }
    let mut shape = x.shape.clone();
    shape.0[axis] = Dim::Const(size);
    of_shape(c, shape)
}

// ---- Samples -----------------------------------------------------------------------------------

fn slice_samples() -> Vec<Sample> {
    let case = |s: &[i64], e: &[i64], more: Vec<(&'static str, Attr)>| {
        let attrs = [vec![ints_attr("starts", s), ints_attr("ends", e)], more].concat();
        sample(vec![f32s(&[4, 7, 5], 1)], attrs)
    };
    let axes = |v: &[i64]| ints_attr("axes", v);
    let steps = |v: &[i64]| ints_attr("steps", v);
    vec![
        case(&[1, 2], &[3, 7], vec![]),
        case(&[-2], &[i64::MAX], vec![axes(&[2])]),
        case(&[0, 1], &[-1, 6], vec![axes(&[-1, 1]), steps(&[2, 3])]),
        case(&[-1], &[i64::MIN], vec![axes(&[1]), steps(&[-2])]),
        case(&[5], &[1], vec![axes(&[1]), steps(&[-1])]),
        case(&[3], &[2], vec![]),
        case(&[-100], &[100], vec![axes(&[1])]),
        sample(vec![f32s(&[4, 3], 1)], vec![ints_attr("starts", &[1])]),
        sample(
            vec![ints(DType::U8, &[9], 1, 0, 9)],
            vec![("starts", Attr::Int(2)), ("ends", Attr::Int(5))],
        ),
    ]
}

fn flip_samples() -> Vec<Sample> {
    vec![
        sample(vec![f32s(&[3, 4], 1)], vec![]),
        sample(vec![f32s(&[3, 4, 5], 1)], vec![ints_attr("axis", &[0, -1])]),
        sample(vec![f32s(&[0, 4], 1)], vec![]),
    ]
}

fn dynamic_samples() -> Vec<Sample> {
    let case = |at: i64, size, axis| {
        let start = Tensor::from_slice(&[], &[at as i32]);
        sample(
            vec![f32s(&[5, 6], 1), start],
            vec![("size", Attr::Int(size)), ("axis", Attr::Int(axis))],
        )
    };
    vec![case(1, 2, 0), case(9, 4, 1), case(-3, 4, -1), case(2, 0, 0), case(3, 5, 0)]
}
