//! Allocated instructions → bytes, by iced-x86; or a listing.
//!
//! Jumps are laid out here: a block that only jumps on is skipped over, a jump to the next block is
//! left out. Constants follow the code, and instructions name them relative to themselves.

use iced_x86::{Code, Encoder, Instruction, OpKind, Register};
use regalloc2::{Allocation, Edit, InstPosition, Output, PReg, ProgPoint, RegClass};

use super::Level;
use super::alloc::Flat;
use super::frame::{Abi, Frame, RAX, RSP};
use super::inst::{Arg, Base, BlockId, Func, Inst, Mem, Term, View};

/// Alignment of the tops of innermost loops.
const LOOP_ALIGN: usize = 32;

pub struct Encoded {
    pub bytes: Vec<u8>,
    /// One line for each instruction, if asked for.
    pub listing: String,
}

struct Writer<'f> {
    func: &'f Func,
    level: Level,
    encoder: Encoder,
    bytes: Vec<u8>,
    /// The text so far, where one is wanted.
    listing: Option<String>,
    /// Where each block begins.
    starts: Vec<Option<usize>>,
    /// Displacements of 32 bits to blocks: where they stand.
    jumps: Vec<(usize, BlockId)>,
    /// Displacements of 32 bits to constants: where they stand, and where their instruction ends.
    constants: Vec<(usize, usize, u32)>,
    frame: Frame,
}

/// Encodes a function whose registers are allocated.
pub fn encode(
    func: &Func,
    flat: &Flat<'_>,
    output: &Output,
    level: Level,
    abi: &Abi,
    list: bool,
) -> Result<Encoded, String> {
    let frame = Frame::new(output.num_spillslots, &written(output), abi);
    if cfg!(windows) && frame.bytes > 4096 {
        return Err("a frame larger than a page".into());
    }
    let mut w = Writer {
        func,
        level,
        encoder: Encoder::new(64),
        bytes: vec![],
        listing: list.then(String::new),
        starts: vec![None; func.blocks.len()],
        jumps: vec![],
        constants: vec![],
        frame,
    };
    w.prologue()?;
    let skip = skips(func, flat, output);
    let mut edits = output.edits.iter().peekable();
    for (i, block) in func.blocks.iter().enumerate() {
        if skip[i] != BlockId(i as u32) {
            continue;
        }
        if block.align {
            w.align(LOOP_ALIGN);
        }
        w.start(i);
        let first = flat.first(i);
        let branch = match &block.term {
            Term::Branch { test, .. } => Some(&test.inst),
            Term::Return | Term::Jump(..) => None,
        };
        let mut at = first;
        for inst in block.insts.iter().chain(branch) {
            w.edits(&mut edits, at, InstPosition::Before)?;
            w.inst(inst, output.inst_allocs(regalloc2::Inst::new(at)))?;
            w.edits(&mut edits, at, InstPosition::After)?;
            at += 1;
        }
        w.edits(&mut edits, at, InstPosition::Before)?;
        let next = (i + 1..func.blocks.len()).find(|n| skip[*n] == BlockId(*n as u32));
        let next = next.map(|n| BlockId(n as u32));
        let to = |b: BlockId| skip[b.0 as usize];
        match &block.term {
            Term::Return => w.epilogue()?,
            Term::Jump(b, _) => w.jump(None, to(*b), next),
            Term::Branch { test, then, els } => {
                let (then, els) = (to(*then), to(*els));
                if next == Some(then) {
                    w.jump(Some(test.cc.number() ^ 1), els, next);
                } else {
                    w.jump(Some(test.cc.number()), then, next);
                    w.jump(None, els, next);
                }
            }
        }
    }
    w.finish()
}

/// The registers that instructions and moves write.
fn written(output: &Output) -> Vec<PReg> {
    let mut seen = [false; PReg::NUM_INDEX];
    let edits = output.edits.iter().map(|(_, Edit::Move { to, .. })| to);
    for reg in output.allocs.iter().chain(edits).filter_map(|a| a.as_reg()) {
        seen[reg.index()] = true;
    }
    (0..PReg::NUM_INDEX).filter(|i| seen[*i]).map(PReg::from_index).collect()
}

/// For each block the one where control really goes: empty blocks are passed over.
fn skips(func: &Func, flat: &Flat<'_>, output: &Output) -> Vec<BlockId> {
    let moves_at = |i: usize| {
        let point = ProgPoint::before(regalloc2::Inst::new(i));
        let found = output.edits.partition_point(|(p, _)| *p < point);
        let real = |(_, Edit::Move { from, to }): &&(ProgPoint, Edit)| from != to;
        output.edits[found..].iter().take_while(|(p, _)| *p == point).any(|e| real(&e))
    };
    let mut skip: Vec<BlockId> = (0..func.blocks.len() as u32).map(BlockId).collect();
    for (i, block) in func.blocks.iter().enumerate().skip(1) {
        if let Term::Jump(to, _) = block.term
            && block.insts.is_empty()
            && !moves_at(flat.first(i))
            && to.0 as usize != i
        {
            skip[i] = to;
        }
    }
    // Chains end, since a cycle of blocks holds a loop's head, which is not empty.
    (0..skip.len())
        .map(|mut i| {
            for _ in 0..skip.len() {
                match skip[i].0 as usize {
                    next if next == i => break,
                    next => i = next,
                }
            }
            BlockId(i as u32)
        })
        .collect()
}

type Edits<'e> = std::iter::Peekable<std::slice::Iter<'e, (ProgPoint, Edit)>>;

impl Writer<'_> {
    fn start(&mut self, block: usize) {
        self.starts[block] = Some(self.bytes.len());
        if let Some(text) = &mut self.listing {
            text.push_str(&format!("b{block}:\n"));
        }
    }

    /// The moves at one point.
    fn edits(
        &mut self,
        edits: &mut Edits<'_>,
        at: usize,
        position: InstPosition,
    ) -> Result<(), String> {
        let point = ProgPoint::new(regalloc2::Inst::new(at), position);
        while let Some((_, Edit::Move { from, to })) = edits.next_if(|(p, _)| *p <= point) {
            self.move_(*from, *to)?;
        }
        Ok(())
    }

    fn move_(&mut self, from: Allocation, to: Allocation) -> Result<(), String> {
        if from == to {
            return Ok(());
        }
        let reg = from.as_reg().or(to.as_reg()).ok_or("a move from stack to stack")?;
        let (view, load, store) = match (reg.class(), self.level) {
            (RegClass::Int, _) => (View::R64, Code::Mov_r64_rm64, Code::Mov_rm64_r64),
            (RegClass::Float, Level::V3) => {
                (View::Y, Code::VEX_Vmovups_ymm_ymmm256, Code::VEX_Vmovups_ymmm256_ymm)
            }
            (RegClass::Float, Level::V4) => {
                (View::Z, Code::EVEX_Vmovups_zmm_k1z_zmmm512, Code::EVEX_Vmovups_zmmm512_k1z_zmm)
            }
            (RegClass::Vector, _) => (View::K, Code::VEX_Kmovq_kr_km64, Code::VEX_Kmovq_m64_kr),
        };
        let mut i = Instruction::default();
        match (from.as_reg(), to.as_reg()) {
            (Some(from), Some(to)) => {
                let whole = match (reg.class(), self.level) {
                    (RegClass::Float, Level::V3) => Code::VEX_Vmovaps_ymm_ymmm256,
                    (RegClass::Float, Level::V4) => Code::EVEX_Vmovaps_zmm_k1z_zmmm512,
                    (RegClass::Int | RegClass::Vector, _) => load,
                };
                i.set_code(whole);
                set_register(&mut i, 0, register(to, view));
                set_register(&mut i, 1, register(from, view));
            }
            (None, Some(to)) => {
                i.set_code(load);
                set_register(&mut i, 0, register(to, view));
                self.set_slot(&mut i, 1, from);
            }
            (Some(from), None) => {
                i.set_code(store);
                self.set_slot(&mut i, 0, to);
                set_register(&mut i, 1, register(from, view));
            }
            (None, None) => return Err("a move from stack to stack".into()),
        }
        self.emit(&i).map(|_| ())
    }

    fn set_slot(&self, i: &mut Instruction, op: u32, slot: Allocation) {
        let slot = slot.as_stack().map_or(0, |s| s.index());
        i.set_op_kind(op, OpKind::Memory);
        i.set_memory_base(Register::RSP);
        i.set_memory_displ_size(1);
        i.set_memory_displacement64(8 * slot as u64);
    }

    fn inst(&mut self, inst: &Inst, allocs: &[Allocation]) -> Result<(), String> {
        if inst.code == Code::INVALID {
            // The arrival of the arguments.
            return Ok(());
        }
        let mut allocs = allocs.iter();
        let mut next = || {
            let reg = allocs.next().and_then(|a| a.as_reg());
            reg.ok_or_else(|| "an operand that is not in a register".to_string())
        };
        let mut i = Instruction::default();
        i.set_code(inst.code);
        let mut constant = None;
        let mut first = None;
        for (n, arg) in inst.args.iter().enumerate() {
            let n = n as u32;
            match *arg {
                Arg::Def(_, view) | Arg::Use(_, view) => {
                    let reg = next()?;
                    first = first.or(Some(reg));
                    set_register(&mut i, n, register(reg, view));
                }
                Arg::Tied { view, .. } => {
                    next()?;
                    let reg = next()?;
                    first = first.or(Some(reg));
                    set_register(&mut i, n, register(reg, view));
                }
                Arg::Same(view) => {
                    let reg = first.ok_or("no operand before")?;
                    set_register(&mut i, n, register(reg, view));
                }
                Arg::Mem(Mem { base, index, disp }) => {
                    i.set_op_kind(n, OpKind::Memory);
                    match base {
                        Base::Reg(_) => {
                            i.set_memory_base(register(next()?, View::R64));
                            i.set_memory_displ_size((disp != 0) as u32);
                            i.set_memory_displacement64(disp as i64 as u64);
                        }
                        Base::Pool(entry) => {
                            i.set_memory_base(Register::RIP);
                            i.set_memory_displ_size(8);
                            i.set_memory_displacement64(self.bytes.len() as u64);
                            constant = Some(entry);
                        }
                    }
                    if let Some((_, scale)) = index {
                        i.set_memory_index(register(next()?, View::R64));
                        i.set_memory_index_scale(scale as u32);
                    }
                }
                Arg::Imm8(v) => {
                    i.set_op_kind(n, OpKind::Immediate8);
                    i.set_immediate8(v);
                }
                Arg::Imm8Signed(v, View::R64) => {
                    i.set_op_kind(n, OpKind::Immediate8to64);
                    i.set_immediate8to64(v as i64);
                }
                Arg::Imm8Signed(v, _) => {
                    i.set_op_kind(n, OpKind::Immediate8to32);
                    i.set_immediate8to32(v as i32);
                }
                Arg::Imm32(v) => {
                    i.set_op_kind(n, OpKind::Immediate32);
                    i.set_immediate32(v as u32);
                }
                Arg::Imm32Signed(v) => {
                    i.set_op_kind(n, OpKind::Immediate32to64);
                    i.set_immediate32to64(v as i64);
                }
                Arg::Imm64(v) => {
                    i.set_op_kind(n, OpKind::Immediate64);
                    i.set_immediate64(v as u64);
                }
                Arg::None => {}
            }
        }
        if inst.mask.is_some() {
            i.set_op_mask(register(next()?, View::K));
            i.set_zeroing_masking(inst.zeroing);
        }
        i.set_is_broadcast(inst.broadcast);
        let displacement = self.emit(&i)?;
        if let Some(entry) = constant {
            self.constants.push((displacement, self.bytes.len(), entry));
        }
        Ok(())
    }

    /// Appends an instruction; gives the place of its displacement.
    fn emit(&mut self, i: &Instruction) -> Result<usize, String> {
        let at = self.bytes.len();
        self.encoder
            .encode(i, at as u64)
            .map_err(|e| format!("cannot encode {:?}: {e}", i.code()))?;
        let place = self.encoder.get_constant_offsets().displacement_offset();
        let mut encoded = self.encoder.take_buffer();
        self.bytes.extend_from_slice(&encoded);
        encoded.clear();
        self.encoder.set_buffer(encoded);
        if let Some(text) = &mut self.listing {
            super::listing::line(text, i);
        }
        Ok(at + place)
    }

    fn emit_simple(&mut self, code: Code, regs: &[Register]) -> Result<(), String> {
        let mut i = Instruction::default();
        i.set_code(code);
        for (n, reg) in regs.iter().enumerate() {
            set_register(&mut i, n as u32, *reg);
        }
        self.emit(&i).map(|_| ())
    }

    fn prologue(&mut self) -> Result<(), String> {
        for reg in self.frame.pushed.clone() {
            self.emit_simple(Code::Push_r64, &[register(reg, View::R64)])?;
        }
        if self.frame.bytes == 0 {
            return Ok(());
        }
        let [rax, rsp] = [RAX, RSP].map(|n| PReg::new(n as usize, RegClass::Int));
        let [rax, rsp] = [rax, rsp].map(|r| register(r, View::R64));
        self.emit_simple(Code::Mov_r64_rm64, &[rax, rsp])?;
        for (code, value) in
            [(Code::Sub_rm64_imm32, self.frame.bytes as i64), (Code::And_rm64_imm32, -64)]
        {
            let mut i = Instruction::default();
            i.set_code(code);
            set_register(&mut i, 0, rsp);
            i.set_op_kind(1, OpKind::Immediate32to64);
            i.set_immediate32to64(value);
            self.emit(&i)?;
        }
        self.at_stack(Code::Mov_rm64_r64, rax, self.frame.bytes - 8, 0)?;
        for (reg, offset) in self.frame.vectors.clone() {
            self.at_stack(Code::VEX_Vmovups_xmmm128_xmm, register(reg, View::X), offset, 0)?;
        }
        Ok(())
    }

    fn epilogue(&mut self) -> Result<(), String> {
        self.emit_simple(Code::VEX_Vzeroupper, &[])?;
        if self.frame.bytes > 0 {
            for (reg, offset) in self.frame.vectors.clone() {
                self.at_stack(Code::VEX_Vmovups_xmm_xmmm128, register(reg, View::X), offset, 1)?;
            }
            self.at_stack(Code::Mov_r64_rm64, Register::RSP, self.frame.bytes - 8, 1)?;
        }
        for reg in self.frame.pushed.clone().into_iter().rev() {
            self.emit_simple(Code::Pop_r64, &[register(reg, View::R64)])?;
        }
        self.emit_simple(Code::Retnq, &[])
    }

    /// An instruction with the stack at operand `memory` and a register at the other one.
    fn at_stack(
        &mut self,
        code: Code,
        reg: Register,
        offset: u32,
        memory: u32,
    ) -> Result<(), String> {
        let mut i = Instruction::default();
        i.set_code(code);
        i.set_op_kind(memory, OpKind::Memory);
        i.set_memory_base(Register::RSP);
        i.set_memory_displ_size(1);
        i.set_memory_displacement64(offset as u64);
        set_register(&mut i, 1 - memory, reg);
        self.emit(&i).map(|_| ())
    }

    /// A jump, conditional or not; none where the target comes next.
    fn jump(&mut self, cc: Option<u8>, to: BlockId, next: Option<BlockId>) {
        if next == Some(to) {
            return;
        }
        if let Some(text) = &mut self.listing {
            let name = cc.map_or("jmp".to_string(), |cc| format!("j{}", super::listing::cc(cc)));
            text.push_str(&format!("    {name} b{}\n", to.0));
        }
        if let Some(start) = self.starts[to.0 as usize] {
            let distance = start as i64 - (self.bytes.len() as i64 + 2);
            if let Ok(short) = i8::try_from(distance) {
                self.bytes.extend([cc.map_or(0xeb, |cc| 0x70 | cc), short as u8]);
                return;
            }
        }
        match cc {
            Some(cc) => self.bytes.extend([0x0f, 0x80 | cc]),
            None => self.bytes.push(0xe9),
        }
        self.jumps.push((self.bytes.len(), to));
        self.bytes.extend([0; 4]);
    }

    /// Fills up with instructions that do nothing (Intel SDM volume 2B, "NOP").
    fn align(&mut self, to: usize) {
        let mut left = self.bytes.len().next_multiple_of(to) - self.bytes.len();
        while left > 0 {
            let nop: &[u8] = match left {
                1 => &[0x90],
                2 => &[0x66, 0x90],
                3 => &[0x0f, 0x1f, 0],
                4 => &[0x0f, 0x1f, 0x40, 0],
                5 => &[0x0f, 0x1f, 0x44, 0, 0],
                6 => &[0x66, 0x0f, 0x1f, 0x44, 0, 0],
                7 => &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
                8 => &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
                _ => &[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            };
            self.bytes.extend_from_slice(nop);
            left -= nop.len();
        }
    }

    /// Constants, then all distances.
    fn finish(mut self) -> Result<Encoded, String> {
        let (pool, offsets) = self.func.pool.layout();
        let align = self.func.pool.align();
        self.bytes.resize(self.bytes.len().next_multiple_of(align), 0xcc);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&pool);
        let distance = |from: usize, to: usize| {
            i32::try_from(to as i64 - from as i64).map_err(|_| "code beyond 2 GiB".to_string())
        };
        for (at, block) in std::mem::take(&mut self.jumps) {
            let to = self.starts[block.0 as usize].ok_or("a jump to nowhere")?;
            self.bytes[at..at + 4].copy_from_slice(&distance(at + 4, to)?.to_le_bytes());
        }
        for (at, end, entry) in std::mem::take(&mut self.constants) {
            let to = start + offsets[entry as usize] as usize;
            self.bytes[at..at + 4].copy_from_slice(&distance(end, to)?.to_le_bytes());
        }
        Ok(Encoded { bytes: self.bytes, listing: self.listing.unwrap_or_default() })
    }
}

fn set_register(i: &mut Instruction, op: u32, reg: Register) {
    i.set_op_kind(op, OpKind::Register);
    i.set_op_register(op, reg);
}

/// The encoder's name of a register.
fn register(reg: PReg, view: View) -> Register {
    use Register::*;
    const BYTE: [Register; 16] =
        [AL, CL, DL, BL, SPL, BPL, SIL, DIL, R8L, R9L, R10L, R11L, R12L, R13L, R14L, R15L];
    let n = reg.hw_enc() as u32;
    match view {
        View::R8 => BYTE[n as usize & 15],
        View::R16 => AX + n,
        View::R32 => EAX + n,
        View::R64 => Register::RAX + n,
        View::X => XMM0 + n,
        View::Y => YMM0 + n,
        View::Z => ZMM0 + n,
        View::K => K0 + n,
    }
}
