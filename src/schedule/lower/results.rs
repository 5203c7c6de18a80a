//! Results of a group: where they are computed, and where they are stored.

use super::keep::stage_operands;
use super::*;

impl Lowering<'_> {
    /// Binds the region's outputs to stages. Where something is reduced, results are computed at
    /// the points of the last reduction or row that they come from, and stored through the views.
    pub(super) fn outputs(&mut self, operands: usize) -> Result<(), NoNest> {
        let reduces = self.nest.stages.iter().any(|s| s.combine.is_some());
        for (i, output) in self.region.outputs.iter().enumerate() {
            let slot = (operands + i) as u16;
            let shape = self.nest.slots[slot as usize].shape.clone();
            let stage = match self.defs[&output.value].clone() {
                Def::Stage(s) => s,
                Def::Slot(_) | Def::Const(_) => {
                    let mut body = Body::default();
                    self.load(&mut body, output.value, IndexMap::identity(shape.len()));
                    let dtype = self.nest.slots[slot as usize].dtype;
                    self.push(&shape, vec![], None, body, dtype)
                }
            };
            let (stage, point) = match reduces {
                true => self.turned(output.value, stage),
                false => (stage, (0..shape.len()).map(Expr::axis).collect()),
            };
            self.nest.stages[stage as usize].keep = Keep::Out;
            let at = IndexMap(point).flatten(&shape);
            self.nest.outs.push(Out { stage, slot, at });
        }
        Ok(())
    }

    /// The stage whose points produce a value, and the value's coordinates at such a point. For a
    /// chain of reshapes and transposes over a stage these views are inverted; elementwise nodes
    /// behind such a view get a stage over the anchor's axes.
    fn turned(&mut self, value: Value, stage: u16) -> (u16, Vec<Expr>) {
        let identity = |rank: usize| (0..rank).map(Expr::axis).collect::<Vec<_>>();
        let rank = self.nest.stages[stage as usize].axes.len();
        let Some((base, point)) = self.path(value) else { return (stage, identity(rank)) };
        let base_stage = match self.defs[&base] {
            Def::Stage(s) => s,
            Def::Slot(_) | Def::Const(_) => return (stage, identity(rank)),
        };
        if base_stage == stage || point == identity(rank) {
            return (stage, identity(rank));
        }
        let (axes, dtype) = {
            let s = &self.nest.stages[base_stage as usize];
            (
                s.axes.iter().map(|&d| d as usize).collect::<Vec<_>>(),
                self.nest.stages[stage as usize].dtype,
            )
        };
        let body = Body::load(From::Stage(stage), IndexMap(point.clone()));
        (self.push(&axes, vec![], None, body, dtype), point)
    }

    /// Follows a value back through elementwise nodes of one shape, reshapes and transposes to the
    /// node where its points come from; gives that value and the coordinates over its axes.
    fn path(&self, value: Value) -> Option<(Value, Vec<Expr>)> {
        let mut chain: Vec<NodeId> = vec![];
        let mut at = value;
        loop {
            let node = self.region.node(at.node);
            let next = match self.region.class(at.node) {
                Class::View(View::Reshape | View::Transpose(_) | View::Relayout { .. }) => {
                    node.operands()[0]
                }
                Class::Elementwise(_) => {
                    // Only worth it if a view lies behind.
                    let shape = &self.region.ty(at).shape;
                    let same = |v: &&Value| {
                        self.region.ty(**v).shape == *shape
                            && matches!(self.defs[v], Def::Stage(_))
                            && self.depends_on_reduction(**v)
                    };
                    match node.operands().iter().find(same) {
                        Some(v) => *v,
                        None => break,
                    }
                }
                _ => break,
            };
            if !matches!(self.defs[&next], Def::Stage(_)) {
                break;
            }
            chain.push(at.node);
            at = next;
        }
        // The last view of the chain decides where the points are.
        while let Some(last) = chain.last() {
            if matches!(self.region.class(*last), Class::View(_)) {
                break;
            }
            at = Value { node: chain.pop().expect("checked"), result: 0 };
        }
        let shape = self.region.ty(at).shape.concrete()?;
        let extents: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        let mut point: Vec<Expr> = (0..shape.len()).map(Expr::axis).collect();
        let mut shape = shape;
        for id in chain.iter().rev() {
            let result = self.region.node(*id).results[0].shape.concrete()?;
            match self.region.class(*id) {
                Class::View(View::Transpose(perm)) => {
                    point = perm.iter().map(|&p| point[p].clone()).collect();
                }
                Class::View(View::Relayout { axis, block }) => {
                    point.push(point[axis].modulo(block, &extents));
                    point[axis] = point[axis].floor_div(block, &extents);
                }
                Class::View(_) => {
                    let flat = IndexMap(point).flatten(&shape);
                    let mut inner = 1i64;
                    let mut parts: Vec<Expr> = result
                        .iter()
                        .rev()
                        .map(|&d| {
                            let e = flat
                                .floor_div(inner.max(1), &extents)
                                .modulo((d as i64).max(1), &extents);
                            inner *= d as i64;
                            e
                        })
                        .collect();
                    parts.reverse();
                    point = parts;
                }
                _ => {}
            }
            shape = result;
        }
        Some((at, point))
    }

    fn depends_on_reduction(&self, v: Value) -> bool {
        let Def::Stage(root) = self.defs[&v] else { return false };
        let mut open = vec![root];
        let mut seen = BTreeSet::new();
        while let Some(s) = open.pop() {
            let stage = &self.nest.stages[s as usize];
            if stage.combine.is_some() {
                return true;
            }
            open.extend(stage_operands(stage).filter(|s| seen.insert(*s)));
        }
        false
    }
}
