//! Equations of views. All are exact: elements only move.

use super::{Found, Site};
use crate::base::Dim;
use crate::ir::op::View;
use crate::ir::{Attr, Value};

pub fn simplify(s: &mut Site, view: &View) -> Found {
    match view {
        View::Reshape => reshape(s),
        View::Transpose(perm) => transpose(s, perm),
        View::Relayout { .. } => Ok(None),
        View::Broadcast => broadcast(s),
        View::Slice { starts, steps } => slice(s, starts, steps),
        View::Pad { lo, .. } => match lo.iter().all(|l| *l == 0) {
            true => s.becomes(s.operand(0), "pad(x, 0) = x"),
            false => Ok(None),
        },
        View::Concat { axis } => concat(s, *axis),
        View::DynamicSlice { .. } => s.becomes(s.operand(0), "dynamic_slice(x, all) = x"),
    }
}

fn make(s: &mut Site, name: &str, operands: &[Value], attrs: &[(&str, Attr)]) -> Found {
    let wanted = s.result().clone();
    let v = s.builder().op(name, operands, attrs)?;
    debug_assert_eq!(*s.ty(v), wanted, "a rewrite keeps the type");
    Ok(Some(vec![v]))
}

fn dims(s: &Site) -> Attr {
    Attr::Dims(s.result().shape.0.clone())
}

fn ints(v: impl IntoIterator<Item = i64>) -> Attr {
    Attr::Ints(v.into_iter().collect())
}

fn reshape(s: &mut Site) -> Found {
    let x = s.operand(0);
    if let Some(found) = s.becomes(x, "reshape(x, shape of x) = x")? {
        return Ok(Some(found));
    }
    match s.view(x) {
        Some((View::Reshape, inner)) if s.cx.allow("reshape(reshape(x)) = reshape(x)") => {
            let shape = dims(s);
            make(s, "reshape", &[inner[0]], &[("shape", shape)])
        }
        _ => Ok(None),
    }
}

fn transpose(s: &mut Site, perm: &[usize]) -> Found {
    let x = s.operand(0);
    if perm.iter().enumerate().all(|(i, p)| i == *p) {
        return s.becomes(x, "transpose(x, identity) = x");
    }
    // Axes of extent 1 may stand anywhere: the others keep their order.
    let one = |p: &&usize| s.ty(x).shape.dims()[**p] != Dim::ONE;
    if perm.iter().filter(one).is_sorted()
        && s.cx.allow("transpose(x) = reshape(x), only axes of extent 1 move")
    {
        let shape = dims(s);
        return make(s, "reshape", &[x], &[("shape", shape)]);
    }
    match s.view(x) {
        Some((View::Transpose(first), inner))
            if s.cx.allow("transpose(transpose(x, p), q) = transpose(x, p[q])") =>
        {
            let both = ints(perm.iter().map(|p| first[*p] as i64));
            make(s, "transpose", &[inner[0]], &[("perm", both)])
        }
        _ => Ok(None),
    }
}

fn broadcast(s: &mut Site) -> Found {
    let x = s.operand(0);
    if let Some(found) = s.becomes(x, "broadcast(x, shape of x) = x")? {
        return Ok(Some(found));
    }
    match s.view(x) {
        Some((View::Broadcast, inner)) if s.cx.allow("broadcast(broadcast(x)) = broadcast(x)") => {
            let shape = dims(s);
            make(s, "broadcast_to", &[inner[0]], &[("shape", shape)])
        }
        _ => Ok(None),
    }
}

fn slice(s: &mut Site, starts: &[i64], steps: &[i64]) -> Found {
    let x = s.operand(0);
    if starts.iter().all(|v| *v == 0)
        && steps.iter().all(|v| *v == 1)
        && let Some(found) = s.becomes(x, "slice(x, all) = x")?
    {
        return Ok(Some(found));
    }
    let extents: Option<Vec<i64>> = s.result().shape.dims().iter().map(Dim::as_const).collect();
    let Some(extents) = extents.filter(|e| e.iter().all(|d| *d > 0)) else { return Ok(None) };
    if steps.iter().any(|v| *v < 1) {
        return Ok(None);
    }
    match s.view(x) {
        Some((View::Slice { starts: first, steps: strides }, inner))
            if strides.iter().all(|v| *v > 0) && s.cx.allow("slice(slice(x)) = slice(x)") =>
        {
            let starts = (0..starts.len()).map(|i| first[i] + starts[i] * strides[i]).collect();
            let steps = (0..steps.len()).map(|i| steps[i] * strides[i]).collect();
            part(s, inner[0], starts, steps, &extents)
        }
        Some((View::Concat { axis }, inner)) => {
            // The operand in which the whole slice lies.
            let (lo, last) = (starts[axis], starts[axis] + (extents[axis] - 1) * steps[axis]);
            let mut begin = 0;
            for v in inner {
                let Some(n) = s.ty(v).shape.dims()[axis].as_const() else { return Ok(None) };
                if lo >= begin && last < begin + n {
                    if !s.cx.allow("slice(concat(.., x, ..)) = slice(x)") {
                        return Ok(None);
                    }
                    let mut starts = starts.to_vec();
                    starts[axis] -= begin;
                    return part(s, v, starts, steps.to_vec(), &extents);
                }
                begin += n;
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// A slice with positive steps and these extents, none of them zero.
fn part(s: &mut Site, x: Value, starts: Vec<i64>, steps: Vec<i64>, extents: &[i64]) -> Found {
    let end = |i: usize| starts[i] + (extents[i] - 1) * steps[i] + 1;
    let ends = ints((0..starts.len()).map(end));
    let axes = ints((0..starts.len()).map(|i| i as i64));
    let attrs = [("starts", ints(starts)), ("ends", ends), ("axes", axes), ("steps", ints(steps))];
    make(s, "slice", &[x], &attrs)
}

fn concat(s: &mut Site, axis: usize) -> Found {
    let operands = s.node.operands().to_vec();
    if let [x] = operands[..] {
        return s.becomes(x, "concat(x) = x");
    }
    let empty = |s: &Site, v: &Value| s.ty(*v).shape.dims()[axis] == Dim::Const(0);
    let some: Vec<Value> = operands.iter().copied().filter(|v| !empty(s, v)).collect();
    let at = [("axis", Attr::Int(axis as i64))];
    if !some.is_empty() && some.len() < operands.len() && s.cx.allow("concat(x, empty) = x") {
        return make(s, "concat", &some, &at);
    }
    let mut flat = vec![];
    for v in &operands {
        match s.view(*v) {
            Some((View::Concat { axis: inner }, parts)) if inner == axis => flat.extend(parts),
            _ => flat.push(*v),
        }
    }
    // Operand positions are counted in 16 bits.
    let fits = flat.len() > operands.len() && flat.len() < u16::MAX as usize;
    if fits && s.cx.allow("concat(concat(x, y), z) = concat(x, y, z)") {
        return make(s, "concat", &flat, &at);
    }
    Ok(None)
}
