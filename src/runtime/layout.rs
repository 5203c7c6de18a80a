//! What must hold of a Program before it runs, and where its buffers are.
//!
//! In: a Program. Out: a [`Layout`]: steps as a flat list, and for each argument of each launch the
//! memory that it points into. Checked here: every argument lies inside its buffer and every buffer
//! inside its memory, in all iterations of the enclosing repeats; nothing writes an input or a
//! constant; sizes fit. That kernels stay inside their parameters is the kernel verifier's part.

use super::RunError;
use crate::base::DType;
use crate::kernel::ir::Access;
use crate::schedule::program::{Block, BufferId, LaunchId, Place, Port, Program, Step};

/// Repeats and branches nest at most this deep.
const MAX_DEPTH: usize = 64;

/// A memory of a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Memory {
    Arena,
    Input(u32),
    Output(u32),
    State(u32),
    Const(u32),
}

/// A place in a memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    pub memory: Memory,
    /// In bytes.
    pub offset: u64,
}

/// A step of the flat list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Flat {
    /// Arguments are `spots[args ..]`.
    Launch { id: LaunchId, args: usize },
    /// The steps up to `end`, `times` times; after each one, `moves` are added.
    Repeat { times: u64, end: usize, moves: Vec<Move> },
    /// By the bool at `spots[cond]`: the steps up to `els`, or those from there up to `end`.
    Branch { cond: usize, els: usize, end: usize },
}

/// How far a spot moves on with each iteration, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    pub spot: usize,
    pub by: i64,
}

/// A Program, ready to run.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub steps: Vec<Flat>,
    /// Arguments of launches and conditions of branches.
    pub spots: Vec<Spot>,
    /// Scratch of one worker, in bytes.
    pub scratch: u64,
}

impl Layout {
    pub fn of(program: &Program) -> Result<Layout, RunError> {
        check_ports(program)?;
        for id in 0..program.buffers.len() {
            check_buffer(program, BufferId(id as u32))?;
        }
        let scratch = program.kernels.iter().map(|k| k.scratch_bytes()).max().unwrap_or(0);
        let mut flattener =
            Flattener { program, out: Layout { scratch, ..Layout::default() }, depth: 0 };
        flattener.block(&program.body, &mut vec![])?;
        Ok(flattener.out)
    }
}

fn broken<T>(what: impl Into<String>) -> Result<T, RunError> {
    Err(RunError::Program(what.into()))
}

/// Bytes of packed elements, if they fit an address.
pub(super) fn byte_len(dtype: DType, shape: &[usize]) -> Option<u64> {
    let product = shape.iter().try_fold(dtype.bytes() as u64, |n, d| n.checked_mul(*d as u64));
    product.filter(|n| *n <= isize::MAX as u64)
}

fn check_ports(program: &Program) -> Result<(), RunError> {
    let of_class = |ports: &[Port], class: fn(u32) -> Place| {
        for (i, port) in ports.iter().enumerate() {
            let buffer = program.buffers.get(port.buffer.0 as usize);
            let fits = buffer.is_some_and(|b| {
                b.place == class(i as u32) && b.dtype == port.dtype && b.shape == port.shape
            });
            if !fits {
                return broken(format!("`{}` does not match its buffer", port.name));
            }
        }
        Ok(())
    };
    of_class(&program.inputs, Place::Input)?;
    of_class(&program.outputs, Place::Output)?;
    of_class(&program.states, Place::State)?;
    of_class(&program.consts, Place::Const)
}

/// Whether a program that is to run has a value for each constant.
pub fn check_values(program: &Program) -> Result<(), RunError> {
    let values = &program.const_values;
    let fits = values.len() == program.consts.len()
        && values
            .iter()
            .zip(&program.consts)
            .all(|(v, port)| Some(v.bytes().len() as u64) == byte_len(port.dtype, &port.shape));
    if fits { Ok(()) } else { broken("constants and their values differ") }
}

fn check_buffer(program: &Program, id: BufferId) -> Result<(), RunError> {
    let buffer = program.buffer(id);
    let Some(bytes) = byte_len(buffer.dtype, &buffer.shape) else {
        return broken(format!("buffer `{}` is larger than memory can be", buffer.name));
    };
    let port = |ports: &[Port], i: u32| match ports.get(i as usize) {
        Some(port) => byte_len(port.dtype, &port.shape).is_some_and(|n| bytes <= n),
        None => false,
    };
    let inside = match buffer.place {
        Place::Input(i) => port(&program.inputs, i),
        Place::Output(i) => port(&program.outputs, i),
        Place::State(i) => port(&program.states, i),
        Place::Const(i) => port(&program.consts, i),
        Place::Arena { offset } => {
            offset % 64 == 0
                && offset.checked_add(bytes).is_some_and(|end| end <= program.arena_bytes)
        }
    };
    if inside {
        Ok(())
    } else {
        broken(format!("buffer `{}` is not inside its memory", buffer.name))
    }
}

struct Flattener<'a> {
    program: &'a Program,
    out: Layout,
    depth: usize,
}

impl Flattener<'_> {
    /// `repeats`: the iterations of the enclosing repeats, each with the moves of its body so far.
    fn block(
        &mut self,
        block: &Block,
        repeats: &mut Vec<(u64, Vec<Move>)>,
    ) -> Result<(), RunError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return broken("repeats and branches nested too deep");
        }
        for step in block.waves.iter().flatten() {
            match step {
                Step::Launch(id) => self.launch(*id, repeats)?,
                // Arguments of what never runs may point nowhere.
                Step::Repeat { times: 0, .. } => {}
                Step::Repeat { times, body } => {
                    let at = self.out.steps.len();
                    self.out.steps.push(Flat::Repeat { times: *times, end: 0, moves: vec![] });
                    repeats.push((*times, vec![]));
                    self.block(body, repeats)?;
                    let moves = repeats.pop().map_or(vec![], |(_, moves)| moves);
                    let end = self.out.steps.len();
                    self.out.steps[at] = Flat::Repeat { times: *times, end, moves };
                }
                Step::Branch { cond, then, els } => self.branch(*cond, then, els, repeats)?,
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn branch(
        &mut self,
        cond: BufferId,
        then: &Block,
        els: &Block,
        repeats: &mut Vec<(u64, Vec<Move>)>,
    ) -> Result<(), RunError> {
        let buffer = self.program.buffers.get(cond.0 as usize);
        if !buffer.is_some_and(|b| b.dtype == DType::Bool && b.bytes() >= 1) {
            return broken("a branch by what is no bool");
        }
        let spot = self.spot(cond, 0);
        let at = self.out.steps.len();
        self.out.steps.push(Flat::Branch { cond: spot, els: 0, end: 0 });
        self.block(then, repeats)?;
        let middle = self.out.steps.len();
        self.block(els, repeats)?;
        let end = self.out.steps.len();
        self.out.steps[at] = Flat::Branch { cond: spot, els: middle, end };
        Ok(())
    }

    fn launch(&mut self, id: LaunchId, repeats: &mut [(u64, Vec<Move>)]) -> Result<(), RunError> {
        let program = self.program;
        let Some(launch) = program.launches.get(id.0 as usize) else {
            return broken(format!("there is no launch {}", id.0));
        };
        let Some(kernel) = program.kernels.get(launch.kernel.0 as usize) else {
            return broken(format!("there is no kernel {}", launch.kernel.0));
        };
        if launch.args.len() != kernel.params.len() {
            return broken(format!("launch {} passes the wrong number of arguments", id.0));
        }
        let args = self.out.spots.len();
        for (arg, param) in launch.args.iter().zip(&kernel.params) {
            let Some(buffer) = program.buffers.get(arg.buffer.0 as usize) else {
                return broken(format!("there is no buffer {}", arg.buffer.0));
            };
            let fault = |what: &str| broken(format!("launch {}, `{}`: {what}", id.0, param.name));
            let writes = param.access != Access::Read;
            if writes && matches!(buffer.place, Place::Input(_) | Place::Const(_)) {
                return fault("an input or a constant is written");
            }
            let size = param.elem.bytes() as i128;
            let aligned = |n: i128| n % size == 0;
            if arg.steps.len() > repeats.len() {
                return fault("more steps than enclosing repeats");
            }
            // The lowest and the highest offset over all iterations.
            let (mut low, mut high) = (arg.offset as i128, arg.offset as i128);
            for (step, (times, _)) in arg.steps.iter().zip(&*repeats) {
                let way = (*step as i128).saturating_mul(times.saturating_sub(1) as i128);
                low = low.saturating_add(way.min(0));
                high = high.saturating_add(way.max(0));
                if !aligned(*step as i128) {
                    return fault("a step inside an element");
                }
            }
            let end = high.saturating_add(param.len as i128 * size);
            if low < 0 || end > buffer.bytes() as i128 || !aligned(arg.offset as i128) {
                let (bytes, name) = (buffer.bytes(), &buffer.name);
                return fault(&format!("bytes {low}..{end} of `{name}`, which has {bytes}"));
            }
            let spot = self.spot(arg.buffer, arg.offset);
            for (step, (_, moves)) in arg.steps.iter().zip(&mut *repeats) {
                if *step != 0 {
                    moves.push(Move { spot, by: *step });
                }
            }
        }
        self.out.steps.push(Flat::Launch { id, args });
        Ok(())
    }

    fn spot(&mut self, buffer: BufferId, offset: u64) -> usize {
        let (memory, start) = match self.program.buffer(buffer).place {
            Place::Input(i) => (Memory::Input(i), 0),
            Place::Output(i) => (Memory::Output(i), 0),
            Place::State(i) => (Memory::State(i), 0),
            Place::Const(i) => (Memory::Const(i), 0),
            Place::Arena { offset } => (Memory::Arena, offset),
        };
        self.out.spots.push(Spot { memory, offset: start + offset });
        self.out.spots.len() - 1
    }
}
