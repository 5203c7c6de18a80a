//! Which emitter makes a kernel's code, and compiling many kernels at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::clif::{self, Clif};
use super::jit::{self, Code};
use super::x86;
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

/// How hard the emitters work on a kernel; results are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Effort {
    /// The better register allocator; Cranelift: loop-invariant code motion, value numbering.
    #[default]
    Speed,
    /// The fastest way to code that runs.
    Compile,
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

/// What one thread keeps from one kernel to the next.
#[derive(Default)]
struct Worker {
    x86: x86::Worker,
    clif: clif::Worker,
}

/// The bytes of one kernel's function.
pub(super) struct Compiled {
    pub bytes: Vec<u8>,
    pub align: u64,
    /// Why Cranelift had to make it on a machine that the other emitter is for.
    pub fallback: Option<String>,
}

/// Compiles kernels for this machine; function `i` of the result is that of kernel `i`.
pub fn compile(
    kernels: &[Kernel],
    target: &Target,
    options: Options,
) -> Result<Code, CodegenError> {
    let clif = Clif::new(target, options.effort)?;
    let one = |worker: &mut Worker, kernel: &Kernel| {
        compile_one(kernel, target, options.effort, &clif, worker)
    };
    let compiled = compile_all(kernels, options.threads, one)?;
    jit::place(clif.isa(), compiled)
}

/// Places code that was compiled earlier, as [`Code::function_bytes`] gives it.
///
/// # Safety
/// Each function was compiled by dlc and runs on this machine.
pub unsafe fn place(
    functions: &[&[u8]],
    align: u64,
    target: &Target,
) -> Result<Code, CodegenError> {
    let one = |f: &&[u8]| Compiled { bytes: f.to_vec(), align, fallback: None };
    let clif = Clif::new(target, Effort::Compile)?;
    jit::place(clif.isa(), functions.iter().map(one).collect())
}

fn compile_one(
    kernel: &Kernel,
    target: &Target,
    effort: Effort,
    clif: &Clif,
    worker: &mut Worker,
) -> Result<Compiled, CodegenError> {
    let mut fallback = None;
    if let Some(level) = x86::Level::of(&target.machine) {
        let legal = legal(kernel, &target.machine)?;
        match x86::compile(&legal, level, effort, &mut worker.x86) {
            Ok(bytes) => return Ok(Compiled { bytes, align: 64, fallback }),
            Err(x86::Reject(what)) => fallback = Some(what),
        }
    }
    let legal = legal(kernel, &for_cranelift(&target.machine))?;
    let compiled = clif.compile(&legal, &mut worker.clif)?;
    Ok(Compiled { fallback, ..compiled })
}

/// The machine as Cranelift uses it.
fn for_cranelift(machine: &Machine) -> Machine {
    let vector_bytes = machine.vector_bytes.min(clif::VECTOR_BYTES);
    Machine { vector_bytes, ..machine.clone() }
}

/// The kernel's function before Cranelift optimizes it.
pub fn print_clif(kernel: &Kernel, target: &Target) -> Result<String, CodegenError> {
    let legal = legal(kernel, &for_cranelift(&target.machine))?;
    Clif::new(target, Effort::Speed)?.print(&legal)
}

/// The kernel's machine code as an assembly listing.
pub fn print_assembly(kernel: &Kernel, target: &Target) -> Result<String, CodegenError> {
    if let Some(level) = x86::Level::of(&target.machine) {
        let legal = legal(kernel, &target.machine)?;
        if let Ok(text) = x86::print_assembly(&legal, level) {
            return Ok(text);
        }
    }
    let legal = legal(kernel, &for_cranelift(&target.machine))?;
    Clif::new(target, Effort::Speed)?.print_assembly(&legal)
}

/// The kernel in the form that the emitters take.
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

/// Compiles each kernel with `one`, which has a worker of its own on each thread.
pub(super) fn compile_all<W: Default>(
    kernels: &[Kernel],
    threads: usize,
    one: impl Fn(&mut W, &Kernel) -> Result<Compiled, CodegenError> + Sync,
) -> Result<Vec<Compiled>, CodegenError> {
    let done: Vec<OnceLock<Result<Compiled, CodegenError>>> =
        kernels.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut worker = W::default();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(kernel) = kernels.get(i) else { break };
            let _ = done[i].set(one(&mut worker, kernel));
        }
    };
    // A thread costs as much to start as a small kernel to compile.
    let instructions: usize = kernels.iter().map(|k| size(&k.body)).sum();
    let threads = threads.min(kernels.len()).min(1 + instructions / 400);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system has no more threads, those at work do it all.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    done.into_iter().map(|cell| cell.into_inner().expect("every kernel was taken once")).collect()
}

/// A fault of the kernel or of an emitter.
pub(super) fn backend(kernel: &Kernel, what: String) -> CodegenError {
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
                | Inst::GroupFold { .. }
                | Inst::Lane { .. }
                | Inst::Load { .. }
                | Inst::Store { .. }
                | Inst::Prefetch { .. }
                | Inst::Barrier => {}
            }
        }
    }
    total
}
