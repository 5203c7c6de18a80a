//! Orders: top_k, sort, argsort.
//!
//! All orders are stable and count NaN as the greatest number, −0 as equal to 0.

use std::cmp::Ordering;

use super::check::{data, f32s, sample};
use super::common::{attr, operand};
use super::number::{Number, widen, with_number};
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};
use crate::ir::scalar_eval::convert;

const AXIS: AttrSpec = attr("axis", AttrKind::Int, Preset::Int(-1), "the axis to order");
const DESCENDING: AttrSpec =
    attr("descending", AttrKind::Bool, Preset::Bool(false), "the greatest first");

pub static ROWS: &[OpRow] = &[
    OpRow {
        name: "top_k",
        doc: "The k greatest (or least) elements along an axis, in order, and their indices.",
        operands: &[operand("x", "any but bool")],
        attrs: &[
            attr("k", AttrKind::Int, Preset::Required, "how many"),
            AXIS,
            attr("largest", AttrKind::Bool, Preset::Bool(true), "the greatest; else the least"),
        ],
        results: &["values", "indices"],
        infer: infer_top_k,
        eval,
        class: |ctx| {
            let k = usize::try_from(ctx.op.int("k")).unwrap_or(0);
            Class::Sort(SortSpec { axis: plain_axis(ctx), k, descending: ctx.op.bool("largest") })
        },
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::EXACT,
        samples: top_k_samples,
    },
    OpRow {
        name: "sort",
        doc: "The elements along an axis in order, and their indices. Stable.",
        operands: &[operand("x", "any but bool")],
        attrs: &[AXIS, DESCENDING],
        results: &["values", "indices"],
        infer: infer_sort,
        eval,
        class: |ctx| {
            let axis = plain_axis(ctx);
            // All of them; while the extent is open, as many as there may be.
            let k = ctx.types[0].shape.0.get(axis).and_then(Dim::as_extent).unwrap_or(usize::MAX);
            Class::Sort(SortSpec { axis, k, descending: ctx.op.bool("descending") })
        },
        expand: None,
        gradient: Gradient::Unwritten,
        tolerance: Tolerance::EXACT,
        samples: sort_samples,
    },
    OpRow {
        name: "argsort",
        doc: "The indices that `sort` gives.",
        operands: &[operand("x", "any but bool")],
        attrs: &[AXIS, DESCENDING],
        results: &["indices"],
        infer: |ctx| infer_sort(ctx).map(|types| types[1..].to_vec()),
        eval: |ctx| {
            let axis = common::axis(ctx.op, ctx.op.int("axis"), ctx.operands[0].rank())?;
            let k = ctx.operands[0].shape()[axis];
            let spec = SortSpec { axis, k, descending: ctx.op.bool("descending") };
            Ok(ordered(&spec, &ctx.operands[0]).split_off(1))
        },
        class: |_| Class::Composite,
        expand: Some(|b, ctx| {
            let row = find("sort").expect("a row of this table");
            let op = Op { row, ..ctx.op.clone() };
            let node = b.push(op, ctx.operands.to_vec(), vec![])?;
            Ok(vec![Value { node, result: 1 }])
        }),
        gradient: Gradient::Zero("the result is indices"),
        tolerance: Tolerance::EXACT,
        samples: sort_samples,
    },
];

fn plain_axis(ctx: &OpCtx) -> usize {
    common::axis(ctx.op, ctx.op.int("axis"), ctx.types[0].rank()).unwrap_or(0)
}

fn infer_sort(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    ctx.same_number(&["x"])?;
    let x = ctx.need("x")?;
    ctx.axis(x.rank())?;
    Ok(vec![x.clone(), TensorType::new(DType::I64, x.shape.clone())])
}

fn infer_top_k(ctx: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    ctx.same_number(&["x"])?;
    let x = ctx.need("x")?;
    let (axis, k) = (ctx.axis(x.rank())?, ctx.op.int("k"));
    if k < 0 || x.shape.0[axis].as_const().is_some_and(|n| k > n) {
        let message = format!("{k} of {} elements along axis {axis}", x.shape.0[axis]);
        return Err(ctx.clash(message).help("`k` may be the extent of the axis at most"));
    }
    let mut dims = x.shape.0.clone();
    dims[axis] = Dim::Const(k);
    let shape = Shape(dims);
    Ok(vec![TensorType::new(x.dtype, shape.clone()), TensorType::new(DType::I64, shape)])
}

fn eval(ctx: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let Class::Sort(spec) = ctx.class() else { unreachable!("these rows are sorts") };
    let extent = ctx.operands[0].shape()[spec.axis];
    if spec.k > extent {
        // Only an extent that was open at inference can come to this.
        return Err(OpError::shape(format!("top_k: {} of {extent} elements", spec.k)));
    }
    Ok(ordered(&spec, &ctx.operands[0]))
}

/// Values and indices.
fn ordered(spec: &SortSpec, x: &Tensor) -> Vec<Tensor> {
    let n = x.shape()[spec.axis];
    let inner: usize = x.shape()[spec.axis + 1..].iter().product();
    let outer: usize = x.shape()[..spec.axis].iter().product();
    let mut shape = x.shape().to_vec();
    shape[spec.axis] = spec.k;
    let (dtype, wide) = (x.dtype(), widen(x));
    let mut indices = vec![0i64; outer * spec.k * inner];
    let values = with_number!(dtype, T => {
        let x = wide.as_slice::<T>();
        let mut values = vec![T::default(); indices.len()];
        for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            let at = |j: usize| x[(o * n + j) * inner + i];
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|a, b| {
                let less = compare(at(*a), at(*b));
                if spec.descending { less.reverse() } else { less }
            });
            for (rank, j) in order.into_iter().take(spec.k).enumerate() {
                let to = (o * spec.k + rank) * inner + i;
                (values[to], indices[to]) = (at(j), j as i64);
            }
        }
        Tensor::from_slice(&shape, &values)
    });
    vec![convert(&values, dtype), Tensor::from_slice(&shape, &indices)]
}

fn compare<T: Number>(a: T, b: T) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn hard() -> Tensor {
    let inf = f32::INFINITY;
    Tensor::from_slice(
        &[3, 4],
        &[1.0, f32::NAN, 1.0, -inf, 0.0, -0.0, 0.0, -0.0, inf, f32::NAN, f32::NAN, 2.0],
    )
}

fn top_k_samples() -> Vec<Sample> {
    let k = |n: i64| ("k", Attr::Int(n));
    let (axis, least) = (("axis", Attr::Int(0)), ("largest", Attr::Bool(false)));
    let mut samples = vec![
        sample([f32s(&[3, 7], 1)], &[k(3)]),
        sample([f32s(&[5, 2, 3], 2)], &[k(2), axis]),
        sample([f32s(&[3, 70], 3)], &[k(1), least.clone()]),
        sample([hard()], &[k(4)]),
        sample([hard()], &[k(3), least]),
        sample([f32s(&[3, 4], 1)], &[k(0)]),
        sample([f32s(&[0, 4], 1)], &[k(2)]),
    ];
    for dtype in [DType::F64, DType::BF16, DType::I8, DType::U8, DType::I64] {
        samples.push(sample([data(dtype, &[2, 30], 4)], &[k(9)]));
    }
    samples
}

fn sort_samples() -> Vec<Sample> {
    let down = ("descending", Attr::Bool(true));
    let mut samples = vec![
        sample([f32s(&[3, 7], 1)], &[]),
        sample([f32s(&[5, 2, 3], 2)], &[("axis", Attr::Int(0)), down.clone()]),
        sample([hard()], &[]),
        sample([hard()], &[down]),
        sample([f32s(&[3, 0], 1)], &[]),
        sample([f32s(&[1], 1)], &[]),
    ];
    for dtype in [DType::F64, DType::F16, DType::I32, DType::U16] {
        samples.push(sample([data(dtype, &[2, 40], 4)], &[]));
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_greatest_and_equals_keep_their_order() {
        let run = |descending| {
            let spec = SortSpec { axis: 1, k: 4, descending };
            ordered(&spec, &hard())[1].as_slice::<i64>().to_vec()
        };
        assert_eq!(run(false), [3, 0, 2, 1, 0, 1, 2, 3, 3, 0, 1, 2]);
        assert_eq!(run(true), [1, 0, 2, 3, 0, 1, 2, 3, 1, 2, 0, 3]);
    }
}
