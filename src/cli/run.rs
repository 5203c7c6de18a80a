//! `dlc run`: one run of a model.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::args::{Compile, Global, ModelArg, later, pair};
use super::load::{self, Missing};
use super::out;
use super::report::{Failure, Reporter};
use crate::base::{Bindings, DType, Tensor, TensorType};
use crate::import::{show, value};
use crate::ir::bind;
use crate::ir::compare::allclose;
use crate::ir::init::initial_value;
use crate::model::{Diagnostics, Model, Runs};
use crate::session::Session;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// An input: `@file.npy`, `@file.npz:key`, `f32[2]:1,2`, or plain numbers; a single input needs
    /// no name
    #[arg(long, short, value_name = "[NAME=]VALUE", allow_hyphen_values = true)]
    input: Vec<String>,
    /// Write an output to a file (`.npy`)
    #[arg(long, value_name = "[NAME=]PATH")]
    output: Vec<String>,
    /// What an output should be
    #[arg(long, value_name = "[NAME=]VALUE", allow_hyphen_values = true)]
    expect: Vec<String>,
    /// Relative tolerance of `--expect`
    #[arg(long, default_value_t = 1e-5)]
    rtol: f64,
    /// Absolute tolerance of `--expect`
    #[arg(long, default_value_t = 1e-6)]
    atol: f64,
    /// Fill the inputs that are not given, from the seed
    #[arg(long)]
    random: bool,
    /// The gradients of a scalar output (a later version)
    #[arg(long)]
    grad: bool,
    /// Stop at the first value that is not finite, and name it
    #[arg(long)]
    check_nan: bool,
    #[command(flatten)]
    compile: Compile,
}

pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    if args.grad {
        return Err(later("`--grad`"));
    }
    let reporter = Reporter::new(global);
    let (spec, compile) = (&args.model.model, &args.compile);
    let (model, _) = load::runnable(spec, compile, Missing::Refuse, Runs::Once, &reporter)?;
    let given = inputs(&model, &args.input)?;
    let inputs = match args.random {
        true => filled(&model, given)?,
        false => given,
    };
    let outputs_of: Vec<String> = model.outputs().into_iter().map(|(name, _)| name).collect();
    let targets = named(&args.output, &outputs_of, "output", "--output NAME=PATH")?;
    let expected = named(&args.expect, &outputs_of, "output", "--expect NAME=VALUE")?;
    let outputs = match args.check_nan {
        true => checked(&model, &inputs)?,
        false => traced(&model, &inputs, &args.compile)?,
    };
    reporter.warnings(&Default::default(), &model.warnings());
    for (name, path) in &targets {
        let tensor = &outputs.iter().find(|(n, _)| n == name).expect("names are checked").1;
        value::save(Path::new(path), tensor)?;
    }
    if global.json {
        let map: serde_json::Map<String, Json> =
            outputs.iter().map(|(name, t)| (name.clone(), show::json(t))).collect();
        out::json(&json!({ "outputs": map }))?;
    } else {
        let shown = outputs.iter().filter(|(name, _)| !targets.contains_key(name));
        let text: String = shown.map(|(name, t)| show::tensor(name, t) + "\n").collect();
        if targets.is_empty() {
            out::text(&text)?;
        }
    }
    expect(args, &outputs, &expected)
}

/// Exit 1 where an output is not as expected.
fn expect(
    args: &Args,
    outputs: &[(String, Tensor)],
    expected: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let mut failed = vec![];
    for (name, text) in expected {
        let got = &outputs.iter().find(|(n, _)| n == name).expect("names are checked").1;
        // A file may hold another dtype: NumPy's default is f64.
        let wanted = match text.starts_with('@') {
            true => value::parse(text, None)?,
            false => value::parse(text, Some(&got.ty()))?,
        };
        if let Err(mismatch) = allclose(got, &wanted, args.rtol, args.atol) {
            failed.push(format!("output `{name}` is not as expected: {mismatch}"));
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure::fault(failed.join("\n"))),
    }
}

/// `NAME=REST` items by name; a single value needs no name.
fn named(
    items: &[String],
    names: &[String],
    what: &str,
    form: &str,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut all = BTreeMap::new();
    for item in items {
        let split = item.split_once('=').filter(|(n, _)| names.iter().any(|name| name == n));
        let (name, rest) = match split {
            Some((name, rest)) => (name.to_string(), rest),
            None if names.len() == 1 && !looks_named(item) => (names[0].clone(), item.as_str()),
            None => {
                let (name, _) = pair(item, form)?;
                let failure = Failure::fault(format!("there is no {what} `{name}`"));
                let near = crate::base::diag::did_you_mean(name, names.iter().map(String::as_str));
                return Err(match near {
                    Some(near) => failure.help(format!("did you mean `{near}`?")),
                    None => failure.help(format!("the {what}s are {}", names.join(", "))),
                });
            }
        };
        if all.insert(name.clone(), rest.to_string()).is_some() {
            return Err(Failure::usage(format!("{what} `{name}` is given twice")));
        }
    }
    Ok(all)
}

/// `name=…` rather than a bare value that happens to hold an equals sign.
fn looks_named(item: &str) -> bool {
    item.split_once('=').is_some_and(|(name, _)| {
        name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '/'))
    })
}

fn inputs(model: &Model, items: &[String]) -> Result<BTreeMap<String, Tensor>, Failure> {
    let declared = model.inputs();
    let names: Vec<String> = declared.iter().map(|(n, _)| n.clone()).collect();
    let texts = named(items, &names, "input", "--input NAME=VALUE")?;
    let mut all = BTreeMap::new();
    for (name, text) in texts {
        let ty = &declared.iter().find(|(n, _)| *n == name).expect("names are checked").1;
        let tensor =
            value::parse(&text, Some(ty)).map_err(|e| e.within(format!("--input {name}")))?;
        all.insert(name, tensor);
    }
    Ok(all)
}

/// The inputs with the missing ones drawn from the seed.
pub fn filled(
    model: &Model,
    mut given: BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>, Failure> {
    let mut dims = Bindings::new();
    for (name, ty) in model.inputs() {
        if let Some(t) = given.get(&name) {
            let alone = one_input(&name, &ty);
            let found = bind::solve(&alone, &[t.shape().to_vec()], &dims);
            dims = found.map_err(|e| {
                crate::model::Diagnostics::of(e.into_iter().map(crate::model::of_op).collect())
            })?;
        }
    }
    let seed = model.options().seed;
    for (name, ty) in model.inputs() {
        if given.contains_key(&name) {
            continue;
        }
        let bound = ty.shape.bind(&dims);
        let Some(shape) = bound.filter(|s| s.concrete().is_some()) else {
            let open = ty.shape.dims().iter().find(|d| d.as_const().is_none());
            let open = open.map(|d| d.to_string()).unwrap_or_default();
            return Err(Failure::fault(format!("input `{name}: {ty}` has an open dimension"))
                .help(format!("bind it: `--set {open}=1`")));
        };
        given.insert(name.clone(), random(&name, &TensorType::new(ty.dtype, shape), seed)?);
    }
    Ok(given)
}

fn one_input(name: &str, ty: &TensorType) -> crate::ir::Graph {
    let mut graph = crate::ir::Graph::new("");
    crate::ir::Builder::new(&mut graph).input(name, ty.clone());
    graph
}

/// Standard normal floats; integers and bools from 0 and 1.
pub fn random(name: &str, ty: &TensorType, seed: u64) -> Result<Tensor, Failure> {
    let path = format!("input.{name}");
    let draw = |dtype, recipe: &str| {
        let ty = TensorType::new(dtype, ty.shape.clone());
        initial_value(recipe, &ty, seed, &path)
            .map_err(|e| crate::model::Diagnostics::from(crate::model::of_op(e)))
    };
    if ty.dtype.is_float() {
        return Ok(draw(ty.dtype, "normal(1)")?);
    }
    let floats = draw(DType::F32, "uniform(0, 2)")?;
    let width = ty.dtype.bytes();
    let mut bytes = crate::base::tensor::AlignedBytes::zeroed(floats.numel() * width);
    for (i, element) in bytes.as_mut().chunks_exact_mut(width).enumerate() {
        element[0] = (floats.get_f64(i) >= 1.0) as u8;
    }
    let tensor = Tensor::from_bytes(ty.dtype, floats.shape(), bytes);
    Ok(tensor.expect("as many bytes as the type says"))
}

/// A run; with `--trace` its launches are timed, and the trace is written anew with all there is.
fn traced(
    model: &Model,
    inputs: &BTreeMap<String, Tensor>,
    args: &Compile,
) -> Result<Vec<(String, Tensor)>, Failure> {
    if args.trace.is_none() {
        return Ok(model.run(inputs)?);
    }
    let mut launches = vec![];
    let outputs = model.run_with(inputs, &mut |session| {
        launches = timed(session)?;
        Ok(())
    })?;
    load::trace(args, model, &launches)?;
    Ok(outputs)
}

/// Runs once. What each launch computes and its microseconds, where the target shows its launches.
#[cfg(feature = "cpu")]
fn timed(session: &mut Session) -> Result<Vec<(String, f64)>, Diagnostics> {
    let Some(cpu) = session.cpu() else { return session.run().map(|()| vec![]) };
    let program = cpu.executable().program().clone();
    let mut times = vec![];
    cpu.run_timed(&mut times);
    let row = |(id, t): &(_, std::time::Duration)| {
        (program.launch(*id).ops.join(" "), t.as_secs_f64() * 1e6)
    };
    Ok(times.iter().map(row).collect())
}

#[cfg(not(feature = "cpu"))]
fn timed(session: &mut Session) -> Result<Vec<(String, f64)>, Diagnostics> {
    session.run().map(|()| vec![])
}

/// A run that stops at the first launch whose result is not finite.
fn checked(
    model: &Model,
    inputs: &BTreeMap<String, Tensor>,
) -> Result<Vec<(String, Tensor)>, Failure> {
    if let Some((name, _)) = inputs.iter().find(|(_, t)| !is_finite(t)) {
        return Err(Failure::fault(format!("input `{name}` is not finite")));
    }
    let mut bad = None;
    let outputs = model.run_with(inputs, &mut |session| {
        bad = first_not_finite(session)?;
        Ok(())
    })?;
    if let Some(name) = bad {
        return Err(Failure::fault(format!("value `{name}` is not finite"))
            .help("it is the first one in the order of launches"));
    }
    match outputs.iter().find(|(_, t)| !is_finite(t)) {
        Some((name, _)) => Err(Failure::fault(format!("output `{name}` is not finite"))),
        None => Ok(outputs),
    }
}

fn is_finite(t: &Tensor) -> bool {
    !t.dtype().is_float() || (0..t.numel()).all(|i| t.get_f64(i).is_finite())
}

/// Runs once. The name of the first buffer, in the order of launches, that holds a value that is not
/// finite, where the target shows its launches; the run ends there.
#[cfg(feature = "cpu")]
fn first_not_finite(session: &mut Session) -> Result<Option<String>, Diagnostics> {
    let Some(cpu) = session.cpu() else { return session.run().map(|()| None) };
    let program = cpu.executable().program().clone();
    let mut found = None;
    cpu.run_observed(&mut |_, buffer, bytes| {
        let b = program.buffer(buffer);
        let owned = crate::base::tensor::AlignedBytes::copy_of(bytes);
        let tensor = Tensor::from_bytes(b.dtype, &[bytes.len() / b.dtype.bytes()], owned);
        let good = tensor.is_none_or(|t| is_finite(&t));
        if !good {
            found = Some(b.name.to_string());
        }
        good
    });
    Ok(found)
}

#[cfg(not(feature = "cpu"))]
fn first_not_finite(session: &mut Session) -> Result<Option<String>, Diagnostics> {
    session.run().map(|()| None)
}
