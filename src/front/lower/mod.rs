//! Syntax tree to graph: writes a model out into an [`ir::Graph`](crate::ir::Graph).
//!
//! Blocks are instantiated where they are called, `repeat` and `if` run here, names become
//! parameter paths. In: a [`Project`] without syntax errors, and a model. Out: the graph, and every
//! error that could be found: what is wrong becomes [`Val::Poison`], which silences what depends on
//! it and nothing else. Work is bounded: by [`Limits`], by the depth of evaluation and of calls.

mod args;
mod call;
mod compute;
mod expr;
mod finish;
mod function;
mod hold;
mod index;
mod literal;
mod lookup;
mod op_call;
mod operator;
mod region;
mod scope;
mod stmt;
mod train;
mod types;
mod uncalled;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{Ast, Callable, Expr, ExprId, Item};
use super::project::{Decl, Project, STD, UnitId};
use crate::base::diag::{Diagnostic, Severity};
use crate::base::source::Span;
use crate::base::{Symbol, TensorType, codes};
use crate::ir::graph::DimDecl;
use crate::ir::{Builder, Graph, Loc, NodeId, Value};

use lookup::callable_row;
use scope::{ScopeId, Scopes};
use value::{Callee, RegionId, TensorVal, Val};

/// How much work one model may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Ops of the graph, those of regions included.
    pub nodes: usize,
    /// Rounds of all `repeat` statements together.
    pub rounds: u64,
    /// Expressions evaluated.
    pub work: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { nodes: 1_000_000, rounds: 1_000_000, work: 50_000_000 }
    }
}

/// Calls of blocks nest at most this deep.
const MAX_CALLS: usize = 64;
/// Expressions nest at most this deep, over all calls.
const MAX_EVAL: usize = 1500;
/// After so many messages the rest is dropped.
const MAX_DIAGS: usize = 100;

/// How a model is written out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    pub training: bool,
    pub limits: Limits,
}

/// Weights that belong to a part of a model: those of an imported model, say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WeightsOf {
    /// The scope whose parameters the file binds; empty for the whole model.
    pub prefix: String,
    /// As seen from the working directory.
    pub file: String,
    pub span: Span,
    pub renames: Vec<RenameRule>,
}

/// One line of a rename table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RenameRule {
    /// Our path below the prefix; a `*` stands for any text.
    pub ours: String,
    /// The name in the file; a `*` stands for the same text.
    pub theirs: String,
    /// Axes of the stored tensor in the order in which ours has them; empty for no change;
    /// `[-1]` reverses all of them.
    pub permute: Vec<i64>,
}

/// A model written out, and the files that its `weights` clauses name.
#[derive(Clone, Debug)]
pub struct Lowered {
    pub graph: Graph,
    pub weights: Vec<WeightsOf>,
}

/// Writes a model out. `None` where there were errors.
pub(crate) fn lower(
    project: &Project,
    unit: UnitId,
    item: usize,
    mode: Mode,
    diags: &mut Vec<Diagnostic>,
) -> Option<Lowered> {
    let mut lowerer = Lowerer::new(project, mode);
    let graph = lowerer.model(unit, item);
    let sound = lowerer.diags.iter().all(|d| d.severity != Severity::Error);
    diags.append(&mut lowerer.diags);
    graph.filter(|_| sound).map(|graph| Lowered { graph, weights: lowerer.weights })
}

/// The inputs of a model with their types, and the open dimensions in them.
pub(crate) fn signature(
    project: &Project,
    unit: UnitId,
    item: usize,
    diags: &mut Vec<Diagnostic>,
) -> (Vec<(String, TensorType)>, Vec<DimDecl>) {
    let mode = Mode { training: false, limits: Limits::default() };
    let mut lowerer = Lowerer::new(project, mode);
    lowerer.open_model(unit, item);
    diags.append(&mut lowerer.diags);
    let graph = &lowerer.regions[0].graph;
    let input = |id: &NodeId| {
        let node = graph.node(*id);
        (node.op.str("name").to_string(), node.results[0].clone())
    };
    (graph.inputs.iter().map(input).collect(), graph.dims.clone())
}

/// Checks every model of a file with its `train` block.
pub(crate) fn check_all(
    project: &Project,
    unit: UnitId,
    limits: Limits,
    diags: &mut Vec<Diagnostic>,
) {
    let mut called = BTreeSet::new();
    let items = || project.unit(unit).ast.items.iter().enumerate();
    for (item, _) in items().filter(|(_, i)| matches!(i, Item::Model(_))) {
        let mut found = vec![];
        check(project, unit, item, limits, &mut called, &mut found);
        // A block that several models use says its errors once.
        found.retain(|d| !diags.iter().any(|o| o.code == d.code && o.span == d.span));
        diags.append(&mut found);
    }
    for (item, decl) in items() {
        if let (Item::Block(block), false) = (decl, called.contains(&(unit, item))) {
            uncalled::check_names(project, unit, block, diags);
        }
    }
}

/// Checks a model and its `train` block, and says what there is to say.
fn check(
    project: &Project,
    unit: UnitId,
    item: usize,
    limits: Limits,
    called: &mut BTreeSet<(UnitId, usize)>,
    diags: &mut Vec<Diagnostic>,
) {
    let before = diags.len();
    let mut lowerer = Lowerer::new(project, Mode { training: false, limits });
    lowerer.model(unit, item);
    diags.append(&mut lowerer.diags);
    called.append(&mut lowerer.called);
    let sound = diags[before..].iter().all(|d| d.severity != Severity::Error);
    let name = &project.callable(unit, item).0.name.text;
    if let Some(train) = project.train(unit, name).filter(|_| sound) {
        let mut lowerer = Lowerer::new(project, Mode { training: true, limits });
        lowerer.check_train(unit, item, train);
        called.append(&mut lowerer.called);
        // What the model itself has to say has been said.
        let seen: BTreeSet<_> = diags[before..].iter().map(|d| (d.code, d.span)).collect();
        diags.extend(lowerer.diags.into_iter().filter(|d| !seen.contains(&(d.code, d.span))));
    }
}

/// Evaluates the constants of a file, for their errors.
pub(crate) fn check_constants(project: &Project, unit: UnitId, diags: &mut Vec<Diagnostic>) {
    let mode = Mode { training: false, limits: Limits::default() };
    let mut lowerer = Lowerer::new(project, mode);
    for decl in project.unit(unit).names.values() {
        if let Decl::Const(item) = decl {
            lowerer.constant(unit, *item);
        }
    }
    lowerer.check_dims(unit);
    diags.append(&mut lowerer.diags);
}

/// One call of a block or model, or the body of a region.
struct Frame<'p> {
    unit: UnitId,
    /// What the expressions of the call are nodes of.
    ast: &'p Ast,
    /// For messages.
    name: String,
    /// Set for the body of a region: the frame around it, whose names it sees.
    outer: Option<usize>,
    vars: BTreeMap<String, Val>,
    stages: BTreeMap<String, Stage>,
    scope: ScopeId,
    training: bool,
    /// Inside a part that training leaves alone (`with frozen`).
    frozen: bool,
    /// Rounds of `repeat` that are open in this frame.
    repeats: usize,
    /// States of this frame by variable.
    states: BTreeMap<String, String>,
    /// Where the call stands; messages inside the standard library point there.
    call: Span,
}

/// What `as` named.
#[derive(Clone)]
struct Stage {
    value: Val,
    scope: Option<ScopeId>,
    span: Span,
}

/// `layer t = block(config)`: one instance, its arguments kept for each application.
struct Layer {
    callee: Callee,
    args: Rc<args::Args>,
    scope: ScopeId,
    frozen: bool,
    applied: bool,
}

/// A graph under construction: the model's, or a region's.
struct RegionFrame {
    id: RegionId,
    graph: Graph,
    /// Outer values that the region reads, in the order of its trailing inputs.
    captures: Vec<(TensorVal, Value)>,
}

struct ParamEntry {
    tensor: TensorVal,
    span: Span,
}

struct StateEntry {
    /// The value that the state has at this point of the model.
    current: Val,
    node: TensorVal,
    span: Span,
    updated: bool,
    init: String,
}

enum ConstState {
    Open,
    Done(Val),
}

struct Lowerer<'p> {
    project: &'p Project,
    mode: Mode,
    diags: Vec<Diagnostic>,
    seen: BTreeSet<(&'static str, Option<Span>)>,
    frames: Vec<Frame<'p>>,
    scopes: Scopes,
    layers: Vec<Layer>,
    regions: Vec<RegionFrame>,
    next_region: u32,
    params: BTreeMap<String, ParamEntry>,
    states: BTreeMap<String, StateEntry>,
    constants: BTreeMap<(UnitId, usize), ConstState>,
    /// Blocks that were written out.
    called: BTreeSet<(UnitId, usize)>,
    /// What the symbols of imported models stand for, innermost last.
    symbols: Vec<(UnitId, BTreeMap<String, Val>)>,
    weights: Vec<WeightsOf>,
    files: BTreeMap<UnitId, Arc<str>>,
    nodes: usize,
    rounds: u64,
    work: u64,
    depth: usize,
    /// The scope of the call that was evaluated last, for the `as` behind it.
    last: Option<ScopeId>,
    /// A limit was hit: everything unwinds.
    stopped: bool,
}

impl<'p> Lowerer<'p> {
    fn new(project: &'p Project, mode: Mode) -> Lowerer<'p> {
        let graph = Graph::new("");
        let top = RegionFrame { id: RegionId(0), graph, captures: vec![] };
        Lowerer {
            project,
            mode,
            diags: vec![],
            seen: BTreeSet::new(),
            frames: vec![],
            scopes: Scopes::new(),
            layers: vec![],
            regions: vec![top],
            next_region: 1,
            params: BTreeMap::new(),
            states: BTreeMap::new(),
            constants: BTreeMap::new(),
            called: BTreeSet::new(),
            symbols: vec![],
            weights: vec![],
            files: BTreeMap::new(),
            nodes: 0,
            rounds: 0,
            work: 0,
            depth: 0,
            last: None,
            stopped: false,
        }
    }

    /// The whole model: inputs, body, outputs, states.
    fn model(&mut self, unit: UnitId, item: usize) -> Option<Graph> {
        let callable = self.open_model(unit, item);
        let values = self.callable_body(callable);
        if let Some(values) = values {
            self.outputs(callable, values);
            self.count_run(callable.name.span);
        }
        self.frames.pop();
        self.collect_weights(unit, &callable.name.text, "");
        if self.diags.iter().any(|d| d.severity == Severity::Error) {
            return None;
        }
        Some(self.finish())
    }

    /// A frame with the model's inputs as tensors of the top graph.
    fn open_model(&mut self, unit: UnitId, item: usize) -> &'p Callable {
        let (callable, ast) = self.project.callable(unit, item);
        self.regions[0].graph.name = callable.name.text.as_str().into();
        let frame = Frame {
            unit,
            ast,
            name: callable.name.text.clone(),
            outer: None,
            vars: BTreeMap::new(),
            stages: BTreeMap::new(),
            scope: self.scopes.root(),
            training: self.mode.training,
            frozen: false,
            repeats: 0,
            states: BTreeMap::new(),
            call: callable.name.span,
        };
        self.frames.push(frame);
        self.symbols.push((unit, BTreeMap::new()));
        let mut used: Vec<Symbol> = vec![];
        for p in &callable.params {
            let value = match &p.ty {
                None => {
                    let message = format!("the input `{}` needs a type", p.name.text);
                    self.report(
                        Diagnostic::error(codes::MISSING_ARG, p.name.span, message)
                            .help(format!("write `{}: f32[…]`", p.name.text)),
                    );
                    Val::Poison
                }
                Some(ty) => self
                    .input_type(ty, &mut used)
                    .map_or(Val::Poison, |t| self.input(&p.name.text, t, p.name.span)),
            };
            if p.default.is_some() {
                let message = format!("the input `{}` of a model has no default", p.name.text);
                self.report(Diagnostic::error(codes::MISPLACED, p.name.span, message));
            }
            self.frame().vars.insert(p.name.text.clone(), value);
        }
        self.declare_dims(unit, &used);
        callable
    }

    fn input(&mut self, name: &str, ty: TensorType, span: Span) -> Val {
        let loc = self.loc(span);
        let graph = &mut self.regions[0].graph;
        let mut builder = Builder::new(graph);
        builder.loc = loc;
        let value = builder.input(name, ty.clone());
        self.nodes += 1;
        Val::Tensor(TensorVal { region: RegionId(0), value, ty: Rc::new(ty) })
    }

    fn outputs(&mut self, callable: &Callable, values: Vec<(Option<String>, Val, Span)>) {
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        for (i, (name, value, span)) in values.into_iter().enumerate() {
            let name = name.unwrap_or_else(|| format!("out{i}"));
            let Some(tensor) = self.tensor(&value, span, None) else { continue };
            let Some(value) = self.local(&tensor, span) else { continue };
            if let Some(first) = names.insert(name.clone(), span) {
                let message = format!("two outputs of `{}` are named `{name}`", callable.name.text);
                self.report(
                    Diagnostic::error(codes::DUPLICATE, span, message)
                        .label(first, "the first is here")
                        .help("name one of them with `as`"),
                );
                continue;
            }
            Builder::new(&mut self.regions[0].graph).output(&name, value);
        }
    }

    // ---- frames, places, messages ---------------------------------------------------------------

    fn frame(&mut self) -> &mut Frame<'p> {
        self.frames.last_mut().expect("a frame is open while expressions are evaluated")
    }

    fn top(&self) -> &Frame<'p> {
        self.frames.last().expect("a frame is open while expressions are evaluated")
    }

    /// The frame of the enclosing call: regions share theirs with it.
    fn owner(&self) -> usize {
        let mut i = self.frames.len() - 1;
        while let Some(outer) = self.frames[i].outer {
            i = outer;
        }
        i
    }

    fn expr(&self, id: ExprId) -> &'p Expr {
        self.top().ast.expr(id)
    }

    /// Where a message about `span` points: out of the standard library, to the call.
    fn place(&self, span: Span) -> Span {
        let mut span = span;
        for frame in self.frames.iter().rev() {
            if frame.unit != STD || span.file != self.project.file(STD) {
                break;
            }
            span = frame.call;
        }
        span
    }

    /// Reports a diagnostic once for each code and place.
    fn report(&mut self, mut d: Diagnostic) {
        let inner = d.span;
        d.span = d.span.map(|s| self.place(s));
        for label in &mut d.labels {
            label.span = self.place(label.span);
        }
        if d.span != inner {
            d.labels.retain(|l| Some(l.span) != d.span);
            d.labels.dedup_by_key(|l| l.span);
            let name = &self.top().name;
            d.notes.push(format!("in `{name}` of the standard library"));
        }
        if self.diags.len() < MAX_DIAGS && self.seen.insert((d.code, d.span)) {
            self.diags.push(d);
        }
    }

    fn error(&mut self, code: &'static str, span: Span, message: impl Into<String>) {
        self.report(Diagnostic::error(code, span, message));
    }

    fn trouble(&mut self, t: compute::Trouble, span: Span) -> Val {
        let mut d = Diagnostic::error(t.code, span, t.message);
        d.help = t.help.map(str::to_string);
        self.report(d);
        Val::Poison
    }

    /// Counts a step of work; `false` where the limit is used up.
    fn step(&mut self, cost: u64, span: Span) -> bool {
        self.work = self.work.saturating_add(cost);
        if self.work > self.mode.limits.work && !self.stopped {
            self.stopped = true;
            let message = "writing this model out takes too many steps";
            self.report(
                Diagnostic::error(codes::WORK_LIMIT, span, message)
                    .help("fewer or smaller `repeat` loops, or blocks that call fewer blocks"),
            );
        }
        !self.stopped
    }

    fn loc(&mut self, span: Span) -> Option<Loc> {
        let span = self.place(span);
        let file = self.project.sources.file(span.file);
        let unit = UnitId(span.file.0 as usize);
        let name = self.files.entry(unit).or_insert_with(|| file.name.as_str().into()).clone();
        let at = file.line_col(span.start);
        Some(Loc { file: name, line: at.line, column: at.column })
    }

    fn last_scope(&mut self, scope: Option<ScopeId>) {
        self.last = scope;
    }

    fn take_last_scope(&mut self) -> Option<ScopeId> {
        self.last.take()
    }

    /// Gives a value's node the name that `as` gave it.
    fn name_node(&mut self, value: &Val, path: &str) {
        let Val::Tensor(t) = value.clone().first() else { return };
        if let Some(region) = self.regions.iter_mut().find(|r| r.id == t.region) {
            let names = &mut region.graph.node_mut(t.value.node).names;
            let entry = (t.value.result, Arc::<str>::from(path));
            if !names.contains(&entry) {
                names.push(entry);
            }
        }
    }
}
