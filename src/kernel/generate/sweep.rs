//! Loops over axes: along one in vectors, cut where guards change and down to the last element;
//! along others in pieces in which guards are decided.

use std::collections::BTreeMap;

use crate::ir::index::{Expr, Guard, Term};
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::{Op, Val};
use crate::kernel::resolve::{Leaf, Resolved};

/// Pieces of the axis that lies in lanes, at most: many short ones are worse than a branch.
pub const IN_LANES: usize = 9;
/// Pieces that another axis is cut into, at most: a concatenation may have many parts.
const AROUND: usize = 40;
/// All combinations of pieces of several axes, at most.
const COMBINED: usize = 12;

/// What is known of guards in a piece.
pub type Decided = BTreeMap<Guard, bool>;

/// A stretch of an axis in which the listed guards are decided.
#[derive(Clone, Debug)]
pub struct Segment {
    pub lo: i64,
    pub hi: i64,
    pub decided: Decided,
}

impl Segment {
    /// An axis in one piece.
    pub fn whole(extent: i64) -> Vec<Segment> {
        vec![Segment { lo: 0, hi: extent, decided: Decided::new() }]
    }
}

/// The first axes, each cut where guards change.
pub struct Pieces(Vec<Vec<Segment>>);

/// What is emitted at a point of these axes.
type AtPoint<'f> = dyn FnMut(&mut KernelBuilder, &[Val], &Decided) + 'f;

impl Pieces {
    /// Of the axes with these extents.
    pub fn of(bodies: &[&Resolved], extents: &[i64]) -> Pieces {
        let mut all = 1;
        let mut cuts: Vec<Vec<Segment>> = vec![];
        for (axis, &extent) in extents.iter().enumerate().rev() {
            let most = if all <= 1 { AROUND } else { COMBINED / all };
            let found = segments(bodies.iter().copied(), axis, extent, most);
            let found = found.unwrap_or_else(|| Segment::whole(extent));
            all *= found.len();
            cuts.push(found);
        }
        cuts.reverse();
        Pieces(cuts)
    }

    /// Emits `at` for all points of the axes, as loops; of the first ones the coordinates are known.
    pub fn walk(&self, b: &mut KernelBuilder, point: &[Val], at: &mut AtPoint) {
        self.from(b, (point, 0), &Decided::new(), at);
    }

    fn from(
        &self,
        b: &mut KernelBuilder,
        (point, axis): (&[Val], usize),
        decided: &Decided,
        at: &mut AtPoint,
    ) {
        let Some(cuts) = self.0.get(axis) else { return at(b, point, decided) };
        if axis < point.len() {
            return self.known(b, (point, axis), cuts, decided, at);
        }
        for cut in cuts {
            let decided = with(decided, cut);
            let lo = b.index(cut.lo);
            if cut.hi == cut.lo + 1 {
                self.from(b, (&[point, &[lo]].concat(), axis + 1), &decided, at);
                continue;
            }
            let hi = b.index(cut.hi);
            b.for_loop((lo, hi, 1), &[], |b, i, _| {
                self.from(b, (&[point, &[i]].concat(), axis + 1), &decided, at);
                vec![]
            });
        }
    }

    /// The piece that a known coordinate is in.
    fn known(
        &self,
        b: &mut KernelBuilder,
        (point, axis): (&[Val], usize),
        cuts: &[Segment],
        decided: &Decided,
        at: &mut AtPoint,
    ) {
        let [cut, rest @ ..] = cuts else { return };
        let here = with(decided, cut);
        if rest.is_empty() {
            return self.from(b, (point, axis + 1), &here, at);
        }
        let end = b.index(cut.hi);
        let inside = b.op(Op::Lt, &[point[axis], end]);
        let at = std::cell::RefCell::new(at);
        b.if_else(
            inside,
            |b| {
                self.from(b, (point, axis + 1), &here, &mut **at.borrow_mut());
                vec![]
            },
            |b| {
                self.known(b, (point, axis), rest, decided, &mut **at.borrow_mut());
                vec![]
            },
        );
    }
}

fn with(decided: &Decided, cut: &Segment) -> Decided {
    let mut all = decided.clone();
    all.extend(cut.decided.iter().map(|(g, truth)| (g.clone(), *truth)));
    all
}

/// Cuts `0..extent` of an axis at the bounds of all guards that depend on this axis alone, and
/// linearly. `None` where some guard depends on the axis in another way (then lanes may diverge), and
/// where there would be more than `most` pieces.
pub fn segments<'r>(
    bodies: impl IntoIterator<Item = &'r Resolved>,
    axis: usize,
    extent: i64,
    most: usize,
) -> Option<Vec<Segment>> {
    let mut guards: Vec<&Guard> = bodies
        .into_iter()
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
        let (scale, c) = single_axis(&g.expr, axis)?;
        // scale · i + c crosses a bound between i - 1 and i.
        for bound in [g.lo, g.hi] {
            let i = match scale > 0 {
                true => -c.saturating_sub(bound).div_euclid(scale),
                false => c.saturating_sub(bound).div_euclid(-scale) + 1,
            };
            if i > 0 && i < extent {
                cuts.push(i);
            }
        }
    }
    cuts.sort();
    cuts.dedup();
    if cuts.len() > most + 1 {
        return None;
    }
    let piece = |w: &[i64]| {
        let holds = |g: &Guard| {
            let (scale, c) = single_axis(&g.expr, axis).expect("checked above");
            let v = scale * w[0] + c;
            v >= g.lo && v < g.hi
        };
        let decided = guards.iter().map(|g| ((*g).clone(), holds(g))).collect();
        Segment { lo: w[0], hi: w[1], decided }
    };
    Some(cuts.windows(2).map(piece).collect())
}

fn single_axis(e: &Expr, axis: usize) -> Option<(i64, i64)> {
    match &e.terms[..] {
        [(Term::Axis(i), s)] if *i as usize == axis => Some((*s, e.constant)),
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
