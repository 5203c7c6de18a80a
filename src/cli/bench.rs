//! `dlc bench`: how long a run takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::{Compile, Global, ModelArg};
use super::load::{self, Missing};
use super::report::{Failure, Reporter};
use super::{out, profile, run};
use crate::base::{Bindings, Tensor};
use crate::model::{Diagnostics, Model, Runs};
use crate::session::Session;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// Seconds to measure
    #[arg(long, default_value_t = 1.0)]
    duration: f64,
    /// Seconds to warm up
    #[arg(long, default_value_t = 0.2)]
    warmup: f64,
    /// Inputs from the seed (they always are)
    #[arg(long)]
    random: bool,
    /// Time, FLOP and bytes for each launch
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    compile: Compile,
}

pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    if !(args.duration >= 0.0
        && args.duration <= 3600.0
        && args.warmup >= 0.0
        && args.warmup <= 3600.0)
    {
        return Err(Failure::usage("`--duration` and `--warmup` are seconds, at most 3600"));
    }
    let reporter = Reporter::new(global);
    let (spec, compile) = (&args.model.model, &args.compile);
    let start = Instant::now();
    let (model, load_ms) = load::runnable(spec, compile, Missing::Random, Runs::Many, &reporter)?;
    let (flops, arena) = model.sizes(&Bindings::new())?;
    let profiled_program = match args.profile {
        true => Some(model.program(&Bindings::new())?),
        false => None,
    };
    let inputs = run::filled(&model, BTreeMap::new())?;
    let mut session = bound(&model, &inputs)?;
    let compile_ms = start.elapsed().as_secs_f64() * 1e3 - load_ms;
    reporter.warnings(&Default::default(), &model.warnings());
    let first = time(&mut session)?;
    let (mut times, mut overheads) = (vec![], vec![]);
    let until = |seconds: f64| Instant::now() + Duration::from_secs_f64(seconds);
    let warm = until(args.warmup);
    while Instant::now() < warm {
        time(&mut session)?;
    }
    let end = until(args.duration);
    while times.is_empty() || Instant::now() < end {
        times.push(time(&mut session)?);
        overheads.extend(session.launch_overhead().map(|t| t.as_secs_f64() * 1e6));
    }
    times.sort_by(f64::total_cmp);
    overheads.sort_by(f64::total_cmp);
    let at = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize];
    let weights: usize = model.weights().tensors.values().map(|t| t.bytes().len()).sum();
    let mut result = json!({
        "median_us": at(0.5),
        "min_us": times[0],
        "p90_us": at(0.9),
        "runs": times.len(),
        "first_run_us": first,
        "compile_ms": compile_ms,
        "load_ms": load_ms,
        "arena_bytes": arena,
        "weights_bytes": weights,
        "peak_rss_bytes": peak_rss(),
        "flops": flops,
        "gflops": flops as f64 / at(0.5) / 1e3,
    });
    let overhead = overheads.get(overheads.len() / 2);
    if let Some(overhead) = overhead {
        result["launch_overhead_us"] = json!(overhead);
    }
    let mut profiled = String::new();
    if let Some(program) = profiled_program {
        let launches = profile::launches(&program, &mut session, args.duration)?;
        result["launches"] = launches.iter().map(profile::Row::json).collect();
        profiled = profile::text(launches);
    }
    if global.json {
        return out::json(&result);
    }
    let mut text = format!(
        "median {:.3} µs, min {:.3} µs, p90 {:.3} µs over {} runs (first run {first:.1} µs)\n\
         {:.2} GFLOP/s, {flops} FLOP a run\n\
         compiled in {compile_ms:.1} ms, loaded in {load_ms:.1} ms\n\
         arena {} bytes, weights {weights} bytes, peak memory {} bytes\n",
        at(0.5),
        times[0],
        at(0.9),
        times.len(),
        flops as f64 / at(0.5) / 1e3,
        arena,
        peak_rss(),
    );
    if let Some(overhead) = overhead {
        text.push_str(&format!("giving the GPU a launch took {overhead:.3} µs\n"));
    }
    text.push_str(&profiled);
    out::text(&text)
}

/// A session with its inputs set.
fn bound(model: &Model, inputs: &BTreeMap<String, Tensor>) -> Result<Session, Diagnostics> {
    let ordered: Vec<&Tensor> = model.inputs().iter().map(|(name, _)| &inputs[name]).collect();
    let shapes: Vec<Vec<usize>> = ordered.iter().map(|t| t.shape().to_vec()).collect();
    let mut session = model.session_for(&model.solve(&shapes)?)?;
    for (i, t) in ordered.into_iter().enumerate() {
        session.set_input(i, t)?;
    }
    Ok(session)
}

/// Microseconds of one run, until its results are there. Very short runs are timed a hundred at a time.
fn time(session: &mut Session) -> Result<f64, Diagnostics> {
    let start = Instant::now();
    session.run()?;
    session.wait()?;
    let one = start.elapsed().as_secs_f64() * 1e6;
    if one > 20.0 {
        return Ok(one);
    }
    let start = Instant::now();
    for _ in 0..100 {
        session.run()?;
        session.wait()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e4)
}

/// The most memory that this process has had, in bytes; 0 where the system does not tell.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
