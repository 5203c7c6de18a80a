//! What must hold of every finished Program, whatever made it.
//!
//! In: a Program. Out: nothing, or what is wrong as diagnostics. The memory plan is followed byte by
//! byte (`check`), and every kernel keeps the rules of `kernel::verify`: neither shares code with what
//! planned and generated. Debug builds ask for each Program, release builds under `--verify-each`.

use super::program::Program;
use super::trace::check_program;
use crate::base::codes::BAD_PROGRAM;
use crate::base::diag::Diagnostic;
use crate::kernel::verify::verify;

/// The faults of a plan and of kernels: each of them is a bug of dlc.
pub fn prove(program: &Program) -> Result<(), Vec<Diagnostic>> {
    let internal = |message: String| {
        Diagnostic::error(BAD_PROGRAM, None, format!("internal error: {message}"))
            .note(format!("in the program of `{}`", program.name))
    };
    let mut found = vec![];
    for fault in check_program(program).err().unwrap_or_default() {
        found.push(internal(format!("the memory plan is unsound: {fault}")));
    }
    let patterns = program.kernels.iter().filter_map(|k| k.pattern.as_ref());
    let parts = patterns.flat_map(|p| p.parts());
    for fault in program.kernels.iter().chain(parts).filter_map(|k| verify(k).err()) {
        found.push(internal(fault.to_string()));
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}
