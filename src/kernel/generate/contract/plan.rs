//! What a contraction is, before tiles: its loop axes, which operand has which, and its guards.
//!
//! Loop axes are the axes of the result, then the reduced ones; axes of one element are dropped and
//! neighbours that every access walks through in step are merged. Along one axis of the result
//! (`columns`) elements follow each other in memory; the wide operand has it. `rows`, if there is
//! one, is an axis of the narrow operand only. The narrow operand is broadcast over the columns,
//! unless it has them too (depthwise convolutions over channels).

use super::operand::Operand;
use super::space::{Space, columns};
use crate::base::DType;
use crate::ir::index::{Expr, Guard, Term};
use crate::ir::scalar::{Combine, ScalarFn};
use crate::kernel::nest::{Keep, Nest};
use crate::kernel::resolve::{Leaf, Resolved};

/// Products of static steps: the most that are written out.
const STATIC: i64 = 32;
/// An innermost reduced axis of at most this many elements is written out.
const SHORT: i64 = 8;
/// As many rows as a tile may have: an axis with more is no better.
const MANY_ROWS: i64 = 14;
/// Dot products at least this long, of operands contiguous along the sum and with no rows that
/// would share a load, are left to the generic reduction with its partial results.
const LONG_DOT: i64 = 32;
/// Points of small maps that are rows together, and the longest line of such a map.
const SMALL: (i64, i64) = (64, 8);

/// Whether all points of a map are the rows of one product, so that tiles span its lines;
/// `steps`: those of the sum that its padding depends on.
pub fn is_small(lines: i64, points: i64, steps: i64) -> bool {
    let (all, line) = SMALL;
    lines > 1 && points <= line && lines * points <= all && steps <= STATIC
}

/// FLOP of a function that is long: transcendental ones.
const LONG: u64 = 20;

pub struct Plan<'a> {
    pub nest: &'a Nest,
    /// Kept stages over the loop axes, the reduction first.
    pub stages: Vec<(u16, Resolved)>,
    /// (stage, slot, offset over the loop axes of the result).
    pub outs: Vec<(u16, u16, Expr)>,
    /// Of the loop axes.
    pub extents: Vec<i64>,
    /// How many loop axes the result has.
    pub rank: usize,
    /// The axis that lies in lanes.
    pub columns: usize,
    /// The axis of rows: of the narrow operand only.
    pub rows: Option<usize>,
    /// Whether rows are the points of a small map: each tile of them has code of its own.
    pub small: bool,
    /// The operand that lies in lanes, behind its guards.
    pub wide: u32,
    /// The operand that has the rows, behind its guards.
    pub narrow: u32,
    /// Whether the narrow operand lies in lanes as well.
    pub lanewise: bool,
    /// Guards that depend on written-out steps and columns, or rows, only.
    pub tied: Vec<Guard>,
    /// The axis that they depend on: columns or rows.
    pub tied_to: usize,
    /// Guards that bound a loop.
    pub clips: Vec<Clip>,
    /// Reduced axes from this one on (counted from the first reduced axis) are written out.
    pub statics: usize,
    /// Elements of the operands' largest slots: wide, narrow.
    pub sizes: (u64, u64),
    /// Axes of the result, beside rows and columns: (axis, the wide operand has it, the narrow one).
    pub others: Vec<(usize, bool, bool)>,
}

/// Columns that lie side by side, step after step.
#[derive(Clone, Copy)]
pub struct Panel {
    /// How many columns.
    pub width: i64,
    /// Elements from a panel to the next one.
    pub stride: i64,
}

/// `lo ≤ scale · r + rest < hi` for the reduced axis `r`, with `scale > 0`.
pub struct Clip {
    /// Counted from the first reduced axis.
    pub axis: usize,
    pub scale: i64,
    /// Over loop axes.
    pub rest: Expr,
    pub lo: i64,
    pub hi: i64,
}

impl<'a> Plan<'a> {
    /// The plan of a nest, if it is a contraction; the first `fixed` axes are walked by others.
    pub fn of(nest: &'a Nest, fixed: usize) -> Option<Plan<'a>> {
        let kept = kept_stages(nest)?;
        let space = Space::of(nest, &kept, fixed)?;
        Plan::over(nest, &kept, &space)
    }

    /// The same with all points of a small map as rows, where rows are those of one line.
    pub fn of_small_map(&self, fixed: usize) -> Option<Plan<'a>> {
        let lines = self.lines()?;
        let kept = kept_stages(self.nest)?;
        let space = Space::of(self.nest, &kept, fixed)?;
        let plan = Plan::over(self.nest, &kept, &space.merged(lines))?;
        // Another axis may have become the rows.
        (plan.rows == Some(lines)).then_some(Plan { small: true, ..plan })
    }

    /// The axis of lines of a small map whose rows are the points of one line.
    fn lines(&self) -> Option<usize> {
        let rows = self.rows.filter(|_| !self.lanewise)?;
        let of_narrow = |o: &&(usize, bool, bool)| o.0 + 1 == rows && !o.1 && o.2;
        let &(lines, ..) = self.others.iter().find(of_narrow)?;
        is_small(self.extents[lines], self.extents[rows], 1).then_some(lines)
    }

    fn over(nest: &'a Nest, kept: &[u16], space: &Space) -> Option<Plan<'a>> {
        let (stages, outs) = space.resolved(nest, kept);
        let clips = space.clips();
        let &Space { ref extents, rank, fixed, .. } = space;
        let extents = extents.clone();
        let body = &stages[0].1;
        let Leaf::Fn(ScalarFn::Mul, args) = &body.leaves[body.root as usize] else { return None };
        let operands = [Operand::of(body, args[0])?, Operand::of(body, args[1])?];
        let columns = columns(&outs, body, fixed..rank)?;
        let has = operands.each_ref().map(|o| o.mentions(columns));
        let other = |o: &Operand, than: &Operand| {
            (fixed..rank).any(|a| a != columns && o.mentions(a) && !than.mentions(a))
        };
        let lanewise = has == [true, true];
        let wide = match has {
            [true, false] => 0,
            [false, true] => 1,
            // The one that is the same for every row.
            [true, true] if !other(&operands[0], &operands[1]) => 0,
            [true, true] if !other(&operands[1], &operands[0]) => 1,
            [true, true] | [false, false] => return None,
        };
        let (wide, narrow) = (&operands[wide], &operands[1 - wide]);
        if lanewise && !(wide.in_lanes(columns) && narrow.in_lanes(columns)) {
            return None;
        }
        let own = |a: &usize| *a != columns && narrow.mentions(*a) && !wide.mentions(*a);
        let rows = (fixed..rank).filter(own).max_by_key(|a| (extents[*a].min(MANY_ROWS), *a));
        let (all, tied_to) = match (wide.guards.is_empty(), narrow.guards.is_empty()) {
            (_, true) => (&wide.guards, columns),
            (true, false) => (&narrow.guards, rows?),
            (false, false) => return None,
        };
        let (tied, clips, statics) = guards(all, clips, &extents, rank, tied_to)?;
        let innermost = extents.len().checked_sub(1).filter(|a| *a >= rank)?;
        let long_dot = rows.is_none()
            && extents[innermost] >= LONG_DOT
            && !wide.contiguous(columns)
            && [wide, narrow].iter().all(|o| o.contiguous(innermost));
        if long_dot {
            return None;
        }
        let others = (fixed..rank)
            .filter(|a| Some(*a) != rows && *a != columns)
            .map(|a| (a, wide.mentions(a), narrow.mentions(a)))
            .collect();
        let sizes = (wide.elements(nest), narrow.elements(nest));
        let (wide, narrow) = (wide.value, narrow.value);
        Some(Plan {
            nest,
            outs,
            extents,
            rank,
            columns,
            rows,
            small: false,
            wide,
            narrow,
            lanewise,
            tied,
            tied_to,
            clips,
            statics,
            sizes,
            others,
            stages,
        })
    }

    /// Whether tiles share what they load. Where no rows do, and the steps are few enough to be
    /// written out (depthwise convolutions over plain maps), the generic loops do better.
    pub fn shares(&self) -> bool {
        let steps = self.reduced().iter().fold(1i64, |all, n| all.saturating_mul(*n));
        let own = self.others.iter().any(|(_, wide, narrow)| *wide && !*narrow);
        self.rows.is_some() || steps > STATIC || !own
    }

    /// The wide operand's panels, where it is packed in panels.
    pub fn panel(&self) -> Option<Panel> {
        let columns = Expr::axis(self.columns);
        let mut open = vec![self.wide];
        while let Some(leaf) = open.pop() {
            match &self.stages[0].1.leaves[leaf as usize] {
                Leaf::Slot { at, .. } => {
                    let panel = at.terms.iter().find_map(|(term, stride)| match term {
                        Term::FloorDiv(inner, width) if **inner == columns => {
                            Some(Panel { width: *width, stride: *stride })
                        }
                        _ => None,
                    });
                    if panel.is_some() {
                        return panel;
                    }
                }
                Leaf::Fn(_, args) => open.extend(args),
                Leaf::Stage { .. } | Leaf::Axis(_) | Leaf::Const(_) | Leaf::Guarded { .. } => {}
            }
        }
        None
    }

    /// Whether the wide operand lies within its slots for so many columns: panels are filled up.
    pub fn reaches(&self, columns: i64) -> bool {
        let mut extents = self.extents.clone();
        extents[self.columns] = columns;
        let mut open = vec![self.wide];
        while let Some(leaf) = open.pop() {
            match &self.stages[0].1.leaves[leaf as usize] {
                Leaf::Slot { slot, at } => {
                    let end = self.nest.slots[*slot as usize].numel() as i64;
                    if at.range(&extents).is_none_or(|(lo, hi)| lo < 0 || hi >= end) {
                        return false;
                    }
                }
                Leaf::Fn(_, args) => open.extend(args),
                Leaf::Const(_) => {}
                Leaf::Stage { .. } | Leaf::Axis(_) | Leaf::Guarded { .. } => return false,
            }
        }
        true
    }

    /// Whether a long function, a transcendental one, is computed of each sum.
    pub fn is_heavy(&self) -> bool {
        let long = |leaf: &Leaf| matches!(leaf, Leaf::Fn(f, _) if f.flops() >= LONG);
        self.stages[1..].iter().any(|(_, body)| body.leaves.iter().any(long))
    }

    /// Extents of the reduced axes.
    pub fn reduced(&self) -> &[i64] {
        &self.extents[self.rank..]
    }

    /// The type that the sums are held in.
    pub fn dtype(&self) -> DType {
        self.nest.stages[self.stages[0].0 as usize].dtype.compute()
    }

    /// All combinations of the written-out steps, in order.
    pub fn static_steps(&self) -> Vec<Vec<i64>> {
        let mut steps = vec![vec![]];
        for &n in &self.reduced()[self.statics..] {
            let longer = |s: &Vec<i64>| (0..n).map(|i| [&s[..], &[i]].concat()).collect::<Vec<_>>();
            steps = steps.iter().flat_map(longer).collect();
        }
        steps
    }
}

/// The reduction, then the stages made of it on the spot; all at the same points.
pub fn kept_stages(nest: &Nest) -> Option<Vec<u16>> {
    let kept: Vec<u16> = (0..nest.stages.len() as u16)
        .filter(|s| nest.stages[*s as usize].keep != Keep::Inline)
        .collect();
    let first = &nest.stages[*kept.first()? as usize];
    let product = first.body.0.len().checked_sub(1)? as u16;
    let sums = first.combine == Some(Combine::Sum)
        && first.tile.is_none()
        && first.dtype != DType::Bool
        && nest.dtype(&first.body, product) == first.dtype
        && first.extents().iter().all(|&n| n > 0);
    let on_the_spot = kept[1..].iter().all(|s| {
        let stage = &nest.stages[*s as usize];
        stage.combine.is_none() && stage.axes == first.axes
    });
    let here = kept.len() == 1 || nest.shared == first.axes.len();
    let single = nest.stages.iter().filter(|s| s.combine.is_some()).count() == 1;
    (sums && on_the_spot && here && single).then_some(kept)
}

/// Tells the guards apart: those decided by `tied_to` and written-out steps, and those that bound a
/// loop, with `clips`. `None` where a guard is neither. The third part is the first axis that is
/// written out.
fn guards(
    all: &[Guard],
    mut clips: Vec<Clip>,
    extents: &[i64],
    rank: usize,
    tied_to: usize,
) -> Option<(Vec<Guard>, Vec<Clip>, usize)> {
    let reduced = &extents[rank..];
    let (mut tied, mut statics) = (vec![], reduced.len());
    for g in all {
        let mut axes = vec![];
        for (term, c) in &g.expr.terms {
            match term {
                Term::Axis(a) => axes.push((*a as usize, *c)),
                // Lines and points of a small map.
                Term::FloorDiv(inner, _) | Term::Mod(inner, _)
                    if **inner == Expr::axis(tied_to) =>
                {
                    axes.push((tied_to, 0));
                }
                Term::FloorDiv(..) | Term::Mod(..) | Term::Dyn { .. } => return None,
            }
        }
        let outer = axes.iter().any(|(a, _)| *a < rank && *a != tied_to);
        if !outer {
            let first = axes.iter().filter(|(a, _)| *a >= rank).map(|(a, _)| a - rank).min();
            statics = statics.min(first.unwrap_or(statics));
            tied.push(g.clone());
            continue;
        }
        let inner: Vec<(usize, i64)> =
            axes.iter().copied().filter(|(a, _)| *a >= rank || *a == tied_to).collect();
        let &[(axis, scale @ 1..)] = &inner[..] else { return None };
        if axis < rank {
            return None;
        }
        let rest = g.expr.add(&Expr::axis(axis).scale(-scale));
        clips.push(Clip { axis: axis - rank, scale, rest, lo: g.lo, hi: g.hi });
    }
    let clipped = |axis: usize| clips.iter().any(|c| c.axis >= axis);
    if statics == reduced.len()
        && let Some(last) = statics.checked_sub(1)
        && reduced[last] <= SHORT
        && !clipped(last)
    {
        statics = last;
    }
    let product = reduced[statics..].iter().try_fold(1i64, |p, n| p.checked_mul(*n))?;
    (product <= STATIC && !clipped(statics)).then_some((tied, clips, statics))
}
