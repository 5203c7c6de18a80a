//! The kernel of each step: of a fusion group through its nest and a generator, of an op with a
//! kernel of its own (sort, scatter) from its specification.

use super::fusion::GroupInfo;
use super::lower::lower_group;
use crate::base::DType;
use crate::base::machine::Machine;
use crate::ir::graph::{Graph, NodeId, Value};
use crate::ir::index::{Expr, IndexMap};
use crate::ir::op::{Class, OpError, RegionKind};
use crate::kernel::generate;
use crate::kernel::ir::Kernel;
use crate::kernel::nest::{Body, From, Keep, Nest, Out, Slot, Stage};

/// How to make a kernel; says which generator made it.
pub type Build = Box<dyn FnOnce(&Machine) -> (Kernel, &'static str)>;

/// A kernel to be, and what it costs.
pub struct Work {
    /// Steps with equal keys share a kernel.
    pub key: Option<Nest>,
    pub build: Build,
    pub flops: u64,
    pub bytes: u64,
}

/// The kernel of a step that is one launch.
pub fn work(graph: &Graph, id: NodeId) -> Result<Work, OpError> {
    let node = graph.node(id);
    match graph.class(id) {
        Class::Region(RegionKind::Do) => {
            let name = format!("k{}", id.0);
            let nest = lower_group(&name, &node.regions[0]).map_err(|why| {
                OpError::new("E0702", format!("a group of ops has no kernel: {}", why.0))
            })?;
            Ok(of_nest(nest))
        }
        Class::Sort(spec) => {
            let x = slot(graph, node.operands()[0]);
            let build = move |m: &Machine| (generate::sort::build("sort", spec, &x, m), "sort");
            Ok(opaque(Box::new(build), moved(graph, id)))
        }
        Class::Scatter(spec) => {
            let [x, i, u] = [0, 1, 2].map(|k| slot(graph, node.operands()[k]));
            let build = move |m: &Machine| {
                (generate::scatter::build("scatter", spec, &x, &i, &u, m), "scatter")
            };
            Ok(opaque(Box::new(build), moved(graph, id)))
        }
        Class::Source(_)
        | Class::Elementwise(_)
        | Class::Reduce(_)
        | Class::View(_)
        | Class::Contract(_)
        | Class::Window(_)
        | Class::Gather { .. }
        | Class::UpdateSlice { .. }
        | Class::Region(_)
        | Class::Composite => Err(OpError::new(
            "E0702",
            format!("`{}` outside a group has no kernel", node.op.row.name),
        )),
    }
}

fn slot(graph: &Graph, v: Value) -> Slot {
    let ty = graph.ty(v);
    let shape = ty.shape.concrete().expect("dimensions are bound before scheduling");
    Slot { dtype: ty.dtype, shape }
}

/// Bytes of a node's operands and results.
fn moved(graph: &Graph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let operands = node.operands().iter().map(|v| graph.ty(*v));
    operands.chain(&node.results).filter_map(|t| t.bytes()).sum()
}

fn opaque(build: Build, bytes: u64) -> Work {
    Work { key: None, build, flops: bytes, bytes }
}

fn of_nest(nest: Nest) -> Work {
    let (flops, bytes) = (nest.flops(), nest.bytes());
    let key = Nest { name: String::new(), ..nest.clone() };
    Work {
        key: Some(key),
        build: Box::new(move |machine| generate::build(&nest, machine)),
        flops,
        bytes,
    }
}

/// A copy of this many elements.
pub fn copy(dtype: DType, elements: usize) -> Work {
    let slot = Slot { dtype, shape: vec![elements] };
    let stage = Stage {
        axes: vec![elements as i64],
        reduce: vec![],
        combine: None,
        body: Body::load(From::Slot(0), IndexMap::identity(1)),
        dtype,
        keep: Keep::Out,
        tile: None,
    };
    let nest = Nest {
        name: "copy".into(),
        slots: vec![slot.clone(), slot],
        operands: 1,
        shared: 0,
        stages: vec![stage],
        outs: vec![Out { stage: 0, slot: 1, at: Expr::axis(0) }],
        inplace: vec![],
    };
    let (flops, bytes) = (0, nest.bytes());
    let key = Some(nest.clone());
    let build: Build = Box::new(move |machine| (generate::loops::build(&nest, machine), "loops"));
    Work { key, build, flops, bytes }
}

/// Names of the ops of a step that is not a fusion group.
pub fn info(graph: &Graph, id: NodeId) -> GroupInfo {
    let name = graph.node(id).op.row.name;
    GroupInfo { ops: vec![name], anchor: Some(name), packed: vec![] }
}

/// Whether the launch of a `do` node may write this result over this operand.
pub fn in_place(graph: &Graph, id: NodeId, result: u16, operand: Value) -> bool {
    let node = graph.node(id);
    if graph.class(id) != Class::Region(RegionKind::Do) {
        return false;
    }
    let Ok(nest) = lower_group("", &node.regions[0]) else { return false };
    let uses: Vec<u16> = (0..node.operands().len() as u16)
        .filter(|i| node.operands()[*i as usize] == operand)
        .collect();
    let out = nest.operands as u16 + result;
    uses.len() == 1 && nest.inplace.contains(&(out, uses[0]))
}

/// FLOP of a region, roughly: elements of results, and products of contractions.
pub fn graph_flops(region: &Graph) -> u64 {
    region.ids().map(|id| node_flops(region, id)).sum()
}

/// FLOP of a node, roughly; none of composites and of regions.
pub fn node_flops(graph: &Graph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let elements = |v: &Value| {
        graph.ty(*v).shape.numel().and_then(|d| d.as_const()).unwrap_or(0).max(0) as u64
    };
    let result = elements(&Value { node: id, result: 0 });
    match graph.class(id) {
        Class::Elementwise(f) => result * f.flops(),
        Class::Reduce(_) => node.operands().iter().map(elements).sum(),
        // √(|a| · |b| · |c|) is the number of products of a matmul.
        Class::Contract(_) => {
            let all = node.operands().iter().map(elements).map(|n| n as f64).product::<f64>();
            2 * (all * result as f64).sqrt() as u64
        }
        Class::Window(spec) => {
            let window: usize = spec.kernel.iter().product();
            let channels = node.operands().get(1).map_or(1, |w| {
                graph.ty(*w).shape.concrete().and_then(|s| s.get(1).copied()).unwrap_or(1)
            });
            2 * result * (window * channels) as u64
        }
        Class::Source(_)
        | Class::View(_)
        | Class::Gather { .. }
        | Class::Scatter(_)
        | Class::UpdateSlice { .. }
        | Class::Sort(_)
        | Class::Region(_)
        | Class::Composite => 0,
    }
}
