//! Networks of convolutions, whose maps go in blocks of channels where that pays.

use dlc::base::{Bindings, DType, Tensor, TensorType};
use dlc::ir::eval::{Env, Precision, evaluate};
use dlc::ir::graph::NodeId;
use dlc::ir::{Attr, Builder, Graph, Value};
use dlc::model::{Model, Options, random_weights};
use dlc::pipeline::Level;
use dlc::target::Target;

/// Adds layers with parameters of their own.
struct Net<'g> {
    b: Builder<'g>,
    made: usize,
}

#[derive(Clone, Copy)]
struct Conv {
    channels: usize,
    kernel: usize,
    stride: i64,
    groups: usize,
}

const POINTWISE: Conv = Conv { channels: 0, kernel: 1, stride: 1, groups: 1 };

impl Net<'_> {
    fn new(graph: &mut Graph) -> Net<'_> {
        Net { b: Builder::new(graph), made: 0 }
    }

    fn param(&mut self, shape: &[usize]) -> Value {
        self.made += 1;
        let name = format!("p{}", self.made);
        self.b.param(&name, TensorType::of(DType::F32, shape), "normal(0.5)", false)
    }

    fn shape(&self, x: Value) -> Vec<usize> {
        self.b.ty(x).shape.concrete().unwrap()
    }

    fn op(&mut self, name: &str, operands: &[Value]) -> Value {
        self.b.op(name, operands, &[]).unwrap()
    }

    fn conv(&mut self, x: Value, c: Conv) -> Value {
        let channels = self.shape(x)[1];
        let w = self.param(&[c.channels, channels / c.groups, c.kernel, c.kernel]);
        let attrs = [
            ("stride", Attr::Ints(vec![c.stride; 2])),
            ("pad", Attr::Ints(vec![c.kernel as i64 / 2; 2])),
            ("groups", Attr::Int(c.groups as i64)),
        ];
        let y = self.b.op("conv2d", &[x, w], &attrs).unwrap();
        let bias = self.param(&[c.channels, 1, 1]);
        self.op("add", &[y, bias])
    }

    fn relu(&mut self, x: Value) -> Value {
        self.op("relu", &[x])
    }

    fn pool(&mut self, x: Value, name: &str, counts: bool) -> Value {
        let mut attrs = vec![
            ("kernel", Attr::Ints(vec![3, 3])),
            ("stride", Attr::Ints(vec![2, 2])),
            ("pad", Attr::Ints(vec![1, 1])),
        ];
        if name == "avg_pool" {
            attrs.push(("count_include_pad", Attr::Bool(counts)));
        }
        self.b.op(name, &[x], &attrs).unwrap()
    }

    fn concat(&mut self, parts: &[Value]) -> Value {
        self.b.op("concat", parts, &[("axis", Attr::Int(1))]).unwrap()
    }

    /// One group's channels after the other become the groups' first channels, then the second …
    fn shuffle(&mut self, x: Value, groups: usize) -> Value {
        let [n, c, h, w] = self.shape(x).try_into().unwrap();
        let shape = |s: &[usize]| TensorType::of(DType::F32, s).shape;
        let x = self.b.reshape(x, &shape(&[n, groups, c / groups, h, w])).unwrap();
        let perm = [("perm", Attr::Ints(vec![0, 2, 1, 3, 4]))];
        let x = self.b.op("transpose", &[x], &perm).unwrap();
        self.b.reshape(x, &shape(&[n, c, h, w])).unwrap()
    }

    fn output(&mut self, x: Value) {
        self.b.output("y", x);
    }
}

/// A network over `x`.
fn net(x: &[usize], build: impl FnOnce(&mut Net, Value)) -> Graph {
    let mut g = Graph::new("net");
    let mut net = Net::new(&mut g);
    let x = net.b.input("x", TensorType::of(DType::F32, x));
    build(&mut net, x);
    g
}

fn result(graph: &Graph, target: &str) -> Tensor {
    result_of(graph, target, Level::O2, &[])
}

/// With some elements of the input, counted from its first one, replaced.
fn result_of(graph: &Graph, target: &str, level: Level, special: &[(usize, f32)]) -> Tensor {
    let options = Options { target: Target::parse(target).unwrap(), level, ..Options::default() };
    let weights = random_weights(graph, 7).unwrap();
    let model = Model::new(graph.clone(), weights, options, &mut |_, _| {}).unwrap();
    let shape = graph.ty(Value { node: graph.inputs[0], result: 0 }).shape.concrete().unwrap();
    let n: usize = shape.iter().product();
    let mut values: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
    special.iter().for_each(|(i, v)| values[*i] = *v);
    let mut session = model.session().unwrap();
    session.set_input(0, &Tensor::from_slice(&shape, &values)).unwrap();
    session.run().unwrap();
    session.output(0).unwrap()
}

/// The targets that compute, and run here.
fn targets() -> impl Iterator<Item = &'static str> {
    let all: &[&str] = match cfg!(feature = "cpu") {
        true => &["cpu", "cpu:x86-64-v3", "cpu:x86-64", "cpu:clif", "cpu:interpreter"],
        false => &["cpu:interpreter"],
    };
    let here = |t: &&&str| Target::parse(t).is_ok_and(|t| t.check_runs_here().is_ok());
    all.iter().filter(here).copied()
}

/// Every target that computes gives what the reference evaluator gives.
fn check(name: &str, graph: &Graph) {
    let want = result(graph, "reference");
    let greatest = want.as_slice::<f32>().iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(greatest > 0.0 && greatest.is_finite(), "{name}: nothing to compare");
    for target in targets() {
        let got = result(graph, target);
        for (i, (a, b)) in want.as_slice::<f32>().iter().zip(got.as_slice::<f32>()).enumerate() {
            let near = (a - b).abs() <= 2e-5 * greatest;
            assert!(near, "{name} on {target}: element {i} is {b}, not {a}");
        }
    }
}

#[test]
fn channels_that_fill_no_block() {
    for channels in [16, 24, 40, 31] {
        let graph = net(&[2, 3, 9, 11], |n, x| {
            let x = n.conv(x, Conv { channels, kernel: 3, stride: 2, groups: 1 });
            let x = n.relu(x);
            let wide = n.conv(x, Conv { channels: 2 * channels, ..POINTWISE });
            let wide = n.relu(wide);
            let groups = 2 * channels;
            let deep = n.conv(wide, Conv { channels: groups, kernel: 3, stride: 1, groups });
            let deep = n.relu(deep);
            let narrow = n.conv(deep, Conv { channels, ..POINTWISE });
            let sum = n.op("add", &[narrow, x]);
            let y = n.conv(sum, Conv { channels: 12, kernel: 3, stride: 1, groups: 1 });
            n.output(y);
        });
        check(&format!("a bottleneck of {channels} channels"), &graph);
    }
}

#[test]
fn odd_channels_end_in_a_mean() {
    let graph = net(&[2, 16, 6, 5], |n, x| {
        let x = n.conv(x, Conv { channels: 32, ..POINTWISE });
        let x = n.relu(x);
        let x = n.conv(x, Conv { channels: 45, ..POINTWISE });
        let x = n.relu(x);
        let y = n.op("global_avg_pool", &[x]);
        n.output(y);
    });
    check("a classifier of 45 channels", &graph);
}

#[test]
fn gates_of_odd_channels() {
    let graph = net(&[1, 8, 7, 7], |n, x| {
        let x = n.conv(x, Conv { channels: 24, kernel: 3, stride: 1, groups: 1 });
        let x = n.relu(x);
        let mean = n.op("global_avg_pool", &[x]);
        let few = n.conv(mean, Conv { channels: 6, ..POINTWISE });
        let few = n.relu(few);
        let gate = n.conv(few, Conv { channels: 24, ..POINTWISE });
        let gate = n.op("sigmoid", &[gate]);
        let x = n.op("mul", &[x, gate]);
        let y = n.conv(x, Conv { channels: 40, ..POINTWISE });
        let y = n.relu(y);
        let y = n.conv(y, Conv { channels: 5, ..POINTWISE });
        n.output(y);
    });
    check("a gate of 24 channels", &graph);
}

#[test]
fn concatenations_of_maps() {
    for parts in [[16, 32], [24, 16]] {
        let graph = net(&[1, 3, 12, 12], |n, x| {
            let x = n.conv(x, Conv { channels: 16, kernel: 3, stride: 1, groups: 1 });
            let x = n.relu(x);
            let x = n.pool(x, "max_pool", true);
            let a = n.conv(x, Conv { channels: parts[0], ..POINTWISE });
            let a = n.relu(a);
            let b = n.conv(x, Conv { channels: parts[1], kernel: 3, stride: 1, groups: 1 });
            let b = n.relu(b);
            let both = n.concat(&[a, b]);
            let scale = n.param(&[parts[0] + parts[1], 1, 1]);
            let y = n.op("mul", &[both, scale]);
            let y = n.relu(y);
            let y = n.conv(y, Conv { channels: 32, ..POINTWISE });
            let all = n.concat(&[both, y]);
            let all = n.relu(all);
            let y = n.op("global_avg_pool", &[all]);
            n.output(y);
        });
        check(&format!("maps of {parts:?} channels side by side"), &graph);
    }
}

#[test]
fn shuffled_groups_and_pools() {
    for (channels, size) in [(24, 14), (40, 9), (16, 33)] {
        let graph = net(&[1, 3, size, size], |n, x| {
            let x = n.conv(x, Conv { channels, kernel: 3, stride: 1, groups: 1 });
            let x = n.relu(x);
            let x = n.pool(x, "max_pool", true);
            let y = n.conv(x, Conv { channels, groups: 4, ..POINTWISE });
            let y = n.relu(y);
            let y = n.shuffle(y, 4);
            let y = n.conv(y, Conv { channels, kernel: 3, stride: 2, groups: channels });
            let y = n.conv(y, Conv { channels: 2 * channels, groups: 4, ..POINTWISE });
            let rest = n.pool(x, "avg_pool", false);
            let both = n.concat(&[y, rest]);
            let both = n.relu(both);
            let last = n.conv(both, Conv { channels: 8, kernel: 3, stride: 1, groups: 1 });
            n.output(last);
        });
        check(&format!("shuffled groups of {channels} channels, {size} pixels"), &graph);
    }
}

/// How many launches of a graph have an op of this name.
fn launches(graph: &Graph, op: &str, level: Level, strict: bool) -> usize {
    let target = Target::parse("cpu:interpreter").unwrap();
    let mut options = Options { target, level, ..Options::default() };
    options.control.settings.strict = strict;
    let weights = random_weights(graph, 7).unwrap();
    let model = Model::new(graph.clone(), weights, options, &mut |_, _| {}).unwrap();
    let plan = model.plan(&Bindings::new()).unwrap();
    plan.fusion.groups.values().filter(|g| g.ops.contains(&op)).count()
}

#[test]
fn winograd_where_it_pays_and_may_round() {
    let graph = net(&[1, 3, 15, 14], |n, x| {
        let conv = |channels, stride| Conv { channels, kernel: 3, stride, groups: 1 };
        let few = n.conv(x, conv(16, 1));
        let few = n.relu(few);
        // These two; the first one has three channels, the last one steps of two.
        let a = n.conv(few, conv(32, 1));
        let a = n.relu(a);
        let b = n.conv(a, conv(24, 1));
        let b = n.relu(b);
        let last = n.conv(b, conv(32, 2));
        let last = n.relu(last);
        let y = n.op("global_avg_pool", &[last]);
        n.output(y);
    });
    for (level, strict, tiled) in [
        (Level::O0, false, 0),
        (Level::O1, false, 0),
        (Level::O2, false, 2),
        (Level::O3, false, 2),
        (Level::O2, true, 0),
        (Level::O3, true, 0),
    ] {
        let count = |op| launches(&graph, op, level, strict);
        let both = (count("winograd_conv2d"), count("conv2d"));
        assert_eq!(both, (tiled, 4 - tiled), "{level:?}, strict: {strict}");
    }
    check("convolutions in tiles", &graph);
}

/// The error of one convolution of 128 channels, in units of the range of the results.
#[test]
fn bounds_of_rounding_in_tiles() {
    let graph = net(&[1, 128, 28, 28], |n, x| {
        let x = n.conv(x, Conv { channels: 128, ..POINTWISE });
        let y = n.conv(x, Conv { channels: 32, kernel: 3, stride: 1, groups: 1 });
        n.output(y);
    });
    let values: Vec<f32> =
        (0..128 * 28 * 28).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
    let weights = random_weights(&graph, 7).unwrap();
    let named = |id: &NodeId| weights.get(graph.node(*id).op.str("name")).unwrap().clone();
    let env = Env {
        inputs: vec![Tensor::from_slice(&[1, 128, 28, 28], &values)],
        params: graph.params.iter().map(named).collect(),
        ..Env::default()
    };
    let exact = evaluate(&graph, &env, Precision::F64).unwrap().outputs.remove(0);
    let exact: Vec<f64> = (0..exact.numel()).map(|i| exact.get_f64(i)).collect();
    let range = exact.iter().fold(0f64, |m, v| m.max(v.abs()));
    for (level, bound) in [(Level::O2, 5e-6), (Level::O3, 5e-5)] {
        assert_eq!(launches(&graph, "winograd_conv2d", level, false), 1);
        for target in targets() {
            let got = result_of(&graph, target, level, &[]);
            let error = |(a, b): (&f64, &f32)| (a - *b as f64).abs() / range;
            let worst = exact.iter().zip(got.as_slice::<f32>()).map(error).fold(0.0, f64::max);
            assert!(worst <= bound, "{target} {level:?}: {worst:.1e}");
        }
    }
}

/// What is not finite stays where the convolution reads it, though a tile's sums mix all it reads.
#[test]
fn infinities_in_tiles() {
    let (h, w) = (13, 14);
    let graph = net(&[1, 16, h, w], |n, x| {
        let x = n.conv(x, Conv { channels: 16, ..POINTWISE });
        let x = n.relu(x);
        // Of one sign, so that infinities stay such.
        let w = n.param(&[40, 16, 3, 3]);
        let w = n.op("abs", &[w]);
        let y = n.b.op("conv2d", &[x, w], &[("pad", Attr::Int(1))]).unwrap();
        n.output(y);
    });
    let at = |y: usize, x: usize| y * w + x;
    let infinity = f32::INFINITY;
    let special = [(at(0, 0), f32::NAN), (at(6, 9), infinity), (at(12, 3), -infinity)];
    let want = result_of(&graph, "reference", Level::O2, &special);
    let want = want.as_slice::<f32>();
    let greatest = want.iter().filter(|v| v.is_finite()).fold(0f32, |m, v| m.max(v.abs()));
    let sick = want.iter().filter(|v| !v.is_finite()).count();
    assert_eq!(sick, 40 * (4 + 9 + 6), "each is read by the results around it");
    assert!(want.contains(&infinity), "and infinities stay such");
    for (target, level) in targets().flat_map(|t| [(t, Level::O2), (t, Level::O3)]) {
        let got = result_of(&graph, target, level, &special);
        for (i, (a, b)) in want.iter().zip(got.as_slice::<f32>()).enumerate() {
            let same = a == b || a.is_nan() && b.is_nan();
            let near = same || (a - b).abs() <= 5e-5 * greatest;
            assert!(near, "{target} {level:?}: element {i} is {b}, not {a}");
        }
    }
}

/// Windows that slide along the lanes: rows of one vector and of several, padding on both sides,
/// steps of any size.
#[test]
fn windows_over_plain_maps() {
    let cases = [
        (3, 1, 1, [5, 7]),
        (3, 2, 1, [9, 20]),
        (2, 2, 0, [8, 33]),
        (5, 4, 2, [19, 70]),
        (3, 3, 1, [9, 31]),
        (7, 1, 3, [10, 66]),
        (3, 1, 1, [4, 300]),
    ];
    for (kernel, stride, pad, [h, w]) in cases {
        let attrs = || {
            vec![
                ("kernel", Attr::Ints(vec![kernel; 2])),
                ("stride", Attr::Ints(vec![stride; 2])),
                ("pad", Attr::Ints(vec![pad; 2])),
            ]
        };
        let name = format!("of {kernel} by {stride} with {pad} over {h}×{w}");
        let max = net(&[2, 3, h, w], |n, x| {
            let y = n.b.op("max_pool", &[x], &attrs()).unwrap();
            n.output(y);
        });
        check(&format!("maximum {name}"), &max);
        for counts in [true, false] {
            let mean = net(&[2, 3, h, w], |n, x| {
                let counts = ("count_include_pad", Attr::Bool(counts));
                let attrs: Vec<(&str, Attr)> = attrs().into_iter().chain([counts]).collect();
                let y = n.b.op("avg_pool", &[x], &attrs).unwrap();
                n.output(y);
            });
            check(&format!("mean {name}"), &mean);
        }
        let each = net(&[1, 5, h, w], |n, x| {
            let weights = n.param(&[5, 1, kernel as usize, kernel as usize]);
            let attrs = [
                ("stride", Attr::Ints(vec![stride; 2])),
                ("pad", Attr::Ints(vec![pad; 2])),
                ("groups", Attr::Int(5)),
            ];
            let y = n.b.op("conv2d", &[x, weights], &attrs).unwrap();
            n.output(y);
        });
        check(&format!("depthwise {name}"), &each);
    }
}
