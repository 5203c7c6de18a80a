//! Machine code in memory: placed, made executable, freed with its last owner.

use std::sync::Mutex;

use cranelift_codegen::ir::{AbiParam, Signature, types};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_jit::{ArenaMemoryProvider, JITBuilder, JITModule};
use cranelift_module::{Module, default_libcall_names};

use super::KernelFn;
use super::compile::{CodegenError, Compiled};

/// Alignment of functions: one cache line.
const ALIGN: u64 = 64;

/// Functions of kernels. The memory is never writable and executable at once.
pub struct Code {
    functions: Vec<KernelFn>,
    /// Bytes of each function.
    lengths: Vec<usize>,
    align: u64,
    fallbacks: Vec<(usize, String)>,
    /// Owns the memory; behind a lock only because the module is not `Sync`.
    module: Mutex<Option<JITModule>>,
}

impl Code {
    /// The function of kernel `i`. It stays valid as long as `self` lives.
    pub fn function(&self, i: usize) -> KernelFn {
        self.functions[i]
    }

    /// Bytes of machine code.
    pub fn bytes(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The code of kernel `i`: position independent, so it may be placed again elsewhere.
    pub fn function_bytes(&self, i: usize) -> &[u8] {
        // SAFETY: so many bytes were placed there; they are readable and never change while `self`
        // lives.
        unsafe { std::slice::from_raw_parts(self.functions[i] as *const u8, self.lengths[i]) }
    }

    /// Where functions may begin: multiples of this many bytes.
    pub fn align(&self) -> u64 {
        self.align
    }

    /// Kernels that Cranelift compiled on a machine that the AVX emitter is for, and why.
    pub fn fallbacks(&self) -> &[(usize, String)] {
        &self.fallbacks
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        let module = match self.module.get_mut() {
            Ok(module) => module.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        if let Some(module) = module {
            // SAFETY: the functions are reachable only through `self`, which is being dropped;
            // who calls one holds `self` alive (see `function`).
            unsafe { module.free_memory() };
        }
    }
}

/// Copies the functions into executable memory, in their order.
pub(super) fn place(isa: OwnedTargetIsa, compiled: Vec<Compiled>) -> Result<Code, CodegenError> {
    let memory = |e: String| CodegenError::Memory(e);
    let padded = |c: &Compiled| (c.bytes.len() as u64).next_multiple_of(c.align.max(ALIGN));
    let reserve: u64 = compiled.iter().map(padded).sum::<u64>() + (1 << 16);
    let arena =
        ArenaMemoryProvider::new_with_size(reserve as usize).map_err(|e| memory(e.to_string()))?;
    let call_conv = isa.default_call_conv();
    let mut builder = JITBuilder::with_isa(isa, default_libcall_names());
    builder.memory_provider(Box::new(arena));
    let mut module = JITModule::new(builder);
    let mut signature = Signature::new(call_conv);
    signature.params = vec![AbiParam::new(types::I64); 4];
    let mut ids = vec![];
    for c in &compiled {
        let id =
            module.declare_anonymous_function(&signature).map_err(|e| memory(e.to_string()))?;
        module
            .define_function_bytes(id, c.align.max(ALIGN), &c.bytes, &[])
            .map_err(|e| memory(e.to_string()))?;
        ids.push(id);
    }
    module.finalize_definitions().map_err(|e| memory(e.to_string()))?;
    let function = |id| {
        let address = module.get_finalized_function(id);
        // SAFETY: the bytes at the address are a function that the emitter gave this signature and
        // the platform's C calling convention.
        unsafe { std::mem::transmute::<*const u8, KernelFn>(address) }
    };
    let functions = ids.into_iter().map(function).collect();
    let lengths = compiled.iter().map(|c| c.bytes.len()).collect();
    let align = compiled.iter().map(|c| c.align).max().unwrap_or(0).max(ALIGN);
    let why = |(i, c): (usize, Compiled)| Some((i, c.fallback?));
    let fallbacks = compiled.into_iter().enumerate().filter_map(why).collect();
    Ok(Code { functions, lengths, align, fallbacks, module: Mutex::new(Some(module)) })
}
