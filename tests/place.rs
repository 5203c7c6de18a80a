//! Models on two queues. Without an adapter the queue `gpu` is the kernel interpreter's, so that
//! placing, cutting and running are checked everywhere; with one, it is the adapter's.

use std::collections::BTreeSet;

use dlc::base::Tensor;
use dlc::ir::Graph;
use dlc::ir::eval::Results;
use dlc::ir::op::Class;
use dlc::ir::print::print_graph;
use dlc::ir::random::{Limits, RandomGraph, random_graph};
use dlc::model::{Diagnostics, Model, Options, random_weights};
use dlc::pipeline::Level;
use dlc::placed::{Place, Placed};
use dlc::schedule::place::{
    Abilities, Accelerator, Costs, Origin, Placing, Rule, Rules, Split, Units,
};
use dlc::schedule::program::Queue;
use dlc::target::Target;

const ABLE: Abilities = Abilities { int64: true, float64: true };

fn graph(text: &str) -> Graph {
    dlc::compile(text, &Options::default()).unwrap().graph().unwrap().clone()
}

fn costs(gpu: Accelerator, abilities: Abilities) -> Costs {
    Costs::of(&Target::parse("cpu:x86-64-v3").unwrap().machine, 2, gpu, abilities)
}

/// A file of queues, with the interpreter for the GPU.
fn by_file(text: &str) -> Options {
    let rule = Rule::File(Rules::parse("queues", text).unwrap());
    let stand_in = Some(Target::parse("cpu:interpreter").unwrap());
    Options { place: Some(Place { rule, stand_in }), ..Options::default() }
}

/// A queue for each node that computes, by the bits of a number.
fn drawn(graph: &Graph, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut line = |i: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let queue = if state >> 63 == 0 { "cpu" } else { "gpu" };
        format!("%{i} {queue}\n")
    };
    let order = graph.canonical_order();
    let computes = |id| !matches!(graph.class(id), Class::Source(_));
    let computing = order.iter().enumerate().filter(|(_, id)| computes(**id));
    computing.map(|(i, _)| line(i)).collect()
}

pub fn model(r: &RandomGraph, options: Options) -> Result<Model, Diagnostics> {
    let mut weights = dlc::import::Weights::default();
    for (id, value) in r.graph.params.iter().zip(&r.env.params) {
        weights.insert(r.graph.node(*id).op.str("name"), value.clone());
    }
    Model::new(r.graph.clone(), weights, options, &mut |_, _| {})
}

/// One run from the given states.
pub fn ran(r: &RandomGraph, model: &Model) -> Result<Results, Diagnostics> {
    let mut session = model.session()?;
    for (i, t) in r.env.inputs.iter().enumerate() {
        session.set_input(i, t)?;
    }
    for (i, t) in r.env.states.iter().enumerate() {
        session.set_state(i, t)?;
    }
    session.run()?;
    let outputs = (0..r.graph.outputs.len()).map(|i| session.output(i).unwrap()).collect();
    let states = (0..r.graph.states.len()).map(|i| session.state(i).unwrap()).collect();
    Ok(Results { outputs, states })
}

/// Runs a random graph with each node on a queue drawn for it; says how many segments that made.
fn check(seed: u64, level: Level, stand_in: Option<&str>) -> usize {
    let r = random_graph(seed, &Limits::default());
    let plain = model(&r, Options { level, ..Options::default() }).unwrap();
    let queues = drawn(plain.graph().unwrap(), seed);
    let Some(Place { rule, .. }) = by_file(&queues).place else { unreachable!() };
    let stand_in = stand_in.map(|name| Target::parse(name).unwrap());
    let place = Some(Place { rule, stand_in });
    let placed = model(&r, Options { level, place, ..Options::default() }).unwrap();
    let expected = r.expected().unwrap();
    let text = || format!("seed {seed}: {}\n{queues}", print_graph(placed.graph().unwrap()).text);
    let got = ran(&r, &placed).unwrap_or_else(|e| panic!("{e}\n{}", text()));
    r.check(&expected, &got).unwrap_or_else(|e| panic!("{e}\n{}", text()));
    let parts = placed.placed(&Default::default()).unwrap();
    reads_only_earlier(&parts);
    well_formed(&parts);
    parts.segments.len()
}

fn reads_only_earlier(placed: &Placed) {
    for (i, segment) in placed.segments.iter().enumerate() {
        for origin in &segment.origins {
            if let Origin::Part { part, output } = origin {
                assert!(*part < i, "segment {i} reads {part}");
                assert!(*output < placed.segments[*part].plan.program.outputs.len());
            }
        }
    }
}

/// The view of the schedule: numbers ascend along dependencies, and the longest chain is one.
fn well_formed(placed: &Placed) {
    let view = placed.schedule();
    for (i, row) in view.rows.iter().enumerate() {
        assert!(row.depends_on.iter().all(|d| *d < i), "launch {i}: {:?}", row.depends_on);
        let waits = |d: &usize| view.rows[*d].wave < row.wave;
        assert!(row.depends_on.iter().all(waits), "launch {i} runs beside what it reads");
    }
    for pair in view.critical.windows(2) {
        assert!(view.rows[pair[1]].depends_on.contains(&pair[0]));
    }
    for t in &view.transfers {
        assert_ne!(t.from, t.to);
        assert!(t.after.is_none_or(|a| view.rows[a].queue == t.from));
        assert!(t.before.is_none_or(|b| view.rows[b].queue == t.to));
    }
}

#[test]
fn random_graphs_on_drawn_queues() {
    let count = std::env::var("DLC_RANDOM").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let mut segments = 0;
    for seed in 20_000..20_000 + count {
        let level = [Level::O0, Level::O1, Level::O2][seed as usize % 3];
        segments += check(seed, level, Some("cpu:interpreter"));
    }
    assert!(segments > 3 * count as usize, "graphs are cut: {segments} segments");
}

/// Each node of a unit is in one part, or in as many as need it where it depends on no input.
#[test]
fn every_node_is_placed_once() {
    for seed in 21_000..21_060 {
        let r = random_graph(seed, &Limits::default());
        let units = Units::of(&r.graph, &|id| id.0 % 3 == 0);
        for (i, unit) in units.all.iter().enumerate() {
            assert!(unit.reads.iter().all(|read| *read < i), "units are in order");
            assert!(unit.nodes.iter().all(|id| units.unit(*id) == Some(i)));
        }
        let draw = |u: usize| Some([Queue::Cpu, Queue::Gpu][(seed as usize + u * u / 3) % 2]);
        let wanted: Vec<Option<Queue>> = (0..units.all.len()).map(draw).collect();
        let costs = costs(Accelerator::Discrete, ABLE);
        let placing = Placing::of(&r.graph, &units, &costs, &wanted);
        assert!(placing.queues.iter().map(|q| Some(*q)).eq(wanted), "wishes are kept");
        let split = Split::of(&r.graph, &units, &placing.timeline.segments);
        let mut seen = BTreeSet::new();
        for (i, part) in split.parts.iter().enumerate() {
            assert!(part.nodes.iter().all(|id| seen.insert(*id)), "a node is in two parts");
            for origin in &part.origins {
                let earlier = |p: usize| p < i;
                assert!(!matches!(origin, Origin::Part { part, .. } if !earlier(*part)));
            }
        }
        let counted = r.graph.ids().filter(|id| units.unit(*id).is_some());
        assert!(counted.eq(seen), "every node is in a part");
        let states: usize = split.parts.iter().map(|p| p.graph.states.len()).sum();
        assert_eq!(states, r.graph.states.len());
    }
}

/// A network of two branches, one of which the other queue computes meanwhile.
const BRANCHES: &str = "model m(x: f32[1, 64, 56, 56]) {
    a = x |> conv2d(64, 3, pad = 1) as first |> relu
    b = a |> conv2d(128, 3, 2, pad = 1) as left |> relu |> conv2d(128, 3, pad = 1) as right
    c = a |> conv2d(128, 1, 2) as skip
    return relu(b + c)
}";

#[test]
fn the_cost_model_is_deterministic() {
    let graph = graph(BRANCHES);
    for gpu in [Accelerator::Discrete, Accelerator::Integrated] {
        let place = || {
            let units = Units::of(&graph, &|_| false);
            let wanted = vec![None; units.all.len()];
            let placing = Placing::of(&graph, &units, &costs(gpu, ABLE), &wanted);
            (placing.queues, placing.timeline.segments)
        };
        assert_eq!(place(), place());
    }
}

#[test]
fn branches_run_side_by_side() {
    let options = by_file("* gpu\nskip cpu");
    let model = dlc::compile(BRANCHES, &options).unwrap();
    let placed = model.placed(&Default::default()).unwrap();
    let queues: Vec<&str> = placed.segments.iter().map(|s| s.queue.name()).collect();
    let mut sorted = queues.clone();
    sorted.sort();
    assert_eq!(sorted, ["cpu", "gpu", "gpu", "gpu"], "first, both branches, the sum");
    // The branches wait for the first one alone.
    for branch in &placed.segments[1..3] {
        assert_eq!(branch.origins, [Origin::Part { part: 0, output: 0 }]);
    }
}

/// A step that is small, and far from what it reads: not worth a transfer.
#[test]
fn small_islands_stay() {
    let graph =
        graph("model m(x: f32[4, 8]) { return x |> dense(8) as a |> softmax |> dense(4) as b }");
    let units = Units::of(&graph, &|_| false);
    let wanted = vec![None; units.all.len()];
    let placing = Placing::of(&graph, &units, &costs(Accelerator::Discrete, ABLE), &wanted);
    assert!(placing.queues.iter().all(|q| *q == Queue::Cpu), "{:?}", placing.queues);
}

#[test]
fn types_that_the_gpu_lacks_go_to_the_cpu() {
    let graph =
        graph("model m(x: f32[64, 64]) { return sum(argmax(matmul(x, x), 1)), matmul(x, x) }");
    let units = Units::of(&graph, &|_| false);
    let wanted = vec![Some(Queue::Gpu); units.all.len()];
    let none = Abilities { int64: false, float64: false };
    for (abilities, some) in [(none, true), (ABLE, false)] {
        let costs = costs(Accelerator::Discrete, abilities);
        let placing = Placing::of(&graph, &units, &costs, &wanted);
        let on_cpu = placing.queues.contains(&Queue::Cpu);
        assert_eq!(on_cpu, some, "{:?}", placing.queues);
        assert!(placing.queues.contains(&Queue::Gpu));
    }
}

/// A state, its readers and its next value: whatever the file says, they are together.
#[test]
fn states_stay_whole() {
    let text = "model m(x: f32[4]) {
        state s: f32[4] = 0
        h = exp(s + x) as h
        s := tanh(h) as t
        return sum(h * 2.0)
    }";
    let reference = dlc::compile(text, &Options::default()).unwrap();
    let model = dlc::compile(text, &by_file("* gpu\nop:exp cpu\nop:sum cpu\nt gpu")).unwrap();
    let placed = model.placed(&Default::default()).unwrap();
    assert_eq!(placed.segments.len(), 2);
    let (mut session, mut want) = (model.session().unwrap(), reference.session().unwrap());
    let x = Tensor::from_slice(&[4], &[0.5f32, -1.0, 0.0, 0.25]);
    for s in [&mut session, &mut want] {
        s.set_input(0, &x).unwrap();
    }
    for _ in 0..3 {
        session.run().unwrap();
        want.run().unwrap();
        near(&session.output(0).unwrap(), &want.output(0).unwrap());
        near(&session.state(0).unwrap(), &want.state(0).unwrap());
    }
    session.reset().unwrap();
    assert_eq!(session.state(0).unwrap().as_slice::<f32>(), [0.0; 4]);
}

fn near(got: &Tensor, want: &Tensor) {
    let near = dlc::ir::compare::allclose(got, want, 1e-4, 1e-5);
    assert!(near.is_ok(), "{near:?}");
}

/// Inputs that are outputs, constants, values that are two outputs.
#[test]
fn outputs_of_every_kind() {
    let text = "model m(x: f32[3], y: f32[3]) {
        a = exp(x) as a
        b = tanh(a) as b
        return x, a, b, a as again, exp([1.0, 2.0]) as fixed
    }";
    for queues in ["* gpu\nb cpu", "a cpu\nb gpu", "* gpu", "* cpu"] {
        let model = dlc::compile(text, &by_file(queues)).unwrap();
        let mut session = model.session().unwrap();
        let x = [0.5f32, -1.0, 2.0];
        session.set_input(0, &Tensor::from_slice(&[3], &x)).unwrap();
        session.set_input(1, &Tensor::from_slice(&[3], &x)).unwrap();
        session.run().unwrap();
        assert_eq!(session.output(0).unwrap().as_slice::<f32>(), x, "{queues}");
        near(&session.output(1).unwrap(), &Tensor::from_slice(&[3], &x.map(f32::exp)));
        near(&session.output(2).unwrap(), &Tensor::from_slice(&[3], &x.map(|v| v.exp().tanh())));
        assert_eq!(
            session.output(3).unwrap().as_slice::<f32>(),
            session.output(1).unwrap().as_slice::<f32>()
        );
        near(&session.output(4).unwrap(), &Tensor::from_slice(&[2], &[1.0, 2.0].map(f32::exp)));
    }
}

#[test]
fn one_queue_is_one_program() {
    let text = "model m(x: f32[3]) { return exp(x) as a }";
    for (queues, target) in [("* cpu", "cpu"), ("* gpu", "cpu:interpreter")] {
        let model = dlc::compile(text, &by_file(queues)).unwrap();
        let plan = model.plan(&Default::default()).unwrap();
        assert_eq!(plan.target.row.name, target);
    }
    let text = "model m(x: f32[3]) { return tanh(exp(x) as a) }";
    let split = dlc::compile(text, &by_file("* cpu\na gpu")).unwrap();
    let refused = split.plan(&Default::default()).err().expect("there are two programs");
    assert_eq!(refused.list[0].code, "E0873");
}

#[test]
fn slips_in_files_are_said_with_their_line() {
    let text = "model m(x: f32[3]) { return exp(x) as first }";
    let said = |queues: &str| {
        let model = dlc::compile(text, &by_file(queues)).unwrap();
        let refused = model.placed(&Default::default()).err().expect("nothing has that name");
        let d = &refused.list[0];
        let at = refused.sources.file(d.span.unwrap().file).line_col(d.span.unwrap().start);
        (d.code, at.line, d.help.clone().unwrap_or_default())
    };
    let (code, line, help) = said("* cpu\nfrist gpu");
    assert_eq!((code, line), ("E0871", 2));
    assert_eq!(help, "did you mean `first`?");
    assert_eq!(said("\n\n%0 gpu").1, 3);
    assert_eq!(said("op:conv* gpu").0, "E0871");
}

#[test]
fn targets_that_are_not_placed() {
    let (target, place) = (Target::parse("reference").unwrap(), Some(Place::new(Rule::Auto)));
    let options = Options { target, place, ..Options::default() };
    let model = dlc::compile("model m(x: f32[3]) { return exp(x) }", &options).unwrap();
    let refused = model.placed(&Default::default()).err().expect("it has no queues");
    assert_eq!(refused.list[0].code, "E0872");
}

#[cfg(feature = "gpu")]
mod on_a_device {
    use super::*;
    use crate::gpu::{here, output_of};

    #[test]
    fn random_graphs() {
        if !here() {
            return;
        }
        for seed in 22_000..22_010 {
            check(seed, Level::O1, None);
        }
    }

    /// ResNet-18 on both queues gives what the CPU gives.
    #[test]
    fn resnet() {
        if !here() {
            return;
        }
        let (_, graph, _) =
            crate::examples::untrained().find(|(name, _, _)| name == "resnet.dl").unwrap();
        let weights = random_weights(&graph, 3).unwrap();
        let on = |target: &str, level: Level, rule: Option<Rule>| {
            let (target, place) = (Target::parse(target).unwrap(), rule.map(Place::new));
            let options = Options { target, level, place, threads: 2, ..Options::default() };
            let weights = weights.clone();
            let model = Model::new(graph.clone(), weights, options, &mut |_, _| {}).unwrap();
            let both = model.placed(&Default::default()).unwrap().segments.len() > 1;
            (output_of(&model), both)
        };
        let (want, _) = on("reference", Level::O2, None);
        let file = Rules::parse("queues", "* cpu\nlayer.1.* gpu").unwrap();
        for (level, rule) in [(Level::O2, Rule::Auto), (Level::O1, Rule::File(file))] {
            let (got, both) = on("cpu", level, Some(rule));
            assert!(both, "the model is split");
            near(&got, &want);
        }
    }
}
