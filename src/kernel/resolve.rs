//! Inlining: from a stage to one expression over loop axes.
//!
//! [`resolve`] substitutes every inline stage into the body that reads it, so that what is left
//! loads only slots (at row-major offsets) and kept stages. Equal instructions are made once.
//! This is where fusion happens: a view is a substitution of indices.

use super::ir::Lit;
use super::nest::{Body, From, Keep, Nest, Scalar};
use crate::base::hash::{FastMap, hash_of};
use crate::ir::index::{Expr, Guard, IndexMap};
use crate::ir::scalar::ScalarFn;

/// One instruction; operands are earlier positions. All expressions are over the loop axes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Leaf {
    /// An operand slot at a row-major offset.
    Slot {
        slot: u16,
        at: Expr,
    },
    /// A kept stage, at its own axes beyond the shared ones.
    Stage {
        stage: u16,
        at: Vec<Expr>,
    },
    Axis(Expr),
    Const(Lit),
    Fn(ScalarFn, Vec<u32>),
    Guarded {
        guards: Vec<Guard>,
        then: u32,
        els: u32,
    },
}

/// A body without inline stages.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    pub leaves: Vec<Leaf>,
    /// The position of the value, where there is one value.
    pub root: u32,
    /// Positions by hash; a leaf whose hash is taken by another one has the next free number.
    known: FastMap<u64, u32>,
    /// Inline stages already expanded at a point.
    memo: FastMap<(u16, Vec<Expr>), u32>,
}

/// Resolves the body of `stage` at the coordinates `point` (over its `axes ++ reduce`), each an
/// expression over loop axes with these extents. Returns the position of the value.
pub fn resolve(
    nest: &Nest,
    stage: u16,
    point: &[Expr],
    extents: &[i64],
    into: &mut Resolved,
) -> u32 {
    let body: &Body = &nest.stages[stage as usize].body;
    let mut at: Vec<u32> = Vec::with_capacity(body.0.len());
    for scalar in &body.0 {
        let leaf = match scalar {
            Scalar::Load { from, map } => {
                at.push(load(nest, *from, map, point, extents, into));
                continue;
            }
            Scalar::Axis(e) => Leaf::Axis(e.substitute(point, extents)),
            Scalar::Const(l) => Leaf::Const(*l),
            Scalar::Fn(f, args) => Leaf::Fn(*f, args.iter().map(|a| at[*a as usize]).collect()),
            Scalar::Guarded { guards, then, els } => match decide(guards, point, extents) {
                Decision::Always => {
                    at.push(at[*then as usize]);
                    continue;
                }
                Decision::Never => {
                    at.push(at[*els as usize]);
                    continue;
                }
                Decision::Depends(guards) => {
                    Leaf::Guarded { guards, then: at[*then as usize], els: at[*els as usize] }
                }
            },
        };
        at.push(into.leaf(leaf));
    }
    *at.last().expect("a body has a value")
}

impl Resolved {
    /// The same body with every expression rewritten, at the same positions.
    pub fn map(&self, f: impl Fn(&Expr) -> Expr) -> Resolved {
        let of = |leaf: &Leaf| match leaf {
            Leaf::Slot { slot, at } => Leaf::Slot { slot: *slot, at: f(at) },
            Leaf::Stage { stage, at } => {
                Leaf::Stage { stage: *stage, at: at.iter().map(&f).collect() }
            }
            Leaf::Axis(e) => Leaf::Axis(f(e)),
            Leaf::Const(l) => Leaf::Const(*l),
            Leaf::Fn(function, args) => Leaf::Fn(*function, args.clone()),
            Leaf::Guarded { guards, then, els } => {
                let guards = guards.iter().map(|g| g.map(&f)).collect();
                Leaf::Guarded { guards, then: *then, els: *els }
            }
        };
        let leaves = self.leaves.iter().map(of).collect();
        Resolved { leaves, root: self.root, ..Resolved::default() }
    }

    pub fn leaf(&mut self, leaf: Leaf) -> u32 {
        let mut hash = hash_of(&leaf);
        while let Some(i) = self.known.get(&hash) {
            if self.leaves[*i as usize] == leaf {
                return *i;
            }
            hash = hash.wrapping_add(1);
        }
        let i = self.leaves.len() as u32;
        self.known.insert(hash, i);
        self.leaves.push(leaf);
        i
    }
}

fn load(
    nest: &Nest,
    from: From,
    map: &IndexMap,
    point: &[Expr],
    extents: &[i64],
    into: &mut Resolved,
) -> u32 {
    let coords: Vec<Expr> = map.0.iter().map(|e| e.substitute(point, extents)).collect();
    match from {
        From::Slot(slot) => {
            let at = IndexMap(coords).flatten(&nest.slots[slot as usize].shape);
            into.leaf(Leaf::Slot { slot, at })
        }
        From::Stage(stage) => match nest.stages[stage as usize].keep {
            Keep::Inline => {
                let key = (stage, coords);
                if let Some(i) = into.memo.get(&key) {
                    return *i;
                }
                let value = resolve(nest, stage, &key.1, extents, into);
                into.memo.insert(key, value);
                value
            }
            Keep::Row | Keep::Out => {
                let at = coords[nest.shared.min(coords.len())..].to_vec();
                into.leaf(Leaf::Stage { stage, at })
            }
        },
    }
}

/// What is known of a conjunction of guards before the loops run.
pub enum Decision {
    Always,
    Never,
    Depends(Vec<Guard>),
}

fn decide(guards: &[Guard], point: &[Expr], extents: &[i64]) -> Decision {
    let mut open = vec![];
    for g in guards {
        let expr = g.expr.substitute(point, extents);
        match expr.range(extents) {
            Some((lo, hi)) if lo >= g.lo && hi < g.hi => {}
            Some((lo, hi)) if hi < g.lo || lo >= g.hi => return Decision::Never,
            _ => open.push(Guard { expr, lo: g.lo, hi: g.hi }.in_blocks(extents)),
        }
    }
    if open.is_empty() { Decision::Always } else { Decision::Depends(open) }
}
