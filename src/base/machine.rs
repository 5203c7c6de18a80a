//! What is known of the machine that code is made for.
//!
//! A [`Machine`] is plain data, so that one machine can compile for another. *Machine choices*
//! (vector width, tiles, blocking, threads) may depend on it; numeric choices never do.

use serde::{Deserialize, Serialize};

/// Instruction sets that differ for dlc.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Baseline: SSE2, no fused multiply-add.
    X86_64,
    /// AVX2 and FMA.
    X86_64V3,
    /// AVX-512.
    X86_64V4,
    Aarch64,
}

/// How a multiply followed by an add rounds. Results are equal to the bit within one class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Numerics {
    /// Once: a fused multiply-add.
    Fused,
    /// Twice: a multiply, then an add.
    Separate,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    pub isa: Isa,
    /// Bytes of the widest vector register that the emitter uses.
    pub vector_bytes: u32,
    /// Vector registers.
    pub registers: u32,
    /// Bytes of the data caches of one core: L1, L2, and its share of L3.
    pub caches: [u64; 3],
}

impl Machine {
    /// A machine of this instruction set, with vectors of at most `vector_bytes`.
    pub fn new(isa: Isa, vector_bytes: u32) -> Machine {
        let registers = match isa {
            Isa::X86_64 | Isa::X86_64V3 => 16,
            Isa::X86_64V4 if vector_bytes < 64 => 16,
            Isa::X86_64V4 | Isa::Aarch64 => 32,
        };
        Machine { isa, vector_bytes, registers, caches: [32 << 10, 1 << 20, 8 << 20] }
    }

    pub fn numerics(&self) -> Numerics {
        match self.isa {
            Isa::X86_64 => Numerics::Separate,
            Isa::X86_64V3 | Isa::X86_64V4 | Isa::Aarch64 => Numerics::Fused,
        }
    }
}
