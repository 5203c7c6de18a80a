//! `dlc inspect MODEL VIEW`: a model on its way through the compiler.

mod graph;
mod program;
mod schedule;
mod summary;

use clap::ValueEnum;

use super::args::{Compile, Global, ModelArg, later};
use super::load::{self, Missing};
use super::out;
use super::report::{Failure, Reporter};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// inputs, summary, source, graph, passes, fusion, schedule, memory, kernels
    view: String,
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// graph: as it is before the first execution of this pass
    #[arg(long, value_name = "PASS")]
    before: Option<String>,
    /// graph: as it is after the first execution of this pass
    #[arg(long, value_name = "PASS")]
    after: Option<String>,
    /// graph: lines that the passes changed
    #[arg(long)]
    diff: bool,
    /// graph: with the values of a run (a later version)
    #[arg(long)]
    values: bool,
    /// graph: with the backward pass (a later version)
    #[arg(long)]
    grad: bool,
    /// schedule: the ready set at every step
    #[arg(long)]
    step: bool,
    /// train: look at the training step (a later version)
    #[arg(long)]
    mode: Option<String>,
    #[command(flatten)]
    compile: Compile,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
    Dot,
    Svg,
    Html,
}

pub fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    let format = match (args.format, global.json) {
        (Some(f), _) => f,
        (None, true) => Format::Json,
        (None, false) => Format::Text,
    };
    refuse_later(args, format)?;
    let reporter = Reporter::new(global);
    match args.view.as_str() {
        "source" => return out::text(&load::text(&args.model.model.path)?),
        "graph" => return graph::run(args, format, &reporter),
        _ => {}
    }
    let model = load::model(&args.model.model, &args.compile, Missing::Ignore, &reporter)?;
    let json = match (args.view.as_str(), format) {
        ("inputs", _) => summary::inputs(&model),
        ("passes", _) => summary::passes(&model)?,
        ("summary", _) => summary::summary(&model)?,
        ("fusion", _) => program::fusion(&model)?,
        ("schedule", Format::Dot) => return out::text(&schedule::dot(&model)?),
        ("schedule", _) => schedule::json(&model, args.step)?,
        ("memory", _) => program::memory(&model)?,
        ("kernels", _) => program::kernels(&model)?,
        _ => unreachable!("views are checked"),
    };
    if format == Format::Json {
        return out::json(&json);
    }
    let text = match args.view.as_str() {
        "inputs" => summary::inputs_text(&json),
        "passes" => summary::passes_text(&json),
        "summary" => summary::summary_text(&json),
        "fusion" => program::fusion_text(&json),
        "schedule" => schedule::text(&json),
        "memory" => program::memory_text(&json),
        _ => program::kernels_text(&model)?,
    };
    out::text(&text)
}

const VIEWS: &[&str] =
    &["inputs", "summary", "source", "graph", "passes", "fusion", "schedule", "memory", "kernels"];

fn refuse_later(args: &Args, format: Format) -> Result<(), Failure> {
    let view = args.view.as_str();
    if view == "report" {
        return Err(later("`inspect report`"));
    }
    if !VIEWS.contains(&view) {
        let failure = Failure::usage(format!("there is no view `{view}`"));
        return Err(match crate::base::diag::did_you_mean(view, VIEWS.iter().copied()) {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure.help(format!("views: {}", VIEWS.join(", "))),
        });
    }
    for (given, name) in [(args.values, "--values"), (args.grad, "--grad")] {
        if given {
            return Err(later(&format!("`{name}`")));
        }
    }
    if args.mode.is_some() {
        return Err(later("`--mode`"));
    }
    match format {
        Format::Svg | Format::Html => Err(later("this format")),
        Format::Dot if !matches!(view, "graph" | "schedule") => {
            Err(Failure::usage(format!("`{view}` has no dot form"))
                .help("graph and schedule have one"))
        }
        Format::Text | Format::Json | Format::Dot => Ok(()),
    }
}
