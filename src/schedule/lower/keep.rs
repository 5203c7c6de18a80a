//! What is kept for a row, which axes rows share, and which buffers may be one.

use super::*;

impl Lowering<'_> {
    /// Decides what is kept, and how many leading axes all kept stages share.
    pub(super) fn keep(&mut self) -> Result<(), NoNest> {
        let n = self.nest.stages.len();
        if !self.nest.stages.iter().any(|s| s.combine.is_some()) {
            return Ok(());
        }
        for s in &mut self.nest.stages {
            if s.combine.is_some() && s.keep == Keep::Inline {
                s.keep = Keep::Row;
            }
        }
        self.drop_dead();
        let row = self.row_axes();
        // The loops that would compute an inline stage, and what one evaluation costs.
        let n = n.min(self.nest.stages.len());
        let mut roots: Vec<BTreeSet<u16>> = vec![BTreeSet::new(); n];
        let costs = self.inline_costs();
        for s in (0..n).rev() {
            let stage = &self.nest.stages[s];
            let on_rows = stage.axes.len() >= row.len() && stage.axes[..row.len()] == row[..];
            // Once a row, where a loop over the row would compute it for each element.
            let inside = |root: &u16| {
                let extents = self.nest.stages[*root as usize].extents();
                extents[row.len()..].iter().any(|&n| n != 1)
            };
            let invariant = on_rows
                && stage.axes[row.len()..].iter().product::<i64>() == 1
                && (roots[s].len() > 1 || roots[s].iter().any(inside));
            let keepable = stage.keep == Keep::Inline
                && on_rows
                && (invariant && costs[s] > 0
                    || roots[s].len() > 1 && costs[s] >= 4 && stage.axes.len() > row.len());
            if keepable {
                self.nest.stages[s].keep = Keep::Row;
                // Axes of the same extents are not yet the same axes.
                if self.row_axes().len() < row.len() {
                    self.nest.stages[s].keep = Keep::Inline;
                }
            }
            let stage = &self.nest.stages[s];
            let through = match stage.keep {
                Keep::Inline => roots[s].clone(),
                Keep::Row | Keep::Out => BTreeSet::from([s as u16]),
            };
            for operand in stage_operands(stage).collect::<Vec<_>>() {
                roots[operand as usize].extend(&through);
            }
        }
        self.nest.shared = row.len();
        Ok(())
    }

    /// Tiles of Winograd's algorithm are finished on the spot: all that is kept has their axes.
    pub(super) fn whole_tiles(&self) -> Result<(), NoNest> {
        let kept = || self.nest.stages.iter().filter(|s| s.keep != Keep::Inline);
        let Some(tiled) = kept().find(|s| s.tile.is_some()) else { return Ok(()) };
        let here = |s: &Stage| s.axes == tiled.axes && (s.combine.is_none() || s.tile.is_some());
        match kept().all(here) && kept().filter(|s| s.tile.is_some()).count() == 1 {
            true => Ok(()),
            false => Err(NoNest("tiles that are not finished on the spot")),
        }
    }

    /// Stages that nothing reads any more, after results were turned around.
    fn drop_dead(&mut self) {
        let n = self.nest.stages.len();
        let mut live = vec![false; n];
        for o in &self.nest.outs {
            live[o.stage as usize] = true;
        }
        for s in (0..n).rev() {
            if live[s] {
                for o in stage_operands(&self.nest.stages[s]) {
                    live[o as usize] = true;
                }
            }
        }
        let mut at = vec![0u16; n];
        let mut kept = vec![];
        for (s, stage) in std::mem::take(&mut self.nest.stages).into_iter().enumerate() {
            at[s] = kept.len() as u16;
            if live[s] {
                kept.push(stage);
            }
        }
        for stage in &mut kept {
            for scalar in &mut stage.body.0 {
                if let Scalar::Load { from: From::Stage(s), .. } = scalar {
                    *s = at[*s as usize];
                }
            }
        }
        self.nest.outs.iter_mut().for_each(|o| o.stage = at[o.stage as usize]);
        self.nest.stages = kept;
    }

    /// FLOP of one evaluation of each stage with everything inline in it.
    fn inline_costs(&self) -> Vec<u64> {
        let mut costs: Vec<u64> = vec![];
        for stage in &self.nest.stages {
            let own: u64 = stage
                .body
                .0
                .iter()
                .map(|s| match s {
                    Scalar::Fn(f, _) => f.flops(),
                    Scalar::Load { .. }
                    | Scalar::Axis(_)
                    | Scalar::Const(_)
                    | Scalar::Guarded { .. } => 0,
                })
                .sum();
            let operands: u64 = stage_operands(stage)
                .filter(|s| self.nest.stages[*s as usize].keep == Keep::Inline)
                .map(|s| costs[s as usize])
                .sum();
            costs.push(own.saturating_add(operands).min(1 << 40));
        }
        costs
    }

    /// The longest prefix of axes that all kept stages have in common and at which they read each
    /// other only in place.
    fn row_axes(&self) -> Vec<i64> {
        let kept: Vec<u16> = (0..self.nest.stages.len() as u16)
            .filter(|s| self.nest.stages[*s as usize].keep != Keep::Inline)
            .collect();
        let mut prefix = self.nest.stages[kept[0] as usize].axes.clone();
        for s in &kept {
            let axes = &self.nest.stages[*s as usize].axes;
            let common = prefix.iter().zip(axes).take_while(|(a, b)| a == b).count();
            prefix.truncate(common);
        }
        for s in &kept {
            let stage = &self.nest.stages[*s as usize];
            let extents = stage.extents();
            let point: Vec<Expr> = (0..extents.len()).map(Expr::axis).collect();
            let mut resolved = Resolved::default();
            // `shared` is still 0, so the coordinates of stage reads are whole.
            resolve(&self.nest, *s, &point, &extents, &mut resolved);
            for leaf in &resolved.leaves {
                let Leaf::Stage { at, .. } = leaf else { continue };
                let in_place = at.iter().enumerate().take_while(|(i, e)| {
                    **e == Expr::axis(*i) || extents.get(*i) == Some(&1) && e.as_const() == Some(0)
                });
                prefix.truncate(in_place.count().min(prefix.len()));
            }
        }
        prefix
    }

    /// A result may take over an operand's bytes where the nest is pointwise and reads the operand
    /// at the result's own offset only.
    pub(super) fn inplace(&mut self) {
        let nest = &self.nest;
        let one_shape = nest.outs.windows(2).all(|w| {
            nest.stages[w[0].stage as usize].axes == nest.stages[w[1].stage as usize].axes
        });
        if nest.stages.iter().any(|s| s.keep == Keep::Row || s.combine.is_some()) || !one_shape {
            return;
        }
        let mut inline = nest.clone();
        inline.stages.iter_mut().for_each(|s| s.keep = Keep::Inline);
        let mut resolved = Resolved::default();
        for out in &nest.outs {
            let extents = nest.stages[out.stage as usize].axes.clone();
            let point: Vec<Expr> = (0..extents.len()).map(Expr::axis).collect();
            resolve(&inline, out.stage, &point, &extents, &mut resolved);
        }
        let mut pairs = vec![];
        for out in &nest.outs {
            for operand in 0..nest.operands as u16 {
                let (o, r) = (&nest.slots[operand as usize], &nest.slots[out.slot as usize]);
                let same_size = o.dtype == r.dtype && o.numel() == r.numel();
                let in_step = resolved.leaves.iter().all(|l| match l {
                    Leaf::Slot { slot, at } => *slot != operand || *at == out.at,
                    Leaf::Guarded { .. } | Leaf::Fn(..) | Leaf::Const(_) | Leaf::Stage { .. } => {
                        true
                    }
                    Leaf::Axis(_) => true,
                });
                let dynamic = resolved.leaves.iter().any(|l| reads_index(l, operand));
                if same_size && in_step && !dynamic {
                    pairs.push((out.slot, operand));
                }
            }
        }
        self.nest.inplace = pairs;
    }
}

/// Whether a leaf reads a slot as a run-time index.
fn reads_index(leaf: &Leaf, slot: u16) -> bool {
    fn expr(e: &Expr, slot: u16) -> bool {
        e.terms.iter().any(|(t, _)| match t {
            Term::Axis(_) => false,
            Term::FloorDiv(e, _) | Term::Mod(e, _) => expr(e, slot),
            Term::Dyn { slot: s, at, .. } => *s == slot || at.iter().any(|e| expr(e, slot)),
        })
    }
    match leaf {
        Leaf::Slot { at, .. } => expr(at, slot),
        Leaf::Stage { at, .. } => at.iter().any(|e| expr(e, slot)),
        Leaf::Axis(e) => expr(e, slot),
        Leaf::Guarded { guards, .. } => guards.iter().any(|g| expr(&g.expr, slot)),
        Leaf::Const(_) | Leaf::Fn(..) => false,
    }
}

pub(super) fn stage_operands(stage: &Stage) -> impl Iterator<Item = u16> + '_ {
    stage.body.0.iter().filter_map(|s| match s {
        Scalar::Load { from: From::Stage(s), .. } => Some(*s),
        Scalar::Load { .. }
        | Scalar::Axis(_)
        | Scalar::Const(_)
        | Scalar::Fn(..)
        | Scalar::Guarded { .. } => None,
    })
}
