//! A Program as dispatches of compute shaders.
//!
//! In: a Program, whose constants need no values, and what an adapter allows. Out: [`Dispatches`]: shaders, the memories of a session,
//! and what each dispatch of a run binds, repeats written out. It is plain data: `gpu` executes it, and
//! `dlc emit wgsl --json` prints it.
//!
//! - The arena, and every input, output, state and constant, is a memory of its own. The arena keeps the
//!   offsets of the plan, times four where it holds elements of less than 32 bits.
//! - A binding begins at a multiple of what the adapter wants; the bases of a dispatch say how many
//!   elements behind that its parameters begin.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::layout::{Flat, Layout, Memory, Spot};
use crate::base::DType;
use crate::base::diag::Diagnostic;
use crate::kernel::ir::Kernel;
use crate::schedule::program::{Buffer, BufferId, KernelId, LaunchId, Place, Port, Program};
use crate::target::wgsl::{Binding, Features, Shader, base_vectors, shader, stored_bytes};

/// Dispatches of a run.
const MOST: usize = 1 << 20;
/// Bytes of scratch of all invocations of a dispatch, about.
const SCRATCH: u64 = 64 << 20;
/// Workgroups of a dispatch that fill any device.
const ENOUGH: u64 = 1 << 15;

/// What an adapter allows. The default is what every one does that offers WebGPU.
#[derive(Clone, Debug)]
pub struct Limits {
    pub features: Features,
    /// Bytes of a buffer.
    pub buffer: u64,
    /// Bytes of a storage binding.
    pub binding: u64,
    /// Storage bindings of a shader.
    pub bindings: u32,
    /// Bytes that bindings of storage begin at a multiple of.
    pub align: u64,
    /// The same of uniform bindings.
    pub uniform_align: u64,
    /// Workgroups along one axis.
    pub groups: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            features: Features::default(),
            buffer: 256 << 20,
            binding: 128 << 20,
            bindings: 8,
            align: 256,
            uniform_align: 256,
            groups: 65535,
        }
    }
}

/// A shader, and how many workgroups run it.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub shader: Shader,
    pub groups: u32,
}

/// Where elements of a memory are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// A place in [`Dispatches::memories`].
    pub memory: usize,
    /// In bytes.
    pub offset: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub struct Dispatch {
    pub launch: LaunchId,
    pub kernel: KernelId,
    /// Of each parameter of the kernel.
    pub params: Vec<Bound>,
    /// Elements from what is bound to the first one of each parameter.
    pub bases: Vec<i32>,
}

#[derive(Clone, Debug)]
pub enum Action {
    Dispatch(Dispatch),
    /// By the bool at a place of a memory.
    Branch {
        cond: Bound,
        then: Vec<Action>,
        els: Vec<Action>,
    },
}

#[derive(Clone, Debug)]
pub struct Dispatches {
    /// Of each kernel that has grid points.
    pub shaders: BTreeMap<KernelId, Prepared>,
    /// Names and bytes: the arena, then inputs, outputs, states, constants.
    pub memories: Vec<(String, u64)>,
    /// Bytes that shaders have for intermediate values: of their first such binding, of the second …
    pub scratch: Vec<u64>,
    pub actions: Vec<Action>,
}

fn error(code: &'static str, message: impl Into<String>) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(code, None, message))
}

impl Dispatches {
    /// E0862 where a kernel has no shader, E0863, E0865 and E0867 where the limits do not suffice.
    pub fn of(program: &Program, limits: &Limits) -> Result<Dispatches, Box<Diagnostic>> {
        let layout = Layout::of(program).map_err(|e| Box::new(e.diagnostic()))?;
        let aligned = aligned(program, &layout);
        let mut shaders = BTreeMap::new();
        for (i, kernel) in program.kernels.iter().enumerate().filter(|(_, k)| k.grid_points() > 0) {
            let shader = shader(kernel, limits.features, &aligned[&KernelId(i as u32)]);
            let shader = shader.map_err(|why| error("E0862", why.to_string()))?;
            shaders.insert(KernelId(i as u32), prepared(shader, limits)?);
        }
        let scratch = scratch_of(shaders.values());
        let memories = memories(program, limits)?;
        let spots = layout.spots.clone();
        let mut walk =
            Walk { program, limits, shaders: &shaders, steps: &layout.steps, spots, made: 0 };
        let actions = walk.over(0..layout.steps.len())?;
        Ok(Dispatches { shaders, memories, scratch, actions })
    }
}

fn prepared(shader: Shader, limits: &Limits) -> Result<Prepared, Box<Diagnostic>> {
    let storage = shader.bindings.len() as u32 - 1;
    if storage > limits.bindings {
        let (name, most) = (&shader.name, limits.bindings);
        let message = format!("kernel `{name}` takes {storage} buffers, the adapter allows {most}");
        return Err(error("E0863", message));
    }
    let room = match scratch(&shader).max().unwrap_or(0) {
        0 => ENOUGH,
        bytes => (SCRATCH / (bytes * shader.workgroup as u64)).max(1),
    };
    let groups = shader.groups.min(room).min(limits.groups as u64) as u32;
    Ok(Prepared { shader, groups })
}

/// Bytes that an invocation has in each of the shader's scratch bindings.
fn scratch(shader: &Shader) -> impl Iterator<Item = u64> + '_ {
    shader.bindings.iter().filter_map(|b| match b {
        Binding::Scratch { bytes } => Some(*bytes),
        Binding::Param(_) | Binding::Bases => None,
    })
}

impl Prepared {
    /// Bytes of each of its scratch bindings.
    pub fn scratch(&self) -> impl Iterator<Item = u64> + '_ {
        scratch(&self.shader).map(|bytes| bytes * self.groups as u64 * self.shader.workgroup as u64)
    }
}

/// The largest of what the shaders want, by the place among their scratch bindings.
fn scratch_of<'a>(shaders: impl Iterator<Item = &'a Prepared>) -> Vec<u64> {
    let mut sizes: Vec<u64> = vec![];
    for (i, bytes) in shaders.flat_map(|s| s.scratch().enumerate()) {
        sizes.resize(sizes.len().max(i + 1), 0);
        sizes[i] = sizes[i].max(bytes);
    }
    sizes
}

fn memories(program: &Program, limits: &Limits) -> Result<Vec<(String, u64)>, Box<Diagnostic>> {
    let ports = [&program.inputs, &program.outputs, &program.states, &program.consts];
    let mut all = vec![(
        "the arena".to_string(),
        program.arena_bytes * factor(program, limits.features.half),
    )];
    all.extend(
        ports
            .into_iter()
            .flatten()
            .map(|port| (port.name.to_string(), port_bytes(port, limits.features.half))),
    );
    match all.iter().find(|(_, bytes)| *bytes > limits.buffer) {
        None => Ok(all),
        Some((name, bytes)) => {
            let most = limits.buffer;
            let message =
                format!("`{name}` has {bytes} bytes, buffers of the adapter have at most {most}");
            Err(error("E0865", message))
        }
    }
}

/// Bytes that the elements of a port take in its memory.
pub fn port_bytes(port: &Port, half: bool) -> u64 {
    let elements: u64 = port.shape.iter().map(|d| *d as u64).product();
    elements * stored_bytes(port.dtype, half)
}

/// Bytes of the bases of a dispatch, from one to the next in a buffer with those of all.
pub fn bases_stride(dispatches: &Dispatches, limits: &Limits) -> u64 {
    let params = |p: &Prepared| p.shader.bindings.len();
    let most = dispatches.shaders.values().map(params).max().unwrap_or(0);
    (16 * base_vectors(most) as u64).next_multiple_of(limits.uniform_align)
}

/// How much larger the arena is than planned.
fn factor(program: &Program, half: bool) -> u64 {
    let in_arena = |b: &&Buffer| matches!(b.place, Place::Arena { .. });
    let of = |b: &Buffer| stored_bytes(b.dtype, half) / b.dtype.bytes() as u64;
    program.buffers.iter().filter(in_arena).map(of).max().unwrap_or(1)
}

/// Of each parameter of each kernel, whether it always begins where its buffer does, which is a multiple of
/// four elements.
fn aligned(program: &Program, layout: &Layout) -> BTreeMap<KernelId, Vec<bool>> {
    let kernels = program.kernels.iter().enumerate();
    let all = |(i, k): (usize, &Kernel)| (KernelId(i as u32), vec![true; k.params.len()]);
    let mut aligned: BTreeMap<KernelId, Vec<bool>> = kernels.map(all).collect();
    let moves = layout.steps.iter().flat_map(|step| match step {
        Flat::Repeat { moves, .. } => &moves[..],
        Flat::Launch { .. } | Flat::Branch { .. } => &[],
    });
    let moved: BTreeSet<usize> = moves.map(|m| m.spot).collect();
    for step in &layout.steps {
        let Flat::Launch { id, args: first } = step else { continue };
        let launch = program.launch(*id);
        let Some(params) = aligned.get_mut(&launch.kernel) else { continue };
        for (i, (param, arg)) in params.iter_mut().zip(&launch.args).enumerate() {
            let start = start(program, arg.buffer);
            let spot = first + i;
            *param &= layout.spots[spot].offset == start && !moved.contains(&spot);
        }
    }
    aligned
}

/// Where a buffer begins in its memory, in the plan's bytes.
fn start(program: &Program, buffer: BufferId) -> u64 {
    match program.buffer(buffer).place {
        Place::Arena { offset } => offset,
        Place::Input(_) | Place::Output(_) | Place::State(_) | Place::Const(_) => 0,
    }
}

struct Walk<'a> {
    program: &'a Program,
    limits: &'a Limits,
    shaders: &'a BTreeMap<KernelId, Prepared>,
    steps: &'a [Flat],
    /// As the iteration at hand has them.
    spots: Vec<Spot>,
    made: usize,
}

impl Walk<'_> {
    fn over(&mut self, steps: Range<usize>) -> Result<Vec<Action>, Box<Diagnostic>> {
        let mut actions = vec![];
        let mut at = steps.start;
        while at < steps.end {
            match &self.steps[at] {
                Flat::Launch { id, args } => {
                    actions.extend(self.launch(*id, *args)?.map(Action::Dispatch));
                    at += 1;
                }
                Flat::Repeat { times, end, moves } => {
                    let before = self.spots.clone();
                    for _ in 0..*times {
                        actions.extend(self.over(at + 1..*end)?);
                        for m in moves {
                            let offset = &mut self.spots[m.spot].offset;
                            *offset = offset.wrapping_add_signed(m.by);
                        }
                    }
                    (self.spots, at) = (before, *end);
                }
                Flat::Branch { cond, els, end } => {
                    let cond = self.condition(self.spots[*cond]);
                    let then = self.over(at + 1..*els)?;
                    actions.push(Action::Branch { cond, then, els: self.over(*els..*end)? });
                    at = *end;
                }
            }
        }
        Ok(actions)
    }

    fn condition(&self, spot: Spot) -> Bound {
        // A whole buffer: its elements are four times as far apart as its bytes.
        let scale = stored_bytes(DType::Bool, false) / DType::Bool.bytes() as u64;
        let memory = self.number(spot.memory);
        Bound { memory, offset: spot.offset * scale, bytes: stored_bytes(DType::Bool, false) }
    }

    /// A memory's place in the list of all.
    fn number(&self, memory: Memory) -> usize {
        let Program { inputs, outputs, states, .. } = self.program;
        match memory {
            Memory::Arena => 0,
            Memory::Input(i) => 1 + i as usize,
            Memory::Output(i) => 1 + inputs.len() + i as usize,
            Memory::State(i) => 1 + inputs.len() + outputs.len() + i as usize,
            Memory::Const(i) => 1 + inputs.len() + outputs.len() + states.len() + i as usize,
        }
    }

    /// Where elements lie that the plan has at a spot of a buffer, in bytes.
    fn place(&self, buffer: BufferId, dtype: DType, spot: Spot) -> u64 {
        let start = start(self.program, buffer);
        let element = (spot.offset - start) / dtype.bytes() as u64;
        start * factor(self.program, self.limits.features.half)
            + element * stored_bytes(dtype, self.limits.features.half)
    }

    /// Nothing where the kernel has no grid points.
    fn launch(&mut self, id: LaunchId, first: usize) -> Result<Option<Dispatch>, Box<Diagnostic>> {
        let launch = self.program.launch(id);
        if !self.shaders.contains_key(&launch.kernel) {
            return Ok(None);
        }
        self.made += 1;
        if self.made > MOST {
            return Err(error("E0867", format!("a run has more than {MOST} launches")));
        }
        let kernel = self.program.kernel(launch.kernel);
        let (mut params, mut bases) = (vec![], vec![]);
        for ((param, arg), spot) in kernel.params.iter().zip(&launch.args).zip(&self.spots[first..])
        {
            let at = self.place(arg.buffer, param.elem, *spot);
            let element_bytes = stored_bytes(param.elem, self.limits.features.half);
            let base = at % self.limits.align;
            let bytes = base + param.len.max(1) * element_bytes;
            if bytes > self.limits.binding {
                let (name, most) = (&param.name, self.limits.binding);
                let message = format!(
                    "`{name}` of kernel `{}` takes {bytes} bytes, the adapter binds at most {most}",
                    kernel.name
                );
                return Err(error("E0865", message));
            }
            params.push(Bound { memory: self.number(spot.memory), offset: at - base, bytes });
            bases.push((base / element_bytes) as i32);
        }
        Ok(Some(Dispatch { launch: id, kernel: launch.kernel, params, bases }))
    }
}
