//! What a unit takes on each queue, in microseconds, roughly.
//!
//! A queue computes so many FLOP and moves so many bytes a microsecond, and takes some time for each
//! launch; a value that changes queues takes a latency and its bytes. The figures are of kinds of
//! machines, not of single ones, so that a model is split alike wherever it is compiled for the same
//! kind:
//!
//! - a core: two vector multiply-adds a cycle at 3 GHz, half of which code reaches; memory at
//!   10 GB/s;
//! - a GPU on its own board: 10 TFLOP/s, of which shaders are taken to reach a tenth until some GPU has
//!   been measured; memory at 400 GB/s; 5 µs a launch; PCIe at 12 GB/s and 20 µs a transfer;
//! - a GPU in the processor: 1 TFLOP/s, of which they reach as much; memory at 40 GB/s, which it
//!   shares, and 10 µs a transfer.

use super::number;
use super::units::{Unit, Units};
use crate::base::DType;
use crate::base::machine::{Isa, Machine};
use crate::ir::graph::{Graph, NodeId, Value};
use crate::ir::op::{Class, RegionKind, Source};
use crate::pass::{Control, Step};
use crate::schedule::kernels::node_flops;
use crate::schedule::program::Queue;

/// How a GPU is built in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accelerator {
    /// On its own board, with memory of its own.
    Discrete,
    /// In the processor, with whose memory it works.
    Integrated,
}

/// Types that the GPU computes with beside those of 32 bits and less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abilities {
    pub int64: bool,
    pub float64: bool,
}

/// What a queue does in a microsecond.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Speed {
    pub flops: f64,
    pub bytes: f64,
    pub launch_us: f64,
    /// Elements that have to be computed at a time for it to be that fast.
    pub lanes: f64,
    /// FLOP that are worth one more thread; below, one thread computes.
    pub share: f64,
}

/// What the queues and the way between them take.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Costs {
    /// By the number of the queue.
    pub speeds: [Speed; 2],
    /// A transfer, before its first byte.
    pub latency_us: f64,
    /// Bytes of a transfer in a microsecond.
    pub link: f64,
    pub abilities: Abilities,
}

/// FLOP on each thread that make up for waking it.
const SHARE: f64 = 100_000.0;
/// Of what a GPU can do, what our shaders are taken to reach.
const REACHED: f64 = 0.1;

impl Costs {
    pub fn of(machine: &Machine, threads: usize, gpu: Accelerator, abilities: Abilities) -> Costs {
        let fused = if machine.isa == Isa::X86_64 { 1.0 } else { 2.0 };
        let lanes = machine.vector_bytes as f64 / 4.0;
        let core = 0.5 * 2.0 * fused * lanes * 3_000.0;
        let threads = threads.max(1) as f64;
        let cpu = Speed {
            flops: core * threads,
            bytes: 10_000.0,
            launch_us: 0.5,
            lanes: threads,
            share: SHARE,
        };
        let (gpu, latency_us, link) = match gpu {
            Accelerator::Discrete => (board(1e7, 4e5, 16_384.0), 20.0, 12_000.0),
            Accelerator::Integrated => (board(1e6, 4e4, 2_048.0), 10.0, 40_000.0),
        };
        Costs { speeds: [cpu, gpu], latency_us, link, abilities }
    }

    /// Microseconds of a launch, on its own and with enough to do.
    pub fn launch(&self, queue: Queue, flops: u64, bytes: u64) -> f64 {
        let speed = &self.speeds[number(queue)];
        speed.launch_us + (flops as f64 / speed.flops).max(bytes as f64 / speed.bytes)
    }

    /// Microseconds to move a value to the other queue.
    pub fn transfer(&self, bytes: u64) -> f64 {
        self.latency_us + bytes as f64 / self.link
    }
}

fn board(flops: f64, bytes: f64, lanes: f64) -> Speed {
    Speed { flops: flops * REACHED, bytes, launch_us: 5.0, lanes, share: 0.0 }
}

/// What a launch, or a part of one, does.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Work {
    launches: f64,
    flops: f64,
    bytes: f64,
    /// Elements that can be computed side by side.
    wide: f64,
    /// Executions.
    times: f64,
}

impl Work {
    fn on(&self, speed: &Speed) -> f64 {
        let filled = (self.wide / speed.lanes).clamp(1.0 / speed.lanes, 1.0);
        let shared = match speed.share > 0.0 {
            true => (self.flops / speed.share).clamp(1.0, speed.lanes) / speed.lanes,
            false => 1.0,
        };
        let computed = self.flops / (speed.flops * filled.min(shared));
        let moved = self.bytes / speed.bytes;
        self.times * (self.launches * speed.launch_us + computed.max(moved))
    }
}

/// What each unit takes on each queue, in microseconds; `None` where the GPU has not its types.
pub fn times(graph: &Graph, units: &Units, costs: &Costs) -> Vec<[Option<f64>; 2]> {
    let of = |unit: &Unit| {
        let works = works(graph, unit);
        let on = |speed: &Speed| works.iter().map(|w| w.on(speed)).sum::<f64>();
        let able = unit.nodes.iter().all(|id| computes(graph, *id, costs.abilities));
        [Some(on(&costs.speeds[0])), able.then(|| on(&costs.speeds[1]))]
    };
    units.all.iter().map(of).collect()
}

fn works(graph: &Graph, unit: &Unit) -> Vec<Work> {
    let mut works = vec![];
    unit.nodes.iter().for_each(|id| node_works(graph, *id, 1.0, &mut works));
    let computes = unit.nodes.iter().any(|id| !matches!(graph.class(*id), Class::Source(_)));
    if computes && works.iter().all(|w| w.launches == 0.0) {
        // Elementwise ops alone. Where they join branches they become a part of a launch of one of
        // these; else they are a launch, which moves what crosses the unit's border.
        let launches = if unit.reads.is_empty() { 1.0 } else { 0.0 };
        let bytes = unit.imports.iter().chain(&unit.exports).map(|v| bytes(graph, *v)).sum();
        works.push(Work { launches, bytes, wide: 1.0, times: 1.0, ..Work::default() });
    }
    works
}

/// What a node does, or the ops that it stands for.
fn node_works(graph: &Graph, id: NodeId, times: f64, into: &mut Vec<Work>) {
    let node = graph.node(id);
    let result = Value { node: id, result: 0 };
    let wide = elements(graph, result);
    let moved = || {
        let results = (0..node.results.len()).map(|r| Value { node: id, result: r as u16 });
        node.operands().iter().copied().chain(results).map(|v| bytes(graph, v)).sum::<f64>()
    };
    let flops = node_flops(graph, id) as f64;
    let launch = |flops: f64, wide: f64| Work { launches: 1.0, flops, bytes: moved(), wide, times };
    match graph.class(id) {
        Class::Source(_) | Class::View(_) => {}
        Class::Elementwise(_) => {
            into.push(Work { launches: 0.0, flops, bytes: 0.0, wide, times });
        }
        Class::Reduce(_) | Class::Contract(_) | Class::Window(_) => into.push(launch(flops, wide)),
        Class::Gather { .. } | Class::UpdateSlice { .. } => into.push(launch(wide, wide)),
        // One after the other, by comparisons.
        Class::Sort(spec) => {
            let sorted = node.operands()[0];
            let all = elements(graph, sorted);
            let row = graph.ty(sorted).shape.concrete().map_or(1, |s| s[spec.axis]).max(1) as f64;
            into.push(launch(8.0 * all * row.log2().max(1.0), all / row));
        }
        Class::Scatter(_) => into.push(launch(4.0 * elements(graph, node.operands()[2]), 1.0)),
        Class::Composite => match expanded(graph, id) {
            Some(inner) => inner.ids().for_each(|id| node_works(&inner, id, times, into)),
            None => into.push(launch(wide, wide)),
        },
        Class::Region(kind) => region_works(graph, id, kind, times, into),
    }
}

fn region_works(graph: &Graph, id: NodeId, kind: RegionKind, times: f64, into: &mut Vec<Work>) {
    let node = graph.node(id);
    let body = |region: &Graph, times: f64, into: &mut Vec<Work>| {
        region.ids().for_each(|id| node_works(region, id, times, into));
    };
    match kind {
        RegionKind::Scan { carries, .. } => {
            let sequence = node.operands().get(carries).map(|v| graph.ty(*v));
            let steps = sequence.and_then(|t| t.shape.concrete()?.first().copied()).unwrap_or(1);
            // Carries move on after each step.
            into.push(Work {
                launches: 1.0,
                wide: 1.0,
                times: times * steps as f64,
                ..Work::default()
            });
            body(&node.regions[0], times * steps as f64, into);
        }
        // Either of both; a queue that cannot branch reads the condition back.
        RegionKind::Cond => {
            into.push(Work { launches: 4.0, wide: 1.0, times, ..Work::default() });
            node.regions.iter().for_each(|r| body(r, times / 2.0, into));
        }
        RegionKind::Do => node.regions.iter().for_each(|r| body(r, times, into)),
    }
}

/// A node alone, as the simple ops that it stands for.
fn expanded(graph: &Graph, id: NodeId) -> Option<Graph> {
    let mut alone = graph.alone(id);
    let steps = [Step::Pass("expand"), Step::Pass("dce")];
    crate::pass::run(&mut alone, &steps, &Control::default(), &mut |_, _| {}).ok()?;
    let left = alone.ids().any(|id| alone.class(id) == Class::Composite);
    (!left).then_some(alone)
}

/// Whether a GPU has the types that a node computes with.
fn computes(graph: &Graph, id: NodeId, can: Abilities) -> bool {
    let has = |dtype: DType| match dtype {
        DType::I64 | DType::U64 => can.int64,
        DType::F64 => can.float64,
        DType::F32
        | DType::F16
        | DType::BF16
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::Bool => true,
    };
    let node = graph.node(id);
    let operands = node.operands().iter().all(|v| has(graph.ty(*v).dtype));
    let used = |result: u16| {
        let value = Value { node: id, result };
        graph.users(id).iter().any(|(r, _, _)| *r == result)
            || graph.outputs.iter().any(|o| o.value == value)
            || graph.states.iter().any(|s| s.next == value)
    };
    let result = |(i, ty): (usize, &crate::base::TensorType)| has(ty.dtype) || !used(i as u16);
    let inside = |r: &Graph| r.ids().all(|id| computes(r, id, can));
    operands && node.results.iter().enumerate().all(result) && node.regions.iter().all(inside)
}

fn elements(graph: &Graph, v: Value) -> f64 {
    graph.ty(v).shape.numel().and_then(|d| d.as_const()).unwrap_or(0).max(0) as f64
}

/// Bytes of a value.
pub fn bytes(graph: &Graph, v: Value) -> f64 {
    graph.ty(v).bytes().unwrap_or(0) as f64
}

/// Whether a value comes from the caller.
pub fn is_input(graph: &Graph, v: Value) -> bool {
    graph.class(v.node) == Class::Source(Source::Input)
}
