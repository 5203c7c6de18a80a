//! Registers for virtual registers, by regalloc2.
//!
//! In: a [`Func`]. Out: for every instruction the registers of its operands, and the moves between
//! them. The order of an instruction's operands is that of [`operands`]; the encoder reads the
//! allocations back in the same order.

use regalloc2::{
    Algorithm, Block as RaBlock, Ctx, Function, Inst as RaInst, InstRange, MachineEnv, Operand,
    OperandConstraint, OperandKind, OperandPos, Output, PRegSet, RegClass, RegallocOptions, VReg,
};

use super::Level;
use super::inst::{Arg, Base, BlockId, Func, Inst, Term};

/// The function as regalloc2 sees it: one flat list of instructions, of which the last of each block
/// is its terminator, and a comparison before it where it branches.
pub struct Flat<'f> {
    func: &'f Func,
    level: Level,
    operands: Vec<Operand>,
    /// Where the operands of each instruction begin.
    starts: Vec<u32>,
    blocks: Vec<FlatBlock>,
}

#[derive(Default)]
struct FlatBlock {
    first: u32,
    end: u32,
    succs: Vec<RaBlock>,
    preds: Vec<RaBlock>,
}

/// Calls `f` for each register operand of an instruction, in a fixed order.
pub fn operands(inst: &Inst, mut f: impl FnMut(Operand)) {
    let mut count = 0;
    let mut give = |op: Operand| {
        f(op);
        count += 1;
        count - 1
    };
    for arg in &inst.args {
        match *arg {
            Arg::Def(v, _) => {
                // Written only after everything was read, unless other lanes keep old values.
                give(Operand::reg_def(v));
            }
            Arg::Use(v, _) => {
                give(Operand::reg_use(v));
            }
            Arg::Tied { def, used, .. } => {
                let at = give(Operand::reg_use(used));
                give(Operand::reg_reuse_def(def, at));
            }
            Arg::Mem(m) => {
                if let Base::Reg(v) = m.base {
                    give(Operand::reg_use(v));
                }
                if let Some((v, _)) = m.index {
                    give(Operand::reg_use(v));
                }
            }
            Arg::Same(_)
            | Arg::Imm8(_)
            | Arg::Imm8Signed(..)
            | Arg::Imm32(_)
            | Arg::Imm32Signed(_)
            | Arg::Imm64(_)
            | Arg::None => {}
        }
    }
    if let Some(k) = inst.mask {
        give(Operand::reg_use(k));
    }
    for i in &inst.implicit {
        let (kind, pos) = match i.write {
            true => (OperandKind::Def, OperandPos::Late),
            false => (OperandKind::Use, OperandPos::Early),
        };
        give(Operand::new(i.vreg, OperandConstraint::FixedReg(i.reg), kind, pos));
    }
}

impl<'f> Flat<'f> {
    pub fn new(func: &'f Func, level: Level) -> Flat<'f> {
        let mut flat = Flat { func, level, operands: vec![], starts: vec![0], blocks: vec![] };
        flat.blocks.resize_with(func.blocks.len(), FlatBlock::default);
        let to = |b: BlockId| RaBlock::new(b.0 as usize);
        for (i, block) in func.blocks.iter().enumerate() {
            flat.blocks[i].first = flat.starts.len() as u32 - 1;
            block.insts.iter().for_each(|inst| flat.push(inst));
            let succs = match &block.term {
                Term::Return => vec![],
                Term::Jump(b, _) => vec![to(*b)],
                Term::Branch { test, then, els } => {
                    flat.push(&test.inst);
                    vec![to(*then), to(*els)]
                }
            };
            flat.starts.push(flat.operands.len() as u32);
            flat.blocks[i].end = flat.starts.len() as u32 - 1;
            for s in &succs {
                flat.blocks[s.index()].preds.push(RaBlock::new(i));
            }
            flat.blocks[i].succs = succs;
        }
        flat
    }

    fn push(&mut self, inst: &Inst) {
        operands(inst, |op| self.operands.push(op));
        self.starts.push(self.operands.len() as u32);
    }

    /// The number of a block's first instruction.
    pub fn first(&self, block: usize) -> usize {
        self.blocks[block].first as usize
    }
}

/// Allocates registers, in memory that serves one function after the other; the error says what is
/// wrong with the function.
pub fn allocate<'c>(
    flat: &Flat<'_>,
    env: &MachineEnv,
    algorithm: Algorithm,
    memory: &'c mut Ctx,
) -> Result<&'c Output, String> {
    let options =
        RegallocOptions { verbose_log: false, validate_ssa: cfg!(debug_assertions), algorithm };
    regalloc2::run_with_ctx(flat, env, &options, memory)
        .map_err(|e| format!("register allocation: {e}"))
}

impl Function for Flat<'_> {
    fn num_insts(&self) -> usize {
        self.starts.len() - 1
    }

    fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn entry_block(&self) -> RaBlock {
        RaBlock::new(0)
    }

    fn block_insns(&self, block: RaBlock) -> InstRange {
        let b = &self.blocks[block.index()];
        InstRange::new(RaInst::new(b.first as usize), RaInst::new(b.end as usize))
    }

    fn block_succs(&self, block: RaBlock) -> &[RaBlock] {
        &self.blocks[block.index()].succs
    }

    fn block_preds(&self, block: RaBlock) -> &[RaBlock] {
        &self.blocks[block.index()].preds
    }

    fn block_params(&self, block: RaBlock) -> &[VReg] {
        &self.func.blocks[block.index()].params
    }

    fn is_ret(&self, inst: RaInst) -> bool {
        self.ends(inst).is_some_and(|b| matches!(b, Term::Return))
    }

    fn is_branch(&self, inst: RaInst) -> bool {
        self.ends(inst).is_some_and(|b| !matches!(b, Term::Return))
    }

    fn branch_blockparams(&self, block: RaBlock, _: RaInst, _: usize) -> &[VReg] {
        match &self.func.blocks[block.index()].term {
            Term::Jump(_, args) => args,
            Term::Return | Term::Branch { .. } => &[],
        }
    }

    fn inst_operands(&self, inst: RaInst) -> &[Operand] {
        let i = inst.index();
        &self.operands[self.starts[i] as usize..self.starts[i + 1] as usize]
    }

    fn inst_clobbers(&self, _: RaInst) -> PRegSet {
        PRegSet::empty()
    }

    fn num_vregs(&self) -> usize {
        self.func.vregs
    }

    fn spillslot_size(&self, class: RegClass) -> usize {
        match class {
            RegClass::Int | RegClass::Vector => 1,
            RegClass::Float => self.level.bytes() / 8,
        }
    }
}

impl Flat<'_> {
    /// The terminator that an instruction is.
    fn ends(&self, inst: RaInst) -> Option<&Term> {
        let i = inst.index() as u32;
        let block = self.blocks.partition_point(|b| b.end <= i);
        let b = self.blocks.get(block)?;
        (b.end == i + 1).then(|| &self.func.blocks[block].term)
    }
}
