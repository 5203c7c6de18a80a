//! Graphs as compute shaders, on whatever adapter there is: a software one does, and
//! `tools/lavapipe.sh` fetches one. Without an adapter there is nothing to test, unless `DLC_TEST_GPU`
//! is set.

use dlc::base::tensor::Element;
use dlc::base::{DType, Tensor};
use dlc::ir::Graph;
use dlc::ir::compare::allclose;
use dlc::ir::eval::{Env, Precision, Results, evaluate};
use dlc::ir::op::walk::Case;
use dlc::ir::print::print_graph;
use dlc::ir::random::{Limits, random_graph};
use dlc::model::{Model, Options, random_weights};
use dlc::pipeline::Level;
use dlc::runtime::gpu::device::adapters;
use dlc::target::Target;

use crate::examples::{every_run, untrained};
use crate::ops::walk;
use crate::targets::outputs;

/// Whether there is an adapter.
fn here() -> bool {
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
        let r = random_graph(seed, &Limits::default());
        let expected = Results { states: vec![], ..r.expected().unwrap() };
        let ran = outputs(&r.graph, &r.env, options(Level::O2));
        let got = ran.map(|outputs| Results { outputs, states: vec![] });
        if let Err(e) = got.and_then(|got| r.check(&expected, &got)) {
            panic!("seed {seed}: {e}\n{}", print_graph(&r.graph).text);
        }
    }
}

/// The first output on a target, of inputs that are the same everywhere.
fn output(graph: &Graph, target: &str) -> Tensor {
    let options = Options { target: Target::parse(target).unwrap(), ..Options::default() };
    let weights = random_weights(graph, 3).unwrap();
    let model = Model::new(graph.clone(), weights, options, &mut |_, _| {}).unwrap();
    let mut session = model.session().unwrap();
    for (i, (_, ty)) in model.inputs().iter().enumerate() {
        let shape = ty.shape.concrete().unwrap();
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|k| ((k * 37 % 101) as f32 - 50.0) / 64.0).collect();
        session.set_input(i, &Tensor::from_slice(&shape, &values)).unwrap();
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
