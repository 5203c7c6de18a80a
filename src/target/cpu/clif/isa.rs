//! Cranelift's view of a target: triple, instruction-set flags, code-generation settings.

use cranelift_codegen::isa::{self, OwnedTargetIsa, TargetIsa};
use cranelift_codegen::settings::{self, Configurable, Flags};
use target_lexicon::{Architecture, Triple};

use crate::base::machine::Isa;
use crate::target::cpu::compile::{CodegenError, Effort};
use crate::target::{Kind, Target};

/// What the emitter must know about the instruction set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// Rounding instructions for floor, ceil, trunc and nearest.
    pub rounding: bool,
    /// Arbitrary shuffles of bytes.
    pub shuffles: bool,
    pub fma: bool,
}

/// Cranelift's description of the target's instruction set.
pub(super) fn target_isa(target: &Target, effort: Effort) -> Result<OwnedTargetIsa, CodegenError> {
    let named = match target.row.kind {
        Kind::Cpu(named) => named,
        Kind::Cranelift | Kind::Reference | Kind::Interpreter | Kind::Gpu | Kind::Later => None,
    };
    let bad = |what: &str| CodegenError::Target(format!("target `{}`: {what}", target.row.name));
    let mut builder = match named {
        None => cranelift_native::builder().map_err(bad)?,
        Some(isa) => {
            let triple = triple(isa).ok_or_else(|| bad("it is no processor"))?;
            isa::lookup(triple).map_err(|_| bad("this dlc was built without its code generator"))?
        }
    };
    match named {
        // The presets of these levels do not bring every vector extension that the levels have.
        Some(level @ (Isa::X86_64V3 | Isa::X86_64V4)) => {
            let preset = if level == Isa::X86_64V3 { "x86-64-v3" } else { "x86-64-v4" };
            for flag in [preset, "has_avx", "has_avx2", "has_fma"] {
                builder.enable(flag).map_err(|e| bad(&e.to_string()))?;
            }
        }
        Some(Isa::X86_64 | Isa::Aarch64 | Isa::Gpu) | None => {}
    }
    builder.finish(flags(effort)).map_err(|e| bad(&e.to_string()))
}

/// The host's triple with the architecture of the target, if it is a processor.
fn triple(isa: Isa) -> Option<Triple> {
    let mut triple = Triple::host();
    let arm = Architecture::Aarch64(target_lexicon::Aarch64Architecture::Aarch64);
    let (wanted, architecture) = match isa {
        Isa::X86_64 | Isa::X86_64V3 | Isa::X86_64V4 => ("x86_64", Architecture::X86_64),
        Isa::Aarch64 => ("aarch64", arm),
        Isa::Gpu => return None,
    };
    if triple.architecture.to_string() != wanted {
        triple.architecture = architecture;
    }
    Some(triple)
}

fn flags(effort: Effort) -> Flags {
    let mut flags = settings::builder();
    let mut set = |name, value| flags.set(name, value).expect("Cranelift knows its own settings");
    set("opt_level", if effort == Effort::Speed { "speed" } else { "none" });
    let regalloc = if effort == Effort::Speed { "backtracking" } else { "single_pass" };
    set("regalloc_algorithm", regalloc);
    set("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" });
    // Kernels are leaves without relocations, so they run at any address all the same; the JIT
    // module insists on this.
    set("is_pic", "false");
    set("unwind_info", "false");
    set("enable_probestack", "false");
    Flags::new(flags)
}

/// Reads the flags that the emitter chooses instructions by.
pub(super) fn features(isa: &dyn TargetIsa) -> Features {
    let x86 = isa.triple().architecture == Architecture::X86_64;
    let flags = isa.isa_flags();
    let has = |name| flags.iter().any(|f| f.name == name && f.as_bool() == Some(true));
    Features {
        rounding: !x86 || has("has_sse41"),
        shuffles: !x86 || has("has_ssse3"),
        fma: !x86 || (has("has_fma") && has("has_avx")),
    }
}
