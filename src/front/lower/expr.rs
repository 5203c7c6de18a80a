//! Expressions: to values. Chains are loops; only brackets recurse.

use super::call::Applied;
use super::scope::Naming;
use super::value::{Callee, Results, Val};
use super::{Lowerer, MAX_EVAL, Stage};
use crate::base::codes;
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::Span;
use crate::front::ast::*;
use crate::front::project::Decl;

impl<'p> Lowerer<'p> {
    pub(super) fn eval(&mut self, id: ExprId) -> Val {
        self.eval_named(id, &Applied::default())
    }

    /// Evaluates an expression whose outermost call takes the given name.
    fn eval_named(&mut self, id: ExprId, applied: &Applied) -> Val {
        let expr = self.expr(id);
        if !self.step(1, expr.span) {
            return Val::Poison;
        }
        if self.depth >= MAX_EVAL {
            self.stopped = true;
            self.error(codes::CALL_DEPTH, expr.span, "expressions nest too deep here");
            return Val::Poison;
        }
        self.depth += 1;
        let value = self.eval_kind(expr, applied);
        self.depth -= 1;
        value
    }

    fn eval_kind(&mut self, expr: &'p Expr, applied: &Applied) -> Val {
        match &expr.kind {
            ExprKind::Int(v) => Val::Int(*v),
            ExprKind::Float(v) => Val::Float(*v),
            ExprKind::Bits(v) => Val::Bits(*v),
            ExprKind::Str(s) => Val::str(s),
            ExprKind::Bool(b) => Val::Bool(*b),
            ExprKind::Name(name) => self.lookup(name).unwrap_or_else(|| {
                let near = self.near(name);
                self.unknown_name(name, expr.span, near);
                Val::Poison
            }),
            ExprKind::List(items) => {
                let items: Vec<Val> = items.iter().map(|id| self.eval(*id).first()).collect();
                match self.step(items.len() as u64, expr.span) {
                    true => Val::list(items),
                    false => Val::Poison,
                }
            }
            ExprKind::Paren(inner) => self.eval_named(*inner, applied),
            ExprKind::Infix { operands, ops } => self.infix(operands, ops),
            ExprKind::Postfix { base, trailers } => self.postfix(*base, trailers, None, applied),
            ExprKind::Pipe { parts } => self.pipe(parts),
            ExprKind::If { arms, otherwise } => self.if_value(arms, otherwise.as_ref(), expr.span),
            ExprKind::Region { kind, args, lambdas } => {
                self.region(*kind, args, lambdas, None, expr.span)
            }
            ExprKind::Error => Val::Poison,
        }
    }

    // ---- pipes ----------------------------------------------------------------------------------

    fn pipe(&mut self, parts: &'p [Part]) -> Val {
        let mut value = Val::Poison;
        let mut span: Option<Span> = None;
        for part in parts {
            let mut applied = self.suffixes(&part.suffixes);
            self.refuse_duplicate(&mut applied);
            let at = self.expr(part.value).span;
            let before = applied.naming.as_ref().map(|n| (n.name.clone(), n.span));
            self.last_scope(None);
            value = match span {
                None => self.eval_named(part.value, &applied),
                Some(input) => self.stage(part.value, (value, input), &applied),
            };
            span = Some(span.map_or(at, |s| s.to(at)));
            if let Some((name, at)) = before {
                self.name_stage(&name, &value, at);
            }
        }
        value
    }

    /// The `as` and `with` of a stage. The name stands with its indices: `layer.0.1`.
    fn suffixes(&mut self, suffixes: &'p [Suffix]) -> Applied {
        let mut applied = Applied::default();
        for suffix in suffixes {
            match suffix {
                Suffix::As { name, indices, span } => {
                    if applied.naming.is_some() {
                        self.error(codes::DUPLICATE_STAGE, *span, "a stage has one name");
                        continue;
                    }
                    let mut text = name.text.clone();
                    for id in indices {
                        match self.integer(*id, "the index of a name") {
                            Some(i) => text.push_str(&format!(".{i}")),
                            None => text.push_str(".?"),
                        }
                    }
                    let indexed = !indices.is_empty();
                    applied.naming = Some(Naming { name: text, span: *span, indexed });
                }
                Suffix::With { name, span } => match name.text.as_str() {
                    "frozen" => applied.frozen = true,
                    other => {
                        let message = format!("`with {other}` means nothing");
                        self.report(
                            Diagnostic::error(codes::UNKNOWN_ARG, *span, message)
                                .help("there is `with frozen`"),
                        );
                    }
                },
            }
        }
        applied
    }

    /// Reports a name that another stage of the block has; the stage goes on under one that none has.
    fn refuse_duplicate(&mut self, applied: &mut Applied) {
        let owner = self.owner();
        let Some(naming) = &mut applied.naming else { return };
        let Some(old) = self.frames[owner].stages.get(&naming.name) else { return };
        if old.span == naming.span {
            return;
        }
        let d = Diagnostic::error(
            codes::DUPLICATE_STAGE,
            naming.span,
            format!("two stages are named `{}`", naming.name),
        )
        .label(old.span, "the first is here")
        .help("give one of them another name");
        naming.name = format!("{}?{}", naming.name, naming.span.start);
        self.report(d);
    }

    /// `input |> stage`: the stage is called with the input before its own arguments.
    fn stage(&mut self, id: ExprId, input: (Val, Span), applied: &Applied) -> Val {
        let expr = self.expr(id);
        if !self.step(1, expr.span) {
            return Val::Poison;
        }
        match &expr.kind {
            ExprKind::Postfix { base, trailers } => {
                self.postfix(*base, trailers, Some(input), applied)
            }
            ExprKind::Name(_) => self.postfix(id, &[], Some(input), applied),
            ExprKind::Region { kind, args, lambdas } => {
                self.region(*kind, args, lambdas, Some(input), expr.span)
            }
            _ => {
                let message = "what stands behind `|>` is called, and this cannot be";
                self.report(
                    Diagnostic::error(codes::WRONG_KIND, expr.span, message)
                        .help("a stage is an op, a block or a layer: `x |> relu |> dense(10)`"),
                );
                Val::Poison
            }
        }
    }

    /// Makes a stage's name known: as a value of the frame, and on the node in the graph.
    fn name_stage(&mut self, name: &str, value: &Val, span: Span) {
        let owner = self.owner();
        let scope = self.take_last_scope();
        let stage = Stage { value: value.clone(), scope, span };
        self.frames[owner].stages.insert(name.to_string(), stage);
        let prefix = self.scopes.known_path(self.frames[owner].scope);
        if let Some(prefix) = prefix {
            let path =
                if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
            self.name_node(value, &path);
        }
    }

    // ---- calls, indices, members ----------------------------------------------------------------

    /// A base with its trailers. `input` is what a pipe passes: it goes to the first call, or the
    /// whole is called with it.
    fn postfix(
        &mut self,
        base: ExprId,
        trailers: &'p [Trailer],
        mut input: Option<(Val, Span)>,
        applied: &Applied,
    ) -> Val {
        let base_expr = self.expr(base);
        let mut span = base_expr.span;
        let called = matches!(trailers.first(), Some(Trailer::Call { .. }))
            || (trailers.is_empty() && input.is_some());
        let mut value = match &base_expr.kind {
            ExprKind::Name(name) if called => match self.callee(name, span) {
                Some(v) => v,
                None => {
                    // The arguments may have errors of their own.
                    if let Some(Trailer::Call { args, .. }) = trailers.first() {
                        self.args(args);
                    }
                    return Val::Poison;
                }
            },
            // Parameters of a stage are read through its name: `fc.weight`.
            ExprKind::Name(name) if matches!(trailers.first(), Some(Trailer::Member { .. })) => {
                match self.stage_member(name, trailers) {
                    Some((v, rest)) => return self.trailers(v, span, rest, input, applied),
                    None => self.eval(base),
                }
            }
            _ => self.eval(base),
        };
        if trailers.is_empty() {
            if let Some((v, at)) = input.take() {
                let args = super::args::Args { positional: vec![(v, at)], named: vec![] };
                value = self.call(&value, args, applied, span);
            }
            return value;
        }
        span = base_expr.span;
        self.trailers(value, span, trailers, input, applied)
    }

    fn trailers(
        &mut self,
        mut value: Val,
        mut span: Span,
        trailers: &'p [Trailer],
        mut input: Option<(Val, Span)>,
        applied: &Applied,
    ) -> Val {
        // The name of a stage belongs to its first call.
        let first_call = trailers.iter().position(|t| matches!(t, Trailer::Call { .. }));
        let start = span;
        for (i, trailer) in trailers.iter().enumerate() {
            match trailer {
                Trailer::Call { args, span: at } => {
                    let args = self.args(args);
                    let args = match input.take() {
                        Some((v, at)) => super::args::Args::piped(v, at, args),
                        None => args,
                    };
                    span = start.to(*at);
                    let none = Applied::default();
                    let applied = if Some(i) == first_call { applied } else { &none };
                    value = self.call(&value, args, applied, span);
                }
                Trailer::Index { items, span: at } => {
                    span = start.to(*at);
                    value = self.index(value, items, span);
                }
                Trailer::Member { name } => {
                    value = self.member(&value, name);
                    span = start.to(name.span);
                }
            }
            if !self.step(1, span) {
                return Val::Poison;
            }
        }
        if let Some((v, at)) = input {
            let args = super::args::Args { positional: vec![(v, at)], named: vec![] };
            value = self.call(&value, args, applied, span);
        }
        value
    }

    /// What a name in front of a call stands for.
    fn callee(&mut self, name: &str, span: Span) -> Option<Val> {
        if let Some(v) = self.lookup(name) {
            // A variable may have the name of an op that is called: `bias = 3  bias(x)` is wrong,
            // `split = 4  split(x, split)` is meant.
            let calls = matches!(
                v,
                Val::Callee(_) | Val::Layer(_) | Val::Recipe(_) | Val::Poison | Val::Results(_)
            );
            if calls {
                return Some(v);
            }
            let unit = self.top().unit;
            let declared = match self.project.unit(unit).names.get(name) {
                Some(Decl::Block(_) | Decl::Model(_)) => self.declared(unit, name),
                _ => None,
            };
            return Some(declared.or_else(|| self.global(name)).unwrap_or(v));
        }
        let mut d = Diagnostic::error(
            codes::UNKNOWN_CALLEE,
            span,
            format!("there is no op, block or layer `{name}`"),
        );
        if let Some(near) = self.near_callee(name) {
            d = d.help(format!("did you mean `{near}`?"));
        }
        self.report(d);
        None
    }

    /// `stage.weight` where `stage` is named by `as`: the parameter, and the trailers left.
    fn stage_member(
        &mut self,
        name: &str,
        trailers: &'p [Trailer],
    ) -> Option<(Val, &'p [Trailer])> {
        if self.top().vars.contains_key(name) {
            return None;
        }
        let owner = self.owner();
        let scope = self.frames[owner].stages.get(name)?.scope?;
        let mut path = self.scopes.known_path(scope)?;
        for (i, t) in trailers.iter().enumerate() {
            let Trailer::Member { name } = t else { return None };
            path = format!("{path}.{}", name.text);
            if let Some(v) = self.held(&path) {
                return Some((v, &trailers[i + 1..]));
            }
        }
        None
    }

    /// A parameter or state by its path.
    pub(super) fn held(&self, path: &str) -> Option<Val> {
        let param = self.params.get(path).map(|p| Val::Tensor(p.tensor.clone()));
        param.or_else(|| self.states.get(path).map(|s| s.current.clone()))
    }

    pub(super) fn member(&mut self, value: &Val, name: &Name) -> Val {
        let m = name.text.as_str();
        let unknown = |this: &mut Self, what: String, known: Vec<String>| {
            let message = format!("{what} has no `{m}`");
            let mut d = Diagnostic::error(codes::UNKNOWN_MEMBER, name.span, message);
            if let Some(near) = did_you_mean(m, known.iter().map(String::as_str)) {
                d = d.help(format!("did you mean `{near}`?"));
            } else if !known.is_empty() && known.len() <= 12 {
                d = d.help(format!("there is {}", known.join(", ")));
            }
            this.report(d);
            Val::Poison
        };
        match value {
            v if v.is_poison() => Val::Poison,
            Val::Word(_) if self.unknown_word(value) => Val::Poison,
            Val::Results(r) => {
                let named = r.values.iter().find(|(n, _)| n.as_deref() == Some(m));
                if let Some(v) = named.map(|(_, v)| v).or_else(|| r.names.get(m)) {
                    return v.clone();
                }
                if let (Val::Tensor(_), "shape" | "rank" | "dtype") = (value.clone().first(), m) {
                    return self.member(&value.clone().first(), name);
                }
                let known = r.values.iter().filter_map(|(n, _)| n.clone());
                let known = known.chain(r.names.keys().cloned()).collect();
                unknown(self, format!("the result of `{}`", r.callee), known)
            }
            Val::Tensor(t) => match m {
                "shape" => Val::list(t.ty.shape.dims().iter().cloned().map(Val::dim).collect()),
                "rank" => Val::Int(t.ty.rank() as i64),
                "dtype" => Val::DType(t.ty.dtype),
                _ => {
                    let known = ["shape", "rank", "dtype"].map(String::from).to_vec();
                    unknown(self, value.describe(), known)
                }
            },
            Val::Layer(id) => {
                let path = self.scopes.known_path(self.layers[id.0].scope).unwrap_or_default();
                let applied = self.layers[id.0].applied;
                self.scope_member(&path, name, applied)
            }
            Val::Scope(path) => self.scope_member(&path.clone(), name, true),
            Val::Module(unit) => match self.declared(*unit, m) {
                Some(v) => v,
                None => {
                    let known = self.project.unit(*unit).names.keys().cloned().collect();
                    unknown(self, "the imported file".into(), known)
                }
            },
            Val::Ops => match crate::ir::op::find(m).filter(|r| super::callable_row(r.name)) {
                Some(row) => Val::Callee(Callee::Op(row)),
                None => {
                    let known = crate::ir::op::table().map(|r| r.name.to_string()).collect();
                    unknown(self, "the op table".into(), known)
                }
            },
            other => unknown(self, other.describe(), vec![]),
        }
    }

    fn scope_member(&mut self, prefix: &str, name: &Name, applied: bool) -> Val {
        let path = format!("{prefix}.{}", name.text);
        if let Some(v) = self.held(&path) {
            return v;
        }
        let below = format!("{path}.");
        let held = || self.params.keys().chain(self.states.keys());
        if held().any(|p| p.starts_with(&below)) {
            return Val::Scope(path.as_str().into());
        }
        let here = format!("{prefix}.");
        let known: Vec<String> = held()
            .filter_map(|p| p.strip_prefix(&here))
            .map(|p| p.split('.').next().unwrap_or(p).to_string())
            .collect();
        let message = format!("`{prefix}` has no parameter `{}`", name.text);
        let mut d = Diagnostic::error(codes::UNKNOWN_MEMBER, name.span, message);
        if !applied {
            d = d
                .help("a layer gets its parameters when it is applied first; read them after that");
        } else if let Some(near) = did_you_mean(&name.text, known.iter().map(String::as_str)) {
            d = d.help(format!("did you mean `{near}`?"));
        }
        self.report(d);
        Val::Poison
    }

    // ---- if -------------------------------------------------------------------------------------

    fn if_value(
        &mut self,
        arms: &'p [(ExprId, Body)],
        otherwise: Option<&'p Body>,
        at: Span,
    ) -> Val {
        let body = match self.choose(arms, otherwise) {
            Some(body) => body,
            None => {
                if otherwise.is_none() && !self.reported_within(at) {
                    let message = "no arm of this `if` holds, and it has no `else`";
                    self.report(
                        Diagnostic::error(codes::MISSING_RETURN, at, message)
                            .help("add `else { … }`"),
                    );
                }
                return Val::Poison;
            }
        };
        self.body_value(body)
    }

    /// The value of an `if` arm: its last expressions.
    pub(super) fn body_value(&mut self, body: &'p Body) -> Val {
        use super::stmt::Flow;
        // A last statement that is an `if` is the value.
        let (stmts, last) = match body.stmts.split_last() {
            Some((Stmt::If { value, .. }, rest)) if body.tail.is_empty() => (rest, Some(*value)),
            _ => (body.stmts.as_slice(), None),
        };
        match self.block(stmts) {
            Flow::Next => {}
            Flow::Stop => return Val::Poison,
            Flow::Return(values) => {
                let span = values.first().map_or(body.span, |(_, _, s)| *s);
                let message = "`return` cannot leave the block out of an expression";
                self.report(
                    Diagnostic::error(codes::MISPLACED, span, message)
                        .help("leave out the word `return`: the last expression is the value"),
                );
                return Val::Poison;
            }
        }
        if let Some(id) = last {
            return self.eval(id);
        }
        match body.tail.as_slice() {
            [] => {
                let message = "this arm has no value";
                self.report(
                    Diagnostic::error(codes::MISSING_RETURN, body.span, message)
                        .help("its last line must be an expression"),
                );
                Val::Poison
            }
            [only] => self.eval(*only),
            many => {
                let values = many.iter().map(|id| (None, self.eval(*id))).collect();
                Val::Results(std::rc::Rc::new(Results {
                    values,
                    names: Default::default(),
                    exact: true,
                    callee: "if".into(),
                }))
            }
        }
    }

    fn reported_within(&self, span: Span) -> bool {
        let inside = |s: Span| s.file == span.file && s.start >= span.start && s.end <= span.end;
        self.diags.iter().any(|d| d.span.is_some_and(inside))
    }
}
