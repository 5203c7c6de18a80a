//! Kernels → AVX machine code: AVX2 with FMA (ymm, 16 registers) or AVX-512 (zmm, 32 registers).
//!
//! In: a kernel in the legal form of the machine (`kernel::legalize`). Out: the bytes of a function
//! with the signature of `KernelFn`, or [`Reject`] where the kernel holds what this emitter has no
//! code for; then Cranelift compiles it. Steps: [`select`] (instructions in SSA form, addresses,
//! loops), [`alloc`] (registers), [`encode`] (bytes).
//!
//! How values are held: integers and indices in general registers, `Mask(1)` there as 0 or 1;
//! floats and vectors in vector registers from lane 0 on; `Mask(n)` in a mask register on AVX-512
//! (bits above its lanes hold anything), on AVX2 as a vector of lanes 0 or -1.

mod alloc;
mod codes;
mod encode;
mod frame;
mod info;
mod inst;
mod linear;
mod listing;
mod pool;
mod select;
#[cfg(test)]
mod tests;

use crate::base::machine::{Isa, Machine};
use crate::kernel::ir::Kernel;
use crate::target::cpu::compile::Effort;
use frame::Abi;
use regalloc2::Algorithm;

/// The instruction set that code is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// AVX2 and FMA.
    V3,
    /// AVX-512 F, BW, CD, DQ, VL.
    V4,
}

impl Level {
    /// The level for a machine, if this emitter is the one for it.
    pub fn of(machine: &Machine) -> Option<Level> {
        match (machine.isa, machine.vector_bytes) {
            (Isa::X86_64V3, 32) => Some(Level::V3),
            (Isa::X86_64V4, 64) => Some(Level::V4),
            (Isa::X86_64 | Isa::X86_64V3 | Isa::X86_64V4 | Isa::Aarch64 | Isa::Gpu, _) => None,
        }
    }

    /// Bytes of a vector register.
    fn bytes(self) -> usize {
        match self {
            Level::V3 => 32,
            Level::V4 => 64,
        }
    }

    /// Vector registers.
    fn registers(self) -> u8 {
        match self {
            Level::V3 => 16,
            Level::V4 => 32,
        }
    }
}

/// Why a kernel cannot be emitted: what it holds that there is no code for.
#[derive(Debug)]
pub struct Reject(pub String);

type Res<T> = Result<T, Reject>;

fn reject<T>(what: impl Into<String>) -> Res<T> {
    Err(Reject(what.into()))
}

/// What one thread keeps from one kernel to the next: the register allocator's memory.
#[derive(Default)]
pub struct Worker(regalloc2::Ctx);

/// The function of a legalized kernel.
pub fn compile(kernel: &Kernel, level: Level, effort: Effort, worker: &mut Worker) -> Res<Vec<u8>> {
    Ok(emit(kernel, level, effort, worker, false)?.bytes)
}

/// The function as an assembly listing.
pub fn print_assembly(kernel: &Kernel, level: Level) -> Res<String> {
    let code = emit(kernel, level, Effort::Speed, &mut Worker::default(), true)?;
    Ok(format!("{}: # {} bytes\n{}", kernel.name, code.bytes.len(), code.listing))
}

fn emit(
    kernel: &Kernel,
    level: Level,
    effort: Effort,
    worker: &mut Worker,
    list: bool,
) -> Res<encode::Encoded> {
    let abi = Abi::host();
    let func = select::select(kernel, level, abi)?;
    let flat = alloc::Flat::new(&func, level);
    let algorithm = match effort {
        Effort::Speed => Algorithm::Ion,
        Effort::Compile => Algorithm::Fastalloc,
    };
    let output =
        alloc::allocate(&flat, &abi.env(level), algorithm, &mut worker.0).map_err(Reject)?;
    encode::encode(&func, &flat, output, level, abi, list).map_err(Reject)
}
