//! The walk of the op table on everything that runs Programs.

use dlc::base::Tensor;
use dlc::import::Weights;
use dlc::ir::eval::Env;
use dlc::ir::graph::Graph;
use dlc::model::{Model, Options};
use dlc::pipeline::Level;
use dlc::target::Target;

use crate::ops::walk;
#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
use dlc::base::DType;
use dlc::ir::op::walk::Case;
#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
use dlc::ir::print::print_graph;
#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
use dlc::ir::random::{Limits, random_graph};

/// Compiles a sample for a target, runs it, and compares.
fn check(case: &Case, target: &str, level: Level) -> Result<(), String> {
    case.check(&outputs_on(&case.graph, &case.env, target, level)?)
}

fn outputs_on(graph: &Graph, env: &Env, target: &str, level: Level) -> Result<Vec<Tensor>, String> {
    let target = Target::parse(target).map_err(|d| d.message)?;
    outputs(graph, env, Options { target, level, ..Options::default() })
}

/// Compiles a graph and runs it. Every kernel must be made by the target's own emitter.
pub fn outputs(graph: &Graph, env: &Env, options: Options) -> Result<Vec<Tensor>, String> {
    let run = || -> Result<Vec<Tensor>, String> {
        let text = |d: dlc::model::Diagnostics| d.to_string();
        let mut weights = Weights::default();
        for (id, value) in graph.params.iter().zip(&env.params) {
            weights.insert(graph.node(*id).op.str("name"), value.clone());
        }
        let model = Model::new(graph.clone(), weights, options, &mut |_, _| {}).map_err(text)?;
        let mut session = model.session().map_err(text)?;
        for (i, t) in env.inputs.iter().enumerate() {
            session.set_input(i, t).map_err(text)?;
        }
        for (i, t) in env.states.iter().enumerate() {
            session.set_state(i, t).map_err(text)?;
        }
        session.run().map_err(text)?;
        if env.states.is_empty() {
            // What the first run left in the arena does not matter.
            session.run().map_err(text)?;
        }
        #[cfg(feature = "cpu")]
        if let Some(cpu) = session.cpu() {
            let others = cpu.executable().code().fallbacks();
            if !others.is_empty() {
                return Err(format!("Cranelift had to make {others:?}"));
            }
        }
        Ok((0..model.outputs().len()).map(|i| session.output(i).unwrap()).collect())
    };
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    caught.map_err(|_| "it panicked".to_string())?
}

#[test]
fn kernel_interpreter_op_by_op() {
    walk("kernel interpreter, -O0", |case| check(case, "cpu:interpreter", Level::O0));
}

#[test]
fn kernel_interpreter_fused() {
    walk("kernel interpreter, -O2", |case| check(case, "cpu:interpreter", Level::O2));
}

/// As they are made for GPUs.
#[test]
fn kernel_interpreter_across_workgroups() {
    let target = crate::random_shapes::gpu_kernels();
    walk("kernels for GPUs, -O2", |case| {
        let options = Options { target: target.clone(), ..Options::default() };
        case.check(&outputs(&case.graph, &case.env, options)?)
    });
}

#[cfg(feature = "cpu")]
#[test]
fn machine_code_op_by_op() {
    walk("cpu, -O0", |case| check(case, "cpu", Level::O0));
}

#[cfg(feature = "cpu")]
#[test]
fn machine_code_fused() {
    walk("cpu, -O2", |case| check(case, "cpu", Level::O2));
}

#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
#[test]
fn baseline_machine_code() {
    walk("cpu:x86-64, -O2", |case| check(case, "cpu:x86-64", Level::O2));
}

/// The levels of x86-64 that this processor has.
#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
#[test]
fn machine_code_of_levels() {
    for name in ["cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:clif"] {
        let here = Target::parse(name).is_ok_and(|t| t.check_runs_here().is_ok());
        if here {
            walk(name, |case| check(case, name, Level::O2));
        }
    }
}

/// All targets of one numeric class give the same bits, whatever their vectors and tiles are.
#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
#[test]
fn levels_agree_to_the_bit() {
    let names = ["cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:clif"];
    if !Target::parse("cpu:x86-64-v4").is_ok_and(|t| t.check_runs_here().is_ok()) {
        return;
    }
    let agree = |graph: &Graph, env: &Env| -> Result<(), String> {
        let found = names.iter().map(|name| outputs_on(graph, env, name, Level::O2));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        for (name, other) in names.iter().zip(&found).skip(1) {
            for (i, (a, b)) in found[0].iter().zip(other).enumerate() {
                if !same_bits(a, b) {
                    return Err(format!("output {i} differs between {} and {name}", names[0]));
                }
            }
        }
        Ok(())
    };
    walk("equal bits", |case| agree(&case.graph, &case.env));
    let mut ran = 0;
    for seed in 7000..7030 {
        let r = random_graph(seed, &Limits::default());
        match agree(&r.graph, &r.env) {
            Ok(()) => ran += 1,
            // Not every graph has kernels yet.
            Err(e) if e.contains("E0702") => {}
            Err(e) => panic!("seed {seed}: {e}\n{}", print_graph(&r.graph).text),
        }
    }
    assert!(ran > 20, "only {ran} graphs ran");
}

/// Equal but for the bits of NaN.
#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let size = a.dtype().bytes();
    let nan = |t: &Tensor, e: usize| {
        let bytes = &t.bytes()[e * size..(e + 1) * size];
        match t.dtype() {
            DType::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
            DType::F64 => f64::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
            DType::F16 => half::f16::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
            DType::BF16 => half::bf16::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
            _ => false,
        }
    };
    let element = |t: &Tensor, e: usize| t.bytes()[e * size..(e + 1) * size].to_vec();
    a.ty() == b.ty()
        && (0..a.bytes().len() / size)
            .all(|e| element(a, e) == element(b, e) || (nan(a, e) && nan(b, e)))
}

/// Rows that fit in one vector have the bits of the generic loops.
#[test]
#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
fn short_rows_have_the_bits_of_long_ones() {
    use dlc::base::TensorType;
    use dlc::ir::{Attr, Builder};
    let runs = |t: &&str| Target::parse(t).is_ok_and(|t| t.check_runs_here().is_ok());
    for n in 2..=17usize {
        let shape = [5, n];
        let mut graph = Graph::new("rows");
        let mut b = Builder::new(&mut graph);
        let x = b.input("x", TensorType::of(DType::F32, &shape));
        let y = b.input("y", TensorType::of(DType::F32, &[n]));
        let moved = b.op("add", &[x, y], &[]).unwrap();
        let softmax = b.op("softmax", &[moved], &[("axis", Attr::Int(-1))]).unwrap();
        b.output("softmax", softmax);
        let log = b.op("log_softmax", &[x], &[("axis", Attr::Int(-1))]).unwrap();
        b.output("log", log);
        let value = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 37 + seed) % 101) as f32 / 16.0 - 3.0).collect()
        };
        let inputs = vec![
            Tensor::from_slice(&shape, &value(5 * n, 1)),
            Tensor::from_slice(&[n], &value(n, 2)),
        ];
        let env = Env { inputs, params: vec![], states: vec![] };
        // Cranelift's vectors are too short for the special case.
        let result = |target: &str| outputs_on(&graph, &env, target, Level::O2).unwrap();
        let narrow = outputs_on(&graph, &env, "cpu:clif", Level::O2);
        for target in ["cpu:x86-64-v3", "cpu:x86-64-v4"].into_iter().filter(runs) {
            for (want, got) in narrow.iter().flatten().zip(result(target)) {
                assert!(same_bits(want, &got), "{target}, {n} elements");
            }
        }
    }
}
