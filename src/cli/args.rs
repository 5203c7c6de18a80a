//! Options that subcommands share.

use std::path::PathBuf;

use clap::{ArgAction, ValueEnum};

use super::load::{self, Spec};
use super::report::Failure;
use crate::base::{DType, Symbol};
use crate::import::{safetensors, value};
use crate::model::{Diagnostics, Options, WeightSource};
use crate::pipeline::Level;
use crate::placed::Place;
use crate::schedule::place::{Rule, Rules, rule_sources};
use crate::schedule::program::Queue;
use crate::target::Target;
use crate::target::wgsl::Matmul;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum MessageFormat {
    #[default]
    Human,
    Short,
    Json,
    Sarif,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// Of all output.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// The result as one JSON document on standard output
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// The form of diagnostics on standard error
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Output")]
    pub message_format: MessageFormat,
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Output")]
    pub color: Color,
    /// No warnings, no reports
    #[arg(short, long, global = true, help_heading = "Output")]
    pub quiet: bool,
    /// Say more: the time of each pass
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
}

/// What to compile for, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Compile {
    /// cpu, cpu:x86-64, cpu:x86-64-v3, cpu:x86-64-v4, cpu:aarch64, cpu:clif, reference, auto
    #[arg(long, default_value = "cpu")]
    pub target: String,
    /// Optimization level, 0 to 3
    #[arg(short = 'O', default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub opt: u8,
    /// Rewrite nothing that changes a rounding
    #[arg(long)]
    pub strict: bool,
    /// Threads in all, the caller's among them; default: the machine's cores
    #[arg(long)]
    pub threads: Option<String>,
    /// Bind a dimension
    #[arg(long, value_name = "NAME=INT")]
    pub set: Vec<String>,
    /// Bind an input's dimensions
    #[arg(long, value_name = "INPUT=1x3x224")]
    pub shape: Vec<String>,
    /// Make an input a compile-time constant
    #[arg(long, value_name = "INPUT=VALUE")]
    pub pin: Vec<String>,
    /// Keep these values as the outputs and cut the rest away
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub outputs: Vec<String>,
    /// Parameters: a safetensors file, or `random`
    #[arg(long, value_name = "FILE|random")]
    pub weights: Option<String>,
    /// Renames, transposes, permutations of weights, as in a `weights` clause
    #[arg(long, value_name = "FILE")]
    pub weights_map: Option<PathBuf>,
    /// For initial parameters and `--random`
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Of products: f32 as written, or f16 or bf16 with sums of f32
    #[arg(long, value_name = "f32|bf16|f16")]
    pub precision: Option<String>,
    /// Which queue computes what: auto, cpu, gpu, or a file with lines `PATTERN QUEUE`
    #[arg(long, value_name = "auto|cpu|gpu|FILE")]
    pub place: Option<String>,
    /// Measure for at most so many seconds which machine choices are fast; results do not change
    #[arg(long, value_name = "SECONDS")]
    pub tune: Option<f64>,
    /// Refuse a program whose arena is larger
    #[arg(long, value_name = "BYTES")]
    pub mem_budget: Option<u64>,
    /// Run only these passes; with a minus, leave them out
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub passes: Option<String>,
    /// At most so many rewrites, for bisection
    #[arg(long, value_name = "N")]
    pub pass_limit: Option<u64>,
    /// Print the graph after this pass, or after all
    #[arg(long, value_name = "PASS|all")]
    pub dump_after: Option<String>,
    /// Write dumps into files of this folder
    #[arg(long, value_name = "DIR")]
    pub dump_dir: Option<PathBuf>,
    /// Verify the graph after each pass
    #[arg(long)]
    pub verify_each: bool,
    /// Print the time of each pass
    #[arg(long)]
    pub time_passes: bool,
    /// Stop after this pass
    #[arg(long, value_name = "PASS")]
    pub stop_after: Option<String>,
    /// Write a Chrome trace of the passes; of `run` also code generation and launches
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Use the GPU adapter whose name contains this
    #[arg(long, value_name = "NAME", hide = !cfg!(feature = "gpu"))]
    pub gpu_adapter: Option<String>,
    /// How the GPU computes products of matrices: auto, tiled, or coop (cooperative matrices)
    #[arg(long, value_name = "auto|tiled|coop", hide = !cfg!(feature = "gpu"))]
    pub gpu_matmul: Option<String>,
}

impl Compile {
    /// The facade's options. Pins come later: they need the inputs' types.
    pub fn options(&self) -> Result<Options, Failure> {
        self.refuse_later()?;
        let mut options = Options {
            target: Target::parse(&self.target)
                .map_err(|d| Failure { status: 2, diagnostics: d.into() })?,
            level: [Level::O0, Level::O1, Level::O2, Level::O3][self.opt as usize],
            threads: self.thread_count()?,
            seed: self.seed,
            mem_budget: self.mem_budget,
            ..Options::default()
        };
        options.control.settings.strict = self.strict;
        options.control.settings.narrow = match self.precision.as_deref() {
            None | Some("f32") => None,
            Some("f16") => Some(DType::F16),
            Some("bf16") => Some(DType::BF16),
            Some(p) => {
                let message = format!("`--precision {p}`: f32, bf16 or f16 are known");
                return Err(Failure::usage(message));
            }
        };
        options.adapter = self.gpu_adapter.clone();
        options.matmul = match self.gpu_matmul.as_deref() {
            None | Some("auto") => Matmul::Auto,
            Some("tiled") => Matmul::Tiled,
            Some("coop") => Matmul::Coop,
            Some(other) => {
                let message = format!("`--gpu-matmul {other}`: auto, tiled or coop are known");
                return Err(Failure::usage(message));
            }
        };
        options.place = self.placement(&options)?;
        #[cfg(feature = "gpu")]
        if options.place.is_some() || options.target.row.kind == crate::target::Kind::Gpu {
            options.keep = super::kept::folder();
        }
        options.control.verify_each = self.verify_each || cfg!(debug_assertions);
        options.control.limit = self.pass_limit;
        for name in [&self.stop_after, &self.dump_after].into_iter().flatten() {
            let mut probe = options.control.clone();
            if name != "all" {
                probe.select(name).map_err(|e| Failure::usage(e.to_string()))?;
            }
        }
        options.control.stop_after = self.stop_after.clone();
        if let Some(list) = &self.passes {
            options.control.select(list).map_err(|e| Failure::usage(e.to_string()))?;
        }
        for item in &self.set {
            let (name, text) = pair(item, "--set NAME=INT")?;
            if text.contains(',') {
                return Err(later("several variants in one `--set`"));
            }
            let bad = |_| Failure::usage(format!("`--set {item}`: `{text}` is no integer"));
            options.dims.insert(Symbol::new(name), text.parse().map_err(bad)?);
        }
        for item in &self.shape {
            let (name, text) = pair(item, "--shape INPUT=1x3x224")?;
            let extent = |d: &str| {
                let bad = |_| Failure::usage(format!("`--shape {item}`: `{d}` is no extent"));
                d.parse::<usize>().map_err(bad)
            };
            let dims = text.split('x').filter(|d| !d.is_empty());
            options.shapes.insert(name.into(), dims.map(extent).collect::<Result<_, _>>()?);
        }
        if !self.outputs.is_empty() {
            options.outputs = Some(self.outputs.clone());
        }
        options.weights = match self.weights.as_deref() {
            None => WeightSource::Declared,
            Some("random") => WeightSource::Random,
            Some(path) => {
                let bytes = crate::artifact::map::map_file(path.as_ref())?;
                let weights = safetensors::read(bytes).map_err(|e| e.within(path))?;
                WeightSource::Given(weights)
            }
        };
        Ok(options)
    }

    /// Values of `--pin`, once the inputs are known.
    pub fn pins(
        &self,
        options: &mut Options,
        inputs: &[(String, crate::base::TensorType)],
    ) -> Result<(), Failure> {
        for item in &self.pin {
            let (name, text) = pair(item, "--pin INPUT=VALUE")?;
            let ty = inputs.iter().find(|(n, _)| n == name).map(|(_, ty)| ty);
            let pinned = value::parse(text, ty).map_err(|e| e.within(format!("--pin {name}")))?;
            options.pins.insert(name.into(), pinned);
        }
        Ok(())
    }

    /// `--place`.
    fn placement(&self, options: &Options) -> Result<Option<Place>, Failure> {
        let Some(word) = self.place.as_deref() else { return Ok(None) };
        let rule = match word {
            "auto" => Rule::Auto,
            "cpu" => Rule::All(Queue::Cpu),
            "gpu" => Rule::All(Queue::Gpu),
            path => {
                let text = load::text(path)?;
                Rule::File(Rules::parse(path, &text).map_err(|list| {
                    let diagnostics = Diagnostics { sources: rule_sources(path, &text), list };
                    Failure { status: 2, diagnostics }
                })?)
            }
        };
        let place = Place::new(rule);
        place.check(&options.target)?;
        Ok(Some(place))
    }

    fn thread_count(&self) -> Result<usize, Failure> {
        let Some(text) = &self.threads else {
            return Ok(std::thread::available_parallelism().map_or(1, |n| n.get()));
        };
        match text.parse::<usize>() {
            Ok(n @ 1..=1024) => Ok(n),
            _ => Err(Failure::usage(format!(
                "`--threads {text}`: a number from 1 to 1024 is wanted"
            ))),
        }
    }

    fn refuse_later(&self) -> Result<(), Failure> {
        if self.tune.is_some_and(|seconds| !(0.0..=86_400.0).contains(&seconds)) {
            return Err(Failure::usage("`--tune` takes seconds, at most 86400"));
        }
        if (self.gpu_adapter.is_some() || self.gpu_matmul.is_some()) && !cfg!(feature = "gpu") {
            return Err(later("the GPU"));
        }
        Ok(())
    }
}

/// Something that a later version brings: wrong usage for now.
pub fn later(what: &str) -> Failure {
    Failure::usage(format!("{what} comes with a later version of dlc"))
}

/// `NAME=REST`.
pub fn pair<'a>(item: &'a str, form: &str) -> Result<(&'a str, &'a str), Failure> {
    item.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| Failure::usage(format!("`{item}` is not of the form `{form}`")))
}

/// The model that a command works on.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArg {
    /// A `.dl`, `.onnx` or `.dlm` file; `-` is standard input; `FILE:NAME` picks a model
    pub model: Spec,
}
