//! Loop axes in the order of memory.
//!
//! In: a nest whose kept stages all have the same axes. Out: the same nest, where an axis that
//! memory holds in blocks (offsets have its quotient and remainder by the size of a block) is two
//! axes, and axes follow each other as the first result stores them, the innermost last. Each
//! element is computed by the same instructions as before.

use crate::ir::index::{Expr, IndexMap, Term};
use crate::kernel::nest::{Body, From, Keep, Nest, Scalar};
use crate::kernel::resolve::Leaf;

use super::loops::resolved_stage;

/// As many elements of an axis make lanes worth while.
const FULL: i64 = 8;

/// Coordinates over the new axes, of those over the old ones and the extents that they are over.
type Coords<'f> = dyn Fn(&[Expr], &[i64]) -> Vec<Expr> + 'f;

/// `None` where the axes are in order already.
pub fn ordered(nest: &Nest) -> Option<Nest> {
    let mut out = nest.clone();
    let mut changed = false;
    while let Some((axis, block)) = blocked(&out) {
        out = split(&out, axis, block);
        changed = true;
    }
    let first = out.outs.first()?;
    let axes = &out.stages[first.stage as usize].axes;
    let mut order: Vec<usize> = (0..axes.len()).collect();
    let stride = |a: usize| match axes[a] {
        1 => i64::MAX,
        _ => first.at.stride(a).unwrap_or(0),
    };
    order.sort_by_key(|a| std::cmp::Reverse(stride(*a)));
    if let Some(read) = read_in_lanes(&out, &order) {
        order.retain(|a| *a != read);
        order.push(read);
    }
    if order.iter().enumerate().any(|(i, a)| i != *a) {
        let (moved, extents) = permuted(&out, &order);
        if moved.outs.iter().all(|o| o.at.range(&extents).is_some()) {
            out = moved;
            changed = true;
        }
    }
    changed.then_some(out)
}

/// The size of the blocks that memory holds an axis in, where they do not divide it.
pub fn ragged(nest: &Nest, axis: usize) -> Option<i64> {
    let extent = nest.stages[nest.outs.first()?.stage as usize].axes[axis];
    blocks(nest, &|a, d| a == axis && extent % d != 0 && extent > d).map(|(_, d)| d)
}

/// A nest over the full blocks of an axis, which become two axes, and one over the rest.
pub fn cut(nest: &Nest, a: usize, block: i64) -> (Nest, Nest) {
    let extent = nest.stages[nest.outs[0].stage as usize].axes[a];
    let full = extent / block * block;
    let part = |from: i64, n: i64| {
        let axes = |axes: &[i64]| {
            let mut axes = axes.to_vec();
            axes[a] = n;
            axes
        };
        let old = |k: usize| Expr::axis(k).plus(if k == a { from } else { 0 });
        let coords = |map: &[Expr], _: &[i64]| {
            let mut map = map.to_vec();
            map[a] = map[a].plus(-from);
            map
        };
        rewritten(nest, &axes, &old, &coords)
    };
    (split(&part(0, full), a, block), part(full, extent - full))
}

/// The axis along which a window (a reduction that reads more than it stores) reads elements that
/// follow each other, if they do not along the last axis of this order.
fn read_in_lanes(nest: &Nest, order: &[usize]) -> Option<usize> {
    let windows = |s: &&u16| nest.stages[**s as usize].reduce.iter().product::<i64>() > 1;
    let kept: Vec<u16> = (0..nest.stages.len() as u16)
        .filter(|s| nest.stages[*s as usize].keep != Keep::Inline)
        .collect();
    let window = *kept.iter().find(windows)?;
    let body = resolved_stage(nest, window);
    let all = |axis: usize, strides: &[i64]| {
        body.leaves.iter().all(|leaf| match leaf {
            Leaf::Slot { at, .. } => at.stride(axis).is_some_and(|s| strides.contains(&s)),
            Leaf::Stage { .. }
            | Leaf::Axis(_)
            | Leaf::Const(_)
            | Leaf::Fn(..)
            | Leaf::Guarded { .. } => true,
        })
    };
    let axes = &nest.stages[window as usize].axes;
    let last = *order.last()?;
    let found = order.iter().copied().find(|a| axes[*a] >= FULL && all(*a, &[1]));
    found.filter(|_| !all(last, &[0, 1]))
}

/// An axis of the kept stages that some offset sees in blocks which divide it.
fn blocked(nest: &Nest) -> Option<(usize, i64)> {
    let axes = &nest.stages[nest.outs.first()?.stage as usize].axes;
    blocks(nest, &|a, d| axes[a] % d == 0)
}

/// The first axis that an offset sees in blocks, and their size, as `fits` wants them.
fn blocks(nest: &Nest, fits: &dyn Fn(usize, i64) -> bool) -> Option<(usize, i64)> {
    let kept = |s: &u16| nest.stages[*s as usize].keep != Keep::Inline;
    let rank = nest.stages[nest.outs.first()?.stage as usize].axes.len();
    let of = |at: &Expr| {
        at.terms.iter().find_map(|(term, _)| {
            let (Term::FloorDiv(e, d) | Term::Mod(e, d)) = term else { return None };
            let axis = (0..rank).find(|a| **e == Expr::axis(*a))?;
            fits(axis, *d).then_some((axis, *d))
        })
    };
    let stored = nest.outs.iter().find_map(|o| of(&o.at));
    stored.or_else(|| {
        (0..nest.stages.len() as u16).filter(kept).find_map(|s| {
            resolved_stage(nest, s).leaves.iter().find_map(|leaf| match leaf {
                Leaf::Slot { at, .. } => of(at),
                Leaf::Stage { .. }
                | Leaf::Axis(_)
                | Leaf::Const(_)
                | Leaf::Fn(..)
                | Leaf::Guarded { .. } => None,
            })
        })
    })
}

/// Axis `a` of the kept stages as two: blocks, and the place in a block.
fn split(nest: &Nest, a: usize, block: i64) -> Nest {
    let axes = |axes: &[i64]| {
        let mut axes = axes.to_vec();
        axes.splice(a..a + 1, [axes[a] / block, block]);
        axes
    };
    let old = |k: usize| match k {
        k if k < a => Expr::axis(k),
        k if k == a => Expr::axis(a).scale(block).add(&Expr::axis(a + 1)),
        k => Expr::axis(k + 1),
    };
    let coords = |map: &[Expr], extents: &[i64]| {
        let mut map = map.to_vec();
        let e = map[a].clone();
        map.splice(a..a + 1, [e.floor_div(block, extents), e.modulo(block, extents)]);
        map
    };
    rewritten(nest, &axes, &old, &coords)
}

/// The axes of the kept stages in another order; also gives their extents.
fn permuted(nest: &Nest, order: &[usize]) -> (Nest, Vec<i64>) {
    let axes = |axes: &[i64]| order.iter().map(|a| axes[*a]).collect::<Vec<_>>();
    let place = |k: usize| order.iter().position(|a| *a == k).unwrap_or(k);
    let old = |k: usize| Expr::axis(place(k));
    let coords =
        |map: &[Expr], _: &[i64]| order.iter().map(|a| map[*a].clone()).collect::<Vec<_>>();
    let out = rewritten(nest, &axes, &old, &coords);
    let extents = out.outs.first().map_or(vec![], |o| out.stages[o.stage as usize].axes.clone());
    (out, extents)
}

/// New axes for the kept stages: `old(k)` is the old coordinate `k` over the new ones, and `coords`
/// makes new coordinates of old ones (given with the extents that they are over).
fn rewritten(
    nest: &Nest,
    axes: &dyn Fn(&[i64]) -> Vec<i64>,
    old: &dyn Fn(usize) -> Expr,
    coords: &Coords,
) -> Nest {
    let mut out = nest.clone();
    let kept: Vec<bool> = nest.stages.iter().map(|s| s.keep != Keep::Inline).collect();
    for (i, stage) in out.stages.iter_mut().enumerate() {
        let before = nest.stages[i].extents();
        if kept[i] {
            stage.axes = axes(&stage.axes);
        }
        let extents = stage.extents();
        let by: Vec<Expr> = match kept[i] {
            // Reduced axes follow the others.
            true => (0..before.len())
                .map(|k| match k.checked_sub(nest.stages[i].axes.len()) {
                    None => old(k),
                    Some(r) => Expr::axis(stage.axes.len() + r),
                })
                .collect(),
            false => (0..before.len()).map(Expr::axis).collect(),
        };
        stage.body = body(&stage.body, &by, &extents, &kept, coords);
    }
    let after = |o: &crate::kernel::nest::Out| out.stages[o.stage as usize].axes.clone();
    let ats: Vec<Expr> = nest
        .outs
        .iter()
        .map(|o| {
            let rank = nest.stages[o.stage as usize].axes.len();
            let by: Vec<Expr> = (0..rank).map(old).collect();
            o.at.substitute(&by, &after(o))
        })
        .collect();
    for (o, at) in out.outs.iter_mut().zip(ats) {
        o.at = at;
    }
    if out.shared == nest.outs.first().map_or(0, |o| nest.stages[o.stage as usize].axes.len()) {
        out.shared = out.stages[out.outs[0].stage as usize].axes.len();
    }
    out
}

fn body(body: &Body, by: &[Expr], extents: &[i64], kept: &[bool], coords: &Coords) -> Body {
    let mut body = body.map(|e| e.substitute(by, extents));
    for scalar in &mut body.0 {
        if let Scalar::Load { from: From::Stage(s), map } = scalar
            && kept[*s as usize]
        {
            *map = IndexMap(coords(&map.0, extents));
        }
    }
    body
}
