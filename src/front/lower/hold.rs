//! What a model holds: parameters and states, under the paths of their scopes.
//!
//! Both live in the top graph, also where a region reads them. A layer's parameters are made at its
//! first application and found again at the others.

use std::rc::Rc;

use super::scope::Purpose;
use super::value::{RegionId, TensorVal, Val};
use super::{Lowerer, ParamEntry, StateEntry, function};
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::Span;
use crate::base::{DType, TensorType, codes};
use crate::front::ast::*;
use crate::ir::Builder;

/// The path of the state that counts runs; no name of a model begins like it.
const DRAW: &str = "_draw";

impl Lowerer<'_> {
    pub(super) fn param(&mut self, name: &Name, ty: &TypeExpr, init: Option<ExprId>, span: Span) {
        let ty = self.type_of(ty);
        let recipe = match init {
            Some(id) => self.recipe(id),
            None => Some("glorot_uniform".into()),
        };
        let value = match (ty, recipe) {
            (Some(ty), Some(recipe)) => self.declare_param(name, ty, &recipe, span),
            _ => Val::Poison,
        };
        self.set(name, value);
    }

    fn declare_param(&mut self, name: &Name, ty: TensorType, init: &str, span: Span) -> Val {
        let path = self.holder_path(&name.text);
        let owner = self.owner();
        let scope = self.frames[owner].scope;
        if let Some(known) = self.params.get(&path) {
            let (tensor, first) = (known.tensor.clone(), known.span);
            if self.scopes.shared(scope) {
                return self.shared_param(&path, tensor, &ty, span);
            }
            self.twice(&path, span, first);
            return Val::Poison;
        }
        let frozen = self.frames[owner].frozen;
        let loc = self.loc(span);
        let mut builder = Builder::new(&mut self.regions[0].graph);
        builder.loc = loc;
        let value = builder.param(&path, ty.clone(), init, frozen);
        self.nodes += 1;
        let tensor = TensorVal { region: RegionId(0), value, ty: Rc::new(ty) };
        self.params.insert(path, ParamEntry { tensor: tensor.clone(), span });
        Val::Tensor(tensor)
    }

    /// A layer that is applied again must need the parameters that it has.
    fn shared_param(&mut self, path: &str, known: TensorVal, ty: &TensorType, span: Span) -> Val {
        if *known.ty == *ty {
            return Val::Tensor(known);
        }
        let message = format!("the shared parameter `{path}` would have two types");
        self.report(
            Diagnostic::error(codes::TYPE_MISMATCH, span, message)
                .note(format!("first use: {}", known.ty))
                .note(format!("this use:  {ty}"))
                .help(
                    "a layer is one set of parameters; inputs of other widths need another layer",
                ),
        );
        Val::Poison
    }

    fn twice(&mut self, path: &str, span: Span, first: Span) {
        let message = format!("the parameter path `{path}` exists already");
        let first = self.place(first);
        self.report(
            Diagnostic::error(codes::DUPLICATE_STAGE, span, message)
                .label(first, "the first is here")
                .help("give one of the stages another name with `as`"),
        );
    }

    /// The path of something that the current block holds.
    fn holder_path(&mut self, name: &str) -> String {
        let owner = self.owner();
        let scope = self.frames[owner].scope;
        let prefix = self.scope_path(scope, Purpose::Parameter);
        if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") }
    }

    pub(super) fn state(&mut self, name: &Name, ty: Option<&TypeExpr>, init: ExprId, span: Span) {
        let value = self.declare_state(name, ty, init, span).unwrap_or(Val::Poison);
        self.set(name, value);
    }

    fn declare_state(
        &mut self,
        name: &Name,
        ty: Option<&TypeExpr>,
        init: ExprId,
        span: Span,
    ) -> Option<Val> {
        let (ty, recipe) = match ty {
            Some(ty) => {
                let ty = self.type_of(ty);
                let recipe = self.recipe(init);
                (ty?, recipe?)
            }
            None => self.like(init)?,
        };
        if self.regions.len() > 1 {
            let message = "a state cannot be declared inside `scan` or `cond`";
            self.report(
                Diagnostic::error(codes::MISPLACED, span, message)
                    .help("declare it before, and carry its value through the region"),
            );
            return None;
        }
        let path = self.holder_path(&name.text);
        let owner = self.owner();
        self.frames[owner].states.insert(name.text.clone(), path.clone());
        let scope = self.frames[owner].scope;
        if let Some(known) = self.states.get(&path) {
            let (current, node, first) = (known.current.clone(), known.node.clone(), known.span);
            if self.scopes.shared(scope) {
                self.shared_param(&path, node, &ty, span);
                return Some(current);
            }
            self.twice(&path, span, first);
            return None;
        }
        let loc = self.loc(span);
        let mut builder = Builder::new(&mut self.regions[0].graph);
        builder.loc = loc;
        let value = builder.state(&path, ty.clone(), &recipe);
        self.nodes += 1;
        let node = TensorVal { region: RegionId(0), value, ty: Rc::new(ty) };
        let current = Val::Tensor(node.clone());
        let entry =
            StateEntry { current: current.clone(), node, span, updated: false, init: recipe };
        self.states.insert(path, entry);
        Some(current)
    }

    /// The number of the run, for random ops: one state of the whole model.
    pub(super) fn draw(&mut self) -> Val {
        if let Some(known) = self.states.get(DRAW) {
            return Val::Tensor(known.node.clone());
        }
        let ty = TensorType::scalar(DType::U32);
        let value = Builder::new(&mut self.regions[0].graph).state(DRAW, ty.clone(), "zeros");
        self.nodes += 1;
        let node = TensorVal { region: RegionId(0), value, ty: Rc::new(ty) };
        let current = Val::Tensor(node.clone());
        let span = self.top().call;
        let init = "zeros".to_string();
        let entry = StateEntry { current, node: node.clone(), span, updated: false, init };
        self.states.insert(DRAW.to_string(), entry);
        Val::Tensor(node)
    }

    /// Counts the run: the last thing that a model does.
    pub(super) fn count_run(&mut self, span: Span) {
        let Some(entry) = self.states.get(DRAW) else { return };
        let one = (Val::Int(1), span);
        let next = self.operator(&["add"], vec![(entry.current.clone(), span), one], span);
        if let Some(entry) = self.states.get_mut(DRAW) {
            entry.updated = true;
            entry.current = next;
        }
    }

    /// `:=`: the state's new value, seen from here on and kept for the next run.
    pub(super) fn update(&mut self, targets: &[Name], value: ExprId, span: Span) {
        let v = self.eval(value);
        let [name] = targets else {
            self.error(codes::MISPLACED, span, "`:=` changes one state");
            return;
        };
        let owner = self.owner();
        let Some(path) = self.frames[owner].states.get(&name.text).cloned() else {
            let message = format!("`{}` is not a state of this block", name.text);
            let near =
                did_you_mean(&name.text, self.frames[owner].states.keys().map(String::as_str));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("declare it: `state {}: f32[…] = 0`", name.text),
            };
            self.report(Diagnostic::error(codes::MISPLACED, name.span, message).help(help));
            return;
        };
        if self.regions.len() > 1 {
            let message = "a state cannot change inside `scan` or `cond`";
            self.report(
                Diagnostic::error(codes::MISPLACED, span, message)
                    .help("return the new value from the region and assign it outside"),
            );
            return;
        }
        let entry = &self.states[&path];
        let (ty, declared) = (entry.node.ty.clone(), entry.span);
        let Some(tensor) = self.tensor(&v, self.expr(value).span, Some(ty.dtype)) else { return };
        if *tensor.ty != *ty {
            let message = format!("the state `{}` is {ty}, the new value {}", name.text, tensor.ty);
            let declared = self.place(declared);
            self.report(
                Diagnostic::error(codes::TYPE_MISMATCH, span, message)
                    .label(declared, format!("declared as {ty}")),
            );
            return;
        }
        let entry = self.states.get_mut(&path).expect("looked up above");
        entry.updated = true;
        entry.current = Val::Tensor(tensor.clone());
        self.set(name, Val::Tensor(tensor));
    }

    /// An initial value: a recipe, or a number for every element.
    fn recipe(&mut self, id: ExprId) -> Option<String> {
        let span = self.expr(id).span;
        let value = match &self.expr(id).kind {
            // Recipes come before ops of the same name, after variables.
            ExprKind::Name(n) if function::is_recipe(n) && !self.top().vars.contains_key(n) => {
                function::recipe(n, &[]).map_err(|t| self.trouble(t, span)).ok()?
            }
            ExprKind::Name(n) => {
                let n = n.clone();
                self.name_or_word(&n, span)
            }
            _ => self.eval(id),
        };
        match value {
            Val::Recipe(text) => Some(text.to_string()),
            Val::Word(w) if function::is_recipe(&w.text) => Some(w.text.clone()),
            Val::Int(0) => Some("zeros".into()),
            Val::Int(1) => Some("ones".into()),
            Val::Int(v) => Some(format!("constant({v})")),
            Val::Float(0.0) => Some("zeros".into()),
            Val::Float(1.0) => Some("ones".into()),
            Val::Float(v) if v.is_finite() => Some(format!("constant({v})")),
            Val::Float(v) if v.is_nan() => Some("constant(nan)".into()),
            Val::Float(v) => Some(format!("constant({})", if v > 0.0 { "inf" } else { "-inf" })),
            Val::Bool(v) => Some(if v { "ones".into() } else { "zeros".into() }),
            Val::Poison => None,
            other => {
                let message = format!("an initial value is needed, not {}", other.describe());
                let names: Vec<&str> = function::RECIPES.iter().map(|(n, _)| *n).collect();
                let near = match &other {
                    Val::Word(w) => did_you_mean(&w.text, names.iter().copied()),
                    _ => None,
                };
                let help = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("a number, or one of {}", names.join(", ")),
                };
                self.report(Diagnostic::error(codes::WRONG_KIND, span, message).help(help));
                None
            }
        }
    }

    /// `state m = zeros_like(p)`: the type of `p`, and zeros.
    fn like(&mut self, id: ExprId) -> Option<(TensorType, String)> {
        let span = self.expr(id).span;
        if let ExprKind::Postfix { base, trailers } = &self.expr(id).kind
            && let (ExprKind::Name(f), [Trailer::Call { args, .. }]) =
                (&self.expr(*base).kind, trailers.as_slice())
        {
            let recipe = match f.as_str() {
                "zeros_like" => Some("zeros"),
                "ones_like" => Some("ones"),
                _ => None,
            };
            if let (Some(recipe), [arg]) = (recipe, args.as_slice()) {
                let v = self.eval(arg.value);
                let tensor = self.tensor(&v, arg.span, None)?;
                return Some(((*tensor.ty).clone(), recipe.into()));
            }
        }
        let message = "a state without a type begins as `zeros_like(x)` or `ones_like(x)`";
        self.report(
            Diagnostic::error(codes::WRONG_KIND, span, message)
                .help("or write the type: `state s: f32[4] = 0`"),
        );
        None
    }
}
