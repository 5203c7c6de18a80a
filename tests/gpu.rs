//! Models as compute shaders, on whatever adapter there is: a software one does.

use dlc::base::Tensor;
use dlc::model::{Model, Options, random_weights};
use dlc::runtime::gpu::device::adapters;
use dlc::target::Target;

/// The first output on a target, of inputs that are the same everywhere.
fn output(text: &str, target: &str) -> Tensor {
    let options = Options { target: Target::parse(target).unwrap(), ..Options::default() };
    let graph = dlc::compile(text, &options).unwrap().graph().unwrap().clone();
    let weights = random_weights(&graph, 3).unwrap();
    let model = Model::new(graph, weights, options, &mut |_, _| {}).unwrap();
    let mut session = model.session().unwrap();
    for (i, (_, ty)) in model.inputs().iter().enumerate() {
        let shape = ty.shape.concrete().unwrap();
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|k| ((k * 37 % 101) as f32 - 50.0) / 64.0).collect();
        session.set_input(i, &Tensor::from_slice(&shape, &values)).unwrap();
    }
    session.run().unwrap();
    session.output(0)
}

#[test]
fn models_as_shaders() {
    if adapters().is_empty() {
        eprintln!("no GPU adapter: nothing to test");
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
        let (got, want) = (output(text, "gpu"), output(text, "reference"));
        let near = dlc::ir::compare::allclose(&got, &want, 2e-5, 1e-5);
        assert!(near.is_ok(), "{name}: {near:?}");
    }
}
