//! Random graphs: every pass alone, and lists of passes, keep what a graph computes.
//!
//! The count is small by default; `DLC_RANDOM=2000` runs more. A failure is shrunk and printed in
//! core form with the seed.

use dlc::front::{LoadOptions, load};
use dlc::ir::Graph;
use dlc::ir::eval::{Precision, evaluate};
use dlc::ir::print::{Printed, print_graph};
use dlc::ir::random::{Limits, RandomGraph, random_graph};
use dlc::ir::shrink::shrink;
use dlc::pass::{Control, Settings, Step, TABLE, run};
use dlc::pipeline::{Level, graph_passes, lower_passes};

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
