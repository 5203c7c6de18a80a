//! What is known of a kernel's registers before instructions are selected: how often each is read,
//! where it is read last, and which constants deserve a register.

use super::Level;
use crate::base::FastMap;
use crate::kernel::ir::{Inst, Kernel, Lit, LoadMode, Op, Region, Ty, Val};

/// A vector or float constant, by what its register holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConstKey {
    pub bits: u64,
    /// Bytes of an element.
    pub bytes: u8,
    /// In every lane of a full register, or in the first one only.
    pub vector: bool,
}

impl ConstKey {
    pub fn new(ty: Ty, lit: Lit) -> ConstKey {
        let vector = matches!(ty, Ty::Vector(..));
        ConstKey { bits: lit.bits, bytes: lit.dtype.bytes() as u8, vector }
    }
}

#[derive(Default)]
pub struct Info {
    /// How many instructions and yields read each register.
    pub uses: Vec<u32>,
    /// The number of the instruction that reads a register last; instructions count in the order
    /// in which they are printed.
    pub last: Vec<u32>,
    /// The region that defines each register.
    pub region: Vec<u32>,
    /// Constants that are kept in registers all the time.
    pub kept: Vec<ConstKey>,
    /// Loads that are done again by each reader, since there are not enough registers.
    again: Vec<Val>,
}

impl Info {
    /// Whether readers of a load may read memory themselves.
    pub fn in_place(&self, v: Val) -> bool {
        self.uses[v.0 as usize] == 1 || self.again.contains(&v)
    }
}

/// Walks the kernel once.
pub fn analyze(kernel: &Kernel, level: Level) -> Info {
    let n = kernel.types.len();
    let mut walk = Walk {
        kernel,
        info: Info { uses: vec![0; n], last: vec![0; n], region: vec![0; n], ..Info::default() },
        literals: vec![None; n],
        weights: FastMap::default(),
        spans: vec![(u32::MAX, 0); n],
        factors: vec![0; n],
        loads: vec![],
        loops: vec![],
        next: 0,
        regions: 0,
        depth: 0,
    };
    walk.region(&kernel.body, 0);
    let free = walk.free(level);
    let room = (free - 2).max(0) as usize;
    let mut ranked: Vec<(u64, ConstKey)> = walk.weights.iter().map(|(k, w)| (*w, *k)).collect();
    ranked.sort_by_key(|(w, k)| (std::cmp::Reverse(*w), *k));
    walk.info.kept = ranked.into_iter().take(room).map(|(_, k)| k).collect();
    let uses = &walk.info.uses;
    let only_factors = |v: &Val| walk.factors[v.0 as usize] == uses[v.0 as usize];
    let mut again: Vec<Val> = walk.loads.into_iter().filter(only_factors).collect();
    again.truncate((-free).max(0) as usize);
    walk.info.again = again;
    walk.info
}

struct Walk<'k> {
    kernel: &'k Kernel,
    info: Info,
    literals: Vec<Option<Lit>>,
    /// Reads of each constant, weighted by the loops around them.
    weights: FastMap<ConstKey, u64>,
    /// From where to where each register is alive; loads start at their first use.
    spans: Vec<(u32, u32)>,
    /// How often each register is a factor of a multiply-add.
    factors: Vec<u32>,
    /// Whole vectors that loops load from what they do not write.
    loads: Vec<Val>,
    /// First and last instruction of each loop.
    loops: Vec<(u32, u32)>,
    next: u32,
    regions: u32,
    depth: u32,
}

impl Walk<'_> {
    fn region(&mut self, region: &Region, id: u32) {
        for v in &region.params {
            self.define(*v, id);
        }
        let writes = region
            .insts
            .iter()
            .any(|i| matches!(i, Inst::Store { .. } | Inst::For { .. } | Inst::If { .. }));
        for inst in &region.insts {
            self.next += 1;
            inst.for_each_arg(|v| self.read(v));
            // What no instruction reads from memory gains more from a register.
            if let Inst::Op {
                op: Op::Min | Op::Max | Op::Sub | Op::Div | Op::Lt | Op::Gt,
                args,
                ..
            } = inst
            {
                self.weigh(args[0], 2);
            }
            match inst {
                Inst::For { body, .. } => {
                    let start = self.next;
                    self.depth += 1;
                    self.inner(body);
                    self.depth -= 1;
                    self.next += 1;
                    self.loops.push((start, self.next));
                }
                Inst::If { then, els, .. } => {
                    self.inner(then);
                    self.inner(els);
                }
                Inst::Const { dst, value } => self.literals[dst.0 as usize] = Some(*value),
                Inst::Op { op: Op::Fma, args, .. } => {
                    args[..2].iter().for_each(|v| self.factors[v.0 as usize] += 1);
                }
                Inst::Load { dst, mode: LoadMode::Contig, valid, .. }
                    if !writes && self.depth > 0 && *valid > 1 =>
                {
                    let ty = self.kernel.ty(*dst);
                    if ty.lanes() == *valid && in_vector(ty) {
                        self.loads.push(*dst);
                    }
                }
                Inst::Grid { .. }
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
            for v in inst.defs() {
                self.define(*v, id);
                if !matches!(inst, Inst::Load { .. } | Inst::Const { .. }) {
                    self.alive(*v);
                }
            }
        }
        self.next += 1;
        for v in &region.yields {
            self.read(*v);
        }
    }

    fn inner(&mut self, region: &Region) {
        self.regions += 1;
        let id = self.regions;
        region.params.iter().for_each(|v| self.alive(*v));
        self.region(region, id);
    }

    fn define(&mut self, v: Val, region: u32) {
        self.info.region[v.0 as usize] = region;
    }

    fn alive(&mut self, v: Val) {
        let (from, to) = &mut self.spans[v.0 as usize];
        *from = (*from).min(self.next);
        *to = (*to).max(self.next);
    }

    fn read(&mut self, v: Val) {
        let i = v.0 as usize;
        self.info.uses[i] += 1;
        self.info.last[i] = self.next;
        self.alive(v);
        self.weigh(v, 1);
    }

    /// Counts reads of a constant.
    fn weigh(&mut self, v: Val, reads: u64) {
        let ty = self.kernel.ty(v);
        if let Some(lit) = self.literals[v.0 as usize]
            && in_vector(ty)
        {
            let weight = reads << (4 * self.depth.min(8));
            *self.weights.entry(ConstKey::new(ty, lit)).or_default() += weight;
        }
    }

    /// Vector registers that are free everywhere; below 0: how many there are too few.
    fn free(&mut self, level: Level) -> i32 {
        // What a loop reads from outside is alive to its end.
        self.loops.sort_by_key(|(start, end)| end - start);
        let mut change = vec![0i32; self.next as usize + 2];
        for (i, (from, to)) in self.spans.iter().enumerate() {
            let ty = self.kernel.types[i];
            let mask = matches!(ty, Ty::Mask(2..)) && level == Level::V3;
            if *from == u32::MAX || self.literals[i].is_some() || !(in_vector(ty) || mask) {
                continue;
            }
            let mut to = *to;
            for (start, end) in &self.loops {
                // At the start itself a loop reads its first values, which end there.
                if from < start && to > *start && to <= *end {
                    to = *end;
                }
            }
            change[*from as usize] += 1;
            change[to as usize] -= 1;
        }
        let (mut now, mut most) = (0, 0);
        for c in change {
            now += c;
            most = most.max(now);
        }
        level.registers() as i32 - most
    }
}

/// Whether a value of this type is held in a vector register.
fn in_vector(ty: Ty) -> bool {
    match ty {
        Ty::Index | Ty::Mask(_) => false,
        Ty::Scalar(d) => d.is_float(),
        Ty::Vector(d, _) => d.bytes() >= 4,
    }
}
