//! The Nest: what one fusion group computes; pure, without order or width.
//!
//! A nest has *slots* (the buffers of the launch: operands first, then results) and *stages* in
//! topological order. A stage computes one element for each point of its axes; its body is a small
//! SSA over the coordinates `axes ++ reduce`. All stages that are not inline agree on the first
//! `shared` axes: one grid point of the kernel computes all of them for one point of those axes.
//!
//! Invariants: a body reads only slots that are operands, and stages before its own; it reads a
//! stage that is kept only at the same point of the shared axes; guards protect every access that
//! could otherwise lie outside.

use crate::base::DType;
use crate::ir::index::{Expr, Guard, IndexMap};
use crate::ir::scalar::{Combine, ScalarFn};

use super::ir::Lit;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Slot {
    pub dtype: DType,
    pub shape: Vec<usize>,
}

impl Slot {
    pub fn numel(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product()
    }
}

/// Where a stage's values live.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Keep {
    /// Nowhere: computed where it is read.
    Inline,
    /// For the duration of one point of the shared axes, in a register or in worker scratch.
    Row,
    /// In result slots.
    Out,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum From {
    Slot(u16),
    Stage(u16),
}

/// One instruction of a body. Operands are earlier positions in the same body.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scalar {
    /// `Term::Dyn { slot, .. }` in the map is an operand slot of this nest.
    Load {
        from: From,
        map: IndexMap,
    },
    /// A coordinate (or an expression over coordinates) as i64.
    Axis(Expr),
    Const(Lit),
    /// Operands of one dtype, that of the function's operands (see `ScalarFn`).
    Fn(ScalarFn, Vec<u16>),
    /// `then` where all guards hold, else `els`; `then` is evaluated only where they hold.
    Guarded {
        guards: Vec<Guard>,
        then: u16,
        els: u16,
    },
}

impl Scalar {
    /// Positions of the instructions that this one reads.
    pub fn operands(&self) -> impl Iterator<Item = u16> + '_ {
        let (args, pair) = match self {
            Scalar::Fn(_, args) => (&args[..], [None, None]),
            Scalar::Guarded { then, els, .. } => (&[][..], [Some(*then), Some(*els)]),
            Scalar::Load { .. } | Scalar::Axis(_) | Scalar::Const(_) => (&[][..], [None, None]),
        };
        args.iter().copied().chain(pair.into_iter().flatten())
    }
}

/// SSA; the last instruction is the value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Body(pub Vec<Scalar>);

impl Body {
    pub fn push(&mut self, s: Scalar) -> u16 {
        self.0.push(s);
        self.0.len() as u16 - 1
    }

    pub fn load(from: From, map: IndexMap) -> Body {
        Body(vec![Scalar::Load { from, map }])
    }

    /// Every expression over coordinates rewritten.
    pub fn map(&self, f: impl Fn(&Expr) -> Expr) -> Body {
        let scalar = |s: &Scalar| match s {
            Scalar::Load { from, map } => {
                Scalar::Load { from: *from, map: IndexMap(map.0.iter().map(&f).collect()) }
            }
            Scalar::Axis(e) => Scalar::Axis(f(e)),
            Scalar::Const(l) => Scalar::Const(*l),
            Scalar::Fn(function, args) => Scalar::Fn(*function, args.clone()),
            Scalar::Guarded { guards, then, els } => Scalar::Guarded {
                guards: guards.iter().map(|g| g.map(&f)).collect(),
                then: *then,
                els: *els,
            },
        };
        Body(self.0.iter().map(scalar).collect())
    }

    /// What the instruction at `root` needs, and nothing else.
    pub fn excerpt(&self, root: u16) -> Body {
        let mut live = vec![false; self.0.len()];
        live[root as usize] = true;
        for (i, scalar) in self.0.iter().enumerate().rev() {
            if live[i] {
                scalar.operands().for_each(|o| live[o as usize] = true);
            }
        }
        let (mut out, mut place) = (Body::default(), vec![0u16; self.0.len()]);
        for (i, scalar) in self.0.iter().enumerate().filter(|(i, _)| live[*i]) {
            let mut scalar = scalar.clone();
            match &mut scalar {
                Scalar::Fn(_, args) => args.iter_mut().for_each(|a| *a = place[*a as usize]),
                Scalar::Guarded { then, els, .. } => {
                    (*then, *els) = (place[*then as usize], place[*els as usize]);
                }
                Scalar::Load { .. } | Scalar::Axis(_) | Scalar::Const(_) => {}
            }
            place[i] = out.push(scalar);
        }
        out
    }

    /// Whether the value depends on a coordinate.
    pub fn mentions(&self, axis: usize) -> bool {
        self.0.iter().any(|s| match s {
            Scalar::Load { map, .. } => map.0.iter().any(|e| e.mentions(axis)),
            Scalar::Axis(e) => e.mentions(axis),
            Scalar::Guarded { guards, .. } => guards.iter().any(|g| g.expr.mentions(axis)),
            Scalar::Const(_) | Scalar::Fn(..) => false,
        })
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Stage {
    /// The shared axes first.
    pub axes: Vec<i64>,
    /// Axes that `combine` runs over, the innermost last.
    pub reduce: Vec<i64>,
    pub combine: Option<Combine>,
    /// Over the coordinates `axes ++ reduce`.
    pub body: Body,
    /// Of the stage's value (of `body`, where nothing is reduced).
    pub dtype: DType,
    pub keep: Keep,
    /// Of a sum of products over channels and the places of a tile, the last two reduced axes: it is
    /// done by Winograd's algorithm (`generate::winograd`), for so many results along each of the
    /// last two axes at once.
    pub tile: Option<usize>,
}

impl Stage {
    /// Extents of `axes ++ reduce`.
    pub fn extents(&self) -> Vec<i64> {
        [&self.axes[..], &self.reduce[..]].concat()
    }
}

/// A result: `slot[at] = stage`, with the row-major offset over the stage's axes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Out {
    pub stage: u16,
    pub slot: u16,
    pub at: Expr,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Nest {
    pub name: String,
    /// Operands, then results.
    pub slots: Vec<Slot>,
    pub operands: usize,
    pub shared: usize,
    pub stages: Vec<Stage>,
    pub outs: Vec<Out>,
    /// Pairs (result slot, operand slot) that may share their bytes: every element of the operand
    /// is read only for the element of the result at the same offset.
    pub inplace: Vec<(u16, u16)>,
}

impl Nest {
    /// The dtype of a body's instruction.
    pub fn dtype(&self, body: &Body, at: u16) -> DType {
        match &body.0[at as usize] {
            Scalar::Load { from: From::Slot(s), .. } => self.slots[*s as usize].dtype,
            Scalar::Load { from: From::Stage(s), .. } => self.stages[*s as usize].dtype,
            Scalar::Axis(_) => DType::I64,
            Scalar::Const(l) => l.dtype,
            Scalar::Fn(f, args) => {
                let of = if *f == ScalarFn::Where { args[1] } else { args[0] };
                f.result(self.dtype(body, of))
            }
            Scalar::Guarded { then, .. } => self.dtype(body, *then),
        }
    }

    /// FLOP of one run: those of the bodies, times their points.
    pub fn flops(&self) -> u64 {
        let stage = |s: &Stage| {
            let points: u64 = s.extents().iter().map(|&d| d.max(0) as u64).product();
            let of = |i: &Scalar| match i {
                Scalar::Fn(f, _) => f.flops(),
                Scalar::Load { .. }
                | Scalar::Axis(_)
                | Scalar::Const(_)
                | Scalar::Guarded { .. } => 0,
            };
            let each = s.body.0.iter().map(of).sum::<u64>() + s.combine.is_some() as u64;
            // The results of a tile share its products.
            points * each / s.tile.map_or(1, |t| (t * t) as u64)
        };
        self.stages.iter().map(stage).sum()
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|s| s.numel() * s.dtype.bytes() as u64).sum()
    }
}
