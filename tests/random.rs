//! Random graphs: every pass alone, and lists of passes, keep what a graph computes.
//!
//! The count is small by default; `DLC_RANDOM=2000` runs more. A failure is shrunk and printed in
//! core form with the seed.

use dlc::base::Tensor;
use dlc::front::{LoadOptions, load};
use dlc::ir::Graph;
use dlc::ir::eval::{Env, Precision, evaluate};
use dlc::ir::print::{Printed, print_graph};
use dlc::ir::random::{Limits, RandomGraph, random_graph};
use dlc::ir::shrink::shrink;
use dlc::model::Options;
use dlc::pass::{Control, Settings, Step, TABLE, run};
use dlc::pipeline::{Level, graph_passes, lower_passes};
use dlc::target::Target;

use crate::place::{model, ran};

/// How many graphs each test looks at.
fn count(default: u64) -> u64 {
    std::env::var("DLC_RANDOM").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Whether the text of a graph gives the same text, and the same ids, once it is read.
fn reads_back(graph: &Graph, printed: &Printed) -> Option<String> {
    let options = LoadOptions { constants: &printed.constants, ..LoadOptions::default() };
    let loaded = load("dump.dl", &printed.text, &options);
    let (lowered, diagnostics) = loaded.module.lower(None, false);
    let Some(read) = lowered else {
        return Some(format!("{:?} {diagnostics:?}\n{}", loaded.diagnostics, printed.text));
    };
    let again = print_graph(&read.graph).text;
    if again != printed.text {
        return Some(format!("printed:\n{}read back:\n{again}", printed.text));
    }
    let same = graph.ids().eq(read.graph.ids())
        && graph.ids().all(|id| graph.node(id).operands() == read.graph.node(id).operands());
    (!same).then(|| format!("other ids after reading:\n{again}"))
}

/// Runs the steps on a copy, reads back what each pass leaves, and compares. Text says what is wrong.
fn differs(r: &RandomGraph, steps: &[Step], strict: bool) -> Option<String> {
    let settings = Settings { strict, ..Settings::default() };
    let control = Control { settings, verify_each: true, ..Control::default() };
    let mut graph = r.graph.clone();
    let mut changed = None;
    let mut last = String::new();
    let stats = run(&mut graph, steps, &control, &mut |pass, graph| {
        let printed = print_graph(graph);
        if printed.text != last {
            changed =
                changed.take().or(reads_back(graph, &printed).map(|e| format!("{pass}: {e}")));
            last = printed.text;
        }
    });
    let stats = match stats {
        Ok(stats) => stats,
        Err(failure) => return Some(failure.to_string()),
    };
    if changed.is_some() {
        return changed;
    }
    if stats.iter().all(|s| s.rewrites == 0) {
        return None;
    }
    let expected = match r.expected() {
        Ok(expected) => expected,
        Err(error) => return Some(format!("the original does not evaluate: {error}")),
    };
    match evaluate(&graph, &r.env, Precision::Own) {
        Ok(got) => r.check(&expected, &got).err(),
        Err(error) => Some(format!("the result does not evaluate: {error}")),
    }
    .map(|e| format!("{e}\nafter: {}", print_graph(&graph).text))
}

fn check(r: &RandomGraph, steps: &[Step], strict: bool) {
    if differs(r, steps, strict).is_some() {
        let small = shrink(r.clone(), &mut |r| differs(r, steps, strict).is_some(), 400);
        let why = differs(&small, steps, strict).unwrap_or_default();
        let (name, text) = (&r.graph.name, print_graph(&small.graph).text);
        panic!("{name}, {steps:?}, strict {strict}: {text}\n{why}");
    }
}

#[test]
fn each_pass_keeps_results() {
    for seed in 0..count(15) {
        let r = random_graph(seed, &Limits::default());
        TABLE.iter().for_each(|row| check(&r, &[Step::Pass(row.name)], false));
    }
}

#[test]
fn all_passes_keep_results() {
    let names: Vec<&'static str> = TABLE.iter().map(|row| row.name).collect();
    let steps = [Step::Repeat(names.leak(), 3)];
    for seed in 1000..1000 + count(20) {
        let r = random_graph(seed, &Limits::default());
        check(&r, &steps, false);
        check(&r, &steps, true);
    }
}

#[test]
fn every_level_keeps_results() {
    for seed in 3000..3000 + count(15) {
        let r = random_graph(seed, &Limits::default());
        for level in [Level::O0, Level::O1, Level::O2, Level::O3] {
            let steps = [graph_passes(level), lower_passes(level)].concat();
            check(&r, &steps, level == Level::O1);
        }
    }
}

/// What a compiled graph computes on a target, against the reference; text says what is wrong.
fn runs_otherwise(r: &RandomGraph, target: &str, level: Level) -> Option<String> {
    let target = Target::parse(target).ok()?;
    let options = Options { target, level, ..Options::default() };
    let expected = match r.expected() {
        Ok(expected) => expected,
        Err(error) => return Some(format!("the original does not evaluate: {error}")),
    };
    let run = || model(r, options).and_then(|model| ran(r, &model));
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(got)) => r.check(&expected, &got).err(),
        Ok(Err(refused)) => Some(refused.to_string()),
        Err(_) => Some("it panicked".into()),
    }
}

/// Graphs of which a debug build could not prove the program, though it was right.
const PROVED: [&str; 6] = [
    // A vector across the seam of two parts: there is nothing before the second one to read.
    "model rolled(x: f32[7, 33]) { return sum(relu(roll(x, 3, axis = 1)), axis = 0) }",
    // A row of a result that either arm of a branch may write.
    "model rows(x: f32[7, 5], h: f32[5]) {
        l, a = scan(x, init = h) { |h, x|
            n = cond(sum(x) > 0.0) { h + x } else { h - 1.0 }
            return h, n
        }
        return l, a
    }",
    // A reshape whose index map was taken apart by the axes of both shapes.
    "graph reshaped(%x: f32[2, 5, 4]) {
        %1: f32[5, 8] = reshape(%x) {shape = [5, 8]}
        %2: f32[5, 2, 4] = relayout(%1) {axis = -1, block = 4}
        %3: f32[2, 4, 5] = reshape(%x) {shape = [2, 4, 5]}
        yield a = %2, b = %3
    }",
    // A load behind a guard of the remainder of its offset.
    "graph shifted(%x: f32[4, 6]) {
        %1: f32[4, 6] = cumprod(%x) {axis = -1, exclusive = true}
        %2: f32[3, 4, 2] = reshape(%1) {shape = [3, 4, 2]}
        yield y = %2
    }",
    // A row of a result that the round which writes it reads again,
    "graph rows(%x: f32[5, 3], %y: f32[3]) {
        %1: f32[3] = constant() {value = f32[3](0.25, 1.0, 1.875)}
        %2: f32[3], %2#1: f32[5, 3] = scan(%1, %x; %y) {carries = 1, reverse = true} do (%2.x0: f32[3], %2.x1: f32[3]) {
            %2.3: f32[3] = mul(%2.x1, %y)
            %2.4: f32[3] = add(%2.x0, %2.3)
            %2.5: f32[3] = add(%2.4, %2.x1)
            yield %2.5, %2.4
        }
        yield y = %2#1
    }",
    // and one that a loop in the round writes.
    "model nested(x: f32[4, 3, 2]) {
        last, all = scan(x, init = zeros([2])) { |sum, row|
            s, inner = scan(row, init = zeros([2])) { |t, v|
                u = t + v
                return u, u * 2
            }
            return sum + s + mean(inner, axis = 0), inner
        }
        return last, all
    }",
];

#[test]
fn programs_are_proved() {
    for text in PROVED {
        let graph = dlc::compile(text, &Options::default()).unwrap().source().clone();
        let inputs = graph.inputs.iter().map(|id| {
            let shape = graph.node(*id).results[0].shape.concrete().unwrap();
            let n = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..n).map(|k| (k * 37 % 101) as f32 / 64.0 - 0.75).collect();
            Tensor::from_slice(&shape, &values)
        });
        let env = Env { inputs: inputs.collect(), ..Env::default() };
        let slack = vec![1e-4; graph.outputs.len()];
        let r = RandomGraph { graph, env, slack };
        for level in [Level::O0, Level::O1, Level::O2, Level::O3] {
            let wrong = runs_otherwise(&r, "cpu:interpreter", level);
            #[cfg(feature = "cpu")]
            let wrong = wrong.or_else(|| runs_otherwise(&r, "cpu", level));
            assert_eq!(wrong.or(unproved(&r, level)), None, "{level:?}: {text}");
        }
    }
}

/// The steps of a cumulative sum read what came before at two places each: all of them in one launch would
/// add every element up from the first on.
#[test]
fn cumulative_sums_are_cut() {
    let text = "model m(x: f32[3, 3000]) { return cumsum(x, axis = 1) }";
    let model = dlc::compile(text, &Options::default()).unwrap();
    let program = model.program(&Default::default()).unwrap();
    let launches = program.launches.len();
    assert!((3..=12).contains(&launches), "{launches} launches");
    let mut session = model.session().unwrap();
    let x: Vec<f32> = (0..9000).map(|i| (i % 7) as f32 - 3.0).collect();
    session.set_input(0, &Tensor::from_slice(&[3, 3000], &x)).unwrap();
    session.run().unwrap();
    let y = session.output(0).unwrap();
    for (x, y) in x.chunks(3000).zip(y.as_slice::<f32>().chunks(3000)) {
        let mut sum = 0.0;
        // Small integers: exact in any order.
        for (x, y) in x.iter().zip(y) {
            sum += x;
            assert_eq!(sum, *y);
        }
    }
}

/// The faults of the program that a device would get.
fn unproved(r: &RandomGraph, level: Level) -> Option<String> {
    let target = Target::parse("gpu").ok()?;
    let options = Options { target, level, ..Options::default() };
    let program = model(r, options).and_then(|model| model.program(&Default::default()));
    program.err().map(|d| d.to_string())
}

/// All levels, in turn on the interpreter and as machine code. `DLC_RANDOM_FROM` is the first seed.
#[test]
fn compiled_graphs_keep_results() {
    let from = std::env::var("DLC_RANDOM_FROM").ok().and_then(|n| n.parse().ok()).unwrap_or(5000);
    let targets =
        if cfg!(feature = "cpu") { ["cpu:interpreter", "cpu"] } else { ["cpu:interpreter"; 2] };
    let mut failures = vec![];
    for seed in from..from + count(12) {
        let r = random_graph(seed, &Limits::default());
        for level in [Level::O0, Level::O1, Level::O2, Level::O3] {
            let wrong = |r: &RandomGraph| {
                let mut all = targets.iter().filter_map(|target| {
                    runs_otherwise(r, target, level).map(|why| format!("{target}: {why}"))
                });
                all.next().or_else(|| unproved(r, level).map(|why| format!("gpu: {why}")))
            };
            if wrong(&r).is_some() {
                let small = shrink(r.clone(), &mut |r| wrong(r).is_some(), 400);
                let why = wrong(&small).unwrap_or_default();
                let text = print_graph(&small.graph).text;
                failures.push(format!("seed {seed}, {level:?}, {why}\n{text}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} fail\n{}", failures.len(), failures.join("\n"));
}
