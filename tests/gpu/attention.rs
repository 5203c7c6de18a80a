//! Attention by its template against the reference: shapes, masks, heads, values that are special.

use dlc::base::{DType, Tensor};
use dlc::ir::Attr;
use dlc::ir::op::sample::{bools, f32s, ints, uniform};
use dlc::ir::op::walk::{Case, graph_of};
use dlc::ir::op::{Sample, find};
use dlc::model::{Model, Options};
use dlc::pipeline::Level;
use dlc::runtime::dispatch::Dispatches;
use dlc::runtime::gpu::device::Device;
use dlc::target::wgsl::Matmul;

use super::{Env, Precision, evaluate, here, options, outputs};

/// Small attention too is computed in tiles.
fn in_tiles() -> Options {
    Options { matmul: Matmul::Tiled, ..options(Level::O2) }
}

/// Whether a model's shaders are the template's.
fn is_template(model: &Model) -> bool {
    let mut limits = Device::shared(None).unwrap().allowed();
    limits.features.matmul = Matmul::Tiled;
    let program = model.program(&Default::default()).unwrap();
    let dispatches = Dispatches::of(&program, &limits).unwrap();
    dispatches.shaders.iter().any(|p| p.shader.source.contains("fn score("))
}

/// Both results of the op, by the op's tolerance.
fn check(what: &str, operands: [Option<Tensor>; 5], attrs: &[(&'static str, Attr)]) {
    let row = find("attention").unwrap();
    let sample = Sample { operands: operands.into(), attrs: attrs.to_vec(), regions: vec![] };
    let (graph, node, env) = graph_of(row, sample).unwrap();
    let model = Model::new(graph.clone(), Default::default(), in_tiles(), &mut |_, _| {}).unwrap();
    assert!(is_template(&model), "{what}");
    let run = |precision| evaluate(&graph, &env, precision).unwrap().outputs;
    let (own, exact) = (run(Precision::Own), run(Precision::F64));
    let got = outputs(&graph, &env, in_tiles()).unwrap();
    let case =
        Case { row, index: 0, graph: graph.clone(), node, env: Env::clone(&env), own, exact };
    case.check(&got).unwrap_or_else(|e| panic!("{what}: {e}"));
}

/// Queries of (heads, rows, depth), keys and values of (heads, keys, width).
fn qkv(
    dtype: DType,
    (heads, rows, depth): (usize, usize, usize),
    (of_keys, keys, width): (usize, usize, usize),
) -> [Option<Tensor>; 5] {
    let part = |shape: [usize; 3], seed| Some(uniform(dtype, &shape, seed, -2.0, 2.0));
    let [q, k, v] = [[heads, rows, depth], [of_keys, keys, depth], [of_keys, keys, width]];
    [part(q, 1), part(k, 2), part(v, 3), None, None]
}

const CAUSAL: (&str, Attr) = ("causal", Attr::Bool(true));

fn offset(n: i32) -> Option<Tensor> {
    Some(Tensor::from_slice(&[], &[n]))
}

#[test]
fn shapes() {
    if !here() {
        return;
    }
    let cases = [
        ((3, 37, 24), (3, 53, 40)),
        ((2, 70, 128), (1, 70, 128)),
        ((1, 5, 256), (1, 20, 255)),
        ((2, 3, 1), (2, 1, 1)),
    ];
    for (q, k) in cases {
        check(&format!("{q:?} {k:?}"), qkv(DType::F32, q, k), &[]);
    }
}

#[test]
fn masks() {
    if !here() {
        return;
    }
    let plain = || qkv(DType::F32, (2, 33, 16), (2, 45, 16));
    let with = |mask: Option<Tensor>, offset: Option<Tensor>| {
        let [q, k, v, _, _] = plain();
        [q, k, v, mask, offset]
    };
    // The first rows see no key.
    check("causal", with(None, offset(-9)), &[CAUSAL]);
    let [q, k, v, mask, _] = qkv(DType::F32, (4, 1, 64), (2, 300, 64));
    check("one token", [q, k, v, mask, offset(217)], &[CAUSAL]);
    let mut keep = bools(&[33, 45], 4).as_bools().iter().map(|b| *b != 0).collect::<Vec<_>>();
    keep[2 * 45..4 * 45].fill(false);
    check("kept", with(Some(Tensor::from_bools(&[33, 45], &keep)), None), &[CAUSAL]);
    let mut added = f32s(&[2, 1, 45], 5).as_slice::<f32>().to_vec();
    added[..45].fill(f32::NEG_INFINITY);
    added[50] = f32::NEG_INFINITY;
    check("added", with(Some(Tensor::from_slice(&[2, 1, 45], &added)), None), &[]);
}

/// Scores that leave one key only, rising and falling from block to block, and what is not finite: in the
/// queries, the keys and the values, of a head each.
#[test]
fn values() {
    if !here() {
        return;
    }
    let whole = |shape: &[usize], seed| ints(DType::F32, shape, seed, -9, 9);
    let (q, k) = (whole(&[3, 6, 40], 1), whole(&[3, 290, 40], 2));
    let v = f32s(&[3, 290, 8], 3);
    let scale = [("scale", Attr::Float(1.0))];
    check("large", [Some(q.clone()), Some(k.clone()), Some(v.clone()), None, None], &scale);
    let special = |t: &Tensor, at: &[([usize; 3], f32)]| {
        let (mut values, shape) = (t.as_slice::<f32>().to_vec(), t.shape().to_vec());
        at.iter().for_each(|([i, j, k], v)| values[(i * shape[1] + j) * shape[2] + k] = *v);
        Some(Tensor::from_slice(&shape, &values))
    };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let q = special(&q, &[([0, 2, 3], nan), ([0, 4, 7], inf)]);
    let k = special(&k, &[([1, 281, 5], nan)]);
    let v = special(&v, &[([2, 3, 1], nan), ([2, 270, 2], inf), ([2, 8, 4], -inf)]);
    check("not finite", [q, k, v, None, None], &scale);
}

/// Heads out of the rows of one product, and what is fused behind.
#[test]
fn fused() {
    if !here() {
        return;
    }
    let models = [
        "model m(x: f32[2, 21, 96], r: f32[2, 21, 32]) {\n\
         q, k, v = x |> split_heads(4, 3)\n\
         return relu((attention(q, k, v, causal = true) |> merge_heads) + r) }",
        "model m(q: f16[3, 30, 16], k: f16[3, 9, 16]) { return attention(q, k, k) * 2.0 }",
    ];
    for text in models {
        let model = dlc::compile(text, &in_tiles()).unwrap();
        assert!(is_template(&model), "{text}");
        let graph = model.graph().unwrap().clone();
        let want = super::output(&graph, "reference");
        let near = dlc::ir::compare::allclose(&super::output_of(&model), &want, 2e-3, 1e-5);
        assert!(near.is_ok(), "{text}: {near:?}");
    }
}
