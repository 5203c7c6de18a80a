//! Statements: what a body does, in order.

use super::Lowerer;
use super::value::Val;
use crate::base::codes;
use crate::base::diag::Diagnostic;
use crate::base::source::Span;
use crate::front::ast::*;

/// What `return` gave: a name where it has one, the value, its place.
pub(super) type Returned = Vec<(Option<String>, Val, Span)>;

/// How a body ended.
pub(super) enum Flow {
    Next,
    Return(Returned),
    /// Something is so wrong that what follows would only repeat it.
    Stop,
}

impl<'p> Lowerer<'p> {
    /// The body of a model or block; `None` where it returned nothing (reported).
    pub(super) fn callable_body(&mut self, callable: &'p Callable) -> Option<Returned> {
        match self.block(&callable.body.stmts) {
            Flow::Return(values) => Some(values),
            Flow::Stop => None,
            Flow::Next if !callable.body.tail.is_empty() => {
                let span = self.expr(callable.body.tail[0]).span;
                let message = "a value at the end of a block needs `return`";
                self.report(
                    Diagnostic::error(codes::MISSING_RETURN, span, message)
                        .help("write `return` before it"),
                );
                None
            }
            Flow::Next => {
                let message = format!("`{}` returns nothing", callable.name.text);
                self.report(
                    Diagnostic::error(codes::MISSING_RETURN, callable.name.span, message)
                        .help("end the body with `return …`"),
                );
                None
            }
        }
    }

    pub(super) fn block(&mut self, stmts: &'p [Stmt]) -> Flow {
        for (i, stmt) in stmts.iter().enumerate() {
            if self.stopped || !self.step(1, stmt.span()) {
                return Flow::Stop;
            }
            match self.stmt(stmt) {
                Flow::Next => {}
                Flow::Return(values) => {
                    if let (Stmt::Return { .. }, Some(next)) = (stmt, stmts.get(i + 1)) {
                        let message = "nothing follows `return` in its body";
                        self.error(codes::MISPLACED, next.span(), message);
                    }
                    return Flow::Return(values);
                }
                Flow::Stop => return Flow::Stop,
            }
        }
        Flow::Next
    }

    fn stmt(&mut self, stmt: &'p Stmt) -> Flow {
        match stmt {
            Stmt::Return { values, .. } => return Flow::Return(self.returned(values)),
            Stmt::Repeat { var, range, body, span } => return self.repeat(var, range, body, *span),
            Stmt::If { value, .. } => return self.if_stmt(*value),
            Stmt::Layer { name, value, span } => self.layer(name, *value, *span),
            Stmt::State { name, ty, init, span } => self.state(name, ty.as_ref(), *init, *span),
            Stmt::Param { name, ty, init, span } => self.param(name, ty, *init, *span),
            Stmt::Assign { targets, update, value, span } => match update {
                true => self.update(targets, *value, *span),
                false => self.assign(targets, *value, *span),
            },
        }
        Flow::Next
    }

    pub(super) fn returned(&mut self, values: &[ExprId]) -> Returned {
        let mut out = vec![];
        for id in values {
            let span = self.expr(*id).span;
            let name = self.result_name(*id);
            match self.eval(*id) {
                // All results of a block pass through.
                Val::Results(r) if r.exact && r.values.len() > 1 && values.len() == 1 => {
                    out.extend(r.values.iter().map(|(n, v)| (n.clone(), v.clone(), span)));
                }
                v => out.push((name, v, span)),
            }
        }
        out
    }

    /// The name of a returned expression: its `as`, else its variable.
    fn result_name(&mut self, id: ExprId) -> Option<String> {
        match &self.expr(id).kind {
            ExprKind::Name(name) => Some(name.clone()),
            ExprKind::Paren(inner) => self.result_name(*inner),
            ExprKind::Pipe { parts } => parts.last()?.suffixes.iter().rev().find_map(|s| match s {
                Suffix::As { name, indices, .. } if indices.is_empty() => Some(name.text.clone()),
                _ => None,
            }),
            _ => None,
        }
    }

    fn repeat(&mut self, var: &Name, range: &'p Range, body: &'p Body, span: Span) -> Flow {
        let Some(values) = self.range(range, span) else { return Flow::Stop };
        if let Some(id) = body.tail.first() {
            let at = self.expr(*id).span;
            let message = "a `repeat` has no value; give it a name with `=`";
            self.error(codes::MISPLACED, at, message);
        }
        let hidden = self.frame().vars.get(&var.text).cloned();
        let owner = self.owner();
        self.frames[owner].repeats += 1;
        let mut flow = Flow::Next;
        for value in values {
            self.rounds += 1;
            if self.rounds > self.mode.limits.rounds {
                self.stopped = true;
                let message = format!("more than {} rounds of `repeat`", self.mode.limits.rounds);
                self.report(
                    Diagnostic::error(codes::REPEAT_LIMIT, span, message)
                        .help("`repeat` writes its body out; over long sequences use `scan`"),
                );
                flow = Flow::Stop;
                break;
            }
            self.frame().vars.insert(var.text.clone(), value);
            match self.block(&body.stmts) {
                Flow::Next => {}
                other => {
                    flow = other;
                    break;
                }
            }
        }
        self.frames[owner].repeats -= 1;
        let frame = self.frame();
        match hidden {
            Some(v) => frame.vars.insert(var.text.clone(), v),
            None => frame.vars.remove(&var.text),
        };
        flow
    }

    /// What a `repeat` runs over; a range is not held in memory.
    fn range(&mut self, range: &Range, span: Span) -> Option<Box<dyn Iterator<Item = Val>>> {
        match range {
            Range::FromTo { low, high, inclusive } => {
                let (low, high) = (self.integer(*low, "a bound"), self.integer(*high, "a bound"));
                let (low, high) = (low?, high?);
                match inclusive {
                    true => Some(Box::new((low..=high).map(Val::Int))),
                    false => Some(Box::new((low..high).map(Val::Int))),
                }
            }
            Range::List(id) => match self.eval(*id) {
                Val::List(items) => {
                    let items: Vec<Val> = items.to_vec();
                    Some(Box::new(items.into_iter()))
                }
                Val::Poison => None,
                other if self.unknown_word(&other) => None,
                other => {
                    let message =
                        format!("`repeat` runs over a range or a list, not {}", other.describe());
                    self.report(
                        Diagnostic::error(codes::NOT_CONSTANT, span, message)
                            .help("write `repeat i in 0..n { … }`"),
                    );
                    None
                }
            },
        }
    }

    /// An integer that must be known now.
    pub(super) fn integer(&mut self, id: ExprId, what: &str) -> Option<i64> {
        let span = self.expr(id).span;
        match self.eval(id).first() {
            Val::Int(v) => Some(v),
            Val::Poison => None,
            other if self.unknown_word(&other) => None,
            other => {
                let message =
                    format!("{what} must be an integer known now, not {}", other.describe());
                let mut d = Diagnostic::error(codes::NOT_CONSTANT, span, message);
                if matches!(other, Val::Dim(_)) {
                    d = d.help("the dimension is open; bind it with `--set`, or use `scan`");
                }
                self.report(d);
                None
            }
        }
    }

    fn if_stmt(&mut self, id: ExprId) -> Flow {
        let ExprKind::If { arms, otherwise } = &self.expr(id).kind else { return Flow::Next };
        let Some(body) = self.choose(arms, otherwise.as_ref()) else { return Flow::Next };
        let flow = self.block(&body.stmts);
        if let (Flow::Next, Some(id)) = (&flow, body.tail.first()) {
            let span = self.expr(*id).span;
            let message = "this value goes nowhere";
            self.report(
                Diagnostic::error(codes::MISPLACED, span, message)
                    .help("write `return`, or give it a name with `=`"),
            );
        }
        flow
    }

    /// The arm whose condition holds; `None` where none does, or a condition is wrong (reported).
    pub(super) fn choose(
        &mut self,
        arms: &'p [(ExprId, Body)],
        otherwise: Option<&'p Body>,
    ) -> Option<&'p Body> {
        for (condition, body) in arms {
            let span = self.expr(*condition).span;
            match self.eval(*condition).first() {
                Val::Bool(true) => return Some(body),
                Val::Bool(false) => {}
                Val::Poison => return None,
                Val::Tensor(_) => {
                    let message = "`if` is decided at compile time, and this is a tensor";
                    self.report(Diagnostic::error(codes::NOT_CONSTANT, span, message).help(
                        "choose element by element with `where(c, a, b)`, or one of two \
                             computations with `cond(c) { … } else { … }`",
                    ));
                    return None;
                }
                other if self.unknown_word(&other) => return None,
                other => {
                    let message = format!("a condition is a boolean, not {}", other.describe());
                    self.error(codes::CT_KIND, span, message);
                    return None;
                }
            }
        }
        otherwise
    }

    fn assign(&mut self, targets: &[Name], value: ExprId, span: Span) {
        let v = self.eval(value);
        if let [only] = targets {
            if let Val::Results(r) = &v
                && r.exact
                && r.values.len() > 1
            {
                let names: Vec<String> = (0..r.values.len()).map(|i| format!("v{i}")).collect();
                let d = Diagnostic::error(
                    codes::RESULT_COUNT,
                    span,
                    format!("`{}` returns {} values", r.callee, r.values.len()),
                )
                .help(format!("take them apart: `{} = …`", names.join(", ")));
                // The whole can still be read member by member.
                if r.names.is_empty() {
                    self.report(d);
                }
            }
            self.set(only, v);
            return;
        }
        let values: Vec<Val> = match &v {
            Val::Poison => vec![Val::Poison; targets.len()],
            Val::Results(r)
                if r.values.len() == targets.len()
                    || (!r.exact && r.values.len() > targets.len()) =>
            {
                r.values.iter().map(|(_, v)| v.clone()).collect()
            }
            Val::List(items) if items.len() == targets.len() => items.to_vec(),
            other => {
                let count = match other {
                    Val::Results(r) => r.values.len(),
                    Val::List(items) => items.len(),
                    _ => 1,
                };
                let message = format!("{} names for {count} results", targets.len());
                self.report(
                    Diagnostic::error(codes::RESULT_COUNT, span, message)
                        .label(self.expr(value).span, format!("this is {}", other.describe())),
                );
                vec![Val::Poison; targets.len()]
            }
        };
        for (name, v) in targets.iter().zip(values) {
            self.set(name, v);
        }
    }

    pub(super) fn set(&mut self, name: &Name, value: Val) {
        self.frame().vars.insert(name.text.clone(), value);
    }

    fn layer(&mut self, name: &Name, value: ExprId, span: Span) {
        let v = self.layer_value(name, value, span);
        self.set(name, v);
    }

    /// Reports a word that is not one where a value is needed; `false` for other values.
    pub(super) fn unknown_word(&mut self, v: &Val) -> bool {
        if let Val::Word(w) = v {
            self.unknown_name(&w.text, w.span, w.near.clone());
        }
        matches!(v, Val::Word(_))
    }

    /// Reports a name that stands for nothing.
    pub(super) fn unknown_name(&mut self, name: &str, span: Span, near: Option<String>) {
        let mut d =
            Diagnostic::error(codes::UNKNOWN_NAME, span, format!("nothing is named `{name}`"));
        if let Some(near) = near {
            d = d.help(format!("did you mean `{near}`?"));
        }
        self.report(d);
    }

    /// The value of a constant of a file; circles are errors.
    pub(super) fn constant(&mut self, unit: super::UnitId, item: usize) -> Val {
        let decl = self.project.constant(unit, item);
        match self.constants.get(&(unit, item)) {
            Some(super::ConstState::Done(v)) => return v.clone(),
            Some(super::ConstState::Open) => {
                let message = format!("the constant `{}` is made from itself", decl.name.text);
                self.error(codes::RECURSION, decl.name.span, message);
                return Val::Poison;
            }
            None => {}
        }
        self.constants.insert((unit, item), super::ConstState::Open);
        let frame = self.constant_frame(unit);
        self.frames.push(frame);
        let mut value = self.eval(decl.value);
        if !value.is_constant() && !value.is_poison() {
            let message = format!("a constant is known at compile time, not {}", value.describe());
            self.error(codes::NOT_CONSTANT, self.expr(decl.value).span, message);
            value = Val::Poison;
        }
        self.frames.pop();
        self.constants.insert((unit, item), super::ConstState::Done(value.clone()));
        value
    }

    /// A frame without names of its own: for constants, bounds and declared types.
    pub(super) fn constant_frame(&self, unit: super::UnitId) -> super::Frame<'p> {
        super::Frame {
            unit,
            ast: &self.project.unit(unit).ast,
            name: "a constant".into(),
            outer: None,
            vars: Default::default(),
            stages: Default::default(),
            scope: self.scopes.root(),
            training: false,
            frozen: false,
            repeats: 0,
            states: Default::default(),
            call: Span::new(self.project.file(unit), 0, 0),
        }
    }
}
