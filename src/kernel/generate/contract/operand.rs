//! The two factors of a contraction's product, and what is known of each.

use super::space::in_lanes;
use crate::ir::index::Guard;
use crate::kernel::nest::Nest;
use crate::kernel::resolve::{Leaf, Resolved};

/// One factor of the product.
pub struct Operand<'r> {
    pub value: u32,
    pub guards: Vec<Guard>,
    /// The leaves that the value is made of.
    pub leaves: Vec<&'r Leaf>,
}

impl<'r> Operand<'r> {
    /// A load, or what is made of one, perhaps guarded with zero as the padding.
    pub fn of(body: &'r Resolved, root: u32) -> Option<Operand<'r>> {
        let (value, guards) = match &body.leaves[root as usize] {
            Leaf::Guarded { guards, then, els } => match &body.leaves[*els as usize] {
                Leaf::Const(lit) if lit.bits == 0 => (*then, guards.clone()),
                _ => return None,
            },
            _ => (root, vec![]),
        };
        let (mut leaves, mut open, mut loads) = (vec![], vec![value], false);
        while let Some(at) = open.pop() {
            let leaf = &body.leaves[at as usize];
            match leaf {
                Leaf::Slot { .. } => loads = true,
                Leaf::Fn(_, args) => open.extend(args),
                Leaf::Const(_) | Leaf::Axis(_) => {}
                Leaf::Stage { .. } | Leaf::Guarded { .. } => return None,
            }
            leaves.push(leaf);
            if leaves.len() > 64 {
                return None;
            }
        }
        loads.then_some(Operand { value, guards, leaves })
    }

    pub fn mentions(&self, axis: usize) -> bool {
        let leaf = |l: &&Leaf| match l {
            Leaf::Slot { at, .. } => at.mentions(axis),
            Leaf::Axis(e) => e.mentions(axis),
            Leaf::Stage { .. } | Leaf::Const(_) | Leaf::Fn(..) | Leaf::Guarded { .. } => false,
        };
        self.leaves.iter().any(leaf) || self.guards.iter().any(|g| g.expr.mentions(axis))
    }

    /// Whether one vector holds it along an axis.
    pub fn in_lanes(&self, axis: usize) -> bool {
        self.leaves.iter().all(|leaf| match leaf {
            Leaf::Slot { at, .. } => in_lanes(at, axis),
            Leaf::Axis(e) => !e.mentions(axis),
            Leaf::Stage { .. } | Leaf::Const(_) | Leaf::Fn(..) | Leaf::Guarded { .. } => true,
        })
    }

    pub fn contiguous(&self, axis: usize) -> bool {
        let leaf = |l: &&Leaf| match l {
            Leaf::Slot { at, .. } => at.stride(axis) == Some(1),
            Leaf::Axis(_) => false,
            Leaf::Stage { .. } | Leaf::Const(_) | Leaf::Fn(..) | Leaf::Guarded { .. } => true,
        };
        self.leaves.iter().all(leaf) && self.guards.iter().all(|g| !g.expr.mentions(axis))
    }

    /// Elements of the largest slot.
    pub fn elements(&self, nest: &Nest) -> u64 {
        let leaf = |l: &&Leaf| match l {
            Leaf::Slot { slot, .. } => nest.slots[*slot as usize].numel(),
            Leaf::Axis(_)
            | Leaf::Stage { .. }
            | Leaf::Const(_)
            | Leaf::Fn(..)
            | Leaf::Guarded { .. } => 0,
        };
        self.leaves.iter().map(leaf).max().unwrap_or(0)
    }
}
