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
//! - Bindings of a dispatch do not overlap, as WebGPU wants of what may be written: parameters whose bytes
//!   would are in one. Those have elements of one type, since buffers of the arena begin at multiples of
//!   [`BINDING`], and one that takes another's bytes over has its type.

use std::collections::BTreeMap;
use std::ops::Range;

use super::layout::{Flat, Layout, Memory, Spot};
use crate::base::DType;
use crate::base::diag::Diagnostic;
use crate::base::machine::Tiles;
use crate::kernel::ir::Param;
use crate::schedule::memory::BINDING;
use crate::schedule::program::{Buffer, BufferId, KernelId, LaunchId, Place, Port, Program};
use crate::target::wgsl::{
    Arguments, Binding, Features, Shader, base_vectors, shader, stored_bytes,
};

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
    /// Of products, where some were measured.
    pub tiles: Tiles,
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
            tiles: Tiles::default(),
            buffer: 256 << 20,
            binding: 128 << 20,
            bindings: 8,
            align: BINDING,
            uniform_align: 256,
            groups: 65535,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ShaderId(pub u32);

/// A shader, and how many workgroups run it.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub kernel: KernelId,
    pub arguments: Arguments,
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
    pub shader: ShaderId,
    /// Of each binding of parameters.
    pub params: Vec<Bound>,
    /// Of each parameter of the kernel: elements from what is bound to its first one.
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
    /// In the order of their first dispatch.
    pub shaders: Vec<Prepared>,
    /// Names, and bytes in whole vectors: the arena, then inputs, outputs, states, constants.
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
        let memories = memories(program, limits)?;
        let (spots, shaders, known) = (layout.spots.clone(), vec![], BTreeMap::new());
        let mut walk =
            Walk { program, limits, shaders, known, steps: &layout.steps, spots, made: 0 };
        let actions = walk.over(0..layout.steps.len())?;
        let shaders = walk.shaders;
        let scratch = scratch_of(shaders.iter());
        Ok(Dispatches { shaders, memories, scratch, actions })
    }

    pub fn shader(&self, id: ShaderId) -> &Prepared {
        &self.shaders[id.0 as usize]
    }
}

fn prepared(
    program: &Program,
    id: KernelId,
    arguments: Arguments,
    limits: &Limits,
) -> Result<Prepared, Box<Diagnostic>> {
    let shader = shader(program.kernel(id), &arguments, limits.features, &limits.tiles);
    let shader = shader.map_err(|why| error("E0862", why.to_string()))?;
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
    Ok(Prepared { kernel: id, arguments, shader, groups })
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
    let half = limits.features.half;
    let mut all = vec![("the arena".to_string(), program.arena_bytes * factor(program, half))];
    let port = |port: &Port| (port.name.to_string(), port_bytes(port, half));
    all.extend(ports.into_iter().flatten().map(port));
    for (_, bytes) in &mut all {
        *bytes = bytes.next_multiple_of(16).max(16);
    }
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
    let params = |p: &Prepared| p.arguments.shared.len();
    let most = dispatches.shaders.iter().map(params).max().unwrap_or(0);
    (16 * base_vectors(most) as u64).next_multiple_of(limits.uniform_align)
}

/// How much larger the arena is than planned.
fn factor(program: &Program, half: bool) -> u64 {
    let in_arena = |b: &&Buffer| matches!(b.place, Place::Arena { .. });
    let of = |b: &Buffer| stored_bytes(b.dtype, half) / b.dtype.bytes() as u64;
    program.buffers.iter().filter(in_arena).map(of).max().unwrap_or(1)
}

struct Walk<'a> {
    program: &'a Program,
    limits: &'a Limits,
    shaders: Vec<Prepared>,
    known: BTreeMap<(KernelId, Arguments), ShaderId>,
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
        let start = match self.program.buffer(buffer).place {
            Place::Arena { offset } => offset,
            Place::Input(_) | Place::Output(_) | Place::State(_) | Place::Const(_) => 0,
        };
        let element = (spot.offset - start) / dtype.bytes() as u64;
        start * factor(self.program, self.limits.features.half)
            + element * stored_bytes(dtype, self.limits.features.half)
    }

    /// Nothing where the kernel has no grid points.
    fn launch(&mut self, id: LaunchId, first: usize) -> Result<Option<Dispatch>, Box<Diagnostic>> {
        let launch = self.program.launch(id);
        let kernel = self.program.kernel(launch.kernel);
        if kernel.grid_points() == 0 {
            return Ok(None);
        }
        self.made += 1;
        if self.made > MOST {
            return Err(error("E0867", format!("a run has more than {MOST} launches")));
        }
        let (mut bounds, mut starts) = (vec![], vec![]);
        for ((param, arg), spot) in kernel.params.iter().zip(&launch.args).zip(&self.spots[first..])
        {
            let at = self.place(arg.buffer, param.elem, *spot);
            let element_bytes = stored_bytes(param.elem, self.limits.features.half);
            let base = at % self.limits.align;
            // To the end of a word, as bindings end.
            let bytes = (base + param.len.max(1) * element_bytes).next_multiple_of(4);
            bounds.push(Bound { memory: self.number(spot.memory), offset: at - base, bytes });
            starts.push(at);
        }
        let shared = share(&mut bounds);
        for (param, bound) in kernel.params.iter().zip(&bounds) {
            if bound.bytes > self.limits.binding {
                let (name, bytes, most) = (&param.name, bound.bytes, self.limits.binding);
                let message = format!(
                    "`{name}` of kernel `{}` takes {bytes} bytes, the adapter binds at most {most}",
                    kernel.name
                );
                return Err(error("E0865", message));
            }
        }
        let base = |((at, bound), param): ((&u64, &Bound), &Param)| {
            ((at - bound.offset) / stored_bytes(param.elem, self.limits.features.half)) as i32
        };
        let bases: Vec<i32> = starts.iter().zip(&bounds).zip(&kernel.params).map(base).collect();
        let firsts = shared.iter().enumerate().filter(|(i, first)| *i == **first as usize);
        let params = firsts.map(|(i, _)| bounds[i]).collect();
        let aligned = bases.iter().map(|base| base % 4 == 0).collect();
        let shader = self.shader(launch.kernel, Arguments { shared, aligned })?;
        Ok(Some(Dispatch { launch: id, shader, params, bases }))
    }

    fn shader(
        &mut self,
        kernel: KernelId,
        arguments: Arguments,
    ) -> Result<ShaderId, Box<Diagnostic>> {
        let key = (kernel, arguments);
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let id = ShaderId(self.shaders.len() as u32);
        self.shaders.push(prepared(self.program, kernel, key.1.clone(), self.limits)?);
        self.known.insert(key, id);
        Ok(id)
    }
}

/// Of each parameter the first one that is in the same binding. Bounds that overlap become one, so that
/// those that are left do not.
fn share(bounds: &mut [Bound]) -> Vec<u16> {
    let mut first: Vec<u16> = (0..bounds.len() as u16).collect();
    loop {
        let pairs = (0..bounds.len()).flat_map(|i| (0..i).map(move |j| (j, i)));
        let apart = |(j, i): &(usize, usize)| first[*i] != first[*j];
        let Some((j, i)) = pairs.filter(apart).find(|(j, i)| bounds[*j].overlaps(bounds[*i]))
        else {
            return first;
        };
        let (into, from) = (first[i].min(first[j]), first[i].max(first[j]));
        let both = bounds[i].with(bounds[j]);
        for (of, bound) in first.iter_mut().zip(&mut *bounds) {
            if *of == into || *of == from {
                (*of, *bound) = (into, both);
            }
        }
    }
}

impl Bound {
    fn end(self) -> u64 {
        self.offset + self.bytes
    }

    fn overlaps(self, other: Bound) -> bool {
        self.memory == other.memory && self.offset < other.end() && other.offset < self.end()
    }

    /// What begins with the first of both and ends with the last.
    fn with(self, other: Bound) -> Bound {
        let offset = self.offset.min(other.offset);
        let bytes = self.end().max(other.end()) - offset;
        Bound { memory: self.memory, offset, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(of: &[(usize, u64, u64)]) -> Vec<Bound> {
        of.iter().map(|&(memory, offset, bytes)| Bound { memory, offset, bytes }).collect()
    }

    #[test]
    fn what_overlaps_is_one_binding() {
        // A whole, a part of it, another memory, what begins where the whole ends.
        let mut of = bounds(&[(0, 256, 512), (0, 512, 16), (1, 256, 512), (0, 768, 4)]);
        assert_eq!(share(&mut of), [0, 0, 2, 3]);
        assert_eq!(of, bounds(&[(0, 256, 512), (0, 256, 512), (1, 256, 512), (0, 768, 4)]));
        // Two that only a third one joins.
        let mut of = bounds(&[(0, 0, 260), (0, 512, 8), (0, 256, 264)]);
        assert_eq!(share(&mut of), [0, 0, 0]);
        assert_eq!(of, bounds(&[(0, 0, 520); 3]));
        assert!(share(&mut []).is_empty());
    }
}
