//! Graphs as compute shaders, on whatever adapter there is: a software one does, and
//! `tools/lavapipe.sh` fetches one. Without an adapter there is nothing to test, unless `DLC_TEST_GPU`
//! is set.

mod attention;
mod errors;

use std::collections::BTreeSet;

use dlc::base::machine::Tiles;
use dlc::base::tensor::Element;
use dlc::base::{DType, Tensor};
use dlc::ir::Graph;
use dlc::ir::compare::allclose;
use dlc::ir::eval::{Env, Precision, Results, evaluate};
use dlc::ir::op::walk::Case;
use dlc::ir::print::print_graph;
use dlc::ir::random::{Limits as Graphs, random_graph};
use dlc::model::{Model, Options, random_weights};
use dlc::pipeline::Level;
use dlc::runtime::dispatch::{Dispatches, Limits};
use dlc::runtime::gpu::device::{Device, adapters};
use dlc::target::Target;
use dlc::target::wgsl::{Matmul, Matrices, Shader, all_coop_tiles, product};

use crate::examples::{every_run, untrained};
use crate::ops::walk;
use crate::random_shapes::draw::Data;
use crate::random_shapes::{CONTRACTIONS, across_workgroups, check_each, check_on, rows};
use crate::targets::outputs;

/// Whether there is an adapter.
pub fn here() -> bool {
    let some = !adapters().is_empty();
    assert!(some || std::env::var_os("DLC_TEST_GPU").is_none(), "no GPU adapter");
    if !some {
        eprintln!("no GPU adapter: nothing to test");
    }
    some
}

fn options(level: Level) -> Options {
    Options { target: Target::parse("gpu").unwrap(), level, ..Options::default() }
}

/// Runs a sample and compares. A GPU may take subnormal numbers for zero, of its operands and of
/// its results.
fn check(case: &Case, level: Level) -> Result<(), String> {
    let env = Env {
        inputs: case.env.inputs.iter().map(|t| without_subnormals(t, None)).collect(),
        ..case.env.clone()
    };
    let reference = |precision| {
        let results = evaluate(&case.graph, &env, precision).map_err(|e| e.message)?;
        Ok::<_, String>(results.outputs)
    };
    let (own, exact) = (reference(Precision::Own)?, reference(Precision::F64)?);
    let got = outputs(&case.graph, &env, options(level))?;
    let got = got.iter().zip(&own).map(|(g, o)| without_subnormals(g, Some(o))).collect::<Vec<_>>();
    let case = Case { own, exact, graph: case.graph.clone(), env, ..*case };
    case.check(&got)
}

/// Zeros for subnormal numbers; or, beside another tensor, its subnormal numbers for zeros.
fn without_subnormals(t: &Tensor, beside: Option<&Tensor>) -> Tensor {
    let mut t = t.clone();
    match t.dtype() {
        DType::F32 => flush::<f32>(&mut t, beside, |v| v.is_subnormal(), |v| v * 0.0),
        DType::F64 => flush::<f64>(&mut t, beside, |v| v.is_subnormal(), |v| v * 0.0),
        _ => {}
    }
    t
}

fn flush<T: Element + PartialEq + Default>(
    t: &mut Tensor,
    beside: Option<&Tensor>,
    is_subnormal: fn(T) -> bool,
    zero: fn(T) -> T,
) {
    let mut values = t.as_slice::<T>().to_vec();
    for (i, v) in values.iter_mut().enumerate() {
        match beside.map(|other| other.as_slice::<T>()[i]) {
            None if is_subnormal(*v) => *v = zero(*v),
            Some(other) if is_subnormal(other) && *v == T::default() => *v = other,
            _ => {}
        }
    }
    *t = Tensor::from_slice(t.shape(), &values);
}

#[test]
fn shaders_op_by_op() {
    if here() {
        walk("gpu, -O0", |case| check(case, Level::O0));
    }
}

#[test]
fn shaders_fused() {
    if here() {
        walk("gpu, -O2", |case| check(case, Level::O2));
    }
}

#[test]
fn random_graphs() {
    if !here() {
        return;
    }
    for seed in 9000..9040 {
        let r = random_graph(seed, &Graphs::default());
        let expected = Results { states: vec![], ..r.expected().unwrap() };
        let ran = outputs(&r.graph, &r.env, options(Level::O2));
        let got = ran.map(|outputs| Results { outputs, states: vec![] });
        if let Err(e) = got.and_then(|got| r.check(&expected, &got)) {
            panic!("seed {seed}: {e}\n{}", print_graph(&r.graph).text);
        }
    }
}

fn target(name: &str) -> Target {
    Target::parse(name).unwrap()
}

/// The first output on a target, of inputs that are the same everywhere.
fn output(graph: &Graph, name: &str) -> Tensor {
    output_by(graph, Options { target: target(name), ..Options::default() })
}

fn output_by(graph: &Graph, options: Options) -> Tensor {
    let weights = random_weights(graph, 3).unwrap();
    output_of(&Model::new(graph.clone(), weights, options, &mut |_, _| {}).unwrap())
}

/// The first output of a model, of inputs that are the same everywhere.
pub fn output_of(model: &Model) -> Tensor {
    let mut session = model.session().unwrap();
    for (i, (_, ty)) in model.inputs().iter().enumerate() {
        let shape = ty.shape.concrete().unwrap();
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|k| ((k * 37 % 101) as f32 - 50.0) / 64.0).collect();
        let values = match ty.dtype {
            DType::F16 => {
                let halves: Vec<half::f16> =
                    values.iter().map(|v| half::f16::from_f32(*v)).collect();
                Tensor::from_slice(&shape, &halves)
            }
            _ => Tensor::from_slice(&shape, &values),
        };
        session.set_input(i, &values).unwrap();
    }
    session.run().unwrap();
    session.output(0).unwrap()
}

#[test]
fn examples() {
    if !here() {
        return;
    }
    every_run("gpu", &|_| true);
    for (name, graph, _) in untrained() {
        let (got, want) = (output(&graph, "gpu"), output(&graph, "cpu"));
        let near = allclose(&got, &want, 1e-4, 1e-5);
        assert!(near.is_ok(), "{name}: {near:?}");
    }
}

/// Softmax, normalizations, reductions and attention of random shapes. Rows are computed by workgroups, whose
/// folds use subgroups where the adapter has them.
#[test]
fn rows_of_random_shapes() {
    if !here() {
        return;
    }
    let mut groups = 0;
    check_each("rows", rows, |case| {
        // The driver takes subnormal numbers for zero.
        if case.data == Data::Subnormals {
            return Ok(());
        }
        groups += across_workgroups(case, &options(Level::O2))?;
        check_on(case, options(Level::O2))
    });
    assert!(groups > 4, "{groups} kernels have workgroups");
}

/// Every tile that a search may choose gives the same bits, and a search keeps to these.
#[test]
fn every_tile_gives_the_same_bits() {
    if !here() {
        return;
    }
    let text = "model m(x: f32[70, 45], w: f32[45, 90]) { return relu(matmul(x, w)) }";
    let model = |tiles: Tiles| {
        let mut options = options(Level::O2);
        options.target.machine.tiles = tiles;
        dlc::compile(text, &options).unwrap()
    };
    let mut plain = model(Tiles::default());
    let features = Device::shared(None).unwrap().allowed().features;
    let program = plain.program(&Default::default()).unwrap();
    let known = program.kernels.iter().find_map(|k| product(k, features));
    let (extent, tiles) = known.expect("a product has tiles");
    assert_eq!((extent.rows, extent.columns, extent.depth), (70, 90, 45));
    let want = output_of(&plain);
    let mut sources = BTreeSet::new();
    for tile in &tiles {
        let chosen = model([(extent, *tile)].into_iter().collect());
        let mut limits = Device::shared(None).unwrap().allowed();
        limits.tiles = chosen.options().target.machine.tiles.clone();
        let program = chosen.program(&Default::default()).unwrap();
        let dispatches = Dispatches::of(&program, &limits).unwrap();
        sources.insert(dispatches.shaders[0].shader.source.clone());
        assert_eq!(output_of(&chosen), want, "{tile:?}");
    }
    assert!(tiles.len() > 3 && sources.len() == tiles.len(), "tiles are taken");
    plain.tune(std::time::Duration::from_millis(500)).unwrap();
    let found = plain.options().target.machine.tiles.clone();
    assert!(found.iter().all(|(of, tile)| *of == extent && tiles.contains(tile)), "{found:?}");
    assert_eq!(output_of(&plain), want);
}

/// Large angles are reduced in two parts, neither of which a driver may drop.
#[test]
fn angles_of_every_size() {
    if !here() {
        return;
    }
    let angles = [1600.0f32, -1e4, 1e5, 3.3e7, 1e10, -7.7e22, 3e38, 0.1, -2.0, 1499.0, 1e-3];
    for name in ["sin", "cos", "tan"] {
        let text = format!("model m(x: f32[{}]) {{ return {name}(x) }}", angles.len());
        let run = |target: &str| {
            let options = Options { target: self::target(target), ..Options::default() };
            let model = dlc::compile(&text, &options).unwrap();
            let mut session = model.session().unwrap();
            session.set_input(0, &Tensor::from_slice(&[angles.len()], &angles)).unwrap();
            session.run().unwrap();
            session.output(0).unwrap()
        };
        let near = allclose(&run("gpu"), &run("reference"), 5e-7, 5e-7);
        assert!(near.is_ok(), "{name}: {near:?}");
    }
}

/// Products of all shapes, in tiles.
#[test]
fn contractions_in_tiles() {
    if !here() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let from = number("DLC_SHAPES_FROM").unwrap_or(0);
    let seeds = from..from + number("DLC_SHAPES").unwrap_or(10);
    let mut failures = vec![];
    for (kind, make) in CONTRACTIONS.iter().enumerate() {
        for seed in seeds.clone() {
            let case = make(seed);
            let options = Options { matmul: Matmul::Tiled, ..options(Level::O2) };
            // The driver takes subnormal numbers for zero.
            if case.data == Data::Subnormals {
                continue;
            }
            if let Err(e) = check_on(&case, options) {
                let graph = print_graph(&case.graph).text;
                failures.push(format!("kind {kind}, seed {seed}, {:?}: {e}\n{graph}", case.data));
            }
        }
    }
    assert!(failures.is_empty(), "{} fail\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn models_as_shaders() {
    if !here() {
        return;
    }
    let models = [
        (
            "mlp",
            "model m(x: f32[5, 33]) { return x |> dense(64) as a |> gelu |> dense(7) as b |> softmax }",
        ),
        (
            "maps",
            "model m(x: f32[2, 3, 17, 15]) { return x |> conv2d(16, 3, pad = 1) as a |> relu \
             |> conv2d(32, 3, pad = 1) as b |> relu |> max_pool(2) |> global_avg_pool }",
        ),
        (
            "fours",
            "model m(x: f32[700, 512], b: f32[512], c: f32[700, 1]) { return gelu(x + b) * c }",
        ),
        (
            "gathered fours",
            "model m(x: f32[600]) { \
             return gelu(embedding(cast(abs(x) * 100.0, i32), 80, 512) as e) }",
        ),
        ("long rows", "model m(x: f32[3, 5000]) { return softmax(x), layer_norm(x) as n }"),
        ("rows", "model m(x: f32[9, 130]) { return layer_norm(tanh(x) + exp(x)) as n }"),
    ];
    for (name, text) in models {
        let graph = dlc::compile(text, &Options::default()).unwrap().graph().unwrap().clone();
        let (got, want) = (output(&graph, "gpu"), output(&graph, "reference"));
        let near = allclose(&got, &want, 2e-5, 1e-5);
        assert!(near.is_ok(), "{name}: {near:?}");
    }
}

/// Error scopes of the device are a thread's own.
#[test]
fn two_threads_share_a_device() {
    if !here() {
        return;
    }
    let text = "model m(x: f32[9, 130]) { return layer_norm(tanh(x) + exp(x)) as n |> softmax }";
    let graph = dlc::compile(text, &Options::default()).unwrap().graph().unwrap().clone();
    let want = output(&graph, "reference");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let near = allclose(&output(&graph, "gpu"), &want, 2e-5, 1e-5);
                    assert!(near.is_ok(), "{near:?}");
                }
            });
        }
    });
}

#[test]
fn outputs_become_inputs() {
    if here() {
        crate::carry::check("gpu");
    }
}

/// A model of two inputs: a loop of `n` steps, of which each takes one of two ways.
fn loops(n: usize) -> Model {
    let text = format!(
        "model m(xs: f32[{n}], go: bool[]) {{\n\
         last, all = scan(xs, init = zeros([])) {{ |sum, x|\n\
         next = sum * 0.5 + x\n\
         return next, next\n\
         }}\n\
         y = cond(go) {{ exp(all) }} else {{ all * 2 }}\n\
         return y, last\n\
         }}"
    );
    dlc::compile(&text, &options(Level::O2)).unwrap()
}

/// More launches than the device's clock takes at once, and a branch: each is timed, and results are the same.
#[test]
fn launches_are_timed() {
    if !here() {
        return;
    }
    let n = 2500;
    let model = loops(n);
    let mut session = model.session().unwrap();
    let values: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
    session.set_input(0, &Tensor::from_slice(&[n], &values)).unwrap();
    for go in [true, false] {
        session.set_input(1, &Tensor::from_bools(&[], &[go])).unwrap();
        session.run().unwrap();
        let plain = session.output(0).unwrap();
        let mut times = vec![];
        session.run_timed(&mut times).unwrap();
        assert_eq!(session.output(0).unwrap(), plain);
        let program = model.program(&Default::default()).unwrap();
        let of = |op: &str| {
            let is = |id| program.launch(id).ops.iter().any(|o| o == op);
            times.iter().filter(|(id, _)| is(*id)).count()
        };
        assert_eq!(of("exp"), go as usize);
        assert!(times.len() > n, "{}", times.len());
        let total: f64 = times.iter().map(|(_, t)| t.as_secs_f64()).sum();
        assert!(total > 0.0 && total < 60.0, "{total}");
    }
}

/// Every tile of cooperative matrices gives right sums, and one that cannot do so is found out.
#[test]
fn cooperative_self_test() {
    if !here() {
        return;
    }
    let device = Device::shared(None).unwrap();
    let mut features = device.allowed().features;
    for tile in all_coop_tiles(&features) {
        assert!(device.multiplies(tile), "{tile:?}");
    }
    let Some(matrices) = features.matrices else { return };
    features.matrices = Some(Matrices { subgroup: matrices.subgroup / 2, ..matrices });
    let wrong = all_coop_tiles(&features);
    assert!(wrong.iter().any(|tile| !device.multiplies(*tile)), "half a subgroup multiplies");
}

/// Whether a graph's shaders on the first adapter use cooperative matrices.
fn has_matrices(graph: &Graph) -> bool {
    let mut limits = Device::shared(None).unwrap().allowed();
    limits.features.matmul = Matmul::Coop;
    shaders(graph, &limits).iter().any(|s| s.coop.is_some())
}

/// The shaders of a graph for an adapter.
fn shaders(graph: &Graph, limits: &Limits) -> Vec<Shader> {
    let options = options(Level::O2);
    let model = Model::new(graph.clone(), Default::default(), options, &mut |_, _| {}).unwrap();
    let program = model.program(&Default::default()).unwrap();
    let dispatches = Dispatches::of(&program, limits).unwrap();
    dispatches.shaders.into_iter().map(|p| p.shader).collect()
}

/// Folds across workgroups end in subgroups where the adapter has these, and do without elsewhere.
#[test]
fn folds_across_subgroups() {
    if !here() {
        return;
    }
    let text = "model m(x: f32[9, 1030]) { return softmax(x), argmax(x, axis = 1), sum(x) }";
    let graph = dlc::compile(text, &options(Level::O2)).unwrap().graph().unwrap().clone();
    let mut limits = Device::shared(None).unwrap().allowed();
    let by_subgroups = |limits: &Limits| {
        let of = shaders(&graph, limits);
        of.iter().filter(|s| s.source.contains("subgroupShuffleXor")).count()
    };
    assert_eq!(by_subgroups(&limits), if limits.features.subgroups { 3 } else { 0 });
    limits.features.subgroups = false;
    assert_eq!(by_subgroups(&limits), 0);
}

/// Products of f16 by cooperative matrices, against tiles and the reference.
#[test]
fn cooperative_matrices() {
    if !here() {
        return;
    }
    if adapters().iter().all(|a| a.features.matrices.is_none()) {
        assert!(std::env::var_os("DLC_TEST_GPU").is_none(), "no cooperative matrices");
        return;
    }
    let models = [
        "model m(x: f16[64, 64], y: f16[64, 64]) { return matmul(x, y) }",
        "model m(x: f16[37, 51], y: f16[51, 83]) { return matmul(x, y) |> relu }",
        "model m(x: f16[3, 40, 24], y: f16[3, 24, 72]) { return gelu(matmul(x, y)) + 1.0 }",
        "model m(x: f16[33, 130], y: f16[9, 130]) { return matmul(x, transpose(y)) }",
        "model m(x: f16[130, 33], y: f16[130, 19]) { return matmul(transpose(x), y) }",
        "model m(x: f16[2, 5, 13, 11], w: f16[24, 5, 3, 3]) { return op.conv2d(x, w, pad = [1, 1, 1, 1]) |> relu }",
        "model m(x: f16[1, 16, 12, 12], w: f16[32, 16, 1, 1]) { return op.conv2d(x, w) }",
        "model m(x: f16[40, 24], y: f16[24, 40]) { return matmul(cast(x, f32), cast(y, f32)) }",
    ];
    for text in models {
        let graph = dlc::compile(text, &Options::default()).unwrap().graph().unwrap().clone();
        let want = output_by(&graph, Options { target: target("reference"), ..Options::default() });
        let by = |matmul| output_by(&graph, Options { matmul, ..options(Level::O2) });
        let (coop, tiled) = (by(Matmul::Coop), by(Matmul::Tiled));
        assert!(has_matrices(&graph), "{text} has no cooperative matrices");
        for (what, got) in [("coop", coop), ("tiled", tiled)] {
            let near = allclose(&got, &want, 2e-3, 2e-3);
            assert!(near.is_ok(), "{text}, {what}: {near:?}");
        }
    }
}

/// `--precision f16` gives products that cooperative matrices compute.
#[test]
fn narrow_products() {
    if !here() {
        return;
    }
    let weights = crate::precision::weights();
    let wide = crate::precision::output(&weights, None, "reference");
    let got = crate::precision::output(&weights, Some(DType::F16), "gpu");
    let near = allclose(&got, &wide, 4e-3, 4e-3);
    assert!(near.is_ok(), "{near:?}");
}

/// What passes through f16 is rounded, though nothing stores it.
#[test]
fn roundings_to_half_stay() {
    if !here() {
        return;
    }
    let text = "model m(x: f32[4]) { return cast(cast(x, f16), f32) * 2.0 }";
    let model = dlc::compile(text, &options(Level::O2)).unwrap();
    let mut session = model.session().unwrap();
    let x = [70000.0f32, 1.0001, -3.3, 0.5];
    session.set_input(0, &Tensor::from_slice(&[4], &x)).unwrap();
    session.run().unwrap();
    assert_eq!(session.output(0).unwrap().as_slice::<f32>(), [f32::INFINITY, 2.0, -6.6015625, 1.0]);
}
