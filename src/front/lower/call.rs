//! Calls: blocks and models are written out at the place of the call, layers are applied.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::args::Args;
use super::function::{self, Function};
use super::scope::{Naming, ScopeId};
use super::stmt::Returned;
use super::value::{Callee, LayerId, Results, Val};
use super::{Frame, Layer, Lowerer, MAX_CALLS, WeightsOf};
use crate::base::codes;
use crate::base::diag::Diagnostic;
use crate::base::source::Span;
use crate::front::ast::*;
use crate::front::project::{STD, UnitId};

/// What stands behind a stage: its name and its marks.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    pub naming: Option<Naming>,
    pub frozen: bool,
}

/// Blocks of the standard library whose first argument is logits (rule 11).
const LOSSES_FROM_LOGITS: [&str; 2] = ["cross_entropy", "binary_cross_entropy"];

impl<'p> Lowerer<'p> {
    pub(super) fn call(&mut self, callee: &Val, args: Args, applied: &Applied, span: Span) -> Val {
        match callee {
            Val::Poison => Val::Poison,
            Val::Callee(Callee::Op(row)) => self.call_op(row, &args, applied, span),
            Val::Callee(Callee::Function(f)) => self.call_function(*f, &args, applied, span),
            Val::Callee(c @ (Callee::Block(unit, item) | Callee::Model(unit, item))) => {
                let is_model = matches!(c, Callee::Model(..));
                let name = &self.project.callable(*unit, *item).0.name.text;
                let owner = self.owner();
                let (parent, repeats) = (self.frames[owner].scope, self.frames[owner].repeats);
                let naming = applied.naming.as_ref();
                let scope = self.scopes.open(parent, naming, name, span, repeats > 0);
                self.last_scope(Some(scope));
                let value =
                    self.instance(*unit, *item, is_model, args, scope, applied.frozen, span);
                self.last_scope(Some(scope));
                value
            }
            Val::Layer(id) => self.apply_layer(*id, args, applied, span),
            Val::Recipe(name) => {
                let values: Vec<Val> =
                    args.positional.iter().map(|(v, _)| v.clone().first()).collect();
                match function::recipe(name, &values) {
                    Ok(v) => v,
                    Err(t) => self.trouble(t, span),
                }
            }
            other => {
                let message = format!("{} cannot be called", other.describe());
                self.error(codes::WRONG_KIND, span, message);
                Val::Poison
            }
        }
    }

    /// A function where all arguments are constant; else the op of the same name.
    fn call_function(&mut self, f: Function, args: &Args, applied: &Applied, span: Span) -> Val {
        if args.poisoned() {
            return Val::Poison;
        }
        if f == Function::Params {
            return self.params_like(args, span);
        }
        let len = f == Function::Len && args.named.is_empty();
        if args.is_constant() || len {
            let values: Vec<Val> = args.positional.iter().map(|(v, _)| v.clone().first()).collect();
            for v in &values {
                if let Val::Word(w) = v {
                    self.unknown_name(&w.text, w.span, w.near.clone());
                    return Val::Poison;
                }
            }
            let size: usize =
                values.iter().map(|v| if let Val::List(i) = v { i.len() } else { 1 }).sum();
            if !self.step(size as u64, span) {
                return Val::Poison;
            }
            return match f.apply(&values) {
                Ok(v) => {
                    let made = if let Val::List(i) = &v { i.len() as u64 } else { 0 };
                    if self.step(made, span) { v } else { Val::Poison }
                }
                Err(t) => self.trouble(t, span),
            };
        }
        let op = match f {
            Function::Min if args.positional.len() > 1 => ["minimum", "min"],
            Function::Max if args.positional.len() > 1 => ["maximum", "max"],
            Function::FloorDiv => ["floor_divide", "floordiv"],
            Function::Mod => ["remainder", "mod"],
            f => [f.name(), f.name()],
        };
        match op.iter().find_map(|n| crate::ir::op::find(n)) {
            Some(row) => self.call_op(row, args, applied, span),
            None => {
                let message =
                    format!("`{}` is a function of values known at compile time", f.name());
                self.error(codes::NOT_CONSTANT, span, message);
                Val::Poison
            }
        }
    }

    /// `params("head.*")`: the parameters made so far whose paths match.
    fn params_like(&mut self, args: &Args, span: Span) -> Val {
        let [(Val::Str(pattern), _)] = args.positional.as_slice() else {
            self.error(
                codes::MISSING_ARG,
                span,
                "`params` takes one pattern: `params(\"head.*\")`",
            );
            return Val::Poison;
        };
        let found: Vec<Val> = self
            .params
            .iter()
            .filter(|(path, _)| matches(pattern, path))
            .map(|(_, p)| Val::Tensor(p.tensor.clone()))
            .collect();
        if found.is_empty() {
            let message = format!("no parameter matches `{pattern}`");
            self.error(codes::UNKNOWN_NAME, span, message);
            return Val::Poison;
        }
        Val::list(found)
    }

    /// Writes a block or model out: a new frame, its parameters bound, its body run.
    #[expect(clippy::too_many_arguments, reason = "the parts of one call, all needed")]
    fn instance(
        &mut self,
        unit: UnitId,
        item: usize,
        is_model: bool,
        args: Args,
        scope: ScopeId,
        frozen: bool,
        span: Span,
    ) -> Val {
        let (callable, ast) = self.project.callable(unit, item);
        let name = &callable.name.text;
        let same = |f: &Frame| f.unit == unit && f.name == *name && f.outer.is_none();
        if self.frames.iter().any(same) {
            let path: Vec<&str> = self
                .frames
                .iter()
                .skip_while(|f| !same(f))
                .filter(|f| f.outer.is_none())
                .map(|f| f.name.as_str())
                .collect();
            let message = format!("`{name}` contains itself: {} → {name}", path.join(" → "));
            self.report(
                Diagnostic::error(codes::RECURSION, span, message)
                    .label(callable.name.span, "declared here")
                    .help("for rounds known now use `repeat`, over a sequence `scan`"),
            );
            return Val::Poison;
        }
        if self.frames.len() >= MAX_CALLS {
            let message = format!("calls nest deeper than {MAX_CALLS}");
            self.error(codes::CALL_DEPTH, span, message);
            return Val::Poison;
        }
        let Some(slots) = self.bind(callable, &args, span) else { return Val::Poison };
        if unit == STD
            && LOSSES_FROM_LOGITS.contains(&name.as_str())
            && self.on_probabilities(&slots)
        {
            return Val::Poison;
        }
        self.called.insert((unit, item));
        let caller = self.owner();
        let training = self.frames[caller].training && !frozen;
        let frozen = self.frames[caller].frozen || frozen;
        self.frames.push(Frame {
            unit,
            ast,
            name: name.clone(),
            outer: None,
            vars: BTreeMap::new(),
            stages: BTreeMap::new(),
            scope,
            training,
            frozen,
            repeats: 0,
            states: BTreeMap::new(),
            call: span,
        });
        let bound = self.fill_params(callable, slots, unit, is_model);
        let returned = match bound {
            true => self.callable_body(callable),
            false => None,
        };
        if is_model {
            self.symbols.pop();
        }
        let frame = self.frames.pop().expect("pushed above");
        if is_model && returned.is_some() {
            let prefix = self.scopes.known_path(scope).unwrap_or_default();
            self.collect_weights(unit, name, &prefix);
        }
        match returned {
            Some(values) => results(name, values, frame),
            None => Val::Poison,
        }
    }

    /// Sets the parameters of the frame just opened. `false` where an argument does not fit.
    fn fill_params(
        &mut self,
        callable: &'p Callable,
        slots: Vec<Option<(Val, Span)>>,
        unit: UnitId,
        is_model: bool,
    ) -> bool {
        let mut sound = true;
        if is_model {
            self.symbols.push((unit, BTreeMap::new()));
        }
        let mut symbols = BTreeMap::new();
        for (p, slot) in callable.params.iter().zip(slots) {
            let value = match (slot, p.default) {
                (Some((value, at)), _) => match &p.ty {
                    Some(ty) => {
                        let value = self.typed_argument(ty, value, at, unit, &mut symbols);
                        sound &= value.is_some();
                        value.unwrap_or(Val::Poison)
                    }
                    // An input that is wrong makes everything behind it wrong.
                    None => {
                        sound &= !matches!(value, Val::Poison);
                        value
                    }
                },
                (None, Some(default)) => self.arg_value(default),
                (None, None) => Val::Poison,
            };
            self.frame().vars.insert(p.name.text.clone(), value);
        }
        for (name, value) in symbols {
            let declared = self.project.unit(unit).names.contains_key(&name);
            match self.symbols.last_mut() {
                Some((_, names)) if is_model && declared => {
                    names.insert(name, value);
                }
                _ => {
                    self.frame().vars.entry(name).or_insert(value);
                }
            }
        }
        sound
    }

    fn typed_argument(
        &mut self,
        ty: &TypeExpr,
        value: Val,
        at: Span,
        unit: UnitId,
        symbols: &mut BTreeMap<String, Val>,
    ) -> Option<Val> {
        let hint = crate::base::DType::parse(&ty.dtype.text);
        let tensor = self.tensor(&value, at, hint)?;
        self.unify_input(ty, &tensor.ty.clone(), unit, symbols, at).then_some(Val::Tensor(tensor))
    }

    /// Rule 11: reports a loss whose input went through softmax or sigmoid.
    fn on_probabilities(&mut self, slots: &[Option<(Val, Span)>]) -> bool {
        let Some(Some((value, span))) = slots.first() else { return false };
        let (Val::Tensor(t), span) = (value.clone().first(), *span) else { return false };
        let Some(region) = self.regions.iter().find(|r| r.id == t.region) else { return false };
        let node = region.graph.node(t.value.node);
        let op = node.op.row.name;
        if !matches!(op, "softmax" | "log_softmax" | "sigmoid") {
            return false;
        }
        let before = node.operands().first().and_then(|v| {
            let names = &region.graph.node(v.node).names;
            names.iter().find(|(r, _)| *r == v.result).map(|(_, n)| n.to_string())
        });
        let help = match before {
            Some(name) => format!("pass `{name}`, the stage before the {op}"),
            None => format!("name the stage before the {op} with `as logits` and pass that"),
        };
        let message = format!("this loss takes logits, and `{op}` made them probabilities");
        self.report(Diagnostic::error(codes::LOSS_ON_PROBABILITIES, span, message).help(help));
        true
    }

    // ---- layers ---------------------------------------------------------------------------------

    /// `layer name = block(config)` or `layer name = model with frozen`.
    pub(super) fn layer_value(&mut self, name: &Name, value: ExprId, span: Span) -> Val {
        let (core, frozen) = match &self.expr(value).kind {
            ExprKind::Pipe { parts } if parts.len() == 1 => {
                let part = &parts[0];
                let frozen = part
                    .suffixes
                    .iter()
                    .any(|s| matches!(s, Suffix::With { name, .. } if name.text == "frozen"));
                if let Some(Suffix::As { span, .. }) =
                    part.suffixes.iter().find(|s| matches!(s, Suffix::As { .. }))
                {
                    self.error(codes::MISPLACED, *span, "a layer has its name already");
                }
                (part.value, frozen)
            }
            _ => (value, false),
        };
        // The last call is the configuration; what stands before it says what is called.
        let (callee, args) = match &self.expr(core).kind {
            ExprKind::Postfix { base, trailers } => match trailers.split_last() {
                Some((Trailer::Call { args, .. }, before)) => {
                    let args = self.args(args);
                    (self.callee_path(*base, before), args)
                }
                _ => (self.callee_path(*base, trailers), Args::default()),
            },
            ExprKind::Name(_) => (self.callee_path(core, &[]), Args::default()),
            _ => (self.eval(core), Args::default()),
        };
        let (callee, config) = match callee {
            Val::Callee(c @ (Callee::Block(..) | Callee::Model(..))) => (c, args),
            Val::Poison => return Val::Poison,
            other => {
                let message = format!("a layer is a block or model, not {}", other.describe());
                self.report(
                    Diagnostic::error(codes::WRONG_KIND, self.expr(core).span, message)
                        .help("write `layer t = dense(10)`, then apply it: `t(x)`"),
                );
                return Val::Poison;
            }
        };
        let owner = self.owner();
        let naming = Naming { name: name.text.clone(), span: name.span, indexed: false };
        let (parent, repeats) = (self.frames[owner].scope, self.frames[owner].repeats);
        if let Some(old) = self.frames[owner].stages.get(&name.text) {
            let first = old.span;
            let message = format!("`{}` is the name of a stage already", name.text);
            self.report(
                Diagnostic::error(codes::DUPLICATE_STAGE, name.span, message)
                    .label(first, "the first is here"),
            );
            return Val::Poison;
        }
        let scope = self.scopes.open(parent, Some(&naming), &name.text, span, repeats > 0);
        let args = Rc::new(config);
        self.layers.push(Layer { callee, args, scope, frozen, applied: false });
        Val::Layer(LayerId(self.layers.len() - 1))
    }

    fn callee_path(&mut self, base: ExprId, members: &'p [Trailer]) -> Val {
        let mut span = self.expr(base).span;
        let mut value = match &self.expr(base).kind {
            ExprKind::Name(n) => match self.lookup(n) {
                Some(v) => v,
                None => {
                    let mut d = Diagnostic::error(
                        codes::UNKNOWN_CALLEE,
                        span,
                        format!("there is no block or model `{n}`"),
                    );
                    if let Some(near) = self.near_callee(n) {
                        d = d.help(format!("did you mean `{near}`?"));
                    }
                    self.report(d);
                    return Val::Poison;
                }
            },
            _ => self.eval(base),
        };
        for t in members {
            match t {
                Trailer::Member { name } => {
                    value = self.member(&value, name);
                    span = span.to(name.span);
                }
                Trailer::Call { span: at, .. } | Trailer::Index { span: at, .. } => {
                    self.error(codes::WRONG_KIND, *at, "a layer is `block(config)`");
                    return Val::Poison;
                }
            }
        }
        value
    }

    fn apply_layer(&mut self, id: LayerId, args: Args, applied: &Applied, span: Span) -> Val {
        let layer = &self.layers[id.0];
        let (scope, frozen, again) = (layer.scope, layer.frozen, layer.applied);
        let (callee, config) = (layer.callee.clone(), layer.args.clone());
        self.layers[id.0].applied = true;
        self.scopes.apply(scope, again);
        let args = args.then(&config);
        let (unit, item, is_model) = match callee {
            Callee::Block(unit, item) => (unit, item, false),
            Callee::Model(unit, item) => (unit, item, true),
            Callee::Op(_) | Callee::Function(_) => return Val::Poison,
        };
        let value =
            self.instance(unit, item, is_model, args, scope, frozen || applied.frozen, span);
        self.last_scope(Some(scope));
        value
    }

    /// Notes the `weights` clause of a model that has become part of this one.
    pub(super) fn collect_weights(&mut self, unit: UnitId, model: &str, prefix: &str) {
        let Some(clause) = self.project.weights(unit, model) else { return };
        let importer = &self.project.sources.file(self.project.file(unit)).name;
        let entry = WeightsOf {
            prefix: prefix.to_string(),
            file: crate::front::project::relative_to(importer, &clause.file),
            span: clause.file_span,
            renames: self.renames(unit, clause),
        };
        if !self.weights.iter().any(|w| w.prefix == entry.prefix && w.file == entry.file) {
            self.weights.push(entry);
        }
    }
}

/// The value of a call: one result is itself (with the names inside it), several are a tuple.
fn results(callee: &str, values: Returned, frame: Frame) -> Val {
    let mut names = frame.vars;
    for (name, stage) in frame.stages {
        names.entry(name).or_insert(stage.value);
    }
    names.retain(|_, v| matches!(v, Val::Tensor(_) | Val::Results(_)));
    let values: Vec<(Option<String>, Val)> = values.into_iter().map(|(n, v, _)| (n, v)).collect();
    if values.iter().all(|(_, v)| v.is_poison()) {
        return Val::Poison;
    }
    Val::Results(Rc::new(Results { values, names, exact: true, callee: callee.to_string() }))
}

/// Whether a pattern with `*` for any text fits.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = path.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        assert!(matches("head.*", "head.fc.weight"));
        assert!(matches("*.weight", "a.b.weight"));
        assert!(matches("h.*.w*t", "h.0.weight"));
        assert!(matches("fc", "fc") && !matches("fc", "fc.weight"));
        assert!(!matches("a*b*c", "acb") && matches("*", ""));
    }
}
