//! Contractions with parameters, whose layout is changed before the first run.

#[cfg(feature = "cpu")]
use std::time::Instant;

use dlc::base::{DType, Tensor, TensorType};
use dlc::import::Weights;
use dlc::ir::{Attr, Builder, Graph, Value};
use dlc::model::{Model, Options, random_weights};
use dlc::target::Target;

/// `x · w` by an equation, plus a bias over the last axis.
fn product(equation: &str, x: &[usize], w: &[usize]) -> Graph {
    let mut g = Graph::new("product");
    let mut b = Builder::new(&mut g);
    let x = b.input("x", TensorType::of(DType::F32, x));
    let w = b.param("w", TensorType::of(DType::F32, w), "normal(1.0)", false);
    let y = b.op("einsum", &[x, w], &[("equation", Attr::Str(equation.into()))]).unwrap();
    let last = b.ty(y).shape.concrete().unwrap().last().copied().unwrap_or(1);
    let bias = b.param("b", TensorType::of(DType::F32, &[last]), "normal(1.0)", false);
    let y = b.op("add", &[y, bias], &[]).unwrap();
    b.output("y", y);
    g
}

fn input(graph: &Graph) -> Tensor {
    let ty = graph.ty(Value { node: graph.inputs[0], result: 0 });
    let shape = ty.shape.concrete().unwrap();
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
    Tensor::from_slice(&shape, &values)
}

fn model(graph: &Graph, target: &str) -> Model {
    let options = Options { target: Target::parse(target).unwrap(), ..Options::default() };
    let weights: Weights = random_weights(graph, 7).unwrap();
    Model::new(graph.clone(), weights, options, &mut |_, _| {}).unwrap()
}

fn result(graph: &Graph, target: &str) -> Tensor {
    results(graph, target).remove(0)
}

fn results(graph: &Graph, target: &str) -> Vec<Tensor> {
    let mut session = model(graph, target).session().unwrap();
    session.set_input(0, &input(graph)).unwrap();
    session.run().unwrap();
    (0..graph.outputs.len()).map(|i| session.output(i).unwrap()).collect()
}

#[test]
fn packed_parameters_give_the_same_products() {
    let cases: [(&str, &[usize], &[usize]); 7] = [
        ("mk,nk->mn", &[1, 40], &[24, 40]),
        ("mk,nk->mn", &[7, 20], &[13, 20]),
        ("mk,kn->mn", &[4, 5], &[5, 33]),
        ("bmk,nk->bmn", &[2, 3, 9], &[16, 9]),
        ("bsd,dhe->bhse", &[2, 3, 6], &[6, 2, 8]),
        ("bshe,hed->bsd", &[2, 3, 2, 4], &[2, 4, 17]),
        ("hmk,hkn->hmn", &[3, 2, 9], &[3, 9, 18]),
    ];
    for (equation, x, w) in cases {
        let graph = product(equation, x, w);
        let want = result(&graph, "reference");
        let targets: &[&str] = match cfg!(feature = "cpu") {
            true => &["cpu", "cpu:interpreter"],
            false => &["cpu:interpreter"],
        };
        for target in targets {
            let got = result(&graph, target);
            for (i, (a, b)) in want.as_slice::<f32>().iter().zip(got.as_slice::<f32>()).enumerate()
            {
                assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{equation} {target} [{i}]");
            }
        }
    }
}

#[test]
fn large_operands_of_a_run_are_packed_in_it() {
    // Panels of 64, 80 and (transposed, in batches) 48 columns; 130 columns take no panel.
    let cases: [(&str, &[usize], &[usize]); 4] = [
        ("mk,kn->mn", &[200, 700], &[700, 448]),
        ("mk,kn->mn", &[193, 3400], &[3400, 80]),
        ("bmk,bnk->bmn", &[2, 192, 1900], &[2, 144, 1900]),
        ("mk,kn->mn", &[192, 2050], &[2050, 130]),
    ];
    for (i, (equation, x, y)) in cases.into_iter().enumerate() {
        let mut graph = Graph::new("product");
        let mut b = Builder::new(&mut graph);
        let operands = [x, y].map(|shape| TensorType::of(DType::F32, shape));
        let [p, q] = [("x", 0), ("y", 1)].map(|(name, i)| b.input(name, operands[i].clone()));
        let r = b.op("einsum", &[p, q], &[("equation", Attr::Str(equation.into()))]).unwrap();
        b.output("r", r);
        let run = |target: &str| {
            let model = model(&graph, target);
            let launches = model.plan(&Default::default()).unwrap().program.launches.len();
            let mut session = model.session().unwrap();
            for (i, shape) in [x, y].into_iter().enumerate() {
                let n: usize = shape.iter().product();
                let values = (0..n).map(|j| ((j * 37 + i) % 101) as f32 / 64.0 - 0.75);
                session
                    .set_input(i, &Tensor::from_slice(shape, &values.collect::<Vec<_>>()))
                    .unwrap();
            }
            session.run().unwrap();
            (session.output(0).unwrap(), launches)
        };
        let (want, _) = run("reference");
        let targets: &[&str] = match cfg!(feature = "cpu") {
            true => &["cpu", "cpu:x86-64-v3", "cpu:x86-64"],
            false => &["cpu:interpreter"],
        };
        for target in targets {
            let (got, launches) = run(target);
            if *target == "cpu:x86-64-v3" {
                assert_eq!(launches, if i == 3 { 1 } else { 2 }, "{equation}");
            }
            for (a, b) in want.as_slice::<f32>().iter().zip(got.as_slice::<f32>()) {
                assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{equation} {target}: {a} {b}");
            }
        }
    }
}

/// Whether and how parameters are packed changes no bit between machines that fuse multiply and add.
#[test]
#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
fn packing_does_not_depend_on_the_machine() {
    let runs = |t: &&str| Target::parse(t).is_ok_and(|t| t.check_runs_here().is_ok());
    let targets = ["cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:clif"];
    let targets: Vec<&str> = targets.into_iter().filter(runs).collect();
    let cases: [(&str, &[usize], &[usize]); 5] = [
        ("mk,nk->mn", &[1, 97], &[63, 97]),
        ("mk,nk->mn", &[1, 47], &[17, 47]),
        ("bsd,hed->bhse", &[1, 1, 64], &[2, 48, 64]),
        ("bsd,hed->bhse", &[1, 7, 64], &[2, 48, 64]),
        ("bsd,hed->bhse", &[1, 1, 64], &[3, 40, 64]),
    ];
    for (equation, x, w) in cases {
        let graph = product(equation, x, w);
        let results: Vec<Tensor> = targets.iter().map(|t| result(&graph, t)).collect();
        for (target, other) in targets.iter().zip(&results).skip(1) {
            assert_eq!(results[0].bytes(), other.bytes(), "{equation} {x:?} {target}");
        }
    }
}

/// Every number of columns around vectors and panels, and long functions of the sums.
#[test]
fn few_columns_on_every_machine() {
    let runs = |t: &&&str| Target::parse(t).is_ok_and(|t| t.check_runs_here().is_ok());
    let targets = ["cpu:x86-64-v4", "cpu:x86-64-v3", "cpu:x86-64", "cpu:clif", "cpu:interpreter"];
    for (m, k) in [(1, 9), (3, 40), (13, 7), (33, 5)] {
        for n in [1, 2, 3, 7, 10, 16, 17, 20, 31, 33, 84] {
            for (equation, w) in [("mk,nk->mn", [n, k]), ("mk,kn->mn", [k, n])] {
                let mut graph = product(equation, &[m, k], &w);
                let sum = graph.outputs[0].value;
                let mut b = Builder::new(&mut graph);
                let y = b.op("tanh", &[sum], &[]).unwrap();
                b.output("tanh", y);
                let want = results(&graph, "reference");
                for target in targets.iter().filter(runs) {
                    let got = results(&graph, target);
                    for (want, got) in want.iter().zip(&got) {
                        let pairs = want.as_slice::<f32>().iter().zip(got.as_slice::<f32>());
                        for (i, (a, b)) in pairs.enumerate() {
                            let close = (a - b).abs() <= 1e-5 * (1.0 + a.abs());
                            assert!(close, "{m}×{k}×{n} {equation} {target} [{i}]: {a} {b}");
                        }
                    }
                }
            }
        }
    }
}

/// Not a test of values: prints how fast the kernels are. Run it with `--ignored --nocapture`.
#[test]
#[ignore = "measures"]
#[cfg(feature = "cpu")]
fn speed() {
    let peak = dlc::runtime::peak::measure(&Target::host()).unwrap().multiply_add_gflops;
    println!("peak {peak:.1} GFLOP/s");
    for (m, k, n) in [(512, 512, 512), (128, 768, 768), (1, 768, 768), (4, 768, 768), (33, 64, 33)]
    {
        let graph = product("mk,nk->mn", &[m, k], &[n, k]);
        let seconds = best(&graph);
        let rate = 2.0 * (m * k * n) as f64 / seconds / 1e9;
        println!("{m}×{k}×{n}: {rate:.1} GFLOP/s, {:.0} % of the peak", 100.0 * rate / peak);
    }
    for name in ["resnet", "mobilenet"] {
        let path = format!("examples/{name}/{name}.dl");
        let text = std::fs::read_to_string(&path).unwrap();
        let loaded = dlc::front::load(&path, &text, &dlc::front::LoadOptions::default());
        let (lowered, _) = loaded.module.lower(None, false);
        let graph = lowered.unwrap().graph;
        let dims = graph.open_dims().into_iter().map(|d| (d.symbol, 1)).collect();
        let graph = graph.bind(&dims).unwrap();
        println!("{name}: {:.1} ms", 1e3 * best(&graph));
    }
}

#[cfg(feature = "cpu")]
fn best(graph: &Graph) -> f64 {
    let mut session = model(graph, "cpu").session().unwrap();
    session.set_input(0, &input(graph)).unwrap();
    let run = |_| {
        let start = Instant::now();
        session.run().unwrap();
        start.elapsed().as_secs_f64()
    };
    (0..20).map(run).fold(f64::INFINITY, f64::min)
}
