//! The walk of the op table on everything that runs Programs.

use dlc::import::Weights;
use dlc::model::{Model, Options};
use dlc::pipeline::Level;
use dlc::target::Target;

use crate::ops::walk;
use dlc::ir::op::walk::Case;

/// Compiles a sample for a target, runs it, and compares.
fn check(case: &Case, target: &str, level: Level) -> Result<(), String> {
    let target = Target::parse(target).map_err(|d| d.message)?;
    let options = Options { target, level, ..Options::default() };
    let run = || -> Result<Vec<dlc::base::Tensor>, dlc::model::Diagnostics> {
        let model = Model::new(case.graph.clone(), Weights::default(), options, &mut |_, _| {})?;
        let mut session = model.session()?;
        for (i, t) in case.env.inputs.iter().enumerate() {
            session.set_input(i, t)?;
        }
        session.run()?;
        Ok((0..model.outputs().len()).map(|i| session.output(i)).collect())
    };
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let outputs = caught.map_err(|_| "it panicked".to_string())?;
    case.check(&outputs.map_err(|d| d.to_string())?)
}

#[test]
fn kernel_interpreter_op_by_op() {
    walk("kernel interpreter, -O0", |case| check(case, "cpu:interpreter", Level::O0));
}

#[test]
fn kernel_interpreter_fused() {
    walk("kernel interpreter, -O2", |case| check(case, "cpu:interpreter", Level::O2));
}

#[cfg(feature = "cpu")]
#[test]
fn machine_code_op_by_op() {
    walk("cpu, -O0", |case| check(case, "cpu", Level::O0));
}

#[cfg(feature = "cpu")]
#[test]
fn machine_code_fused() {
    walk("cpu, -O2", |case| check(case, "cpu", Level::O2));
}

#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
#[test]
fn baseline_machine_code() {
    walk("cpu:x86-64, -O2", |case| check(case, "cpu:x86-64", Level::O2));
}

/// The levels of x86-64 that this processor has.
#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
#[test]
fn machine_code_of_levels() {
    for name in ["cpu:x86-64-v3", "cpu:x86-64-v4", "cpu:clif"] {
        let here = Target::parse(name).is_ok_and(|t| t.check_runs_here().is_ok());
        if here {
            walk(name, |case| check(case, name, Level::O2));
        }
    }
}
