//! Random graphs: every pass alone, and lists of passes, keep what a graph computes.
//!
//! The count is small by default; `DLC_RANDOM=2000` runs more. A failure is shrunk and printed in
//! core form with the seed.

use dlc::ir::eval::{Precision, evaluate};
use dlc::ir::print::print_graph;
use dlc::ir::random::{Limits, RandomGraph, random_graph};
use dlc::ir::shrink::shrink;
use dlc::pass::{Control, Settings, Step, TABLE, run};

/// How many graphs each test looks at.
fn count(default: u64) -> u64 {
    std::env::var("DLC_RANDOM").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Runs the steps on a copy and compares. Text says what is wrong.
fn differs(r: &RandomGraph, steps: &[Step], strict: bool) -> Option<String> {
    let settings = Settings { strict, ..Settings::default() };
    let control = Control { settings, verify_each: true, ..Control::default() };
    let mut graph = r.graph.clone();
    if let Err(failure) = run(&mut graph, steps, &control, &mut |_, _| {}) {
        return Some(failure.to_string());
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

fn check(steps: &[Step], strict: bool, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let r = random_graph(seed, &Limits::default());
        if differs(&r, steps, strict).is_some() {
            let small = shrink(r, &mut |r| differs(r, steps, strict).is_some(), 400);
            let why = differs(&small, steps, strict).unwrap_or_default();
            let text = print_graph(&small.graph).text;
            panic!("seed {seed}, {steps:?}, strict {strict}: {text}\n{why}");
        }
    }
}

#[test]
fn each_pass_keeps_results() {
    for row in TABLE {
        check(&[Step::Pass(row.name)], false, 0..count(40));
    }
}

#[test]
fn all_passes_keep_results() {
    let names: Vec<&'static str> = TABLE.iter().map(|row| row.name).collect();
    let steps = [Step::Repeat(names.leak(), 3)];
    check(&steps, false, 1000..1000 + count(60));
    check(&steps, true, 2000..2000 + count(60));
}
