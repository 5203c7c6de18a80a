//! The facade: from text to a model that runs.
//!
//! [`compile`] reads a model, binds its weights and prepares it; a [`Model`] is shared by threads
//! and makes [`Session`]s, each with buffers of its own. Open dimensions are bound from the inputs
//! at [`Model::run`], or beforehand by [`Options::dims`]; each binding is compiled once and kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use crate::base::codes::BEYOND_HALF;
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::SourceMap;
use crate::base::{Bindings, DType, Symbol, Tensor, TensorType};
use crate::import::Weights;
use crate::ir::graph::Graph;
use crate::ir::init::initial_value;
use crate::ir::op::OpError;
use crate::ir::{Attr, Builder, Value, bind};
use crate::pass::{Control, PassStat};
use crate::pipeline::{self, Level};
use crate::placed::{Place, Placed};
use crate::plan::Plan;
#[cfg(feature = "cpu")]
use crate::runtime::cpu::Executable;
use crate::runtime::keep::Keep;
use crate::schedule::program::Program;
use crate::target::Target;
use crate::target::wgsl::Matmul;
#[cfg(feature = "cpu")]
use {crate::base::machine::Tiles, crate::target::Kind, std::time::Duration};

pub use crate::session::Session;

/// Where parameters come from.
#[derive(Clone, Debug, Default)]
pub enum WeightSource {
    /// The files that the model's `weights` clauses name.
    #[default]
    Declared,
    /// Initial values, from the seed.
    Random,
    Given(Weights),
}

/// How often a model will run: what time to compile is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Runs {
    Once,
    #[default]
    Many,
}

/// How to compile.
#[derive(Clone, Debug)]
pub struct Options {
    pub target: Target,
    pub level: Level,
    /// What passes may do and which run.
    pub control: Control,
    /// Which queue computes what; `None`: all where the target says.
    pub place: Option<Place>,
    /// Part of the name of the GPU adapter to use; `None`: the best one.
    pub adapter: Option<String>,
    /// How the GPU computes products of matrices.
    pub matmul: Matmul,
    /// Keeps what a GPU's driver compiled; `None`: nobody does.
    pub keep: Option<Arc<dyn Keep>>,
    /// Threads of a session, the caller's among them.
    pub threads: usize,
    pub runs: Runs,
    /// Open dimensions that are known.
    pub dims: Bindings,
    /// Shapes of inputs, by name.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Inputs that become constants.
    pub pins: BTreeMap<String, Tensor>,
    /// Keep these values as the outputs, and cut the rest away.
    pub outputs: Option<Vec<String>>,
    pub weights: WeightSource,
    pub seed: u64,
    /// The largest arena that is accepted, in bytes.
    pub mem_budget: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            target: Target::host(),
            level: Level::default(),
            control: Control::default(),
            place: None,
            adapter: None,
            matmul: Matmul::default(),
            keep: None,
            threads: 1,
            runs: Runs::default(),
            dims: Bindings::new(),
            shapes: BTreeMap::new(),
            pins: BTreeMap::new(),
            outputs: None,
            weights: WeightSource::default(),
            seed: 0,
            mem_budget: None,
        }
    }
}

/// What was said about a model, with the texts that the places are in.
#[derive(Debug, Default)]
pub struct Diagnostics {
    pub sources: SourceMap,
    pub list: Vec<Diagnostic>,
}

impl Diagnostics {
    pub fn of(list: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics { sources: SourceMap::default(), list }
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for d in &self.list {
            writeln!(f, "{}[{}]: {}", d.severity.name(), d.code, d.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(d: Diagnostic) -> Diagnostics {
        Diagnostics::of(vec![d])
    }
}

impl From<Box<Diagnostic>> for Diagnostics {
    fn from(d: Box<Diagnostic>) -> Diagnostics {
        Diagnostics::of(vec![*d])
    }
}

/// An error of an op as a diagnostic; its place is in the notes.
pub fn of_op(e: OpError) -> Diagnostic {
    let mut d = Diagnostic::error(e.code, None, e.message);
    (d.notes, d.help) = (e.notes, e.help);
    d
}

/// A compiled model. Sessions share it.
pub struct Model {
    /// As it was read, with pins and chosen outputs applied.
    source: Graph,
    optimized: OnceLock<Optimized>,
    /// Parameters by path; empty where there are none to be had.
    weights: Weights,
    options: Options,
    plans: Mutex<BTreeMap<Bindings, Arc<Placed>>>,
    warnings: Mutex<Vec<Diagnostic>>,
    /// Code that was there before: the model has no open dimensions.
    #[cfg(feature = "cpu")]
    restored: Option<Arc<Executable>>,
}

/// What the graph passes made.
struct Optimized {
    graph: Graph,
    passes: Vec<PassStat>,
}

impl Model {
    /// Compiles a graph. `weights` binds its parameters; where one is missing the model can be
    /// looked at but not run. `watch` sees the graph after each pass.
    pub fn new(
        mut graph: Graph,
        weights: Weights,
        options: Options,
        watch: &mut dyn FnMut(&'static str, &Graph),
    ) -> Result<Model, Diagnostics> {
        pin(&mut graph, &options)?;
        choose_outputs(&mut graph, &options)?;
        let mut dims = options.dims.clone();
        if !options.shapes.is_empty() {
            dims = shapes_to_dims(&graph, &options)?;
        }
        let graph = graph.bind(&dims).map_err(of_ops)?;
        check_weights(&graph, &weights)?;
        let model = Model::unoptimized(graph, weights, options);
        let optimized = model.optimize(watch)?;
        Ok(Model { optimized: optimized.into(), ..model })
    }

    /// A model without open dimensions whose code was made earlier, with the same options. It is
    /// compiled once more only where somebody asks for its plan.
    #[cfg(feature = "cpu")]
    pub fn restored(
        source: Graph,
        weights: Weights,
        options: Options,
        executable: Executable,
    ) -> Result<Model, Diagnostics> {
        crate::plan::within_budget(executable.program(), &options)?;
        let restored = Some(Arc::new(executable));
        Ok(Model { restored, ..Model::unoptimized(source, weights, options) })
    }

    /// Measures for so long which tiles are fast on this machine, and keeps them in the options:
    /// from here on plans are made with them. Results stay the same to the bit. A model that is neither
    /// compiled to machine code for this processor nor for its GPU has nothing to measure.
    #[cfg(feature = "cpu")]
    pub fn tune(&mut self, limit: Duration) -> Result<(), Diagnostics> {
        let target = &mut self.options.target;
        target.machine.tiles = Tiles::default();
        let measured = matches!(target.row.kind, Kind::Cpu(_) | Kind::Cranelift | Kind::Gpu);
        if !measured || target.check_runs_here().is_err() {
            return Ok(());
        }
        let bound = self.bound(&Bindings::new())?;
        let tiles = crate::tune::search(&bound, &self.weights, &self.options, limit)?;
        self.options.target.machine.tiles = tiles;
        self.plans.get_mut().expect("no panic holds the lock").clear();
        self.restored = None;
        Ok(())
    }

    fn unoptimized(source: Graph, weights: Weights, mut options: Options) -> Model {
        options.control.settings.claimed = crate::kernel::generate::CLAIMED;
        Model {
            source,
            optimized: OnceLock::new(),
            weights,
            options,
            plans: Mutex::new(BTreeMap::new()),
            warnings: Mutex::default(),
            #[cfg(feature = "cpu")]
            restored: None,
        }
    }

    fn optimize(
        &self,
        watch: &mut dyn FnMut(&'static str, &Graph),
    ) -> Result<Optimized, Diagnostics> {
        let mut graph = self.source.clone();
        let steps = pipeline::graph_passes(self.options.level);
        let passes = pipeline::optimize(&mut graph, steps, &self.options.control, watch)
            .map_err(|e| Diagnostic::error("E0705", None, e.to_string()))?;
        Ok(Optimized { graph, passes })
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The graph as it was read.
    pub fn source(&self) -> &Graph {
        &self.source
    }

    /// The graph after the graph passes.
    pub fn graph(&self) -> Result<&Graph, Diagnostics> {
        if let Some(optimized) = self.optimized.get() {
            return Ok(&optimized.graph);
        }
        let optimized = self.optimize(&mut |_, _| {})?;
        Ok(&self.optimized.get_or_init(|| optimized).graph)
    }

    /// The graph passes that ran.
    pub fn passes(&self) -> &[PassStat] {
        self.optimized.get().map_or(&[], |o| &o.passes)
    }

    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Names and types of the inputs; open dimensions are symbols.
    pub fn inputs(&self) -> Vec<(String, TensorType)> {
        let of = |id: &crate::ir::NodeId| {
            let node = self.source.node(*id);
            (node.op.str("name").to_string(), node.results[0].clone())
        };
        self.source.inputs.iter().map(of).collect()
    }

    pub fn outputs(&self) -> Vec<(String, TensorType)> {
        let of =
            |o: &crate::ir::graph::Output| (o.name.to_string(), self.source.ty(o.value).clone());
        self.source.outputs.iter().map(of).collect()
    }

    /// The open dimensions.
    pub fn open_dims(&self) -> Vec<Symbol> {
        self.source.open_dims().into_iter().map(|d| d.symbol).collect()
    }

    /// The plans that were made so far.
    pub fn plans(&self) -> Vec<Arc<Plan>> {
        let plans = self.plans.lock().expect("no panic holds the lock");
        plans.values().flat_map(|p| p.segments.iter().map(|s| s.plan.clone())).collect()
    }

    /// The programs for these dimensions, on one queue or two; made once.
    pub fn placed(&self, dims: &Bindings) -> Result<Arc<Placed>, Diagnostics> {
        if let Some(placed) = self.plans.lock().expect("no panic holds the lock").get(dims) {
            return Ok(placed.clone());
        }
        let placed = Arc::new(Placed::new(self.bound(dims)?, &self.options)?);
        self.plans.lock().expect("no panic holds the lock").insert(dims.clone(), placed.clone());
        Ok(placed)
    }

    /// The plan for these dimensions. E0873 where the model is split over two queues.
    pub fn plan(&self, dims: &Bindings) -> Result<Arc<Plan>, Diagnostics> {
        self.placed(dims)?.single().cloned()
    }

    /// The graph after the graph passes, without open dimensions.
    fn bound(&self, dims: &Bindings) -> Result<Graph, Diagnostics> {
        let bound = self.graph()?.bind(dims).map_err(of_ops)?;
        if let Some(open) = bound.open_dims().first() {
            let message = format!("dimension `{}` is open", open.symbol);
            let help = format!("bind it: `--set {}=1`", open.symbol);
            return Err(Diagnostic::error("E0706", None, message).help(help).into());
        }
        Ok(bound)
    }

    /// The program for these dimensions, restored or made. E0873 where there are several.
    pub fn program(&self, dims: &Bindings) -> Result<Arc<Program>, Diagnostics> {
        #[cfg(feature = "cpu")]
        if let Some(executable) = self.restored.as_ref().filter(|_| dims.is_empty()) {
            return Ok(executable.program().clone());
        }
        Ok(Arc::new(self.plan(dims)?.program.clone()))
    }

    /// FLOP of a run, and bytes of the arenas.
    pub fn sizes(&self, dims: &Bindings) -> Result<(u64, u64), Diagnostics> {
        #[cfg(feature = "cpu")]
        if let Some(executable) = self.restored.as_ref().filter(|_| dims.is_empty()) {
            return Ok((executable.program().flops(), executable.program().arena_bytes));
        }
        let placed = self.placed(dims)?;
        Ok((placed.flops(), placed.arena_bytes()))
    }

    /// A session for a model whose dimensions are all bound.
    pub fn session(&self) -> Result<Session, Diagnostics> {
        self.session_for(&Bindings::new())
    }

    /// A session for these dimensions.
    pub fn session_for(&self, dims: &Bindings) -> Result<Session, Diagnostics> {
        #[cfg(feature = "cpu")]
        if let Some(executable) = self.restored.as_ref().filter(|_| dims.is_empty()) {
            return Session::on(executable.clone(), &self.source, &self.options);
        }
        let session = Session::new(&*self.placed(dims)?, &self.weights, &self.options)?;
        let mut warnings = self.warnings.lock().expect("no panic holds the lock");
        for warning in session.warnings() {
            if warnings.iter().all(|w| w.message != warning.message) {
                warnings.push(warning.clone());
            }
        }
        drop(warnings);
        Ok(session)
    }

    /// What the user should know: of the sessions that were made, and of parameters that `--precision f16`
    /// makes infinite.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        let mut all = self.warnings.lock().expect("no panic holds the lock").clone();
        if self.options.control.settings.narrow == Some(DType::F16) {
            all.extend(self.weights.tensors.iter().filter_map(|(path, t)| beyond_half(path, t)));
        }
        all
    }

    /// The open dimensions, from the shapes of inputs in the order of the signature.
    pub fn solve(&self, shapes: &[Vec<usize>]) -> Result<Bindings, Diagnostics> {
        bind::solve(&self.source, shapes, &Bindings::new()).map_err(of_ops)
    }

    /// Runs once on a fresh session: inputs by name, outputs in the order of the signature.
    pub fn run(
        &self,
        inputs: &BTreeMap<String, Tensor>,
    ) -> Result<Vec<(String, Tensor)>, Diagnostics> {
        self.run_with(inputs, &mut |session| session.run())
    }

    /// As [`Model::run`], with the run itself left to the caller, who may look at each launch.
    pub fn run_with(
        &self,
        inputs: &BTreeMap<String, Tensor>,
        run: &mut dyn FnMut(&mut Session) -> Result<(), Diagnostics>,
    ) -> Result<Vec<(String, Tensor)>, Diagnostics> {
        let mut ordered = vec![];
        for (name, ty) in self.inputs() {
            let Some(t) = inputs.get(&name) else {
                let help = format!("give it: `--input {name}=…`");
                let message = format!("input `{name}: {ty}` is missing");
                return Err(Diagnostic::error("E0707", None, message).help(help).into());
            };
            if t.dtype() != ty.dtype {
                let message = format!("input `{name}` is {}, the model takes {ty}", t.ty());
                return Err(Diagnostic::error("E0708", None, message).into());
            }
            ordered.push(t.clone());
        }
        let shapes: Vec<Vec<usize>> = ordered.iter().map(|t| t.shape().to_vec()).collect();
        let mut session = self.session_for(&self.solve(&shapes)?)?;
        for (i, t) in ordered.iter().enumerate() {
            session.set_input(i, t)?;
        }
        run(&mut session)?;
        let names = self.outputs().into_iter().map(|(name, _)| name);
        names.enumerate().map(|(i, name)| Ok((name, session.output(i)?))).collect()
    }
}

/// A warning where a parameter has numbers that f16 has not.
fn beyond_half(path: &str, t: &Tensor) -> Option<Diagnostic> {
    if t.dtype() != DType::F32 {
        return None;
    }
    let most = half::f16::MAX.to_f32();
    let is_beyond = |v: &&f32| v.is_finite() && v.abs() > most;
    let count = t.as_slice::<f32>().iter().filter(is_beyond).count();
    let message =
        format!("{count} elements of parameter `{path}` are beyond {most}, the most of f16");
    let help =
        "where a product reads them they are infinite; `--precision bf16` has the range of f32";
    (count > 0).then(|| Diagnostic::warning(BEYOND_HALF, None, message).help(help))
}

/// Several errors of ops as diagnostics.
pub fn of_ops(errors: Vec<OpError>) -> Diagnostics {
    Diagnostics::of(errors.into_iter().map(of_op).collect())
}

fn pin(graph: &mut Graph, options: &Options) -> Result<(), Diagnostics> {
    for (name, value) in &options.pins {
        let at = graph.inputs.iter().position(|id| graph.node(*id).op.str("name") == name);
        let Some(at) = at else { return Err(unknown_input(graph, name).into()) };
        let id = graph.inputs[at];
        let ty = graph.node(id).results[0].clone();
        let dims = solve_one(name, &ty, value.shape())?;
        if value.dtype() != ty.dtype {
            let message = format!("input `{name}` is {}, the model takes {ty}", value.ty());
            return Err(Diagnostic::error("E0708", None, message).into());
        }
        *graph = graph.bind(&dims).map_err(of_ops)?;
        let constant = Builder::new(graph).constant(value.clone());
        graph.replace_uses(Value { node: id, result: 0 }, constant);
        graph.inputs.remove(at);
        graph.remove(id);
        graph.compact();
    }
    Ok(())
}

/// The open dimensions in one type, from the shape of a tensor.
fn solve_one(name: &str, ty: &TensorType, shape: &[usize]) -> Result<Bindings, Diagnostics> {
    let mut alone = Graph::new("");
    Builder::new(&mut alone).input(name, ty.clone());
    bind::solve(&alone, &[shape.to_vec()], &Bindings::new()).map_err(of_ops)
}

fn unknown_input(graph: &Graph, name: &str) -> Diagnostic {
    let names: Vec<&str> = graph.inputs.iter().map(|id| graph.node(*id).op.str("name")).collect();
    let d = Diagnostic::error("E0709", None, format!("there is no input `{name}`"));
    match did_you_mean(name, names.iter().copied()) {
        Some(near) => d.help(format!("did you mean `{near}`?")),
        None => d.help(format!("the inputs are {}", names.join(", "))),
    }
}

fn choose_outputs(graph: &mut Graph, options: &Options) -> Result<(), Diagnostics> {
    let Some(names) = &options.outputs else { return Ok(()) };
    let mut outputs = vec![];
    for name in names {
        let Some(value) = graph.find_value(name) else {
            let known = graph.ids().flat_map(|id| graph.node(id).names.clone()).map(|(_, n)| n);
            let known: Vec<_> = known.chain(graph.outputs.iter().map(|o| o.name.clone())).collect();
            let d = Diagnostic::error("E0710", None, format!("there is no value `{name}`"));
            return Err(match did_you_mean(name, known.iter().map(|n| &**n)) {
                Some(near) => d.help(format!("did you mean `{near}`?")),
                None => d.help("`dlc inspect MODEL graph` shows the named values (`as`)"),
            }
            .into());
        };
        outputs.push(crate::ir::graph::Output { name: name.as_str().into(), value });
    }
    graph.outputs = outputs;
    Ok(())
}

fn shapes_to_dims(graph: &Graph, options: &Options) -> Result<Bindings, Diagnostics> {
    let mut dims = options.dims.clone();
    for (name, shape) in &options.shapes {
        let id = graph.inputs.iter().find(|id| graph.node(**id).op.str("name") == name);
        let Some(id) = id else { return Err(unknown_input(graph, name).into()) };
        let ty = &graph.node(*id).results[0];
        dims.extend(solve_one(name, ty, shape)?);
    }
    Ok(dims)
}

/// Names, dtypes and shapes of weights against the parameters.
fn check_weights(graph: &Graph, weights: &Weights) -> Result<(), Diagnostics> {
    let mut list = vec![];
    for id in &graph.params {
        let node = graph.node(*id);
        let (path, ty) = (node.op.str("name"), &node.results[0]);
        let Some(t) = weights.get(path) else { continue };
        if t.ty() != *ty {
            let message = format!("weight `{path}` is {}, the model's parameter is {ty}", t.ty());
            list.push(Diagnostic::error("E0711", None, message));
        }
    }
    if list.is_empty() { Ok(()) } else { Err(Diagnostics::of(list)) }
}

/// Initial values of all parameters, from the seed and their paths.
pub fn random_weights(graph: &Graph, seed: u64) -> Result<Weights, Diagnostics> {
    let mut weights = Weights::default();
    for id in &graph.params {
        let node = graph.node(*id);
        let Attr::Str(init) = node.op.attr("init") else { continue };
        let path = node.op.str("name");
        let value = initial_value(init, &node.results[0], seed, path).map_err(of_op)?;
        weights.insert(path, value);
    }
    Ok(weights)
}
