//! Kernels of real Programs keep the rules of `kernel::verify`: every access is inside its buffer.

use dlc::base::{Bindings, Symbol};
use dlc::import::Weights;
use dlc::ir::Graph;
use dlc::ir::random::{Limits, random_graph};
use dlc::kernel::verify::verify;
use dlc::model::{Model, Options};
use dlc::pipeline::Level;
use dlc::target::Target;

use crate::ops::walk;

const TARGETS: [&str; 2] = ["cpu:x86-64", "cpu:x86-64-v4"];

/// Compiles a graph and proves its kernels; text says which kernels are not proved.
fn proved(graph: Graph, level: Level, target: &str, dims: &Bindings) -> Result<(), String> {
    let target = Target::parse(target).map_err(|d| d.message)?;
    let options = Options { level, target, ..Options::default() };
    let model = Model::new(graph, Weights::default(), options, &mut |_, _| {});
    let plan = model.and_then(|m| m.plan(dims)).map_err(|d| d.to_string())?;
    let faults = plan.program.kernels.iter().filter_map(|k| verify(k).err());
    let faults: Vec<String> = faults.map(|e| e.to_string()).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

#[test]
fn kernels_of_every_op_are_proved() {
    for (level, target) in
        [(Level::O0, TARGETS[0]), (Level::O2, TARGETS[0]), (Level::O2, TARGETS[1])]
    {
        walk("kernels", |case| proved(case.graph.clone(), level, target, &Bindings::new()));
    }
}

#[test]
fn kernels_of_random_graphs_are_proved() {
    for seed in 0..60 {
        for level in [Level::O0, Level::O2] {
            let graph = random_graph(seed, &Limits::default()).graph;
            if let Err(faults) = proved(graph, level, TARGETS[0], &Bindings::new()) {
                panic!("seed {seed}, {level:?}: {faults}");
            }
        }
    }
}

#[test]
fn kernels_of_the_examples_are_proved() {
    let batch: &[(&str, i64)] = &[("batch", 3)];
    for (name, model, dims) in [
        ("iris/iris.dl", None, batch),
        ("digits/digits.dl", Some("cnn"), batch),
        ("digits/digits.dl", Some("mlp"), &[("batch", 360)]),
        ("resnet/resnet.dl", None, batch),
        ("mobilenet/mobilenet.dl", None, batch),
        ("transformer/transformer.dl", None, &[("batch", 2), ("seq", 17)]),
    ] {
        let path = format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let loaded = dlc::front::load(&path, &text, &dlc::front::LoadOptions::default());
        let graph = loaded.module.lower(model, false).0.expect("the example is right").graph;
        let dims: Bindings = dims.iter().map(|(n, v)| (Symbol::new(n), *v)).collect();
        for target in TARGETS {
            if let Err(faults) = proved(graph.clone(), Level::O2, target, &dims) {
                panic!("{name} for {target}: {faults}");
            }
        }
    }
}
