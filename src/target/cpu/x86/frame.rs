//! The calling convention: where arguments arrive, which registers a function must leave as they
//! were, and the stack frame.
//!
//! Kernels are leaf functions with four integer arguments. A frame is made only where something was
//! spilled or a register must be saved; its slots are aligned to 64 bytes, and the caller's stack
//! pointer is kept in its last eight bytes.

use regalloc2::{MachineEnv, PReg, PRegSet, RegClass};

use super::Level;

/// A calling convention.
pub struct Abi {
    /// Numbers of the integer registers that bring the arguments.
    pub args: [u8; 4],
    /// Integer registers that need not be kept.
    volatile: &'static [u8],
    /// Integer registers that the caller expects unchanged.
    saved: &'static [u8],
    /// The first vector register of which the low 128 bits must be kept, up to 15.
    saved_vectors: Option<u8>,
}

pub const RAX: u8 = 0;
pub const RDX: u8 = 2;
pub const RSP: u8 = 4;

/// System V AMD64 ABI 1.0, section 3.2.
const SYSTEM_V: Abi = Abi {
    args: [7, 6, 2, 1],
    volatile: &[0, 1, 2, 6, 7, 8, 9, 10, 11],
    saved: &[3, 5, 12, 13, 14, 15],
    saved_vectors: None,
};

/// "x64 calling convention", Microsoft.
const WINDOWS: Abi = Abi {
    args: [1, 2, 8, 9],
    volatile: &[0, 1, 2, 8, 9, 10, 11],
    saved: &[3, 5, 6, 7, 12, 13, 14, 15],
    saved_vectors: Some(6),
};

impl Abi {
    /// The one of the machine that this dlc runs on.
    pub fn host() -> &'static Abi {
        if cfg!(windows) { &WINDOWS } else { &SYSTEM_V }
    }

    /// Which registers the allocator may use.
    pub fn env(&self, level: Level) -> MachineEnv {
        let set = |numbers: &mut dyn Iterator<Item = u8>, class| {
            let mut set = PRegSet::empty();
            numbers.for_each(|n| set.add(PReg::new(n as usize, class)));
            set
        };
        let vectors = level.registers();
        let kept = |n: &u8| self.saved_vectors.is_some_and(|first| (first..16).contains(n));
        // k0 cannot be named as a mask.
        let masks = if level == Level::V4 { 1..8 } else { 0..0 };
        MachineEnv {
            preferred_regs_by_class: [
                set(&mut self.volatile.iter().copied(), RegClass::Int),
                set(&mut (0..vectors).filter(|n| !kept(n)), RegClass::Float),
                set(&mut { masks }, RegClass::Vector),
            ],
            non_preferred_regs_by_class: [
                set(&mut self.saved.iter().copied(), RegClass::Int),
                set(&mut (0..vectors).filter(kept), RegClass::Float),
                PRegSet::empty(),
            ],
            scratch_by_class: [None; 3],
            fixed_stack_slots: vec![],
        }
    }

    /// Whether the function must save this register before it writes it.
    pub fn saves(&self, reg: PReg) -> bool {
        let n = reg.hw_enc() as u8;
        match reg.class() {
            RegClass::Int => self.saved.contains(&n),
            RegClass::Float => self.saved_vectors.is_some_and(|first| (first..16).contains(&n)),
            RegClass::Vector => false,
        }
    }
}

/// What lies on the stack, from the stack pointer upwards: spill slots, saved vector registers, and
/// the caller's stack pointer.
pub struct Frame {
    /// Bytes, a multiple of 64; 0: no frame.
    pub bytes: u32,
    /// Saved vector registers, with their offsets.
    pub vectors: Vec<(PReg, u32)>,
    /// Saved integer registers, pushed before the frame is made.
    pub pushed: Vec<PReg>,
}

impl Frame {
    /// For `slots` spill slots of 8 bytes and the registers that the function writes.
    pub fn new(slots: usize, written: &[PReg], abi: &Abi) -> Frame {
        let saved =
            |class| written.iter().copied().filter(move |r| r.class() == class && abi.saves(*r));
        let pushed: Vec<PReg> = saved(RegClass::Int).collect();
        let mut bytes = (8 * slots as u32).next_multiple_of(16);
        let mut vectors = vec![];
        for reg in saved(RegClass::Float) {
            vectors.push((reg, bytes));
            bytes += 16;
        }
        if bytes > 0 {
            bytes = (bytes + 8).next_multiple_of(64);
        }
        Frame { bytes, vectors, pushed }
    }
}
