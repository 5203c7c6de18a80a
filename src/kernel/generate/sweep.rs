//! Loops along one axis in vectors, cut where guards change and down to the last element.

use std::collections::BTreeMap;

use crate::ir::index::{Expr, Guard, Term};
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::Val;
use crate::kernel::resolve::{Leaf, Resolved};

/// A stretch of an axis in which the listed guards are decided.
#[derive(Clone, Debug)]
pub struct Segment {
    pub lo: i64,
    pub hi: i64,
    pub decided: BTreeMap<Guard, bool>,
}

/// Cuts `0..extent` of an axis at the bounds of all guards that depend on this axis alone, with
/// stride ±1. `None` where some guard depends on the axis in another way: then lanes may diverge.
pub fn segments(bodies: &[&Resolved], axis: usize, extent: i64) -> Option<Vec<Segment>> {
    let mut guards: Vec<&Guard> = bodies
        .iter()
        .flat_map(|r| &r.leaves)
        .filter_map(|l| match l {
            Leaf::Guarded { guards, .. } => Some(guards),
            Leaf::Slot { .. }
            | Leaf::Stage { .. }
            | Leaf::Axis(_)
            | Leaf::Const(_)
            | Leaf::Fn(..) => None,
        })
        .flatten()
        .filter(|g| g.expr.mentions(axis))
        .collect();
    guards.sort();
    guards.dedup();
    let mut cuts = vec![0, extent];
    for g in &guards {
        let (sign, c) = single_axis(&g.expr, axis)?;
        // sign · i + c crosses a bound between i - 1 and i.
        for bound in [g.lo, g.hi] {
            let i = if sign > 0 { bound.saturating_sub(c) } else { c.saturating_sub(bound) + 1 };
            if i > 0 && i < extent {
                cuts.push(i);
            }
        }
    }
    cuts.sort();
    cuts.dedup();
    // Many short pieces are worse than a branch.
    if cuts.len() > 10 {
        return None;
    }
    let piece = |w: &[i64]| {
        let holds = |g: &Guard| {
            let (sign, c) = single_axis(&g.expr, axis).expect("checked above");
            let v = sign * w[0] + c;
            v >= g.lo && v < g.hi
        };
        let decided = guards.iter().map(|g| ((*g).clone(), holds(g))).collect();
        Segment { lo: w[0], hi: w[1], decided }
    };
    Some(cuts.windows(2).map(piece).collect())
}

fn single_axis(e: &Expr, axis: usize) -> Option<(i64, i64)> {
    match &e.terms[..] {
        [(Term::Axis(i), s @ (1 | -1))] if *i as usize == axis => Some((*s, e.constant)),
        _ => None,
    }
}

/// Calls `body(first, lanes)` for vectors that cover `lo..hi`: full ones in a loop, then ever
/// shorter ones, each a power of two.
pub fn vectors(
    b: &mut KernelBuilder,
    (lo, hi): (i64, i64),
    lanes: u16,
    body: &mut dyn FnMut(&mut KernelBuilder, Val, u16),
) {
    let full = lo + (hi - lo) / lanes as i64 * lanes as i64;
    if full - lo == lanes as i64 {
        let first = b.index(lo);
        body(b, first, lanes);
    } else if full > lo {
        let (start, end) = (b.index(lo), b.index(full));
        b.for_loop((start, end, lanes as i64), &[], |b, i, _| {
            body(b, i, lanes);
            vec![]
        });
    }
    for (at, lanes) in tail(full, hi, lanes) {
        let first = b.index(at);
        body(b, first, lanes);
    }
}

/// `lo..hi`, shorter than `lanes`, as descending powers of two.
pub fn tail(lo: i64, hi: i64, lanes: u16) -> Vec<(i64, u16)> {
    let (mut at, mut width) = (lo, lanes / 2);
    let mut out = vec![];
    while width > 0 {
        if hi - at >= width as i64 {
            out.push((at, width));
            at += width as i64;
        }
        width /= 2;
    }
    out
}

/// Nested loops over `extents`, the first outermost; `body` gets one counter for each.
pub fn nested(
    b: &mut KernelBuilder,
    extents: &[i64],
    coords: &mut Vec<Val>,
    body: &mut dyn FnMut(&mut KernelBuilder, &[Val]),
) {
    match extents {
        [] => body(b, coords),
        [n, rest @ ..] => {
            let (lo, hi) = (b.index(0), b.index(*n));
            if *n == 1 {
                coords.push(lo);
                nested(b, rest, coords, body);
                coords.pop();
                return;
            }
            b.for_loop((lo, hi, 1), &[], |b, i, _| {
                coords.push(i);
                nested(b, rest, coords, body);
                coords.pop();
                vec![]
            });
        }
    }
}
