//! Classes of ops: all that passes and targets look at.
//!
//! A class is what an op *is* to the compiler. Matches on [`Class`] are exhaustive, so a new class
//! asks every pass and target what to do; a new op of an existing class asks nobody.

use super::super::index::{Expr, Guard, IndexMap};
use super::super::scalar::{Combine, ScalarFn};

#[derive(Clone, PartialEq, Debug)]
pub enum Class {
    Source(Source),
    /// Result `[i]` is the function of the operands at `[i]`; operands broadcast as in NumPy.
    Elementwise(ScalarFn),
    Reduce(ReduceSpec),
    View(View),
    Contract(ContractSpec),
    Window(WindowSpec),
    /// `take(x, indices)` along an axis: result shape is `x[..axis] ++ indices ++ x[axis+1..]`;
    /// indices are clamped into range.
    Gather {
        axis: usize,
    },
    Scatter(ScatterSpec),
    /// The operand (first) with a part overwritten by the second, from a run-time offset (third,
    /// a scalar, clamped so that the part fits) along `axis`. May be done in place.
    UpdateSlice {
        axis: usize,
    },
    Sort(SortSpec),
    Region(RegionKind),
    /// Is its row's `expand`.
    Composite,
}

/// Nodes without operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Input,
    Param,
    State,
    /// Its value is the attribute `value`.
    Constant,
    /// `result[.., i, ..] = i` along this axis.
    Iota {
        axis: usize,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReduceSpec {
    pub combine: Combine,
    /// Sorted, without repetition.
    pub axes: Vec<usize>,
    /// Reduced axes stay with extent 1.
    pub keepdims: bool,
}

/// Ops that only move elements. Open dimensions are allowed; [`View::parts`] needs them bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum View {
    /// Same elements in row-major order.
    Reshape,
    /// Result axis `i` is operand axis `perm[i]`.
    Transpose(Vec<usize>),
    /// An axis in blocks: the number of the block in its place, the place in the block as the last
    /// axis. A group of ops that ends with it stores its result in that order.
    Relayout { axis: usize, block: i64 },
    /// NumPy's broadcasting to the result's shape.
    Broadcast,
    /// Result index `i` along an axis is operand index `start + step · i`; `step` may be negative.
    Slice { starts: Vec<i64>, steps: Vec<i64> },
    /// `lo` elements before each axis (may be negative: cropped), then the operand, then what the
    /// result's shape leaves. Outside is `mode`.
    Pad { lo: Vec<i64>, mode: PadMode },
    /// Operands one after the other along an axis.
    Concat { axis: usize },
    /// A slice whose start along `axis` is the second operand, a scalar, clamped so that it fits.
    DynamicSlice { axis: usize },
}

/// What lies outside a padded operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PadMode {
    /// The op's second operand, a scalar.
    Constant,
    Edge,
    Reflect,
}

/// One operand's share of a view: read at `map` where all guards hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    pub operand: usize,
    pub map: IndexMap,
    pub guards: Vec<Guard>,
}

impl View {
    /// Which operand each element of the result comes from: the first part whose guards hold.
    /// The last part has no guards. Shapes are those of all operands and of the result.
    /// In the map of a `DynamicSlice`, `Term::Dyn { slot: 1, at: [], .. }` is the start.
    pub fn parts(&self, operands: &[Vec<usize>], result: &[usize]) -> Vec<Part> {
        let rank = result.len();
        let extents: Vec<i64> = result.iter().map(|&d| d as i64).collect();
        let whole = |map| vec![Part { operand: 0, map, guards: vec![] }];
        match self {
            View::Reshape => whole(IndexMap::reshape(&operands[0], result)),
            View::Transpose(perm) => {
                let mut map = vec![Expr::default(); rank];
                for (to, &from) in perm.iter().enumerate() {
                    map[from] = Expr::axis(to);
                }
                whole(IndexMap(map))
            }
            View::Relayout { axis, block } => {
                let mut map: Vec<Expr> = (0..rank - 1).map(Expr::axis).collect();
                map[*axis] = map[*axis].scale(*block).add(&Expr::axis(rank - 1));
                whole(IndexMap(map))
            }
            View::Broadcast => whole(IndexMap::broadcast(&operands[0], result)),
            View::Slice { starts, steps } => {
                let along = |i: usize| Expr::axis(i).scale(steps[i]).plus(starts[i]);
                whole(IndexMap((0..rank).map(along).collect()))
            }
            View::Pad { lo, mode } => pad_parts(&operands[0], lo, *mode, &extents),
            View::Concat { axis } => {
                let mut start = 0;
                let mut parts: Vec<Part> = Vec::with_capacity(operands.len());
                for (operand, shape) in operands.iter().enumerate() {
                    let extent = shape[*axis] as i64;
                    let mut map = IndexMap::identity(rank);
                    map.0[*axis] = Expr::axis(*axis).plus(-start);
                    let guard = Guard { expr: Expr::axis(*axis), lo: start, hi: start + extent };
                    let last = operand + 1 == operands.len();
                    parts.push(Part {
                        operand,
                        map,
                        guards: if last { vec![] } else { vec![guard] },
                    });
                    start += extent;
                }
                parts
            }
            View::DynamicSlice { axis } => {
                let mut map = IndexMap::identity(rank);
                let limit = operands[0][*axis] as i64 - extents[*axis];
                let start =
                    Expr::term(super::super::index::Term::Dyn { slot: 1, at: vec![], limit });
                map.0[*axis] = Expr::axis(*axis).add(&start);
                whole(map)
            }
        }
    }
}

fn pad_parts(operand: &[usize], lo: &[i64], mode: PadMode, extents: &[i64]) -> Vec<Part> {
    use super::super::index::Term;
    let rank = extents.len();
    let inside = |i: usize| Expr::axis(i).plus(-lo[i]);
    let guard = |i: usize| Guard { expr: inside(i), lo: 0, hi: operand[i] as i64 };
    let needed = |i: &usize| lo[*i] > 0 || extents[*i] - lo[*i] > operand[*i] as i64;
    match mode {
        PadMode::Constant => {
            let map = IndexMap((0..rank).map(inside).collect());
            let guards: Vec<Guard> = (0..rank).filter(needed).map(guard).collect();
            if guards.is_empty() {
                return vec![Part { operand: 0, map, guards }];
            }
            let fill = Part { operand: 1, map: IndexMap(vec![]), guards: vec![] };
            vec![Part { operand: 0, map, guards }, fill]
        }
        // Both modes are the composition of the parts on each axis: inside, before, after.
        PadMode::Edge | PadMode::Reflect => {
            let mut parts = vec![Part { operand: 0, map: IndexMap(vec![]), guards: vec![] }];
            for (i, &n) in operand.iter().enumerate() {
                let n = n as i64;
                let (before, after) = match mode {
                    PadMode::Reflect => {
                        (inside(i).scale(-1), inside(i).scale(-1).plus(2 * (n - 1)))
                    }
                    PadMode::Edge | PadMode::Constant => (Expr::constant(0), Expr::constant(n - 1)),
                };
                let mut choices = vec![];
                if needed(&i) {
                    choices.push((inside(i), Some(guard(i))));
                    let low = Guard { expr: inside(i), lo: i64::MIN / 4, hi: 0 };
                    choices.push((before, Some(low)));
                    choices.push((after, None));
                } else {
                    choices.push((inside(i), None));
                }
                parts = choices
                    .iter()
                    .flat_map(|(e, g)| {
                        parts.iter().map(move |p| {
                            let mut q = p.clone();
                            q.map.0.push(e.clone());
                            q.guards.extend(g.clone());
                            q
                        })
                    })
                    .collect();
            }
            // A guard that is missing ("after" on one axis) holds only where the others failed, so
            // parts with more guards come first.
            parts.sort_by_key(|p| std::cmp::Reverse(p.guards.len()));
            debug_assert!(parts.iter().all(|p| {
                p.map.0.iter().all(|e| e.terms.iter().all(|(t, _)| matches!(t, Term::Axis(_))))
            }));
            parts
        }
    }
}

/// A sum of products over labelled axes. `lhs[i]` is the label of axis `i` of the first operand;
/// labels missing from `out` are summed over, in the order in which `lhs` has them. An axis of
/// extent 1 broadcasts against the other operand's axis of the same label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContractSpec {
    pub lhs: Vec<u8>,
    pub rhs: Vec<u8>,
    pub out: Vec<u8>,
}

/// Sliding windows over the trailing `kernel.len()` axes of the first operand, `[N, C, spatial…]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowSpec {
    pub kind: WindowKind,
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    /// Elements before and after each spatial axis that count as padding.
    pub pad: Vec<(usize, usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowKind {
    /// Second operand: weights `[O, C / groups, kernel…]`. Padding is zero. Each output is one
    /// ascending chain over (channel, kernel position), row-major.
    Conv { groups: usize },
    /// The same with a kernel of 3 × 3 in steps of 1, by Winograd's algorithm in tiles of so many
    /// results along each axis. Second operand: transformed weights `[(tile + 2)², C, O]`.
    Winograd { tile: usize },
    /// Padding never wins; NaN propagates. Results: the maximum and its index (i64) in the
    /// flattened spatial axes, first of equals.
    MaxPool,
    /// `include_pad`: divide by the size of the window, padding and all; else by its part inside.
    AvgPool { include_pad: bool },
}

/// `result = x` with `updates` written along an axis at `indices`: for each position p of
/// `updates`, `result[p with p[axis] = indices[p]]` is set or combined, in row-major order of p.
/// Operands: x, indices, updates (both of one shape, no larger than x except along the axis).
/// Indices out of range are skipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScatterSpec {
    pub axis: usize,
    /// `None` sets (the last one wins).
    pub combine: Option<Combine>,
}

/// The `k` first of the sorted elements along an axis: values, and their indices (i64). Stable;
/// NaN counts as greatest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SortSpec {
    pub axis: usize,
    pub k: usize,
    pub descending: bool,
}

/// Ops that own regions. A region is a closed graph: outer values that it reads are trailing
/// operands of the node and trailing inputs of the region ("captures").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionKind {
    /// Operands: `carries` initial carries, then `sequences` sliced along axis 0, then captures.
    /// Region: carries, slices, captures in; carries, outputs out. Results: last carries, outputs
    /// stacked along axis 0. The number of steps is the sequences' extent.
    Scan { carries: usize, sequences: usize, reverse: bool },
    /// Operands: a bool scalar, then captures (the same for both regions). Two regions.
    Cond,
    /// A fusion group: all operands are captures; one region; the group's results.
    Do,
}
