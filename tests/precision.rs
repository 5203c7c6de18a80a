//! `--precision`: products in f16 and bf16, their parameters and what lies between them.

use dlc::base::{DType, Tensor};
use dlc::import::Weights;
use dlc::ir::Graph;
use dlc::ir::compare::allclose;
use dlc::model::{Model, Options, random_weights};
use dlc::target::Target;

const TEXT: &str = "model m(x: f32[3, 6, 9, 8]) {
  return x |> conv2d(16, 3, pad = 1) as a |> relu |> conv2d(8, 3) as b |> flatten |> dense(10) as c
}";

fn graph() -> Graph {
    dlc::compile(TEXT, &Options::default()).unwrap().graph().unwrap().clone()
}

fn model(weights: &Weights, narrow: Option<DType>, target: &str) -> Model {
    let mut options = Options { target: Target::parse(target).unwrap(), ..Options::default() };
    options.control.settings.narrow = narrow;
    Model::new(graph(), weights.clone(), options, &mut |_, _| {}).unwrap()
}

/// The output for an input that is always the same.
pub fn output(weights: &Weights, narrow: Option<DType>, target: &str) -> Tensor {
    let values: Vec<f32> = (0..3 * 6 * 9 * 8).map(|i| (i * 31 % 97) as f32 / 48.0 - 1.0).collect();
    let model = model(weights, narrow, target);
    let mut session = model.session().unwrap();
    session.set_input(0, &Tensor::from_slice(&[3, 6, 9, 8], &values)).unwrap();
    session.run().unwrap();
    session.output(0).unwrap()
}

pub fn weights() -> Weights {
    random_weights(&graph(), 5).unwrap()
}

#[test]
fn results_are_near_and_rounded() {
    let weights = weights();
    let wide = output(&weights, None, "reference");
    for (narrow, tolerance) in [(DType::F16, 4e-3), (DType::BF16, 3e-2)] {
        for target in ["cpu", "cpu:clif", "cpu:interpreter", "cpu:x86-64"] {
            let got = output(&weights, Some(narrow), target);
            assert_eq!(got.dtype(), DType::F32);
            let near = allclose(&got, &wide, tolerance, tolerance);
            assert!(near.is_ok(), "{narrow} on {target}: {near:?}");
            assert_ne!(got, wide, "{narrow} on {target} rounds nothing");
        }
    }
}

/// Parameters of products are stored in the narrow type, and so is what lies between products.
#[test]
fn memory_is_narrow() {
    let plan = model(&weights(), Some(DType::F16), "cpu:interpreter").plan(&Default::default());
    let plan = plan.unwrap();
    let halves = plan.program.consts.iter().filter(|c| c.dtype == DType::F16).count();
    assert_eq!(halves, 3);
    let wide = plan.program.buffers.iter().filter(|b| b.dtype == DType::F32);
    // The input, the output and the biases.
    assert_eq!(wide.count(), 2 + 3, "{:?}", plan.program.buffers);
}

#[test]
fn parameters_beyond_the_range_are_named() {
    let mut weights = weights();
    let path = weights.tensors.keys().find(|p| p.ends_with("b.weight")).unwrap().clone();
    let large = weights.tensors[&path].clone();
    let mut values = large.as_slice::<f32>().to_vec();
    values[3] = 1e6;
    weights.insert(&path, Tensor::from_slice(large.shape(), &values));
    let warnings = |narrow| model(&weights, narrow, "cpu").warnings();
    let found = warnings(Some(DType::F16));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].code, "W0104");
    assert!(found[0].message.contains(&path), "{}", found[0].message);
    assert!(warnings(Some(DType::BF16)).is_empty() && warnings(None).is_empty());
}
