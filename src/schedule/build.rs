//! From a fused graph to a Program.
//!
//! Every `do` node becomes a launch, `scan` a repeat, `cond` a branch. Values get buffers: results
//! of the model are written in place where that is possible, states are updated in their own bytes
//! where every reader of the old value comes first, and copies fill the gaps. Lifetimes follow
//! from the order; the arena's offsets come from `memory`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fusion::{GroupInfo, Mode, fuse};
use super::kernels::{self, Work};
use super::liveness::Liveness;
use super::memory::{self, Effort};
use super::order;
use super::program::*;
use crate::base::machine::{Extent, Machine};
use crate::base::{DType, FastMap, Tensor, TensorType};
use crate::ir::attr::Attr;
use crate::ir::graph::{Graph, NodeId, Value};
use crate::ir::op::{Class, OpError, RegionKind, Source};
use crate::kernel::generate::contract;
use crate::kernel::nest::Nest;

/// Assembles the program of a fused graph.
pub fn assemble(
    graph: &Graph,
    groups: &BTreeMap<NodeId, GroupInfo>,
    machine: &Machine,
    mode: Mode,
) -> Result<Assembled, OpError> {
    let mut a = Assembler {
        machine,
        mode,
        program: Program { name: graph.name.clone(), ..Program::default() },
        known: FastMap::default(),
        constants: vec![],
        live: Liveness::default(),
        producer: BTreeMap::new(),
        wave: 0,
    };
    let body = a.top(graph, groups)?;
    a.program.body = body;
    let constants = std::mem::take(&mut a.constants);
    Ok(Assembled { program: a.finish()?, constants })
}

pub struct Assembled {
    /// Without values of its constants.
    pub program: Program,
    /// Values of those entries of `program.consts` that are constants of the graph.
    pub constants: Vec<(usize, Tensor)>,
}

struct Assembler<'a> {
    machine: &'a Machine,
    mode: Mode,
    program: Program,
    /// Kernels that are already there, by their nest (without its name), and what made them.
    known: FastMap<Nest, (KernelId, &'static str, Option<Extent>)>,
    constants: Vec<(usize, Tensor)>,
    live: Liveness,
    /// The launches that wrote a buffer, for `depends_on`.
    producer: BTreeMap<BufferId, Vec<LaunchId>>,
    wave: u32,
}

/// Values of one block of the program.
#[derive(Clone, Default)]
struct Scope {
    at: BTreeMap<Value, Arg>,
    /// Where a value has to be written, if somebody wants it at a certain place.
    wanted: BTreeMap<Value, Arg>,
    /// Repeats around this block.
    depth: usize,
}

/// An argument with the type of the value in it.
type Typed = (Arg, TensorType);

fn extents(ty: &TensorType) -> Vec<usize> {
    ty.shape.concrete().expect("dimensions are bound before scheduling")
}

/// A value that is written once more, elsewhere.
#[derive(Clone)]
struct Copy {
    from: Arg,
    to: Arg,
    ty: TensorType,
}

impl Assembler<'_> {
    fn top(
        &mut self,
        graph: &Graph,
        groups: &BTreeMap<NodeId, GroupInfo>,
    ) -> Result<Block, OpError> {
        let mut scope = Scope::default();
        self.sources(graph, &mut scope);
        let work = self.work(graph);
        let waves = order::waves(graph, &work);
        let states = self.state_targets(graph, &waves, &mut scope);
        let outputs = self.outputs(graph, &mut scope);
        let mut block = self.block(graph, Some(groups), &waves, &mut scope)?;
        // What could not be written where it belongs is copied there.
        let mut copies = vec![];
        for (value, to) in outputs.into_iter().chain(states) {
            let from = scope.at[&value].clone();
            if from != to {
                copies.push(Copy { from, to, ty: graph.ty(value).clone() });
            }
        }
        for copy in self.without_clobbering(copies, &mut block)? {
            self.copy(&copy, &mut block)?;
        }
        Ok(block)
    }

    /// A copy into a state must not destroy what a later copy reads: such sources move first.
    fn without_clobbering(
        &mut self,
        copies: Vec<Copy>,
        block: &mut Block,
    ) -> Result<Vec<Copy>, OpError> {
        let mut out = vec![];
        for (i, copy) in copies.iter().enumerate() {
            let clobbered = copies[..i].iter().any(|c| c.to.buffer == copy.from.buffer);
            if !clobbered {
                out.push(copy.clone());
                continue;
            }
            let saved = Arg::whole(self.arena("saved", &copy.ty));
            self.copy(&Copy { to: saved.clone(), ..copy.clone() }, block)?;
            out.push(Copy { from: saved, ..copy.clone() });
        }
        Ok(out)
    }

    fn sources(&mut self, graph: &Graph, scope: &mut Scope) {
        let name = |id: NodeId| -> Arc<str> { graph.node(id).op.str("name").into() };
        for (i, id) in graph.inputs.iter().enumerate() {
            let port = self.port(name(*id), &graph.node(*id).results[0], Place::Input(i as u32));
            scope.at.insert(Value { node: *id, result: 0 }, Arg::whole(port.buffer));
            self.program.inputs.push(port);
        }
        for id in &graph.params {
            let place = Place::Const(self.program.consts.len() as u32);
            let port = self.port(name(*id), &graph.node(*id).results[0], place);
            scope.at.insert(Value { node: *id, result: 0 }, Arg::whole(port.buffer));
            self.program.consts.push(port);
        }
        for (i, s) in graph.states.iter().enumerate() {
            let ty = &graph.node(s.node).results[0];
            let port = self.port(name(s.node), ty, Place::State(i as u32));
            scope.at.insert(Value { node: s.node, result: 0 }, Arg::whole(port.buffer));
            self.program.states.push(port);
        }
        self.constants(graph, scope);
    }

    /// Constants of this graph that are read from memory.
    fn constants(&mut self, graph: &Graph, scope: &mut Scope) {
        for id in graph.ids() {
            let node = graph.node(id);
            let Class::Source(Source::Constant) = graph.class(id) else { continue };
            let Attr::Tensor(value) = node.op.attr("value") else { continue };
            let place = Place::Const(self.program.consts.len() as u32);
            let name: Arc<str> = format!("constant.{}", self.program.consts.len()).into();
            let port = self.port(name, &node.results[0], place);
            scope.at.insert(Value { node: id, result: 0 }, Arg::whole(port.buffer));
            self.program.consts.push(port);
            self.constants.push((self.program.consts.len() - 1, value.clone()));
        }
    }

    fn port(&mut self, name: Arc<str>, ty: &TensorType, place: Place) -> Port {
        let shape = ty.shape.concrete().expect("dimensions are bound before scheduling");
        let buffer = self.buffer(name.clone(), ty.dtype, shape.clone(), place);
        Port { name, dtype: ty.dtype, shape, buffer }
    }

    fn buffer(
        &mut self,
        name: Arc<str>,
        dtype: DType,
        shape: Vec<usize>,
        place: Place,
    ) -> BufferId {
        let id = BufferId(self.program.buffers.len() as u32);
        let (alias_of, first, last) = (None, 0, 0);
        self.program.buffers.push(Buffer { name, dtype, shape, place, alias_of, first, last });
        self.live.allocate(id);
        id
    }

    fn arena(&mut self, name: &str, ty: &TensorType) -> BufferId {
        let shape = ty.shape.concrete().expect("dimensions are bound before scheduling");
        self.buffer(name.into(), ty.dtype, shape, Place::Arena { offset: 0 })
    }

    /// Work of each step, to rank the steps by.
    fn work(&self, graph: &Graph) -> BTreeMap<NodeId, u64> {
        let bytes = |v: &Value| graph.ty(*v).bytes().unwrap_or(0);
        let of = |id: NodeId| {
            let node = graph.node(id);
            let moved: u64 = node.operands().iter().map(bytes).sum::<u64>()
                + node.results.iter().map(|t| t.bytes().unwrap_or(0)).sum::<u64>();
            let flops: u64 = node.regions.iter().map(kernels::graph_flops).sum();
            (id, moved.saturating_add(flops))
        };
        graph.ids().map(of).collect()
    }

    /// States whose next value may be written straight into their bytes, and those that need a
    /// copy at the end: all old values must have been read by then.
    fn state_targets(
        &mut self,
        graph: &Graph,
        waves: &[Vec<NodeId>],
        scope: &mut Scope,
    ) -> Vec<(Value, Arg)> {
        let wave_of: BTreeMap<NodeId, usize> = waves
            .iter()
            .enumerate()
            .flat_map(|(w, ids)| ids.iter().map(move |i| (*i, w)))
            .collect();
        let mut copies = vec![];
        for s in &graph.states {
            let old = Value { node: s.node, result: 0 };
            let target = scope.at[&old].clone();
            if s.next == old {
                continue;
            }
            let Some(&writer) = wave_of.get(&s.next.node) else {
                copies.push((s.next, target));
                continue;
            };
            let unique = graph.states.iter().filter(|o| o.next == s.next).count() == 1
                && !graph.outputs.iter().any(|o| o.value == s.next || o.value == old)
                && !graph.states.iter().any(|o| o.next == old);
            let readers = graph.users(s.node);
            let earlier = readers.iter().all(|(_, user, _)| {
                wave_of[user] < writer
                    || *user == s.next.node && kernels::in_place(graph, *user, s.next.result, old)
            });
            if unique && earlier {
                scope.wanted.insert(s.next, target);
            } else {
                copies.push((s.next, target));
            }
        }
        copies
    }

    fn outputs(&mut self, graph: &Graph, scope: &mut Scope) -> Vec<(Value, Arg)> {
        let mut copies = vec![];
        for (i, o) in graph.outputs.iter().enumerate() {
            let port = self.port(o.name.clone(), graph.ty(o.value), Place::Output(i as u32));
            let target = Arg::whole(port.buffer);
            self.program.outputs.push(port);
            let computed = !matches!(graph.class(o.value.node), Class::Source(_));
            if computed && !scope.wanted.contains_key(&o.value) {
                scope.wanted.insert(o.value, target.clone());
            }
            copies.push((o.value, target));
        }
        copies
    }

    /// The steps of a graph, wave by wave.
    fn block(
        &mut self,
        graph: &Graph,
        groups: Option<&BTreeMap<NodeId, GroupInfo>>,
        waves: &[Vec<NodeId>],
        scope: &mut Scope,
    ) -> Result<Block, OpError> {
        let mut block = Block::default();
        for wave in waves {
            let begin = self.program.launches.len() as u32;
            let mut steps = vec![];
            for id in wave {
                let before = block.waves.len();
                let step = self.step(graph, groups, *id, scope, &mut block)?;
                steps.push(step);
                // Copies that a step needs beforehand stand in waves of their own.
                debug_assert!(block.waves.len() == before || wave.len() == 1);
            }
            block.waves.push(steps);
            self.live.wave(begin, self.program.launches.len() as u32);
            self.wave += 1;
        }
        Ok(block)
    }

    fn step(
        &mut self,
        graph: &Graph,
        groups: Option<&BTreeMap<NodeId, GroupInfo>>,
        id: NodeId,
        scope: &mut Scope,
        block: &mut Block,
    ) -> Result<Step, OpError> {
        let node = graph.node(id);
        let args: Vec<Arg> = node.operands().iter().map(|v| scope.at[v].clone()).collect();
        let mut results = vec![];
        for (r, ty) in node.results.iter().enumerate() {
            let value = Value { node: id, result: r as u16 };
            let arg = match scope.wanted.get(&value) {
                Some(arg) => arg.clone(),
                None => {
                    let named = node.names.iter().find(|(i, _)| *i as usize == r);
                    let name = named.map_or_else(|| format!("%{}", id.0), |(_, n)| n.to_string());
                    Arg::whole(self.arena(&name, ty))
                }
            };
            scope.at.insert(value, arg.clone());
            results.push(arg);
        }
        match graph.class(id) {
            Class::Region(RegionKind::Scan { carries, sequences, reverse }) => {
                let scan = Scan { carries, sequences, reverse };
                let types = |v: &Value| graph.ty(*v).clone();
                let given = args.into_iter().zip(node.operands().iter().map(types)).collect();
                let made = results.into_iter().zip(node.results.iter().cloned()).collect();
                self.scan(&node.regions[0], scan, (given, made), scope.depth, block)
            }
            Class::Region(RegionKind::Cond) => {
                let then = self.branch(&node.regions[0], &args[1..], &results, scope.depth)?;
                let els = self.branch(&node.regions[1], &args[1..], &results, scope.depth)?;
                self.live.touch(args[0].buffer, self.program.launches.len() as u32);
                Ok(Step::Branch { cond: args[0].buffer, then, els })
            }
            _ => {
                let work = kernels::work(graph, id)?;
                let info = groups.and_then(|g| g.get(&id)).cloned();
                let info = info.unwrap_or_else(|| kernels::info(graph, id));
                Ok(Step::Launch(self.launch(work, info.ops, &args, &results)))
            }
        }
    }

    fn launch(
        &mut self,
        work: Work,
        ops: Vec<&'static str>,
        args: &[Arg],
        results: &[Arg],
    ) -> LaunchId {
        let id = LaunchId(self.program.launches.len() as u32);
        let (flops, bytes) = (work.flops, work.bytes);
        let (kernel, generator, product) = self.kernel(work);
        let all: Vec<Arg> = args.iter().chain(results).cloned().collect();
        let mut depends_on: Vec<LaunchId> =
            args.iter().filter_map(|a| self.producer.get(&a.buffer)).flatten().copied().collect();
        depends_on.sort();
        depends_on.dedup();
        depends_on.retain(|d| *d != id);
        for a in &all {
            self.live.touch(a.buffer, id.0);
        }
        for r in results {
            self.producer.entry(r.buffer).or_default().push(id);
        }
        let pairs = self.program.kernel(kernel).inplace.clone();
        for (out, input) in pairs {
            let (to, from) = (&all[out as usize], &all[input as usize]);
            if to.steps.is_empty() && from.steps.is_empty() && from.offset == 0 && to.offset == 0 {
                self.live.may_alias(to.buffer, from.buffer, id.0);
            }
        }
        self.program.launches.push(Launch {
            kernel,
            args: all,
            ops: ops.into_iter().map(Into::into).collect(),
            generator: generator.into(),
            queue: if self.machine.in_step() { Queue::Gpu } else { Queue::Cpu },
            wave: self.wave,
            depends_on,
            product,
            flops,
            bytes,
            // Ten FLOP and ten bytes a nanosecond: what one core of a common machine does.
            estimate_us: 0.1 + (flops as f64).max(bytes as f64) / 10_000.0,
        });
        id
    }

    /// A kernel's number, the generator that made it, and the product that it computes in tiles.
    fn kernel(&mut self, work: Work) -> (KernelId, &'static str, Option<Extent>) {
        if let Some(known) = work.key.as_ref().and_then(|k| self.known.get(k)) {
            return *known;
        }
        let id = KernelId(self.program.kernels.len() as u32);
        let product = work.key.as_ref().and_then(|nest| contract::extent(nest, self.machine));
        let (kernel, generator) = (work.build)(self.machine);
        self.program.scratch_per_worker =
            self.program.scratch_per_worker.max(kernel.scratch_bytes());
        self.program.kernels.push(kernel);
        if let Some(key) = work.key {
            self.known.insert(key, (id, generator, product));
        }
        (id, generator, product)
    }

    /// A launch that copies, in a wave of its own.
    fn copy(&mut self, Copy { from, to, ty }: &Copy, block: &mut Block) -> Result<(), OpError> {
        let work = kernels::copy(ty.dtype, extents(ty).iter().product());
        let begin = self.program.launches.len() as u32;
        let id =
            self.launch(work, vec!["copy"], std::slice::from_ref(from), std::slice::from_ref(to));
        block.waves.push(vec![Step::Launch(id)]);
        self.live.wave(begin, begin + 1);
        self.wave += 1;
        Ok(())
    }

    /// `scan`: carries live in buffers of their own; slices and stacked outputs are arguments that
    /// move on with each iteration.
    fn scan(
        &mut self,
        region: &Graph,
        scan: Scan,
        (given, made): (Vec<Typed>, Vec<Typed>),
        depth: usize,
        block: &mut Block,
    ) -> Result<Step, OpError> {
        let (init, rest) = given.split_at(scan.carries);
        let (sequences, captures) = rest.split_at(scan.sequences);
        let (carries, stacked) = made.split_at(scan.carries);
        for ((from, _), (to, ty)) in init.iter().zip(carries) {
            let (from, to, ty) = (from.clone(), to.clone(), ty.clone());
            self.copy(&Copy { from, to, ty }, block)?;
        }
        let first = sequences.first().or(stacked.first());
        let times = first.map_or(0, |(_, ty)| extents(ty)[0]) as u64;
        if times == 0 {
            return Ok(Step::Repeat { times, body: Block::default() });
        }
        // What is gone through may itself be a part of a buffer.
        let slice = |(whole, ty): &Typed| {
            let bytes: u64 =
                extents(ty)[1..].iter().product::<usize>() as u64 * ty.dtype.bytes() as u64;
            let mut steps = whole.steps.clone();
            steps.resize(depth, 0);
            let (offset, step) = match scan.reverse {
                true => (times.saturating_sub(1) * bytes, -(bytes as i64)),
                false => (0, bytes as i64),
            };
            steps.push(step);
            Arg { buffer: whole.buffer, offset: whole.offset + offset, steps }
        };
        let mut inner = Scope { depth: depth + 1, ..Scope::default() };
        let slices: Vec<Arg> = sequences.iter().map(slice).collect();
        let arg = |(arg, _): &'_ Typed| arg.clone();
        let (carries, captures): (Vec<Arg>, Vec<Arg>) =
            (carries.iter().map(arg).collect(), captures.iter().map(arg).collect());
        let given = carries.iter().chain(&slices).chain(&captures);
        for (id, arg) in region.inputs.iter().zip(given) {
            inner.at.insert(Value { node: *id, result: 0 }, arg.clone());
        }
        let targets: Vec<Arg> = stacked.iter().map(slice).collect();
        self.live.enter(self.program.launches.len() as u32);
        let mut body = self.body(region, &mut inner, scan.carries, &targets)?;
        let next = region.outputs[..scan.carries].iter().zip(&carries).map(|(o, to)| {
            let (from, ty) = (inner.at[&o.value].clone(), region.ty(o.value).clone());
            Copy { from, to: to.clone(), ty }
        });
        let copies = next.filter(|c| c.from != c.to).collect();
        for copy in self.without_clobbering(copies, &mut body)? {
            self.copy(&copy, &mut body)?;
        }
        for arg in carries.iter().chain(&slices).chain(&targets) {
            self.live.touch(arg.buffer, self.program.launches.len().saturating_sub(1) as u32);
        }
        self.live.leave(self.program.launches.len() as u32);
        Ok(Step::Repeat { times, body })
    }

    fn branch(
        &mut self,
        region: &Graph,
        captures: &[Arg],
        results: &[Arg],
        depth: usize,
    ) -> Result<Block, OpError> {
        let mut inner = Scope { depth, ..Scope::default() };
        for (id, arg) in region.inputs.iter().zip(captures) {
            inner.at.insert(Value { node: *id, result: 0 }, arg.clone());
        }
        self.live.enter(self.program.launches.len() as u32);
        let block = self.body(region, &mut inner, 0, results)?;
        self.live.leave(self.program.launches.len() as u32);
        Ok(block)
    }

    /// The body of a region; outputs from `skip` on are written to `targets`.
    fn body(
        &mut self,
        region: &Graph,
        scope: &mut Scope,
        skip: usize,
        targets: &[Arg],
    ) -> Result<Block, OpError> {
        let fused = fuse(region, self.mode)?;
        let graph = &fused.graph;
        let given: Vec<Arg> = region
            .inputs
            .iter()
            .map(|id| scope.at[&Value { node: *id, result: 0 }].clone())
            .collect();
        let mut inner = Scope { depth: scope.depth, ..Scope::default() };
        for (id, arg) in graph.inputs.iter().zip(given) {
            inner.at.insert(Value { node: *id, result: 0 }, arg);
        }
        self.constants(graph, &mut inner);
        let mut copies = vec![];
        for (o, target) in graph.outputs[skip..].iter().zip(targets) {
            let computed = !matches!(graph.class(o.value.node), Class::Source(_));
            let carried = graph.outputs[..skip].iter().any(|c| c.value == o.value);
            if computed && !carried && !inner.wanted.contains_key(&o.value) {
                inner.wanted.insert(o.value, target.clone());
            } else {
                copies.push((o.value, target.clone()));
            }
        }
        let waves = order::waves(graph, &self.work(graph));
        let mut block = self.block(graph, Some(&fused.groups), &waves, &mut inner)?;
        for (value, target) in copies {
            let (from, ty) = (inner.at[&value].clone(), graph.ty(value).clone());
            self.copy(&Copy { from, to: target, ty }, &mut block)?;
        }
        for (o, f) in region.outputs.iter().zip(&graph.outputs) {
            scope.at.insert(o.value, inner.at[&f.value].clone());
        }
        Ok(block)
    }

    /// Lifetimes, then offsets.
    fn finish(mut self) -> Result<Program, OpError> {
        let requests = self.live.requests(&mut self.program, self.machine);
        let plan = memory::plan(&requests, Effort::default())
            .map_err(|e| OpError::new("E0701", format!("the arena cannot be planned: {e}")))?;
        for spot in &plan.spots {
            let b = &mut self.program.buffers[spot.id.0 as usize];
            b.place = Place::Arena { offset: spot.offset };
            b.alias_of = spot.alias_of;
        }
        self.program.arena_bytes = plan.arena_bytes;
        self.program.max_live_bytes = plan.max_live_bytes;
        Ok(self.program)
    }
}

#[derive(Clone, Copy)]
struct Scan {
    carries: usize,
    sequences: usize,
    reverse: bool,
}
