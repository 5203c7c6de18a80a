//! What a kernel computes, with less: equal pure instructions once, invariant ones outside loops,
//! index arithmetic that ranges decide, short loops unrolled, and nothing that nobody uses.
//!
//! In and out: well-formed kernels with the same bits in every written buffer. Registers come out
//! numbered in the order of their definition, so equal kernels are equal as text, and
//! [`fingerprint`] is the same for kernels that differ in names only.

use sha2::{Digest, Sha256};

use super::build::KernelBuilder;
use super::ir::*;
use super::range::Ranges;
use super::rebuild::{Map, Outcome, Rule, rebuild};

/// Loops are unrolled whole where this many instructions come out at most.
const UNROLLED: u64 = 256;

/// All simplifications.
pub fn simplify(kernel: &Kernel) -> Kernel {
    let kernel = unroll(kernel);
    let kernel = rebuild(&kernel, KernelBuilder::like(&kernel), &mut Decided::new(&kernel));
    dce(hoist(&kernel))
}

/// A hash of everything but the names: kernels with the same fingerprint have the same code.
pub fn fingerprint(kernel: &Kernel) -> [u8; 32] {
    let mut anonymous = renumber(kernel.clone());
    anonymous.name = "k".into();
    for (i, p) in anonymous.params.iter_mut().enumerate() {
        p.name = format!("p{i}");
    }
    Sha256::digest(super::print::print_kernel(&anonymous).as_bytes()).into()
}

/// Index arithmetic whose result the ranges of its operands decide.
struct Decided<'k> {
    ranges: Ranges<'k>,
}

impl<'k> Decided<'k> {
    fn new(kernel: &'k Kernel) -> Self {
        let mut ranges = Ranges::new(kernel);
        ranges.see_region(&kernel.body);
        Decided { ranges }
    }
}

impl Rule for Decided<'_> {
    fn inst(&mut self, b: &mut KernelBuilder, inst: &Inst, map: &Map) -> Outcome {
        let Inst::Op { op, args, .. } = inst else { return Outcome::Copy };
        if map.old.ty(args[0]) != Ty::Index || args.len() != 2 {
            return Outcome::Copy;
        }
        let (x, y) = (self.ranges.interval(args[0]), self.ranges.interval(args[1]));
        let first = map.get(args[0]);
        match op {
            // x mod c = x and x div c = 0 for 0 <= x < c.
            Op::Rem if x.lo >= 0 && x.hi < y.lo => Outcome::Value(first),
            Op::Div if x.lo >= 0 && x.hi < y.lo => Outcome::Value(b.index(0)),
            Op::Min if x.hi <= y.lo => Outcome::Value(first),
            Op::Min if y.hi <= x.lo => Outcome::Value(map.get(args[1])),
            Op::Max if x.lo >= y.hi => Outcome::Value(first),
            Op::Max if y.lo >= x.hi => Outcome::Value(map.get(args[1])),
            Op::Lt if x.hi < y.lo => Outcome::Value(b.condition(true)),
            Op::Lt if x.lo >= y.hi => Outcome::Value(b.condition(false)),
            Op::Le if x.hi <= y.lo => Outcome::Value(b.condition(true)),
            Op::Le if x.lo > y.hi => Outcome::Value(b.condition(false)),
            Op::Gt if x.lo > y.hi => Outcome::Value(b.condition(true)),
            Op::Gt if x.hi <= y.lo => Outcome::Value(b.condition(false)),
            Op::Ge if x.lo >= y.hi => Outcome::Value(b.condition(true)),
            Op::Ge if x.hi < y.lo => Outcome::Value(b.condition(false)),
            _ => Outcome::Copy,
        }
    }
}

/// Moves pure instructions out of the loops that do not change their operands.
pub fn hoist(kernel: &Kernel) -> Kernel {
    let mut mover = Mover { depth: vec![0; kernel.types.len()], open: vec![vec![]] };
    mover.region(&kernel.body, 0);
    let mut out = kernel.clone();
    out.body.insts = mover.open.pop().unwrap_or_default();
    out
}

struct Mover {
    /// How many regions are open where each register is defined.
    depth: Vec<u32>,
    /// The instructions of each open region.
    open: Vec<Vec<Inst>>,
}

impl Mover {
    fn region(&mut self, region: &Region, depth: u32) {
        for v in &region.params {
            self.depth[v.0 as usize] = depth;
        }
        for inst in &region.insts {
            let mut target = depth;
            let mut inst = inst.clone();
            match &mut inst {
                Inst::Const { .. }
                | Inst::Grid { .. }
                | Inst::Local { .. }
                | Inst::Op { .. }
                | Inst::Fold { .. }
                | Inst::Lane { .. } => {
                    let args = inst.args();
                    target = args.iter().map(|v| self.depth[v.0 as usize]).max().unwrap_or(0);
                }
                Inst::For { body, .. } => self.inside(body, depth),
                Inst::If { then, els, .. } => {
                    self.inside(then, depth);
                    self.inside(els, depth);
                }
                Inst::GroupFold { .. }
                | Inst::Load { .. }
                | Inst::Store { .. }
                | Inst::Prefetch { .. }
                | Inst::Barrier => {}
            }
            for v in inst.defs() {
                self.depth[v.0 as usize] = target;
            }
            self.open[target as usize].push(inst);
        }
    }

    fn inside(&mut self, region: &mut Region, depth: u32) {
        self.open.push(vec![]);
        self.region(region, depth + 1);
        region.insts = self.open.pop().unwrap_or_default();
    }
}

/// Unrolls whole the loops whose `unroll` is at least their number of iterations.
pub fn unroll(kernel: &Kernel) -> Kernel {
    let mut u = Unroller {
        old: kernel,
        b: KernelBuilder::like(kernel),
        map: vec![None; kernel.types.len()],
        literals: vec![None; kernel.types.len()],
    };
    u.region(&kernel.body);
    u.b.finish()
}

struct Unroller<'k> {
    old: &'k Kernel,
    b: KernelBuilder,
    map: Vec<Option<Val>>,
    literals: Vec<Option<i64>>,
}

impl Unroller<'_> {
    fn get(&self, v: Val) -> Val {
        self.map[v.0 as usize].expect("registers are defined before their uses")
    }

    fn all(&self, vals: &[Val]) -> Vec<Val> {
        vals.iter().map(|v| self.get(*v)).collect()
    }

    fn bind(&mut self, old: &[Val], new: &[Val]) {
        for (o, n) in old.iter().zip(new) {
            self.map[o.0 as usize] = Some(*n);
        }
    }

    fn fresh(&mut self, old: &[Val]) -> Vec<Val> {
        let new: Vec<Val> = old.iter().map(|v| self.b.fresh(self.old.ty(*v))).collect();
        self.bind(old, &new);
        new
    }

    fn region(&mut self, region: &Region) {
        for inst in &region.insts {
            self.inst(inst);
        }
    }

    /// The iterations of a loop with constant bounds.
    fn count(&self, lo: Val, hi: Val, step: i64) -> Option<u64> {
        let (lo, hi) = (self.literals[lo.0 as usize]?, self.literals[hi.0 as usize]?);
        let span = (hi as i128 - lo as i128).max(0) as u128;
        u64::try_from(span.div_ceil(step as u128)).ok()
    }

    fn inst(&mut self, inst: &Inst) {
        match inst {
            Inst::For { results, lo, hi, step, init, body, unroll } => {
                let count = self.count(*lo, *hi, *step);
                let size = body.insts.len() as u64 + 1;
                let start = self.literals[lo.0 as usize];
                if let (Some(n), Some(start)) = (count, start)
                    && n <= *unroll as u64
                    && n * size <= UNROLLED
                {
                    let mut carried = self.all(init);
                    for i in 0..n {
                        let counter = self.b.index(start + i as i64 * step);
                        self.bind(&body.params, &[&[counter], &carried[..]].concat());
                        self.region(body);
                        carried = self.all(&body.yields);
                    }
                    return self.bind(results, &carried);
                }
                let (lo, hi, init) = (self.get(*lo), self.get(*hi), self.all(init));
                let params = self.fresh(&body.params);
                self.b.enter();
                self.region(body);
                let yields = self.all(&body.yields);
                let region = Region { params, insts: self.b.leave(), yields };
                let results = self.fresh(results);
                let (step, unroll) = (*step, *unroll);
                self.b.push(Inst::For { results, lo, hi, step, init, body: region, unroll });
            }
            Inst::If { results, cond, then, els } => {
                let cond = self.get(*cond);
                let [then, els] = [then, els].map(|side| {
                    self.b.enter();
                    self.region(side);
                    let yields = self.all(&side.yields);
                    Region { params: vec![], insts: self.b.leave(), yields }
                });
                let results = self.fresh(results);
                self.b.push(Inst::If { results, cond, then, els });
            }
            Inst::Const { dst, value } => {
                if self.old.ty(*dst) == Ty::Index {
                    self.literals[dst.0 as usize] = value.as_int();
                }
                let v = self.b.constant(self.old.ty(*dst), *value);
                self.bind(&[*dst], &[v]);
            }
            Inst::Op { dst, op, args } => {
                let v = self.b.op(*op, &self.all(args));
                self.bind(&[*dst], &[v]);
            }
            Inst::Grid { .. }
            | Inst::Local { .. }
            | Inst::Fold { .. }
            | Inst::GroupFold { .. }
            | Inst::Lane { .. }
            | Inst::Load { .. }
            | Inst::Store { .. }
            | Inst::Prefetch { .. }
            | Inst::Barrier => {
                let mut copy = inst.clone();
                replace_args(&mut copy, &|v| self.get(v));
                let new = self.fresh(inst.defs());
                copy.defs_mut().iter_mut().zip(new).for_each(|(v, new)| *v = new);
                self.b.push(copy);
            }
        }
    }
}

/// Removes what has no effect, and numbers registers in the order of their definition.
pub fn dce(mut kernel: Kernel) -> Kernel {
    let mut live = vec![false; kernel.types.len()];
    sweep(&mut kernel.body, &mut live);
    renumber(kernel)
}

/// Keeps the instructions of a region whose results are live, last one first.
fn sweep(region: &mut Region, live: &mut [bool]) {
    for v in &region.yields {
        live[v.0 as usize] = true;
    }
    let mut kept = vec![];
    while let Some(mut inst) = region.insts.pop() {
        let used = inst.defs().iter().any(|v| live[v.0 as usize]);
        match &mut inst {
            Inst::Store { .. } | Inst::Prefetch { .. } | Inst::Barrier => {}
            Inst::For { body, .. } => {
                if !used && !has_effect(body) {
                    continue;
                }
                sweep(body, live);
            }
            Inst::If { then, els, .. } => {
                if !used && !has_effect(then) && !has_effect(els) {
                    continue;
                }
                sweep(then, live);
                sweep(els, live);
            }
            Inst::Const { .. }
            | Inst::Grid { .. }
            | Inst::Local { .. }
            | Inst::Op { .. }
            | Inst::Fold { .. }
            | Inst::GroupFold { .. }
            | Inst::Lane { .. }
            | Inst::Load { .. } => {
                if !used {
                    continue;
                }
            }
        }
        inst.for_each_arg(|v| live[v.0 as usize] = true);
        kept.push(inst);
    }
    kept.reverse();
    region.insts = kept;
}

fn has_effect(region: &Region) -> bool {
    region.insts.iter().any(|inst| match inst {
        Inst::Store { .. } | Inst::Barrier | Inst::GroupFold { .. } => true,
        // Alone it is no reason to keep a loop.
        Inst::Prefetch { .. } => false,
        Inst::For { body, .. } => has_effect(body),
        Inst::If { then, els, .. } => has_effect(then) || has_effect(els),
        Inst::Const { .. }
        | Inst::Grid { .. }
        | Inst::Local { .. }
        | Inst::Op { .. }
        | Inst::Fold { .. }
        | Inst::Lane { .. }
        | Inst::Load { .. } => false,
    })
}

/// Numbers registers in the order in which the text names them first.
pub fn renumber(mut kernel: Kernel) -> Kernel {
    let old = std::mem::take(&mut kernel.types);
    let mut names = Names { map: vec![None; old.len()], types: vec![], old };
    names.region(&mut kernel.body);
    kernel.types = names.types;
    kernel
}

struct Names {
    /// New names, by the old ones.
    map: Vec<Option<Val>>,
    types: Vec<Ty>,
    old: Vec<Ty>,
}

impl Names {
    fn define(&mut self, v: &mut Val) {
        let new = Val(self.types.len() as u32);
        self.types.push(self.old[v.0 as usize]);
        self.map[v.0 as usize] = Some(new);
        *v = new;
    }

    fn get(&self, v: Val) -> Val {
        self.map[v.0 as usize].unwrap_or(v)
    }

    fn region(&mut self, region: &mut Region) {
        region.params.iter_mut().for_each(|v| self.define(v));
        for inst in &mut region.insts {
            replace_args(inst, &|v| self.get(v));
            inst.defs_mut().iter_mut().for_each(|v| self.define(v));
            match inst {
                Inst::For { body, .. } => self.region(body),
                Inst::If { then, els, .. } => {
                    self.region(then);
                    self.region(els);
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
                | Inst::Barrier => {}
            }
        }
        region.yields.iter_mut().for_each(|v| *v = self.get(*v));
    }
}

/// Replaces the registers that an instruction itself reads.
fn replace_args(inst: &mut Inst, get: &dyn Fn(Val) -> Val) {
    match inst {
        Inst::Const { .. } | Inst::Grid { .. } | Inst::Local { .. } | Inst::Barrier => {}
        Inst::Op { args, .. } | Inst::Lane { args, .. } => {
            args.iter_mut().for_each(|v| *v = get(*v));
        }
        Inst::Fold { v, .. } | Inst::GroupFold { v, .. } => *v = get(*v),
        Inst::Load { at, mode, .. } => {
            at.base = get(at.base);
            match mode {
                LoadMode::Gather(idx) => *idx = get(*idx),
                LoadMode::Contig | LoadMode::Splat => {}
            }
        }
        Inst::Prefetch { at } => at.base = get(at.base),
        Inst::Store { at, v, .. } => {
            at.base = get(at.base);
            *v = get(*v);
        }
        Inst::For { lo, hi, init, .. } => {
            (*lo, *hi) = (get(*lo), get(*hi));
            init.iter_mut().for_each(|v| *v = get(*v));
        }
        Inst::If { cond, .. } => *cond = get(*cond),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DType;
    use crate::base::machine::Numerics;
    use crate::kernel::eval::run_all;
    use crate::kernel::random::{Limits, first_difference, random_buffers, random_kernel};
    use crate::kernel::types::check_types;

    #[test]
    fn simplified_kernels_have_the_same_bits() {
        let (mut before, mut after) = (0, 0);
        for seed in 0..60 {
            let kernel = random_kernel(seed, Numerics::Fused, Limits { size: 40, math: true });
            let mut want = random_buffers(&kernel, seed);
            let mut got = want.clone();
            run_all(&kernel, &mut want).unwrap();
            let simple = simplify(&kernel);
            check_types(&simple).unwrap();
            run_all(&simple, &mut got).unwrap();
            for (p, (want, got)) in kernel.params.iter().zip(want.iter().zip(&got)) {
                assert_eq!(first_difference(p.elem, want, got), None, "seed {seed}: {}", p.name);
            }
            before += kernel.types.len();
            after += simple.types.len();
        }
        assert!(after < before, "{before} registers, then {after}");
    }

    #[test]
    fn loops_unroll_and_invariants_leave_them() {
        let build = |unroll: u32| {
            let mut b = KernelBuilder::new("k", Numerics::Separate);
            let x = b.param("x", DType::F32, 64, Access::Read);
            let y = b.param("y", DType::F32, 64, Access::Write);
            let range = (b.index(0), b.index(4), 1);
            b.for_loop(range, &[], |b, i, _| {
                let two = b.number(DType::F32, 1, 2.0);
                let root = b.op(Op::Sqrt, &[two]);
                let v = b.load(Addr { buf: x, base: i, plus: 0 }, 1);
                let w = b.mul(v, root);
                b.store(Addr { buf: y, base: i, plus: 0 }, w);
                vec![]
            });
            let mut kernel = b.finish();
            let Some(Inst::For { unroll: u, .. }) = kernel.body.insts.last_mut() else {
                panic!("a loop")
            };
            *u = unroll;
            kernel
        };
        let rolled = simplify(&build(1));
        let Some(Inst::For { body, .. }) = rolled.body.insts.last() else { panic!("a loop") };
        assert_eq!(body.insts.len(), 3, "load, mul, store");
        let unrolled = simplify(&build(4));
        assert!(!unrolled.body.insts.iter().any(|i| matches!(i, Inst::For { .. })));
        let stores = |i: &&Inst| matches!(i, Inst::Store { .. });
        assert_eq!(unrolled.body.insts.iter().filter(stores).count(), 4);
    }

    #[test]
    fn ranges_decide_index_arithmetic() {
        let mut b = KernelBuilder::new("k", Numerics::Separate);
        let y = b.param("y", DType::F32, 8, Access::Write);
        b.set_grid([8, 1, 1]);
        let g = b.grid(0);
        let (c, seven) = (b.index(8), b.index(7));
        let r = b.op(Op::Rem, &[g, c]);
        let base = b.op(Op::Min, &[r, seven]);
        let v = b.number(DType::F32, 1, 1.0);
        b.store(Addr { buf: y, base, plus: 0 }, v);
        let simple = simplify(&b.finish());
        assert_eq!(simple.body.insts.len(), 3, "grid, const, store: {:?}", simple.body);
    }

    #[test]
    fn fingerprints_ignore_names_only() {
        let kernel = random_kernel(3, Numerics::Fused, Limits { size: 20, math: false });
        let mut renamed = kernel.clone();
        renamed.name = "other".into();
        renamed.params[0].name = "another".into();
        assert_eq!(fingerprint(&kernel), fingerprint(&renamed));
        let mut changed = kernel.clone();
        changed.params[0].len += 1;
        assert_ne!(fingerprint(&kernel), fingerprint(&changed));
        let mut changed = kernel.clone();
        changed.numerics = Numerics::Separate;
        assert_ne!(fingerprint(&kernel), fingerprint(&changed));
    }
}
