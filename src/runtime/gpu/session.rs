//! One caller's buffers on a device.
//!
//! In: a Program's [`Dispatches`]. Buffers for all their memories, and the bind groups of all dispatches, are
//! made beforehand; a run encodes and submits them, one command buffer but where a branch has to see
//! what was computed. Nobody waits for the device but who reads a result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::device::Device;
use super::pipeline::Pipeline;
use super::timing::Clock;
use super::transfer;
use crate::base::codes::WRONG_MATRICES;
use crate::base::diag::Diagnostic;
use crate::base::machine::Tiles;
use crate::base::{DType, Tensor};
use crate::runtime::dispatch::{
    Action, Bound, Dispatch, Dispatches, Limits, ShaderId, bases_stride, port_bytes,
};
use crate::runtime::keep::Keep;
use crate::runtime::layout::check_values;
use crate::runtime::pack::{narrowed, widened};
use crate::runtime::{check_len, tensor_of};
use crate::schedule::program::{LaunchId, Port, Program};
use crate::target::wgsl::{Binding, Coop, Matmul, base_vectors};

/// A Program's shaders on a device.
pub struct Compiled {
    pub program: Arc<Program>,
    pub(super) device: Arc<Device>,
    dispatches: Dispatches,
    /// Of each shader.
    pipelines: Vec<Pipeline>,
    /// Whether shaders have f16.
    pub(super) half: bool,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

/// A part of a run.
enum Step {
    Dispatch { launch: LaunchId, shader: ShaderId, group: wgpu::BindGroup },
    Branch { cond: Bound, then: Vec<Step>, els: Vec<Step> },
}

pub struct Session {
    pub(super) compiled: Arc<Compiled>,
    /// Of each memory.
    pub(super) buffers: Vec<wgpu::Buffer>,
    steps: Vec<Step>,
    /// For inputs, the outputs that the next run copies into them first.
    carried: BTreeMap<usize, usize>,
    overhead: Option<Duration>,
}

pub(super) fn error(code: &'static str, message: impl Into<String>) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(code, None, message))
}

impl Compiled {
    /// What the driver compiles is kept for the next process, if somebody does. `tiles`: what was measured.
    pub fn new(
        program: Arc<Program>,
        device: Arc<Device>,
        (matmul, tiles): (Matmul, &Tiles),
        keep: Option<&dyn Keep>,
    ) -> Result<Compiled, Box<Diagnostic>> {
        check_values(&program).map_err(|e| Box::new(e.diagnostic()))?;
        let mut limits = device.allowed();
        (limits.features.matmul, limits.tiles) = (matmul, tiles.clone());
        if matmul == Matmul::Coop && limits.features.matrices.is_none() {
            let message =
                format!("the adapter `{}` has no cooperative matrices", device.adapter.name);
            let help = "`--gpu-matmul auto` uses them where there are some";
            return Err(Box::new(Diagnostic::error("E0868", None, message).help(help)));
        }
        let compiled = Compiled::within(program, device, &limits, keep)?;
        let wrong: Vec<Coop> =
            compiled.tiles().filter(|tile| !compiled.device.multiplies(*tile)).collect();
        if wrong.is_empty() {
            return Ok(compiled);
        }
        let Compiled { program, device, .. } = compiled;
        let name = &device.adapter.name;
        let message = format!("the cooperative matrices of the adapter `{name}` give wrong sums");
        if matmul == Matmul::Coop {
            return Err(Box::new(Diagnostic::error("E0868", None, message)));
        }
        limits.features.matrices = None;
        let note = "products are computed in tiles without them";
        let warning = Diagnostic::warning(WRONG_MATRICES, None, message).note(note);
        let compiled = Compiled::within(program, device, &limits, keep)?;
        Ok(Compiled { warnings: vec![warning], ..compiled })
    }

    /// Shaders that use what is allowed, untried.
    pub(super) fn within(
        program: Arc<Program>,
        device: Arc<Device>,
        limits: &Limits,
        keep: Option<&dyn Keep>,
    ) -> Result<Compiled, Box<Diagnostic>> {
        let dispatches = Dispatches::of(&program, limits)?;
        let cache = keep.and_then(|keep| device.cache(keep));
        let pipeline = |p| Pipeline::new(&device, p, cache.map(|c| &c.pipelines));
        let pipelines = dispatches.shaders.iter().map(pipeline).collect::<Result<_, _>>()?;
        if let (Some(cache), Some(keep)) = (cache, keep) {
            cache.store(keep);
        }
        let (half, warnings) = (limits.features.half, vec![]);
        Ok(Compiled { program, device, dispatches, pipelines, half, warnings })
    }

    /// The tiles of cooperative matrices that shaders use.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Coop> + '_ {
        self.dispatches.shaders.iter().filter_map(|p| p.shader.coop)
    }
}

impl Session {
    /// State starts as zeros.
    pub fn new(compiled: Arc<Compiled>) -> Result<Session, Box<Diagnostic>> {
        Session::sharing(compiled, &BTreeMap::new())
    }

    /// A session some of whose memories are there already.
    pub(super) fn sharing(
        compiled: Arc<Compiled>,
        shared: &BTreeMap<usize, wgpu::Buffer>,
    ) -> Result<Session, Box<Diagnostic>> {
        let Compiled { program, device, dispatches, .. } = &*compiled;
        let memories = dispatches.memories.iter().enumerate();
        let buffers = memories.map(|(i, (name, bytes))| match shared.get(&i) {
            Some(buffer) => Ok(buffer.clone()),
            None => create(device, name, *bytes),
        });
        let buffers = buffers.collect::<Result<Vec<_>, _>>()?;
        let first = buffers.len() - program.const_values.len();
        for (value, buffer) in program.const_values.iter().zip(&buffers[first..]) {
            write(&compiled, buffer, value.dtype(), value.bytes())?;
        }
        let steps = Binder::new(&compiled, &buffers)?.steps(&dispatches.actions)?;
        Ok(Session { compiled, buffers, steps, carried: BTreeMap::new(), overhead: None })
    }

    pub fn warnings(&self) -> &[Diagnostic] {
        &self.compiled.warnings
    }

    /// Gives the device one run of the Program.
    pub fn run(&mut self) -> Result<(), Box<Diagnostic>> {
        let start = Instant::now();
        let device = &self.compiled.device;
        let checked = device.checked(|| {
            let mut encoder = device.device.create_command_encoder(&Default::default());
            self.copy_carried(&mut encoder);
            self.encode(&self.steps, &mut encoder)?;
            device.queue.submit([encoder.finish()]);
            Ok(())
        });
        checked.map_err(failed).flatten()?;
        self.carried.clear();
        let branches = self.steps.iter().any(|step| matches!(step, Step::Branch { .. }));
        let launches = self.steps.len().max(1) as u32;
        self.overhead = (!branches).then(|| start.elapsed() / launches);
        Ok(())
    }

    /// What the last run cost its caller for each launch, until the device had them all. A branch waits for
    /// the device, so there is no such time.
    pub fn launch_overhead(&self) -> Option<Duration> {
        self.overhead
    }

    /// Returns when all runs are computed.
    pub fn wait(&self) -> Result<(), Box<Diagnostic>> {
        self.compiled.device.wait().map_err(failed)
    }

    /// Runs the Program once and says how long each launch took, in the order of execution. E0869 where the
    /// device has no clock.
    pub fn run_timed(
        &mut self,
        times: &mut Vec<(LaunchId, Duration)>,
    ) -> Result<(), Box<Diagnostic>> {
        let device = &self.compiled.device;
        let mut clock = Clock::new(device)?;
        let checked = device.checked(|| {
            self.copy_carried(&mut clock.encoder);
            self.encode_timed(&self.steps, &mut clock, times)?;
            clock.read(times)
        });
        checked.map_err(failed).flatten()?;
        self.carried.clear();
        Ok(())
    }

    /// Lets the next run read an output of the one before as an input, of the same type; a copy inside the
    /// device.
    pub fn carry(&mut self, output: usize, input: usize) {
        self.carried.insert(input, output);
    }

    fn copy_carried(&self, encoder: &mut wgpu::CommandEncoder) {
        let inputs = self.compiled.program.inputs.len();
        for (input, output) in &self.carried {
            let [to, from] = [1 + input, 1 + inputs + output].map(|at| &self.buffers[at]);
            encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        }
    }

    fn encode(
        &self,
        steps: &[Step],
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<(), Box<Diagnostic>> {
        let device = &self.compiled.device;
        let mut at = 0;
        while at < steps.len() {
            let until = steps[at..].iter().position(|a| matches!(a, Step::Branch { .. }));
            let until = until.map_or(steps.len(), |n| at + n);
            let mut pass = encoder.begin_compute_pass(&Default::default());
            let mut last = None;
            for step in &steps[at..until] {
                let Step::Dispatch { shader, group, .. } = step else { continue };
                self.dispatch(*shader, group, &mut last, &mut pass);
            }
            drop(pass);
            at = until;
            if let Some(Step::Branch { cond, then, els }) = steps.get(at) {
                let next = device.device.create_command_encoder(&Default::default());
                device.queue.submit([std::mem::replace(encoder, next).finish()]);
                self.encode(if self.is_taken(*cond)? { then } else { els }, encoder)?;
                at += 1;
            }
        }
        Ok(())
    }

    /// Each dispatch in a pass of its own.
    fn encode_timed(
        &self,
        steps: &[Step],
        clock: &mut Clock,
        times: &mut Vec<(LaunchId, Duration)>,
    ) -> Result<(), Box<Diagnostic>> {
        for step in steps {
            match step {
                Step::Dispatch { launch, shader, group } => {
                    if clock.is_full() {
                        clock.read(times)?;
                    }
                    self.dispatch(*shader, group, &mut None, &mut clock.pass(*launch));
                }
                Step::Branch { cond, then, els } => {
                    clock.read(times)?;
                    let taken = if self.is_taken(*cond)? { then } else { els };
                    self.encode_timed(taken, clock, times)?;
                }
            }
        }
        Ok(())
    }

    /// `last` is the shader of the dispatch before.
    fn dispatch(
        &self,
        shader: ShaderId,
        group: &wgpu::BindGroup,
        last: &mut Option<ShaderId>,
        pass: &mut wgpu::ComputePass,
    ) {
        let Compiled { pipelines, dispatches, .. } = &*self.compiled;
        if last.replace(shader) != Some(shader) {
            pass.set_pipeline(&pipelines[shader.0 as usize].pipeline);
        }
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups(dispatches.shader(shader).groups, 1, 1);
    }

    fn is_taken(&self, cond: Bound) -> Result<bool, Box<Diagnostic>> {
        Ok(self.read(cond)?.iter().any(|b| *b != 0))
    }

    /// Bytes of a buffer, as shaders stored them.
    fn read(&self, Bound { memory, offset, bytes }: Bound) -> Result<Vec<u8>, Box<Diagnostic>> {
        transfer::read(&self.compiled.device, &self.buffers[memory], offset, bytes)
    }

    /// Copies packed elements into an input.
    pub fn set_input(&mut self, i: usize, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        let port = &self.compiled.program.inputs[i];
        check_len("input", port, bytes.len()).map_err(|e| Box::new(e.diagnostic()))?;
        self.carried.remove(&i);
        write(&self.compiled, &self.buffers[1 + i], port.dtype, bytes)
    }

    pub fn set_state(&mut self, i: usize, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        let program = &self.compiled.program;
        let port = &program.states[i];
        check_len("state", port, bytes.len()).map_err(|e| Box::new(e.diagnostic()))?;
        let at = 1 + program.inputs.len() + program.outputs.len() + i;
        write(&self.compiled, &self.buffers[at], port.dtype, bytes)
    }

    /// A copy of an output.
    pub fn output_tensor(&self, i: usize) -> Result<Tensor, Box<Diagnostic>> {
        let program = &self.compiled.program;
        self.tensor(1 + program.inputs.len() + i, &program.outputs[i])
    }

    /// A copy of a state.
    pub fn state_tensor(&self, i: usize) -> Result<Tensor, Box<Diagnostic>> {
        let program = &self.compiled.program;
        let at = 1 + program.inputs.len() + program.outputs.len() + i;
        self.tensor(at, &program.states[i])
    }

    fn tensor(&self, buffer: usize, port: &Port) -> Result<Tensor, Box<Diagnostic>> {
        let half = self.compiled.half;
        let bytes = port_bytes(port, half);
        let bytes = self.read(Bound { memory: buffer, offset: 0, bytes })?;
        Ok(tensor_of(port, &narrowed(port.dtype, &bytes, half)))
    }
}

fn failed(e: String) -> Box<Diagnostic> {
    error("E0866", format!("the GPU: {e}"))
}

fn write(
    compiled: &Compiled,
    buffer: &wgpu::Buffer,
    dtype: DType,
    bytes: &[u8],
) -> Result<(), Box<Diagnostic>> {
    let Compiled { device, half, .. } = compiled;
    let bytes = widened(dtype, bytes, *half);
    let written = device.checked(|| device.queue.write_buffer(buffer, 0, &bytes));
    written.map_err(|e| error("E0866", format!("copying values to the GPU: {e}")))
}

fn create(device: &Device, name: &str, bytes: u64) -> Result<wgpu::Buffer, Box<Diagnostic>> {
    let usage = wgpu::BufferUsages::STORAGE
        | wgpu::BufferUsages::UNIFORM
        | wgpu::BufferUsages::COPY_DST
        | wgpu::BufferUsages::COPY_SRC;
    let descriptor = wgpu::BufferDescriptor {
        label: Some(name),
        size: bytes.next_multiple_of(16).max(16),
        usage,
        mapped_at_creation: false,
    };
    let made = device.checked(|| device.device.create_buffer(&descriptor));
    made.map_err(|e| error("E0865", format!("no memory for `{name}`, {bytes} bytes: {e}")))
}

/// Makes bind groups, in the order of the dispatches.
struct Binder<'a> {
    compiled: &'a Compiled,
    buffers: &'a [wgpu::Buffer],
    scratch: Vec<wgpu::Buffer>,
    /// The bases of all dispatches.
    bases: wgpu::Buffer,
    /// Bytes from those of one dispatch to those of the next.
    stride: u64,
    made: u64,
}

impl<'a> Binder<'a> {
    fn new(
        compiled: &'a Compiled,
        buffers: &'a [wgpu::Buffer],
    ) -> Result<Binder<'a>, Box<Diagnostic>> {
        let Compiled { device, dispatches, .. } = compiled;
        let stride = bases_stride(dispatches, &device.allowed());
        let mut all: Vec<i32> = vec![];
        in_order(&dispatches.actions, &mut |dispatch| {
            let from = all.len();
            all.extend(&dispatch.bases);
            all.resize(from + stride as usize / 4, 0);
        });
        let bases = create(device, "addresses", 4 * all.len() as u64)?;
        device.queue.write_buffer(&bases, 0, bytemuck::cast_slice(&all));
        let scratch = dispatches.scratch.iter().map(|n| create(device, "scratch", *n));
        let scratch = scratch.collect::<Result<_, _>>()?;
        Ok(Binder { compiled, buffers, scratch, bases, stride, made: 0 })
    }

    fn steps(&mut self, actions: &[Action]) -> Result<Vec<Step>, Box<Diagnostic>> {
        let step = |action: &Action| match action {
            Action::Dispatch(dispatch) => self.dispatch(dispatch),
            Action::Branch { cond, then, els } => {
                Ok(Step::Branch { cond: *cond, then: self.steps(then)?, els: self.steps(els)? })
            }
        };
        actions.iter().map(step).collect()
    }

    fn dispatch(&mut self, dispatch: &Dispatch) -> Result<Step, Box<Diagnostic>> {
        let Compiled { device, dispatches, pipelines, .. } = self.compiled;
        let shader = dispatch.shader;
        let prepared = dispatches.shader(shader);
        let mut params = dispatch.params.iter();
        let mut scratch = self.scratch.iter().zip(prepared.scratch());
        let entry = |(i, binding): (usize, &Binding)| {
            let (buffer, offset, size) = match binding {
                Binding::Param(_) => {
                    let bound = params.next().expect("one for each such binding");
                    (&self.buffers[bound.memory], bound.offset, bound.bytes)
                }
                Binding::Scratch { .. } => {
                    let (buffer, bytes) = scratch.next().expect("one for each such binding");
                    (buffer, 0, bytes)
                }
                Binding::Bases => {
                    let size = 16 * base_vectors(dispatch.bases.len()) as u64;
                    (&self.bases, self.made * self.stride, size)
                }
            };
            let size = wgpu::BufferSize::new(size);
            let bound = wgpu::BufferBinding { buffer, offset, size };
            let resource = wgpu::BindingResource::Buffer(bound);
            wgpu::BindGroupEntry { binding: i as u32, resource }
        };
        let entries: Vec<_> = prepared.shader.bindings.iter().enumerate().map(entry).collect();
        let descriptor = wgpu::BindGroupDescriptor {
            label: Some(&prepared.shader.name),
            layout: &pipelines[shader.0 as usize].layout,
            entries: &entries,
        };
        let group = device.checked(|| device.device.create_bind_group(&descriptor));
        let launch = dispatch.launch.0;
        let group = group.map_err(|e| error("E0866", format!("launch {launch}: {e}")))?;
        self.made += 1;
        Ok(Step::Dispatch { launch: dispatch.launch, shader, group })
    }
}

/// All dispatches in the order in which bind groups are made.
fn in_order(actions: &[Action], look: &mut dyn FnMut(&Dispatch)) {
    for action in actions {
        match action {
            Action::Dispatch(dispatch) => look(dispatch),
            Action::Branch { then, els, .. } => {
                in_order(then, look);
                in_order(els, look);
            }
        }
    }
}
