//! A compiled program as bytes: what a `.dlm` keeps so that loading compiles nothing.
//!
//! In: a model. Out: its code with the program that calls it, and the values of the program's
//! constants, packed as the code reads them. Back: a file, and the seal that has to hold.
//!
//! ```text
//! code = length of the header, u64 · header, JSON · the kernels' functions, position independent
//! prepared = values of constants, each at a multiple of 64
//! ```

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::dlm::File;
use super::model_file;
use super::seal::Seal;
use crate::base::Tensor;
use crate::base::tensor::SharedBytes;
use crate::model::{Diagnostics, Model, Options, WeightSource};
use crate::pass::Settings;
use crate::placed::Place;
use crate::runtime::cpu::Executable;
use crate::schedule::place::Rule;
use crate::schedule::program::{Program, Queue};
use crate::target::Kind;

/// Where values of constants begin: a cache line.
const ALIGN: usize = 64;

/// A program compiled for one machine, to be stored.
pub struct Compiled {
    pub code: Vec<u8>,
    pub prepared: Vec<u8>,
}

/// Why a compiled program is not used, where there is a file at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unused {
    #[error("it holds no machine code")]
    None,
    #[error("its machine code is not sealed by this user and this build of dlc")]
    Seal,
    #[error("its prepared weights are damaged")]
    Damaged,
    #[error("its machine code is for another machine or other options")]
    Other,
}

#[derive(Serialize, Deserialize)]
struct Header {
    made_for: String,
    align: u64,
    /// Bytes of each kernel's function.
    functions: Vec<usize>,
    program: Program,
}

/// The code of a model: of one without open dimensions, for a target that runs here.
pub fn compiled(model: &Model) -> Result<Option<Compiled>, Diagnostics> {
    if !runs_code(model.options()) || !model.open_dims().is_empty() {
        return Ok(None);
    }
    let plan = model.plan(&Default::default())?;
    let executable = plan.executable(model.weights(), model.options())?;
    Ok(Some(store(&executable, model.options())))
}

/// A model whose code is in the file, ready to run; or why it has to be compiled.
pub fn restore(file: &File, seal: &Seal, options: &Options) -> Result<Model, Unused> {
    if !file.has_code() {
        return Err(Unused::None);
    }
    if !runs_code(options) || !as_stored(options) {
        return Err(Unused::Other);
    }
    let code = file.code(seal).ok_or(Unused::Seal)?;
    let prepared = file.prepared().ok_or(Unused::Damaged)?;
    // SAFETY: the seal holds, so the bytes are what `compiled` gave in a process of this user, and
    // they are a copy that nobody else can change.
    let executable = unsafe { load(&code, &prepared, options) }?;
    let damaged = |_| Unused::Damaged;
    let constants = file.constants().map_err(damaged)?;
    let graph = file.graph().map_err(damaged)?;
    let graph = model_file::parse("", &graph, constants).map_err(|_| Unused::Damaged)?;
    let weights = file.mapped_weights().map_err(damaged)?;
    Model::restored(graph, weights, options.clone(), executable).map_err(|_| Unused::Other)
}

/// Whether the target is machine code that this process can execute, all of it on the queue `cpu`.
fn runs_code(options: &Options) -> bool {
    let elsewhere = |p: &Place| !matches!(p.rule, Rule::All(Queue::Cpu));
    if options.place.as_ref().is_some_and(elsewhere) {
        return false;
    }
    let machine_code = matches!(options.target.row.kind, Kind::Cpu(_) | Kind::Cranelift);
    machine_code && options.target.check_runs_here().is_ok()
}

/// Whether the options ask for the model as it stands in its file.
fn as_stored(options: &Options) -> bool {
    let Options { dims, shapes, pins, outputs, weights, .. } = options;
    let unchanged = dims.is_empty() && shapes.is_empty() && pins.is_empty() && outputs.is_none();
    unchanged && matches!(weights, WeightSource::Declared)
}

/// All that code and program depend on beside the graph. Threads are not among it: code is the same
/// for every number of them.
fn made_for(options: &Options) -> String {
    let Options { target, level, control, .. } = options;
    // What generators claim is no option: the facade fills it in.
    let Settings { strict, training, claimed: _, fold_bytes, narrow } = &control.settings;
    let settings = (level, strict, training, fold_bytes, narrow);
    let passes = (&control.limit, &control.stop_after, &control.only, &control.skip);
    format!("{} {:?} {settings:?} {passes:?}", target.describe(), target.machine.tiles)
}

fn store(executable: &Executable, options: &Options) -> Compiled {
    let (code, program) = (executable.code(), executable.program());
    let functions: Vec<&[u8]> =
        (0..program.kernels.len()).map(|i| code.function_bytes(i)).collect();
    let header = Header {
        made_for: made_for(options),
        align: code.align(),
        functions: functions.iter().map(|f| f.len()).collect(),
        program: (**program).clone(),
    };
    let header = serde_json::to_vec(&header).expect("a program is plain data");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    functions.iter().for_each(|f| bytes.extend_from_slice(f));
    let mut prepared = vec![];
    for value in &program.const_values {
        prepared.resize(prepared.len().next_multiple_of(ALIGN), 0);
        prepared.extend_from_slice(value.bytes());
    }
    Compiled { code: bytes, prepared }
}

/// Code in memory again; constants share the bytes of `prepared`.
///
/// # Safety
/// The bytes of `code` are those that [`store`] gave, of a trusted process.
unsafe fn load(
    code: &[u8],
    prepared: &SharedBytes,
    options: &Options,
) -> Result<Executable, Unused> {
    let (length, rest) = code.split_first_chunk::<8>().ok_or(Unused::Damaged)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| Unused::Damaged)?;
    let (header, mut rest) = rest.split_at_checked(length).ok_or(Unused::Damaged)?;
    let header: Header = serde_json::from_slice(header).map_err(|_| Unused::Damaged)?;
    if header.made_for != made_for(options) {
        return Err(Unused::Other);
    }
    let mut functions = vec![];
    for length in header.functions {
        let (function, after) = rest.split_at_checked(length).ok_or(Unused::Damaged)?;
        functions.push(function);
        rest = after;
    }
    let mut program = header.program;
    program.const_values = constants(&program, prepared).ok_or(Unused::Damaged)?;
    let target = &options.target;
    // SAFETY: the caller vouches for the bytes: each function is the code of the program's kernel
    // in its place, for a machine like this one.
    unsafe { Executable::restore(Arc::new(program), target, &functions, header.align) }
        .map_err(|_| Unused::Damaged)
}

fn constants(program: &Program, prepared: &SharedBytes) -> Option<Vec<Tensor>> {
    let mut end = 0usize;
    let mut values = vec![];
    for port in &program.consts {
        let start = end.checked_next_multiple_of(ALIGN)?;
        let elements = port.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        end = start.checked_add(elements.checked_mul(port.dtype.bytes())?)?;
        let range: Range<usize> = start..end;
        values.push(Tensor::from_shared(port.dtype, &port.shape, prepared.clone(), range)?);
    }
    Some(values)
}
