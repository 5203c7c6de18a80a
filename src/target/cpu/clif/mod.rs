//! Kernels → machine code, by Cranelift, with vectors of 128 bits.
//!
//! In: kernels in the legal form for 16-byte vectors, and some beyond it. Out: the bytes of a
//! function, or text.

mod arith;
mod control;
mod convert;
mod emit;
mod integers;
mod isa;
mod lanes;
mod memory;

use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_frontend::FunctionBuilderContext;

use super::compile::{CodegenError, Compiled, Effort, backend};
use crate::kernel::ir::Kernel;
use crate::target::Target;

/// Cranelift's widest vectors, on every processor.
pub const VECTOR_BYTES: u32 = 16;

/// Cranelift for one target.
pub(super) struct Clif {
    isa: OwnedTargetIsa,
}

/// What one thread keeps from one kernel to the next.
pub(super) struct Worker {
    context: Context,
    builder: FunctionBuilderContext,
}

impl Default for Worker {
    fn default() -> Worker {
        Worker { context: Context::new(), builder: FunctionBuilderContext::new() }
    }
}

impl Clif {
    pub fn new(target: &Target, effort: Effort) -> Result<Clif, CodegenError> {
        Ok(Clif { isa: isa::target_isa(target, effort)? })
    }

    pub fn isa(&self) -> OwnedTargetIsa {
        self.isa.clone()
    }

    /// Whether the target has fused multiply-add.
    #[cfg(test)]
    pub fn has_fma(&self) -> bool {
        isa::features(&*self.isa).fma
    }

    pub fn compile(&self, kernel: &Kernel, worker: &mut Worker) -> Result<Compiled, CodegenError> {
        let context = &mut worker.context;
        context.clear();
        self.fill(kernel, context, &mut worker.builder)?;
        let code = context
            .compile(&*self.isa, &mut ControlPlane::default())
            .map_err(|e| backend(kernel, format!("Cranelift: {:?}", e.inner)))?;
        if let Some(reloc) = code.buffer.relocs().first() {
            return Err(backend(kernel, format!("the code calls {:?}", reloc.target)));
        }
        let align = code.buffer.alignment as u64;
        Ok(Compiled { bytes: code.code_buffer().to_vec(), align, fallback: None })
    }

    /// The function before Cranelift optimizes it.
    pub fn print(&self, kernel: &Kernel) -> Result<String, CodegenError> {
        let mut context = Context::new();
        self.fill(kernel, &mut context, &mut FunctionBuilderContext::new())?;
        Ok(context.func.display().to_string())
    }

    pub fn print_assembly(&self, kernel: &Kernel) -> Result<String, CodegenError> {
        let mut context = Context::new();
        self.fill(kernel, &mut context, &mut FunctionBuilderContext::new())?;
        context.set_disasm(true);
        let code = context
            .compile(&*self.isa, &mut ControlPlane::default())
            .map_err(|e| backend(kernel, format!("Cranelift: {:?}", e.inner)))?;
        let listing = code.vcode.clone().unwrap_or_default();
        Ok(format!("{}: # {} bytes\n{listing}", kernel.name, code.code_info().total_size))
    }

    fn fill(
        &self,
        kernel: &Kernel,
        context: &mut Context,
        builder: &mut FunctionBuilderContext,
    ) -> Result<(), CodegenError> {
        let features = isa::features(&*self.isa);
        emit::emit(kernel, &*self.isa, features, &mut context.func, builder).map_err(
            |emit::Reject(what)| {
                // A builder that was given up half-way holds rubbish.
                *builder = FunctionBuilderContext::new();
                CodegenError::Unsupported { kernel: kernel.name.clone(), what }
            },
        )
    }
}

#[cfg(test)]
mod tests;
