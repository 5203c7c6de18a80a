//! Machine instructions before register allocation: a control-flow graph of blocks with parameters,
//! in SSA form over virtual registers.
//!
//! An instruction is an opcode of the encoder and its operands in encoding order. What the register
//! allocator must know follows from the operands: which registers are read, which are written, and
//! which result must take the place of an operand ([`Arg::Tied`]). Control flow is not an
//! instruction: each block ends with a [`Term`], and edges from a branch lead to blocks with one
//! predecessor only, so that no edge is critical.

pub use iced_x86::Code;
pub use regalloc2::{PReg, RegClass, VReg};

use super::pool::Pool;

/// The part of a register that an operand names; it must be the one that the opcode expects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    R8,
    R16,
    R32,
    R64,
    /// 128, 256 and 512 bits.
    X,
    Y,
    Z,
    /// A mask register.
    K,
}

impl View {
    pub fn class(self) -> RegClass {
        match self {
            View::R8 | View::R16 | View::R32 | View::R64 => RegClass::Int,
            View::X | View::Y | View::Z => RegClass::Float,
            View::K => RegClass::Vector,
        }
    }
}

/// `[base + index · scale + disp]`, or a place in the constant pool.
#[derive(Clone, Copy, Debug)]
pub struct Mem {
    pub base: Base,
    pub index: Option<(VReg, u8)>,
    pub disp: i32,
}

#[derive(Clone, Copy, Debug)]
pub enum Base {
    Reg(VReg),
    /// An entry of the constant pool.
    Pool(u32),
}

impl Mem {
    pub fn at(base: VReg, disp: i32) -> Mem {
        Mem { base: Base::Reg(base), index: None, disp }
    }

    pub fn pool(entry: u32) -> Mem {
        Mem { base: Base::Pool(entry), index: None, disp: 0 }
    }
}

/// What can be read: a register, memory, or one element of memory in every lane.
#[derive(Clone, Copy, Debug)]
pub enum Src {
    Reg(VReg),
    Mem(Mem),
    /// AVX-512's embedded broadcast.
    Broadcast(Mem),
}

#[derive(Clone, Copy, Debug)]
pub enum Arg {
    Def(VReg, View),
    Use(VReg, View),
    /// Read, then overwritten by the result.
    Tied {
        def: VReg,
        used: VReg,
        view: View,
    },
    /// The register of operand 0 again, whose old value does not matter.
    Same(View),
    Mem(Mem),
    Imm8(u8),
    /// A byte, sign-extended to 32 or 64 bits.
    Imm8Signed(i8, View),
    Imm32(i32),
    /// Sign-extended to 64 bits.
    Imm32Signed(i32),
    Imm64(i64),
    None,
}

/// A register that an instruction reads or writes without naming it.
#[derive(Clone, Copy, Debug)]
pub struct Implicit {
    pub vreg: VReg,
    pub reg: PReg,
    pub write: bool,
}

#[derive(Clone, Debug)]
pub struct Inst {
    pub code: Code,
    pub args: [Arg; 4],
    /// The mask register that says which lanes are written.
    pub mask: Option<VReg>,
    /// Lanes outside the mask become zero; else they keep what the tied operand held.
    pub zeroing: bool,
    pub broadcast: bool,
    pub implicit: Vec<Implicit>,
}

impl Inst {
    pub fn new(code: Code) -> Inst {
        Inst {
            code,
            args: [Arg::None; 4],
            mask: None,
            zeroing: false,
            broadcast: false,
            implicit: vec![],
        }
    }

    pub fn arg(mut self, arg: Arg) -> Inst {
        let free = self.args.iter_mut().find(|a| matches!(a, Arg::None));
        *free.expect("instructions have at most four operands") = arg;
        self
    }

    pub fn def(self, v: VReg, view: View) -> Inst {
        self.arg(Arg::Def(v, view))
    }

    pub fn read(self, v: VReg, view: View) -> Inst {
        self.arg(Arg::Use(v, view))
    }

    pub fn tied(self, def: VReg, used: VReg, view: View) -> Inst {
        self.arg(Arg::Tied { def, used, view })
    }

    pub fn mem(self, mem: Mem) -> Inst {
        self.arg(Arg::Mem(mem))
    }

    pub fn src(mut self, src: Src, view: View) -> Inst {
        self.broadcast |= matches!(src, Src::Broadcast(_));
        match src {
            Src::Reg(v) => self.read(v, view),
            Src::Mem(m) | Src::Broadcast(m) => self.mem(m),
        }
    }

    pub fn imm8(self, v: u8) -> Inst {
        self.arg(Arg::Imm8(v))
    }

    pub fn mask(mut self, k: VReg) -> Inst {
        self.mask = Some(k);
        self
    }

    /// Writes zeros where the mask is not set.
    pub fn mask_zero(mut self, k: VReg) -> Inst {
        self.mask = Some(k);
        self.zeroing = true;
        self
    }

    pub fn implicit(mut self, vreg: VReg, reg: PReg, write: bool) -> Inst {
        self.implicit.push(Implicit { vreg, reg, write });
        self
    }
}

/// Conditions of jumps, moves and `setcc`, by the flags that a comparison leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cc {
    Eq,
    Ne,
    /// Signed.
    Lt,
    Le,
    Gt,
    Ge,
    /// Unsigned, and of floats.
    Below,
    BelowEq,
    Above,
    AboveEq,
    /// A comparison of floats of which one was NaN.
    Parity,
}

impl Cc {
    /// The processor's number for it.
    pub fn number(self) -> u8 {
        match self {
            Cc::Eq => 4,
            Cc::Ne => 5,
            Cc::Lt => 12,
            Cc::Le => 14,
            Cc::Gt => 15,
            Cc::Ge => 13,
            Cc::Below => 2,
            Cc::BelowEq => 6,
            Cc::Above => 7,
            Cc::AboveEq => 3,
            Cc::Parity => 10,
        }
    }
}

/// An instruction that sets the flags, and the condition to ask for.
#[derive(Clone, Debug)]
pub struct Test {
    pub inst: Inst,
    pub cc: Cc,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockId(pub u32);

/// How a block ends.
#[derive(Clone, Debug)]
pub enum Term {
    Return,
    Jump(BlockId, Vec<VReg>),
    /// To blocks without parameters.
    Branch {
        test: Test,
        then: BlockId,
        els: BlockId,
    },
}

#[derive(Debug)]
pub struct Block {
    pub params: Vec<VReg>,
    pub insts: Vec<Inst>,
    pub term: Term,
    /// An innermost loop begins here.
    pub align: bool,
}

/// A function; block 0 is its entry, and blocks are placed in their order.
#[derive(Debug, Default)]
pub struct Func {
    pub blocks: Vec<Block>,
    pub vregs: usize,
    pub pool: Pool,
}

impl Func {
    pub fn block(&mut self) -> BlockId {
        let block = Block { params: vec![], insts: vec![], term: Term::Return, align: false };
        self.blocks.push(block);
        BlockId(self.blocks.len() as u32 - 1)
    }

    pub fn at(&mut self, id: BlockId) -> &mut Block {
        &mut self.blocks[id.0 as usize]
    }

    pub fn vreg(&mut self, class: RegClass) -> VReg {
        self.vregs += 1;
        VReg::new(self.vregs - 1, class)
    }
}
