//! The memory plans of real Programs: proved by the checker, tight, and rejected once they are broken.

use dlc::base::{Bindings, Symbol};
use dlc::import::Weights;
use dlc::ir::Graph;
use dlc::ir::random::{Limits, random_graph};
use dlc::model::{Model, Options};
use dlc::pipeline::Level;
use dlc::schedule::program::{Place, Program};
use dlc::schedule::trace::check_program;

use crate::ops::walk;

fn program(graph: Graph, level: Level, dims: &Bindings) -> Result<Program, String> {
    let options = Options { level, ..Options::default() };
    let model = Model::new(graph, Weights::default(), options, &mut |_, _| {});
    let plan = model.and_then(|m| m.plan(dims)).map_err(|d| d.to_string())?;
    Ok(plan.program.clone())
}

fn proved(program: &Program) -> Result<(), String> {
    check_program(program).map_err(|faults| {
        let text: Vec<String> = faults.iter().map(|f| f.to_string()).collect();
        text.join("\n")
    })
}

#[test]
fn plans_of_every_op_are_proved() {
    for level in [Level::O0, Level::O2] {
        walk("the memory plan", |case| {
            proved(&program(case.graph.clone(), level, &Bindings::new())?)
        });
    }
}

#[test]
fn plans_of_random_graphs_are_proved() {
    let mut plans = 0;
    for seed in 0..60 {
        for level in [Level::O0, Level::O2] {
            let graph = random_graph(seed, &Limits::default()).graph;
            // Whether every graph compiles is the business of the tests of the compiler.
            let Ok(program) = program(graph, level, &Bindings::new()) else { continue };
            plans += 1;
            if let Err(faults) = proved(&program) {
                panic!("seed {seed}, {level:?}: {faults}");
            }
        }
    }
    assert!(plans > 100, "{plans} of 120 graphs have a program");
}

fn example(name: &str, model: Option<&str>, dims: &[(&str, i64)]) -> Program {
    let path = format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let loaded = dlc::front::load(&path, &text, &dlc::front::LoadOptions::default());
    let graph = loaded.module.lower(model, false).0.expect("the example is right").graph;
    let dims = dims.iter().map(|(n, v)| (Symbol::new(n), *v)).collect();
    program(graph, Level::O2, &dims).unwrap()
}

#[test]
fn plans_of_the_examples_are_proved_and_tight() {
    let batch = [("batch", 1)];
    for p in [
        example("resnet/resnet.dl", None, &batch),
        example("mobilenet/mobilenet.dl", None, &batch),
        example("digits/digits.dl", Some("cnn"), &[("batch", 8)]),
        example("transformer/transformer.dl", None, &[("batch", 2), ("seq", 16)]),
    ] {
        assert_eq!(check_program(&p), Ok(()), "{}", p.name);
        let ratio = p.arena_bytes as f64 / p.max_live_bytes as f64;
        assert!(ratio <= 1.02, "{}: {} of {}", p.name, p.arena_bytes, p.max_live_bytes);
    }
}

#[test]
fn broken_plans_of_an_example_are_rejected() {
    let good = example("transformer/transformer.dl", None, &[("batch", 2), ("seq", 16)]);
    assert_eq!(check_program(&good), Ok(()));
    let arena: Vec<usize> = (0..good.buffers.len())
        .filter(|&i| {
            matches!(good.buffers[i].place, Place::Arena { .. }) && good.buffers[i].bytes() > 0
        })
        .collect();
    assert!(arena.len() > 3);
    let mut rejected = 0;
    for &a in &arena {
        for &b in &arena {
            let (x, y) = (&good.buffers[a], &good.buffers[b]);
            // `y` is written while `x` is still to be read, outside of any pair in place.
            if a == b || y.first <= x.first || y.first >= x.last {
                continue;
            }
            let mut p = good.clone();
            p.buffers[b].place = x.place;
            p.arena_bytes *= 2;
            assert!(check_program(&p).is_err(), "{} over {}", y.name, x.name);
            rejected += 1;
        }
    }
    for (name, break_it) in BREAKS {
        let mut p = good.clone();
        break_it(&mut p, arena[0]);
        assert!(check_program(&p).is_err(), "{name}");
        rejected += 1;
    }
    assert!(rejected > BREAKS.len(), "{rejected}");
}

type Break = (&'static str, fn(&mut Program, usize));

const BREAKS: &[Break] = &[
    ("out of the arena", |p, b| p.buffers[b].place = Place::Arena { offset: p.arena_bytes }),
    ("misaligned", |p, b| p.buffers[b].place = Place::Arena { offset: 4 }),
    ("the last launch first", |p, _| p.body.waves.reverse()),
    ("all side by side", |p, _| p.body.waves = vec![p.body.waves.concat()]),
    ("a launch is missing", |p, _| drop(p.body.waves.remove(0))),
    ("written over an input", |p, b| p.buffers[b].place = Place::Input(0)),
];

/// A repeat begins with copies: nothing large runs beside it, though nothing depends on it.
#[test]
fn a_scan_beside_a_large_launch() {
    let text = "model m(x: f32[300000]) {
        last, all = scan(x, init = x[0]) { |h, v|
            n = h * 0.5 + v
            return n, n
        }
        return sum(x) as s, all
    }";
    let x: Vec<f32> = (0..300_000).map(|i| (i % 17) as f32 / 16.0).collect();
    let mut session = dlc::compile(text, &dlc::Options::default()).unwrap().session().unwrap();
    session.set_input(0, &dlc::Tensor::from_slice(&[300_000], &x)).unwrap();
    session.run().unwrap();
    let sum: f32 = session.output(0).unwrap().as_slice::<f32>()[0];
    assert!((sum / x.iter().sum::<f32>() - 1.0).abs() < 1e-3);
    let all = session.output(1).unwrap();
    let mut h = x[0];
    for (got, v) in all.as_slice::<f32>().iter().zip(&x) {
        h = h * 0.5 + v;
        assert!((got - h).abs() < 1e-5);
    }
}

/// A scan over each row of what another one goes through: places inside of a buffer are gone through.
#[test]
fn scans_of_rows() {
    let text = "model m(xs: f32[4, 5], ys: f32[4, 5, 2]) {
        total, sums = scan(xs, init = zeros([])) { |s, row|
            last, all = scan(row, init = zeros([])) { |a, x|
                next = a * 0.5 + x
                return next, next
            }
            t = s + last
            return t, all
        }
        kept, rows = scan(ys, init = zeros([2])) { |s, table|
            last, copies = scan(table, init = s) { |a, x| return x + a, x }
            return last, copies
        }
        return total, sums, kept, rows
    }";
    let ramp = |n: usize| (0..n).map(|i| (i * 7 % 11) as f32 - 4.0).collect::<Vec<_>>();
    let results = |target: &str| {
        let target = dlc::target::Target::parse(target).unwrap();
        let options = dlc::Options { target, ..dlc::Options::default() };
        let model = dlc::compile(text, &options).unwrap();
        let mut session = model.session().unwrap();
        session.set_input(0, &dlc::Tensor::from_slice(&[4, 5], &ramp(20))).unwrap();
        session.set_input(1, &dlc::Tensor::from_slice(&[4, 5, 2], &ramp(40))).unwrap();
        session.run().unwrap();
        (0..4).map(|i| session.output(i).unwrap()).collect::<Vec<_>>()
    };
    let wanted = results("reference");
    for target in ["cpu", "cpu:clif", "cpu:interpreter"] {
        assert_eq!(results(target), wanted, "{target}");
    }
}
