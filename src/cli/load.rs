//! MODEL: from a path on the command line to a compiled model.

use std::path::Path;
use std::str::FromStr;

use serde_json::json;

use super::args::{Compile, later};
use super::report::{Failure, Reporter, reason};
#[cfg(feature = "cpu")]
use crate::artifact::code;
use crate::artifact::{dlm, map::map_file, model_file};
use crate::base::codes::{FILE_SYSTEM, TUNED_ELSEWHERE};
use crate::base::diag::Diagnostic;
#[cfg(feature = "cpu")]
use crate::base::machine::Extent;
use crate::base::source::SourceMap;
use crate::import::Weights;
use crate::ir::Graph;
use crate::load::{self, Files};
use crate::model::{Diagnostics, Model, Options, Runs, WeightSource, of_ops};
use crate::pass::PassStat;

/// `FILE`, `FILE:NAME`, or `-`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    pub path: String,
    pub name: Option<String>,
}

impl FromStr for Spec {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Spec, Self::Err> {
        let whole = Spec { path: text.into(), name: None };
        if Path::new(text).exists() {
            return Ok(whole);
        }
        Ok(match text.rsplit_once(':') {
            Some((path, name)) if !path.is_empty() && !name.contains(['/', '\\', '.']) => {
                Spec { path: path.into(), name: Some(name.into()) }
            }
            _ => whole,
        })
    }
}

impl Spec {
    pub fn stem(&self) -> String {
        if self.path == "-" {
            return "model".into();
        }
        let stem = Path::new(&self.path).file_stem();
        stem.map_or("model".into(), |s| s.to_string_lossy().into_owned())
    }

    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
    }
}

/// A model before compilation.
pub struct Loaded {
    pub graph: Graph,
    pub weights: Weights,
    pub options: Options,
    pub sources: SourceMap,
    pub warnings: Vec<Diagnostic>,
    /// What reading and compiling took so far, in milliseconds.
    pub load_ms: f64,
}

/// What happens where a model has parameters and no weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// An error with a hint.
    Refuse,
    /// Initial values from the seed.
    Random,
    /// Nothing: the command does not need them.
    Ignore,
}

/// The text of a file, or of standard input. Content that is no text is the model's fault.
pub fn text(path: &str) -> Result<String, Failure> {
    let bytes = match path {
        "-" => {
            let mut bytes = vec![];
            let read = std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes);
            read.map_err(|e| Failure::usage(format!("cannot read standard input: {e}")))?;
            bytes
        }
        _ => {
            let shared = crate::import::read_file(Path::new(path))?;
            (*shared).as_ref().to_vec()
        }
    };
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let before = &e.as_bytes()[..at];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = at - before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1) + 1;
        let message = format!("`{path}` is not UTF-8");
        let note = format!("the first byte that is not is at line {line}, column {column}");
        Diagnostic::error("E0105", None, message).note(note).into()
    })
}

/// The name that messages show.
pub fn display_name(path: &str) -> String {
    if path == "-" { "<stdin>".into() } else { path.into() }
}

/// Reads files for imports and weights.
pub fn files() -> Files<'static> {
    Files {
        text: &|path| std::fs::read_to_string(path).map_err(|e| e.to_string()),
        bytes: &|path| map_file(Path::new(path)),
    }
}

/// Reads a model and binds its weights.
pub fn load(spec: &Spec, args: &Compile, missing: Missing) -> Result<Loaded, Failure> {
    let start = std::time::Instant::now();
    let mut options = args.options()?;
    if spec.has_extension("onnx") {
        return Err(later("reading ONNX"));
    }
    let mut loaded = match spec.has_extension("dlm") {
        true => compiled(spec, args, options)?,
        false => source(spec, args, missing, &mut options)?,
    };
    let inputs = inputs(&loaded.graph);
    args.pins(&mut loaded.options, &inputs)?;
    let unbound = loaded
        .graph
        .params
        .iter()
        .any(|id| loaded.weights.get(loaded.graph.node(*id).op.str("name")).is_none());
    if unbound {
        match missing {
            Missing::Ignore => {}
            Missing::Refuse => {
                crate::plan::parameters(&loaded.graph, &loaded.weights)?;
            }
            Missing::Random => {
                let dims = &loaded.options.dims;
                let graph = loaded.graph.bind(dims).map_err(of_ops)?;
                let mut all = crate::model::random_weights(&graph, loaded.options.seed)?;
                all.tensors.extend(std::mem::take(&mut loaded.weights.tensors));
                loaded.weights = all;
            }
        }
    }
    loaded.load_ms = start.elapsed().as_secs_f64() * 1e3;
    Ok(loaded)
}

fn inputs(graph: &Graph) -> Vec<(String, crate::base::TensorType)> {
    let of = |id: &crate::ir::NodeId| {
        let node = graph.node(*id);
        (node.op.str("name").to_string(), node.results[0].clone())
    };
    graph.inputs.iter().map(of).collect()
}

fn source(
    spec: &Spec,
    args: &Compile,
    missing: Missing,
    options: &mut Options,
) -> Result<Loaded, Failure> {
    let text = text(&spec.path)?;
    let name = display_name(&spec.path);
    let read = load::read(&name, &text, spec.name.as_deref(), &files())?;
    let renames = match &args.weights_map {
        None => vec![],
        Some(path) => rename_table(path)?,
    };
    let weights = load::weights(&read.graph, &read.weights, &renames, options, &files());
    let weights = match (weights, missing) {
        (Ok(w), _) => w,
        // Looking at a model needs no weights, so a file that is not there is no obstacle.
        (Err(d), Missing::Ignore | Missing::Random) if absent(&d) && args.weights.is_none() => {
            Weights::default()
        }
        (Err(d), _) => return Err(Diagnostics { sources: read.sources, list: d.list }.into()),
    };
    Ok(Loaded {
        graph: read.graph,
        weights,
        options: options.clone(),
        sources: read.sources,
        warnings: read.warnings,
        load_ms: 0.0,
    })
}

/// Whether the system would not open a file of weights. One that it opens has to fit.
fn absent(d: &Diagnostics) -> bool {
    d.list.iter().all(|d| d.code == FILE_SYSTEM)
}

/// `--weights-map`: the inside of a `weights` clause's braces.
fn rename_table(path: &Path) -> Result<Vec<load::RenameRule>, Failure> {
    let table = text(&path.to_string_lossy())?;
    let clause =
        format!("model m(x: f32[]) {{ return x }}\nweights m from \"w\" {{\n{table}\n}}\n");
    let read = load::read(&path.to_string_lossy(), &clause, None, &files())?;
    Ok(read.weights.into_iter().flat_map(|w| w.renames).collect())
}

/// What a file was compiled with and the call does not say otherwise. False where its tiles are another machine's.
fn take_over(manifest: &dlm::Manifest, args: &Compile, options: &mut Options) -> bool {
    // It is a matter of results, so that of the compilation holds.
    if args.precision.is_none() {
        options.control.settings.narrow = model_file::precision(manifest);
    }
    model_file::take_tiles(manifest, options)
}

fn compiled(spec: &Spec, args: &Compile, mut options: Options) -> Result<Loaded, Failure> {
    let parts = dlm::read_file(Path::new(&spec.path))?;
    let mut warnings = vec![];
    if !take_over(&parts.manifest, args, &mut options) {
        let message = format!("`{}` was tuned on another machine", spec.path);
        let note = "its choices are ignored, and results are the same";
        warnings.push(Diagnostic::warning(TUNED_ELSEWHERE, None, message).note(note));
    }
    let (graph, weights) = model_file::open(&spec.path, parts)?;
    let weights = match &options.weights {
        WeightSource::Declared => weights,
        WeightSource::Random => crate::model::random_weights(&graph, options.seed)?,
        WeightSource::Given(given) => given.clone(),
    };
    let sources = SourceMap::default();
    Ok(Loaded { graph, weights, options, sources, warnings, load_ms: 0.0 })
}

impl Loaded {
    /// Compiles, with dumps and warnings on the way.
    pub fn compile(self, args: &Compile, reporter: &Reporter) -> Result<Model, Failure> {
        reporter.warnings(&self.sources, &self.warnings);
        let mut dumped: Result<(), Failure> = Ok(());
        let mut count = 0;
        let mut model = Model::new(self.graph, self.weights, self.options, &mut |pass, graph| {
            count += 1;
            let wanted = args.dump_after.as_deref().is_some_and(|d| d == "all" || d == pass);
            if wanted && dumped.is_ok() {
                dumped = dump(args, count, pass, graph);
            }
        })
        .map_err(|d| Diagnostics { sources: self.sources, list: d.list })?;
        dumped?;
        tune(&mut model, args, reporter)?;
        trace(args, &model, &[])?;
        if args.time_passes || reporter.verbose {
            for p in model.passes() {
                let (before, after) = (p.nodes_before, p.nodes_after);
                eprintln!(
                    "{:>9.3} ms  {:<14} {before} → {after} nodes, {} rewrites",
                    p.ms, p.pass, p.rewrites
                );
            }
        }
        Ok(model)
    }
}

/// `--tune`.
#[cfg(feature = "cpu")]
fn tune(model: &mut Model, args: &Compile, reporter: &Reporter) -> Result<(), Failure> {
    let Some(seconds) = args.tune else { return Ok(()) };
    crate::plan::parameters(model.source(), model.weights())?;
    model.tune(std::time::Duration::from_secs_f64(seconds))?;
    let target = &model.options().target;
    let across = if target.machine.in_step() { "columns" } else { "vectors" };
    for (of, tile) in target.machine.tiles.iter() {
        let Extent { rows, columns, depth, bytes } = of;
        reporter.note(&format!(
            "products of {rows} × {columns}, sums of {depth}, {bytes} bytes each: tiles of {} rows \
             × {} {across}",
            tile.rows, tile.vectors
        ));
    }
    Ok(())
}

#[cfg(not(feature = "cpu"))]
fn tune(_: &mut Model, _: &Compile, _: &Reporter) -> Result<(), Failure> {
    Ok(())
}

fn dump(args: &Compile, count: usize, pass: &str, graph: &Graph) -> Result<(), Failure> {
    let text = crate::ir::print::print_graph(graph).text;
    match &args.dump_dir {
        None => {
            eprintln!("// after {pass}\n{text}");
            Ok(())
        }
        Some(dir) => {
            let path = dir.join(format!("{count:02}-{pass}.dl"));
            let written = std::fs::create_dir_all(dir)
                .and_then(|()| crate::base::atomic_file::write(&path, text.as_bytes()));
            written.map_err(|e| {
                Failure::usage(format!("cannot write `{}`: {}", path.display(), reason(&e)))
            })
        }
    }
}

/// Loads and compiles.
pub fn model(
    spec: &Spec,
    args: &Compile,
    missing: Missing,
    reporter: &Reporter,
) -> Result<Model, Failure> {
    load(spec, args, missing)?.compile(args, reporter)
}

/// A model that runs, and what reading it took, in milliseconds: the code in a `.dlm` where it may
/// be used, else compiled.
pub fn runnable(
    spec: &Spec,
    args: &Compile,
    missing: Missing,
    runs: Runs,
    reporter: &Reporter,
) -> Result<(Model, f64), Failure> {
    let start = std::time::Instant::now();
    if let Some(model) = restored(spec, args, reporter)? {
        return Ok((model, start.elapsed().as_secs_f64() * 1e3));
    }
    let mut loaded = load(spec, args, missing)?;
    loaded.options.runs = runs;
    let load_ms = loaded.load_ms;
    Ok((loaded.compile(args, reporter)?, load_ms))
}

#[cfg(feature = "cpu")]
fn restored(spec: &Spec, args: &Compile, reporter: &Reporter) -> Result<Option<Model>, Failure> {
    let asked = args.dump_after.is_some()
        || args.time_passes
        || args.tune.is_some()
        || !args.pin.is_empty();
    if !spec.has_extension("dlm") || asked {
        return Ok(None);
    }
    let mut options = args.options()?;
    let file = dlm::open_file(Path::new(&spec.path))?;
    take_over(file.manifest(), args, &mut options);
    let model = match super::seal::known() {
        Some(seal) => code::restore(&file, &seal, &options),
        None => Err(code::Unused::Seal),
    };
    if let Err(why) = &model {
        reporter.note(&format!("`{}` is compiled anew: {why}", spec.path));
    }
    Ok(model.ok())
}

#[cfg(not(feature = "cpu"))]
fn restored(_: &Spec, _: &Compile, _: &Reporter) -> Result<Option<Model>, Failure> {
    Ok(None)
}

/// Writes what compiling took as a Chrome trace: passes, and for the plans that were made lowering,
/// scheduling and code generation; then launches with their microseconds.
pub fn trace(args: &Compile, model: &Model, launches: &[(String, f64)]) -> Result<(), Failure> {
    let Some(path) = &args.trace else { return Ok(()) };
    let (mut at, mut events) = (0.0, vec![]);
    let mut add = |name: &str, category: &str, us: f64, args: serde_json::Value| {
        events.push(json!({
            "name": name, "cat": category, "ph": "X", "pid": 1, "tid": 1,
            "ts": at, "dur": us, "args": args,
        }));
        at += us;
    };
    let nodes =
        |p: &PassStat| json!({ "nodes_before": p.nodes_before, "nodes_after": p.nodes_after });
    for p in model.passes() {
        add(p.pass, "pass", p.ms * 1e3, nodes(p));
    }
    for plan in model.plans() {
        for p in &plan.passes {
            add(p.pass, "lowering", p.ms * 1e3, nodes(p));
        }
        let launches = plan.program.launches.len();
        add("schedule", "schedule", plan.schedule_ms * 1e3, json!({ "launches": launches }));
        if let Some(ms) = plan.code_ms() {
            let kernels = plan.program.kernels.len();
            add("code generation", "code", ms * 1e3, json!({ "kernels": kernels }));
        }
    }
    for (name, us) in launches {
        add(name, "launch", *us, json!({}));
    }
    let text = serde_json::to_string(&json!({ "traceEvents": events }));
    let text = text.expect("a JSON value is printable");
    crate::base::atomic_file::write(path, text.as_bytes())
        .map_err(|e| Failure::usage(format!("cannot write `{}`: {}", path.display(), reason(&e))))
}
