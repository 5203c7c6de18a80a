//! Passes that write a kernel anew, one instruction after the other.
//!
//! A [`Rule`] says what becomes of the instructions that it cares about; all others are copied with
//! their operands replaced. Because copies go through the builder, equal pure instructions merge
//! on the way.

use super::build::KernelBuilder;
use super::ir::*;

/// How a pass changes instructions.
pub trait Rule {
    /// The type of the register that stands for one of this type.
    fn ty(&self, ty: Ty) -> Ty {
        ty
    }

    /// What stands for an instruction's result; `None` copies the instruction. Never asked about
    /// loops and branches.
    fn inst(&mut self, b: &mut KernelBuilder, inst: &Inst, map: &Map) -> Outcome;
}

pub enum Outcome {
    /// The instruction is copied.
    Copy,
    /// This register stands for its result.
    Value(Val),
    /// It has no result, and what replaces it has been emitted.
    Done,
}

/// The old kernel, and which new register stands for each of its registers.
pub struct Map<'k> {
    pub old: &'k Kernel,
    new: Vec<Option<Val>>,
}

impl Map<'_> {
    /// The new register; the old kernel passed the type check, so it was defined.
    pub fn get(&self, v: Val) -> Val {
        self.new[v.0 as usize].expect("registers are defined before their uses")
    }

    pub fn all(&self, vals: &[Val]) -> Vec<Val> {
        vals.iter().map(|v| self.get(*v)).collect()
    }

    /// As [`Map::all`], for the operands of one instruction.
    pub fn args(&self, vals: &[Val]) -> Args {
        vals.iter().map(|v| self.get(*v)).collect()
    }

    pub fn at(&self, at: &Addr) -> Addr {
        Addr { base: self.get(at.base), ..*at }
    }

    pub fn mode(&self, mode: LoadMode) -> LoadMode {
        match mode {
            LoadMode::Contig | LoadMode::Splat => mode,
            LoadMode::Gather(idx) => LoadMode::Gather(self.get(idx)),
        }
    }

    fn set(&mut self, old: Val, new: Val) {
        self.new[old.0 as usize] = Some(new);
    }

    fn bind(&mut self, old: &[Val], new: &[Val]) {
        for (o, n) in old.iter().zip(new) {
            self.set(*o, *n);
        }
    }
}

/// Writes a well-formed kernel anew into `b`, which holds its header.
pub fn rebuild(kernel: &Kernel, mut b: KernelBuilder, rule: &mut dyn Rule) -> Kernel {
    let mut map = Map { old: kernel, new: vec![None; kernel.types.len()] };
    region(&mut b, &kernel.body, &mut map, rule);
    b.finish()
}

fn region(b: &mut KernelBuilder, old: &Region, map: &mut Map, rule: &mut dyn Rule) {
    for inst in &old.insts {
        match inst {
            Inst::For { results, lo, hi, step, init, body, unroll } => {
                let (lo, hi, init) = (map.get(*lo), map.get(*hi), map.all(init));
                match iterations(b, lo, hi, *step) {
                    Some(0) => {
                        map.bind(results, &init);
                        continue;
                    }
                    Some(1) => {
                        map.bind(&body.params, &[&[lo], &init[..]].concat());
                        region(b, body, map, rule);
                        map.bind(results, &map.all(&body.yields));
                        continue;
                    }
                    Some(_) | None => {}
                }
                let params = renew(b, &body.params, map, rule);
                b.enter();
                region(b, body, map, rule);
                let yields = map.all(&body.yields);
                let insts = b.leave();
                let body = Region { params, insts, yields };
                let results = renew(b, results, map, rule);
                let (step, unroll) = (*step, *unroll);
                b.push(Inst::For { results, lo, hi, step, init, body, unroll });
            }
            Inst::If { results, cond, then, els } => {
                let cond = map.get(*cond);
                if let Some(known) = b.literal(cond) {
                    let side = if known.bits != 0 { then } else { els };
                    region(b, side, map, rule);
                    map.bind(results, &map.all(&side.yields));
                    continue;
                }
                let [then, els] = [then, els].map(|side| {
                    b.enter();
                    region(b, side, map, rule);
                    let yields = map.all(&side.yields);
                    Region { params: vec![], insts: b.leave(), yields }
                });
                let results = renew(b, results, map, rule);
                b.push(Inst::If { results, cond, then, els });
            }
            Inst::Const { .. }
            | Inst::Grid { .. }
            | Inst::Local { .. }
            | Inst::Op { .. }
            | Inst::Fold { .. }
            | Inst::GroupFold { .. }
            | Inst::Lane { .. }
            | Inst::Load { .. }
            | Inst::Store { .. }
            | Inst::Prefetch { .. }
            | Inst::Barrier => match rule.inst(b, inst, map) {
                Outcome::Value(v) => map.set(inst.defs()[0], v),
                Outcome::Done => {}
                Outcome::Copy => copy(b, inst, map, rule),
            },
        }
    }
}

/// How often a loop with constant bounds runs.
fn iterations(b: &KernelBuilder, lo: Val, hi: Val, step: i64) -> Option<u128> {
    let (lo, hi) = (b.literal(lo)?.as_int()?, b.literal(hi)?.as_int()?);
    Some((hi as i128 - lo as i128).max(0) as u128).map(|span| span.div_ceil(step as u128))
}

/// New registers for those that a loop or branch defines.
fn renew(b: &mut KernelBuilder, old: &[Val], map: &mut Map, rule: &dyn Rule) -> Vec<Val> {
    let fresh = |v: &Val| {
        let new = b.fresh(rule.ty(map.old.ty(*v)));
        map.set(*v, new);
        new
    };
    old.iter().map(fresh).collect()
}

fn copy(b: &mut KernelBuilder, inst: &Inst, map: &mut Map, rule: &dyn Rule) {
    let ty = |v: &Val| rule.ty(map.old.ty(*v));
    let (dst, new) = match inst {
        Inst::Const { dst, value } => (dst, b.constant(ty(dst), *value)),
        Inst::Grid { dst, axis } => (dst, b.grid(*axis)),
        Inst::Local { dst, axis } => (dst, b.local(*axis)),
        Inst::Op { dst, op, args } => (dst, b.op(*op, &map.args(args))),
        Inst::Fold { dst, combine, v } => (dst, b.fold(*combine, map.get(*v))),
        Inst::GroupFold { dst, combine, v } => (dst, b.group_fold(*combine, map.get(*v))),
        Inst::Lane { dst, op, args } => (dst, b.lane(op.clone(), ty(dst), &map.args(args))),
        Inst::Load { dst, at, mode, valid, fill } => {
            let lanes = map.old.ty(*dst).lanes();
            (dst, b.load_as(map.at(at), lanes, map.mode(*mode), *valid, *fill))
        }
        Inst::Store { at, v, valid } => {
            return b.store_valid(map.at(at), map.get(*v), *valid);
        }
        Inst::Prefetch { at } => return b.prefetch(map.at(at)),
        Inst::Barrier => return b.push(Inst::Barrier),
        Inst::For { .. } | Inst::If { .. } => unreachable!("regions are rebuilt before"),
    };
    map.set(*dst, new);
}
