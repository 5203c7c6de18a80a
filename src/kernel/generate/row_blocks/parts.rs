//! From a nest with kept rows to one nest for each step of a block of rows.
//!
//! The axis of the rows becomes two: blocks, in the place of the rows, and the row in its block, the
//! last axis of every stage. What a stage hands to later ones is a slot of scratch, over the
//! stage's own axes and then the rows, `pitch` of them. All slots of a part are flat; those of scratch
//! follow the slots of the nest, and are read and written alike.

use std::collections::BTreeMap;

use super::super::loops::resolved_stage;
use super::product;
use crate::base::DType;
use crate::ir::index::{Expr, IndexMap};
use crate::kernel::nest::{Body, From, Keep, Nest, Out, Scalar, Slot, Stage};
use crate::kernel::resolve::{Leaf, Resolved};

/// Which rows a block has.
pub struct Block {
    /// The axis of the rows.
    pub row: usize,
    /// Rows that scratch has room for.
    pub pitch: i64,
    /// Rows of each block, at most `pitch`.
    pub rows: i64,
    pub blocks: i64,
    /// The first row of the first block.
    pub first: i64,
}

/// The steps of a block.
pub struct Parts {
    pub nests: Vec<Nest>,
    /// Element type and length.
    pub scratch: Vec<(DType, u64)>,
}

/// Stages that are computed at the same points: a sum of products and what is made of it on the spot, or
/// any other stage alone.
struct Group {
    stages: Vec<u16>,
    product: bool,
}

impl Parts {
    pub fn of(nest: &Nest, block: &Block) -> Parts {
        let kept: Vec<u16> = (0..nest.stages.len() as u16)
            .filter(|s| nest.stages[*s as usize].keep != Keep::Inline)
            .collect();
        let bodies: BTreeMap<u16, Resolved> =
            kept.iter().map(|s| (*s, resolved_stage(nest, *s))).collect();
        let groups = groups(nest, &kept, &bodies);
        let flat = |s: &Slot| Slot { dtype: s.dtype, shape: vec![s.numel() as usize] };
        let mut cutter = Cutter {
            nest,
            block,
            slots: nest.slots.iter().map(flat).collect(),
            homes: BTreeMap::new(),
            nests: vec![],
        };
        for (i, group) in groups.iter().enumerate() {
            for s in &group.stages {
                let read = |t: &u16| stages_of(&bodies[t]).any(|(read, _)| read == *s);
                if groups[i + 1..].iter().flat_map(|g| &g.stages).any(read) {
                    let own = &nest.stages[*s as usize].axes[nest.shared..];
                    let slot = cutter.scratch(nest.stages[*s as usize].dtype, own);
                    cutter.homes.insert(*s, slot);
                }
            }
            cutter.part(group, &bodies);
        }
        let Cutter { slots, nests, .. } = cutter;
        let scratch = slots[nest.slots.len()..].iter().map(|s| (s.dtype, s.numel())).collect();
        let nests = nests.into_iter().map(|n| Nest { slots: slots.clone(), ..n }).collect();
        Parts { nests, scratch }
    }
}

/// The stages that a body reads, and where.
fn stages_of(body: &Resolved) -> impl Iterator<Item = (u16, &[Expr])> {
    body.leaves.iter().filter_map(|l| match l {
        Leaf::Stage { stage, at } => Some((*stage, &at[..])),
        Leaf::Slot { .. }
        | Leaf::Axis(_)
        | Leaf::Const(_)
        | Leaf::Fn(..)
        | Leaf::Guarded { .. } => None,
    })
}

fn groups(nest: &Nest, kept: &[u16], bodies: &BTreeMap<u16, Resolved>) -> Vec<Group> {
    let mut groups: Vec<Group> = vec![];
    for &s in kept {
        let stage = &nest.stages[s as usize];
        let here = |at: &[Expr]| {
            at.iter().enumerate().all(|(i, e)| {
                let axis = nest.shared + i;
                *e == Expr::axis(axis) || stage.axes[axis] == 1 && e.as_const() == Some(0)
            })
        };
        let of = |s: u16| groups.iter().position(|g| g.stages.contains(&s));
        let last = stages_of(&bodies[&s]).filter_map(|(read, _)| of(read)).max();
        let joins = last.is_some_and(|g| {
            groups[g].product
                && stage.combine.is_none()
                && stage.axes == nest.stages[groups[g].stages[0] as usize].axes
                && stages_of(&bodies[&s]).all(|(read, at)| of(read) != Some(g) || here(at))
        });
        match last.filter(|_| joins) {
            Some(g) => groups[g].stages.push(s),
            None => groups.push(Group { stages: vec![s], product: product(nest, stage) }),
        }
    }
    groups
}

struct Cutter<'a> {
    nest: &'a Nest,
    block: &'a Block,
    /// Those of the nest, then scratch.
    slots: Vec<Slot>,
    /// The scratch of each stage that has one.
    homes: BTreeMap<u16, u16>,
    nests: Vec<Nest>,
}

impl Cutter<'_> {
    /// A slot of scratch over some axes and the rows.
    fn scratch(&mut self, dtype: DType, axes: &[i64]) -> u16 {
        let len = axes.iter().product::<i64>() * self.block.pitch;
        self.slots.push(Slot { dtype, shape: vec![len as usize] });
        self.slots.len() as u16 - 1
    }

    /// Where scratch holds a point.
    fn at(&self, point: &[Expr], extents: &[i64], row: usize) -> Expr {
        let extents: Vec<usize> = extents.iter().map(|&d| d as usize).collect();
        let flat = IndexMap(point.to_vec()).flatten(&extents);
        flat.scale(self.block.pitch).add(&Expr::axis(row))
    }

    /// The axes of a stage with blocks for rows, and the rows behind.
    fn axes(&self, stage: &Stage) -> Vec<i64> {
        let mut axes = stage.axes.clone();
        axes[self.block.row] = self.block.blocks;
        axes.push(self.block.rows);
        axes
    }

    /// The coordinates of a stage (`axes ++ reduce`) over those of its part.
    fn point(&self, stage: &Stage) -> Vec<Expr> {
        let rank = stage.axes.len();
        let Block { row, pitch, first, .. } = *self.block;
        (0..rank + stage.reduce.len())
            .map(|k| match k {
                k if k == row => Expr::axis(row).scale(pitch).add(&Expr::axis(rank)).plus(first),
                k if k < rank => Expr::axis(k),
                k => Expr::axis(k + 1),
            })
            .collect()
    }

    fn part(&mut self, group: &Group, bodies: &BTreeMap<u16, Resolved>) {
        let mut stages = vec![];
        let mut outs = vec![];
        for &s in &group.stages {
            let stage = &self.nest.stages[s as usize];
            let (by, axes) = (self.point(stage), self.axes(stage));
            let (rank, extents) = (axes.len(), [&axes[..], &stage.reduce].concat());
            let body = self.body(&bodies[&s], bodies[&s].root, group, &by, &extents, rank - 1);
            let index = stages.len() as u16;
            let here = self.nest.outs.iter().filter(|o| o.stage == s);
            outs.extend(here.map(|o| Out {
                stage: index,
                slot: o.slot,
                at: o.at.substitute(&by, &extents),
            }));
            if let Some(&slot) = self.homes.get(&s) {
                let own: Vec<Expr> = (self.nest.shared..rank - 1).map(Expr::axis).collect();
                let at = self.at(&own, &axes[self.nest.shared..rank - 1], rank - 1);
                outs.push(Out { stage: index, slot, at });
            }
            stages.push(Stage { axes, body, keep: Keep::Out, ..stage.clone() });
        }
        if group.product {
            self.pack(&mut stages[0]);
        }
        let shared = stages[0].axes.len();
        self.push(shared, stages, outs);
    }

    fn push(&mut self, shared: usize, stages: Vec<Stage>, outs: Vec<Out>) {
        self.nests.push(Nest {
            name: self.nest.name.clone(),
            // Filled in when all are known.
            slots: vec![],
            operands: self.nest.operands,
            shared,
            stages,
            outs,
            inplace: vec![],
        });
    }

    /// A factor whose rows are to lie in lanes, and do not in memory, gets a part of its own that
    /// copies it: over the reduced axes, with the rows side by side.
    fn pack(&mut self, stage: &mut Stage) {
        let (rank, shared) = (stage.axes.len(), self.nest.shared);
        let row = rank - 1;
        for side in 0..2 {
            let Some(Scalar::Fn(_, factors)) = stage.body.0.last() else { return };
            let f = factors[side];
            let part = stage.body.excerpt(f);
            let strided = part.0.iter().any(|s| match s {
                Scalar::Load { map, .. } => {
                    map.0.iter().any(|e| e.mentions(row) && e.stride(row) != Some(1))
                }
                Scalar::Axis(_) | Scalar::Const(_) | Scalar::Fn(..) | Scalar::Guarded { .. } => {
                    false
                }
            });
            let own = (shared..row).any(|a| part.mentions(a));
            let dtype = self.dtype(&part);
            if !strided || own || dtype != dtype.compute() {
                continue;
            }
            let slot = self.scratch(dtype, &stage.reduce);
            let reduced = stage.reduce.len();
            let axes = [&stage.axes[..shared], &stage.reduce, &stage.axes[row..]].concat();
            let by: Vec<Expr> = (0..rank + reduced)
                .map(|k| match k {
                    k if k < shared => Expr::axis(k),
                    k if k < row => Expr::constant(0),
                    k if k == row => Expr::axis(shared + reduced),
                    k => Expr::axis(shared + k - rank),
                })
                .collect();
            let body = part.map(|e| e.substitute(&by, &axes));
            let point: Vec<Expr> = (shared..shared + reduced).map(Expr::axis).collect();
            let at = self.at(&point, &stage.reduce, shared + reduced);
            let outs = vec![Out { stage: 0, slot, at }];
            let all = axes.len();
            let (reduce, combine, keep) = (vec![], None, Keep::Out);
            self.push(
                all,
                vec![Stage { axes, reduce, combine, body, dtype, keep, tile: None }],
                outs,
            );
            let point: Vec<Expr> = (rank..rank + reduced).map(Expr::axis).collect();
            let at = self.at(&point, &stage.reduce, row);
            let load = Scalar::Load { from: From::Slot(slot), map: IndexMap(vec![at]) };
            stage.body.0[f as usize] = load;
            stage.body = stage.body.excerpt(stage.body.0.len() as u16 - 1);
        }
    }

    /// Of a body that reads flat slots only.
    fn dtype(&self, body: &Body) -> DType {
        let slots = self.slots.clone();
        let nest = Nest { slots, stages: vec![], outs: vec![], ..self.nest.clone() };
        nest.dtype(body, body.0.len() as u16 - 1)
    }

    /// What a leaf is made of, as a body over the axes of the part.
    fn body(
        &self,
        resolved: &Resolved,
        root: u32,
        group: &Group,
        by: &[Expr],
        extents: &[i64],
        row: usize,
    ) -> Body {
        let expr = |e: &Expr| e.substitute(by, extents);
        let mut body = Body::default();
        let mut place = vec![0u16; resolved.leaves.len()];
        for (i, leaf) in resolved.leaves.iter().enumerate() {
            let scalar = match leaf {
                Leaf::Slot { slot, at } => {
                    Scalar::Load { from: From::Slot(*slot), map: IndexMap(vec![expr(at)]) }
                }
                Leaf::Stage { stage, at } => match group.stages.iter().position(|s| s == stage) {
                    Some(member) => {
                        let map = IndexMap::identity(row + 1);
                        Scalar::Load { from: From::Stage(member as u16), map }
                    }
                    None => {
                        let own = &self.nest.stages[*stage as usize].axes[self.nest.shared..];
                        let at: Vec<Expr> = at.iter().map(expr).collect();
                        let map = IndexMap(vec![self.at(&at, own, row)]);
                        Scalar::Load { from: From::Slot(self.homes[stage]), map }
                    }
                },
                Leaf::Axis(e) => Scalar::Axis(expr(e)),
                Leaf::Const(l) => Scalar::Const(*l),
                Leaf::Fn(f, args) => {
                    Scalar::Fn(*f, args.iter().map(|a| place[*a as usize]).collect())
                }
                Leaf::Guarded { guards, then, els } => Scalar::Guarded {
                    guards: guards.iter().map(|g| g.map(expr)).collect(),
                    then: place[*then as usize],
                    els: place[*els as usize],
                },
            };
            place[i] = body.push(scalar);
        }
        body.excerpt(place[root as usize])
    }
}
