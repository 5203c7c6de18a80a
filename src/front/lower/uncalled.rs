//! Blocks that no model of the file calls: their shapes are unknown, their names can be checked.

use std::collections::BTreeSet;

use super::function::{self, Function};
use super::lookup::callable_row;
use crate::base::diag::{Diagnostic, did_you_mean};
use crate::base::source::Span;
use crate::base::{DType, codes};
use crate::front::ast::*;
use crate::front::project::{Project, STD, UnitId};
use crate::ir::op;

/// Reports names in a block that can stand for nothing, whatever the block is called with.
pub(super) fn check_names(
    project: &Project,
    unit: UnitId,
    callable: &Callable,
    diags: &mut Vec<Diagnostic>,
) {
    let ast = &project.unit(unit).ast;
    let mut names = Names { ast, defined: BTreeSet::new(), read: vec![], called: vec![] };
    names.defined.extend(callable.params.iter().map(|p| p.name.text.clone()));
    for p in &callable.params {
        p.default.iter().for_each(|id| names.arg(*id));
    }
    names.body(&callable.body);
    let file = &project.unit(unit).names;
    let known = |name: &str| {
        names.defined.contains(name)
            || file.contains_key(name)
            || project.unit(STD).names.contains_key(name)
            || op::find(name).is_some_and(|r| callable_row(r.name))
            || Function::find(name).is_some()
            || DType::parse(name).is_some()
            || function::is_recipe(name)
            || matches!(name, "op" | "inf" | "nan" | "pi" | "training" | "draw")
    };
    let mut near: Vec<&str> = names.defined.iter().map(String::as_str).collect();
    near.extend(file.keys().map(String::as_str));
    for (name, span) in names.read.iter().filter(|(n, _)| !known(n)) {
        let message = format!("nothing is named `{name}`");
        let mut d = Diagnostic::error(codes::UNKNOWN_NAME, *span, message);
        d.help = did_you_mean(name, near.iter().copied()).map(|n| format!("did you mean `{n}`?"));
        diags.push(d);
    }
    near.extend(project.unit(STD).names.keys().map(String::as_str));
    for row in op::table().filter(|r| callable_row(r.name)) {
        near.push(row.name);
    }
    for (name, span) in names.called.iter().filter(|(n, _)| !known(n)) {
        let message = format!("there is no op, block or layer `{name}`");
        let mut d = Diagnostic::error(codes::UNKNOWN_CALLEE, *span, message);
        d.help = did_you_mean(name, near.iter().copied()).map(|n| format!("did you mean `{n}`?"));
        diags.push(d);
    }
}

struct Names<'a> {
    ast: &'a Ast,
    defined: BTreeSet<String>,
    read: Vec<(String, Span)>,
    called: Vec<(String, Span)>,
}

impl Names<'_> {
    fn define(&mut self, name: &Name) {
        self.defined.insert(name.text.clone());
    }

    fn body(&mut self, body: &Body) {
        for stmt in &body.stmts {
            match stmt {
                Stmt::Return { values, .. } => self.exprs(values),
                Stmt::Repeat { var, range, body, .. } => {
                    self.define(var);
                    match range {
                        Range::FromTo { low, high, .. } => self.exprs(&[*low, *high]),
                        Range::List(id) => self.exprs(&[*id]),
                    }
                    self.body(body);
                }
                Stmt::If { value, .. } => self.expr(*value),
                Stmt::Layer { name, value, .. } => {
                    self.define(name);
                    self.callee(*value);
                }
                // Initial values have names of their own kind.
                Stmt::State { name, ty, .. } => {
                    self.define(name);
                    ty.iter().for_each(|t| self.exprs(&t.dims));
                }
                Stmt::Param { name, ty, .. } => {
                    self.define(name);
                    self.exprs(&ty.dims);
                }
                Stmt::Assign { targets, value, .. } => {
                    targets.iter().for_each(|n| self.define(n));
                    self.expr(*value);
                }
            }
        }
        self.exprs(&body.tail);
    }

    fn exprs(&mut self, ids: &[ExprId]) {
        for id in ids {
            self.expr(*id);
        }
    }

    /// An argument: a name alone may be a word of the op.
    fn arg(&mut self, id: ExprId) {
        if !matches!(self.ast.expr(id).kind, ExprKind::Name(_)) {
            self.expr(id);
        }
    }

    fn callee(&mut self, id: ExprId) {
        let ast = self.ast;
        match &ast.expr(id).kind {
            ExprKind::Name(n) => self.called.push((n.clone(), ast.expr(id).span)),
            ExprKind::Postfix { base, trailers } => {
                match (&ast.expr(*base).kind, trailers.first()) {
                    (ExprKind::Name(n), Some(Trailer::Call { .. })) => {
                        self.called.push((n.clone(), ast.expr(*base).span));
                    }
                    _ => self.expr(*base),
                }
                self.trailers(trailers);
            }
            _ => self.expr(id),
        }
    }

    fn trailers(&mut self, trailers: &[Trailer]) {
        for t in trailers {
            match t {
                Trailer::Call { args, .. } => args.iter().for_each(|a| self.arg(a.value)),
                Trailer::Index { items, .. } => {
                    for item in items {
                        match item {
                            Slice::At(id) => self.expr(*id),
                            Slice::Range { low, high, step, .. } => {
                                for id in [low, high, step].into_iter().flatten() {
                                    self.expr(*id);
                                }
                            }
                            Slice::Ellipsis(_) => {}
                        }
                    }
                }
                Trailer::Member { .. } => {}
            }
        }
    }

    fn expr(&mut self, id: ExprId) {
        let ast = self.ast;
        let expr = ast.expr(id);
        match &expr.kind {
            ExprKind::Int(_)
            | ExprKind::Float(_)
            | ExprKind::Bits(_)
            | ExprKind::Str(_)
            | ExprKind::Bool(_)
            | ExprKind::Error => {}
            ExprKind::Name(n) => self.read.push((n.clone(), expr.span)),
            ExprKind::List(items) => self.exprs(items),
            ExprKind::Paren(inner) => self.expr(*inner),
            ExprKind::Infix { operands, ops } => {
                let compared = |op: Option<&(InfixOp, Span)>| {
                    matches!(op, Some((InfixOp::Eq | InfixOp::Ne, _)))
                };
                for (i, o) in operands.iter().enumerate() {
                    let before = i.checked_sub(1).and_then(|k| ops.get(k));
                    match compared(before) || compared(ops.get(i)) {
                        true => self.arg(o.value),
                        false => self.expr(o.value),
                    }
                }
            }
            ExprKind::Postfix { .. } => self.callee(id),
            ExprKind::Pipe { parts } => {
                for (i, part) in parts.iter().enumerate() {
                    match i {
                        0 => self.expr(part.value),
                        _ => self.callee(part.value),
                    }
                    for s in &part.suffixes {
                        if let Suffix::As { name, indices, .. } = s {
                            self.define(name);
                            self.exprs(indices);
                        }
                    }
                }
            }
            ExprKind::If { arms, otherwise } => {
                for (condition, body) in arms {
                    self.expr(*condition);
                    self.body(body);
                }
                otherwise.iter().for_each(|b| self.body(b));
            }
            ExprKind::Region { args, lambdas, .. } => {
                args.iter().for_each(|a| self.arg(a.value));
                for l in lambdas {
                    l.header.iter().flatten().for_each(|n| self.define(n));
                    self.body(&l.body);
                }
            }
        }
    }
}
