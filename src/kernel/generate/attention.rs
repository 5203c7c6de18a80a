//! Nests that are attention, for targets with a template (`kernel::attention`).
//!
//! The expansion of the op is recognized by its four reductions and what lies between them:
//!
//! ```text
//! p[r, k] = Σ_d q[r, d] · k[k, d]          s = f(p), whatever f is at (k, r)
//! m[r]    = max_k s[r, k]                  e = exp(s - (m if m ≠ −∞ else 0))
//! z[r]    = Σ_k e[r, k]
//! o[r, c] = Σ_k e[r, k] · v[k, c]          results: of o, m and z at (c, r), of m and z at r
//! ```
//!
//! Rows are the axes that only queries have: heads that share keys are rows below each other.

use std::collections::{BTreeMap, BTreeSet};

use super::loops::store;
use super::matrices::{Grid, Matrices, leaves, mentions};
use crate::base::DType;
use crate::base::machine::Machine;
use crate::ir::index::Expr;
use crate::ir::scalar::{Combine, ScalarFn};
use crate::kernel::attention::Attention;
use crate::kernel::emit::Home;
use crate::kernel::ir::{Access, Kernel};
use crate::kernel::nest::{Keep, Nest};
use crate::kernel::resolve::{Leaf, Resolved, resolve};

/// The attention that a nest computes. `None` where it is not exactly one, in f32.
pub fn attention(nest: &Nest, machine: &Machine) -> Option<Attention> {
    let nest = &reductions_only(nest);
    let found = Found::of(nest)?;
    let Found { body, space, query, key, value, .. } = &found;
    let (columns, keys, depth) = (&[space.columns][..], &[space.keys()][..], &[space.depth()][..]);
    let of_query = |a: &usize| {
        let others = mentions(body, *key, *a) || mentions(body, *value, *a);
        mentions(body, *query, *a) && !others
    };
    let (rows, groups): (Vec<usize>, Vec<usize>) = space.outer().partition(of_query);
    let (rows, groups) = (&rows[..], &groups[..]);
    let matrices = Matrices { nest, machine, extents: &space.extents };
    Some(Attention {
        groups: matrices.count(groups)?,
        rows: matrices.count(rows)?,
        keys: matrices.count(keys)?,
        depth: matrices.count(depth)?,
        width: matrices.count(columns)?,
        query: matrices.operand((body, *query), [depth, rows, groups]),
        key: matrices.operand((body, *key), [depth, keys, groups]),
        value: matrices.operand((body, *value), [keys, columns, groups]),
        score: found.score_kernel(&matrices, [keys, rows, groups]),
        finish: found.finish_kernel(&matrices, [columns, rows, groups]),
        of_rows: found.rows_kernel(&matrices, [&[], rows, groups]),
    })
}

/// The nest with nothing kept but reductions, at none but their own points.
fn reductions_only(nest: &Nest) -> Nest {
    let mut nest = nest.clone();
    nest.shared = 0;
    for stage in &mut nest.stages {
        stage.keep = if stage.combine.is_some() { Keep::Row } else { Keep::Inline };
    }
    nest
}

/// The axes of an attention: those of the sums, the last of which is that of the columns, then that of the
/// keys and that of the depth.
struct Space {
    extents: Vec<i64>,
    columns: usize,
}

impl Space {
    fn of(nest: &Nest, stages: [u16; 4]) -> Option<Space> {
        let [products, top, total, sums] = stages.map(|s| &nest.stages[s as usize]);
        let columns = sums.axes.len().checked_sub(1)?;
        let (&[_], &[depth]) = (&sums.reduce[..], &products.reduce[..]) else { return None };
        let extents = [&sums.axes[..], &sums.reduce, &[depth]].concat();
        let of_scores = [&sums.axes[..columns], &sums.reduce].concat();
        let some = extents.iter().all(|n| *n > 0);
        let of_keys = [top, total].iter().all(|s| s.reduce == sums.reduce);
        (some && of_keys && products.axes == of_scores).then_some(Space { extents, columns })
    }

    fn keys(&self) -> usize {
        self.columns + 1
    }

    fn depth(&self) -> usize {
        self.columns + 2
    }

    /// Axes of rows and groups.
    fn outer(&self) -> std::ops::Range<usize> {
        0..self.columns
    }

    /// The coordinates of rows and groups, and these. Nothing depends on an axis of one element.
    fn at(&self, more: &[usize]) -> Vec<Expr> {
        let axis = |a: usize| match self.extents[a] {
            1 => Expr::constant(0),
            _ => Expr::axis(a),
        };
        self.outer().chain(more.iter().copied()).map(axis).collect()
    }
}

/// The parts of an attention as values of one body.
struct Found {
    body: Resolved,
    space: Space,
    query: u32,
    key: u32,
    value: u32,
    score: u32,
    weight: u32,
    /// Where the top of the row is read.
    top_at: Vec<Expr>,
    /// Of rows and columns.
    results: Vec<Stored>,
    of_rows: Vec<Stored>,
    /// p, m, z, o.
    stages: [u16; 4],
}

/// A value, and where it goes.
struct Stored {
    value: u32,
    slot: u16,
    at: Expr,
}

impl Found {
    fn of(nest: &Nest) -> Option<Found> {
        let stages = reductions(nest)?;
        let [products, top, _, sums] = stages;
        let space = Space::of(nest, stages)?;
        let mut body = Resolved::default();
        let root = |stage: u16, at: &[usize], body: &mut Resolved| {
            resolve(nest, stage, &space.at(at), &space.extents, body)
        };
        let product = root(products, &[space.keys(), space.depth()], &mut body);
        let [a, b] = factors(&body, product)?;
        let (query, key) = if mentions(&body, a, space.keys()) { (b, a) } else { (a, b) };
        let product = root(sums, &[space.columns, space.keys()], &mut body);
        let [a, b] = factors(&body, product)?;
        let (weight, value) = if exponent(&body, a).is_some() { (a, b) } else { (b, a) };
        let (score, top_at) = of_exponent(&body, exponent(&body, weight)?, top)?;
        let (results, of_rows) = (vec![], vec![]);
        let mut found = Found {
            body,
            space,
            query,
            key,
            value,
            score,
            weight,
            top_at,
            results,
            of_rows,
            stages,
        };
        let whole = found.find_results(nest) && found.is_of_one_row(nest) && found.is_apart();
        whole.then_some(found)
    }

    /// Results at the points of the sums, and at those of the tops but for axes of one element behind;
    /// false where there are others. A row has other coordinates there where heads share keys.
    fn find_results(&mut self, nest: &Nest) -> bool {
        let [_, top, _, sums] = self.stages.map(|s| &nest.stages[s as usize].axes);
        let here = self.space.at(&[self.space.columns]);
        for out in &nest.outs {
            let stage = &nest.stages[out.stage as usize];
            let rank = stage.axes.len();
            let of_row = top.starts_with(&stage.axes) && top[rank..].iter().all(|n| *n == 1);
            let (point, list) = match (stage.axes == *sums, of_row) {
                (true, _) => (&here[..], &mut self.results),
                (false, true) => (&self.top_at[..rank], &mut self.of_rows),
                (false, false) => return false,
            };
            if stage.combine.is_some() {
                return false;
            }
            let value = resolve(nest, out.stage, point, &self.space.extents, &mut self.body);
            let at = out.at.substitute(point, &self.space.extents);
            list.push(Stored { value, slot: out.slot, at });
        }
        true
    }

    /// Whether every reduction that is read is the one of the row at hand.
    fn is_of_one_row(&mut self, nest: &Nest) -> bool {
        let [products, top, total, sums] = self.stages;
        let mut reads = BTreeSet::from([(top, self.top_at.clone())]);
        let mut columns = BTreeSet::from([self.space.at(&[self.space.columns])]);
        for (list, whole) in [(&self.results, true), (&self.of_rows, false)] {
            for (stage, at) in list.iter().flat_map(|s| reads_of(&self.body, s.value)) {
                match stage == sums && whole {
                    true => columns.insert(at),
                    false => reads.insert((stage, at)),
                };
            }
        }
        let scores = self.space.at(&[self.space.keys()]);
        let of_score =
            reads_of(&self.body, self.score).all(|read| read == (products, scores.clone()));
        let key = scores.last().cloned();
        let is = |(stage, at): (u16, Vec<Expr>)| {
            let point: Vec<Expr> = at.into_iter().chain(key.clone()).collect();
            let value = match stage {
                s if s == top => self.score,
                s if s == total => self.weight,
                _ => return false,
            };
            resolve(nest, stage, &point, &self.space.extents, &mut self.body) == value
        };
        of_score && columns.len() == 1 && reads.into_iter().all(is)
    }

    /// Whether operands read no reduction, and nothing depends on coordinates that it does not have.
    fn is_apart(&self) -> bool {
        let mentions = |value: u32, axis: usize| mentions(&self.body, value, axis);
        let (columns, keys) = (self.space.columns, self.space.keys());
        let of_columns = |s: &Stored| mentions(s.value, columns) || s.at.mentions(columns);
        let operands = [self.query, self.key, self.value];
        let plain = |value: &u32| reads_of(&self.body, *value).next().is_none();
        operands.iter().all(plain)
            && !mentions(self.query, keys)
            && !mentions(self.score, columns)
            && !self.of_rows.iter().any(of_columns)
    }

    /// The kernel that makes scores of stored sums of products.
    fn score_kernel(&self, matrices: &Matrices, grid: Grid) -> Kernel {
        let of = [("sums", Access::Read), ("scores", Access::Write)];
        let mut part = matrices.part("score", grid, 1, &of);
        let homes = BTreeMap::from([(self.stages[0], Home::Here(part.read(0)))]);
        let score = part.emitter(&self.body, &homes, |e, b| e.value(b, self.score));
        part.write(1, score);
        part.b.finish()
    }

    /// The kernel that makes results of stored sums.
    fn finish_kernel(&self, matrices: &Matrices, grid: Grid) -> Kernel {
        let [_, top, total, sums] = self.stages;
        let of = [("sums", sums), ("tops", top), ("totals", total)];
        self.stores("finish", matrices, grid, &of, &self.results)
    }

    /// The kernel that makes results of rows, if there are any.
    fn rows_kernel(&self, matrices: &Matrices, grid: Grid) -> Option<Kernel> {
        let [_, top, total, _] = self.stages;
        let of = [("tops", top), ("totals", total)];
        let some = !self.of_rows.is_empty();
        some.then(|| self.stores("of_rows", matrices, grid, &of, &self.of_rows))
    }

    fn stores(
        &self,
        name: &str,
        matrices: &Matrices,
        grid: Grid,
        of: &[(&str, u16)],
        all: &[Stored],
    ) -> Kernel {
        let reads: Vec<(&str, Access)> = of.iter().map(|(name, _)| (*name, Access::Read)).collect();
        let mut part = matrices.part(name, grid, 1, &reads);
        let stages = of.iter().enumerate();
        let homes = stages.map(|(i, (_, s))| (*s, Home::Here(part.read(i)))).collect();
        let slots = part.slots.clone();
        part.emitter(&self.body, &homes, |e, b| {
            for Stored { value, slot, at } in all {
                let (v, base) = (e.value(b, *value), b.index(0));
                store(b, e, slots[*slot as usize], base, at, v);
            }
        });
        part.b.finish()
    }
}

/// The stages p, m, z and o, if there are no other reductions.
fn reductions(nest: &Nest) -> Option<[u16; 4]> {
    let all = nest.stages.iter().enumerate().filter(|(_, s)| s.combine.is_some());
    let ids: [u16; 4] = all.map(|(i, _)| i as u16).collect::<Vec<_>>().try_into().ok()?;
    let kinds = ids.map(|i| nest.stages[i as usize].combine);
    let of_f32 = ids.iter().all(|i| nest.stages[*i as usize].dtype == DType::F32);
    let [sum, max] = [Some(Combine::Sum), Some(Combine::Max)];
    (of_f32 && kinds == [sum, max, sum, sum]).then_some(ids)
}

fn factors(body: &Resolved, root: u32) -> Option<[u32; 2]> {
    match &body.leaves[root as usize] {
        Leaf::Fn(ScalarFn::Mul, args) => args[..].try_into().ok(),
        _ => None,
    }
}

/// `x` of `exp(x)`.
fn exponent(body: &Resolved, root: u32) -> Option<u32> {
    match &body.leaves[root as usize] {
        Leaf::Fn(ScalarFn::Exp, args) => Some(args[0]),
        _ => None,
    }
}

/// `s`, and where `m` is read, of `s - (m = −∞ ? 0 : m)`.
fn of_exponent(body: &Resolved, root: u32, top: u16) -> Option<(u32, Vec<Expr>)> {
    let leaf = |i: u32| &body.leaves[i as usize];
    let is = |i: u32, v: f64| matches!(leaf(i), Leaf::Const(c) if c.as_f64() == v);
    let Leaf::Fn(ScalarFn::Sub, args) = leaf(root) else { return None };
    let (score, shift) = (args[0], args[1]);
    let Leaf::Fn(ScalarFn::Where, args) = leaf(shift) else { return None };
    let Leaf::Fn(ScalarFn::Eq, sides) = leaf(args[0]) else { return None };
    let Leaf::Stage { stage, at } = leaf(args[2]) else { return None };
    let least = sides[0] == args[2] && is(sides[1], f64::NEG_INFINITY) && is(args[1], 0.0);
    (least && *stage == top).then(|| (score, at.clone()))
}

/// The stages that a value reads, and where.
fn reads_of(body: &Resolved, root: u32) -> impl Iterator<Item = (u16, Vec<Expr>)> {
    let read = |leaf: &Leaf| match leaf {
        Leaf::Stage { stage, at } => Some((*stage, at.clone())),
        Leaf::Slot { .. }
        | Leaf::Axis(_)
        | Leaf::Const(_)
        | Leaf::Fn(..)
        | Leaf::Guarded { .. } => None,
    };
    leaves(body, root).filter_map(read).collect::<BTreeSet<_>>().into_iter()
}
