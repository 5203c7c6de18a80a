//! One caller's buffers on a device.
//!
//! Every input, output, state and constant is a buffer of its own, the arena is another one: with the
//! offsets of the plan, times four where it holds elements of less than 32 bits. Bind groups of
//! all launches are made beforehand, repeats written out; a run encodes and submits them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::device::Device;
use super::pack::{narrowed, widened};
use crate::base::diag::Diagnostic;
use crate::base::{DType, Tensor};
use crate::runtime::layout::Layout;
use crate::runtime::{check_len, tensor_of};
use crate::schedule::program::{
    Arg, Block, BufferId, KernelId, LaunchId, Place, Port, Program, Step,
};
use crate::target::wgsl::{Binding, Shader, WORKGROUP, base_vectors, shader, stored_bytes};

/// Launches of a run, repeats written out.
const MOST_LAUNCHES: usize = 1 << 20;
/// Bytes of scratch of all invocations of a launch, about.
const SCRATCH: u64 = 64 << 20;
/// Workgroups of a launch that fill any device.
const ENOUGH: u64 = 1 << 15;

struct Pipeline {
    shader: Shader,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    groups: u32,
}

/// A Program's shaders on a device.
pub struct Compiled {
    pub program: Arc<Program>,
    device: Arc<Device>,
    /// Of each kernel that has grid points.
    pipelines: BTreeMap<KernelId, Pipeline>,
}

/// A part of a run.
enum Action {
    Dispatch { kernel: KernelId, group: wgpu::BindGroup },
    Branch { cond: (usize, u64), then: Vec<Action>, els: Vec<Action> },
}

pub struct Session {
    compiled: Arc<Compiled>,
    /// The arena, then inputs, outputs, states, constants.
    buffers: Vec<wgpu::Buffer>,
    actions: Vec<Action>,
}

fn error(code: &'static str, message: impl Into<String>) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(code, None, message))
}

impl Compiled {
    pub fn new(program: Arc<Program>, device: Arc<Device>) -> Result<Compiled, Box<Diagnostic>> {
        // What a session relies on.
        Layout::of(&program).map_err(|e| Box::new(e.diagnostic()))?;
        let mut pipelines = BTreeMap::new();
        for (i, kernel) in program.kernels.iter().enumerate() {
            if kernel.grid_points() == 0 {
                continue;
            }
            let shader = shader(kernel, device.adapter.features)
                .map_err(|why| error("E0862", why.to_string()))?;
            pipelines.insert(KernelId(i as u32), pipeline(&device, shader)?);
        }
        Ok(Compiled { program, device, pipelines })
    }
}

fn pipeline(device: &Device, shader: Shader) -> Result<Pipeline, Box<Diagnostic>> {
    let storage = shader.bindings.len() as u32 - 1;
    if storage > device.adapter.bindings {
        let message = format!(
            "kernel `{}` takes {storage} buffers, the adapter allows {}",
            shader.name, device.adapter.bindings
        );
        return Err(error("E0863", message));
    }
    let scratch: u64 = shader
        .bindings
        .iter()
        .map(|b| match b {
            Binding::Scratch { bytes } => *bytes,
            Binding::Param(_) | Binding::Bases => 0,
        })
        .max()
        .unwrap_or(0);
    let room = match scratch {
        0 => ENOUGH,
        bytes => (SCRATCH / (bytes * WORKGROUP as u64)).max(1),
    };
    let limit = device.limits.max_compute_workgroups_per_dimension as u64;
    let groups = shader.points.div_ceil(WORKGROUP as u64).min(room).min(limit) as u32;
    let entry = |(i, binding): (usize, &Binding)| wgpu::BindGroupLayoutEntry {
        binding: i as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding {
                Binding::Bases => wgpu::BufferBindingType::Uniform,
                Binding::Param(_) | Binding::Scratch { .. } => {
                    wgpu::BufferBindingType::Storage { read_only: false }
                }
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = shader.bindings.iter().enumerate().map(entry).collect();
    let label = Some(&shader.name[..]);
    let made = device.checked(|| {
        let layout = device.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label,
            entries: &entries,
        });
        let of = device.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            ..wgpu::PipelineLayoutDescriptor::default()
        });
        let module = device.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label,
            source: wgpu::ShaderSource::Wgsl(shader.source.as_str().into()),
        });
        let pipeline = device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&of),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        (layout, pipeline)
    });
    let (layout, pipeline) =
        made.map_err(|e| error("E0864", format!("the shader of `{}`: {e}", shader.name)))?;
    Ok(Pipeline { shader, pipeline, layout, groups })
}

/// Where the parameters of a launch begin: a memory, and bytes from its start.
type Spots = Vec<(usize, u64)>;

/// What bind groups are made of.
struct Binder<'a> {
    compiled: &'a Compiled,
    buffers: &'a [wgpu::Buffer],
    scratch: Vec<wgpu::Buffer>,
    /// The launches in order of the bind groups to be, with their bases.
    bases: Vec<i32>,
    /// Of each launch: its place in `bases`.
    launches: usize,
    /// Bytes of the bases of a launch.
    stride: u64,
    uniform: Option<wgpu::Buffer>,
}

impl Session {
    /// State starts as zeros.
    pub fn new(compiled: Arc<Compiled>) -> Result<Session, Box<Diagnostic>> {
        let (program, device) = (&compiled.program, &compiled.device);
        let ports = [&program.inputs, &program.outputs, &program.states, &program.consts];
        let arena = program.arena_bytes * factor(program);
        let mut sizes = vec![("the arena".to_string(), arena)];
        for port in ports.into_iter().flatten() {
            sizes.push((port.name.to_string(), elements(port) * stored_bytes(port.dtype)));
        }
        let limit = device.limits.max_buffer_size;
        let mut buffers = vec![];
        for (name, bytes) in sizes {
            if bytes > limit {
                let message = format!("`{name}` has {bytes} bytes, the adapter allows {limit}");
                return Err(error("E0865", message));
            }
            buffers.push(create(device, &name, bytes)?);
        }
        let first = 1 + program.inputs.len() + program.outputs.len() + program.states.len();
        for (i, value) in program.const_values.iter().enumerate() {
            let bytes = widened(value.dtype(), value.bytes());
            device.queue.write_buffer(&buffers[first + i], 0, &bytes);
        }
        let actions = actions(&compiled, &buffers)?;
        Ok(Session { compiled, buffers, actions })
    }

    /// Runs the Program once.
    pub fn run(&mut self) -> Result<(), Box<Diagnostic>> {
        let device = &self.compiled.device;
        let checked = device.checked(|| {
            let mut encoder = device.device.create_command_encoder(&Default::default());
            self.encode(&self.actions, &mut encoder)?;
            device.queue.submit([encoder.finish()]);
            Ok(())
        });
        checked.map_err(|e| error("E0866", format!("the GPU: {e}")))?
    }

    fn encode(
        &self,
        actions: &[Action],
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<(), Box<Diagnostic>> {
        let device = &self.compiled.device;
        let mut at = 0;
        while at < actions.len() {
            let until = actions[at..].iter().position(|a| matches!(a, Action::Branch { .. }));
            let until = until.map_or(actions.len(), |n| at + n);
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for action in &actions[at..until] {
                let Action::Dispatch { kernel, group } = action else { continue };
                let pipeline = &self.compiled.pipelines[kernel];
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(pipeline.groups, 1, 1);
            }
            drop(pass);
            at = until;
            if let Some(Action::Branch { cond, then, els }) = actions.get(at) {
                let before = std::mem::replace(
                    encoder,
                    device.device.create_command_encoder(&Default::default()),
                );
                device.queue.submit([before.finish()]);
                let taken = self.read(cond.0, cond.1, 4)?.iter().any(|b| *b != 0);
                self.encode(if taken { then } else { els }, encoder)?;
                at += 1;
            }
        }
        Ok(())
    }

    /// Bytes of a buffer, as shaders stored them.
    fn read(&self, buffer: usize, offset: u64, bytes: u64) -> Result<Vec<u8>, Box<Diagnostic>> {
        if bytes == 0 {
            return Ok(vec![]);
        }
        let device = &self.compiled.device;
        let failed = |e: String| error("E0866", format!("reading results from the GPU: {e}"));
        let staging = device
            .checked(|| {
                let staging = device.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("results"),
                    size: bytes.next_multiple_of(4),
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                let mut encoder = device.device.create_command_encoder(&Default::default());
                let size = bytes.next_multiple_of(4);
                encoder.copy_buffer_to_buffer(&self.buffers[buffer], offset, &staging, 0, size);
                device.queue.submit([encoder.finish()]);
                staging
            })
            .map_err(failed)?;
        let (send, receive) = std::sync::mpsc::channel();
        staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            // The receiver waits below.
            let _ = send.send(result);
        });
        device.wait();
        match receive.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(failed(e.to_string())),
            Err(_) => return Err(failed("the device was lost".into())),
        }
        let mapped = staging.slice(..).get_mapped_range();
        let mapped = mapped.map_err(|e| failed(e.to_string()))?;
        Ok(mapped[..bytes as usize].to_vec())
    }

    /// Copies packed elements into an input.
    pub fn set_input(&mut self, i: usize, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        let port = &self.compiled.program.inputs[i];
        check_len("input", port, bytes.len()).map_err(|e| Box::new(e.diagnostic()))?;
        self.write(1 + i, port.dtype, bytes);
        Ok(())
    }

    pub fn set_state(&mut self, i: usize, bytes: &[u8]) -> Result<(), Box<Diagnostic>> {
        let program = &self.compiled.program;
        let port = &program.states[i];
        check_len("state", port, bytes.len()).map_err(|e| Box::new(e.diagnostic()))?;
        self.write(1 + program.inputs.len() + program.outputs.len() + i, port.dtype, bytes);
        Ok(())
    }

    fn write(&self, buffer: usize, dtype: DType, bytes: &[u8]) {
        let bytes = widened(dtype, bytes);
        self.compiled.device.queue.write_buffer(&self.buffers[buffer], 0, &bytes);
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
        let bytes = self.read(buffer, 0, elements(port) * stored_bytes(port.dtype))?;
        Ok(tensor_of(port, &narrowed(port.dtype, &bytes)))
    }
}

fn elements(port: &Port) -> u64 {
    port.shape.iter().map(|d| *d as u64).product()
}

/// How much larger the arena is than planned.
fn factor(program: &Program) -> u64 {
    let narrow = |b: &crate::schedule::program::Buffer| {
        matches!(b.place, Place::Arena { .. }) && b.dtype.bytes() < 4
    };
    if program.buffers.iter().any(narrow) { 4 } else { 1 }
}

fn create(device: &Device, name: &str, bytes: u64) -> Result<wgpu::Buffer, Box<Diagnostic>> {
    let made = device.checked(|| {
        device.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(name),
            size: bytes.next_multiple_of(16).max(16),
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_DST
                | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    });
    made.map_err(|e| error("E0865", format!("no memory for `{name}`, {bytes} bytes: {e}")))
}

/// All launches of a run, with their bind groups.
fn actions(compiled: &Compiled, buffers: &[wgpu::Buffer]) -> Result<Vec<Action>, Box<Diagnostic>> {
    let device = &compiled.device;
    let mut sizes: Vec<u64> = vec![];
    for pipeline in compiled.pipelines.values() {
        let scratch = pipeline.shader.bindings.iter().filter_map(|b| match b {
            Binding::Scratch { bytes } => Some(*bytes),
            Binding::Param(_) | Binding::Bases => None,
        });
        for (i, bytes) in scratch.enumerate() {
            let all = bytes * pipeline.groups as u64 * WORKGROUP as u64;
            match sizes.get_mut(i) {
                Some(size) => *size = all.max(*size),
                None => sizes.push(all),
            }
        }
    }
    let scratch =
        sizes.iter().map(|n| create(device, "scratch", *n)).collect::<Result<Vec<_>, _>>()?;
    let most = compiled.program.kernels.iter().map(|k| k.params.len()).max().unwrap_or(0);
    let align = device.limits.min_uniform_buffer_offset_alignment as u64;
    let stride = (16 * base_vectors(most) as u64).next_multiple_of(align);
    let mut binder =
        Binder { compiled, buffers, scratch, bases: vec![], launches: 0, stride, uniform: None };
    // Once for the bases, once for the bind groups, which need them in a buffer.
    binder.block(&compiled.program.body, &mut vec![])?;
    let bytes: Vec<u8> = binder.bases.iter().flat_map(|v| v.to_le_bytes()).collect();
    let uniform = device.checked(|| {
        device.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("bases"),
            size: (bytes.len() as u64).max(16),
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    });
    let uniform = uniform.map_err(|e| error("E0865", format!("no memory for addresses: {e}")))?;
    device.queue.write_buffer(&uniform, 0, &bytes);
    binder.uniform = Some(uniform);
    binder.launches = 0;
    binder.block(&compiled.program.body, &mut vec![])
}

impl Binder<'_> {
    fn block(
        &mut self,
        block: &Block,
        iterations: &mut Vec<u64>,
    ) -> Result<Vec<Action>, Box<Diagnostic>> {
        let mut actions = vec![];
        for step in block.waves.iter().flatten() {
            match step {
                Step::Launch(id) => actions.extend(self.launch(*id, iterations)?),
                Step::Repeat { times, body } => {
                    for i in 0..*times {
                        iterations.push(i);
                        actions.extend(self.block(body, iterations)?);
                        iterations.pop();
                    }
                }
                Step::Branch { cond, then, els } => {
                    let cond = self.start(*cond);
                    let then = self.block(then, iterations)?;
                    let els = self.block(els, iterations)?;
                    actions.push(Action::Branch { cond, then, els });
                }
            }
        }
        Ok(actions)
    }

    /// Where a buffer begins.
    fn start(&self, id: BufferId) -> (usize, u64) {
        let program = &self.compiled.program;
        let (inputs, outputs) = (program.inputs.len(), program.outputs.len());
        match program.buffer(id).place {
            Place::Arena { offset } => (0, offset * factor(program)),
            Place::Input(i) => (1 + i as usize, 0),
            Place::Output(i) => (1 + inputs + i as usize, 0),
            Place::State(i) => (1 + inputs + outputs + i as usize, 0),
            Place::Const(i) => (1 + inputs + outputs + program.states.len() + i as usize, 0),
        }
    }

    fn spots(&self, args: &[Arg], dtypes: &[DType], iterations: &[u64]) -> Spots {
        let spot = |(arg, dtype): (&Arg, &DType)| {
            let (memory, start) = self.start(arg.buffer);
            let moved = arg.steps.iter().zip(iterations).map(|(step, i)| step * *i as i64);
            let offset = arg.offset as i64 + moved.sum::<i64>();
            let element = offset as u64 / dtype.bytes() as u64;
            (memory, start + element * stored_bytes(*dtype))
        };
        args.iter().zip(dtypes).map(spot).collect()
    }

    /// Of a launch with anything to do.
    fn launch(
        &mut self,
        id: LaunchId,
        iterations: &[u64],
    ) -> Result<Option<Action>, Box<Diagnostic>> {
        let compiled = self.compiled;
        let launch = compiled.program.launch(id);
        let Some(pipeline) = compiled.pipelines.get(&launch.kernel) else { return Ok(None) };
        let params = &compiled.program.kernel(launch.kernel).params;
        let dtypes: Vec<DType> = params.iter().map(|p| p.elem).collect();
        let spots = self.spots(&launch.args, &dtypes, iterations);
        let limits = &compiled.device.limits;
        let align = limits.min_storage_buffer_offset_alignment as u64;
        self.launches += 1;
        if self.launches > MOST_LAUNCHES {
            let message = format!("a run has more than {MOST_LAUNCHES} launches");
            return Err(error("E0867", message));
        }
        let Some(uniform) = &self.uniform else {
            let bases = spots
                .iter()
                .zip(&dtypes)
                .map(|((_, at), dtype)| ((at % align) / stored_bytes(*dtype)) as i32);
            let from = self.bases.len();
            self.bases.extend(bases);
            self.bases.resize(from + self.stride as usize / 4, 0);
            return Ok(None);
        };
        let mut entries = vec![];
        let mut scratch = 0;
        for (i, binding) in pipeline.shader.bindings.iter().enumerate() {
            let (buffer, offset, size) = match binding {
                Binding::Param(p) => {
                    let (memory, at) = spots[*p as usize];
                    let param = &params[*p as usize];
                    let base = at % align;
                    let size = base + param.len.max(1) * stored_bytes(param.elem);
                    if size > limits.max_storage_buffer_binding_size {
                        let message = format!(
                            "`{}` of kernel `{}` takes {size} bytes, the adapter binds at most {}",
                            param.name,
                            pipeline.shader.name,
                            limits.max_storage_buffer_binding_size
                        );
                        return Err(error("E0865", message));
                    }
                    (&self.buffers[memory], at - base, size.next_multiple_of(4))
                }
                Binding::Scratch { bytes } => {
                    let size = bytes * pipeline.groups as u64 * WORKGROUP as u64;
                    scratch += 1;
                    (&self.scratch[scratch - 1], 0, size)
                }
                Binding::Bases => {
                    let size = 16 * base_vectors(params.len()) as u64;
                    (uniform, (self.launches as u64 - 1) * self.stride, size)
                }
            };
            let size = wgpu::BufferSize::new(size);
            let resource =
                wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size });
            entries.push(wgpu::BindGroupEntry { binding: i as u32, resource });
        }
        let group = compiled.device.checked(|| {
            compiled.device.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.layout,
                entries: &entries,
            })
        });
        let group = group.map_err(|e| error("E0866", format!("launch {}: {e}", id.0)))?;
        Ok(Some(Action::Dispatch { kernel: launch.kernel, group }))
    }
}
