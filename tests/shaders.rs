//! Every shader is one that naga takes, as printed for an adapter with 64-bit types and for one without.
//! It needs no adapter: what a driver would be given is what is checked.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use dlc::base::Bindings;
use dlc::import::Weights;
use dlc::ir::Graph;
use dlc::ir::random::{Limits as Graphs, random_graph};
use dlc::kernel::ir::{Kernel, Ty};
use dlc::model::{Model, Options};
use dlc::pipeline::Level;
use dlc::runtime::dispatch::{Action, Bound, Dispatches, Limits};
use dlc::schedule::program::Program;
use dlc::target::Target;
use dlc::target::wgsl::{Features, Matmul, Matrices};
use wgpu::naga::front::wgsl;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::examples::{trained, untrained};
use crate::ops::walk;

/// Adapters without 64-bit types, with such integers only, with both, and with all that there is; small
/// products are in tiles on the first and by cooperative matrices on the last.
fn adapters() -> [Features; 4] {
    let none = Features { matmul: Matmul::Tiled, ..Features::default() };
    let integers = Features { int64: true, ..Features::default() };
    let wide = Features { float64: true, ..integers };
    let matrices = Some(Matrices { size: 16, half_sums: false, subgroup: 32 });
    let (shared, invocations) = (48 << 10, 1024);
    let all = Features { half: true, matrices, shared, invocations, subgroups: true, ..wide };
    [none, integers, wide, Features { matmul: Matmul::Coop, ..all }]
}

/// What naga lets a shader use on such an adapter.
fn capabilities(features: Features) -> Capabilities {
    let Features { int64, float64, half, matrices, subgroups, .. } = features;
    let mut of = Capabilities::empty();
    of.set(Capabilities::SHADER_INT64, int64);
    of.set(Capabilities::FLOAT64, float64);
    of.set(Capabilities::SHADER_FLOAT16, half);
    of.set(Capabilities::COOPERATIVE_MATRIX, matrices.is_some());
    of.set(Capabilities::SUBGROUP, subgroups);
    of
}

/// An error with the place in the source.
fn validate(source: &str, features: Features) -> Result<(), String> {
    let module = wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities(features));
    let checked = validator.validate(&module).map_err(|e| e.emit_to_string(source))?;
    translate(&module, &checked)
}

/// What drivers for Vulkan get: the translation has rules of its own.
#[cfg(not(target_vendor = "apple"))]
fn translate(
    module: &wgpu::naga::Module,
    checked: &wgpu::naga::valid::ModuleInfo,
) -> Result<(), String> {
    use wgpu::naga::back::spv;
    let made = spv::write_vec(module, checked, &spv::Options::default(), None);
    made.map(|_| ()).map_err(|e| e.to_string())
}

#[cfg(target_vendor = "apple")]
fn translate(_: &wgpu::naga::Module, _: &wgpu::naga::valid::ModuleInfo) -> Result<(), String> {
    Ok(())
}

fn program(graph: &Graph, level: Level) -> Result<Arc<Program>, String> {
    let target = Target::parse("gpu").map_err(|d| d.message)?;
    let options = Options { target, level, ..Options::default() };
    let model = Model::new(graph.clone(), Weights::default(), options, &mut |_, _| {});
    let program = model.and_then(|model| model.program(&Bindings::new()));
    program.map_err(|d| d.to_string())
}

/// Shaders that were validated.
#[derive(Default)]
struct Seen {
    /// Those that adapters of each kind get and the ones before do not: what one adapter takes, those with
    /// more features take as well.
    sources: [BTreeSet<String>; 4],
    /// Programs that adapters of each kind refuse.
    refused: [usize; 4],
}

impl Seen {
    fn graph(&mut self, graph: &Graph, level: Level) -> Result<(), String> {
        let program = program(graph, level)?;
        let mut least_does = false;
        for (at, features) in adapters().into_iter().enumerate() {
            if at == 1 && least_does {
                // The extremes are enough.
                continue;
            }
            let limits = Limits { features, ..roomy() };
            let dispatches = match Dispatches::of(&program, &limits) {
                Ok(dispatches) => dispatches,
                Err(e) if e.code == "E0862" && wide(&program, features) => {
                    self.refused[at] += 1;
                    continue;
                }
                Err(e) => return Err(format!("{}: {}", e.code, e.message)),
            };
            least_does |= at == 0;
            bound_apart(&dispatches.actions, &limits)?;
            for prepared in &dispatches.shaders {
                let source = &prepared.shader.source;
                if self.sources[..=at].iter().all(|of| !of.contains(source)) {
                    validate(source, features).map_err(|e| format!("{e}\n{source}"))?;
                    self.sources[at].insert(source.clone());
                }
            }
        }
        Ok(())
    }

    /// Shaders that adapters of each kind get beyond those of the one before.
    fn counts(&self) -> [usize; 4] {
        self.sources.each_ref().map(BTreeSet::len)
    }
}

/// Browsers want bindings that begin at certain bytes, and none that overlap in a dispatch.
fn bound_apart(actions: &[Action], limits: &Limits) -> Result<(), String> {
    for action in actions {
        let dispatch = match action {
            Action::Dispatch(dispatch) => dispatch,
            Action::Branch { then, els, .. } => {
                bound_apart(then, limits)?;
                bound_apart(els, limits)?;
                continue;
            }
        };
        for (i, a) in dispatch.params.iter().enumerate() {
            let overlaps = |b: &&Bound| {
                a.memory == b.memory
                    && a.offset < b.offset + b.bytes
                    && b.offset < a.offset + a.bytes
            };
            let aligned = a.offset % limits.align == 0 && a.bytes % 4 == 0;
            if !aligned || dispatch.params[..i].iter().any(|b| overlaps(&b)) {
                return Err(format!("launch {}: {:?}", dispatch.launch.0, dispatch.params));
            }
        }
    }
    Ok(())
}

/// Limits of a large adapter: examples have large buffers.
fn roomy() -> Limits {
    Limits { buffer: u64::MAX, binding: u64::MAX, bindings: 64, ..Limits::default() }
}

/// Whether a program may be refused: it has 64-bit types, or casts that go by way of them,
/// and the adapter lacks some.
fn wide(program: &Program, features: Features) -> bool {
    let of = |k: &Kernel| {
        let scalars = k.types.iter().filter(|ty| **ty != Ty::Index).map(|ty| ty.dtype());
        scalars.chain(k.params.iter().map(|p| p.elem)).any(|d| d.bytes() == 8)
    };
    // Casts may go by way of a wide type.
    let mut ops = program.launches.iter().flat_map(|launch| &launch.ops);
    !(features.int64 && features.float64)
        && (program.kernels.iter().any(of) || ops.any(|op| op == "cast"))
}

/// Places are compared without 64-bit integers: causal attention has shaders on every adapter.
#[test]
fn of_causal_attention_need_no_wide_types() {
    for keys in [4, 96] {
        let shape = format!("f32[2, 4, {keys}, 16]");
        let text = format!(
            "model m(q: {shape}, k: {shape}, v: {shape}) {{ return attention(q, k, v, causal = true) }}"
        );
        let graph = dlc::compile(&text, &Options::default()).unwrap().graph().unwrap().clone();
        let mut seen = Seen::default();
        seen.graph(&graph, Level::O2).unwrap();
        assert_eq!(seen.refused, [0; 4], "{keys} keys");
    }
}

/// The walk of the op table at one level.
fn ops(level: Level) {
    let seen = RefCell::new(Seen::default());
    walk("shaders", |case| seen.borrow_mut().graph(&case.graph, level));
    let (refused, counts) = (seen.borrow().refused, seen.borrow().counts());
    // Adapters without 64-bit types have shaders too, but only the last kind has all.
    assert!(refused[0] > refused[1] && refused[1] > 0 && refused[2] == 0, "{refused:?}");
    assert!(counts[0] > 300 && counts[1..].iter().all(|n| *n > 0), "{counts:?}");
}

#[test]
fn of_ops_are_valid() {
    ops(Level::O0);
}

#[test]
fn of_fused_ops_are_valid() {
    ops(Level::O2);
}

#[test]
fn of_random_graphs_are_valid() {
    let mut seen = Seen::default();
    for seed in 9500..9560 {
        let r = random_graph(seed, &Graphs::default());
        seen.graph(&r.graph, Level::O2).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    assert!(seen.counts().iter().sum::<usize>() > 300, "{:?}", seen.counts());
}

/// All but the largest, which takes as long to compile here as everything else.
#[test]
fn of_examples_are_valid() {
    let mut seen = Seen::default();
    let large = untrained().map(|(name, graph, _)| (name, graph));
    for (name, graph) in trained().into_iter().chain(large.filter(|(n, _)| n != "resnet.dl")) {
        seen.graph(&graph, Level::O2).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(seen.counts()[0] > 50, "{:?}", seen.counts());
}

/// Attention of few and many rows, of small and large heads, is printed into its template.
#[test]
fn of_attention_are_valid() {
    let mut seen = Seen::default();
    for (dtype, depth) in [("f32", 8), ("f32", 64), ("f16", 128), ("f32", 256)] {
        for rows in [1, 100] {
            let text = format!(
                "model m(q: {dtype}[2, 4, {rows}, {depth}], k: {dtype}[2, 2, 300, {depth}], \
                 mask: bool[{rows}, 300]) {{ return attention(q, k, k, mask) }}"
            );
            let model = dlc::compile(&text, &Options::default()).unwrap();
            seen.graph(model.graph().unwrap(), Level::O2).unwrap_or_else(|e| panic!("{text}: {e}"));
        }
    }
    let templates = |of: &BTreeSet<String>| of.iter().filter(|s| s.contains("fn score(")).count();
    assert_eq!(templates(&seen.sources[0]), 8);
    assert!(templates(&seen.sources[3]) > 0);
}

/// The check can fail: for the syntax, for types, and for features.
#[test]
fn broken_ones_are_refused() {
    let shader = |of: &str| {
        format!(
            "@group(0) @binding(0) var<storage, read_write> p0: array<{of}>;\n\
             @compute @workgroup_size(64)\n\
             fn main(@builtin(global_invocation_id) id: vec3<u32>) {{ p0[id.x] = p0[0] + p0[1]; }}\n"
        )
    };
    let [none, integers, all, _] = adapters();
    for of in ["f32", "i64", "f64"] {
        assert_eq!(validate(&shader(of), all), Ok(()), "{of}");
    }
    let refused = |source: &str, features| validate(source, features).expect_err(source);
    refused(&shader("f32").replace("p0[1];", "p0[1]"), all);
    assert!(refused(&shader("f32").replace("p0[1]", "id.x"), all).contains("id.x"));
    assert!(refused(&shader("f64"), integers).contains("FLOAT64"));
    assert!(refused(&shader("i64"), none).contains("INT64"));
}
