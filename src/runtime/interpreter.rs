//! Programs through the kernel interpreter: slow, without machine code, and the measure of what
//! the emitters make. It has the methods of a machine-code session.

use std::sync::Arc;

use super::RunError;
use super::layout::{Flat, Layout, Memory, byte_len, check_values};
use crate::base::Tensor;
use crate::kernel::eval::{self, Slice};
use crate::kernel::ir::Access;
use crate::schedule::program::{BufferId, LaunchId, Port, Program};

/// The buffers of one caller.
pub struct Interpreter {
    program: Arc<Program>,
    layout: Layout,
    /// The arena, then inputs, outputs, states, constants.
    memories: Vec<Vec<u8>>,
    /// Where launches' arguments and branches' conditions are now.
    spots: Vec<Slice>,
}

impl Interpreter {
    /// State starts as zeros.
    pub fn new(program: Arc<Program>) -> Result<Interpreter, RunError> {
        check_values(&program)?;
        let layout = Layout::of(&program)?;
        let ports = [&program.inputs, &program.outputs, &program.states].into_iter().flatten();
        let mut memories = vec![zeros(program.arena_bytes, "the arena")?];
        for port in ports {
            let bytes = byte_len(port.dtype, &port.shape).unwrap_or(u64::MAX);
            memories.push(zeros(bytes, &port.name)?);
        }
        memories.extend(program.const_values.iter().map(|v| v.bytes().to_vec()));
        let mut out = Interpreter { program, layout, memories, spots: vec![] };
        let slice = |s: &super::layout::Spot| Slice {
            buffer: out.memory(s.memory),
            offset: s.offset as usize,
        };
        out.spots = out.layout.spots.iter().map(slice).collect();
        Ok(out)
    }

    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Runs the Program once.
    pub fn run(&mut self) -> Result<(), RunError> {
        self.run_observed(&mut |_, _, _| true)
    }

    /// Runs the Program once; after each launch, `look` sees each buffer that it wrote. Where it
    /// returns false, the run ends.
    pub fn run_observed(
        &mut self,
        look: &mut dyn FnMut(LaunchId, BufferId, &[u8]) -> bool,
    ) -> Result<(), RunError> {
        let home = self.spots.clone();
        let result = self.steps(0, self.layout.steps.len(), look);
        self.spots = home;
        result.map(|_| ())
    }

    fn steps(
        &mut self,
        mut at: usize,
        end: usize,
        look: &mut dyn FnMut(LaunchId, BufferId, &[u8]) -> bool,
    ) -> Result<bool, RunError> {
        while at < end {
            match self.layout.steps[at].clone() {
                Flat::Launch { id, args } => {
                    if !self.launch(id, args, look)? {
                        return Ok(false);
                    }
                    at += 1;
                }
                Flat::Repeat { times, end, moves } => {
                    for _ in 0..times {
                        if !self.steps(at + 1, end, look)? {
                            return Ok(false);
                        }
                        for m in &moves {
                            let offset = &mut self.spots[m.spot].offset;
                            *offset = offset.wrapping_add_signed(m.by as isize);
                        }
                    }
                    for m in &moves {
                        let back = (m.by as isize).wrapping_mul(times as isize);
                        let offset = &mut self.spots[m.spot].offset;
                        *offset = offset.wrapping_sub(back as usize);
                    }
                    at = end;
                }
                Flat::Branch { cond, els, end } => {
                    let Slice { buffer, offset } = self.spots[cond];
                    let taken = self.memories[buffer][offset] != 0;
                    let (from, to) = if taken { (at + 1, els) } else { (els, end) };
                    if !self.steps(from, to, look)? {
                        return Ok(false);
                    }
                    at = end;
                }
            }
        }
        Ok(true)
    }

    fn launch(
        &mut self,
        id: LaunchId,
        args: usize,
        look: &mut dyn FnMut(LaunchId, BufferId, &[u8]) -> bool,
    ) -> Result<bool, RunError> {
        let launch = self.program.launch(id);
        let kernel = self.program.kernel(launch.kernel);
        if kernel.grid_points() == 0 {
            return Ok(true);
        }
        let bind = &self.spots[args..args + kernel.params.len()];
        let mut memories: Vec<&mut [u8]> =
            self.memories.iter_mut().map(|m| m.as_mut_slice()).collect();
        eval::run(kernel, &mut memories, bind, 0..kernel.grid_points())
            .map_err(|fault| RunError::Kernel(fault.to_string()))?;
        for ((arg, param), spot) in launch.args.iter().zip(&kernel.params).zip(bind) {
            let bytes = param.len as usize * param.elem.bytes();
            let written = &self.memories[spot.buffer][spot.offset..][..bytes];
            if param.access != Access::Read && !look(id, arg.buffer, written) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn memory(&self, memory: Memory) -> usize {
        let (inputs, outputs) = (self.program.inputs.len(), self.program.outputs.len());
        match memory {
            Memory::Arena => 0,
            Memory::Input(i) => 1 + i as usize,
            Memory::Output(i) => 1 + inputs + i as usize,
            Memory::State(i) => 1 + inputs + outputs + i as usize,
            Memory::Const(i) => 1 + inputs + outputs + self.program.states.len() + i as usize,
        }
    }

    /// Copies packed elements into an input.
    pub fn set_input(&mut self, i: usize, bytes: &[u8]) -> Result<(), RunError> {
        let program = self.program.clone();
        self.fill(Memory::Input(i as u32), "input", &program.inputs[i], bytes)
    }

    pub fn set_state(&mut self, i: usize, bytes: &[u8]) -> Result<(), RunError> {
        let program = self.program.clone();
        self.fill(Memory::State(i as u32), "state", &program.states[i], bytes)
    }

    fn fill(
        &mut self,
        memory: Memory,
        what: &'static str,
        port: &Port,
        bytes: &[u8],
    ) -> Result<(), RunError> {
        super::check_len(what, port, bytes.len())?;
        let at = self.memory(memory);
        self.memories[at].copy_from_slice(bytes);
        Ok(())
    }

    /// The packed elements of an output, as the last run left them.
    pub fn output(&self, i: usize) -> &[u8] {
        &self.memories[self.memory(Memory::Output(i as u32))]
    }

    /// Copies an output into an input of the same type.
    pub fn carry(&mut self, output: usize, input: usize) {
        let [from, to] = [Memory::Output(output as u32), Memory::Input(input as u32)];
        let bytes = self.memories[self.memory(from)].clone();
        let to = self.memory(to);
        self.memories[to] = bytes;
    }

    /// A copy of an output.
    pub fn output_tensor(&self, i: usize) -> Tensor {
        super::tensor_of(&self.program.outputs[i], self.output(i))
    }

    /// The packed elements of a state.
    pub fn state(&self, i: usize) -> &[u8] {
        &self.memories[self.memory(Memory::State(i as u32))]
    }

    /// A copy of a state.
    pub fn state_tensor(&self, i: usize) -> Tensor {
        super::tensor_of(&self.program.states[i], self.state(i))
    }

    /// All states to zeros.
    pub fn reset_states(&mut self) {
        for i in 0..self.program.states.len() {
            let at = self.memory(Memory::State(i as u32));
            self.memories[at].fill(0);
        }
    }
}

fn zeros(bytes: u64, what: &str) -> Result<Vec<u8>, RunError> {
    let error = || RunError::Memory { what: what.into(), bytes };
    let len = usize::try_from(bytes).map_err(|_| error())?;
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| error())?;
    out.resize(len, 0);
    Ok(out)
}
