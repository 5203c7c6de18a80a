//! From a well-formed kernel to code for the interpreter: registers have places, operations are
//! function pointers, and every movement of lanes is one list of places.

use super::scalar::{ElementFn, element_fn, fold_op};
use crate::base::DType;
use crate::ir::scalar::Combine;
use crate::kernel::ir::*;

/// Lanes `at .. at + n` of the register file.
#[derive(Clone, Copy)]
pub struct Place {
    pub at: u32,
    pub n: u16,
}

pub enum Code {
    Fill {
        dst: Place,
        bits: u64,
    },
    Grid {
        dst: u32,
        axis: u8,
    },
    Local {
        dst: u32,
        axis: u8,
    },
    /// One element function for each lane; unused operands repeat the first.
    Map {
        f: ElementFn,
        dst: Place,
        args: [u32; 3],
    },
    Fold {
        f: ElementFn,
        dst: u32,
        v: Place,
    },
    /// Across the invocations; `nan` tells which of two is to be kept, where one may be NaN.
    GroupFold {
        f: ElementFn,
        nan: Option<ElementFn>,
        dst: u32,
        v: u32,
    },
    /// Lane i of `dst` is the register lane `from[i]`.
    Move {
        dst: u32,
        from: Vec<u32>,
    },
    Convert {
        dst: Place,
        v: u32,
        from: DType,
        to: DType,
    },
    Load {
        dst: Place,
        mem: Access1,
        mode: Mode,
        fill: u64,
    },
    Store {
        v: u32,
        mem: Access1,
    },
    For(Box<Loop>),
    If {
        cond: u32,
        then: Block,
        els: Block,
        results: Vec<Place>,
    },
    Barrier,
}

pub enum Mode {
    Contig,
    Splat,
    Gather(u32),
}

/// The memory side of a load or store.
pub struct Access1 {
    pub buf: Buf,
    pub base: u32,
    pub plus: i64,
    pub valid: u16,
    pub elem: DType,
}

pub struct Loop {
    pub lo: u32,
    pub hi: u32,
    pub step: i64,
    pub counter: u32,
    pub init: Vec<Place>,
    pub carried: Vec<Place>,
    pub results: Vec<Place>,
    pub body: Block,
}

#[derive(Default)]
pub struct Block {
    pub code: Vec<Code>,
    pub yields: Vec<Place>,
}

/// The code of a kernel that `check_types` accepts, and the lanes of its register file.
pub fn decode(kernel: &Kernel) -> (Block, usize) {
    let mut at = Vec::with_capacity(kernel.types.len());
    let mut next = 0u32;
    for ty in &kernel.types {
        at.push(next);
        next += ty.lanes() as u32;
    }
    let decoder = Decoder { kernel, at };
    (decoder.block(&kernel.body), next as usize)
}

struct Decoder<'k> {
    kernel: &'k Kernel,
    at: Vec<u32>,
}

impl Decoder<'_> {
    fn block(&self, region: &Region) -> Block {
        Block {
            code: region
                .insts
                .iter()
                .filter(|i| !matches!(i, Inst::Prefetch { .. }))
                .map(|i| self.inst(i))
                .collect(),
            yields: self.places(&region.yields),
        }
    }

    fn lane0(&self, v: Val) -> u32 {
        self.at[v.0 as usize]
    }

    fn place(&self, v: Val) -> Place {
        Place { at: self.lane0(v), n: self.kernel.ty(v).lanes() }
    }

    fn places(&self, vals: &[Val]) -> Vec<Place> {
        vals.iter().map(|v| self.place(*v)).collect()
    }

    fn inst(&self, inst: &Inst) -> Code {
        match inst {
            Inst::Const { dst, value } => Code::Fill { dst: self.place(*dst), bits: value.bits },
            Inst::Grid { dst, axis } => Code::Grid { dst: self.lane0(*dst), axis: *axis },
            Inst::Local { dst, axis } => Code::Local { dst: self.lane0(*dst), axis: *axis },
            Inst::Op { dst, op, args } => {
                let ty = self.kernel.ty(args[if *op == Op::Select { 1 } else { 0 }]);
                let f = element_fn(*op, ty).expect("the type check passed");
                let arg = |i: usize| self.lane0(*args.get(i).unwrap_or(&args[0]));
                Code::Map { f, dst: self.place(*dst), args: [arg(0), arg(1), arg(2)] }
            }
            Inst::Fold { dst, combine, v } => {
                let op = fold_op(*combine).expect("the type check passed");
                let f = element_fn(op, self.kernel.ty(*v)).expect("the type check passed");
                Code::Fold { f, dst: self.lane0(*dst), v: self.place(*v) }
            }
            Inst::GroupFold { dst, combine, v } => {
                let (op, ty) = (fold_op(*combine), self.kernel.ty(*v));
                let f = op.and_then(|op| element_fn(op, ty)).expect("the type check passed");
                let keeps = matches!(combine, Combine::Max | Combine::Min) && ty.dtype().is_float();
                let nan = if keeps { element_fn(Op::Ne, ty) } else { None };
                Code::GroupFold { f, nan, dst: self.lane0(*dst), v: self.lane0(*v) }
            }
            Inst::Lane { dst, op, args } => self.lane(*dst, op, args),
            Inst::Load { dst, at, mode, valid, fill } => Code::Load {
                dst: self.place(*dst),
                mem: self.access(at, *valid, self.kernel.ty(*dst).dtype()),
                mode: match mode {
                    LoadMode::Contig => Mode::Contig,
                    LoadMode::Splat => Mode::Splat,
                    LoadMode::Gather(idx) => Mode::Gather(self.lane0(*idx)),
                },
                fill: fill.map_or(0, |l| l.bits),
            },
            Inst::Store { at, v, valid } => Code::Store {
                v: self.lane0(*v),
                mem: self.access(at, *valid, self.kernel.ty(*v).dtype()),
            },
            Inst::For { results, lo, hi, step, init, body, unroll: _ } => {
                Code::For(Box::new(Loop {
                    lo: self.lane0(*lo),
                    hi: self.lane0(*hi),
                    step: *step,
                    counter: self.lane0(body.params[0]),
                    init: self.places(init),
                    carried: self.places(&body.params[1..]),
                    results: self.places(results),
                    body: self.block(body),
                }))
            }
            Inst::If { results, cond, then, els } => Code::If {
                cond: self.lane0(*cond),
                then: self.block(then),
                els: self.block(els),
                results: self.places(results),
            },
            Inst::Barrier => Code::Barrier,
            Inst::Prefetch { .. } => unreachable!("hints are left out"),
        }
    }

    fn access(&self, at: &Addr, valid: u16, elem: DType) -> Access1 {
        Access1 { buf: at.buf, base: self.lane0(at.base), plus: at.plus, valid, elem }
    }

    fn lane(&self, dst: Val, op: &LaneOp, args: &[Val]) -> Code {
        let (to, n) = (self.place(dst), self.kernel.ty(dst).lanes() as u32);
        let first = self.lane0(args[0]);
        let from = match op {
            LaneOp::Convert => {
                let (from, to_type) = (self.kernel.ty(args[0]), self.kernel.ty(dst));
                return Code::Convert {
                    dst: to,
                    v: first,
                    from: from.dtype(),
                    to: to_type.dtype(),
                };
            }
            LaneOp::Splat => vec![first; n as usize],
            LaneOp::Extract(i) => vec![first + *i as u32],
            LaneOp::Insert(i) => {
                let scalar = self.lane0(args[1]);
                let lane = |l| if l == *i as u32 { scalar } else { first + l };
                (0..n).map(lane).collect()
            }
            LaneOp::Slice(at) => (0..n).map(|l| first + *at as u32 + l).collect(),
            LaneOp::Bitcast => (0..n).map(|l| first + l).collect(),
            LaneOp::Shuffle(ixs) => ixs.iter().map(|i| first + *i as u32).collect(),
            LaneOp::Concat => {
                let lanes = |v: &Val| {
                    let p = self.place(*v);
                    p.at..p.at + p.n as u32
                };
                args.iter().flat_map(lanes).collect()
            }
        };
        Code::Move { dst: to.at, from }
    }
}
