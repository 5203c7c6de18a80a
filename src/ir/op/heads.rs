//! To the layout of attention and back: composites of reshapes, slices and transposes.

use super::arrange::{MOST_PARTS, composite, dim, int, take_part};
use super::common::*;
use super::sample::*;
use super::view_eval::{copy_by, offset};
use super::*;
use crate::base::Shape;
use crate::ir::attr::{AttrKind, Preset};

pub static ROWS: &[OpRow] = &[
    OpRow {
        operands: &[operand("x", "[…, seq, parts * heads * dim]")],
        results: &["part"],
        ..composite(
            "split_heads",
            &[
                attr("heads", AttrKind::Int, Preset::Required, "attention heads"),
                attr(
                    "parts",
                    AttrKind::Int,
                    Preset::Int(1),
                    "tensors that lie side by side in the last axis: 3 for queries, keys, values",
                ),
            ],
            infer_split_heads,
            eval_split_heads,
            expand_split_heads,
            head_samples,
            "To the layout of attention: each part becomes `[…, heads, seq, dim]`, one result each.",
        )
    },
    OpRow {
        operands: &[operand("x", "[…, heads, seq, dim]")],
        ..composite(
            "merge_heads",
            &[],
            infer_merge,
            eval_merge,
            expand_merge,
            merge_samples,
            "From the layout of attention back to `[…, seq, heads * dim]`.",
        )
    },
];

/// Extent of one head.
fn head_dim(c: &Op, x: &TensorType) -> Result<Dim, OpError> {
    expect_rank(c, "x", x, 2)?;
    let (heads, parts) = (c.int("heads"), c.int("parts"));
    let bad = !(1..=MOST_PARTS).contains(&parts) || !(1..=i64::from(u32::MAX)).contains(&heads);
    if bad {
        return Err(OpError::attr(format!("`split_heads` into {parts} parts of {heads} heads")));
    }
    let last = &x.shape.0[x.rank() - 1];
    last.div_exact(&Dim::Const(heads * parts)).ok_or_else(|| {
        OpError::shape(format!(
            "`split_heads`: the last axis, of extent {last}, does not divide into {parts} × {heads} heads"
        ))
        .note(format!("`x` is {x}"))
    })
}

fn infer_split_heads(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let x = &c.types[0];
    let d = head_dim(c.op, x)?;
    let (lead, rank) = (&x.shape.0[..x.rank() - 2], x.rank());
    let tail = [Dim::Const(c.op.int("heads")), x.shape.0[rank - 2].clone(), d];
    let part = TensorType::new(x.dtype, Shape([lead, &tail].concat()));
    Ok(vec![part; c.op.int("parts") as usize])
}

fn eval_split_heads(c: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let x = &c.operands[0];
    let part = |p: usize| {
        let shape = c.result_shape(p);
        let rank = shape.len();
        let (heads, d) = (shape[rank - 3], shape[rank - 1]);
        copy_by(x, &shape, |at| {
            let column = (p * heads + at[rank - 3]) * d + at[rank - 1];
            let from = [&at[..rank - 3], &[at[rank - 2], column]].concat();
            offset(x.shape(), &from)
        })
    };
    Ok((0..c.results.len()).map(part).collect())
}

/// `[…, seq, parts · heads · dim]` → `[…, seq, parts, heads, dim]` → a part → heads before seq.
fn expand_split_heads(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let x = &c.types[0];
    let d = head_dim(c.op, x)?;
    let (heads, parts) = (Dim::Const(c.op.int("heads")), c.op.int("parts"));
    let lead = &x.shape.0[..x.rank() - 1];
    let one = Shape([lead, &[heads.clone(), d.clone()]].concat());
    let all = Shape([lead, &[Dim::Const(parts), heads, d]].concat());
    let apart = b.reshape(c.operands[0], if parts == 1 { &one } else { &all })?;
    (0..parts as usize)
        .map(|p| {
            let part = if parts == 1 { apart } else { take_part(b, apart, lead.len(), p, &one)? };
            swap_before_last(b, part)
        })
        .collect()
}

/// Axes -3 and -2 change places.
fn swap_before_last(b: &mut Builder, x: Value) -> Result<Value, OpError> {
    let n = b.ty(x).rank() as i64;
    let perm = (0..n - 3).chain([n - 2, n - 3, n - 1]).collect();
    b.op("transpose", &[x], &[("perm", Attr::Ints(perm))])
}

fn infer_merge(c: &OpCtx) -> Result<Vec<TensorType>, OpError> {
    let x = &c.types[0];
    expect_rank(c.op, "x", x, 3)?;
    let (lead, tail) = x.shape.0.split_at(x.rank() - 3);
    let width = dim(tail[0].mul(&tail[2]))?;
    Ok(vec![TensorType::new(x.dtype, Shape([lead, &[tail[1].clone(), width]].concat()))])
}

fn eval_merge(c: &EvalCtx) -> Result<Vec<Tensor>, OpError> {
    let x = &c.operands[0];
    let d = x.shape()[x.rank() - 1];
    let from = |at: &[usize]| {
        let (lead, tail) = at.split_at(at.len() - 2);
        offset(x.shape(), &[lead, &[tail[1] / d, tail[0], tail[1] % d]].concat())
    };
    Ok(vec![copy_by(x, &c.result_shape(0), from)])
}

fn expand_merge(b: &mut Builder, c: &ExpandCtx) -> Result<Vec<Value>, OpError> {
    let x = swap_before_last(b, c.operands[0])?;
    Ok(vec![b.reshape(x, &c.results[0].shape)?])
}

// ---- Samples -----------------------------------------------------------------------------------

fn head_samples() -> Vec<Sample> {
    let split = |h, p| vec![int("heads", h), int("parts", p)];
    vec![
        sample(vec![f32s(&[2, 5, 24], 1)], split(2, 3)),
        sample(vec![f32s(&[5, 12], 1)], split(3, 1)),
        sample(vec![f32s(&[2, 3, 1, 8], 1)], split(1, 2)),
    ]
}

fn merge_samples() -> Vec<Sample> {
    vec![sample(vec![f32s(&[2, 3, 5, 4], 1)], vec![]), sample(vec![f32s(&[3, 1, 4], 1)], vec![])]
}
