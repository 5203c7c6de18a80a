//! Programs as machine code.
//!
//! An [`Executable`] holds a Program and its code; it is shared by threads. A [`Session`] holds the
//! buffers of one caller. All pointers that launches pass are computed when the session is made, so
//! [`Session::run`] allocates nothing, takes no lock, and costs a few nanoseconds for each launch.

use std::sync::Arc;
use std::time::Duration;

use super::buffer::RawBytes;
use super::execute::{Action, Hook, Machine, Observed, Plain, Share, Timed};
use super::layout::{Flat, Layout, Memory, byte_len, check_values};
use super::pool::{Pool, Sleepers};
use super::{RunError, check_len, tensor_of};
use crate::base::Tensor;
use crate::schedule::program::{BufferId, Launch, LaunchId, Port, Program};
use crate::target::Target;
use crate::target::cpu::{self, Code, CodegenError};

/// A compiled Program.
pub struct Executable {
    program: Arc<Program>,
    layout: Layout,
    code: Code,
}

impl Executable {
    /// Compiles the kernels of a Program for a target that runs here.
    pub fn compile(
        program: Arc<Program>,
        target: &Target,
        options: cpu::Options,
    ) -> Result<Executable, RunError> {
        let kernel = |e: &dyn std::fmt::Display| RunError::Kernel(e.to_string());
        target.check_runs_here().map_err(|e| kernel(&e.message))?;
        check_values(&program)?;
        let layout = Layout::of(&program)?;
        let code = cpu::compile(&program.kernels, target, options).map_err(|e| match e {
            CodegenError::Memory(_) => RunError::Code(e.to_string()),
            CodegenError::Target(_)
            | CodegenError::Unsupported { .. }
            | CodegenError::Backend { .. } => kernel(&e),
        })?;
        Ok(Executable { program, layout, code })
    }

    /// A Program with the code of its kernels, which need no bodies.
    ///
    /// # Safety
    /// Function `i` was compiled by dlc from the Program's kernel `i`, and runs on this machine.
    pub unsafe fn restore(
        program: Arc<Program>,
        target: &Target,
        functions: &[&[u8]],
        align: u64,
    ) -> Result<Executable, RunError> {
        check_values(&program)?;
        let layout = Layout::of(&program)?;
        if functions.len() != program.kernels.len() {
            return Err(RunError::Program("kernels and their functions differ".into()));
        }
        // SAFETY: the caller vouches for the functions.
        let code = unsafe { cpu::place(functions, align, target) };
        let code = code.map_err(|e| RunError::Kernel(e.to_string()))?;
        Ok(Executable { program, layout, code })
    }

    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Whether some launch is worth the work of several threads.
    pub fn is_shareable(&self) -> bool {
        self.program.launches.iter().any(|launch| {
            let points = self.program.kernel(launch.kernel).grid_points();
            points > 1 && work(launch) >= WORTH_SHARING
        })
    }

    /// Bytes of machine code.
    pub fn code_bytes(&self) -> usize {
        self.code.bytes()
    }

    /// The code of the kernels.
    pub fn code(&self) -> &Code {
        &self.code
    }
}

/// The least work of a launch that is shared by threads.
const WORTH_SHARING: u64 = 400_000;

/// The least work of a launch that sleeping threads are woken for.
const WORTH_WAKING: u64 = 4_000_000;
/// The least work that a thread takes at once.
const WORTH_TAKING: u64 = 100_000;

/// FLOP, or what moving the bytes takes the time of.
fn work(launch: &Launch) -> u64 {
    launch.flops.saturating_add(launch.bytes.saturating_mul(4))
}

/// Where an input's bytes are.
enum Input {
    Own(RawBytes),
    /// A tensor that was bound; the own bytes stay for later.
    Shared(Tensor, RawBytes),
}

/// The buffers of one caller, bound to a compiled Program.
pub struct Session {
    actions: Vec<Action>,
    /// Pointers that launches pass, then those of branches.
    table: Vec<*mut u8>,
    /// `(position in the table, bytes)` of all repeats, one after the other.
    moves: Vec<(usize, isize)>,
    /// For each input, the positions in the table that point into it, with their offsets.
    uses: Vec<Vec<(usize, usize)>>,
    inputs: Vec<Input>,
    outputs: Vec<RawBytes>,
    states: Vec<RawBytes>,
    arena: RawBytes,
    scratch: RawBytes,
    scratch_stride: usize,
    pool: Option<Arc<Pool>>,
    executable: Arc<Executable>,
}

// SAFETY: the pointers lead into memory that the session owns or keeps alive.
unsafe impl Send for Session {}

impl Session {
    /// A session for a single thread. State starts as zeros.
    pub fn new(executable: Arc<Executable>) -> Result<Session, RunError> {
        Session::with_pool(executable, None)
    }

    /// A session whose large launches are shared by the threads of a pool; results are the same.
    pub fn with_pool(
        executable: Arc<Executable>,
        pool: Option<Arc<Pool>>,
    ) -> Result<Session, RunError> {
        let program = executable.program.clone();
        let bytes_of = |port: &Port| {
            let bytes = byte_len(port.dtype, &port.shape).unwrap_or(u64::MAX);
            RawBytes::zeroed(bytes, &port.name)
        };
        let all = |ports: &[Port]| ports.iter().map(bytes_of).collect::<Result<Vec<_>, _>>();
        let threads = pool.as_ref().map_or(1, |p| p.threads());
        let stride = executable.layout.scratch.next_multiple_of(64);
        let scratch = stride.saturating_mul(threads as u64);
        let mut session = Session {
            actions: vec![],
            table: vec![],
            moves: vec![],
            uses: vec![vec![]; program.inputs.len()],
            inputs: all(&program.inputs)?.into_iter().map(Input::Own).collect(),
            outputs: all(&program.outputs)?,
            states: all(&program.states)?,
            arena: RawBytes::zeroed(program.arena_bytes, "the arena")?,
            scratch: RawBytes::zeroed(scratch, "scratch")?,
            scratch_stride: stride as usize,
            pool: pool.filter(|p| p.threads() > 1),
            executable,
        };
        session.bind();
        Ok(session)
    }

    /// Pointers and actions, from the layout.
    fn bind(&mut self) {
        let executable = self.executable.clone();
        let (program, layout) = (&executable.program, &executable.layout);
        for (i, spot) in layout.spots.iter().enumerate() {
            let start = match spot.memory {
                Memory::Arena => self.arena.pointer(),
                Memory::Input(n) => {
                    self.uses[n as usize].push((i, spot.offset as usize));
                    self.input_pointer(n as usize)
                }
                Memory::Output(n) => self.outputs[n as usize].pointer(),
                Memory::State(n) => self.states[n as usize].pointer(),
                Memory::Const(n) => program.const_values[n as usize].bytes().as_ptr().cast_mut(),
            };
            self.table.push(start.wrapping_add(spot.offset as usize));
        }
        for step in &layout.steps {
            let action = match step {
                Flat::Launch { id, args } => {
                    let launch = program.launch(*id);
                    let points = program.kernel(launch.kernel).grid_points();
                    let function = executable.code.function(launch.kernel.0 as usize);
                    let share = self.share(points, work(launch));
                    Action::Launch { function, args: *args, points, share, id: *id }
                }
                Flat::Repeat { times, end, moves } => {
                    let first = self.moves.len();
                    self.moves.extend(moves.iter().map(|m| (m.spot, m.by as isize)));
                    Action::Repeat { times: *times, end: *end, moves: first..self.moves.len() }
                }
                Flat::Branch { cond, els, end } => {
                    Action::Branch { cond: *cond, els: *els, end: *end }
                }
            };
            self.actions.push(action);
        }
    }

    /// How threads share so many points with so much work in all.
    fn share(&self, points: u64, work: u64) -> Share {
        let threads = self.pool.as_ref().map_or(1, |p| p.threads()) as u64;
        let chunk = match threads {
            2.. if work >= WORTH_SHARING => {
                points.div_ceil((work / WORTH_TAKING).clamp(threads, threads * 8)).max(1)
            }
            _ => points,
        };
        let sleepers = if work >= WORTH_WAKING { Sleepers::Wake } else { Sleepers::Leave };
        Share { chunk, sleepers }
    }

    /// Runs the Program once.
    pub fn run(&mut self) {
        self.execute(&mut Plain);
    }

    /// Runs the Program once and says how long each launch took, in the order of execution.
    pub fn run_timed(&mut self, times: &mut Vec<(LaunchId, Duration)>) {
        self.execute(&mut Timed { times });
    }

    /// Runs the Program once; after each launch, `look` sees each buffer that it wrote. Where it
    /// returns false, the run ends.
    pub fn run_observed(&mut self, look: &mut dyn FnMut(LaunchId, BufferId, &[u8]) -> bool) {
        let executable = self.executable.clone();
        self.execute(&mut Observed { program: &executable.program, look });
    }

    fn execute(&mut self, hook: &mut impl Hook) {
        let scratch = self.scratch.pointer();
        let mut machine = Machine {
            actions: &self.actions,
            table: &mut self.table,
            moves: &self.moves,
            scratch,
            stride: self.scratch_stride,
            pool: self.pool.as_deref(),
        };
        // Where a hook stops inside a repeat, the pointers are put back all the same.
        machine.steps(0, self.actions.len(), hook);
    }

    pub fn executable(&self) -> &Arc<Executable> {
        &self.executable
    }

    fn input_pointer(&self, i: usize) -> *mut u8 {
        match &self.inputs[i] {
            Input::Own(bytes) => bytes.pointer(),
            // Inputs are only read, as the layout has checked.
            Input::Shared(tensor, _) => tensor.bytes().as_ptr().cast_mut(),
        }
    }

    fn point_input(&mut self, i: usize) {
        let start = self.input_pointer(i);
        for (position, offset) in &self.uses[i] {
            self.table[*position] = start.wrapping_add(*offset);
        }
    }

    /// The session's own bytes of an input, to be filled in.
    pub fn input_mut(&mut self, i: usize) -> &mut [u8] {
        if let Input::Shared(..) = self.inputs[i] {
            let empty = Input::Own(RawBytes::zeroed(0, "nothing").expect("no memory is needed"));
            if let Input::Shared(_, own) = std::mem::replace(&mut self.inputs[i], empty) {
                self.inputs[i] = Input::Own(own);
            }
            self.point_input(i);
        }
        match &mut self.inputs[i] {
            Input::Own(own) | Input::Shared(_, own) => own.bytes_mut(),
        }
    }

    /// Copies packed elements into an input.
    pub fn set_input(&mut self, i: usize, bytes: &[u8]) -> Result<(), RunError> {
        check_len("input", &self.executable.program.inputs[i], bytes.len())?;
        self.input_mut(i).copy_from_slice(bytes);
        Ok(())
    }

    /// Lets runs read a tensor in place of the session's own bytes; nothing is copied.
    pub fn bind_input(&mut self, i: usize, tensor: Tensor) -> Result<(), RunError> {
        check_len("input", &self.executable.program.inputs[i], tensor.bytes().len())?;
        let empty = Input::Own(RawBytes::zeroed(0, "nothing")?);
        let own = match std::mem::replace(&mut self.inputs[i], empty) {
            Input::Own(own) | Input::Shared(_, own) => own,
        };
        self.inputs[i] = Input::Shared(tensor, own);
        self.point_input(i);
        Ok(())
    }

    /// The packed elements of an output, as the last run left them.
    pub fn output(&self, i: usize) -> &[u8] {
        self.outputs[i].bytes()
    }

    /// Copies an output into an input of the same type.
    pub fn carry(&mut self, output: usize, input: usize) {
        // The input's own bytes, now that nothing is shared.
        self.input_mut(input);
        let (Input::Own(own) | Input::Shared(_, own)) = &mut self.inputs[input];
        own.bytes_mut().copy_from_slice(self.outputs[output].bytes());
    }

    /// A copy of an output.
    pub fn output_tensor(&self, i: usize) -> Tensor {
        tensor_of(&self.executable.program.outputs[i], self.output(i))
    }

    /// The packed elements of a state.
    pub fn state(&self, i: usize) -> &[u8] {
        self.states[i].bytes()
    }

    /// A copy of a state.
    pub fn state_tensor(&self, i: usize) -> Tensor {
        tensor_of(&self.executable.program.states[i], self.state(i))
    }

    pub fn set_state(&mut self, i: usize, bytes: &[u8]) -> Result<(), RunError> {
        check_len("state", &self.executable.program.states[i], bytes.len())?;
        self.states[i].bytes_mut().copy_from_slice(bytes);
        Ok(())
    }

    /// All states to zeros.
    pub fn reset_states(&mut self) {
        self.states.iter_mut().for_each(|s| s.bytes_mut().fill(0));
    }
}
