//! What each pass makes of the smallest graph that shows it, and that results stay.

use super::*;
use crate::base::{DType, TensorType};
use crate::ir::Builder;
use crate::ir::eval::{Env, Precision, evaluate};
use crate::ir::op::sample::f32s;
use crate::ir::print::print_graph;

/// Inputs `x0`, `x1` … of these shapes, and params `p0` … likewise.
fn graph(
    inputs: &[&[usize]],
    params: &[&[usize]],
    body: impl FnOnce(&mut Builder, &[Value], &[Value]) -> Result<Vec<Value>, OpError>,
) -> Graph {
    let mut g = Graph::new("g");
    let mut b = Builder::new(&mut g);
    let ty = |s: &[usize]| TensorType::of(DType::F32, s);
    let x: Vec<Value> =
        inputs.iter().enumerate().map(|(i, s)| b.input(&format!("x{i}"), ty(s))).collect();
    let p: Vec<Value> = params
        .iter()
        .enumerate()
        .map(|(i, s)| b.param(&format!("p{i}"), ty(s), "zeros", false))
        .collect();
    let out = body(&mut b, &x, &p).unwrap();
    for (i, v) in out.into_iter().enumerate() {
        b.output(&format!("y{i}"), v);
    }
    g
}

/// Runs the passes and dce, compares results, and returns the names of the ops that are left.
fn ops(mut g: Graph, passes: &'static [&'static str], strict: bool) -> Vec<&'static str> {
    let tensors = |ids: &[crate::ir::NodeId]| -> Vec<Tensor> {
        ids.iter()
            .enumerate()
            .map(|(i, id)| f32s(&g.node(*id).results[0].shape.concrete().unwrap(), i as u64 + 7))
            .map(|t| {
                // Positive, so that roots and logarithms exist.
                let data: Vec<f32> = t.as_slice::<f32>().iter().map(|v| v.abs() + 0.5).collect();
                Tensor::from_slice(t.shape(), &data)
            })
            .collect()
    };
    let env = Env { inputs: tensors(&g.inputs), params: tensors(&g.params), states: vec![] };
    let before = evaluate(&g, &env, Precision::Own).unwrap().outputs;
    let settings = Settings { strict, ..Settings::default() };
    let control = Control { settings, verify_each: true, ..Control::default() };
    let steps: Vec<Step> = passes.iter().chain(&["dce"]).map(|n| Step::Pass(n)).collect();
    run(&mut g, &steps, &control, &mut |_, _| {}).unwrap();
    let after = evaluate(&g, &env, Precision::Own).unwrap().outputs;
    for (a, b) in before.iter().zip(&after) {
        for i in 0..a.numel() {
            let (a, b) = (a.get_f64(i), b.get_f64(i));
            assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{a} {b}\n{}", print_graph(&g).text);
        }
    }
    let named = |id| g.node(id).op.row.name;
    let sources = g.inputs.len() + g.params.len();
    g.ids().skip(sources).map(named).collect()
}

fn int(name: &'static str, v: i64) -> (&'static str, Attr) {
    (name, Attr::Ints(vec![v]))
}

const KEEP: (&str, Attr) = ("keepdims", Attr::Bool(true));

fn softmax(b: &mut Builder, x: Value) -> Result<Value, OpError> {
    let top = b.op("amax", &[x], &[int("axis", -1), KEEP])?;
    let below = b.bin("sub", x, top)?;
    let p = b.un("exp", below)?;
    let sum = b.op("sum", &[p], &[int("axis", -1), KEEP])?;
    b.bin("div", p, sum)
}

#[test]
fn raises_softmax_and_attention() {
    let g = graph(&[&[2, 5]], &[], |b, x, _| Ok(vec![softmax(b, x[0])?]));
    assert_eq!(ops(g, &["raise"], false), ["softmax"]);
    let attention = |b: &mut Builder, x: &[Value], _: &[Value]| {
        let k = b.op("transpose", &[x[1]], &[])?;
        let s = b.bin("matmul", x[0], k)?;
        let s = b.bin_const("div", s, 2.0)?;
        let s = b.bin("add", s, x[3])?;
        let p = softmax(b, s)?;
        Ok(vec![b.bin("matmul", p, x[2])?])
    };
    let shapes: [&[usize]; 4] = [&[2, 3, 4], &[2, 5, 4], &[2, 5, 4], &[3, 5]];
    assert_eq!(ops(graph(&shapes, &[], attention), &["raise"], false), ["attention"]);
    assert!(!ops(graph(&shapes, &[], attention), &["raise"], true).contains(&"attention"));
}

#[test]
fn raises_log_softmax() {
    let g = graph(&[&[2, 5]], &[], |b, x, _| {
        let top = b.op("amax", x, &[int("axis", 1), KEEP])?;
        let below = b.bin("sub", x[0], top)?;
        let p = b.un("exp", below)?;
        let sum = b.op("sum", &[p], &[int("axis", 1), KEEP])?;
        let log = b.un("log", sum)?;
        Ok(vec![b.bin("sub", below, log)?])
    });
    assert_eq!(ops(g, &["raise"], false), ["log_softmax"]);
}

#[test]
fn raises_norms() {
    let layer = graph(&[&[2, 3, 8]], &[&[8], &[8]], |b, x, p| {
        let mean = b.op("mean", x, &[int("axis", -1), KEEP])?;
        let d = b.bin("sub", x[0], mean)?;
        let two = b.scalar(DType::F32, 2.0);
        let square = b.bin("pow", d, two)?;
        let var = b.op("mean", &[square], &[int("axis", 2), KEEP])?;
        let var = b.bin_const("add", var, 1e-5)?;
        let root = b.un("sqrt", var)?;
        let y = b.bin("div", d, root)?;
        let y = b.bin("mul", p[0], y)?;
        Ok(vec![b.bin("add", y, p[1])?])
    });
    assert_eq!(ops(layer, &["raise"], false), ["layer_norm"]);
    let rms = graph(&[&[3, 8]], &[&[8]], |b, x, p| {
        let square = b.bin("mul", x[0], x[0])?;
        let sum = b.op("sum", &[square], &[int("axis", -1), KEEP])?;
        let mean = b.bin_const("mul", sum, 0.125)?;
        let shifted = b.bin_const("add", mean, 1e-6)?;
        let root = b.un("rsqrt", shifted)?;
        let y = b.bin("mul", x[0], root)?;
        Ok(vec![b.bin("mul", y, p[0])?])
    });
    assert_eq!(ops(rms, &["raise"], false), ["rms_norm"]);
}

#[test]
fn raises_activations() {
    let gelu = graph(&[&[9]], &[], |b, x, _| {
        let u = b.bin_const("div", x[0], std::f64::consts::SQRT_2)?;
        let e = b.un("erf", u)?;
        let e = b.bin_const("add", e, 1.0)?;
        let y = b.bin("mul", x[0], e)?;
        Ok(vec![b.bin_const("mul", y, 0.5)?])
    });
    assert_eq!(ops(gelu, &["raise"], false), ["gelu"]);
    let tanh = graph(&[&[9]], &[], |b, x, _| {
        let three = b.scalar(DType::F32, 3.0);
        let cube = b.bin("pow", x[0], three)?;
        let cube = b.bin_const("mul", cube, 0.044715)?;
        let sum = b.bin("add", x[0], cube)?;
        let u = b.bin_const("mul", sum, 0.797_884_6)?;
        let t = b.un("tanh", u)?;
        let t = b.bin_const("add", t, 1.0)?;
        let half = b.bin_const("mul", x[0], 0.5)?;
        Ok(vec![b.bin("mul", half, t)?])
    });
    assert_eq!(ops(tanh, &["raise"], false), ["gelu"]);
    let silu = graph(&[&[9]], &[], |b, x, _| {
        let gate = b.un("sigmoid", x[0])?;
        let e = b.un("exp", x[0])?;
        let one = b.bin_const("add", e, 1.0)?;
        Ok(vec![b.bin("mul", gate, x[0])?, b.un("log", one)?])
    });
    assert_eq!(ops(silu, &["raise"], false), ["silu", "softplus"]);
}

#[test]
fn batch_norm_folds_into_the_convolution() {
    let shapes: [&[usize]; 6] = [&[4, 3, 3, 3], &[4], &[4], &[4], &[4], &[4]];
    let net = |b: &mut Builder, x: &[Value], p: &[Value]| {
        let y = b.op("conv2d", &[x[0], p[0], p[5]], &[])?;
        Ok(vec![b.op("batch_norm", &[y, p[1], p[2], p[3], p[4]], &[])?])
    };
    let passes = &["unwrap", "fold_batch_norm", "dce"];
    let left = ops(graph(&[&[1, 3, 6, 6]], &shapes, net), passes, false);
    let strict = ops(graph(&[&[1, 3, 6, 6]], &shapes, net), passes, true);
    // Of what the image goes through, a convolution and a sum are left.
    let muls = |ops: &[&str]| ops.iter().filter(|n| **n == "mul").count();
    assert_eq!(left.last(), Some(&"add"));
    assert_eq!(muls(&left), muls(&strict) + 1, "one for the weights, one for the shift");
}

#[test]
fn queries_keys_and_values_merge() {
    let shapes: [&[usize]; 6] = [&[4, 8], &[4], &[4, 8], &[4], &[6, 8], &[6]];
    let net = |b: &mut Builder, x: &[Value], p: &[Value]| {
        (0..3).map(|i| b.op("dense", &[x[0], p[2 * i], p[2 * i + 1]], &[])).collect()
    };
    let left = ops(graph(&[&[2, 8]], &shapes, net), &["unwrap", "merge", "dce"], true);
    assert_eq!(left, ["concat", "dense", "concat", "add", "slice", "slice", "slice"]);
}

#[test]
fn simple_composites_open() {
    let g = graph(&[&[3]], &[], |b, x, _| {
        let y = b.un("stop_gradient", x[0])?;
        Ok(vec![b.un("leaky_relu", y)?])
    });
    assert_eq!(ops(g, &["unwrap"], true), ["leaky_relu"]);
}

#[test]
fn equations_of_elementwise_ops() {
    let g = graph(&[&[2, 3]], &[], |b, x, _| {
        let y = b.bin_const("mul", x[0], 1.0)?;
        let y = b.un("neg", y)?;
        let y = b.un("neg", y)?;
        let y = b.bin_const("sub", y, 0.0)?;
        Ok(vec![b.bin_const("add", y, -0.0)?])
    });
    assert_eq!(ops(g, &["algebra"], true), Vec::<&str>::new());
    let g = || {
        graph(&[&[2, 3]], &[], |b, x, _| {
            let y = b.bin_const("add", x[0], 0.0)?;
            let y = b.bin_const("div", y, 3.0)?;
            Ok(vec![b.bin_const("mul", y, 2.0)?])
        })
    };
    assert_eq!(ops(g(), &["algebra"], true).iter().filter(|n| **n != "constant").count(), 3);
    let left = ops(g(), &["algebra", "fold", "algebra", "fold", "algebra"], false);
    assert_eq!(left, ["constant", "mul"]);
}

#[test]
fn equations_of_views_and_products() {
    let g = graph(&[&[2, 3, 4]], &[&[5, 4]], |b, x, p| {
        let y = b.op("transpose", &[x[0]], &[("perm", Attr::Ints(vec![1, 0, 2]))])?;
        let y = b.op("transpose", &[y], &[("perm", Attr::Ints(vec![1, 0, 2]))])?;
        let w = b.op("transpose", &[p[0]], &[])?;
        let y = b.bin("matmul", y, w)?;
        let parts = b.op("concat", &[y, y], &[("axis", Attr::Int(2))])?;
        let at = [("starts", Attr::Ints(vec![5])), ("ends", Attr::Ints(vec![9]))];
        let axes = [("axes", Attr::Ints(vec![2]))];
        Ok(vec![b.op("slice", &[parts], &[&at[..], &axes].concat())?])
    });
    assert_eq!(ops(g, &["algebra", "algebra", "dce"], true), ["matmul", "slice"]);
}

#[test]
fn a_branch_known_at_compile_time_is_taken() {
    let branch = |name: &str| {
        let mut g = Graph::new(name);
        let mut b = Builder::new(&mut g);
        let x = b.input("x", TensorType::of(DType::F32, &[3]));
        let y = b.un(name, x).unwrap();
        b.output("y", y);
        g
    };
    let g = graph(&[&[3]], &[], |b, x, _| {
        let yes = b.constant(Tensor::from_bools(&[], &[false]));
        let row = crate::ir::op::find("cond").unwrap();
        let op = crate::ir::op::Op::new(row, &[]);
        let node = b.push(op, vec![yes, x[0]], vec![branch("exp"), branch("tanh")])?;
        Ok(vec![Value { node, result: 0 }])
    });
    assert_eq!(ops(g, &["algebra", "dce"], true), ["tanh"]);
}
