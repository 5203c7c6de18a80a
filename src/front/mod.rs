//! The front end: `.dl` text to graphs.
//!
//! [`load`] parses a file with everything that it imports and says what it declares; the
//! [`Module`] then writes out one model at a time. [`check`] reports everything about all models.
//! Both forms are read: a file that begins with `graph` is core form.
//!
//! Work happens in a thread of its own with a stack that fits the limits on nesting, so that no
//! text overflows the caller's.

pub mod ast;
pub mod core;
pub mod fmt;
mod lex;
mod lower;
pub mod parse;
mod project;
mod standard;

use crate::base::TensorType;
use crate::base::codes;
use crate::base::diag::{Diagnostic, Severity, did_you_mean};
use crate::base::source::SourceMap;
use crate::ir::graph::DimDecl;
use crate::ir::{Graph, NodeId};

pub use core::{Constants, is_core};
pub use lower::{Limits, Lowered, RenameRule, WeightsOf};
pub use project::Resolver;

use lower::Mode;
use project::{Decl, Project, ROOT};

/// How a file is loaded.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Reads imported files; the path is relative to where the first file's path starts.
    pub resolver: Resolver<'a>,
    /// Large constants of the core form, by the hash of their content.
    pub constants: &'a Constants,
    pub limits: Limits,
}

/// A resolver for texts that import nothing.
pub fn no_imports(_: &str) -> Result<String, String> {
    Err("imports are not available here".into())
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        static NONE: Constants = Constants::new();
        LoadOptions { resolver: &no_imports, constants: &NONE, limits: Limits::default() }
    }
}

/// A file that was read: its models, ready to be written out.
#[derive(Debug)]
pub struct Module {
    content: Content,
    limits: Limits,
    /// No errors at all.
    sound: bool,
    /// No errors of syntax: the rest can be checked.
    parsed: bool,
}

#[derive(Debug)]
enum Content {
    Source(Project),
    Core(SourceMap, Vec<Graph>),
}

/// What a file says about one of its models.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    pub name: String,
    pub inputs: Vec<(String, TensorType)>,
    pub dims: Vec<DimDecl>,
    /// The file of its own `weights` clause.
    pub weights: Option<String>,
    pub has_train: bool,
}

/// What [`load`] gives. A module whose text has errors still holds the texts for the messages.
#[derive(Debug)]
pub struct Loaded {
    pub module: Module,
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads a text and what it imports. `name` is the path that messages show and that imports and
/// weights are relative to.
pub fn load(name: &str, text: &str, options: &LoadOptions) -> Loaded {
    deep(|| {
        let mut diagnostics = vec![];
        if core::is_core(text) {
            return load_core(name, text, options);
        }
        let project = Project::load(name, text, options.resolver, &mut diagnostics);
        let parsed = !diagnostics.iter().any(|d| d.code.starts_with("E01"));
        if parsed {
            lower::check_constants(&project, ROOT, &mut diagnostics);
        }
        order(&mut diagnostics);
        let sound = !has_errors(&diagnostics);
        let content = Content::Source(project);
        Loaded { module: Module { content, limits: options.limits, sound, parsed }, diagnostics }
    })
}

impl Module {
    /// The texts, for messages.
    pub fn sources(&self) -> &SourceMap {
        match &self.content {
            Content::Source(p) => &p.sources,
            Content::Core(sources, _) => sources,
        }
    }

    /// The texts, once nothing else is wanted of the module.
    pub fn into_sources(self) -> SourceMap {
        match self.content {
            Content::Source(p) => p.sources,
            Content::Core(sources, _) => sources,
        }
    }

    /// Whether the text could be read; nothing can be written out of one that could not.
    pub fn is_sound(&self) -> bool {
        self.sound
    }

    /// The names of the models, in the order of the file.
    pub fn model_names(&self) -> Vec<String> {
        match &self.content {
            Content::Source(p) => p.models(ROOT).map(|m| m.name.text.clone()).collect(),
            Content::Core(_, graphs) => graphs.iter().map(|g| g.name.to_string()).collect(),
        }
    }

    /// What the file says about a model: the one of this name, or the last.
    pub fn info(&self, model: Option<&str>) -> (Option<ModelInfo>, Vec<Diagnostic>) {
        deep(|| {
            let mut diags = vec![];
            let info = self.pick(model, &mut diags).map(|found| match (&self.content, found) {
                (Content::Source(p), item) => {
                    let name = p.callable(ROOT, item).0.name.text.clone();
                    let (inputs, dims) = lower::signature(p, ROOT, item, &mut diags);
                    ModelInfo {
                        weights: p.weights(ROOT, &name).map(|w| w.file.clone()),
                        has_train: p.train(ROOT, &name).is_some(),
                        name,
                        inputs,
                        dims,
                    }
                }
                (Content::Core(_, graphs), i) => {
                    let graph = &graphs[i];
                    let input = |id: &NodeId| {
                        let node = graph.node(*id);
                        (node.op.str("name").to_string(), node.results[0].clone())
                    };
                    ModelInfo {
                        name: graph.name.to_string(),
                        inputs: graph.inputs.iter().map(input).collect(),
                        dims: graph.dims.clone(),
                        weights: None,
                        has_train: false,
                    }
                }
            });
            (info.filter(|_| !has_errors(&diags)), diags)
        })
    }

    /// Writes out a model: the one of this name, or the last. Lints come along with the graph.
    pub fn lower(&self, model: Option<&str>, training: bool) -> (Option<Lowered>, Vec<Diagnostic>) {
        deep(|| {
            let mut diags = vec![];
            let lowered = self.pick(model, &mut diags).and_then(|found| match &self.content {
                Content::Source(p) => {
                    let mode = Mode { training, limits: self.limits };
                    lower::lower(p, ROOT, found, mode, &mut diags)
                }
                Content::Core(_, graphs) => {
                    Some(Lowered { graph: graphs[found].clone(), weights: vec![] })
                }
            });
            order(&mut diags);
            (lowered, diags)
        })
    }

    /// Everything that is to be said about all models of the file and their `train` blocks, besides
    /// what loading has said.
    pub fn check(&self) -> Vec<Diagnostic> {
        if !self.parsed {
            return vec![];
        }
        deep(|| {
            let mut diags = vec![];
            match &self.content {
                Content::Source(p) => lower::check_all(p, ROOT, self.limits, &mut diags),
                Content::Core(..) => {}
            }
            order(&mut diags);
            diags
        })
    }

    /// The place of a model: its item in a source form, its number in a core form.
    fn pick(&self, model: Option<&str>, diags: &mut Vec<Diagnostic>) -> Option<usize> {
        if !self.sound {
            return None;
        }
        let names = self.model_names();
        let Some(name) = model.or(names.last().map(String::as_str)) else {
            let message = "the file has no model";
            diags.push(
                Diagnostic::error(codes::UNKNOWN_MODEL, None, message)
                    .help("write `model name(x: f32[4]) { return … }`"),
            );
            return None;
        };
        let found = match &self.content {
            Content::Source(p) => match p.unit(ROOT).names.get(name) {
                Some(Decl::Model(item)) => Some(*item),
                _ => None,
            },
            Content::Core(_, graphs) => graphs.iter().position(|g| *g.name == *name),
        };
        if found.is_none() {
            let near = did_you_mean(name, names.iter().map(String::as_str));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the models are {}", names.join(", ")),
            };
            let message = format!("there is no model `{name}`");
            diags.push(Diagnostic::error(codes::UNKNOWN_MODEL, None, message).help(help));
        }
        found
    }
}

fn load_core(name: &str, text: &str, options: &LoadOptions) -> Loaded {
    let mut sources = SourceMap::default();
    let file = sources.add(name, text);
    let mut diagnostics = vec![];
    let nodes = options.limits.nodes;
    let graphs = core::parse_core(file, text, options.constants, nodes, &mut diagnostics);
    let sound = !has_errors(&diagnostics);
    let content = Content::Core(sources, graphs);
    let module = Module { content, limits: options.limits, sound, parsed: sound };
    Loaded { module, diagnostics }
}

/// Reads and writes out any bytes under small limits; what it finds out is thrown away. For fuzzing:
/// it must return, whatever the bytes.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let limits = Limits { nodes: 2_000, rounds: 2_000, work: 200_000 };
    let loaded = load("fuzz.dl", text, &LoadOptions { limits, ..LoadOptions::default() });
    loaded.module.check();
    for name in loaded.module.model_names() {
        if let (Some(lowered), _) = loaded.module.lower(Some(&name), true) {
            // What is written out prints and reads back.
            let printed = crate::ir::print::print_graph(&lowered.graph);
            let options = LoadOptions { constants: &printed.constants, ..LoadOptions::default() };
            load("fuzz.dl", &printed.text, &options);
        }
    }
    let _ = fmt::format("fuzz.dl", text);
}

fn has_errors(diags: &[Diagnostic]) -> bool {
    diags.iter().any(|d| d.severity == Severity::Error)
}

/// By place, so that messages read in the order of the text.
fn order(diags: &mut [Diagnostic]) {
    diags.sort_by_key(|d| d.span.map(|s| (s.file, s.start, s.end)));
}

#[cfg(test)]
mod tests;

/// Runs in a thread whose stack fits the limits on nesting; in the caller's where the system has no
/// more threads.
fn deep<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    const STACK: usize = 256 << 20;
    let mut work = Some(f);
    let mut run = || work.take().map(|f| f());
    let done = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, &mut run);
        match thread.map(|t| t.join()) {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => None,
        }
    });
    done.or_else(run).expect("the work ran in one thread or in the other")
}
