//! Random shapes of matrix products and convolutions, on every CPU target.
//!
//! Each case is a small model around one contraction or a few. Its results agree with the reference
//! evaluator: exactly where all its numbers are small integers, else within a bound that grows with
//! the terms of the sums; NaN and infinities stand where the reference has them. Targets that fuse
//! multiply and add agree to the bit. The count is small by default; `DLC_SHAPES=10000` runs more.
//! `DLC_SHAPES_FROM=N` begins at another seed, so that a failure runs alone.

mod conv;
pub mod draw;
mod matmul;
mod rows;

use dlc::base::machine::{Isa, Machine};
use dlc::base::{Bindings, DType, Tensor};
use dlc::import::Weights;
use dlc::ir::eval::{Precision, Results, evaluate, evaluate_all};
use dlc::ir::print::print_graph;
use dlc::model::{Model, Options};
use dlc::target::Target;

use crate::targets::{outputs, same_bits};
use draw::{Case, Data};

/// The targets of one numeric class, then the other class.
const FUSED: &[&str] = &["cpu:x86-64-v4", "cpu:x86-64-v3", "cpu:clif"];
const SEPARATE: &str = "cpu:x86-64";

#[test]
fn matmuls() {
    check_all("matmuls", matmul::case, &[1070]);
}

#[test]
fn convolutions() {
    check_all("convolutions", conv::case, &[2127, 4135, 4633, 4729]);
}

#[test]
fn convolutions_in_tiles() {
    check_all("convolutions_in_tiles", conv::tiled, &[]);
}

#[test]
fn softmax_norms_attention() {
    check_all("softmax_norms_attention", rows::case, &[2961, 3465]);
}

/// What goes over rows, with the kernels of GPUs, in the interpreter.
#[test]
fn rows_across_workgroups() {
    let mut groups = 0;
    let check = |case: &Case| {
        let options = Options { target: gpu_kernels(), ..Options::default() };
        groups += across_workgroups(case, &options)?;
        check_on(case, options)
    };
    check_each("rows_across_workgroups", rows::case, check);
    assert!(groups > 10, "{groups} kernels have workgroups");
}

/// The interpreter, for kernels as they are made for GPUs.
pub fn gpu_kernels() -> Target {
    let row = Target::parse("cpu:interpreter").expect("the table has it").row;
    Target { row, machine: Machine::new(Isa::Gpu, 16) }
}

/// Kernels of a case that have several invocations in a workgroup.
pub fn across_workgroups(case: &Case, options: &Options) -> Result<usize, String> {
    let options = Options { level: case.level, ..options.clone() };
    let mut weights = Weights::default();
    for (id, value) in case.graph.params.iter().zip(&case.env.params) {
        weights.insert(case.graph.node(*id).op.str("name"), value.clone());
    }
    let model = Model::new(case.graph.clone(), weights, options, &mut |_, _| {});
    let program = model.and_then(|m| m.program(&Bindings::new())).map_err(|d| d.to_string())?;
    Ok(program.kernels.iter().filter(|k| k.local != [1; 3]).count())
}

/// A model of what goes over rows.
pub fn rows(seed: u64) -> Case {
    rows::case(seed)
}

/// Runs cases of the first seeds, and says which fail.
pub fn check_each(
    test: &str,
    make: fn(u64) -> Case,
    mut check: impl FnMut(&Case) -> Result<(), String>,
) {
    let first = variable("DLC_SHAPES_FROM").unwrap_or(0);
    let mut failures = vec![];
    for seed in first..first + variable("DLC_SHAPES").unwrap_or(60) {
        let case = make(seed);
        if let Err(why) = check(&case) {
            failures.push(report(test, seed, &case, &why));
        }
    }
    let shown = failures.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} fail\n{shown}", failures.len());
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// `once` are seeds beyond the first ones that once failed.
fn check_all(test: &str, make: fn(u64) -> Case, once: &[u64]) {
    let from = variable("DLC_SHAPES_FROM");
    let first = from.unwrap_or(0);
    let seeds: Vec<u64> = (first..first + variable("DLC_SHAPES").unwrap_or(60))
        .chain(once.iter().copied().filter(|_| from.is_none()))
        .collect();
    let count = seeds.len();
    let here = |name: &&str| Target::parse(name).is_ok_and(|t| t.check_runs_here().is_ok());
    let fused: Vec<&str> = FUSED.iter().copied().filter(here).collect();
    let (mut failures, mut exact) = (vec![], 0);
    for seed in seeds {
        let case = make(seed);
        match check(&case, &fused) {
            Ok(was_exact) => exact += was_exact as u64,
            Err(why) => failures.push(report(test, seed, &case, &why)),
        }
    }
    println!(
        "{test}: {} of {count} agree on {} and {SEPARATE}, {exact} of them exactly",
        count - failures.len(),
        fused.join(", "),
    );
    let shown = failures.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {count} fail\n{shown}", failures.len());
}

fn report(test: &str, seed: u64, case: &Case, why: &str) -> String {
    let Case { graph, data, level, threads, .. } = case;
    format!(
        "== {test}, seed {seed}: {data:?}, {level:?}, {threads} thread(s)\n{}{why}\n\
         alone: DLC_SHAPES=1 DLC_SHAPES_FROM={seed} cargo test --test main random_shapes::{test}\n",
        print_graph(graph).text
    )
}

/// Models of one contraction or a few, with and without vectors of products.
pub const CONTRACTIONS: &[fn(u64) -> Case] = &[matmul::case, conv::case, conv::tiled];

/// Compares what `options` make of a case with the reference.
pub fn check_on(case: &Case, options: Options) -> Result<(), String> {
    let bound = Bound::of(case)?;
    let found = outputs(&case.graph, &case.env, Options { level: case.level, ..options })?;
    bound.check(&found)
}

/// Whether the case was compared exactly, or what went wrong.
fn check(case: &Case, fused: &[&str]) -> Result<bool, String> {
    let bound = Bound::of(case)?;
    let run = |name: &str| {
        let target = Target::parse(name).map_err(|d| d.message)?;
        let options =
            Options { target, level: case.level, threads: case.threads, ..Options::default() };
        let found = outputs(&case.graph, &case.env, options).map_err(|e| format!("{name}: {e}"))?;
        bound.check(&found).map_err(|e| format!("{name}: {e}"))?;
        Ok::<Vec<Tensor>, String>(found)
    };
    run(SEPARATE)?;
    let found = fused.iter().map(|name| run(name)).collect::<Result<Vec<_>, _>>()?;
    for (name, other) in fused.iter().zip(&found).skip(1) {
        if let Some(i) = found[0].iter().zip(other).position(|(a, b)| !same_bits(a, b)) {
            return Err(format!("output {i}: other bits on {} than on {name}", fused[0]));
        }
    }
    Ok(bound.slack == 0.0)
}

/// What results may be.
struct Bound {
    /// The reference in the graph's own dtypes: where results are not finite.
    own: Results,
    /// What they are otherwise.
    near: Results,
    slack: f64,
}

impl Bound {
    fn of(case: &Case) -> Result<Bound, String> {
        let Case { graph, env, .. } = case;
        let text = |e: dlc::ir::op::OpError| format!("the reference: {e}");
        let own = || evaluate(graph, env, Precision::Own).map_err(text);
        let (scale, partial) = magnitudes(case)?;
        // Numbers below this are sums of whole quanta, each of them a number of the dtype.
        let (mantissa, quantum) = match case.dtype {
            DType::F64 => (53, 1.0),
            DType::F32 if case.data == Data::Subnormals => (24, 2f64.powi(-147)),
            DType::F32 => (24, 1.0),
            DType::F16 => (11, 1.0),
            DType::BF16 => (8, 1.0),
            _ => return Ok(Bound { own: own()?, near: own()?, slack: 0.0 }),
        };
        // Narrow floats are added up in f32.
        let sums = mantissa.max(24);
        if case.exact
            && scale < 2f64.powi(mantissa) * quantum
            && partial < 2f64.powi(sums) * quantum
        {
            return Ok(Bound { own: own()?, near: own()?, slack: 0.0 });
        }
        let near = evaluate(graph, env, Precision::F64).map_err(text)?;
        let relative =
            8.0 * (case.terms + 8) as f64 * 2f64.powi(-sums) + 16.0 * 2f64.powi(-mantissa);
        // Functions of f64 are polynomials of a little less than its precision.
        let relative = if mantissa == 53 { relative.max(1e-11) } else { relative };
        // Subnormals are rounded to whole quanta, whatever their size.
        let least = (case.terms + 8) as f64 * f32::from_bits(1) as f64;
        Ok(Bound { own: own()?, near, slack: relative * scale + least })
    }

    fn check(&self, found: &[Tensor]) -> Result<(), String> {
        for (k, got) in found.iter().enumerate() {
            let (own, near) = (&self.own.outputs[k], &self.near.outputs[k]);
            if got.ty() != own.ty() {
                return Err(format!("output {k} is {}, not {}", got.ty(), own.ty()));
            }
            for i in 0..got.numel() {
                let (g, o, n) = (got.get_f64(i), own.get_f64(i), near.get_f64(i));
                let fits = match o.is_finite() {
                    true => (g - n).abs() <= self.slack,
                    false => g == o || g.is_nan() && o.is_nan(),
                };
                if !fits {
                    let slack = self.slack;
                    return Err(format!(
                        "output {k}, element {i} of {:?} is {g}, not {n} (in its dtype {o}) within {slack:.2e}",
                        got.shape()
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The largest finite number anywhere, and one that no partial sum of a contraction exceeds.
fn magnitudes(case: &Case) -> Result<(f64, f64), String> {
    let all = evaluate_all(&case.graph, &case.env, Precision::F64, &|_| true)
        .map_err(|e| e.to_string())?;
    let largest = |t: &Tensor| {
        (0..t.numel()).map(|i| t.get_f64(i).abs()).filter(|v| v.is_finite()).fold(0.0, f64::max)
    };
    let scale = all.values().map(largest).fold(0.0, f64::max);
    let mut partial = 0f64;
    for id in case.graph.ids() {
        let node = case.graph.node(id);
        let name = node.op.row.name;
        if ["matmul", "dense", "einsum"].contains(&name) || name.starts_with("conv") {
            let of = |i: usize| largest(&all[&node.operands()[i]]);
            let bias = if node.operands().len() > 2 { of(2) } else { 0.0 };
            partial = partial.max(case.terms as f64 * of(0) * of(1) + bias);
        }
    }
    Ok((scale, partial))
}
