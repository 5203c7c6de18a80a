//! Kernels → machine code, by Cranelift, with vectors of 128 bits.
//!
//! In: kernels of the CPU. Out: [`Code`], functions ready to be called, which unmaps itself when
//! dropped; or text. Each kernel is checked, legalized and compiled by itself, in parallel; placed
//! in their order, they give the same code for every number of threads.

mod arith;
mod control;
mod convert;
mod emit;
mod integers;
mod isa;
mod jit;
mod lanes;
mod memory;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_frontend::FunctionBuilderContext;

pub use self::isa::Effort;
pub use self::jit::Code;
use crate::base::machine::Machine;
use crate::kernel::ir::{Inst, Kernel, Region};
use crate::kernel::legalize::legalize;
use crate::kernel::types::check_types;
use crate::target::Target;

/// What went wrong between a kernel and its code. None of these depends on a model's author: they
/// say that dlc cannot do something yet, or that it has a bug.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CodegenError {
    #[error("{0}")]
    Target(String),
    #[error("kernel `{kernel}`: no code for {what}")]
    Unsupported { kernel: String, what: String },
    #[error("kernel `{kernel}`: {what}")]
    Backend { kernel: String, what: String },
    #[error("no memory for machine code: {0}")]
    Memory(String),
}

/// How to compile.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub effort: Effort,
    /// Threads that compile, the caller's among them.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { effort: Effort::Speed, threads: 1 }
    }
}

/// The bytes of one kernel's function.
struct Compiled {
    bytes: Vec<u8>,
    align: u64,
}

/// Compiles kernels for this machine; function `i` of the result is that of kernel `i`.
pub fn compile(
    kernels: &[Kernel],
    target: &Target,
    options: Options,
) -> Result<Code, CodegenError> {
    let isa = isa::target_isa(target, options.effort)?;
    let prepare = |kernel: &Kernel| legal(kernel, &target.machine);
    let compiled = compile_all(kernels, &isa, options.threads, &prepare)?;
    jit::place(isa, &compiled)
}

/// The kernel's function before Cranelift optimizes it.
pub fn print_clif(kernel: &Kernel, target: &Target) -> Result<String, CodegenError> {
    let isa = isa::target_isa(target, Effort::Speed)?;
    let mut context = Context::new();
    let kernel = legal(kernel, &target.machine)?;
    fill(&kernel, &isa, &mut context, &mut FunctionBuilderContext::new())?;
    Ok(context.func.display().to_string())
}

/// The kernel's machine code as an assembly listing.
pub fn print_assembly(kernel: &Kernel, target: &Target) -> Result<String, CodegenError> {
    let isa = isa::target_isa(target, Effort::Speed)?;
    let mut context = Context::new();
    let kernel = &legal(kernel, &target.machine)?;
    fill(kernel, &isa, &mut context, &mut FunctionBuilderContext::new())?;
    context.set_disasm(true);
    let code = context
        .compile(&*isa, &mut ControlPlane::default())
        .map_err(|e| backend(kernel, format!("Cranelift: {:?}", e.inner)))?;
    let listing = code.vcode.clone().unwrap_or_default();
    Ok(format!("{}: # {} bytes\n{listing}", kernel.name, code.code_info().total_size))
}

/// The kernel in the form that the emitter takes.
fn legal(kernel: &Kernel, machine: &Machine) -> Result<Kernel, CodegenError> {
    if kernel.grid_points() == 0 {
        // It has no work; its function is there so that functions and kernels count alike.
        let body = Region::default();
        return Ok(Kernel { grid: [1; 3], types: vec![], body, ..kernel.clone() });
    }
    check_types(kernel).map_err(|e| backend(kernel, e.to_string()))?;
    let legal = legalize(kernel, machine);
    match legal.scratch_bytes() == kernel.scratch_bytes() {
        true => Ok(legal),
        false => Err(backend(kernel, "legalizing changed its scratch".into())),
    }
}

/// Compiles what `prepare` makes of each kernel.
fn compile_all(
    kernels: &[Kernel],
    isa: &OwnedTargetIsa,
    threads: usize,
    prepare: &(impl Fn(&Kernel) -> Result<Kernel, CodegenError> + Sync),
) -> Result<Vec<Compiled>, CodegenError> {
    let done: Vec<OnceLock<Result<Compiled, CodegenError>>> =
        kernels.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut context = Context::new();
        let mut builder = FunctionBuilderContext::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(kernel) = kernels.get(i) else { break };
            let result = prepare(kernel)
                .and_then(|kernel| compile_one(&kernel, isa, &mut context, &mut builder));
            let _ = done[i].set(result);
            context.clear();
        }
    };
    // A thread costs as much to start as a small kernel to compile.
    let instructions: usize = kernels.iter().map(|k| size(&k.body)).sum();
    let threads = threads.min(kernels.len()).min(1 + instructions / 400);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    done.into_iter().map(|cell| cell.into_inner().expect("every kernel was taken once")).collect()
}

fn compile_one(
    kernel: &Kernel,
    isa: &OwnedTargetIsa,
    context: &mut Context,
    builder: &mut FunctionBuilderContext,
) -> Result<Compiled, CodegenError> {
    fill(kernel, isa, context, builder)?;
    let code = context
        .compile(&**isa, &mut ControlPlane::default())
        .map_err(|e| backend(kernel, format!("Cranelift: {:?}", e.inner)))?;
    if let Some(reloc) = code.buffer.relocs().first() {
        return Err(backend(kernel, format!("the code calls {:?}", reloc.target)));
    }
    Ok(Compiled { bytes: code.code_buffer().to_vec(), align: code.buffer.alignment as u64 })
}

fn fill(
    kernel: &Kernel,
    isa: &OwnedTargetIsa,
    context: &mut Context,
    builder: &mut FunctionBuilderContext,
) -> Result<(), CodegenError> {
    let features = isa::features(&**isa);
    emit::emit(kernel, &**isa, features, &mut context.func, builder).map_err(
        |emit::Reject(what)| {
            // A builder that was given up half-way holds rubbish.
            *builder = FunctionBuilderContext::new();
            CodegenError::Unsupported { kernel: kernel.name.clone(), what }
        },
    )
}

/// A fault of the kernel or of Cranelift.
fn backend(kernel: &Kernel, what: String) -> CodegenError {
    CodegenError::Backend { kernel: kernel.name.clone(), what }
}

/// Instructions of a region and the regions inside it.
fn size(region: &Region) -> usize {
    let mut total = 0;
    let mut open = vec![region];
    while let Some(region) = open.pop() {
        total += region.insts.len();
        for inst in &region.insts {
            match inst {
                Inst::For { body, .. } => open.push(body),
                Inst::If { then, els, .. } => open.extend([then, els]),
                Inst::Const { .. }
                | Inst::Grid { .. }
                | Inst::Local { .. }
                | Inst::Op { .. }
                | Inst::Fold { .. }
                | Inst::Lane { .. }
                | Inst::Load { .. }
                | Inst::Store { .. }
                | Inst::Barrier => {}
            }
        }
    }
    total
}

#[cfg(test)]
mod tests;
